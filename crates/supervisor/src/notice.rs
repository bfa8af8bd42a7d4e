//! Preemption notices: the announcement that this machine is about to end, and the time left.
//!
//! Every source gives one [`Notice`] with one [`Deadline`], which is passed through the whole save.
//! [`sys::cloud_provider`] detects the cloud without sending a packet; the program's `metadata`
//! module watches its metadata server. The other sources are a signal in the foreground, the save
//! unit at shutdown, and the user.

use std::fmt;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

pub use crate::notice_budget::{Plan, plan};
pub use sys::deadline::Deadline;

/// Source of a notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// The cloud's metadata server.
    Metadata,
    /// A signal to a keeper in the foreground that treats it as a notice.
    Signal,
    /// The user or a script: `spotkeep save --final`.
    Command,
    /// The save unit: systemd has begun to shut the machine down.
    Unit,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Metadata => "metadata",
            Self::Signal => "signal",
            Self::Command => "command",
            Self::Unit => "unit",
        })
    }
}

/// Announcement that this boot is about to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Notice {
    /// Where it came from.
    pub source: Source,
    /// Until when agents in a turn may finish it; already passed where time is short.
    pub drain: Deadline,
    /// Deadline of the save.
    pub deadline: Deadline,
}

impl Notice {
    /// Returns a notice that came at `came`. `length` is how long the cloud says that the machine
    /// runs on normally after it; `None` where that is unknown.
    #[must_use]
    pub fn new(source: Source, came: Instant, length: Option<Duration>) -> Self {
        let plan = plan(length, source);
        Self {
            source,
            drain: Deadline::counted(came, plan.drain),
            deadline: Deadline::counted(came, plan.bound),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notice_counts_from_when_it_came() {
        let came = Instant::now();
        let notice = Notice::new(Source::Metadata, came, Some(Duration::from_secs(120)));
        assert_eq!(notice.deadline.instant() - came, Duration::from_secs(120));
        assert_eq!(notice.drain.instant() - came, Duration::from_secs(100));
        let short = Notice::new(Source::Signal, came, None);
        assert!(short.drain.has_passed());
    }

    #[test]
    fn a_source_is_written_as_it_is_shown() {
        for source in [
            Source::Metadata,
            Source::Signal,
            Source::Command,
            Source::Unit,
        ] {
            let text = serde_json::to_string(&source).unwrap();
            assert_eq!(text, format!("\"{source}\""));
        }
    }
}
