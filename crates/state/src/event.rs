//! Events of the journal: one enum that is written and read.
//!
//! It is called `JournalEvent`, since `supervisor::Event` is the supervisor's input.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use super::{AgentName, AgentState, Cause, Desired, Fleet, StallReason};
use sys::time::Timestamp;

/// How a session begins in a new process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StartKind {
    /// It begins for the first time.
    First,
    /// It continues the turn that was cut off, with a note.
    Continue,
    /// It resumes without a note. A kind that only a newer version knows is read as this.
    #[serde(other)]
    Resume,
}

/// An event. Fields that older versions did not write have a default.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the names are the journal's own words")]
pub enum JournalEvent {
    KeeperStarted {
        pid: i32,
        #[serde(alias = "new_life")]
        new_boot: bool,
        last_end: String,
        /// Uptime of the machine in milliseconds; null where it is not that of this boot.
        since_boot_ms: Option<u64>,
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
        #[serde(default)]
        names: Vec<String>,
        #[serde(default)]
        short: Vec<String>,
        #[serde(default)]
        torn: Vec<String>,
    },
    Starting {
        session_id: String,
        how: StartKind,
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
        #[serde(default)]
        cause: Cause,
    },
    Backoff {
        failures: u32,
        pause_ms: u64,
        why: String,
        #[serde(default)]
        cause: Cause,
    },
    Failed {
        why: String,
        #[serde(default)]
        cause: Cause,
    },
    Waiting {
        why: String,
    },
    Stopped {
        by: String,
    },
    Stalled {
        reason: StallReason,
        why: String,
        until: Option<Timestamp>,
        in_a_row: u32,
    },
    Nudged {
        in_a_row: u32,
    },
    Paused {
        why: String,
    },
    Unpaused {
        why: String,
    },
    PoweringOff {
        why: String,
    },
    #[serde(alias = "wanted")]
    Desired {
        #[serde(alias = "wanted")]
        desired: Desired,
        by: String,
    },
    Fleet {
        #[serde(alias = "wanted")]
        desired: Fleet,
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
    #[serde(alias = "root-back")]
    DataDirBack {
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
    Activity {
        changes: Vec<StateChange>,
    },
    /// Only read: an event that only a newer version knows. Its journal entry has the whole line.
    #[default]
    #[serde(other)]
    Unknown,
}

/// A change of an agent's state. Such changes are collected, and written some time later.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StateChange {
    /// The agent.
    pub agent: AgentName,
    /// Its new state; `None`, written as `removed`: it is no longer declared.
    #[serde(serialize_with = "write_state", deserialize_with = "read_state")]
    pub state: Option<AgentState>,
    /// When the state began.
    pub at: Timestamp,
}

/// The state in a [`StateChange`] of an agent that is no longer declared.
const REMOVED: &str = "removed";

#[expect(clippy::ref_option, reason = "serde passes the field")]
fn write_state<S: Serializer>(state: &Option<AgentState>, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(state.map_or(REMOVED, AgentState::as_str))
}

fn read_state<'de, D: Deserializer<'de>>(from: D) -> Result<Option<AgentState>, D::Error> {
    let word = Value::deserialize(from)?;
    let state = (word != REMOVED).then(|| serde_json::from_value(word));
    state.transpose().map_err(serde::de::Error::custom)
}

impl JournalEvent {
    /// Returns its name and its fields, as in the journal.
    pub(super) fn parts(&self) -> serde_json::Result<(String, Map<String, Value>)> {
        let Value::Object(mut data) = serde_json::to_value(self)? else {
            return Ok(Default::default());
        };
        let name = data.shift_remove("event");
        Ok((name.as_ref().map(plain).unwrap_or_default(), data))
    }

    /// Returns its name, as in the journal.
    #[must_use]
    pub fn name(&self) -> String {
        self.parts().unwrap_or_default().0
    }

