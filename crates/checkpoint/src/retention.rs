//! Retention of an agent's checkpoints: removes expired ones and the objects that only they hold.
//!
//! Without it, a fleet that works for weeks would fill the disk.
//!
//! # Why no object of the user's is lost
//!
//! Removing a ref leaves its objects behind. Some of them may be the user's, even where no ref of
//! theirs reaches them: git itself keeps unreachable objects for two weeks. An object file is
//! removed only if all of this holds:
//!
//! 1. It was reached from a checkpoint that has just been removed, by its trees of the worktree and
//!    of the metadata, and not by the trees of the index, whose files the user's own git wrote.
//! 2. No ref, no reflog and no index of any worktree reaches it any more.
//! 3. It is a loose object, in no pack.
//! 4. It was created within [`BIRTH`] of that checkpoint, and was not written again since: git
//!    renews the time of a file that it would write and finds existing ([`UNTOUCHED`]).
//! 5. No git process runs in the repository.
//!
//! On a file system that does not record a file's time of creation, the object is kept. The
//! remaining objects are packed, which gathers hundreds of files in one; git's own `prune-packed`
//! removes duplicates.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use super::capture::nested::inside;
use super::git::call::{ask, feed};
use super::{Checkpoint, CheckpointTarget, expired, list, push};
use crate::git::{Git, Repository, shadow_dir};
use crate::workspace;
use state::config::Keep;
use sys::deadline::Deadline;
use sys::error::{Context as _, Result};
use sys::time::Timestamp;

/// A checkpoint's objects were created at most this long before or after the time in its id.
const BIRTH: Duration = Duration::from_secs(300);

/// Longest time between a file's creation and the write of its last byte.
const UNTOUCHED: Duration = Duration::from_secs(2);

/// Listing what is reachable lists all objects of a repository. In a repository with more objects
/// than this it is not done, and the remaining objects are packed instead.
const REACHABLE_MAX: u64 = 500_000;

/// Number of spotkeep's loose objects from which a pack is made.
const PACK_FROM: usize = 1_000;

/// Removes expired checkpoints, and packs the others. `at_rest`: the agent is between turns, so
/// that maintenance of the repository does not slow it down.
///
/// # Errors
/// git failed, or the deadline has passed; checkpoints that stay are unchanged.
pub fn prune(
    place: &CheckpointTarget,
    keep: &Keep,
    at_rest: bool,
    deadline: Deadline,
) -> Result<Vec<String>> {
    prune_at(place, keep, Timestamp::now(), at_rest, deadline)
}

/// Like [`prune`], at another time.
///
/// # Errors
/// Like [`prune`].
pub fn prune_at(
    place: &CheckpointTarget,
    keep: &Keep,
    now: Timestamp,
    at_rest: bool,
    deadline: Deadline,
) -> Result<Vec<String>> {
    let all = list(place)?;
    let ids: BTreeSet<String> = expired(&all, now, keep).into_iter().collect();
    let mut removed = ids.clone();
    remove_and_clean_up(place, all, &ids, at_rest, deadline, &mut removed)?;
    push::remember_pruned(place, &removed)?;
    Ok(ids.into_iter().collect())
}

/// Removes these checkpoints, and the checkpoints of repositories inside of the workspace that only
/// these name, whose ids are added to `removed`.
fn remove_and_clean_up(
    place: &CheckpointTarget,
    all: Vec<Checkpoint>,
    ids: &BTreeSet<String>,
    at_rest: bool,
    deadline: Deadline,
    removed: &mut BTreeSet<String>,
) -> Result<()> {
    let is_gone = |checkpoint: &Checkpoint| ids.contains(&checkpoint.id);
    let (gone, left): (Vec<_>, Vec<_>) = all.into_iter().partition(is_gone);
    remove(place, &gone, deadline)?;
    let named = |checkpoints: &[Checkpoint]| -> BTreeSet<(String, String)> {
        let nested = checkpoints.iter().flat_map(|one| &one.nested);
        nested
            .filter_map(|nested| Some((nested.path.clone(), nested.id.clone()?)))
            .collect()
    };
    let still = named(&left);
    let mut by_path: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (path, id) in named(&gone).difference(&still) {
        by_path.entry(path.clone()).or_default().insert(id.clone());
    }
    for (path, ids) in by_path {
        if let Some(inner) = inside(place, &path) {
            let all = list(&inner)?;
            remove_and_clean_up(&inner, all, &ids, at_rest, deadline, removed)?;
            removed.extend(ids);
        }
    }
    let Some(repository) = workspace::common_dir(&place.workspace) else {
        return Ok(());
    };
    if at_rest && !workspace::holds_git_dir(&[&place.workspace, &repository]) {
        if !gone.is_empty() {
            sweep(place, &repository, &gone, deadline)?;
        }
        pack(place, &repository, deadline)?;
    }
    Ok(())
}

