//! `spotkeep doctor`: read-only diagnostic checks, each with a suggested fix.
//!
//! Each file is a group of checks: it gathers facts, and pure functions evaluate them. A check that
//! does not apply to the machine is left out: on a laptop nothing is checked of the shutdown of a
//! VM.
//!
//! | file | checks |
//! |---|---|
//! | `data_dir` | the data directory, its mount, its filesystem, its space |
//! | `permissions` | owners, modes, secrets, links |
//! | `state` | declarations, workspaces, records, saves, journal, clock |
//! | `daemon` | the keeper, agents, sessions, the tmux server |
//! | `claude` | the program, its login, what would block an agent or delete transcripts |
//! | `tools` | git, tmux, restic |
//! | `backups` | the last backup, its copy, its check |
//! | `service` | units, and how systemd shuts down |
//! | `machine` | memory, unwritten pages, `/tmp` |
//! | `cloud` | the metadata server and the notice |

mod backups;
mod claude;
mod cloud;
mod daemon;
mod data_dir;
mod facts;
mod machine;
mod permissions;
mod service;
mod state;
mod tools;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use serde::Serialize;

use ::state::VERSION;
use facts::Facts;
pub use facts::Options;
use sys::error::{Error, hint_of};
use sys::{process, thread};

/// Time limit of one question to a program, the keeper or the metadata server. Groups run in
/// parallel. Generous: an overloaded machine is slow, not broken.
const LIMIT: Duration = Duration::from_secs(10);

/// Time limit of a group of checks, which asks several questions one after the other.
const GROUP_LIMIT: Duration = Duration::from_secs(15);

/// A thread that was found in uninterruptible sleep at each poll for this long waits for a disk
/// that hangs.
const HANGS_AFTER: Duration = Duration::from_millis(2_500);

/// How often the state of a group's thread is read.
const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// The result of one check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// The name of the check.
    pub check: &'static str,
    /// Whether the check passed; a warning passes.
    pub ok: bool,
    /// Passed, with something that the user should know.
    pub warning: bool,
    /// What was found.
    pub detail: String,
    /// A command that repairs it, or a sentence; null where there is nothing to repair.
    pub fix: Option<String>,
}

impl Check {
    fn good(check: &'static str, detail: impl Into<String>) -> Self {
        Self {
            check,
            ok: true,
            warning: false,
            detail: detail.into(),
            fix: None,
        }
    }

    fn warn(check: &'static str, detail: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            warning: true,
            fix: Some(fix.into()),
            ..Self::good(check, detail)
        }
    }

    fn wrong(check: &'static str, detail: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            ok: false,
            fix: Some(fix.into()),
            ..Self::good(check, detail)
        }
    }

    /// A failed check from an error, whose hint becomes the fix.
    fn failed(check: &'static str, error: &Error, otherwise: &str) -> Self {
        let fix = hint_of(error).unwrap_or(otherwise).to_owned();
        Self::wrong(check, format!("{error:#}"), fix)
    }
}

/// The results of all checks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Version of this form.
    pub version: u32,
    /// In the order of the groups.
    pub checks: Vec<Check>,
}

impl Report {
    /// Whether every check passed; a warning passes.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.checks.iter().all(|check| check.ok)
    }
}

