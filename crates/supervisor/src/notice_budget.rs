//! Time budget of a preemption notice: how long agents may drain, how long the save may take. Pure.
//!
//! Google Compute Engine has two lengths (`preemptionNoticeDuration` of the Compute API):
//!
//! * 120 s: the metadata server announces it, the machine runs on normally for 120 s, and *then*
//!   come the ACPI signal and at most 30 s more. So 120 s can be used; the 30 s are "best effort
//!   and up to", and no plan relies on them.
//! * 0 s, the default: announcement and ACPI signal come together. 30 s at best: the aim is to be
//!   safe in 5 s, and to be done in 20 s.

use std::time::Duration;

use super::notice::Source;

/// How long a save may take in total, where no source promises more.
const BOUND: Duration = Duration::from_secs(20);

/// systemd counts the 20 s of the save unit from before the unit's process exists, so the save that
/// the unit waits for plans with a little less.
const UNIT_MARGIN: Duration = Duration::from_secs(2);

/// The parts of a notice, each counted from its arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// How long agents in a turn may continue; zero where time is short.
    pub drain: Duration,
    /// When the save has to be done.
    pub bound: Duration,
}

/// Divides the time of a notice. `length` is how long the machine runs on normally after it, as
/// configured or discovered; `None` where that is unknown.
///
/// Only the metadata server announces the end before it begins. A signal and the save unit are part
/// of the end itself, and a user waits: for them `length` has no effect.
#[must_use]
pub fn plan(length: Option<Duration>, source: Source) -> Plan {
    let bound = match source {
        Source::Metadata => length.unwrap_or_default().max(BOUND),
        Source::Signal | Source::Command => BOUND,
        Source::Unit => BOUND - UNIT_MARGIN,
    };
    // The save itself keeps its whole bound at the end of a long notice.
    let drain = bound.saturating_sub(BOUND);
    Plan { drain, bound }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notice_is_divided_by_its_length_and_its_source() {
        let seconds = Duration::from_secs;
        let table = [
            // source, length, drain, bound
            (Source::Metadata, None, 0, 20),
            (Source::Metadata, Some(0), 0, 20),
            (Source::Metadata, Some(10), 0, 20),
            (Source::Metadata, Some(30), 10, 30),
            (Source::Metadata, Some(120), 100, 120),
            (Source::Signal, Some(120), 0, 20),
            (Source::Command, Some(120), 0, 20),
            (Source::Command, None, 0, 20),
            (Source::Unit, Some(120), 0, 18),
        ];
        for (source, length, drain, bound) in table {
            let expected = Plan {
                drain: seconds(drain),
                bound: seconds(bound),
            };
            assert_eq!(
                plan(length.map(seconds), source),
                expected,
                "{source} {length:?}"
            );
        }
    }
}
