//! Checkpoints: an agent's uncommitted work as hidden commits, staged state and all. Nothing of the
//! workspace is touched: not the worktree, the index, HEAD, the stash, a reflog or a file's mtime.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Result, bail};
use crate::notice::Deadline;
use crate::time::Timestamp;

/// A workspace and whose checkpoints these are.
#[derive(Debug, Clone)]
pub struct Place {
    /// The workspace, absolute.
    pub workspace: PathBuf,
    /// Names the refs: `refs/spotkeep/<agent id>/<checkpoint id>`.
    pub agent_id: String,
    /// Where this agent's private indexes lie, outside of its workspace.
    pub private: PathBuf,
    /// Files above so many bytes are left out, and named.
    pub largest_file: u64,
}

/// What a checkpoint was made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Trigger {
    /// A turn has ended.
    TurnEnded,
    /// The agent is at work, and time has passed.
    Time,
    /// A save.
    Save,
    /// A human asked.
    Command,
    /// Something of ours is about to change the workspace.
    Before,
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
}

/// What came of taking a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// A new one.
    Taken(Checkpoint),
    /// Everything is in the newest one already; its id. `None`: clean, and none is needed.
    Unchanged(Option<String>),
    /// This is no git workspace.
    NotGit,
}

/// Keeps the uncommitted work of a workspace as it is now.
///
/// # Errors
/// git cannot do it, the disk is full, or the deadline has passed; earlier checkpoints are as they were.
pub fn take(place: &Place, trigger: Trigger, deadline: Deadline) -> Result<Outcome> {
    let _ = (place, trigger, deadline);
    bail!("not built yet")
}

/// All checkpoints of a place, newest first.
///
/// # Errors
/// git cannot read the repository.
pub fn list(place: &Place) -> Result<Vec<Checkpoint>> {
    let _ = place;
    bail!("not built yet")
}

/// Makes the workspace what the checkpoint says, worktree and index; with `with_head` HEAD and its branch too.
/// The caller has taken a checkpoint before.
///
/// # Errors
/// There is no such checkpoint, or git cannot.
pub fn rollback(place: &Place, id: &str, with_head: bool) -> Result<()> {
    let _ = (place, id, with_head);
    bail!("not built yet")
}

/// Makes a workspace anew, in an empty or absent directory, from a checkpoint in the repository at `repository`.
///
/// # Errors
/// There is no such checkpoint, or git cannot.
pub fn rebuild(place: &Place, repository: &Path, id: &str) -> Result<()> {
    let _ = (place, repository, id);
    bail!("not built yet")
}