/// Runs all checks. Writes nothing, and takes about two seconds at most where nothing is slow,
/// except for the probe. A disk that hangs is reported like everything else: the thread that waits
/// for it is abandoned.
#[must_use]
pub fn examine(at: &Path, options: &Options) -> Report {
    type Group = (&'static str, fn(&Facts) -> Vec<Check>);
    let groups: [Group; 10] = [
        ("data directory", data_dir::checks),
        ("permissions", permissions::checks),
        ("state", state::checks),
        ("keeper", daemon::checks),
        ("claude", claude::checks),
        ("tools", tools::checks),
        ("backups", backups::checks),
        ("service", service::checks),
        ("machine", machine::checks),
        ("cloud", cloud::checks),
    ];
    let (path, what) = (at.to_path_buf(), options.clone());
    let Some(facts) = in_time(GROUP_LIMIT, move || Facts::gather(&path, &what)) else {
        let detail = format!(
            "{} does not answer in time: its disk hangs, or the machine is overloaded",
            at.display()
        );
        let checks = vec![Check::wrong("data-dir", detail, "sudo dmesg | tail -n 30")];
        return Report {
            version: VERSION,
            checks,
        };
    };
    let facts = Arc::new(facts);
    let asked = groups.map(|(name, group)| {
        let facts = Arc::clone(&facts);
        (name, in_background(move || group(&facts)))
    });
    let until = Instant::now() + GROUP_LIMIT;
    let mut checks: Vec<Check> = Vec::new();
    for (name, group) in asked {
        let found = group.and_then(|group| group.answer(until));
        checks.extend(found.unwrap_or_else(|| {
            let detail = format!(
                "the checks of \"{name}\" did not end in time: a disk or a program does not answer"
            );
            vec![Check::wrong("doctor", detail, "sudo dmesg | tail -n 30")]
        }));
    }
    if options.probe {
        claude::probe(&facts, &mut checks);
    }
    Report {
        version: VERSION,
        checks,
    }
}

/// Work in its own thread, which is abandoned if it hangs; it ends with the process.
struct Background<T> {
    answer: Receiver<T>,
    /// Its thread id; 0 before it has begun.
    thread: Arc<AtomicI32>,
}

fn in_background<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<Background<T>> {
    let (answered, answer) = mpsc::channel();
    let thread = Arc::new(AtomicI32::new(0));
    let itself = Arc::clone(&thread);
    let ask = move || {
        itself.store(process::this_thread(), Ordering::SeqCst);
        answered.send(work()).ok();
    };
    thread::spawn("ask", ask).ok()?;
    Some(Background { answer, thread })
}

impl<T> Background<T> {
    /// Returns the result; `None` if there is none by `until`, or the thread stays in
    /// uninterruptible sleep. A thread that only waits for a processor has until `until`.
    fn answer(&self, until: Instant) -> Option<T> {
        let mut in_kernel_since = None;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.answer.recv_timeout(left.min(POLL_INTERVAL)) {
                Ok(answer) => return Some(answer),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => {}
            }
            let now = Instant::now();
            if process::thread_is_in_kernel(self.thread.load(Ordering::SeqCst)) {
                let since = *in_kernel_since.get_or_insert(now);
                if now.saturating_duration_since(since) >= HANGS_AFTER {
                    return None;
                }
            } else {
                in_kernel_since = None;
            }
            if now >= until {
                return None;
            }
        }
    }
}

/// Returns the result of `ask`; `None` if it does not end within the limit.
fn in_time<T: Send + 'static>(
    limit: Duration,
    ask: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    in_background(ask)?.answer(Instant::now() + limit)
}

/// A number with its noun: `1 agent`, `2 agents`.
fn count(number: usize, what: &str) -> String {
    match number {
        1 => format!("1 {what}"),
        number => format!("{number} {what}s"),
    }
}

/// Bytes as people read them: `512 MiB`, `3.4 GiB`.
fn size(bytes: u64) -> String {
    let mib = bytes >> 20;
    match mib {
        0 => format!("{} KiB", bytes >> 10),
        1..=1_023 => format!("{mib} MiB"),
        _ => format!("{}.{} GiB", mib >> 10, ((mib & 1_023) * 10) >> 10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_with_a_warning_passes_and_one_with_a_failed_check_does_not() {
        let report = |checks| Report { version: 1, checks };
        let (good, warn) = (Check::good("a", "x"), Check::warn("b", "x", "y"));
        assert!(report(vec![good.clone(), warn]).passed());
        assert!(!report(vec![good, Check::wrong("c", "x", "y")]).passed());
    }

    #[test]
    fn work_that_ends_has_a_result_and_work_that_hangs_is_abandoned() {
        assert_eq!(in_time(Duration::from_secs(3_600), || 7), Some(7));
        let (_keep, never) = mpsc::channel::<()>();
        assert_eq!(
            in_time(Duration::from_millis(20), move || never.recv()),
            None
        );
    }

    #[test]
    fn sizes_are_short() {
        assert_eq!(size(5 << 10), "5 KiB");
        assert_eq!(size(512 << 20), "512 MiB");
        assert_eq!(size((3 << 30) + (512 << 20)), "3.5 GiB");
    }
}
