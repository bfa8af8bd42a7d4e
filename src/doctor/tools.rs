//! Checks of the programs that spotkeep calls: git, tmux, restic.

use std::io;
use std::process::Command;

use super::facts::Facts;
use super::{Check, LIMIT};
use sys::command;
use sys::error::{Error, Result};

/// The oldest git that obeys `GIT_CONFIG_COUNT`, by which spotkeep forbids git to execute anything
/// that a repository configures.
const GIT: [u64; 2] = [2, 36];

/// The oldest tmux that reports by which signal a pane's program ended.
const TMUX: [u64; 2] = [3, 2];

/// The oldest restic that copies into a repository with the same chunker parameters.
const RESTIC: [u64; 2] = [0, 14];

pub(super) fn checks(facts: &Facts) -> Vec<Check> {
    let mut checks = vec![
        evaluate("git", &version_line("git", "--version"), GIT, "checkpoints"),
        evaluate("tmux", &version_line("tmux", "-V"), TMUX, "agents"),
    ];
    // Without backups restic is not needed.
    if facts.config.backup.every().is_some() {
        checks.push(evaluate(
            "restic",
            &version_line("restic", "version"),
            RESTIC,
            "backups",
        ));
    }
    checks
}

fn version_line(program: &str, argument: &str) -> Result<String> {
    let output = command::run(Command::new(program).arg(argument), LIMIT)?;
    Ok(output.stdout)
}

fn evaluate(name: &'static str, output: &Result<String>, least: [u64; 2], user: &str) -> Check {
    let fix = format!("sudo apt-get install {name}");
    let [major, minor] = least;
    let output = match output {
        Ok(output) => output,
        Err(error) if is_missing(error) => {
            return Check::wrong(name, format!("not installed; {user} need it"), fix);
        }
        Err(error) => return Check::warn(name, format!("{error:#}"), format!("{name} --version")),
    };
    match version(output) {
        Some(version) if version >= least => Check::good(name, output.trim()),
        Some(_) => Check::wrong(
            name,
            format!("{}: {user} need {major}.{minor} or newer", output.trim()),
            fix,
        ),
        None => Check::warn(
            name,
            format!("no version in its output: {}", output.trim()),
            fix,
        ),
    }
}

/// Whether there is no such program; one that took too long exists.
fn is_missing(error: &Error) -> bool {
    let mut causes = error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>());
    causes.any(|cause| cause.kind() == io::ErrorKind::NotFound)
}

/// The first two numbers, as in `git version 2.47.3`, `tmux 3.3a`, `tmux next-3.5`.
fn version(output: &str) -> Option<[u64; 2]> {
    let start = output.find(|c: char| c.is_ascii_digit())?;
    let mut numbers = output[start..].split(|c: char| !c.is_ascii_digit());
    Some([
        numbers.next()?.parse().ok()?,
        numbers
            .next()
            .and_then(|minor| minor.parse().ok())
            .unwrap_or(0),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tool_is_evaluated_by_its_first_two_numbers() {
        let table = [
            ("git version 2.47.3", true, false),
            ("git version 2.36.0.windows.1", true, false),
            ("git version 2.30.2", false, false),
            ("git version 3", true, false),
            ("git of tomorrow", true, true),
        ];
        for (said, ok, warning) in table {
            let check = evaluate("git", &Ok(said.into()), GIT, "checkpoints");
            assert_eq!((check.ok, check.warning), (ok, warning), "{said}");
        }
        let missing = version_line("spotkeep-no-such-program", "--version");
        assert!(!evaluate("tmux", &missing, TMUX, "agents").ok);
        let slow = Err(Error::msg("tmux did not end within 10 s"));
        let slow = evaluate("tmux", &slow, TMUX, "agents");
        assert!(slow.ok && slow.warning, "{slow:?}");
        assert_eq!(version("tmux 3.3a"), Some([3, 3]));
        assert_eq!(version("tmux next-3.5"), Some([3, 5]));
    }
}
