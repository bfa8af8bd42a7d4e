//! Whether the backups can be trusted, and which file of the repository cannot.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::restic::{LONG, SHORT, Trouble};
use super::{Repository, Stop};
use sys::command::Runner;
use sys::error::{Context as _, Result};

/// Files given to one `sha256sum`.
const BATCH: usize = 500;

/// Lines of restic's that are kept where no file can be named.
const LINES_KEPT: usize = 5;

/// How much of the data is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth<'a> {
    /// None: what belongs together is there.
    Structure,
    /// A part, as restic counts them: `3/30`.
    Part(&'a str),
    /// All of it.
    All,
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckFindings {
    /// What is damaged: files by their path in the repository, where they can be named.
    pub damage: Vec<String>,
    /// Somebody else is at work on it, so nothing can be said.
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
    // Elsewhere restic's own rule says which locks are stale.
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
    // A key and a config are read before a check begins, and a key that is spoiled looks like a wrong
    // password. So the small files are always compared with their names, and where something is wrong all are.
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

/// Where no file gives itself away by its name: the config has none that tells, or a file is missing.
fn unnamed(repository: &Repository, said: &[String], stderr: &str) -> Vec<String> {
    let lines = said.iter().map(String::as_str).chain(stderr.lines());
    let mut told: Vec<String> = lines
        .filter(|line| is_complaint(line))
        .map(|line| line.trim().to_owned())
        .collect();
    told.truncate(LINES_KEPT);
    // Every key and every other file is what it should be.
    if repository.directory().is_some() && stderr.contains("config or key") {
        told.insert(0, "config".into());
    }
    if told.is_empty() {
        told.push("restic found errors and named none".into());
    }
    told
}

/// Files whose content is not what their name says: everything in a repository but `config` is named after its
/// SHA-256.
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
        // One that cannot be read is damage too.
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
