//! Persistent state of spotkeep, as files that people can read.
//!
//! These are `root.json`, one record per agent, the journal, the manifests of saves. All are
//! versioned JSON, 0600, replaced whole and durably.
//!
//! Old versions stay readable, and a field that only a newer version knows survives being rewritten
//! by this one: each structure keeps unknown fields in `unknown`.

mod cause;
pub mod config;
mod event;
mod id;
mod identity;
mod journal;
pub mod layout;
mod manifest;
pub mod rebuild;
mod record;
mod trigger;

use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use sys::error::{Context as _, Hint as _, Result};
use sys::files;

pub use cause::{Cause, StallReason};
pub use event::{JournalEvent, StartKind, StateChange};
pub use id::{AgentName, new_save_id};
pub use identity::{Fleet, Identity};
pub use journal::{Journal, JournalEntry, each_line, lines, lines_of_tail, since_notice};
pub use manifest::{
    AgentSaved, Manifest, Stages, WorkspaceSaved, all as all_manifests,
    damaged as damaged_manifests, last_id as last_save_id, latest as latest_manifest,
    prune as prune_manifests, store as store_manifest,
};
pub use record::{AgentRecord, AgentState, Desired, Launch, TranscriptMark};
pub use trigger::Trigger;

/// The version that this build writes into every file.
pub const VERSION: u32 = 1;

/// Reads a state file; `None` where it does not exist.
///
/// # Errors
/// It exists and is not valid: cut off, empty, or not a file of spotkeep's. It is left as it is;
/// the error names it.
pub fn load<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let Some(bytes) = files::read_optional(path)? else {
        return Ok(None);
    };
    if bytes.iter().all(u8::is_ascii_whitespace) || bytes.contains(&0) {
        return Err(sys::error::anyhow!(
            "{} is damaged: empty, or holds NUL bytes",
            path.display()
        ))
        .hint(format!("mv {0} {0}.damaged", path.display()));
    }
    serde_json::from_slice(&bytes)
        .or_else(|error| from_both_names(&bytes).ok_or(error))
        .map(Some)
        .with_context(|| format!("{} is damaged", path.display()))
        .hint(format!("mv {0} {0}.damaged", path.display()))
}

/// Keys of state files that were renamed, and their former names, which are still read.
pub const FORMER_KEYS: [(&str, &str); 4] = [
    ("data_dir_id", "root_id"),
    ("boot_id", "life"),
    ("boots", "lives"),
    ("desired", "wanted"),
];

/// Reads an object that has keys by both names. The former one counts, since an older program wrote
/// it last: it keeps the other as a key that it does not know.
fn from_both_names<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let mut object: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(bytes).ok()?;
    for (key, former) in FORMER_KEYS {
        if object.contains_key(former) {
            object.shift_remove(key);
        }
    }
    serde_json::from_value(object.into()).ok()
}

/// Writes a state file, whole and durably.
///
/// # Errors
/// The disk is full or missing; the old content is still there.
pub fn store<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let mut bytes = serde_json::to_vec_pretty(value).context("cannot write JSON")?;
    bytes.push(b'\n');
    files::write_atomic(path, &bytes)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use sys::error::hint_of;

    #[test]
    fn a_damaged_file_is_named_with_a_hint_and_not_changed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        assert_eq!(load::<Vec<u32>>(&path).unwrap(), None, "no file, no damage");
        let (hollow, cut_off) = ("is damaged: empty, or holds NUL bytes", "is damaged");
        for (damage, says) in [
            ("", hollow),
            (" \n", hollow),
            ("\0\0\0", hollow),
            ("[1]\n\0", hollow),
            ("[1, 2", cut_off),
            ("{\"version\":1}", cut_off),
        ] {
            fs::write(&path, damage).unwrap();
            let error = load::<Vec<u32>>(&path).unwrap_err();
            assert!(
                error.to_string().ends_with(&format!("a.json {says}")),
                "{error}"
            );
            assert!(hint_of(&error).is_some_and(|hint| hint.starts_with("mv ")));
            assert_eq!(fs::read_to_string(&path).unwrap(), damage);
        }
        store(&path, &[1, 2]).unwrap();
        assert_eq!(load::<Vec<u32>>(&path).unwrap(), Some(vec![1, 2]));
    }

    /// A file with the names that versions before 2026-11-29 wrote.
    fn old<T: serde::de::DeserializeOwned>(text: &str) -> T {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn files_with_old_names_are_read_and_written_with_the_new_ones() {
        const ID: &str = "9ece95df-8236-46f1-9bca-6db6d0a6fd0b";
        let identity: Identity = old(include_str!("../testdata/old_names/root.json"));
        assert_eq!((identity.data_dir_id.as_str(), identity.boots), (ID, 2));
        let record: AgentRecord = old(include_str!("../testdata/old_names/record.json"));
        assert_eq!(record.desired, Desired::Stopped);
        assert_eq!(record.boot_id.as_deref(), Some("boot-1"));
        let save: Manifest = old(include_str!("../testdata/old_names/save.json"));
        assert_eq!((save.data_dir_id.as_str(), &*save.boot_id), (ID, "boot-1"));
        assert_eq!(save.stages.transcripts_safe_ms, Some(34));
        assert!(save.agents[0].transcript_safe);
        // No old name is left over as an unknown one, and so none is written again.
        for unknown in [identity.unknown, record.unknown, save.unknown] {
            assert!(unknown.is_empty(), "{unknown:?}");
        }
    }

    #[test]
    fn a_record_that_an_old_program_wrote_after_a_new_one_says_what_the_old_one_wrote() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        let text = include_str!("../testdata/old_names/record.json");
        let both = text.replacen('{', r#"{"desired": "running", "boot_id": "boot-0","#, 1);
        fs::write(&path, both).unwrap();
        let record: AgentRecord = load(&path).unwrap().unwrap();
        assert_eq!(record, old(text));
    }

    #[test]
    fn journal_lines_with_old_names_are_read_as_their_events() {
        let text = include_str!("../testdata/old_names/journal.jsonl");
        let lines: Vec<_> = text
            .lines()
            .map(|line| JournalEntry::parse(line).unwrap())
            .collect();
        for line in &lines {
            assert_eq!(line.boot_id, "boot-1");
            assert!(line.data_dir_id.starts_with("9ece95df"));
            assert!(!line.fields().contains("boot-1"), "{}", line.fields());
        }
        let [started, desired, fleet, back] = &lines[..] else {
            panic!("{lines:?}")
        };
        let is_new_boot =
            |event: &_| matches!(event, JournalEvent::KeeperStarted { new_boot: true, .. });
        assert!(is_new_boot(&started.event));
        let stopped = JournalEvent::Desired {
            desired: Desired::Stopped,
            by: "stop".into(),
        };
        assert_eq!(desired.event, stopped);
        assert_eq!(
            fleet.event,
            JournalEvent::Fleet {
                desired: Fleet::Down
            }
        );
        let back_event = JournalEvent::DataDirBack {
            away_ms: 12,
            why: "read-only".into(),
        };
        assert_eq!(back.event, back_event);
    }
}
