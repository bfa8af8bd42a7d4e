//! Repositories inside of a workspace, including submodules.
//!
//! Finds them, and the directories in which spotkeep keeps its private files about them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Component, Path};

use crate::message::Nested;
use crate::{CheckpointTarget, workspace};
use sys::error::{Result, ensure};
use sys::hash::fnv1a;

/// Name of the directory of private files about repositories inside of the workspace.
const INNER: &str = "inner";

/// Returns the checkpoint target of a repository inside of another one's workspace. The path is
/// checked, since an index or a message that an agent has forged may name any path.
pub(crate) fn inner(
    place: &CheckpointTarget,
    work_tree: &Path,
    path: &str,
) -> Result<CheckpointTarget> {
    let is_plain = Path::new(path).components().all(|part| match part {
        Component::Normal(name) => !name.eq_ignore_ascii_case(".git"),
        _ => false,
    });
    ensure!(
        is_plain && !path.is_empty(),
        "\"{path}\" is not a path inside of a workspace"
    );
    let workspace = work_tree.join(path);
    // A path through a link would lead out of the workspace.
    let parent = workspace.parent().unwrap_or(work_tree);
    if let Ok(found) = fs::canonicalize(&workspace).or_else(|_| fs::canonicalize(parent)) {
        ensure!(
            workspace.starts_with(&found),
            "{} is behind a link",
            workspace.display()
        );
    }
    // The name is only for files that can be recreated; the memory in there says which workspace it
    // is of.
    let name = format!("{:016x}", fnv1a(path.as_bytes()));
    Ok(CheckpointTarget {
        workspace,
        agent_id: place.agent_id.clone(),
        private: place.private.join(INNER).join(name),
        largest_file: place.largest_file,
    })
}

/// Returns the checkpoint targets of repositories inside of a workspace.
pub(crate) fn nested_places(place: &CheckpointTarget, nested: &[Nested]) -> Vec<CheckpointTarget> {
    let paths: BTreeSet<&str> = nested.iter().map(|nested| nested.path.as_str()).collect();
    let places = paths.into_iter().map(|path| inside(place, path));
    places.flatten().collect()
}

/// Returns the checkpoint target of the repository at `path`; `None` where it is gone, and its
/// checkpoints with it.
pub(crate) fn inside(place: &CheckpointTarget, path: &str) -> Option<CheckpointTarget> {
    let work_tree = fs::canonicalize(&place.workspace).ok()?;
    let inner = inner(place, &work_tree, path).ok()?;
    workspace::common_dir(&inner.workspace).map(|_| inner)
}
