//! Why an agent does not work: one word that a program can read, and a command that a person can paste.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::event::plain;
use sys::time::Timestamp;

/// Why the API ended a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StallReason {
    /// A usage limit.
    Limit,
    /// No login, or it is refused.
    Login,
    /// The API has no capacity (529).
    Overloaded,
    /// The API asks to go slower (429), and it is not a usage limit.
    RateLimited,
    /// The API fails.
    Server,
    /// The API was not reached, or its response was cut off.
    Network,
    /// The API refuses this request.
    Refused,
    /// Anything else.
    #[serde(other)]
    Unknown,
}

impl StallReason {
    /// Its name, as in `status --json`.
    #[must_use]
    pub fn name(self) -> String {
        plain(&serde_json::to_value(self).unwrap_or_default())
    }
}

/// Why an agent does not work.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Cause {
    /// It ended with success.
    Finished,
    /// It ended otherwise, by itself.
    Crashed {
        /// Its exit code.
        exit: Option<i32>,
        /// The signal that ended it.
        signal: Option<i32>,
    },
    /// The kernel ended it for want of memory.
    OutOfMemory,
    /// A usage limit.
    Limit {
        /// When it ends, where that is known.
        until: Option<Timestamp>,
    },
    /// No login, or it is refused.
    Login,
    /// The API did not answer, or refused.
    Api {
        /// In which way.
        reason: StallReason,
    },
    /// A dialog that only a human can answer.
    Dialog {
        /// What it is, with the last lines of its pane.
        shows: String,
    },
    /// Its disk is full.
    DiskFull,
    /// The machine is being taken away.
    Preempted,
    /// Somebody stopped it.
    Stopped {
        /// A user's name, or `declared` where it was taken out of the file.
        by: String,
    },
    /// It could not be launched at all; `why` says the reason.
    CannotStart,
    /// One that only a newer version knows, or that an older one did not write.
    #[default]
    #[serde(other)]
    Unknown,
}

impl Cause {
    /// Its name, as in JSON; `None` where it is not known.
    #[must_use]
    pub fn kind(&self) -> Option<String> {
        let value = serde_json::to_value(self).ok()?;
        (*self != Self::Unknown).then(|| plain(&value["kind"]))
    }

    /// A command to paste for an agent of this name, where there is something that a person can do.
    /// `is_up`: it runs and stands still.
    #[must_use]
    pub fn hint(&self, name: &str, is_up: bool) -> Option<String> {
        match self {
            Self::Login => Some(format!("spotkeep attach {name}   # then /login")),
            Self::Dialog { .. } => Some(format!("spotkeep attach {name}")),
            Self::Limit { .. } | Self::Api { .. } if is_up => {
                Some(format!("spotkeep send {name} 'Go on.'"))
            }
            Self::DiskFull => Some("df -h; du -sh workspaces/* | sort -h".into()),
            Self::Preempted => Some("spotkeep restore".into()),
            Self::Finished | Self::Stopped { .. } => None,
            Self::OutOfMemory => Some(format!(
                "spotkeep start {name}   # with less beside it, or a larger memory_max"
            )),
            _ => Some(format!("spotkeep start {name}")),
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Finished => f.write_str("finished"),
            Self::Crashed { .. } => f.write_str("crashed"),
            Self::OutOfMemory => f.write_str("out of memory"),
            Self::Limit { .. } => f.write_str("usage limit"),
            Self::Login => f.write_str("login"),
            Self::Api { reason } => write!(f, "API ({})", reason.name()),
            Self::Dialog { .. } => f.write_str("dialog"),
            Self::DiskFull => f.write_str("disk full"),
            Self::Preempted => f.write_str("preempted"),
            Self::Stopped { by } => write!(f, "stopped by {by}"),
            Self::CannotStart => f.write_str("cannot start"),
            Self::Unknown => f.write_str("unknown"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_of_a_newer_version_is_unknown_and_a_hint_can_be_pasted() {
        let newer: Cause = serde_json::from_str(r#"{"kind":"flood","metres":2}"#).unwrap();
        assert_eq!(newer, Cause::Unknown);
        assert_eq!(newer.hint("a", false).as_deref(), Some("spotkeep start a"));
        let limit = Cause::Limit { until: None };
        assert_eq!(
            limit.hint("a", true).as_deref(),
            Some("spotkeep send a 'Go on.'")
        );
    }

    #[test]
    fn each_cause_has_a_word_for_programs_one_for_people_and_what_to_do_about_it() {
        let (start, go_on) = (Some("spotkeep start a"), Some("spotkeep send a 'Go on.'"));
        let login = Some("spotkeep attach a   # then /login");
        let disk = Some("df -h; du -sh workspaces/* | sort -h");
        let memory = Some("spotkeep start a   # with less beside it, or a larger memory_max");
        let (exit, signal) = (Some(1), None);
        let (reason, shows, by) = (StallReason::Server, "trust?".into(), "ann".into());
        // What to do while it does not run, and where it runs and stands still.
        for (cause, kind, shown, down, up) in [
            (Cause::Finished, "finished", "finished", None, None),
            (
                Cause::Crashed { exit, signal },
                "crashed",
                "crashed",
                start,
                start,
            ),
            (
                Cause::OutOfMemory,
                "out-of-memory",
                "out of memory",
                memory,
                memory,
            ),
            (
                Cause::Limit { until: None },
                "limit",
                "usage limit",
                start,
                go_on,
            ),
            (Cause::Login, "login", "login", login, login),
            (Cause::Api { reason }, "api", "API (server)", start, go_on),
            (
                Cause::Dialog { shows },
                "dialog",
                "dialog",
                Some("spotkeep attach a"),
                Some("spotkeep attach a"),
            ),
            (Cause::DiskFull, "disk-full", "disk full", disk, disk),
            (
                Cause::Preempted,
                "preempted",
                "preempted",
                Some("spotkeep restore"),
                Some("spotkeep restore"),
            ),
            (
                Cause::Stopped { by },
                "stopped",
                "stopped by ann",
                None,
                None,
            ),
            (
                Cause::CannotStart,
                "cannot-start",
                "cannot start",
                start,
                start,
            ),
            (Cause::Unknown, "unknown", "unknown", start, start),
        ] {
            assert_eq!(serde_json::to_value(&cause).unwrap()["kind"], kind);
            let named = cause.kind().unwrap_or_else(|| "unknown".into());
            assert_eq!(named, kind);
            assert_eq!(cause.to_string(), shown);
            assert_eq!(cause.hint("a", false).as_deref(), down, "{kind}");
            assert_eq!(cause.hint("a", true).as_deref(), up, "{kind}");
        }
    }
}