/// Removes checkpoints: all of them, or none where one has changed in the meantime.
///
/// # Errors
/// git failed.
pub fn remove(place: &CheckpointTarget, gone: &[Checkpoint], deadline: Deadline) -> Result<()> {
    if gone.is_empty() {
        return Ok(());
    }
    let lines: String = gone
        .iter()
        .map(|checkpoint| {
            format!(
                "delete refs/spotkeep/{}/{} {}\n",
                place.agent_id, checkpoint.id, checkpoint.commit
            )
        })
        .collect();
    let repository = Repository::find(&place.workspace, deadline.instant())?
        .with_context(|| format!("{} is not a git repository", place.workspace.display()))?;
    let common = shadow_dir::common(&place.private.join("git"), &repository)?;
    let git = Git::writing(&repository, &common, deadline.instant());
    git.run(&["update-ref", "--stdin"], lines.into_bytes())
        .map(drop)
}

/// Removes the object files that only the removed checkpoints held.
fn sweep(
    place: &CheckpointTarget,
    repository: &Path,
    gone: &[Checkpoint],
    deadline: Deadline,
) -> Result<()> {
    let dir = &place.workspace;
    let objects = repository.join("objects");
    // Object files that were created with a removed checkpoint, by object name.
    let mut candidates: BTreeMap<String, PathBuf> = BTreeMap::new();
    for checkpoint in gone {
        for id in own_objects(dir, checkpoint, deadline)? {
            let Some((head, tail)) = id.split_at_checked(2) else {
                continue;
            };
            let path = objects.join(head).join(tail);
            if is_of(&path, checkpoint.at) {
                candidates.insert(id, path);
            }
        }
    }
    if candidates.is_empty() || count(dir, deadline)? > REACHABLE_MAX {
        return Ok(());
    }
    let arguments = [
        "rev-list",
        "--objects",
        "--no-object-names",
        "--all",
        "--reflog",
        "--indexed-objects",
    ];
    let reachable = ask(dir, &arguments, deadline)?;
    for id in reachable.lines() {
        candidates.remove(id);
    }
    if workspace::holds_git_dir(&[dir, repository]) {
        return Ok(());
    }
    for path in candidates.into_values() {
        // Checked again: a process that wrote it in the meantime has renewed its time.
        if fs::metadata(&path).is_ok_and(|meta| was_left_alone(&meta)) {
            fs::remove_file(&path)
                .with_context(|| format!("cannot remove the object {}", path.display()))?;
        }
    }
    Ok(())
}

/// Returns the objects of a checkpoint that spotkeep's git may have written: the commit, its top
/// tree, and what is below its trees of the worktree and of the metadata.
fn own_objects(dir: &Path, checkpoint: &Checkpoint, deadline: Deadline) -> Result<Vec<String>> {
    let commit = &checkpoint.commit;
    let entries = ask(dir, &["ls-tree", commit], deadline)?;
    let tree_of = |line: &str| Some(line.split_once('\t')?.0.rsplit_once(' ')?.1.to_owned());
    let is_index = |line: &&str| {
        line.split_once('\t')
            .is_some_and(|(_, name)| matches!(name, "index" | "stages"))
    };
    let (theirs, ours): (Vec<&str>, Vec<&str>) = entries.lines().partition(is_index);
    let mut input = String::new();
    for tree in ours.into_iter().filter_map(tree_of) {
        input.push_str(&format!("{tree}\n"));
    }
    for tree in theirs.into_iter().filter_map(tree_of) {
        input.push_str(&format!("^{tree}\n"));
    }
    // Its parents are the user's.
    let parents = ask(dir, &["rev-list", "--parents", "-n", "1", commit], deadline)?;
    for parent in parents.split_whitespace().skip(1) {
        input.push_str(&format!("^{parent}^{{tree}}\n"));
    }
    let arguments = ["rev-list", "--objects", "--no-object-names", "--stdin"];
    let below = feed(dir, &arguments, input.as_bytes(), deadline)?;
    let top = ask(dir, &["rev-parse", &format!("{commit}^{{tree}}")], deadline)?;
    let own = [commit.clone(), top.trim().to_owned()];
    Ok(below.lines().map(str::to_owned).chain(own).collect())
}

