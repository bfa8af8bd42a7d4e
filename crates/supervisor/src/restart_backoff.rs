//! Restart backoff: what happens after an agent's process ended without a request.

use std::time::Duration;

/// The pause after a first failure; each further one doubles it.
const FIRST_PAUSE: Duration = Duration::from_secs(2);

/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// Failures in a row after which the agent waits for the user: with the pauses above, about ten
/// minutes.
const TRIES: u32 = 8;

/// An agent that has run for this time is healthy: its failures are reset.
pub const HEALTHY_AFTER: Duration = Duration::from_secs(600);

/// What to do after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Start it again after a pause.
    Again(Duration),
    /// Wait for the user.
    GiveUp,
}

/// Decides after the `failures`-th failure in a row (counted from 1).
///
/// The jitter seed spreads agents that fail together: the pause is lengthened by up to a quarter.
#[must_use]
pub fn after_failure(failures: u32, jitter_seed: u64) -> Next {
    if failures >= TRIES {
        return Next::GiveUp;
    }
    let pause = FIRST_PAUSE
        .saturating_mul(1 << (failures.clamp(1, 16) - 1))
        .min(LONGEST_PAUSE);
    Next::Again(pause + spread(pause / 4, jitter_seed, failures))
}

/// Returns a part of `most` that differs between agents and between tries, and is the same for the
/// same arguments.
pub(crate) fn spread(most: Duration, jitter_seed: u64, nth: u32) -> Duration {
    // A multiplicative hash is enough: it has to differ, not to be unguessable.
    let part = (jitter_seed ^ u64::from(nth)).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 54;
    most.mul_f64(part as f64 / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_and_are_lengthened_by_less_than_a_quarter_and_end() {
        for (failures, least) in (1..TRIES).zip([2, 4, 8, 16, 32, 64, 128]) {
            let Next::Again(pause) = after_failure(failures, 7) else {
                panic!("gave up early")
            };
            let least = Duration::from_secs(least);
            assert!(
                pause >= least && pause < least.mul_f64(1.25),
                "{failures}: {pause:?}"
            );
        }
        assert_eq!(after_failure(TRIES, 7), Next::GiveUp);
    }

    #[test]
    fn agents_that_fail_together_do_not_all_start_together_again() {
        for failures in 1..TRIES {
            let pauses: Vec<Next> = (0..64)
                .map(|jitter_seed| after_failure(failures, jitter_seed))
                .collect();
            let mut others = pauses.clone();
            others.sort_by_key(|next| format!("{next:?}"));
            others.dedup();
            assert!(others.len() > 48, "{failures}: {pauses:?}");
        }
    }
}
