//! State file of the backups.
//!
//! It is beside the repository, where an agent cannot reach it if root makes the backups; a copy in
//! `session-state/` is for `status`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::restic::Program;
use super::{Settings, privileged_write};
use state::VERSION;
use state::layout::DataDir;
use sys::error::{Context as _, Result};
use sys::failpoint::{Point, point};
use sys::process::ProcessId;
use sys::thread;
use sys::time::Timestamp;

/// `backups/spotkeep.json`, and its copy `session-state/backup.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BackupState {
    /// Version of this file's format.
    pub version: u32,
    /// The newest backup.
    #[serde(default)]
    pub last: Option<BackupSummary>,
    /// The fingerprint of the tree when that backup began; see [`super::fingerprint`].
    #[serde(default)]
    pub fingerprint: Option<String>,
    /// Why the last attempt to make a newer one failed.
    #[serde(default)]
    pub trouble: Option<String>,
    /// The copy elsewhere.
    #[serde(default)]
    pub copy: Option<Copied>,
    /// The last check.
    #[serde(default)]
    pub check: Option<Checked>,
    /// Backups made since the last check.
    #[serde(default)]
    pub since_check: u32,
    /// For each agent id, the newest backup with its session and its workspace.
    #[serde(default)]
    pub agents: BTreeMap<String, Timestamp>,
    /// The process that last worked on the repository.
    #[serde(default)]
    pub worker: Option<Worker>,
    /// The restic whose version was checked and is new enough.
    #[serde(default)]
    pub restic: Option<Program>,
    /// What a newer version wrote.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

/// A backup that was made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BackupSummary {
    /// Its id.
    pub id: String,
    /// When it began: it contains everything that was on the disk then.
    pub at: Timestamp,
    /// Number of its files.
    pub files: u64,
    /// Bytes of its files.
    pub bytes: u64,
    /// Bytes that were not in the repository yet.
    pub bytes_added: u64,
    /// How long it took.
    pub duration_ms: u64,
    /// Files that could not be read, in at most five lines.
    #[serde(default)]
    pub unreadable: Vec<String>,
}

/// The state of the second repository.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Copied {
    /// Its address, without a password.
    pub to: String,
    /// The newest backup in it.
    pub id: Option<String>,
    /// When that backup was copied.
    pub at: Option<Timestamp>,
    /// Why the last copy failed.
    pub trouble: Option<String>,
}

/// A check of the repository.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Checked {
    /// When it was done.
    pub at: Timestamp,
    /// The damage that it found; empty if none.
    pub damage: Vec<String>,
}

/// A process that works on the repository, by which its stale locks are recognised.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Worker {
    /// The boot in which it ran.
    #[serde(alias = "life")]
    pub boot_id: String,
    /// The machine's name then, as restic writes it into its locks.
    pub host: String,
    /// The `spotkeep` that drives restic.
    pub process: ProcessId,
}

impl Default for BackupState {
    fn default() -> Self {
        Self {
            version: VERSION,
            last: None,
            fingerprint: None,
            trouble: None,
            copy: None,
            check: None,
            since_check: 0,
            agents: BTreeMap::new(),
            worker: None,
            restic: None,
            unknown: Map::new(),
        }
    }
}

impl BackupState {
    /// Reads the state; a new one if there is none.
    ///
    /// # Errors
    /// The file is damaged.
    pub fn load(settings: &Settings) -> Result<Self> {
        Ok(state::load(&path(settings))?.unwrap_or_default())
    }

    /// The copy that `status` shows; `None` if no backup was ever tried.
    ///
    /// # Errors
    /// The file is damaged.
    pub fn load_copy(data_dir: &DataDir) -> Result<Option<Self>> {
        state::load(&data_dir.backup_state())
    }

    /// Writes the state, durably, and its copy.
    ///
    /// # Errors
    /// The disk is full or missing.
    pub fn store(&self, settings: &Settings) -> Result<()> {
        // Both wait for the disk; in parallel the total wait is that of one.
        let store = || -> Result<()> {
            state::store(&path(settings), self)?;
            point(Point::BackupStored);
            Ok(())
        };
        let (shown, stored) = thread::both(
            "publish",
            || privileged_write::publish(settings, self),
            store,
        );
        stored?;
        shown.context("cannot write the copy of the backup state")?
    }

    /// Records the process that is about to start restic, by which its stale locks are recognised
    /// later.
    ///
    /// # Errors
    /// The disk is full or missing.
    pub(super) fn remember_worker(&mut self, settings: &Settings, worker: Worker) -> Result<()> {
        let last = self.worker.as_ref();
        if last.is_some_and(|last| (&last.boot_id, &last.host) == (&worker.boot_id, &worker.host)) {
            return Ok(());
        }
        self.worker = Some(worker);
        self.store(settings)
    }

    /// The current problems, in sentences.
    #[must_use]
    pub fn troubles(&self) -> Vec<String> {
        let copy = self.copy.iter().filter_map(|copy| {
            let why = copy.trouble.as_ref()?;
            Some(format!("backups are not copied to {}: {why}", copy.to))
        });
        let damage = self.check.iter().filter(|check| !check.damage.is_empty());
        self.trouble
            .iter()
            .map(|why| format!("no backup is made: {why}"))
            .chain(copy)
            .chain(damage.map(|check| {
                format!(
                    "the backups are damaged (spotkeep backup check): {}",
                    check.damage.join("; ")
                )
            }))
            .collect()
    }
}

fn path(settings: &Settings) -> PathBuf {
    settings.repository().join("spotkeep.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_of_a_newer_version_survives_being_rewritten() {
        let text = r#"{"version":1,"since_check":3,"colour":"green"}"#;
        let state: BackupState = serde_json::from_str(text).unwrap();
        assert_eq!(state.since_check, 3);
        let again = serde_json::to_value(&state).unwrap();
        assert_eq!(again["colour"], "green");
    }

    #[test]
    fn each_problem_is_a_sentence() {
        let mut state = BackupState::default();
        assert!(state.troubles().is_empty());
        state.trouble = Some("the disk is full".into());
        state.check = Some(Checked {
            at: Timestamp::now(),
            damage: vec!["data/aa".into()],
        });
        assert_eq!(state.troubles().len(), 2);
    }
}
