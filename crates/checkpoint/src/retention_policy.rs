//! Decides which checkpoints are expired. Pure functions.
//!
//! All of the last hour stay, then the newest of each hour for a day, then the newest of each day
//! for two weeks; `[checkpoint] keep` changes this. A clock that jumps must not remove anything
//! that matters, so the newest few stay whatever their age, and age is counted to now or to the
//! newest checkpoint, whichever makes it less.

use std::collections::BTreeSet;
use std::time::Duration;

use super::Checkpoint;
use state::config::Keep;
use sys::time::Timestamp;

/// Number of the newest checkpoints that always stay, whatever the clock says.
const ALWAYS: usize = 5;

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;

/// Returns the ids of the expired checkpoints. `checkpoints` are newest first.
#[must_use]
pub fn expired(checkpoints: &[Checkpoint], now: Timestamp, keep: &Keep) -> Vec<String> {
    let Some(newest) = checkpoints.first() else {
        return Vec::new();
    };
    let (mut hours, mut days) = (BTreeSet::new(), BTreeSet::new());
    let mut gone = Vec::new();
    for (index, checkpoint) in checkpoints.iter().enumerate() {
        let at = checkpoint.at;
        let age = now.since(at).min(newest.at.since(at));
        // Also where one is kept for another reason: it then counts for its hour and its day.
        let first_of_hour = hours.insert(at.as_millis().div_euclid(HOUR_MS));
        let first_of_day = days.insert(at.as_millis().div_euclid(DAY_MS));
        let within = |limit: Duration| age <= limit;
        let stays = index < ALWAYS
            || within(keep.all.0)
            || (within(keep.hourly.0) && first_of_hour)
            || (within(keep.daily.0) && first_of_day);
        if !stays {
            gone.push(checkpoint.id.clone());
        }
    }
    gone
}

#[cfg(test)]
mod tests {
    use super::*;
    use state::Trigger;

    fn checkpoint(minutes_ago: i64, now: Timestamp) -> Checkpoint {
        let at = Timestamp::from_millis(now.as_millis() - minutes_ago * 60_000).unwrap();
        Checkpoint {
            id: format!("{minutes_ago}"),
            commit: String::new(),
            at,
            trigger: Trigger::Time,
            left_out: Vec::new(),
            head: crate::Head::default(),
            nested: Vec::new(),
        }
    }

    fn left(minutes: &[i64], now: Timestamp) -> Vec<i64> {
        let all: Vec<Checkpoint> = minutes.iter().map(|ago| checkpoint(*ago, now)).collect();
        let gone: BTreeSet<String> = expired(&all, now, &Keep::default()).into_iter().collect();
        let stays = |ago: &&i64| !gone.contains(&ago.to_string());
        minutes.iter().filter(stays).copied().collect()
    }

    fn noon() -> Timestamp {
        Timestamp::parse("2026-11-22T12:00:00Z").unwrap()
    }

    #[test]
    fn a_checkpoint_a_minute_for_three_weeks_becomes_an_hour_a_day_and_two_weeks() {
        let minutes: Vec<i64> = (0..21 * 24 * 60).collect();
        let left = left(&minutes, noon());
        let between =
            |from: i64, to: i64| left.iter().filter(|ago| (from..to).contains(*ago)).count();
        assert_eq!(between(0, 61), 61, "all of the last hour");
        assert_eq!(between(61, 24 * 60 + 1), 23, "each hour of the last day");
        assert_eq!(
            between(24 * 60 + 1, 15 * 24 * 60),
            13,
            "each day of two weeks"
        );
        assert_eq!(left.len(), 61 + 23 + 13);
    }

    #[test]
    fn pruning_twice_takes_nothing_more_and_the_newest_is_never_taken() {
        let minutes: Vec<i64> = (0..5_000).collect();
        let once = left(&minutes, noon());
        assert_eq!(left(&once, noon()), once);
        assert_eq!(left(&[900_000], noon()), [900_000]);
        assert!(expired(&[], noon(), &Keep::default()).is_empty());
    }

    #[test]
    fn the_newest_five_stay_however_old_they_are() {
        let months: Vec<i64> = (0..9).map(|month| month * 30 * 24 * 60).collect();
        assert_eq!(left(&months, noon()), months[..5]);
    }

    #[test]
    fn a_clock_that_jumps_ahead_costs_nothing() {
        // The newest was made at noon; now the clock is ten years later.
        let all: Vec<Checkpoint> = (0..50).map(|ago| checkpoint(ago, noon())).collect();
        let later = noon().after(Duration::from_secs(10 * 365 * 86_400));
        assert!(expired(&all, later, &Keep::default()).is_empty());
        // One that is from the future does not make the others old.
        let mut with_future: Vec<Checkpoint> = vec![checkpoint(-5_000_000, noon())];
        with_future.extend(all);
        assert!(expired(&with_future, noon(), &Keep::default()).is_empty());
    }
}
