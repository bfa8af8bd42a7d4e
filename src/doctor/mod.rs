//! The doctor: looks everything over, changes nothing, and says for each thing what would mend it.
//!
//! Each file is a group of checks: facts are gathered at its edge, and a pure judgement makes checks of
//! them. A check that does not apply here is left out: nobody on a laptop hears of the shutdown of a VM.
//!
//! | file | what is looked at |
//! |---|---|
//! | `place` | the root, its mount, its filesystem, its space |
//! | `belongings` | owners, modes, secrets, links |
//! | `papers` | declarations, records, journal, clock |
//! | `keeping` | the keeper, sessions, the tmux server |
//! | `claude` | the program, its login, what would block or undo it |
//! | `tools` | git, tmux |
//! | `service` | units, and how systemd shuts down |
//! | `machine` | memory, unwritten pages, `/tmp` |
//! | `cloud` | the metadata server and the notice |

mod belongings;
mod claude;
mod cloud;
mod keeping;
mod machine;
mod papers;
mod place;
mod scene;
mod service;
mod tools;

use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use serde::Serialize;

use crate::error::{Error, hint_of};
use crate::state::VERSION;
pub use scene::Options;
use scene::Scene;

/// What nobody answers for so long is said not to answer. All slow things are asked at once.
const LIMIT: Duration = Duration::from_millis(1_800);

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
    /// A command that mends it; null where there is nothing to mend.
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

/// Looks everything over. Writes nothing, and takes two seconds at most, but for the probe.
#[must_use]
pub fn examine(at: &Path, options: &Options) -> Report {
    let scene = Scene::gather(at, options);
    type Group = fn(&Scene) -> Vec<Check>;
    let groups: [Group; 9] = [
        place::checks,
        belongings::checks,
        papers::checks,
        keeping::checks,
        claude::checks,
        tools::checks,
        service::checks,
        machine::checks,
        cloud::checks,
    ];
    let scene = &scene;
    let checks = std::thread::scope(|scope| {
        let running: Vec<_> = groups
            .iter()
            .map(|group| scope.spawn(move || group(scene)))
            .collect();
        let done = running.into_iter().map(|group| {
            group.join().unwrap_or_else(|_| {
                let detail = "a group of checks could not be made";
                vec![Check::wrong("doctor", detail, "spotkeep doctor --json")]
            })
        });
        done.flatten().collect()
    });
    Report {
        version: VERSION,
        checks,
    }
}

/// What `ask` answers in time; a thread that hangs is left behind with the process.
fn in_time<T: Send + 'static>(ask: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (answer, answered) = mpsc::channel();
    std::thread::Builder::new()
        .name("ask".into())
        .spawn(move || answer.send(ask()).ok())
        .ok()?;
    answered.recv_timeout(LIMIT).ok()
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
    fn sizes_are_short() {
        assert_eq!(size(5 << 10), "5 KiB");
        assert_eq!(size(512 << 20), "512 MiB");
        assert_eq!(size((3 << 30) + (512 << 20)), "3.5 GiB");
    }
}
