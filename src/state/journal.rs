//! `session-state/journal.jsonl`: what happened, in order, one durable line each.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{AgentName, Cause, VERSION};
use crate::error::{Context as _, Result};
use crate::os::files::{AppendFile, read_tail};
use crate::time::Timestamp;

/// Bytes at the end of the journal that are looked at when it is opened. A life that has had its
/// notice starts nothing after it, so a notice of this life is always within.
const TAIL_BYTES: u64 = 4 << 20;

/// How a session is begun in a new process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum How {
    /// For the first time.
    First,
    /// Where it was, without a word.
    Resume,
    /// In the turn that was cut, with a note.
    Continue,
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the names are the journal's own words")]
pub enum What {
    KeeperStarted {
        pid: i32,
        new_life: bool,
        last_end: &'static str,
    },
    KeeperStopped {
        reason: String,
    },
    Notice {
        source: String,
        deadline_ms: Option<u64>,
    },
    Safe {
        save: String,
        clean: bool,
        after_ms: u64,
    },
    Saved {
        save: String,
    },
    Survived {
        reason: String,
    },
    Restore {
        agents: usize,
        unclean: bool,
        names: Vec<String>,
        short: Vec<String>,
        torn: Vec<String>,
    },
    Starting {
        session_id: String,
        how: How,
    },
    Started {
        session_id: String,
    },
    Resumed {
        session_id: String,
        continued: bool,
    },
    SessionChanged {
        from: String,
        to: String,
    },
    Exited {
        how: String,
        cause: Cause,
    },
    Backoff {
        failures: u32,
        pause_ms: u64,
        why: String,
        cause: Cause,
    },
    Failed {
        why: String,
        cause: Cause,
    },
    Waiting {
        why: String,
    },
    Stopped {
        by: String,
    },
    Stalled {
        reason: &'static str,
        why: String,
        until: Option<Timestamp>,
        in_a_row: u32,
    },
    Nudged {
        in_a_row: u32,
    },
    Paused {
        why: &'static str,
    },
    Unpaused {
        why: String,
    },
    PoweringOff {
        why: String,
    },
    Wanted {
        wanted: super::Wanted,
        by: String,
    },
    Fleet {
        wanted: super::Fleet,
    },
    Repaired {
        what: String,
    },
    Trouble {
        what: String,
    },
    MetadataHealth {
        health: String,
    },
    RootBack {
        away_ms: u64,
        why: String,
    },
    CheckpointFailed {
        why: String,
    },
    PushFailed {
        why: String,
    },
    RolledBack {
        to: String,
        undo: Option<String>,
    },
    Rebuilt {
        from: String,
        why: String,
    },
    Damaged {
        what: String,
    },
}

/// A line of the journal, as it is read back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// Version of the line's format.
    pub version: u32,
    /// Counts up by one over the whole journal.
    pub seq: u64,
    /// When, by the clock of the machine of that life.
    pub at: Timestamp,
    /// The root.
    pub root_id: String,
    /// The keeper's epoch.
    pub epoch: u64,
    /// The life of the machine.
    pub life: String,
    /// What happened.
    pub event: String,
    /// To whom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// The rest.
    #[serde(flatten)]
    pub data: Map<String, Value>,
}

/// The journal, open for appending.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    /// None while the root is away.
    file: Option<AppendFile>,
    root_id: String,
    epoch: u64,
    life: String,
    next_seq: u64,
}

