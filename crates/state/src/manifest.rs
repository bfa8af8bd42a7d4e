//! Manifests of saves: `session-state/saves/<id>.json`, what one save made durable.
//!
//! A manifest is rewritten at each stage of its save.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{AgentName, VERSION, load as load_state, store as store_state};
use sys::error::{Context as _, Result};
use sys::time::Timestamp;

/// Number of manifests that are kept.
const KEPT: usize = 200;

/// The manifest of one save.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this file's format.
    pub version: u32,
    /// The save's id; ids sort by time.
    pub id: String,
    /// Id of the data directory.
    #[serde(alias = "root_id")]
    pub data_dir_id: String,
    /// The epoch of the keeper, or of the last one where the save ran without a keeper.
    pub epoch: u64,
    /// Id of the boot.
    #[serde(alias = "life")]
    pub boot_id: String,
    /// When it began.
    pub at: Timestamp,
    /// What started it: `metadata`, `signal`, `command`, `unit`.
    pub source: String,
    /// Whether this is the end of a boot; agents continue after any other save.
    #[serde(rename = "final")]
    pub is_final: bool,
    /// Time from the beginning to the deadline, in milliseconds; null where there is none.
    pub deadline_ms: Option<u64>,
    /// Whether every agent had ended and every transcript was durable before the deadline.
    pub clean: bool,
    /// When each stage was reached.
    pub stages: Stages,
    /// Number of processes that outlived their agents and had to be killed.
    #[serde(default)]
    pub stragglers: usize,
    /// Result for each agent.
    pub agents: Vec<AgentSaved>,
    /// Errors of what could not be written.
    #[serde(default)]
    pub trouble: Vec<String>,
    /// Fields that a newer version wrote.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

/// Milliseconds after the beginning at which a stage was reached; null: not yet.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Stages {
    /// No agent runs any more.
    pub agents_ended_ms: Option<u64>,
    /// Every transcript is durable.
    #[serde(alias = "words_safe_ms")]
    pub transcripts_safe_ms: Option<u64>,
    /// The whole filesystem of the data directory is durable.
    pub notice_to_safe_ms: Option<u64>,
    /// Workspaces have their checkpoints.
    pub workspaces_ms: Option<u64>,
}

/// Result of a save for one agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AgentSaved {
    /// Its name.
    pub name: AgentName,
    /// Its id.
    pub agent_id: String,
    /// Its session.
    pub session_id: String,
    /// How it ended, as text, or that it continues.
    pub end: String,
    /// Milliseconds from the signal to its end; null where it did not run.
    pub exit_ms: Option<u64>,
    /// What was under way, according to the end of its transcript.
    pub open: String,
    /// Bytes of its transcript that are durable; null where there is none.
    pub transcript_bytes: Option<u64>,
    /// Whether its transcript is durable.
    #[serde(alias = "words_safe")]
    pub transcript_safe: bool,
    /// Its workspace.
    pub workspace: WorkspaceSaved,
    /// Errors.
    #[serde(default)]
    pub trouble: Option<String>,
}

/// Result of a save for one workspace.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkspaceSaved {
    /// The checkpoint that holds its uncommitted work; null where none was made.
    pub checkpoint: Option<String>,
    /// What happened, for people.
    pub note: String,
}

impl Manifest {
    /// Returns the manifest of a save that begins now.
    #[must_use]
    pub fn begin(
        id: String,
        data_dir_id: String,
        epoch: u64,
        boot_id: String,
        source: String,
        is_final: bool,
    ) -> Self {
        Self {
            version: VERSION,
            id,
            data_dir_id,
            epoch,
            boot_id,
            at: Timestamp::now(),
            source,
            is_final,
            deadline_ms: None,
            clean: false,
            stages: Stages::default(),
            stragglers: 0,
            agents: Vec::new(),
            trouble: Vec::new(),
            unknown: Map::new(),
        }
    }
}

fn path_of(saves: &Path, id: &str) -> PathBuf {
    saves.join(format!("{id}.json"))
}

/// Writes a manifest, whole and durably.
///
/// # Errors
/// The disk is full or missing.
pub fn store(saves: &Path, manifest: &Manifest) -> Result<()> {
    store_state(&path_of(saves, &manifest.id), manifest)
}

/// Reads one manifest; `None` where there is none with this id.
///
/// # Errors
/// It is damaged.
pub fn load(saves: &Path, id: &str) -> Result<Option<Manifest>> {
    load_state(&path_of(saves, id))
}

