//! Reasons why an agent does not work: a name for programs, a text and a command for people.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::event::plain;
use sys::time::Timestamp;

/// Reason why the API ended a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StallReason {
    /// A usage limit.
    Limit,
    /// No login, or the API refuses it.
    Login,
    /// The API has no capacity (529).
    Overloaded,
    /// The API limits the request rate (429), and it is not a usage limit.
    RateLimited,
    /// The API fails.
    Server,
    /// The API was not reached, or its response was cut off.
    Network,
    /// The API refuses this request.
    Refused,
    /// Any other reason.
    #[serde(other)]
    Unknown,
}

impl StallReason {
    /// Returns its name, as in `status --json`.
    #[must_use]
    pub fn name(self) -> String {
        plain(&serde_json::to_value(self).unwrap_or_default())
    }
}

/// Reason why an agent does not work.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Cause {
    /// It ended with success.
    Finished,
    /// It ended otherwise, without being stopped.
    Crashed {
        /// Its exit code.
        exit: Option<i32>,
        /// The signal that ended it.
        signal: Option<i32>,
    },
    /// The kernel ended it since memory ran out.
    OutOfMemory,
    /// A usage limit.
    Limit {
        /// When the limit ends, where that is known.
        until: Option<Timestamp>,
    },
    /// No login, or the API refuses it.
    Login,
    /// The API did not answer, or refused.
    Api {
        /// The API's reason.
        reason: StallReason,
    },
    /// A dialog that only a human can answer.
    Dialog {
        /// Its kind, with the last lines of its pane.
        shows: String,
    },
    /// Its disk is full.
    DiskFull,
    /// The machine is being preempted.
    Preempted,
    /// A user stopped it.
    Stopped {
        /// A user's name, or `declared` where the agent was removed from the file.
        by: String,
    },
    /// It could not be launched at all; `why` has the reason.
    CannotStart,
    /// A cause that only a newer version knows, or that an older one did not write.
    #[default]
    #[serde(other)]
    Unknown,
}

impl Cause {
    /// Returns its name, as in JSON; `None` where it is not known.
    #[must_use]
    pub fn kind(&self) -> Option<String> {
        let value = serde_json::to_value(self).ok()?;
        (*self != Self::Unknown).then(|| plain(&value["kind"]))
    }

    /// Returns a command to paste for an agent of this name, where the user can do something.
    /// `is_up`: the agent runs, but is stalled.
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
                "spotkeep start {name}   # after freeing memory or raising memory_max"
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
    fn each_cause_has_a_name_a_text_and_a_hint() {
        let (start, go_on) = (Some("spotkeep start a"), Some("spotkeep send a 'Go on.'"));
        let login = Some("spotkeep attach a   # then /login");
        let disk = Some("df -h; du -sh workspaces/* | sort -h");
        let memory = Some("spotkeep start a   # after freeing memory or raising memory_max");
        let (exit, signal) = (Some(1), None);
        let (reason, shows, by) = (StallReason::Server, "trust?".into(), "ann".into());
        // The hint while the agent does not run, and while it runs but is stalled.
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