impl Journal {
    /// Opens it for one keeper in one life.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open(path: &Path, root_id: &str, epoch: u64, life: &str) -> Result<Self> {
        let file = AppendFile::open(path)?;
        let (lines, _) = lines(path)?;
        let next_seq = lines.last().map_or(1, |line| line.seq + 1);
        Ok(Self {
            path: path.to_owned(),
            file: Some(file),
            root_id: root_id.to_owned(),
            epoch,
            life: life.to_owned(),
            next_seq,
        })
    }

    /// Closes the file, so that its filesystem can go. Until [`Journal::take_up`] nothing is written.
    pub fn let_go(&mut self) {
        self.file = None;
    }

    /// Opens the file again where it was let go of.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn take_up(&mut self) -> Result<()> {
        if self.file.is_none() {
            self.file = Some(AppendFile::open(&self.path)?);
        }
        Ok(())
    }

    /// Appends a line and makes it durable before it returns.
    ///
    /// # Errors
    /// The disk is full or gone.
    pub fn write(&mut self, agent: Option<&AgentName>, what: &What) -> Result<()> {
        let Value::Object(mut data) = serde_json::to_value(what).context("cannot write JSON")?
        else {
            return Ok(());
        };
        let event = data
            .shift_remove("event")
            .and_then(|event| event.as_str().map(str::to_owned));
        let line = Line {
            version: VERSION,
            seq: self.next_seq,
            at: Timestamp::now(),
            root_id: self.root_id.clone(),
            epoch: self.epoch,
            life: self.life.clone(),
            event: event.unwrap_or_default(),
            agent: agent.map(ToString::to_string),
            data,
        };
        self.file
            .as_mut()
            .context("the journal is away with the root")?
            .append(&serde_json::to_string(&line).context("cannot write JSON")?)
            .context("cannot write the journal")?;
        self.next_seq += 1;
        Ok(())
    }
}

/// Reads one line; `None` if it is torn.
#[must_use]
pub fn parse_line(text: &str) -> Option<Line> {
    serde_json::from_str(text.trim_matches('\0')).ok()
}

/// The newest lines of a journal, oldest first, and how many could not be read. An absent
/// journal is empty.
///
/// # Errors
/// It is there and cannot be read.
pub fn lines(path: &Path) -> Result<(Vec<Line>, usize)> {
    lines_of_tail(path, TAIL_BYTES)
}

/// As [`lines`], of so many bytes at the end: for somebody who must not wait.
///
/// # Errors
/// As [`lines`].
pub fn lines_of_tail(path: &Path, bytes: u64) -> Result<(Vec<Line>, usize)> {
    let (start, bytes) = match read_tail(path, bytes) {
        Ok(tail) => tail,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok((Vec::new(), 0)),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let text = String::from_utf8_lossy(&bytes);
    // The first line of a cut is half a line, and no damage.
    let whole = text
        .lines()
        .skip(usize::from(start > 0))
        .filter(|line| !line.is_empty());
    let (mut good, mut torn) = (Vec::new(), 0);
    for line in whole {
        match parse_line(line) {
            Some(line) => good.push(line),
            None => torn += 1,
        }
    }
    Ok((good, torn))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_that_was_let_go_of_takes_no_line_and_goes_on_where_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.jsonl");
        let mut journal = Journal::open(&path, "r", 1, "l").unwrap();
        let what = What::Survived { reason: "x".into() };
        journal.write(None, &what).unwrap();
        journal.let_go();
        assert!(journal.write(None, &what).is_err());
        journal.take_up().unwrap();
        journal.write(None, &what).unwrap();
        let (lines, torn) = lines(&path).unwrap();
        let numbers: Vec<u64> = lines.iter().map(|line| line.seq).collect();
        assert_eq!((numbers, torn), (vec![1, 2], 0));
    }

    #[test]
    fn a_torn_line_is_skipped_and_counted_and_the_numbers_go_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.jsonl");
        let mut journal = Journal::open(&path, "r", 1, "life-1").unwrap();
        journal
            .write(
                None,
                &What::KeeperStopped {
                    reason: "let go".into(),
                },
            )
            .unwrap();
        drop(journal);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.extend_from_slice(b"{\"version\":1,\"se\0\0\0");
        std::fs::write(&path, bytes).unwrap();
        let mut journal = Journal::open(&path, "r", 2, "life-2").unwrap();
        let name = AgentName::new("a").unwrap();
        journal
            .write(Some(&name), &What::Survived { reason: "x".into() })
            .unwrap();
        let (lines, torn) = lines(&path).unwrap();
        assert_eq!(torn, 1);
        let seen: Vec<_> = lines
            .iter()
            .map(|line| (line.seq, line.event.as_str(), line.epoch))
            .collect();
        assert_eq!(seen, [(1, "keeper-stopped", 1), (2, "survived", 2)]);
        assert_eq!(lines[1].agent.as_deref(), Some("a"));
    }
}
