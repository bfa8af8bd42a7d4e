//! The end of the previous boot, as the journal records it. Pure.

use state::{JournalEntry, JournalEvent, Manifest, since_notice};
use sys::time::Timestamp;

/// How the last boot ended, as far as the journal records it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct History {
    /// This boot had its notice, and the user has not reported since that it goes on.
    pub noticed_in_this_boot: bool,
    /// Its save did not complete, for example because the keeper was killed during it.
    pub save_unfinished: bool,
    /// There was a boot before this one.
    pub had_boot: bool,
    /// When the last boot had its notice, if it had one.
    pub noticed_at: Option<Timestamp>,
    /// Where that notice came from: `metadata`, `signal`, `command` or `unit`.
    pub noticed_by: Option<String>,
    /// Whether its save ended with everything safe.
    pub safe: bool,
    /// The time of that boot's last line.
    pub last_seen: Option<Timestamp>,
    /// There is no journal, although there was a keeper before this one.
    pub is_lost: bool,
}

impl History {
    /// Returns what is known without a journal: there was a boot, which may have ended in any way.
    /// The last final save shows whether this boot had its notice.
    #[must_use]
    pub fn lost(save: Option<&Manifest>, boot_id: &str) -> Self {
        Self {
            noticed_in_this_boot: save.is_some_and(|save| save.boot_id == boot_id),
            had_boot: true,
            is_lost: true,
            ..Self::default()
        }
    }

    /// Reads the history from the journal's lines, oldest first.
    #[must_use]
    pub fn read(lines: &[JournalEntry], boot_id: &str) -> Self {
        let holds = since_notice(lines, boot_id);
        let is_saved = |line: &JournalEntry| {
            line.boot_id == boot_id && matches!(line.event, JournalEvent::Saved { .. })
        };
        let now = Self {
            noticed_in_this_boot: !holds.is_empty(),
            save_unfinished: !holds.is_empty() && !holds.iter().any(is_saved),
            ..Self::default()
        };
        let Some(last) = lines.iter().rev().find(|line| line.boot_id != boot_id) else {
            return now;
        };
        let held = since_notice(lines, &last.boot_id);
        let is_safe = |line: &JournalEntry| {
            line.boot_id == last.boot_id
                && matches!(line.event, JournalEvent::Safe { clean: true, .. })
        };
        Self {
            had_boot: true,
            noticed_at: held.first().map(|line| line.at),
            noticed_by: held.first().and_then(|line| match &line.event {
                JournalEvent::Notice { source, .. } => Some(source.clone()),
                _ => None,
            }),
            safe: held.iter().any(is_safe),
            last_seen: Some(last.at),
            ..now
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(seq: u64, boot_id: &str, event: &str, clean: bool) -> JournalEntry {
        let line = serde_json::json!({
            "version": 1, "seq": seq, "at": format!("2026-11-22T03:00:0{seq}.000Z"),
            "data_dir_id": "r", "epoch": 1, "boot_id": boot_id, "event": event, "clean": clean,
            "save": "1", "after_ms": 1, "source": "metadata", "reason": "x",
        });
        JournalEntry::parse(&line.to_string()).unwrap()
    }

    #[test]
    fn a_boot_that_had_its_notice_is_closed_until_the_user_reports_that_it_goes_on() {
        let mut lines = vec![
            line(1, "a", "keeper-started", false),
            line(2, "a", "notice", false),
        ];
        assert!(History::read(&lines, "a").noticed_in_this_boot);
        assert!(!History::read(&lines, "b").noticed_in_this_boot);
        assert!(History::read(&lines, "a").save_unfinished);
        lines.push(line(3, "a", "saved", false));
        assert!(!History::read(&lines, "a").save_unfinished);
        lines.push(line(3, "a", "survived", false));
        assert!(!History::read(&lines, "a").noticed_in_this_boot);
        lines.push(line(4, "a", "notice", false));
        assert!(History::read(&lines, "a").noticed_in_this_boot);
    }

    #[test]
    fn a_boot_is_safe_only_if_the_save_of_its_last_notice_was() {
        let mut lines = vec![line(1, "a", "notice", false), line(2, "a", "safe", true)];
        assert!(History::read(&lines, "b").safe);
        lines.push(line(3, "a", "survived", false));
        let history = History::read(&lines, "b");
        assert!(!history.safe && history.noticed_at.is_none() && history.had_boot);
        assert_eq!(History::read(&[], "b"), History::default());
    }
}
