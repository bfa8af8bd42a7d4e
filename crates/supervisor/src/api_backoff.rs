//! API backoff: spaces the requests of the fleet to the API while it returns errors.
//!
//! The pause between two requests that the supervisor causes (a start, a nudge) doubles with each
//! error and shrinks by a fixed step with each success, or with time. That is additive increase and
//! multiplicative decrease of a rate, which keeps many senders from oscillating together. One burst
//! of errors reaches many agents at once, so errors that come together count once.

use std::time::{Duration, Instant};

/// The pause after the first error.
const FIRST: Duration = Duration::from_secs(5);

/// The longest pause between two requests of the whole fleet.
const LONGEST: Duration = Duration::from_secs(60);

/// How much a success shortens the pause.
const STEP: Duration = Duration::from_secs(5);

/// Errors or successes within this time count once.
const COALESCE_WINDOW: Duration = Duration::from_secs(10);

/// Without any error or success the pause decays by one step each time this has passed.
const CLEARS: Duration = Duration::from_secs(60);

/// The shortest pause between two nudges, whatever the API's state.
const BETWEEN_NUDGES: Duration = Duration::from_secs(2);

/// State of the backoff of one fleet.
#[derive(Debug, Clone, Copy, Default)]
pub struct ApiBackoff {
    pause: Duration,
    /// Until when further errors belong to the same burst.
    coalesced_until: Option<Instant>,
    /// When the pause was last changed.
    changed: Option<Instant>,
    /// Time of the last request.
    last: Option<Instant>,
}

impl ApiBackoff {
    /// Records that an error of the API ended a turn.
    pub fn on_error(&mut self, now: Instant) {
        self.pass(now);
        if self.coalesced_until.is_some_and(|until| now < until) {
            return;
        }
        self.coalesced_until = Some(now + COALESCE_WINDOW);
        self.pause = (self.pause * 2).clamp(FIRST, LONGEST);
        self.changed = Some(now);
    }

    /// Records that the API has answered.
    pub fn on_success(&mut self, now: Instant) {
        self.pass(now);
        if self.coalesced_until.is_some_and(|until| now < until) {
            return; // An answer from before the burst.
        }
        self.pause = self.pause.saturating_sub(STEP);
        self.coalesced_until = Some(now + COALESCE_WINDOW).filter(|_| !self.pause.is_zero());
        self.changed = Some(now);
    }

    /// Whether requests are slowed down.
    #[must_use]
    pub fn is_bad(&self) -> bool {
        !self.pause.is_zero()
    }

    /// Returns the present pause between two starts or nudges.
    #[must_use]
    pub fn pause(&self) -> Duration {
        self.pause
    }

    /// Returns when the next start is permitted; `None`: at once.
    #[must_use]
    pub fn next_start(&mut self, now: Instant) -> Option<Instant> {
        self.pass(now);
        let next = self.last? + self.pause;
        (self.is_bad() && next > now).then_some(next)
    }

    /// Returns when the next nudge is permitted; `None`: at once.
    #[must_use]
    pub fn next_nudge(&mut self, now: Instant) -> Option<Instant> {
        self.pass(now);
        let next = self.last? + self.pause.max(BETWEEN_NUDGES);
        (next > now).then_some(next)
    }

    /// Records that a request was made.
    pub fn on_request(&mut self, now: Instant) {
        self.last = Some(now);
    }

    /// Decays one step per quiet minute.
    fn pass(&mut self, now: Instant) {
        let Some(changed) = self.changed.filter(|_| self.is_bad()) else {
            return;
        };
        let steps = now.saturating_duration_since(changed).as_secs() / CLEARS.as_secs();
        if steps > 0 {
            let steps = u32::try_from(steps).unwrap_or(u32::MAX);
            self.pause = self.pause.saturating_sub(STEP.saturating_mul(steps));
            self.changed = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn errors_close_together_count_once_and_the_pause_doubles_to_a_cap() {
        let mut api_backoff = ApiBackoff::default();
        let mut now = Instant::now();
        for _ in 0..50 {
            api_backoff.on_error(now);
        }
        api_backoff.on_error(now + COALESCE_WINDOW - SECOND);
        assert_eq!(api_backoff.pause(), FIRST);
        for seconds in [10, 20, 40, 60, 60] {
            now += COALESCE_WINDOW;
            api_backoff.on_error(now);
            assert_eq!(api_backoff.pause(), seconds * SECOND);
        }
    }

    #[test]
    fn the_pause_shrinks_step_by_step_with_answers_and_with_time() {
        let mut api_backoff = ApiBackoff::default();
        let mut now = Instant::now();
        for _ in 0..5 {
            api_backoff.on_error(now);
            now += COALESCE_WINDOW;
        }
        let bad = api_backoff.pause();
        api_backoff.on_success(now);
        assert_eq!(api_backoff.pause(), bad - STEP);
        now += CLEARS;
        api_backoff.on_request(now);
        assert_eq!(api_backoff.next_start(now), Some(now + bad - 2 * STEP));
        now += CLEARS * 60;
        assert_eq!(api_backoff.next_start(now), None);
        assert!(!api_backoff.is_bad());
    }

    #[test]
    fn while_the_api_answers_starts_do_not_wait_and_nudges_are_spaced() {
        let mut api_backoff = ApiBackoff::default();
        let now = Instant::now();
        assert_eq!(api_backoff.next_nudge(now), None);
        api_backoff.on_request(now);
        assert_eq!(api_backoff.next_start(now), None);
        assert_eq!(
            api_backoff.next_nudge(now + SECOND),
            Some(now + BETWEEN_NUDGES)
        );
        assert_eq!(api_backoff.next_nudge(now + BETWEEN_NUDGES), None);
    }

    #[test]
    fn answers_count_once_in_ten_seconds_and_not_during_a_burst_of_errors() {
        let mut api_backoff = ApiBackoff::default();
        let mut now = Instant::now();
        for _ in 0..3 {
            now += COALESCE_WINDOW;
            api_backoff.on_error(now);
        }
        let pauses = [
            (1, 20),
            (9, 20),
            (10, 15),
            (11, 15),
            (19, 15),
            (20, 10),
            (30, 5),
            (40, 0),
        ];
        for (after, seconds) in pauses {
            api_backoff.on_success(now + after * SECOND);
            assert_eq!(api_backoff.pause(), seconds * SECOND, "after {after} s");
        }
        // The pause is over: the next error counts at once.
        api_backoff.on_error(now + 41 * SECOND);
        assert_eq!(api_backoff.pause(), FIRST);
    }

    #[test]
    fn frequent_queries_do_not_stop_the_pause_from_decaying() {
        let mut api_backoff = ApiBackoff::default();
        let now = Instant::now();
        api_backoff.on_error(now);
        api_backoff.on_request(now);
        for seconds in 1..60 {
            let next = api_backoff.next_start(now + seconds * SECOND);
            assert_eq!(next, (seconds < 5).then_some(now + FIRST), "{seconds}");
            assert!(api_backoff.is_bad());
        }
        assert_eq!(api_backoff.next_nudge(now + CLEARS), None);
        assert!(!api_backoff.is_bad());
    }
}
