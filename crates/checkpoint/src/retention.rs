//! The ring of checkpoints of one agent: expired ones go, and what they leave behind goes with
//! them, so that a fleet that works for weeks does not fill the disk.
//!
//! # Why nothing of the user's is lost
//!
//! Removing a ref leaves its objects behind. Some of them may be the user's, even where no ref of theirs
//! reaches them: git itself keeps such for two weeks. An object file is removed only if all of this holds:
//!
//! 1. It was reached from a checkpoint that has just been removed, by its trees of the worktree and of
//!    what goes with it, and not by the trees of the index, whose files the user's own git wrote.
//! 2. Nothing reaches it any more: no ref, no reflog, no index of any worktree.
//! 3. It is a file of its own, in no pack.
//! 4. It came into being within [`BIRTH`] of that checkpoint, and nobody wrote it again since: git renews the
//!    time of a file that it would write and finds there ([`UNTOUCHED`]).
//! 5. No git process lives in the repository.
//!
//! A file system that does not tell when a file came into being keeps it. What is left over is packed,
//! which gathers hundreds of files in one; duplicates are removed by git's own `prune-packed`.

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

/// A checkpoint's objects were made at most so long before or after the time it bears.
const BIRTH: Duration = Duration::from_secs(300);

/// Between a file's coming into being and its last byte lies less than this.
const UNTOUCHED: Duration = Duration::from_secs(2);

/// Asking what is reachable lists all objects of a repository. Where there are more than this, it is not
/// asked, and what is left over is packed instead.
const REACHABLE_MAX: u64 = 500_000;

/// So many files of ours are worth a pack.
const PACK_FROM: usize = 1_000;

/// Removes what is expired, and packs what stays. `at_rest`: the agent is between turns, so that
/// this is a good time to look after the repository.
///
/// # Errors
/// git cannot, or the deadline has passed; checkpoints that stay are as they were.
pub fn prune(
    place: &CheckpointTarget,
    keep: &Keep,
    at_rest: bool,
    deadline: Deadline,
) -> Result<Vec<String>> {
    prune_at(place, keep, Timestamp::now(), at_rest, deadline)
}

/// As [`prune`], as if it were another time.
///
/// # Errors
/// As [`prune`].
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

/// Removes these, and what the repositories inside of the workspace keep for them alone, whose ids are added to
/// `removed`.
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
/// git cannot.
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
        .with_context(|| format!("{} is no git workspace", place.workspace.display()))?;
    let common = shadow_dir::common(&place.private.join("git"), &repository)?;
    let git = Git::writing(&repository, &common, deadline.instant());
    git.run(&["update-ref", "--stdin"], lines.into_bytes())
        .map(drop)
}

/// Removes the object files that nobody but the removed checkpoints had.
fn sweep(
    place: &CheckpointTarget,
    repository: &Path,
    gone: &[Checkpoint],
    deadline: Deadline,
) -> Result<()> {
    let dir = &place.workspace;
    let objects = repository.join("objects");
    // By id, the checkpoints' time that it must be of.
    let mut candidates: BTreeMap<String, PathBuf> = BTreeMap::new();
    for checkpoint in gone {
        for id in of_ours(dir, checkpoint, deadline)? {
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
        // Looked at once more: whoever wrote it in the meantime has renewed its time.
        if fs::metadata(&path).is_ok_and(|meta| was_left_alone(&meta)) {
            fs::remove_file(&path)
                .with_context(|| format!("cannot remove the object {}", path.display()))?;
        }
    }
    Ok(())
}

/// The objects of a checkpoint that our own git may have written: the commit, its top tree, and what is
/// below its trees of the worktree and of what goes with it.
fn of_ours(dir: &Path, checkpoint: &Checkpoint, deadline: Deadline) -> Result<Vec<String>> {
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
    // What it stands on is the user's.
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

/// Whether an object file came into being with a checkpoint of that time and was not written again.
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

/// Whether nobody wrote a file again after it came into being.
fn was_left_alone(meta: &fs::Metadata) -> bool {
    let (Ok(born), Ok(written)) = (meta.created(), meta.modified()) else {
        return false;
    };
    written
        .duration_since(born)
        .map_or(true, |later| later <= UNTOUCHED)
}

/// How many objects a repository has.
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

/// Gathers what only our checkpoints reach in a pack, once that is worth it. Whatever the repository's
/// own settings say of packing, its other objects stay where they are.
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
