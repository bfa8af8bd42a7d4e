//! Restores HEAD, its branch, and the refs and files of an operation under way.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::time::Instant;

use crate::capture::index::remove;
use crate::capture::operation;
use crate::git::{Git, Repository};
use crate::message::{Head, Stashed, State};
use sys::error::{Context as _, Hint as _, Result, anyhow, ensure};
use sys::files::create_private_dir;

/// Returns the other worktree in which a branch is checked out. One whose directory is gone does
/// not count.
pub(crate) fn elsewhere(
    repository: &Repository,
    branch: &str,
    until: Instant,
) -> Result<Option<String>> {
    let answer =
        Git::refs(repository, until).run(&["worktree", "list", "--porcelain", "-z"], Vec::new())?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    // For a submodule, git names the git directory and not the workspace: the first of them is the
    // main one.
    let others = answer
        .split("\0\0")
        .enumerate()
        .filter(|(at, _)| *at > 0 || repository.is_linked());
    for (_, block) in others {
        let field = |name: &str| block.split('\0').find_map(|line| line.strip_prefix(name));
        let path = field("worktree ").unwrap_or_default();
        let is_other = fs::canonicalize(path).is_ok_and(|path| path != repository.work_tree);
        if field("branch ") == Some(branch) && is_other {
            return Ok(Some(path.to_owned()));
        }
    }
    Ok(None)
}

/// Fails if the branch is checked out in another worktree, which would be moved as well.
pub(crate) fn refuse_shared(repository: &Repository, head: &Head, until: Instant) -> Result<()> {
    let Some(branch) = &head.branch else {
        return Ok(());
    };
    match elsewhere(repository, branch, until)? {
        Some(path) => Err(anyhow!(
            "{branch} is checked out in {path} too, and would be moved there as well"
        ))
        .hint("without --with-head, HEAD and its branch stay where they are"),
        None => Ok(()),
    }
}

/// Moves HEAD and its branch to where they were, with a line in the reflogs, as git itself would
/// write. Returns messages on what could not be done.
pub(crate) fn set(git: &Git, head: &Head, why: &str) -> Result<Vec<String>> {
    let log = ["-c", "core.logAllRefUpdates=true"];
    let run = |arguments: &[&str]| git.run(&[&log, arguments].concat(), Vec::new());
    match (&head.branch, &head.commit) {
        (Some(branch), Some(commit)) => {
            run(&["update-ref", "-m", why, branch, commit])?;
            run(&["symbolic-ref", "-m", why, "HEAD", branch])?;
        }
        (None, Some(commit)) => _ = run(&["update-ref", "--no-deref", "-m", why, "HEAD", commit])?,
        (Some(branch), None) => {
            run(&["symbolic-ref", "-m", why, "HEAD", branch])?;
            let is_there = git
                .ask(&["rev-parse", "-q", "--verify", branch], Vec::new())?
                .status
                .success();
            if is_there {
                return Ok(vec![format!(
                    "{branch} had no commits then; it keeps those that it has now"
                )]);
            }
        }
        (None, None) => {}
    }
    Ok(Vec::new())
}

/// Restores the refs of this worktree alone, and no others.
pub(crate) fn set_refs(
    git: &Git,
    now: &BTreeMap<String, String>,
    then: &BTreeMap<String, String>,
) -> Result<()> {
    let mut lines = String::new();
    for name in now.keys().filter(|name| !then.contains_key(*name)) {
        lines += &format!("option no-deref\ndelete {name}\n");
    }
    for (name, oid) in then
        .iter()
        .filter(|(name, oid)| now.get(*name) != Some(oid))
    {
        lines += &format!("option no-deref\nupdate {name} {oid}\n");
    }
    if lines.is_empty() {
        return Ok(());
    }
    git.run(&["update-ref", "--stdin"], lines.into_bytes())
        .map(drop)
}

/// Restores the files of operations.
pub(crate) fn set_files(repository: &Repository, then: &BTreeMap<String, Vec<u8>>) -> Result<()> {
    for name in operation::FILES {
        if !then.contains_key(name) {
            remove(&repository.git_dir.join(name))?;
        }
    }
    for name in operation::DIRECTORIES {
        match fs::remove_dir_all(repository.git_dir.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {name}"));
            }
            _ => {}
        }
    }
    for (name, bytes) in then
        .iter()
        .filter(|(name, _)| !operation::SPARSE.contains(&name.as_str()))
    {
        write(repository, name, bytes)?;
    }
    Ok(())
}

/// Restores the files that define a sparse checkout.
pub(crate) fn set_sparse(repository: &Repository, then: &BTreeMap<String, Vec<u8>>) -> Result<()> {
    match then.get("info/sparse-checkout") {
        Some(bytes) => write(repository, "info/sparse-checkout", bytes),
        None => Ok(()),
    }
}

/// Writes a file of the git directory; its name is one of those in [`operation`].
pub(crate) fn write(repository: &Repository, name: &str, bytes: &[u8]) -> Result<()> {
    let path = repository.git_dir.join(name);
    let write = || -> Result<()> {
        let parent = path.parent().unwrap_or(&repository.git_dir);
        if fs::symlink_metadata(parent).is_err() {
            create_private_dir(parent)?;
        }
        // The agent may have left a link to another of the user's files.
        ensure!(
            fs::symlink_metadata(parent)?.is_dir(),
            "it is behind a link"
        );
        remove(&path)?;
        let mut file = fs::File::options()
            .write(true)
            .create_new(true)
            .open(&path)?;
        Ok(file.write_all(bytes)?)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

/// Adds entries of the stash that are gone; those that exist stay.
pub(crate) fn restash(git: &Git, now: &[Stashed], state: &State) -> Result<()> {
    let missing = state
        .stash
        .iter()
        .rev()
        .filter(|then| now.iter().all(|now| now.commit != then.commit));
    for stashed in missing {
        let arguments = [
            "update-ref",
            "--create-reflog",
            "-m",
            &stashed.message,
            "refs/stash",
            &stashed.commit,
        ];
        git.run(&arguments, Vec::new())?;
    }
    Ok(())
}
