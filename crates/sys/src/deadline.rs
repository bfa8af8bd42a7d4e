//! A deadline that is passed down to everything that must meet it.

use std::time::{Duration, Instant};

/// Longer than any machine runs; an `Instant` so far away is still representable.
const FOREVER: Duration = Duration::from_secs(100 * 365 * 86_400);

/// The time by which something has to be done. The earlier of two is their minimum.
///
/// It is computed once, when the notice arrives, and passed down by value: every step's time limit
/// is derived from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

impl Deadline {
    /// Returns the deadline `duration` after `start`; a hundred years where that is not
    /// representable.
    #[must_use]
    pub fn counted(start: Instant, duration: Duration) -> Self {
        Self(start.checked_add(duration.min(FOREVER)).unwrap_or(start))
    }

    /// Returns the deadline `duration` from now.
    #[must_use]
    pub fn after(duration: Duration) -> Self {
        Self::counted(Instant::now(), duration)
    }

    /// Returns it as an `Instant`.
    #[must_use]
    pub fn instant(self) -> Instant {
        self.0
    }

    /// Returns the time left; zero once the deadline has passed.
    #[must_use]
    pub fn remaining(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// Whether no time is left.
    #[must_use]
    pub fn has_passed(self) -> bool {
        self.remaining().is_zero()
    }
}

impl From<Instant> for Deadline {
    fn from(at: Instant) -> Self {
        Self(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_passed_deadline_leaves_no_time() {
        let now = Deadline::after(Duration::ZERO);
        assert!(now.has_passed());
        assert_eq!(now.remaining(), Duration::ZERO);
        assert!(!Deadline::after(Duration::from_secs(60)).has_passed());
    }

    #[test]
    fn a_deadline_out_of_range_is_a_hundred_years_away() {
        let far = Deadline::after(Duration::MAX);
        assert!(far.remaining() > Duration::from_secs(86_400));
    }
}
