//! Finds files that restoring a checkpoint would overwrite or remove, and must not.
//!
//! These are files that no checkpoint holds, since they are ignored or were too large, and files
//! that were ignored when the checkpoint was created.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use crate::git::Git;
use sys::error::{Context as _, Hint as _, Result, anyhow};
use sys::files::create_private_dir;

/// Number of files that a message names.
const NAMED: usize = 5;

/// Changes of files between two trees.
pub(crate) struct TreeChanges {
    removed: BTreeSet<Vec<u8>>,
    /// New files, by path: the present file at such a path, if any, is in neither tree.
    written: BTreeMap<Vec<u8>, String>,
}

impl TreeChanges {
    /// Compares the tree `from`, which is what is on the disk, with the tree `to`.
    pub fn between(git: &Git, from: &str, to: &str) -> Result<Self> {
        let arguments = ["diff-tree", "-r", "-z", "--raw", "--no-renames", from, to];
        let answer = git.run(&arguments, Vec::new())?;
        let mut removed = BTreeSet::new();
        let mut written = BTreeMap::new();
        let mut fields = answer.split(|byte| *byte == 0);
        while let (Some(head), Some(path)) = (fields.next(), fields.next()) {
            // `:100644 000000 <old> <new> D`
            let head = String::from_utf8_lossy(head).into_owned();
            let words: Vec<&str> = head.trim_start_matches(':').split(' ').take(4).collect();
            match words[..] {
                [_, "000000", ..] => _ = removed.insert(path.to_vec()),
                ["000000" | "160000", "160000", ..] => {}
                // A new file, or one in the place of another repository.
                ["000000" | "160000", _, _, oid] => {
                    written.insert(path.to_vec(), oid.to_owned());
                }
                _ => {}
            }
        }
        Ok(Self { removed, written })
    }

    /// Excludes from the removal files that were added to `from` only because ignore patterns have
    /// been removed since: by the patterns of the tree `to` they are ignored, and ignored files
    /// stay. Returns them. `untracked` are the files known only to spotkeep's index.
    pub fn spare_ignored(
        &mut self,
        git: &Git,
        dir: &Path,
        to: &str,
        untracked: &BTreeSet<Vec<u8>>,
    ) -> Result<Vec<Vec<u8>>> {
        let list = self.removed.intersection(untracked);
        let list: Vec<u8> = list.flat_map(|path| [path, &b"\0"[..]].concat()).collect();
        if list.is_empty() {
            return Ok(Vec::new());
        }
        // A directory that holds only the patterns.
        if dir.exists() {
            fs::remove_dir_all(dir).context("cannot clear spotkeep's directory")?;
        }
        create_private_dir(dir)?;
        let tree = git.run(&["ls-tree", "-r", "-z", to], Vec::new())?;
        for line in tree
            .split(|byte| *byte == 0)
            .filter(|line| line.ends_with(b".gitignore"))
        {
            let Some(tab) = line.iter().position(|byte| *byte == b'\t') else {
                continue;
            };
            let path = dir.join(OsStr::from_bytes(&line[tab + 1..]));
            let head = String::from_utf8_lossy(&line[..tab]).into_owned();
            let Some(blob) = head.split(' ').nth(2) else {
                continue;
            };
            create_private_dir(path.parent().unwrap_or(dir))?;
            fs::write(&path, git.run(&["cat-file", "blob", blob], Vec::new())?)?;
        }
        let there = git.with("GIT_WORK_TREE", dir).within(dir);
        let said = there.ask(&["check-ignore", "-z", "--stdin", "--no-index"], list)?;
        fs::remove_dir_all(dir).context("cannot clear spotkeep's directory")?;
        let spared = said
            .stdout
            .split(|byte| *byte == 0)
            .filter(|path| !path.is_empty());
        let spared: Vec<Vec<u8>> = spared.map(<[u8]>::to_vec).collect();
        for path in &spared {
            self.removed.remove(path);
        }
        Ok(spared)
    }

    /// Fails if a file would be overwritten that is in neither tree.
    ///
    /// # Errors
    /// There are such files.
    pub fn ensure_no_losses(&self, git: &Git, work_tree: &Path) -> Result<()> {
        let mut lost = BTreeSet::new();
        for path in self.written.keys() {
            in_the_way(work_tree, path, &self.removed, &mut lost);
        }
        self.allow_same_content(git, work_tree, &mut lost)?;
        if lost.is_empty() {
            return Ok(());
        }
        let lost: Vec<_> = lost
            .iter()
            .map(|path| String::from_utf8_lossy(path))
            .collect();
        let names: Vec<&str> = lost.iter().take(NAMED).map(AsRef::as_ref).collect();
        Err(anyhow!(
            "it would overwrite {} that no checkpoint holds: {}",
            files(lost.len()),
            names.join(", ")
        ))
        .hint("move them away, then try again")
    }
}

impl TreeChanges {
    /// Allows files that have the content that would be written.
    fn allow_same_content(
        &self,
        git: &Git,
        work_tree: &Path,
        lost: &mut BTreeSet<Vec<u8>>,
    ) -> Result<()> {
        let is_plain = |path: &&Vec<u8>| {
            let found = fs::symlink_metadata(work_tree.join(OsStr::from_bytes(path)));
            self.written.contains_key(*path)
                && !path.contains(&b'\n')
                && found.is_ok_and(|found| found.is_file())
        };
        let paths: Vec<Vec<u8>> = lost.iter().filter(is_plain).cloned().collect();
        if paths.is_empty() {
            return Ok(());
        }
        let list = paths
            .iter()
            .flat_map(|path| [path, &b"\n"[..]].concat())
            .collect();
        let oids = git.run(&["hash-object", "--no-filters", "--stdin-paths"], list)?;
        for (path, oid) in paths.iter().zip(String::from_utf8_lossy(&oids).lines()) {
            if self.written.get(path).is_some_and(|written| written == oid) {
                lost.remove(path);
            }
        }
        Ok(())
    }
}

fn files(count: usize) -> String {
    match count {
        1 => "a file".to_owned(),
        count => format!("{count} files"),
    }
}

/// Returns what is on the disk where `path` has to be written, and is not going to be removed.
fn in_the_way(
    work_tree: &Path,
    path: &[u8],
    removed: &BTreeSet<Vec<u8>>,
    lost: &mut BTreeSet<Vec<u8>>,
) {
    // From the top: `a`, `a/b`, `a/b/c`. A file where a directory has to be is in the way as well.
    let ends = path
        .iter()
        .enumerate()
        .filter(|(_, byte)| **byte == b'/')
        .map(|(at, _)| at);
    for end in ends.chain([path.len()]) {
        let part = &path[..end];
        let Ok(found) = fs::symlink_metadata(work_tree.join(OsStr::from_bytes(part))) else {
            return;
        };
        if !found.is_dir() {
            if !removed.contains(part) {
                lost.insert(part.to_vec());
            }
            return;
        }
    }
    everything_in(work_tree, path, removed, lost);
}

fn everything_in(
    work_tree: &Path,
    dir: &[u8],
    removed: &BTreeSet<Vec<u8>>,
    lost: &mut BTreeSet<Vec<u8>>,
) {
    let Ok(entries) = fs::read_dir(work_tree.join(OsStr::from_bytes(dir))) else {
        return;
    };
    for entry in entries.flatten() {
        let path = [dir, b"/", entry.file_name().as_bytes()].concat();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            everything_in(work_tree, &path, removed, lost);
        } else if !removed.contains(&path) {
            lost.insert(path);
        }
    }
}
