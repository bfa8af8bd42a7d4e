//! Retry policy for stalled agents: how long to wait before a nudge, and how often to nudge.

use std::time::Duration;

use super::restart_backoff::spread;
use claude::ApiStop;

const MINUTE: Duration = Duration::from_secs(60);

/// Pause after the end of a limit: Claude Code 2.1.330 continues automatically some minutes after
/// that of a session (measured), and an end that was read from text is accurate to the minute.
const PAST_A_LIMIT: Duration = Duration::from_secs(180);

/// Agents that reach the same limit are spread over this time.
const LIMIT_SPREAD: Duration = Duration::from_secs(120);

/// The longest limit is that of a week. A wrong clock causes no longer pause.
const LONGEST: Duration = Duration::from_secs(8 * 24 * 3_600);

/// What to do after a stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StallRetry {
    /// Nudge it after this time.
    Wait(Duration),
    /// Wait for the user: a nudge would not help, or enough of them did not.
    Human,
}

/// Decides after the `stops`-th stop in a row (counted from 1), with the agent's jitter seed.
/// `ends_in`: time until the limit ends, where that is known.
///
/// Pauses double up to a cap and are lengthened by up to a quarter. What may last a night is tried
/// for a night: the tries below add up to about ten hours for an API that is down, and two days for
/// a limit whose end is unknown.
#[must_use]
pub fn after_stop(
    stop: ApiStop,
    stops: u32,
    ends_in: Option<Duration>,
    jitter_seed: u64,
) -> StallRetry {
    let (first, longest, tries) = match stop {
        ApiStop::Limit { .. } => (15 * MINUTE, 120 * MINUTE, 24),
        ApiStop::Overloaded | ApiStop::RateLimited => (MINUTE, 30 * MINUTE, 24),
        ApiStop::Server { .. } | ApiStop::Network => (MINUTE / 2, 30 * MINUTE, 24),
        ApiStop::Login => (5 * MINUTE, 60 * MINUTE, 24),
        ApiStop::Unknown => (2 * MINUTE, 30 * MINUTE, 6),
        ApiStop::Refused { .. } => return StallRetry::Human,
    };
    if stops > tries {
        return StallRetry::Human;
    }
    if let (ApiStop::Limit { .. }, Some(ends_in)) = (stop, ends_in) {
        let pause = ends_in.min(LONGEST) + PAST_A_LIMIT + spread(LIMIT_SPREAD, jitter_seed, stops);
        return StallRetry::Wait(pause);
    }
    let pause = first
        .saturating_mul(1 << (stops.clamp(1, 16) - 1))
        .min(longest);
    StallRetry::Wait(pause + spread(pause / 4, jitter_seed, stops))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pause(stop: ApiStop, stops: u32, ends_in: Option<Duration>) -> Duration {
        match after_stop(stop, stops, ends_in, 7) {
            StallRetry::Wait(pause) => pause,
            StallRetry::Human => panic!("gave up at the {stops}th {stop:?}"),
        }
    }

    #[test]
    fn a_pause_doubles_up_to_a_cap_and_is_lengthened_by_less_than_a_quarter() {
        let server = ApiStop::Server { status: 500 };
        // In half minutes; the last value applies until the tries are over.
        for (stop, tries, pauses) in [
            (ApiStop::Limit { until: None }, 24, &[30, 60, 120, 240][..]),
            (ApiStop::Overloaded, 24, &[2, 4, 8, 16, 32, 60]),
            (ApiStop::RateLimited, 24, &[2, 4, 8, 16, 32, 60]),
            (server, 24, &[1, 2, 4, 8, 16, 32, 60]),
            (ApiStop::Network, 24, &[1, 2, 4, 8, 16, 32, 60]),
            (ApiStop::Login, 24, &[10, 20, 40, 80, 120]),
            (ApiStop::Unknown, 6, &[4, 8, 16, 32, 60]),
        ] {
            for (stops, nth) in (1..=tries).zip(0..) {
                let least = pauses[pauses.len().min(nth + 1) - 1] * MINUTE / 2;
                let pause = pause(stop, stops, None);
                let fits = pause >= least && pause < least.mul_f64(1.25);
                assert!(fits, "{stop:?} {stops}: {pause:?}");
            }
            assert_eq!(after_stop(stop, tries + 1, None, 7), StallRetry::Human);
            let others = (0..9).map(|jitter_seed| after_stop(stop, 1, None, jitter_seed));
            assert!(
                others
                    .collect::<Vec<_>>()
                    .windows(2)
                    .any(|two| two[0] != two[1])
            );
        }
    }

    #[test]
    fn pauses_grow_to_a_cap_and_the_tries_last_for_a_night() {
        for (stop, tries, night) in [
            (ApiStop::Overloaded, 24, 9),
            (ApiStop::Network, 24, 8),
            (ApiStop::Limit { until: None }, 24, 40),
        ] {
            let mut all = Duration::ZERO;
            let mut last = Duration::ZERO;
            for stops in 1..=tries {
                let pause = pause(stop, stops, None);
                assert!(pause.mul_f64(1.25) >= last, "{stop:?} {stops}: {pause:?}");
                last = pause;
                all += pause;
            }
            assert!(all >= night * 60 * MINUTE, "{stop:?}: {all:?}");
            assert_eq!(after_stop(stop, tries + 1, None, 7), StallRetry::Human);
        }
    }

    #[test]
    fn the_end_of_a_limit_is_waited_for_but_no_longer_than_eight_days() {
        let limit = ApiStop::Limit { until: None };
        let hour = 60 * MINUTE;
        let paused = pause(limit, 1, Some(hour));
        assert!(paused >= hour + PAST_A_LIMIT && paused <= hour + 6 * MINUTE);
        let week = 7 * 24 * hour;
        assert!(pause(limit, 1, Some(week)) >= week + PAST_A_LIMIT);
        assert!(pause(limit, 1, Some(1_000 * hour)) <= week + 24 * hour + 6 * MINUTE);
        assert!(pause(limit, 1, Some(Duration::ZERO)) >= PAST_A_LIMIT);
    }

    #[test]
    fn a_refused_request_is_never_repeated() {
        let refused = ApiStop::Refused { status: Some(400) };
        assert_eq!(after_stop(refused, 1, None, 7), StallRetry::Human);
    }
}