/// Returns the ids of all saves, newest first.
fn ids(saves: &Path) -> Result<Vec<String>> {
    let mut ids: Vec<String> = match fs::read_dir(saves) {
        Ok(entries) => entries
            .filter_map(|entry| {
                entry
                    .ok()?
                    .file_name()
                    .to_str()?
                    .strip_suffix(".json")
                    .map(str::to_owned)
            })
            .collect(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => {
            return Err(error).with_context(|| format!("cannot read {}", saves.display()));
        }
    };
    ids.sort_unstable_by(|a, b| b.cmp(a));
    Ok(ids)
}

/// Returns the newest manifest of a final save that can be read. A damaged one is skipped: an older
/// one is better than none.
///
/// # Errors
/// The directory cannot be read.
pub fn latest(saves: &Path) -> Result<Option<Manifest>> {
    let newest = ids(saves)?;
    Ok(newest
        .iter()
        .filter_map(|id| load(saves, id).ok().flatten())
        .find(|save| save.is_final))
}

/// Returns all manifests that can be read, oldest first.
///
/// # Errors
/// The directory cannot be read.
pub fn all(saves: &Path) -> Result<Vec<Manifest>> {
    let newest_first = ids(saves)?;
    let oldest_first = newest_first.iter().rev();
    Ok(oldest_first
        .filter_map(|id| load(saves, id).ok().flatten())
        .collect())
}

/// Returns the id of the newest save, whether its manifest can be read or not.
#[must_use]
pub fn last_id(saves: &Path) -> Option<String> {
    ids(saves).ok()?.into_iter().next()
}

/// Returns the errors of the manifests that cannot be read, newest first.
///
/// # Errors
/// The directory cannot be read.
pub fn damaged(saves: &Path) -> Result<Vec<sys::error::Error>> {
    let all = ids(saves)?;
    Ok(all.iter().filter_map(|id| load(saves, id).err()).collect())
}

/// Removes all but the newest manifests.
///
/// # Errors
/// The directory cannot be read.
pub fn prune(saves: &Path) -> Result<()> {
    for old in ids(saves)?.iter().skip(KEPT) {
        fs::remove_file(path_of(saves, old)).ok();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_readable_final_save_is_found_past_a_damaged_one() {
        let dir = tempfile::tempdir().unwrap();
        let begin = |id: &str, is_final| {
            Manifest::begin(
                id.into(),
                "r".into(),
                1,
                "l".into(),
                "signal".into(),
                is_final,
            )
        };
        store(dir.path(), &begin("0001", true)).unwrap();
        store(dir.path(), &begin("0002", false)).unwrap();
        fs::write(dir.path().join("0003.json"), "{\"ver").unwrap();
        assert_eq!(latest(dir.path()).unwrap().unwrap().id, "0001");
    }

    #[test]
    fn a_damaged_manifest_counts_as_a_save_and_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let saves = dir.path().join("saves");
        assert!(all(&saves).unwrap().is_empty() && damaged(&saves).unwrap().is_empty());
        assert_eq!(last_id(&saves), None);
        fs::create_dir(&saves).unwrap();
        for id in ["0001", "0002", "0004"] {
            let (data_dir, boot_id, source) = ("r".into(), "l".into(), "signal".into());
            store(
                &saves,
                &Manifest::begin(id.into(), data_dir, 1, boot_id, source, false),
            )
            .unwrap();
        }
        fs::write(saves.join("0003.json"), "{\"ver").unwrap();
        fs::write(saves.join("0005.json.tmp"), "").unwrap();
        let read = all(&saves).unwrap();
        let read: Vec<&str> = read.iter().map(|save| save.id.as_str()).collect();
        assert_eq!(read, ["0001", "0002", "0004"], "oldest first");
        assert_eq!(last_id(&saves).as_deref(), Some("0004"));
        let [error] = &damaged(&saves).unwrap()[..] else {
            panic!("one is damaged")
        };
        assert!(error.to_string().contains("0003.json"), "{error}");
        // What is not a directory at all is an error, and not taken for one without saves.
        let file = saves.join("0001.json");
        assert!(latest(&file).is_err() && all(&file).is_err() && prune(&file).is_err());
    }

    #[test]
    fn the_newest_two_hundred_manifests_stay() {
        let dir = tempfile::tempdir().unwrap();
        for nth in 0..KEPT + 3 {
            fs::write(dir.path().join(format!("{nth:04}.json")), "").unwrap();
        }
        prune(dir.path()).unwrap();
        let left = ids(dir.path()).unwrap();
        assert_eq!((left.len(), left.last().unwrap().as_str()), (KEPT, "0003"));
    }
}
