//! Workspaces in a save: the one place where checkpoints come in.

use super::Subject;
use crate::notice::Deadline;
use crate::state::WorkspaceSaved;

/// Keeps the uncommitted work of every workspace, in the order of `agents`, until the deadline.
///
/// As yet workspaces are left as they are on the disk, which the sync before this made durable.
pub(super) fn keep(agents: &[Subject], _deadline: Deadline) -> Vec<WorkspaceSaved> {
    agents.iter().map(|_| untouched()).collect()
}

/// What the manifest says of a workspace that nothing was done to.
pub(super) fn untouched() -> WorkspaceSaved {
    WorkspaceSaved {
        checkpoint: None,
        note: "left as it is on the disk; no checkpoint was made".into(),
    }
}
