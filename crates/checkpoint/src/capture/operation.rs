//! Files and refs of a git operation under way: a merge, rebase, cherry-pick or bisection.
//!
//! The files of a sparse checkout are read here as well.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use crate::git::objects;
use sys::error::{Context as _, Result};
use sys::files::is_gone;

/// Files of an operation, in the git directory of a worktree.
pub(crate) const FILES: [&str; 12] = [
    "MERGE_HEAD",
    "MERGE_MSG",
    "MERGE_MODE",
    "MERGE_RR",
    "SQUASH_MSG",
    "BISECT_LOG",
    "BISECT_NAMES",
    "BISECT_START",
    "BISECT_TERMS",
    "BISECT_ANCESTORS_OK",
    "BISECT_FIRST_PARENT",
    "BISECT_RUN",
];

/// Directories of an operation, in the git directory of a worktree.
pub(crate) const DIRECTORIES: [&str; 3] = ["rebase-merge", "rebase-apply", "sequencer"];

/// Files that define a sparse checkout. They stay when an operation ends.
pub(crate) const SPARSE: [&str; 2] = ["info/sparse-checkout", "config.worktree"];

/// Refs of an operation that git resolves by name, wherever it stores them.
pub(crate) const REFS: [&str; 8] = [
    "ORIG_HEAD",
    "CHERRY_PICK_HEAD",
    "REVERT_HEAD",
    "REBASE_HEAD",
    "AUTO_MERGE",
    "BISECT_HEAD",
    "BISECT_EXPECTED_REV",
    "MERGE_AUTOSTASH",
];

/// Directories of refs that belong to one worktree alone.
pub(crate) const REF_DIRECTORIES: [&str; 3] = ["refs/bisect", "refs/rewritten", "refs/worktree"];

/// Largest size in bytes of a file that is read; git's own files of an operation are small.
const FILE_MAX: u64 = 64 << 20;

/// Returns all files of operations, by their path in the git directory.
pub(crate) fn read(git_dir: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut files = BTreeMap::new();
    for name in FILES.iter().chain(&SPARSE) {
        read_into(&mut files, git_dir, name)?;
    }
    for name in DIRECTORIES {
        read_directory(&mut files, git_dir, name)?;
    }
    Ok(files)
}

fn read_directory(files: &mut BTreeMap<String, Vec<u8>>, git_dir: &Path, name: &str) -> Result<()> {
    let entries = match fs::read_dir(git_dir.join(name)) {
        Ok(entries) => entries,
        // The operation ended during the read.
        Err(error) if is_gone(&error) => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("cannot read {name}")),
    };
    for entry in entries {
        let entry = entry?;
        let Some(child) = entry
            .file_name()
            .to_str()
            .map(|child| format!("{name}/{child}"))
        else {
            continue;
        };
        if entry.file_type()?.is_dir() {
            read_directory(files, git_dir, &child)?;
        } else {
            read_into(files, git_dir, &child)?;
        }
    }
    Ok(())
}

fn read_into(files: &mut BTreeMap<String, Vec<u8>>, git_dir: &Path, name: &str) -> Result<()> {
    let path = git_dir.join(name);
    let is_small =
        fs::symlink_metadata(&path).is_ok_and(|found| found.is_file() && found.len() <= FILE_MAX);
    if !is_small || name.ends_with(".lock") {
        return Ok(());
    }
    match fs::read(&path) {
        Ok(bytes) => _ = files.insert(name.to_owned(), bytes),
        Err(error) if is_gone(&error) => {}
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
    Ok(())
}

/// Returns the full names of the objects that the files mention: those being merged, picked or
/// rebased, and the autostash.
pub(crate) fn mentioned(files: &BTreeMap<String, Vec<u8>>) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let spoken = files
        .iter()
        .filter(|(name, _)| !SPARSE.contains(&name.as_str()));
    // Patches name blobs, and may be long.
    for (_, bytes) in spoken.filter(|(_, bytes)| bytes.len() < 1 << 20) {
        let text = String::from_utf8_lossy(bytes);
        let words = text.split(|c: char| !c.is_ascii_alphanumeric());
        names.extend(
            words
                .filter(|word| objects::is_oid(word))
                .map(str::to_owned),
        );
    }
    names
}

/// Whether a path that a checkpoint names is one of an operation's files. Checked, since a
/// checkpoint is in the agent's repository and may be forged.
pub(crate) fn is_known(name: &str) -> bool {
    let is_plain = name.split('/').all(|part| !matches!(part, "" | "." | ".."));
    let first = name.split('/').next().unwrap_or(name);
    FILES.contains(&name)
        || SPARSE.contains(&name)
        || (is_plain && first != name && DIRECTORIES.contains(&first))
}