/// Whether an object file was created with a checkpoint of that time and was not written again.
fn is_of(path: &Path, at: Timestamp) -> bool {
    let Ok(meta) = fs::metadata(path) else {
        return false; // In a pack, or not there.
    };
    let Ok(millis) = u64::try_from(at.as_millis()) else {
        return false;
    };
    let at = UNIX_EPOCH + Duration::from_millis(millis);
    let Ok(born) = meta.created() else {
        return false;
    };
    let apart = born.duration_since(at).or_else(|_| at.duration_since(born));
    apart.is_ok_and(|apart| apart <= BIRTH) && was_left_alone(&meta)
}

/// Whether a file was not written again after its creation.
fn was_left_alone(meta: &fs::Metadata) -> bool {
    let (Ok(born), Ok(written)) = (meta.created(), meta.modified()) else {
        return false;
    };
    written
        .duration_since(born)
        .map_or(true, |later| later <= UNTOUCHED)
}

/// Returns the number of objects in a repository.
fn count(dir: &Path, deadline: Deadline) -> Result<u64> {
    let said = ask(dir, &["count-objects", "-v"], deadline)?;
    let number = |key: &str| {
        let line = said.lines().find_map(|line| line.strip_prefix(key))?;
        line.trim().parse::<u64>().ok()
    };
    Ok(number("count:")
        .unwrap_or(u64::MAX)
        .saturating_add(number("in-pack:").unwrap_or(u64::MAX)))
}

/// Packs the objects that only spotkeep's checkpoints reach, once there are enough of them.
/// Whatever the repository's own settings say of packing, its other objects stay where they are.
fn pack(place: &CheckpointTarget, repository: &Path, deadline: Deadline) -> Result<()> {
    let dir = &place.workspace;
    let refs = ask(
        dir,
        &["for-each-ref", "--format=%(objectname) %(refname)"],
        deadline,
    )?;
    let mut input = String::new();
    let mut has_ours = false;
    for (id, name) in refs.lines().filter_map(|line| line.split_once(' ')) {
        if name.starts_with("refs/spotkeep/") {
            has_ours = true;
            input.push_str(&format!("{id}\n"));
        } else {
            input.push_str(&format!("^{id}\n"));
        }
    }
    if !has_ours {
        return Ok(());
    }
    let arguments = [
        "rev-list",
        "--objects",
        "--no-object-names",
        "--unpacked",
        "--ignore-missing",
        "--stdin",
    ];
    let loose = feed(dir, &arguments, input.as_bytes(), deadline)?;
    let objects = repository.join("objects");
    let is_file = |id: &&str| {
        id.split_at_checked(2)
            .is_some_and(|(head, tail)| objects.join(head).join(tail).exists())
    };
    let ids: Vec<&str> = loose.lines().filter(is_file).collect();
    if ids.len() < PACK_FROM {
        return Ok(());
    }
    let snapshot = objects.join("pack/pack");
    let snapshot = snapshot
        .to_str()
        .context("the repository's path is not UTF-8")?;
    let arguments = [
        "-c",
        "pack.threads=1",
        "pack-objects",
        "--revs",
        "--unpacked",
        "--incremental",
        "--local",
        "--delta-base-offset",
        "--quiet",
        snapshot,
    ];
    feed(dir, &arguments, input.as_bytes(), deadline)?;
    ask(dir, &["prune-packed", "--quiet"], deadline)?;
    Ok(())
}
