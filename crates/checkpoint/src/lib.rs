//! Git checkpoints: an agent's uncommitted work as hidden commits, including the staged state.
//!
//! Creating a checkpoint changes nothing of the workspace: not the worktree, the index, HEAD, the
//! stash, a reflog or a file's mtime.
//!
//! # Format of a checkpoint
//!
//! A commit under `refs/spotkeep/<agent id>/<checkpoint id>`: a shared ref, so that it outlives a
//! linked worktree that is removed. The id is the time in UTC, and four more digits: ids sort by
//! creation, also when the clock was set back. The tree of the commit:
//!
//! | entry | |
//! |---|---|
//! | `index` | what was staged |
//! | `worktree` | every file on the disk that is not ignored, byte for byte |
//! | `meta/entries` | entries of the index that a tree cannot hold: in a conflict, flagged, or a name without content |
//! | `meta/state/...` | the files of a merge, a rebase, a bisection under way; `info/sparse-checkout` |
//! | `stages/1..3` | what is in a conflict, so that it is not collected as garbage |
//!
//! The message holds the rest as a line of JSON ([`message::State`]). Parents are HEAD and all
//! other commits that have to stay: those being merged or picked, and every entry of the stash.
//!
//! Repositories inside of the workspace (including submodules) have their checkpoints in their own
//! repository, under the same agent's id; the outer checkpoint names them.
//!
//! # How the workspace stays unchanged
//!
//! The agent's index is read, never opened for writing. spotkeep's index is a copy with its stat
//! data, so that only files that differ are hashed, and it is kept from one checkpoint to the next.
//! It is in a git directory of spotkeep's ([`crate::git::ShadowGitDir`]), which shares only the
//! object store with the repository. A checkpoint adds only objects to the repository, and at the
//! very end one ref.

mod capture;
mod commit;
mod context;
mod create;
mod diff;
pub mod git;
mod id;
mod lock;
pub mod message;
mod push;
mod repair;
mod restore;
mod retention;
mod retention_policy;
#[cfg(test)]
mod retention_tests;
#[cfg(test)]
mod tests;
pub mod workspace;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::git::{Git, Repository};
pub use state::Trigger;
use sys::deadline::Deadline;
use sys::error::{Result, ensure};
use sys::time::Timestamp;

pub use diff::{Change, Layer, Size, changes, difference, sizes};
pub use lock::{Last, WorkspaceLock, home, keep, keep_in, last, list_at, remember};
pub use message::{Head, Nested};
pub use push::push;
pub use repair::{Findings, bring_back, repair};
pub use retention::{prune, prune_at, remove};
pub use retention_policy::expired;

/// Time limit of reading or restoring checkpoints where the caller gives no deadline.
const LIMIT: Duration = Duration::from_secs(600);

/// A workspace, and the agent whose checkpoints are made of it.
#[derive(Debug, Clone)]
pub struct CheckpointTarget {
    /// Absolute path of the workspace.
    pub workspace: PathBuf,
    /// The agent's id, in the name of the refs: `refs/spotkeep/<agent id>/<checkpoint id>`.
    pub agent_id: String,
    /// Directory of this agent's private indexes, outside of its workspace.
    pub private: PathBuf,
    /// Size limit in bytes: larger files are skipped and listed.
    pub largest_file: u64,
}

/// A checkpoint, read from its commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Its id, under the agent's refs; sorts by time.
    pub id: String,
    /// Its commit.
    pub commit: String,
    /// Time of creation.
    pub at: Timestamp,
    /// Reason for which it was created.
    pub trigger: Trigger,
    /// Messages on what could not be saved: files above the size limit, unreadable ones.
    pub left_out: Vec<String>,
    /// State of HEAD.
    pub head: Head,
    /// Repositories inside of the workspace, and their checkpoints.
    pub nested: Vec<Nested>,
}

/// Result of creating a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckpointOutcome {
    /// A new checkpoint.
    Taken(Checkpoint),
    /// The newest checkpoint has the same content; its id. `None`: there is nothing at all to save.
    Unchanged(Option<String>),
    /// The workspace is not a git repository.
    NotGit,
}

/// Creates a checkpoint of the uncommitted work of a workspace.
///
/// A clean workspace has a checkpoint too, one for each HEAD: the workspace can be rebuilt from it.
///
/// # Errors
/// git failed, the disk is full, or the deadline has passed; earlier checkpoints are unchanged.
pub fn create(
    place: &CheckpointTarget,
    trigger: Trigger,
    deadline: Deadline,
) -> Result<CheckpointOutcome> {
    create::create(place, trigger, deadline)
}

/// Returns all checkpoints of a target, newest first. A ref that does not hold a checkpoint is left
/// out.
///
/// # Errors
/// git cannot read the repository.
pub fn list(place: &CheckpointTarget) -> Result<Vec<Checkpoint>> {
    ensure_names(place)?;
    let until = Deadline::after(LIMIT).instant();
    let Some(repository) = Repository::find(&place.workspace, until)? else {
        return Ok(Vec::new());
    };
    let git = Git::refs(&repository, until);
    let mut names = context::own_refs(&git, place)?;
    names.reverse();
    let names: Vec<String> = names.into_iter().map(|(_, commit)| commit).collect();
    let kept = message::read_all(&git, &names)?;
    Ok(kept.into_iter().map(|kept| kept.checkpoint).collect())
}

/// Restores worktree and index of the workspace from a checkpoint; with `with_head` HEAD and its
/// branch too. The caller has created a checkpoint before. Returns messages on what could not be
/// restored.
///
/// # Errors
/// There is no such checkpoint, or git failed.
pub fn rollback(place: &CheckpointTarget, id: &str, with_head: bool) -> Result<Vec<String>> {
    restore::rollback(place, id, with_head, Deadline::after(LIMIT).instant())
}

/// Returns messages on what [`rollback`] would do to HEAD; nothing of the workspace is changed.
///
/// # Errors
/// There is no such checkpoint, or [`rollback`] would fail as well.
pub fn plan(place: &CheckpointTarget, id: &str, with_head: bool) -> Result<Vec<String>> {
    restore::plan(place, id, with_head, Deadline::after(LIMIT).instant())
}

/// Rebuilds a workspace, in an empty or absent directory, from a checkpoint in the repository at
/// `repository`. Returns messages on what could not be restored.
///
/// # Errors
/// There is no such checkpoint, or git failed.
pub fn rebuild(place: &CheckpointTarget, repository: &Path, id: &str) -> Result<Vec<String>> {
    restore::worktree::rebuild(place, repository, id, Deadline::after(LIMIT).instant())
}

/// Checks the agent's id, which becomes a part of a ref's name.
fn ensure_names(place: &CheckpointTarget) -> Result<()> {
    let good = |c: char| c.is_ascii_alphanumeric() || c == '-';
    ensure!(
        !place.agent_id.is_empty() && place.agent_id.chars().all(good),
        "\"{}\" is not an agent's id",
        place.agent_id
    );
    Ok(())
}
