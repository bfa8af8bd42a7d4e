//! One after the other on one workspace: the keeper, a save and a person may all want a checkpoint
//! of it at the same time. And what the newest one is, for whoever asks without running git.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Checkpoint, CheckpointOutcome, CheckpointTarget, take};
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

/// How often a workspace that somebody else is at is asked for again.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// The newest checkpoint of an agent, as `last.json` beside its private indexes tells. A copy: the refs
/// decide.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Last {
    /// Version of this file's format.
    pub version: u32,
    /// The checkpoint's id.
    pub id: String,
    /// Its commit.
    pub commit: String,
    /// When it was made.
    pub at: Timestamp,
}

/// Where a workspace's repository is, as `repository.json` tells: from there a workspace that is gone is
/// made anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Home {
    version: u32,
    /// Relative to the data directory where it lies inside.
    repository: PathBuf,
}

impl CheckpointTarget {
    /// The place of an agent.
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

/// The right to work on a place; nobody else has it as long as this lives.
#[derive(Debug)]
pub struct WorkspaceLock {
    _lock: LockFile,
}

impl WorkspaceLock {
    /// Waits for it.
    ///
    /// # Errors
    /// Somebody else still had it at the deadline, or the disk is full or gone.
    pub fn wait(place: &CheckpointTarget, deadline: Deadline) -> Result<Self> {
        Self::wait_for(place, "turn", "another checkpoint of", deadline)
    }

    /// The right to push, apart from the other one: a push may take minutes, and no checkpoint waits for it.
    pub(super) fn wait_to_push(place: &CheckpointTarget, deadline: Deadline) -> Result<Self> {
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
                    "{what} {} is still being made",
                    place.workspace.display()
                ))
                .hint("try again in a minute");
            }
            std::thread::sleep(POLL_INTERVAL.min(deadline.remaining()));
        }
    }
}

/// All checkpoints of a place, newest first, as a repository has them whose workspace may be gone.
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

/// Keeps the uncommitted work of a workspace, when it is our turn.
///
/// # Errors
/// As [`take`], and as [`Turn::wait`].
pub fn keep(
    data_dir: &DataDir,
    place: &CheckpointTarget,
    trigger: Trigger,
    deadline: Deadline,
) -> Result<CheckpointOutcome> {
    // Said without a lock, and without a directory for what is no repository.
    if workspace::common_dir(&place.workspace).is_none() {
        return Ok(CheckpointOutcome::NotGit);
    }
    let lock = WorkspaceLock::wait(place, deadline)?;
    keep_in(&lock, data_dir, place, trigger, deadline)
}

/// As [`keep`], by whoever has the turn already.
///
/// # Errors
/// As [`take`].
pub fn keep_in(
    _lock: &WorkspaceLock,
    data_dir: &DataDir,
    place: &CheckpointTarget,
    trigger: Trigger,
    deadline: Deadline,
) -> Result<CheckpointOutcome> {
    let outcome = take(place, trigger, deadline)?;
    if let CheckpointOutcome::Taken(checkpoint) = &outcome {
        point(Point::CheckpointTaken);
        remember(data_dir, place, checkpoint)?;
    }
    Ok(outcome)
}

/// Writes down what the newest one is, and durably where its repository is.
///
/// # Errors
/// The disk is full or gone.
pub fn remember(
    data_dir: &DataDir,
    place: &CheckpointTarget,
    checkpoint: &Checkpoint,
) -> Result<()> {
    let repository = workspace::common_dir(&place.workspace).unwrap_or_default();
    let repository = std::fs::canonicalize(&repository).unwrap_or(repository);
    let repository = data_dir.relative(&repository);
    let path = place.private.join(HOME);
    let known: Option<Home> = state::load(&path).ok().flatten();
    if known.is_none_or(|known| known.repository != repository) {
        let home = Home {
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
    // Not synced: it is a copy, and every minute counts twice on a slow disk.
    let bytes = serde_json::to_vec(&last)?;
    files::write_whole(&place.private.join(LAST), &bytes)
}

/// The repository that a workspace's checkpoints are in, as it was written down; absolute.
#[must_use]
pub fn home(data_dir: &DataDir, private: &Path) -> Option<PathBuf> {
    let home: Home = state::load(&private.join(HOME)).ok().flatten()?;
    Some(data_dir.absolute(&home.repository))
}

/// The newest checkpoint, as it was written down; `None` where there is none, or no word of it.
#[must_use]
pub fn last(private: &Path) -> Option<Last> {
    state::load(&private.join(LAST)).ok().flatten()
}

const LAST: &str = "last.json";
const HOME: &str = "repository.json";

/// What a repair leaves where it is.
pub(super) const KEPT: [&str; 5] = [LAST, HOME, "turn", "lock", "pushed.json"];

#[cfg(test)]
mod tests {
    use super::*;
    use testing::wait::FOREVER;

    #[test]
    fn two_never_work_on_one_place_at_the_same_time() {
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
