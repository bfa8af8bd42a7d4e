//! Cancellation of a backup by a signal or the preemption notice, so that it never delays a save.

use std::cell::RefCell;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use state::layout::DataDir;
use state::{lines, since_notice};
use sys::error::{Result, bail};

/// The conditions under which a backup stops.
#[derive(Debug)]
pub struct Stop {
    asked: Arc<AtomicBool>,
    notice: Option<Notice>,
}

/// The notice in the journal, which is read again when its length changes.
#[derive(Debug)]
struct Notice {
    journal: PathBuf,
    boot_id: String,
    seen: RefCell<(u64, bool)>,
}

impl Stop {
    /// Stops when `asked` is set.
    #[must_use]
    pub fn when(asked: Arc<AtomicBool>) -> Self {
        Self {
            asked,
            notice: None,
        }
    }

    /// Never stops.
    #[must_use]
    pub fn never() -> Self {
        Self::when(Arc::default())
    }

    /// Also stops at the notice of this boot in the journal: so the notice reaches a backup that
    /// the keeper runs and one that a unit runs.
    #[must_use]
    pub fn or_at_the_notice(mut self, data_dir: &DataDir, boot_id: &str) -> Self {
        self.notice = Some(Notice {
            journal: data_dir.journal(),
            boot_id: boot_id.to_owned(),
            seen: RefCell::new((0, false)),
        });
        self
    }

    /// The reason to stop, if there is one.
    #[must_use]
    pub fn reason(&self) -> Option<String> {
        if self.asked.load(Ordering::SeqCst) {
            return Some("asked to end".into());
        }
        let noticed = self.notice.as_ref().is_some_and(Notice::has_come);
        noticed.then(|| "this machine has had its notice".into())
    }

    /// Fails if there is a reason to stop.
    ///
    /// # Errors
    /// The reason.
    pub fn check(&self) -> Result<()> {
        match self.reason() {
            Some(why) => bail!("stopped: {why}"),
            None => Ok(()),
        }
    }
}

impl Notice {
    fn has_come(&self) -> bool {
        let length = std::fs::metadata(&self.journal).map_or(0, |meta| meta.len());
        let mut seen = self.seen.borrow_mut();
        if length != seen.0 {
            let lines = lines(&self.journal).unwrap_or_default().0;
            *seen = (length, !since_notice(&lines, &self.boot_id).is_empty());
        }
        seen.1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use state::{Journal, JournalEvent};

    #[test]
    fn a_backup_stops_at_the_notice_of_this_boot_unless_the_machine_survived_it() {
        let dir = tempfile::tempdir().unwrap();
        let (data_dir, _) = DataDir::init(dir.path()).unwrap();
        let stop = Stop::never().or_at_the_notice(&data_dir, "now");
        let write = |boot_id: &str, event: &JournalEvent| {
            let mut journal = Journal::open(&data_dir.journal(), "r", 1, boot_id).unwrap();
            journal.write(None, event).unwrap();
        };
        let notice = JournalEvent::Notice {
            source: "metadata".into(),
            deadline_ms: None,
        };
        write("before", &notice);
        assert_eq!(stop.reason(), None);
        write("now", &notice);
        assert!(stop.check().is_err());
        write("now", &JournalEvent::Survived { reason: "x".into() });
        assert_eq!(stop.reason(), None);
    }
}
