//! What a repository remembers of an operation under way (a merge, a rebase, a cherry-pick, a bisection), and of
//! which files it shows.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use crate::git::objects;
use sys::error::{Context as _, Result};
use sys::files::is_gone;

/// Files in the git directory of a worktree.
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

/// Directories in it.
pub(crate) const DIRECTORIES: [&str; 3] = ["rebase-merge", "rebase-apply", "sequencer"];

/// Which files a sparse checkout shows. It stays when an operation ends.
pub(crate) const SPARSE: [&str; 2] = ["info/sparse-checkout", "config.worktree"];

/// Names that git resolves in its own way, wherever it keeps them.
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

/// Refs of one worktree alone.
pub(crate) const REF_DIRECTORIES: [&str; 3] = ["refs/bisect", "refs/rewritten", "refs/worktree"];

/// Above so many bytes a file is none of git's own small ones.
const FILE_MAX: u64 = 64 << 20;

/// All files there are, by their path in the git directory.
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
        // It ends while we look.
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

/// Full names of objects that the files speak of: what is being merged, picked, rebased, or was put aside.
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

/// Whether a path that a checkpoint names is one of the files that belong to an operation: a checkpoint is in the
/// agent's repository, and may be forged.
pub(crate) fn is_known(name: &str) -> bool {
    let is_plain = name.split('/').all(|part| !matches!(part, "" | "." | ".."));
    let first = name.split('/').next().unwrap_or(name);
    FILES.contains(&name)
        || SPARSE.contains(&name)
        || (is_plain && first != name && DIRECTORIES.contains(&first))
}
