//! Sizes of checkpoints, and the differences between them.
//!
//! No program that the repository names is run: no external diff, no textconv, no pager.

use std::path::Path;

use serde::Serialize;

use super::Checkpoint;
use super::git::call::{ask, feed};
use sys::deadline::Deadline;
use sys::error::Result;

/// Amount of uncommitted work in a checkpoint.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Size {
    /// Number of files that differ from the commit below them.
    pub files: u64,
    /// Number of added lines.
    pub added: u64,
    /// Number of removed lines.
    pub removed: u64,
}

/// One of the two states that a checkpoint holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layer {
    /// The files.
    Worktree,
    /// What is staged.
    Index,
}

impl Layer {
    /// Returns the name of its tree in a checkpoint, as git reads it.
    fn ref_name(self, checkpoint: &str) -> String {
        let name = match self {
            Self::Worktree => "worktree",
            Self::Index => "index",
        };
        format!("{checkpoint}:{name}")
    }
}

/// Returns the size of each of the checkpoints; one git process serves all.
///
/// # Errors
/// git cannot read the repository.
pub fn sizes(dir: &Path, checkpoints: &[Checkpoint], deadline: Deadline) -> Result<Vec<Size>> {
    if checkpoints.is_empty() {
        return Ok(Vec::new());
    }
    // The trees: of the commit below (the empty tree where there was no commit yet), and of the
    // files.
    let mut names = String::new();
    for checkpoint in checkpoints {
        let commit = &checkpoint.commit;
        names.push_str(&format!("{commit}^1^{{tree}}\n{commit}:worktree\n"));
    }
    let arguments = ["cat-file", "--batch-check=%(objectname)"];
    let answers = feed(dir, &arguments, names.as_bytes(), deadline)?;
    let answers: Vec<&str> = answers.lines().collect();
    let empty = feed(
        dir,
        &["hash-object", "-t", "tree", "--stdin"],
        b"",
        deadline,
    )?;
    let is_id = |text: &&str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let mut pairs = String::new();
    let mut rows = Vec::new();
    for pair in answers.chunks(2) {
        let below = pair.first().copied().filter(is_id).unwrap_or(empty.trim());
        let files = pair.get(1).copied().filter(is_id);
        rows.push(files.is_some_and(|files| files != below));
        if let Some(files) = files.filter(|files| *files != below) {
            pairs.push_str(&format!("{below} {files}\n"));
        }
    }
    let arguments = [
        "diff-tree",
        "--stdin",
        "-r",
        "--numstat",
        "--no-ext-diff",
        "--no-textconv",
        "--no-renames",
    ];
    let said = feed(dir, &arguments, pairs.as_bytes(), deadline)?;
    let mut found: Vec<Size> = Vec::new();
    for line in said.lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        match (fields[..].len(), found.last_mut()) {
            // A binary file has no lines: git writes a dash.
            (3.., Some(size)) => {
                size.files += 1;
                size.added += fields[0].parse().unwrap_or(0);
                size.removed += fields[1].parse().unwrap_or(0);
            }
            (1, _) if !line.is_empty() => found.push(Size::default()),
            _ => {}
        }
    }
    let mut found = found.into_iter();
    let next = |differs: bool| if differs { found.next() } else { None };
    let mut next = next;
    Ok(rows
        .into_iter()
        .map(|differs| next(differs).unwrap_or_default())
        .collect())
}

/// A file that differs between two checkpoints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// Its path in the workspace.
    pub path: String,
    /// Number of added lines; null where it is not a text.
    pub lines_added: Option<u64>,
    /// Number of removed lines; null where it is not a text.
    pub lines_removed: Option<u64>,
}

/// Returns the files that differ between two checkpoints.
///
/// # Errors
/// git cannot read the repository.
pub fn changes(
    dir: &Path,
    from: &str,
    to: &str,
    layer: Layer,
    deadline: Deadline,
) -> Result<Vec<Change>> {
    let (from, to) = (layer.ref_name(from), layer.ref_name(to));
    let arguments = [
        "diff-tree",
        "-r",
        "-z",
        "--numstat",
        "--no-ext-diff",
        "--no-textconv",
        "--no-renames",
        &from,
        &to,
    ];
    let said = ask(dir, &arguments, deadline)?;
    let change = |line: &str| {
        let mut fields = line.splitn(3, '\t');
        // A dash where it is not a text.
        let (added, removed) = (fields.next()?.parse().ok(), fields.next()?.parse().ok());
        Some(Change {
            path: fields.next()?.to_owned(),
            lines_added: added,
            lines_removed: removed,
        })
    };
    Ok(said.split('\0').filter_map(change).collect())
}

/// Returns the differences between two checkpoints, as a patch or as names and numbers; empty where
/// there are none.
///
/// # Errors
/// git cannot read the repository.
pub fn difference(
    dir: &Path,
    from: &str,
    to: &str,
    layer: Layer,
    stat: bool,
    colour: bool,
    deadline: Deadline,
) -> Result<String> {
    let (from, to) = (layer.ref_name(from), layer.ref_name(to));
    let arguments = [
        "diff-tree",
        "-r",
        "-M",
        "--no-ext-diff",
        "--no-textconv",
        if stat { "--stat" } else { "--patch-with-stat" },
        if colour {
            "--color=always"
        } else {
            "--color=never"
        },
        &from,
        &to,
    ];
    ask(dir, &arguments, deadline)
}
