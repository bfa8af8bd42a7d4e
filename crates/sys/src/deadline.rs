//! One moment that everything below it keeps.

use std::time::{Duration, Instant};

/// Longer than any machine runs; an `Instant` so far away still fits.
const FOREVER: Duration = Duration::from_secs(100 * 365 * 86_400);

/// The moment by which something has to be done. The earlier of two is their minimum.
///
/// It is made once, where the notice comes in, and handed down by value: no step has a time limit
/// that was not cut out of this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

impl Deadline {
    /// `duration` after `start`; what does not fit is a hundred years.
    #[must_use]
    pub fn counted(start: Instant, duration: Duration) -> Self {
        Self(start.checked_add(duration.min(FOREVER)).unwrap_or(start))
    }

    /// `duration` from now.
    #[must_use]
    pub fn after(duration: Duration) -> Self {
        Self::counted(Instant::now(), duration)
    }

    /// The moment itself.
    #[must_use]
    pub fn instant(self) -> Instant {
        self.0
    }

    /// How long until then; zero once it has passed.
    #[must_use]
    pub fn remaining(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// Whether there is no time left.
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
    fn a_deadline_that_has_passed_leaves_nothing() {
        let now = Deadline::after(Duration::ZERO);
        assert!(now.has_passed());
        assert_eq!(now.remaining(), Duration::ZERO);
        assert!(!Deadline::after(Duration::from_secs(60)).has_passed());
    }

    #[test]
    fn a_deadline_too_far_away_is_merely_far_away() {
        let far = Deadline::after(Duration::MAX);
        assert!(far.remaining() > Duration::from_secs(86_400));
    }
}
