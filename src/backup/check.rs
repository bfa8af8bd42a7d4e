//! Integrity check of a restic repository, with the names of damaged files.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::restic::{LONG, SHORT, Trouble};
use super::{Repository, Stop};
use sys::command::Runner;
use sys::error::{Context as _, Result};

/// Number of files for one `sha256sum`.
const BATCH: usize = 500;

/// Number of restic's lines that are reported if no file can be named.
const LINES_KEPT: usize = 5;

/// How much of the data a check reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth<'a> {
    /// None: only whether the structure is complete.
    Structure,
    /// A part, in restic's notation: `3/30`.
    Part(&'a str),
    /// All of it.
    All,
}

/// The result of a check.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckFindings {
    /// The damage: paths of files in the repository, where they can be named.
    pub damage: Vec<String>,
    /// Another process has locked the repository, so it was not checked.
    pub locked: bool,
}

/// Checks a repository.
///
/// # Errors
/// restic cannot be used, hangs, or there is a reason to stop.
pub fn run(repository: &Repository, depth: Depth<'_>, stop: &Stop) -> Result<CheckFindings> {
    let found = once(repository, depth, stop)?;
    if !found.locked || repository.directory().is_some() {
        return Ok(found);
    }
    // In a repository elsewhere, restic's own rule decides which locks are stale.
    repository.ask(&mut repository.command(["unlock"]), SHORT, stop)?;
    once(repository, depth, stop)
}

fn once(repository: &Repository, depth: Depth<'_>, stop: &Stop) -> Result<CheckFindings> {
    let mut said: Vec<String> = Vec::new();
    let mut command = repository.command(["check"]);
    match depth {
        Depth::Structure => {}
        Depth::Part(part) => {
            command.arg(format!("--read-data-subset={part}"));
        }
        Depth::All => {
            command.arg("--read-data");
        }
    }
    let ended = repository.run(&mut command, LONG, stop, &mut |line| {
        if is_complaint(line) {
            said.push(line.to_owned());
        }
    })?;
    if Trouble::from_exchange(&ended) == Trouble::Locked {
        return Ok(CheckFindings {
            locked: true,
            ..CheckFindings::default()
        });
    }
    let good = ended.status.success();
    // restic reads the key and the config before a check begins, and a damaged key looks like a
    // wrong password. So the small files are always compared with their names; if the check fails,
    // all are.
    let mut damage = match repository.directory() {
        Some(dir) => misnamed(dir, !good, stop)?,
        None => Vec::new(),
    };
    if !good && damage.is_empty() {
        damage = unnamed(repository, &said, &ended.stderr);
    }
    Ok(CheckFindings {
        damage,
        locked: false,
    })
}

fn is_complaint(line: &str) -> bool {
    let line = line.trim();
    !line.starts_with('[')
        && [
            "error",
            "damaged",
            "does not match",
            "failed",
            "missing",
            "Fatal",
        ]
        .iter()
        .any(|word| line.contains(word))
        && line != "no errors were found"
}

/// Damage that no file name shows: in `config`, whose name is not a hash, or by a missing file.
fn unnamed(repository: &Repository, said: &[String], stderr: &str) -> Vec<String> {
    let lines = said.iter().map(String::as_str).chain(stderr.lines());
    let mut told: Vec<String> = lines
        .filter(|line| is_complaint(line))
        .map(|line| line.trim().to_owned())
        .collect();
    told.truncate(LINES_KEPT);
    // Every key and every other file is undamaged.
    if repository.directory().is_some() && stderr.contains("config or key") {
        told.insert(0, "config".into());
    }
    if told.is_empty() {
        told.push("restic found errors and named no file".into());
    }
    told
}

/// Returns the files whose content does not match their name: every file in a repository except
/// `config` is named by its SHA-256.
fn misnamed(dir: &Path, with_data: bool, stop: &Stop) -> Result<Vec<String>> {
    let mut files = Vec::new();
    let kinds = ["keys", "snapshots", "index", "data"];
    for kind in &kinds[..if with_data { 4 } else { 3 }] {
        collect(&dir.join(kind), &mut files)?;
    }
    let mut wrong = Vec::new();
    for batch in files.chunks(BATCH) {
        let mut command = Command::new("sha256sum");
        command.arg("--").args(batch);
        let mut take = |line: &str| {
            if let Some((hash, path)) = line.split_once("  ")
                && !path.ends_with(hash)
            {
                let path = Path::new(path);
                wrong.push(path.strip_prefix(dir).unwrap_or(path).display().to_string());
            }
        };
        let ended = Runner::watched(&mut command, LONG, &|| stop.reason()).each_line(&mut take)?;
        // A file that cannot be read is damaged too.
        for line in ended.stderr.lines() {
            wrong.push(line.trim_start_matches("sha256sum: ").to_owned());
        }
    }
    wrong.sort();
    Ok(wrong)
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let entries = fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.file_name().is_some_and(|name| name.len() == 64) {
            files.push(path);
        }
    }
    Ok(())
}
