//! The lock on a workspace's checkpoints, and the record of the newest one.
//!
//! The keeper, a save and a user may all create a checkpoint of a workspace at the same time; the
//! lock admits one after the other. The record says which checkpoint is the newest, without running
//! git.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Checkpoint, CheckpointOutcome, CheckpointTarget, create};
use crate::git::{Git, Repository};
use crate::workspace;
use state::Trigger;
use state::config;
use state::layout::DataDir;
use state::{AgentRecord, VERSION};
use sys::deadline::Deadline;
use sys::error::{Hint as _, Result, anyhow};
use sys::failpoint::{Point, point};
use sys::files::{self, LockFile};
use sys::time::Timestamp;

/// Interval at which a lock that another process holds is tried again.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// The newest checkpoint of an agent, as `last.json` beside its private indexes says. A copy: the
/// refs decide.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Last {
    /// Version of this file's format.
    pub version: u32,
    /// The checkpoint's id.
    pub id: String,
    /// Its commit.
    pub commit: String,
    /// Time of creation.
    pub at: Timestamp,
}

/// Path of a workspace's repository, as `repository.json` says: a workspace that is gone is rebuilt
/// from there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct RepositoryRecord {
    version: u32,
    /// Relative to the data directory where it is inside of it.
    repository: PathBuf,
}

impl CheckpointTarget {
    /// Returns the checkpoint target of an agent.
    #[must_use]
    pub fn from_record(
        data_dir: &DataDir,
        settings: &config::Checkpoint,
        record: &AgentRecord,
    ) -> Self {
        Self {
            workspace: data_dir.absolute(&record.cwd),
            agent_id: record.agent_id.clone(),
            private: data_dir.checkpoints(&record.agent_id),
            largest_file: settings.largest_file.0,
        }
    }
}

/// Exclusive lock on a checkpoint target, released when dropped.
#[derive(Debug)]
pub struct WorkspaceLock {
    _lock: LockFile,
}

impl WorkspaceLock {
    /// Waits for the lock.
    ///
    /// Its file on disk is named `turn`, since an older version of the program locks the same file.
    ///
    /// # Errors
    /// Another process still held it at the deadline, or the disk is full or missing.
    pub fn wait(place: &CheckpointTarget, deadline: Deadline) -> Result<Self> {
        Self::wait_for(place, "turn", "another checkpoint of", deadline)
    }

    /// Waits for the lock on pushes, which is a separate one: a push may take minutes, and no
    /// checkpoint waits for it.
    pub(super) fn wait_for_push(place: &CheckpointTarget, deadline: Deadline) -> Result<Self> {
        Self::wait_for(place, "push", "another push of", deadline)
    }

    fn wait_for(
        place: &CheckpointTarget,
        file: &str,
        what: &str,
        deadline: Deadline,
    ) -> Result<Self> {
        files::create_private_dir(&place.private)?;
        let path = place.private.join(file);
        loop {
            if let Some(lock) = LockFile::try_take(&path)? {
                return Ok(Self { _lock: lock });
            }
            if deadline.has_passed() {
                return Err(anyhow!(
                    "{what} {} is still running",
                    place.workspace.display()
                ))
                .hint("try again in a minute");
            }
            std::thread::sleep(POLL_INTERVAL.min(deadline.remaining()));
        }
    }
}

/// Returns all checkpoints of a target, newest first, from a repository whose workspace may be
/// gone.
///
/// # Errors
/// git cannot read the repository.
pub fn list_at(
    place: &CheckpointTarget,
    repository: &Path,
    deadline: Deadline,
) -> Result<Vec<Checkpoint>> {
    let repository = Repository::open(repository, deadline.instant())?;
    let git = Git::refs(&repository, deadline.instant());
    let mut names = super::context::own_refs(&git, place)?;
    names.reverse();
    let commits: Vec<String> = names.into_iter().map(|(_, commit)| commit).collect();
    let kept = super::message::read_all(&git, &commits)?;
    Ok(kept.into_iter().map(|kept| kept.checkpoint).collect())
}

