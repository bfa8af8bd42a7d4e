//! Repositories inside of a workspace, submodules too: where they are, and where we keep what we remember of them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Component, Path};

use crate::message::Nested;
use crate::{CheckpointTarget, workspace};
use sys::error::{Result, ensure};
use sys::hash::fnv1a;

/// What we keep of repositories inside of the workspace.
const INNER: &str = "inner";

/// The place of a repository inside of another's workspace. An index, or a message, that an agent has forged may
/// name any path.
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
        "\"{path}\" is no path inside of a workspace"
    );
    let workspace = work_tree.join(path);
    // Through a link it would be somewhere else.
    let parent = workspace.parent().unwrap_or(work_tree);
    if let Ok(found) = fs::canonicalize(&workspace).or_else(|_| fs::canonicalize(parent)) {
        ensure!(
            workspace.starts_with(&found),
            "{} is behind a link",
            workspace.display()
        );
    }
    // Only a name for what can be made anew; what is remembered there says which workspace it is of.
    let name = format!("{:016x}", fnv1a(path.as_bytes()));
    Ok(CheckpointTarget {
        workspace,
        agent_id: place.agent_id.clone(),
        private: place.private.join(INNER).join(name),
        largest_file: place.largest_file,
    })
}

/// The places of repositories inside of a workspace.
pub(crate) fn nested_places(place: &CheckpointTarget, nested: &[Nested]) -> Vec<CheckpointTarget> {
    let paths: BTreeSet<&str> = nested.iter().map(|nested| nested.path.as_str()).collect();
    let places = paths.into_iter().map(|path| inside(place, path));
    places.flatten().collect()
}

/// One that is not there any more has taken its checkpoints along.
pub(crate) fn inside(place: &CheckpointTarget, path: &str) -> Option<CheckpointTarget> {
    let work_tree = fs::canonicalize(&place.workspace).ok()?;
    let inner = inner(place, &work_tree, path).ok()?;
    workspace::common_dir(&inner.workspace).map(|_| inner)
}
