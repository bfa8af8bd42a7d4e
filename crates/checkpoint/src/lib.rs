//! Checkpoints: an agent's uncommitted work as hidden commits, staged state and all. Nothing of the
//! workspace is touched: not the worktree, the index, HEAD, the stash, a reflog or a file's mtime.
//!
//! # What a checkpoint is
//!
//! A commit under `refs/spotkeep/<agent id>/<checkpoint id>`: a shared ref, so that it outlives a
//! linked worktree that is removed. The id is the time in UTC, and four digits more: ids sort as they were made, also
//! when the clock was set back. The tree of the commit:
//!
//! | entry | |
//! |---|---|
//! | `index` | what was staged |
//! | `worktree` | every file on the disk that is not ignored, byte for byte |
//! | `meta/entries` | entries of the index that a tree cannot hold: in a conflict, flagged, or a name without content |
//! | `meta/state/...` | the files of a merge, a rebase, a bisection under way; `info/sparse-checkout` |
//! | `stages/1..3` | what is in a conflict, so that it is not collected as garbage |
//!
//! The message carries the rest as a line of JSON ([`message::State`]). Parents are HEAD and whatever else has
//! to stay: what is being merged or picked, and every entry of the stash.
//!
//! Repositories inside of the workspace (submodules too) have checkpoints of their own in their own repository, under the
//! same agent's id; the outer checkpoint names them.
//!
//! # How nothing is touched
//!
//! The agent's index is read, never opened for writing. Ours is a copy with its stat data, so that only files that
//! differ are hashed, and it is kept from one checkpoint to the next. It lies in a git directory of ours
//! ([`crate::git::Side`]), which shares nothing with the repository but its objects. All that a checkpoint adds to
//! the repository is objects, and at the very end one ref.

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

/// So long reading or giving back may take where nobody waits for a deadline.
const LIMIT: Duration = Duration::from_secs(600);

/// A workspace and whose checkpoints these are.
#[derive(Debug, Clone)]
pub struct CheckpointTarget {
    /// The workspace, absolute.
    pub workspace: PathBuf,
    /// Names the refs: `refs/spotkeep/<agent id>/<checkpoint id>`.
    pub agent_id: String,
    /// Where this agent's private indexes lie, outside of its workspace.
    pub private: PathBuf,
    /// Files above so many bytes are left out, and named.
    pub largest_file: u64,
}

/// One checkpoint, as its commit tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Its name under the agent's refs; sorts by time.
    pub id: String,
    /// The commit.
    pub commit: String,
    /// When it was made.
    pub at: Timestamp,
    /// What for.
    pub trigger: Trigger,
    /// What could not be kept, in words: files above the cap, unreadable ones.
    pub left_out: Vec<String>,
    /// Where HEAD was.
    pub head: Head,
    /// Repositories inside of the workspace, and their checkpoints.
    pub nested: Vec<Nested>,
}

/// What came of taking a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckpointOutcome {
    /// A new one.
    Taken(Checkpoint),
    /// Everything is in the newest one already; its id. `None`: there is nothing at all to keep.
    Unchanged(Option<String>),
    /// This is no git workspace.
    NotGit,
}

/// Keeps the uncommitted work of a workspace as it is now.
///
/// A clean workspace has a checkpoint too, one for each HEAD: it is what it can be rebuilt from.
///
/// # Errors
/// git cannot do it, the disk is full, or the deadline has passed; earlier checkpoints are as they were.
pub fn take(
    place: &CheckpointTarget,
    trigger: Trigger,
    deadline: Deadline,
) -> Result<CheckpointOutcome> {
    create::create(place, trigger, deadline)
}

/// All checkpoints of a place, newest first. A ref that holds none of ours is left out.
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

/// Makes the workspace what the checkpoint says, worktree and index; with `with_head` HEAD and its branch too.
/// The caller has taken a checkpoint before. Returns what could not be given back, in words.
///
/// # Errors
/// There is no such checkpoint, or git cannot.
pub fn rollback(place: &CheckpointTarget, id: &str, with_head: bool) -> Result<Vec<String>> {
    restore::rollback(place, id, with_head, Deadline::after(LIMIT).instant())
}

/// What [`rollback`] would do to HEAD, in words; nothing of the workspace is changed.
///
/// # Errors
/// There is no such checkpoint, or what a rollback would refuse as well.
pub fn plan(place: &CheckpointTarget, id: &str, with_head: bool) -> Result<Vec<String>> {
    restore::plan(place, id, with_head, Deadline::after(LIMIT).instant())
}

/// Makes a workspace anew, in an empty or absent directory, from a checkpoint in the repository at `repository`.
/// Returns what could not be given back, in words.
///
/// # Errors
/// There is no such checkpoint, or git cannot.
pub fn rebuild(place: &CheckpointTarget, repository: &Path, id: &str) -> Result<Vec<String>> {
    restore::worktree::rebuild(place, repository, id, Deadline::after(LIMIT).instant())
}

/// The agent's id becomes a part of a ref's name.
fn ensure_names(place: &CheckpointTarget) -> Result<()> {
    let good = |c: char| c.is_ascii_alphanumeric() || c == '-';
    ensure!(
        !place.agent_id.is_empty() && place.agent_id.chars().all(good),
        "\"{}\" is no agent's id",
        place.agent_id
    );
    Ok(())
}