/// Waits for the lock, then creates a checkpoint.
///
/// # Errors
/// Like [`create`], and like [`WorkspaceLock::wait`].
pub fn keep(
    data_dir: &DataDir,
    place: &CheckpointTarget,
    trigger: Trigger,
    deadline: Deadline,
) -> Result<CheckpointOutcome> {
    // Returned without a lock, and without creating a directory for what is not a repository.
    if workspace::common_dir(&place.workspace).is_none() {
        return Ok(CheckpointOutcome::NotGit);
    }
    let lock = WorkspaceLock::wait(place, deadline)?;
    keep_in(&lock, data_dir, place, trigger, deadline)
}

/// Like [`keep`], for a caller that holds the lock.
///
/// # Errors
/// Like [`create`].
pub fn keep_in(
    _lock: &WorkspaceLock,
    data_dir: &DataDir,
    place: &CheckpointTarget,
    trigger: Trigger,
    deadline: Deadline,
) -> Result<CheckpointOutcome> {
    let outcome = create(place, trigger, deadline)?;
    if let CheckpointOutcome::Taken(checkpoint) = &outcome {
        point(Point::CheckpointTaken);
        remember(data_dir, place, checkpoint)?;
    }
    Ok(outcome)
}

/// Writes the record of the newest checkpoint, and durably the path of its repository.
///
/// # Errors
/// The disk is full or missing.
pub fn remember(
    data_dir: &DataDir,
    place: &CheckpointTarget,
    checkpoint: &Checkpoint,
) -> Result<()> {
    let repository = workspace::common_dir(&place.workspace).unwrap_or_default();
    let repository = std::fs::canonicalize(&repository).unwrap_or(repository);
    let repository = data_dir.relative(&repository);
    let path = place.private.join(HOME);
    let known: Option<RepositoryRecord> = state::load(&path).ok().flatten();
    if known.is_none_or(|known| known.repository != repository) {
        let home = RepositoryRecord {
            version: VERSION,
            repository,
        };
        state::store(&path, &home)?;
    }
    let last = Last {
        version: VERSION,
        id: checkpoint.id.clone(),
        commit: checkpoint.commit.clone(),
        at: checkpoint.at,
    };
    // Not synced: it is a copy, and this write happens every minute, also on a slow disk.
    let bytes = serde_json::to_vec(&last)?;
    files::write_whole(&place.private.join(LAST), &bytes)
}

/// Returns the absolute path of the repository that holds a workspace's checkpoints, as recorded.
#[must_use]
pub fn home(data_dir: &DataDir, private: &Path) -> Option<PathBuf> {
    let home: RepositoryRecord = state::load(&private.join(HOME)).ok().flatten()?;
    Some(data_dir.absolute(&home.repository))
}

/// Returns the newest checkpoint, as recorded; `None` where there is none, or no record of it.
#[must_use]
pub fn last(private: &Path) -> Option<Last> {
    state::load(&private.join(LAST)).ok().flatten()
}

const LAST: &str = "last.json";
const HOME: &str = "repository.json";

/// Names of the files that a repair leaves in the private directory.
pub(super) const KEPT: [&str; 5] = [LAST, HOME, "turn", "lock", "pushed.json"];

#[cfg(test)]
mod tests {
    use super::*;
    use testing::wait::FOREVER;

    #[test]
    fn two_processes_never_hold_the_lock_at_the_same_time() {
        let dir = tempfile::tempdir().unwrap();
        let place = CheckpointTarget {
            workspace: dir.path().join("w"),
            agent_id: "a".into(),
            private: dir.path().join("p"),
            largest_file: 1 << 20,
        };
        let first = WorkspaceLock::wait(&place, Deadline::after(Duration::ZERO)).unwrap();
        assert!(WorkspaceLock::wait(&place, Deadline::after(Duration::ZERO)).is_err());
        let waiting = std::thread::spawn({
            let place = place.clone();
            move || WorkspaceLock::wait(&place, Deadline::after(FOREVER)).map(|_| ())
        });
        drop(first);
        waiting.join().unwrap().unwrap();
    }
}
