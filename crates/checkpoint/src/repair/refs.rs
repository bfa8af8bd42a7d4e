//! Removes stale locks, and repairs refs whose files are empty.

use std::fs;
use std::path::{Path, PathBuf};

use super::super::CheckpointTarget;
use super::super::git::call::try_feed;
use super::{Findings, is_hollow};
use crate::workspace::{git_dir, holds_git_dir, is_open_anywhere};
use sys::deadline::Deadline;
use sys::error::{Context as _, Result};
use sys::files;

/// Removes locks that no process has open, in a repository in which no git process works.
pub(super) fn remove_locks(
    place: &CheckpointTarget,
    own: &Path,
    common: &Path,
    found: &mut Findings,
) -> Result<()> {
    let mut locks: Vec<PathBuf> = [own, common]
        .iter()
        .flat_map(|dir| {
            ["index.lock", "HEAD.lock", "packed-refs.lock", "config.lock"]
                .map(|name| dir.join(name))
        })
        .collect();
    let ours = common.join("refs/spotkeep").join(&place.agent_id);
    collect_locks(&ours, &mut locks);
    collect_locks(&common.join("refs/heads"), &mut locks);
    locks.retain(|lock| lock.is_file());
    locks.sort();
    locks.dedup();
    if locks.is_empty() {
        return Ok(());
    }
    if holds_git_dir(&[&place.workspace, own, common]) {
        found.damaged.push(
            "locks of git were left as they are, since a git process works in its repository"
                .into(),
        );
        return Ok(());
    }
    for lock in locks {
        if is_open_anywhere(&lock) {
            continue;
        }
        fs::remove_file(&lock).with_context(|| format!("cannot remove {}", lock.display()))?;
        let name = lock
            .strip_prefix(common)
            .unwrap_or(&lock)
            .display()
            .to_string();
        found.repaired.push(format!(
            "the lock {name} of a git process that is gone was removed"
        ));
    }
    Ok(())
}

fn collect_locks(dir: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => collect_locks(&path, into),
            Ok(_) if path.extension().is_some_and(|kind| kind == "lock") => into.push(path),
            _ => {}
        }
    }
}

/// Sets branches whose files are empty to the last commit in their reflogs; removes checkpoints
/// whose refs are empty, which are lost.
pub(super) fn repair_refs(
    place: &CheckpointTarget,
    own: &Path,
    common: &Path,
    found: &mut Findings,
    deadline: Deadline,
) -> Result<()> {
    let mut hollow = Vec::new();
    collect_hollow(&common.join("refs"), &mut hollow);
    for path in hollow {
        let name = path
            .strip_prefix(common)
            .unwrap_or(&path)
            .to_string_lossy()
            .into_owned();
        if name.starts_with("refs/spotkeep/") {
            fs::remove_file(&path)?;
            found
                .repaired
                .push(format!("the ref {name} was empty and was removed"));
            continue;
        }
        let log = common.join("logs").join(&name);
        let is_checked_out = fs::read_to_string(own.join("HEAD"))
            .is_ok_and(|head| head.trim() == format!("ref: {name}"));
        let logs = [Some(log), is_checked_out.then(|| own.join("logs/HEAD"))];
        let was = logs.into_iter().flatten().find_map(|log| {
            let id = last_of(&log)?;
            let kind = try_feed(
                &place.workspace_of(common),
                &["cat-file", "-t", &id],
                b"",
                deadline,
            );
            kind.is_ok_and(|kind| kind.stdout.trim() == "commit")
                .then_some(id)
        });
        match was {
            Some(id) => {
                // Atomic, in git's own format.
                files::write_atomic(&path, format!("{id}\n").as_bytes())?;
                found.repaired.push(format!(
                    "the branch file {name} was empty and is {} again, as its reflog says",
                    id.get(..10).unwrap_or(&id)
                ));
            }
            None => found.damaged.push(format!(
                "the file of {name} is empty, and no reflog says what it was"
            )),
        }
    }
    let head = own.join("HEAD");
    if is_hollow(&head) {
        let branch = last_checkout(&own.join("logs/HEAD"))
            .filter(|branch| common.join("refs/heads").join(branch).exists());
        match branch {
            Some(branch) => {
                files::write_atomic(&head, format!("ref: refs/heads/{branch}\n").as_bytes())?;
                found.repaired.push(format!(
                    "HEAD was empty and is on {branch} again, as its reflog says"
                ));
            }
            None => found
                .damaged
                .push("HEAD is empty, and no reflog says what it was".into()),
        }
    }
    Ok(())
}

fn collect_hollow(dir: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => collect_hollow(&path, into),
            Ok(kind) if kind.is_file() && is_hollow(&path) => into.push(path),
            _ => {}
        }
    }
}

/// Returns the commit of the last whole line of a reflog.
fn last_of(log: &Path) -> Option<String> {
    let text = String::from_utf8_lossy(&fs::read(log).ok()?).into_owned();
    let is_id =
        |id: &&str| matches!(id.len(), 40 | 64) && id.bytes().all(|b| b.is_ascii_hexdigit());
    text.lines().rev().find_map(|line| {
        let id = line.split(' ').nth(1).filter(is_id)?;
        id.bytes().any(|byte| byte != b'0').then(|| id.to_owned())
    })
}

/// Returns the branch that HEAD was moved to last.
fn last_checkout(log: &Path) -> Option<String> {
    let text = String::from_utf8_lossy(&fs::read(log).ok()?).into_owned();
    text.lines().rev().find_map(|line| {
        let (_, moved) = line.split_once("\tcheckout: moving from ")?;
        Some(moved.rsplit_once(" to ")?.1.to_owned())
    })
}

impl CheckpointTarget {
    /// Returns the directory in which git can be run: the workspace, or the repository where that
    /// is gone.
    fn workspace_of(&self, common: &Path) -> PathBuf {
        match git_dir(&self.workspace) {
            Some(_) => self.workspace.clone(),
            None => common.to_path_buf(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reflog_names_the_last_branch_and_head_although_its_last_line_is_damaged() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let (one, two) = ("1".repeat(40), "2".repeat(40));
        let who = "A <a@b> 1700000000 +0000";
        let lines = format!(
            "{zero} {one} {who}\tcommit (initial): x\n\
             {one} {two} {who}\tcheckout: moving from main to fix/a to b\n\
             {two} 33",
            zero = "0".repeat(40)
        );
        fs::write(&log, lines).unwrap();
        assert_eq!(last_of(&log), Some(two));
        assert_eq!(last_checkout(&log).as_deref(), Some("b"));
        assert_eq!(last_of(&dir.path().join("none")), None);
    }

    #[test]
    fn only_files_without_content_are_hollow() {
        let dir = tempfile::tempdir().unwrap();
        for (bytes, hollow) in [(&b""[..], true), (&[0; 99], true), (&[0x78, 0, 0], false)] {
            let path = dir.path().join("object");
            fs::write(&path, bytes).unwrap();
            assert_eq!(is_hollow(&path), hollow, "{bytes:?}");
        }
        assert!(!is_hollow(&dir.path().join("none")));
    }
}
