//! What giving a checkpoint back would write over, although no checkpoint holds it: ignored files, files that were
//! too large to keep.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use crate::error::{Result, bail};
use crate::git::Git;

/// So many are named.
const NAMED: usize = 5;

/// Refuses where going from the tree `from`, which is what is on the disk, to the tree `to` would cost anything
/// that is in neither.
///
/// # Errors
/// It would; or git cannot compare the trees.
pub(super) fn refuse(git: &Git, work_tree: &Path, from: &str, to: &str) -> Result<()> {
    let arguments = ["diff-tree", "-r", "-z", "--raw", "--no-renames", from, to];
    let answer = git.run(&arguments, Vec::new())?;
    let mut removed = BTreeSet::new();
    let mut written = Vec::new();
    let mut fields = answer.split(|byte| *byte == 0);
    while let (Some(head), Some(path)) = (fields.next(), fields.next()) {
        // `:100644 000000 <old> <new> D`
        let head = String::from_utf8_lossy(head).into_owned();
        let modes: Vec<&str> = head.trim_start_matches(':').split(' ').take(2).collect();
        match modes[..] {
            [_, "000000"] => _ = removed.insert(path.to_vec()),
            ["000000", "160000"] => {}
            // Nothing is known of it, so nothing may be there.
            ["000000", _] => written.push(path.to_vec()),
            // Another repository is to become a file.
            ["160000", new] if new != "160000" => written.push(path.to_vec()),
            _ => {}
        }
    }
    let mut lost = BTreeSet::new();
    for path in written {
        in_the_way(work_tree, &path, &removed, &mut lost);
    }
    if lost.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = lost.iter().take(NAMED).map(String::as_str).collect();
    bail!(
        "it would write over {} that no checkpoint holds ({}): move them away first",
        if lost.len() == 1 {
            "a file".to_owned()
        } else {
            format!("{} files", lost.len())
        },
        names.join(", ")
    )
}

/// What is on the disk where `path` has to be written, and is not going to be removed.
fn in_the_way(
    work_tree: &Path,
    path: &[u8],
    removed: &BTreeSet<Vec<u8>>,
    lost: &mut BTreeSet<String>,
) {
    // From above: `a`, `a/b`, `a/b/c`. A file where a directory has to be is in the way as well.
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
                lost.insert(String::from_utf8_lossy(part).into_owned());
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
    lost: &mut BTreeSet<String>,
) {
    let Ok(entries) = fs::read_dir(work_tree.join(OsStr::from_bytes(dir))) else {
        return;
    };
    for entry in entries.flatten() {
        let path = [dir, b"/", entry.file_name().as_bytes()].concat();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            everything_in(work_tree, &path, removed, lost);
        } else if !removed.contains(&path) {
            lost.insert(String::from_utf8_lossy(&path).into_owned());
        }
    }
}
