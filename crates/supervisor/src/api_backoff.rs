//! How fast the fleet may ask the API: everybody slows down when it is in trouble, and recovers
//! step by step.
//!
//! The pause between two requests that *we* bring about (a start, a nudge) doubles with each bad
//! sign and shrinks by a fixed step with each good one, or with time: additive increase and
//! multiplicative decrease of a rate, which is what keeps many senders from swinging together. One
//! burst meets many agents at once, so signs that come together count once.

use std::time::{Duration, Instant};

/// The pause after the first bad sign.
const FIRST: Duration = Duration::from_secs(5);

/// The longest pause between two of the whole fleet.
const LONGEST: Duration = Duration::from_secs(60);

/// What a good sign takes away.
const STEP: Duration = Duration::from_secs(5);

/// Signs within this time are one.
const COALESCE_WINDOW: Duration = Duration::from_secs(10);

/// Without any sign it clears up by one step each time this has passed.
const CLEARS: Duration = Duration::from_secs(60);

/// The least pause between two nudges, whatever the API's state.
const BETWEEN_NUDGES: Duration = Duration::from_secs(2);

/// The API's state over a fleet.
#[derive(Debug, Clone, Copy, Default)]
pub struct ApiBackoff {
    pause: Duration,
    /// Until when further bad signs belong to the same burst.
    coalesced_until: Option<Instant>,
    /// When the pause was changed last.
    changed: Option<Instant>,
    /// When something was last let go.
    last: Option<Instant>,
}

impl ApiBackoff {
    /// The API ended a turn because of trouble of its own.
    pub fn on_error(&mut self, now: Instant) {
        self.pass(now);
        if self.coalesced_until.is_some_and(|until| now < until) {
            return;
        }
        self.coalesced_until = Some(now + COALESCE_WINDOW);
        self.pause = (self.pause * 2).clamp(FIRST, LONGEST);
        self.changed = Some(now);
    }

    /// The API has answered.
    pub fn on_success(&mut self, now: Instant) {
        self.pass(now);
        if self.coalesced_until.is_some_and(|until| now < until) {
            return; // An answer from before the burst.
        }
        self.pause = self.pause.saturating_sub(STEP);
        self.coalesced_until = Some(now + COALESCE_WINDOW).filter(|_| !self.pause.is_zero());
        self.changed = Some(now);
    }

    /// Whether it is anything but fair.
    #[must_use]
    pub fn is_bad(&self) -> bool {
        !self.pause.is_zero()
    }

    /// The pause between two starts or nudges now.
    #[must_use]
    pub fn pause(&self) -> Duration {
        self.pause
    }

    /// When the next start may be; `None`: at once.
    #[must_use]
    pub fn next_start(&mut self, now: Instant) -> Option<Instant> {
        self.pass(now);
        let next = self.last? + self.pause;
        (self.is_bad() && next > now).then_some(next)
    }

    /// When the next nudge may be; `None`: at once.
    #[must_use]
    pub fn next_nudge(&mut self, now: Instant) -> Option<Instant> {
        self.pass(now);
        let next = self.last? + self.pause.max(BETWEEN_NUDGES);
        (next > now).then_some(next)
    }

    /// Something was let go.
    pub fn on_request(&mut self, now: Instant) {
        self.last = Some(now);
    }

    /// Time heals.
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
    fn it_clears_up_step_by_step_by_answers_and_by_time() {
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
    fn in_fair_weather_starts_do_not_wait_and_nudges_only_for_each_other() {
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
    fn answers_count_once_in_ten_seconds_and_none_that_a_gust_was_under_way_for() {
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
        // It is fair again: the next bad sign is heard at once.
        api_backoff.on_error(now + 41 * SECOND);
        assert_eq!(api_backoff.pause(), FIRST);
    }

    #[test]
    fn who_looks_often_does_not_keep_it_from_clearing_up() {
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
