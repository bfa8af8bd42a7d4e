//! Repairs a repository after a machine ended without a preemption notice.
//!
//! git does not sync what it writes unless it is set to, so after a power cut there may be object
//! files that are empty or full of NULs, a branch whose file is empty, a damaged index, or a lock
//! of a process that is gone. Only files without content are removed: git does not read an empty
//! object, but does not write the whole one while the empty one exists. Lost content is restored
//! from the disk: from files that still exist, and from reflogs. What cannot be restored is
//! reported.

mod refs;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::git::call::{ask, feed, try_feed};
use super::rebuild;
use super::{Checkpoint, CheckpointTarget, WorkspaceLock, list, list_at, lock};
use crate::git::{Git, Repository, shadow_dir};
use crate::workspace::{self, git_dir};
use state::layout::DataDir;
use sys::deadline::Deadline;
use sys::error::{Context as _, Result};

/// Number of items that a message names; of the rest it gives the count.
const NAMED: usize = 3;

/// Result of a repair.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    /// Messages on what was repaired.
    pub repaired: Vec<String>,
    /// Messages on what could not be repaired.
    pub damaged: Vec<String>,
}

/// Checks a workspace after an unclean end, before a process of this boot works in it, and repairs
/// what can be repaired.
///
/// # Errors
/// The deadline has passed, or a write to the disk failed.
pub fn repair(
    data_dir: &DataDir,
    place: &CheckpointTarget,
    deadline: Deadline,
) -> Result<Findings> {
    let mut found = Findings::default();
    let _lock = lock_of(place, deadline)?;
    remove_indexes(place)?;
    relink(data_dir, place, &mut found, deadline);
    let dir = &place.workspace;
    let (Some(own), Some(common)) = (git_dir(dir), workspace::common_dir(dir)) else {
        return Ok(found);
    };
    remove_empty_objects(&common, &mut found)?;
    refs::remove_locks(place, &own, &common, &mut found)?;
    refs::repair_refs(place, &own, &common, &mut found, deadline)?;
    repair_index(place, &own, &mut found, deadline)?;
    write_lost_files(dir, &mut found, deadline)?;
    remove_incomplete(place, &mut found, deadline)?;
    check_history(dir, &mut found, deadline)?;
    Ok(found)
}

/// Rebuilds a workspace that is gone from its newest complete checkpoint; returns which one that
/// was, and messages on what could not be restored. `None`: no repository with a checkpoint is
/// left.
///
/// # Errors
/// There is one, and it cannot be checked out.
pub fn bring_back(
    data_dir: &DataDir,
    place: &CheckpointTarget,
    deadline: Deadline,
) -> Result<Option<(Checkpoint, Vec<String>)>> {
    let Some(repository) = lock::home(data_dir, &place.private) else {
        return Ok(None);
    };
    if !repository.is_dir() || repository.starts_with(&place.workspace) {
        return Ok(None);
    }
    let _lock = lock_of(place, deadline)?;
    remove_indexes(place)?;
    remove_empty_objects(&repository, &mut Findings::default())?;
    for checkpoint in list_at(place, &repository, deadline)? {
        if unsound(&repository, &checkpoint.commit, deadline)?.is_empty() {
            let lacks = rebuild(place, &repository, &checkpoint.id)?;
            return Ok(Some((checkpoint, lacks)));
        }
    }
    Ok(None)
}

/// Locks the target, if a checkpoint of it was ever made.
fn lock_of(place: &CheckpointTarget, deadline: Deadline) -> Result<Option<WorkspaceLock>> {
    let is_known = place.private.is_dir();
    is_known
        .then(|| WorkspaceLock::wait(place, deadline))
        .transpose()
}

/// Removes spotkeep's indexes: one that is older than a lost object takes the object for present.
fn remove_indexes(place: &CheckpointTarget) -> Result<()> {
    let Ok(entries) = fs::read_dir(&place.private) else {
        return Ok(()); // There is none yet.
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if name.to_str().is_some_and(|name| lock::KEPT.contains(&name)) {
            continue;
        }
        let path = entry.path();
        let removed = match entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            true => fs::remove_dir_all(&path),
            false => fs::remove_file(&path),
        };
        removed.with_context(|| format!("cannot remove {}", path.display()))?;
    }
    Ok(())
}

/// Restores the damaged `.git` file of a linked worktree, whose repository knows where it is.
fn relink(data_dir: &DataDir, place: &CheckpointTarget, found: &mut Findings, deadline: Deadline) {
    let dot_git = place.workspace.join(".git");
    let is_damaged = fs::read(&dot_git).is_ok_and(|bytes| bytes.is_empty() || bytes.contains(&0));
    let Some(repository) = lock::home(data_dir, &place.private).filter(|_| is_damaged) else {
        return;
    };
    let workspace = place.workspace.to_string_lossy().into_owned();
    let repaired = ask(&repository, &["worktree", "repair", &workspace], deadline);
    match repaired {
        Ok(_) if workspace::common_dir(&place.workspace).is_some() => found
            .repaired
            .push("its .git file was damaged and leads to the repository again".into()),
        _ => found
            .damaged
            .push("its .git file is damaged, and the repository does not list it".into()),
    }
}

