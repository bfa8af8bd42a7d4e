//! The doctor: looks everything over, changes nothing, and says for each thing what would repair it.
//!
//! Each file is a group of checks: facts are gathered at its edge, and a pure judgement makes checks of
//! them. A check that does not apply here is left out: nobody on a laptop hears of the shutdown of a VM.
//!
//! | file | what is looked at |
//! |---|---|
//! | `place` | the data directory, its mount, its filesystem, its space |
//! | `belongings` | owners, modes, secrets, links |
//! | `papers` | declarations, records, journal, clock |
//! | `keeping` | the keeper, sessions, the tmux server |
//! | `claude` | the program, its login, what would block or undo it |
//! | `tools` | git, tmux |
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

/// What nobody answers for so long is said not to answer. All slow things are asked at once. Generous:
/// a crowded machine is slow, not broken.
const LIMIT: Duration = Duration::from_secs(10);

/// A group asks for several things one after the other, and each has its own limit.
const GROUP_LIMIT: Duration = Duration::from_secs(15);

/// Who has waited for the kernel for so long, at each look, waits for a disk that hangs.
const HANGS_AFTER: Duration = Duration::from_millis(2_500);

/// How often is looked whether somebody waits for the kernel.
const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at, in a word.
    pub check: &'static str,
    /// Whether it is as it has to be.
    pub ok: bool,
    /// It will do, but somebody should know.
    pub warning: bool,
    /// What was seen.
    pub detail: String,
    /// A command that repairs it; null where there is nothing to repair.
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

    /// An error is wrong, and its hint the fix.
    fn failed(check: &'static str, error: &Error, otherwise: &str) -> Self {
        let fix = hint_of(error).unwrap_or(otherwise).to_owned();
        Self::wrong(check, format!("{error:#}"), fix)
    }
}

/// All that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Version of this form.
    pub version: u32,
    /// In the order of their rooms.
    pub checks: Vec<Check>,
}

impl Report {
    /// Whether nothing is wrong; warnings do not count.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.checks.iter().all(|check| check.ok)
    }
}

/// Looks everything over. Writes nothing, and takes some two seconds at most where nothing is slow, but for
/// the probe. A disk that hangs is told like everything else: who waits for it is left behind.
#[must_use]
pub fn examine(at: &Path, options: &Options) -> Report {
    type Group = (&'static str, fn(&Facts) -> Vec<Check>);
    let groups: [Group; 10] = [
        ("place", data_dir::checks),
        ("belongings", permissions::checks),
        ("papers", state::checks),
        ("keeping", daemon::checks),
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
        let checks = vec![Check::wrong("data-dir", detail, "dmesg | tail -n 30")];
        return Report {
            version: VERSION,
            checks,
        };
    };
    let facts = Arc::new(facts);
    let asked = groups.map(|(name, group)| {
        let facts = Arc::clone(&facts);
        (name, aside(move || group(&facts)))
    });
    let until = Instant::now() + GROUP_LIMIT;
    let mut checks: Vec<Check> = Vec::new();
    for (name, group) in asked {
        let found = group.and_then(|group| group.answer(until));
        checks.extend(found.unwrap_or_else(|| {
            let detail =
                format!("{name} could not be looked over in time: something does not answer");
            vec![Check::wrong("doctor", detail, "dmesg | tail -n 30")]
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

/// Something that is done in a thread, which is left behind with the process if it hangs.
struct Aside<T> {
    answer: Receiver<T>,
    /// 0: it has not begun.
    thread: Arc<AtomicI32>,
}

fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<Aside<T>> {
    let (answered, answer) = mpsc::channel();
    let thread = Arc::new(AtomicI32::new(0));
    let itself = Arc::clone(&thread);
    let ask = move || {
        itself.store(process::this_thread(), Ordering::SeqCst);
        answered.send(work()).ok();
    };
    thread::spawn("ask", ask).ok()?;
    Some(Aside { answer, thread })
}

impl<T> Aside<T> {
    /// What came of it; `None`: nothing until then, or the kernel does not come back to it. Whoever only
    /// waits for a turn on a processor is given all the time there is.
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

/// What somebody answers in time.
fn in_time<T: Send + 'static>(
    limit: Duration,
    ask: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    aside(ask)?.answer(Instant::now() + limit)
}

/// `1 agent`, `2 agents`.
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
    fn a_warning_passes_and_what_is_wrong_does_not() {
        let report = |checks| Report { version: 1, checks };
        let (good, warn) = (Check::good("a", "x"), Check::warn("b", "x", "y"));
        assert!(report(vec![good.clone(), warn]).passed());
        assert!(!report(vec![good, Check::wrong("c", "x", "y")]).passed());
    }

    #[test]
    fn who_comes_to_an_end_is_heard_and_who_does_not_is_left_behind() {
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
