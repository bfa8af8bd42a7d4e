//! What a machine that went away without a notice did to a repository, and what can be done about it.
//!
//! git does not sync what it writes unless it is told to, so after a power cut there may be object files that are
//! empty or full of NULs, a branch whose file is empty, an index that is torn, a lock of a process that is
//! gone. What is removed here is of no use to anybody: an empty object is read by nobody, but keeps git
//! from writing the whole one. What is put back comes from the disk: files that are still there, and
//! reflogs. What cannot be put back is said.

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

/// So many are named; of the rest, how many.
const NAMED: usize = 3;

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    /// What was put right, in words.
    pub repaired: Vec<String>,
    /// What could not be, in words.
    pub damaged: Vec<String>,
}

/// Looks a workspace over after an unclean end, before anything of this boot works in it, and puts right
/// what can be.
///
/// # Errors
/// The deadline has passed, or the disk refuses.
pub fn repair(
    data_dir: &DataDir,
    place: &CheckpointTarget,
    deadline: Deadline,
) -> Result<Findings> {
    let mut found = Findings::default();
    let _lock = lock_of(place, deadline)?;
    drop_private(place)?;
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
    drop_unsound(place, &mut found, deadline)?;
    look_at_history(dir, &mut found, deadline)?;
    Ok(found)
}

/// Makes a workspace that is gone anew from its newest sound checkpoint; which that was, and what could not
/// be given back, in words. `None`: there is no repository
/// left that has one.
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
    drop_private(place)?;
    remove_empty_objects(&repository, &mut Findings::default())?;
    for checkpoint in list_at(place, &repository, deadline)? {
        if unsound(&repository, &checkpoint.commit, deadline)?.is_empty() {
            let lacks = rebuild(place, &repository, &checkpoint.id)?;
            return Ok(Some((checkpoint, lacks)));
        }
    }
    Ok(None)
}

/// Nobody else is at the place meanwhile; one that no checkpoint was ever made of is left alone.
fn lock_of(place: &CheckpointTarget, deadline: Deadline) -> Result<Option<WorkspaceLock>> {
    let is_known = place.private.is_dir();
    is_known
        .then(|| WorkspaceLock::wait(place, deadline))
        .transpose()
}

/// An index that is older than an object that is lost believes the object to be there.
fn drop_private(place: &CheckpointTarget) -> Result<()> {
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

/// A linked worktree whose `.git` file is torn: its repository knows where it is.
fn relink(data_dir: &DataDir, place: &CheckpointTarget, found: &mut Findings, deadline: Deadline) {
    let dot_git = place.workspace.join(".git");
    let torn = fs::read(&dot_git).is_ok_and(|bytes| bytes.is_empty() || bytes.contains(&0));
    let Some(repository) = lock::home(data_dir, &place.private).filter(|_| torn) else {
        return;
    };
    let workspace = place.workspace.to_string_lossy().into_owned();
    let repaired = ask(&repository, &["worktree", "repair", &workspace], deadline);
    match repaired {
        Ok(_) if workspace::common_dir(&place.workspace).is_some() => found
            .repaired
            .push("its .git file was torn and leads to the repository again".into()),
        _ => found
            .damaged
            .push("its .git file is torn, and the repository does not know it".into()),
    }
}

/// Files of loose objects without a byte in them, and with nothing but NULs at their beginning.
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

/// What was cut before its bytes reached the disk: no zlib stream begins with NULs.
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

/// An index that cannot be read is put aside, and made from the newest checkpoint, or else from HEAD.
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
    let aside = own.join("index.damaged");
    fs::rename(&index, &aside).with_context(|| format!("cannot move {}", index.display()))?;
    let repository = Repository::find(dir, deadline.instant())?
        .with_context(|| format!("{} is no git workspace", dir.display()))?;
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
            // Without the times of files: git looks at each by itself, which we could not have it do without
            // running the repository's filters.
            found.repaired.push(format!(
                "its index was torn and was made anew from {from}; the torn one is {}",
                aside.display()
            ));
        }
        Err(_) => found.damaged.push(format!(
            "its index is torn ({}), and cannot be made anew",
            aside.display()
        )),
    }
    Ok(())
}

/// Objects of the index that are lost, and whose files are still on the disk as they were.
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
            // Not by way of the repository's filters, which are programs.
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

/// Checkpoints that are not whole are of no use, and make every `git gc` of the user's fail.
fn drop_unsound(place: &CheckpointTarget, found: &mut Findings, deadline: Deadline) -> Result<()> {
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

/// The agent's own commits: lost objects of them cannot be put back, and have to be said.
fn look_at_history(dir: &Path, found: &mut Findings, deadline: Deadline) -> Result<()> {
    let head = try_feed(
        dir,
        &["rev-parse", "-q", "--verify", "HEAD^{commit}"],
        b"",
        deadline,
    )?;
    if !head.status.success() {
        // Not born yet, or said before, or it leads to a commit that the cut took.
        let leads = try_feed(dir, &["rev-parse", "-q", "--verify", "HEAD"], b"", deadline)?;
        if leads.status.success() {
            found.damaged.push(format!(
                "its branch leads to the commit {}, which is lost; git reflog shows those before it, and git reset --mixed ID goes back to one",
                leads.stdout.trim()
            ));
        }
        return Ok(());
    }
    let lost = unsound(dir, head.stdout.trim(), deadline)?;
    if !lost.is_empty() {
        found.damaged.push(format!(
            "{} of its commits are lost: {}; git fsck tells more, and git fetch may bring them back",
            plural(lost.len(), "object"),
            some(&lost)
        ));
    }
    Ok(())
}

/// The objects of a commit, and of those before it that no remote has, which are not there or not whole.
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
        // A commit or a tree is damaged so that not even a list can be had.
        return Ok(vec![commit.to_owned()]);
    }
    let ids: Vec<&str> = listed.stdout.lines().collect();
    missing(dir, &ids, deadline)
}

/// Which of these objects are not there, or cannot be read. What git prints counts, not how it ends.
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
    // One that it stumbled over, and all after that.
    let rest = ids.iter().skip(answered).map(|id| (*id).to_owned());
    Ok(bad.chain(rest).collect())
}

fn plural(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// The first few, and how many more.
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