/// Removes the files of loose objects that are empty, or have only NULs at their beginning.
fn remove_empty_objects(common: &Path, found: &mut Findings) -> Result<()> {
    let mut removed = 0;
    for folder in fs::read_dir(common.join("objects"))
        .into_iter()
        .flatten()
        .flatten()
    {
        let name = folder.file_name();
        if name.len() != 2 {
            continue;
        }
        for object in fs::read_dir(folder.path()).into_iter().flatten().flatten() {
            let is_object = object.file_name().len() >= 38;
            let path = object.path();
            if is_object && is_hollow(&path) {
                fs::remove_file(&path)
                    .with_context(|| format!("cannot remove {}", path.display()))?;
                removed += 1;
            }
        }
    }
    if removed > 0 {
        found.repaired.push(format!(
            "{removed} empty object files were removed from its repository"
        ));
    }
    Ok(())
}

/// Whether a file was cut off before its bytes reached the disk: no zlib stream begins with NULs.
fn is_hollow(path: &Path) -> bool {
    use std::io::Read as _;
    let mut head = [1u8; 16];
    let Ok(mut file) = fs::File::open(path) else {
        return false;
    };
    match file.read(&mut head) {
        Ok(0) => true,
        Ok(count) => head[..count].iter().all(|byte| *byte == 0),
        Err(_) => false,
    }
}

/// Moves an index that cannot be read to `index.damaged`, and makes a new one from the newest
/// checkpoint, or else from HEAD.
fn repair_index(
    place: &CheckpointTarget,
    own: &Path,
    found: &mut Findings,
    deadline: Deadline,
) -> Result<()> {
    let index = own.join("index");
    let dir = &place.workspace;
    if !index.exists()
        || try_feed(dir, &["ls-files", "-s"], b"", deadline)?
            .status
            .success()
    {
        return Ok(());
    }
    let newest = list(place).unwrap_or_default().into_iter().next();
    let source = newest.map(|checkpoint| format!("{}:index", checkpoint.commit));
    let quarantined = own.join("index.damaged");
    fs::rename(&index, &quarantined).with_context(|| format!("cannot move {}", index.display()))?;
    let repository = Repository::find(dir, deadline.instant())?
        .with_context(|| format!("{} is not a git repository", dir.display()))?;
    let common = shadow_dir::common(&place.private.join("git"), &repository)?;
    let git = Git::writing(&repository, &common, deadline.instant());
    let read = |tree: &str| git.run(&["read-tree", tree], Vec::new());
    let made = match &source {
        Some(tree) => read(tree)
            .map(|_| "the newest checkpoint")
            .or_else(|_| read("HEAD").map(|_| "HEAD")),
        None => read("HEAD").map(|_| "HEAD"),
    };
    match made {
        Ok(from) => {
            // The new index has no modification times: git reads each file again at its next use.
            // Refreshing the times here would run the repository's filters.
            found.repaired.push(format!(
                "its index was damaged and was made again from {from}; the damaged one is {}",
                quarantined.display()
            ));
        }
        Err(_) => found.damaged.push(format!(
            "its index is damaged ({}), and cannot be made again",
            quarantined.display()
        )),
    }
    Ok(())
}

/// Writes the lost objects of the index again whose files are still on the disk unchanged.
fn write_lost_files(dir: &Path, found: &mut Findings, deadline: Deadline) -> Result<()> {
    let Ok(listed) = ask(dir, &["ls-files", "-s", "-z"], deadline) else {
        return Ok(()); // Said before.
    };
    let entries: Vec<(&str, &str)> = listed
        .split_terminator('\0')
        .filter_map(|entry| {
            let (meta, path) = entry.split_once('\t')?;
            let mut words = meta.split(' ');
            let is_file = words.next()?.starts_with("100");
            is_file.then_some((words.next()?, path))
        })
        .collect();
    let ids: Vec<&str> = entries.iter().map(|(id, _)| *id).collect();
    let missing = missing(dir, &ids, deadline)?;
    let lost: Vec<&(&str, &str)> = entries
        .iter()
        .filter(|(id, _)| missing.iter().any(|lost| lost == id))
        .collect();
    let mut written: BTreeSet<&str> = BTreeSet::new();
    for (id, path) in &lost {
        let again = fs::read(dir.join(path)).ok().and_then(|bytes| {
            // Not through the repository's filters, which are programs.
            let arguments = ["hash-object", "-w", "--no-filters", "--stdin"];
            feed(dir, &arguments, &bytes, deadline).ok()
        });
        if again.is_some_and(|again| again.trim() == *id) {
            written.insert(id);
        }
    }
    // Two files may have had the same content, and one may still have it.
    let gone: Vec<String> = lost
        .iter()
        .filter(|(id, _)| !written.contains(id))
        .map(|(_, path)| (*path).to_owned())
        .collect();
    if !written.is_empty() {
        found.repaired.push(format!(
            "{} of its index that {} lost: written again from its files",
            plural(written.len(), "object"),
            if written.len() == 1 { "was" } else { "were" }
        ));
    }
    if !gone.is_empty() {
        found.damaged.push(format!(
            "what was staged of {} is lost: {}",
            plural(gone.len(), "file"),
            some(&gone)
        ));
    }
    Ok(())
}