    /// Whether a user wants to read of it as it happens.
    #[must_use]
    pub fn is_news(&self) -> bool {
        !matches!(self, Self::Activity { .. })
    }

    /// Writes it to the log too, with the fields by which it is found there.
    pub fn log(&self, agent: Option<&AgentName>) {
        if self.is_news() {
            let agent = agent.map(tracing::field::display);
            tracing::info!(agent, event = self.name(), "{self}");
        }
    }
}

impl fmt::Display for JournalEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, data) = self.parts().map_err(|_| fmt::Error)?;
        write!(f, "{name} {}", describe(&data))
    }
}

/// Returns fields for people, as `key=value`.
pub(super) fn describe(data: &Map<String, Value>) -> String {
    let parts = data
        .iter()
        .map(|(key, value)| format!("{key}={}", plain(value)));
    parts.collect::<Vec<_>>().join(" ")
}

/// Returns a value for people: a string without its quotes.
pub(super) fn plain(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Journal, JournalEntry, lines};

    /// Each event in the form in which the journal has had it since it was first written.
    const WRITTEN: [&str; 34] = [
        r#""event":"keeper-started","pid":7,"new_boot":true,"last_end":"safe","since_boot_ms":9000"#,
        r#""event":"keeper-started","pid":7,"new_boot":false,"last_end":"the same boot","since_boot_ms":null"#,
        r#""event":"keeper-stopped","reason":"let go""#,
        r#""event":"notice","source":"metadata","deadline_ms":25000"#,
        r#""event":"safe","save":"0001","clean":true,"after_ms":1620"#,
        r#""event":"saved","save":"0001""#,
        r#""event":"survived","reason":"x""#,
        r#""event":"restore","agents":1,"unclean":true,"names":["x"],"short":[],"torn":["x"]"#,
        r#""event":"starting","agent":"a","session_id":"s","how":"first""#,
        r#""event":"started","agent":"a","session_id":"s""#,
        r#""event":"resumed","agent":"a","session_id":"s","continued":true"#,
        r#""event":"session-changed","agent":"a","from":"s","to":"t""#,
        concat!(
            r#""event":"exited","agent":"a","how":"signal 9","#,
            r#""cause":{"kind":"crashed","exit":null,"signal":9}"#
        ),
        r#""event":"backoff","agent":"a","failures":1,"pause_ms":5000,"why":"x","cause":{"kind":"out-of-memory"}"#,
        r#""event":"failed","agent":"a","why":"x","cause":{"kind":"api","reason":"rate-limited"}"#,
        r#""event":"waiting","agent":"a","why":"a question""#,
        r#""event":"stopped","agent":"a","by":"itself""#,
        r#""event":"stalled","agent":"a","reason":"limit","why":"x","until":"2026-11-23T02:00:00Z","in_a_row":1"#,
        r#""event":"nudged","agent":"a","in_a_row":1"#,
        r#""event":"paused","why":"login""#,
        r#""event":"unpaused","why":"x""#,
        r#""event":"powering-off","why":"x""#,
        r#""event":"desired","agent":"a","desired":"stopped","by":"ann""#,
        r#""event":"fleet","desired":"down""#,
        r#""event":"repaired","what":"x""#,
        r#""event":"trouble","what":"x""#,
        r#""event":"metadata-health","health":"good""#,
        r#""event":"data-dir-back","away_ms":12,"why":"x""#,
        r#""event":"checkpoint-failed","agent":"a","why":"x""#,
        r#""event":"push-failed","agent":"a","why":"x""#,
        r#""event":"rolled-back","agent":"a","to":"1","undo":null"#,
        r#""event":"rebuilt","agent":"a","from":"1","why":"x""#,
        r#""event":"damaged","agent":"a","what":"x""#,
        r#""event":"activity","changes":[{"agent":"a","state":"running","at":"2026-11-22T03:00:00.12Z"},{"agent":"b","state":"removed","at":"2026-11-22T03:00:01Z"}]"#,
    ];

    fn line(fields: &str) -> String {
        format!(
            r#"{{"version":1,"seq":1,"at":"2026-11-22T03:00:00.000Z","data_dir_id":"r","epoch":1,"boot_id":"l",{fields}}}"#
        )
    }

    #[test]
    fn each_event_is_read_as_itself_and_written_again_byte_by_byte() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.jsonl");
        let mut journal = Journal::open(&path, "r", 1, "l").unwrap();
        let mut seen = std::collections::BTreeSet::new();
        for fields in WRITTEN {
            let read = JournalEntry::parse(&line(fields)).unwrap();
            assert_ne!(read.event, JournalEvent::Unknown, "{fields}");
            assert_eq!(read.event.name(), read.name);
            let agent = read
                .agent
                .as_deref()
                .map(|name| AgentName::new(name).unwrap());
            journal.write(agent.as_ref(), &read.event).unwrap();
            let again = lines(&path).unwrap().0.pop().unwrap();
            assert_eq!(again.event, read.event);
            assert!(
                again.text.ends_with(&format!(",{fields}}}")),
                "{}",
                again.text
            );
            assert_eq!(again.data(), read.event.parts().unwrap().1);
            seen.insert(again.name);
        }
        // A new event has to be added to the list above, and to docs/formats.md.
        let formats = include_str!("../../../docs/formats.md");
        let section = formats
            .split_once("## session-state/journal.jsonl")
            .unwrap()
            .1;
        let table = section.split_once("Unknown events").unwrap().0;
        let rows = table.lines().filter_map(|row| row.strip_prefix("| `"));
        let told = rows.flat_map(|row| row.split(" |").next().unwrap().split(", "));
        let told = told.map(|name| name.trim_matches('`').to_owned());
        assert_eq!(seen, told.collect());
    }

    #[test]
    fn an_event_of_a_newer_version_is_skipped_and_its_line_survives() {
        for fields in [
            r#""event":"moved","agent":"a","to":{"zone":"b", "cost":1.50},"why":"x""#,
            r#""event":"notice","source":{"by":"metadata"}"#,
            r#""event":"unknown""#,
        ] {
            let text = line(fields);
            let read = JournalEntry::parse(&format!("\0{text}\r\n")).unwrap();
            assert_eq!(read.event, JournalEvent::Unknown);
            assert_eq!(&*read.text, text);
            assert!(text.contains(&format!(r#""event":"{}""#, read.name)));
        }
        let newer = line(r#""event":"safe","save":"1","clean":true,"after_ms":1,"cost":2"#);
        let read = JournalEntry::parse(&newer).unwrap();
        assert!(matches!(read.event, JournalEvent::Safe { clean: true, .. }));
        assert_eq!(read.fields(), "save=1 clean=true after_ms=1 cost=2");
        assert_eq!(&*read.text, newer);
    }

    #[test]
    fn what_older_versions_did_not_write_yet_has_a_default() {
        let read = |fields: &str| JournalEntry::parse(&line(fields)).unwrap().event;
        let started = r#""event":"keeper-started","pid":1,"new_boot":true,"last_end":"safe""#;
        assert!(matches!(
            read(started),
            JournalEvent::KeeperStarted {
                since_boot_ms: None,
                ..
            }
        ));
        let restore = r#""event":"restore","agents":2,"unclean":false"#;
        assert!(matches!(read(restore), JournalEvent::Restore { names, .. } if names.is_empty()));
        for fields in [
            r#""event":"exited","how":"exit 1""#,
            r#""event":"backoff","failures":1,"pause_ms":1,"why":"x""#,
            r#""event":"failed","why":"x""#,
        ] {
            let (JournalEvent::Exited { cause, .. }
            | JournalEvent::Backoff { cause, .. }
            | JournalEvent::Failed { cause, .. }) = read(fields)
            else {
                panic!("{fields}");
            };
            assert_eq!(cause, Cause::Unknown);
        }
    }
}
