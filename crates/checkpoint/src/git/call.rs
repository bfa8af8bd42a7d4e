//! Runs a git command until a deadline and returns its output as text, or git's own error.

use std::path::Path;
use std::process::ExitStatus;

use crate::git;
use sys::command::exchange;
use sys::deadline::Deadline;
use sys::error::{Result, bail, ensure};

/// Runs git in `dir` until the deadline; returns what it printed.
///
/// # Errors
/// It failed, or did not end in time and was killed with all its children.
pub(crate) fn ask(dir: &Path, arguments: &[&str], deadline: Deadline) -> Result<String> {
    feed(dir, arguments, b"", deadline)
}

/// Like [`ask`], with a standard input.
///
/// # Errors
/// As [`ask`].
pub(crate) fn feed(
    dir: &Path,
    arguments: &[&str],
    input: &[u8],
    deadline: Deadline,
) -> Result<String> {
    let output = try_feed(dir, arguments, input, deadline)?;
    if !output.status.success() {
        let verb = arguments.first().copied().unwrap_or_default();
        let why = match output.stderr.lines().next_back() {
            Some(line) => line.trim_start_matches("fatal: ").to_owned(),
            None => output.status.to_string(),
        };
        bail!("git {verb}: {why}");
    }
    Ok(output.stdout)
}

/// Like [`feed`], but a failure of git is not an error.
///
/// # Errors
/// It could not be run, or did not end in time.
pub(crate) fn try_feed(
    dir: &Path,
    arguments: &[&str],
    input: &[u8],
    deadline: Deadline,
) -> Result<Answer> {
    let mut command = git::command(dir);
    command
        .args(arguments)
        // The agent may write to the user's configuration too.
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        // This repository, and none above it.
        .env("GIT_CEILING_DIRECTORIES", dir.parent().unwrap_or(dir));
    ensure!(!deadline.has_passed(), "no time is left for git");
    let said = exchange(&mut command, input.to_vec(), deadline.instant())?;
    Ok(Answer {
        status: said.status,
        stdout: String::from_utf8_lossy(&said.stdout).into_owned(),
        stderr: said.stderr,
    })
}

/// What git printed, and how it ended.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}