/// Removes incomplete checkpoints, which cannot be restored, and make every `git gc` of the user's
/// fail.
fn remove_incomplete(
    place: &CheckpointTarget,
    found: &mut Findings,
    deadline: Deadline,
) -> Result<()> {
    let mut bad = Vec::new();
    for checkpoint in list(place).unwrap_or_default() {
        if unsound(&place.workspace, &checkpoint.commit, deadline)?.is_empty() {
            break; // Those before it were durable before this one was begun.
        }
        bad.push(checkpoint);
    }
    if bad.is_empty() {
        return Ok(());
    }
    super::remove(place, &bad, deadline)?;
    let ids: Vec<String> = bad.into_iter().map(|checkpoint| checkpoint.id).collect();
    found.repaired.push(format!(
        "{} not whole and removed: {}",
        if ids.len() == 1 {
            "a checkpoint was".to_owned()
        } else {
            format!("{} checkpoints were", ids.len())
        },
        some(&ids)
    ));
    Ok(())
}

/// Reports lost objects of the agent's own commits, which cannot be restored.
fn check_history(dir: &Path, found: &mut Findings, deadline: Deadline) -> Result<()> {
    let head = try_feed(
        dir,
        &["rev-parse", "-q", "--verify", "HEAD^{commit}"],
        b"",
        deadline,
    )?;
    if !head.status.success() {
        // No commit yet, or reported already, or HEAD leads to a commit that the power cut removed.
        let leads = try_feed(dir, &["rev-parse", "-q", "--verify", "HEAD"], b"", deadline)?;
        if leads.status.success() {
            found.damaged.push(format!(
                "its branch leads to the commit {}, which is lost; \
                 git reflog shows those before it, and git reset --mixed ID goes back to one",
                leads.stdout.trim()
            ));
        }
        return Ok(());
    }
    let lost = unsound(dir, head.stdout.trim(), deadline)?;
    if !lost.is_empty() {
        found.damaged.push(format!(
            "{} of its commits are lost: {}; \
             git fsck shows more, and git fetch may bring them back",
            plural(lost.len(), "object"),
            some(&lost)
        ));
    }
    Ok(())
}

/// Returns the objects that are missing or damaged, of a commit and of those before it that no
/// remote has.
fn unsound(dir: &Path, commit: &str, deadline: Deadline) -> Result<Vec<String>> {
    let arguments = [
        "rev-list",
        "--objects",
        "--no-object-names",
        "--missing=allow-any",
        commit,
        "--not",
        "--remotes",
    ];
    let listed = try_feed(dir, &arguments, b"", deadline)?;
    if !listed.status.success() {
        // A commit or a tree is damaged so that git cannot list the objects.
        return Ok(vec![commit.to_owned()]);
    }
    let ids: Vec<&str> = listed.stdout.lines().collect();
    missing(dir, &ids, deadline)
}

/// Returns which of these objects are missing or cannot be read. The output counts, not git's exit
/// status.
fn missing(dir: &Path, ids: &[&str], deadline: Deadline) -> Result<Vec<String>> {
    let input: String = ids.iter().map(|id| format!("{id}\n")).collect();
    let answers = try_feed(
        dir,
        &["cat-file", "--batch-check"],
        input.as_bytes(),
        deadline,
    )?
    .stdout;
    let is_whole = |answer: &str| answer.split(' ').count() == 3;
    let answered = answers.lines().count();
    let bad = answers.lines().filter(|answer| !is_whole(answer));
    let bad = bad.filter_map(|answer| answer.split(' ').next().map(str::to_owned));
    // The object at which git stopped, and all after it.
    let rest = ids.iter().skip(answered).map(|id| (*id).to_owned());
    Ok(bad.chain(rest).collect())
}

fn plural(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// Returns the first few, and how many more.
fn some(all: &[String]) -> String {
    let named = all
        .iter()
        .take(NAMED)
        .cloned()
        .collect::<Vec<_>>()
        .join(", ");
    match all.len().saturating_sub(NAMED) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}
