//! What spotkeep remembers, as files that a person can read: `root.json`, one record per agent,
//! the journal, the manifests of saves. All are versioned JSON, 0600, replaced whole and durably.
//!
//! Old versions stay readable, and a field that only a newer version knows survives being
//! rewritten by this one: each structure carries what it did not understand in `unknown`.

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

/// Reads a state file; `None` where there is none.
///
/// # Errors
/// It is there and is not readable as what it should be: torn, empty, or not ours. It is left as
/// it is; the error names it.
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
        .map(Some)
        .with_context(|| format!("{} is damaged", path.display()))
        .hint(format!("mv {0} {0}.damaged", path.display()))
}

/// Writes a state file, whole and durably.
///
/// # Errors
/// The disk is full or gone; the old content is still there.
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
    fn a_damaged_file_is_named_with_a_way_out_and_left_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        assert_eq!(load::<Vec<u32>>(&path).unwrap(), None, "no file, no damage");
        let (hollow, torn) = ("is damaged: empty, or holds NUL bytes", "is damaged");
        for (damage, says) in [
            ("", hollow),
            (" \n", hollow),
            ("\0\0\0", hollow),
            ("[1]\n\0", hollow),
            ("[1, 2", torn),
            ("{\"version\":1}", torn),
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
}
