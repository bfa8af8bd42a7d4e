//! Checkpoint schedule: which agents are due for a checkpoint. Pure: no clock, no thread, no git.
//!
//! An agent that works is due at a fixed interval, and at once when its turn ends. An idle agent is
//! never due, unless a shell that it left in the background may still write. While a save runs no
//! agent is due: the save makes the checkpoints and must not be delayed. While the data directory
//! is missing no agent is due either, and a checkpoint that failed is due again as soon as the data
//! directory is back: that may have been the reason.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use state::AgentName;
use state::Trigger;

/// Checkpoints that run at once: on two cores, an agent's own work still gets one.
const AT_ONCE: usize = 2;

/// The schedule of all agents.
#[derive(Debug, Default)]
pub struct Schedule {
    agents: BTreeMap<AgentName, Row>,
    /// Number of reasons to make none: saves under way, a missing data directory.
    pauses: usize,
}

#[derive(Debug)]
struct Row {
    every: Duration,
    busy: bool,
    running: bool,
    due: Option<(Instant, Trigger)>,
    /// The last checkpoint failed.
    failed: bool,
    /// A pause began while the checkpoint was running.
    disturbed: bool,
}

impl Row {
    fn due_at_once(&mut self, now: Instant) {
        let trigger = self.due.map_or(Trigger::Time, |(_, trigger)| trigger);
        self.due = Some((now, trigger));
    }
}

impl Schedule {
    /// Records that an agent is in a turn.
    pub fn busy(&mut self, now: Instant, name: &AgentName, every: Duration) {
        let row = self.row(name, every);
        row.busy = true;
        // A checkpoint that is due for the turn before stays due.
        row.due.get_or_insert((now + every, Trigger::Time));
    }

    /// Records that a turn has ended, or the agent itself has.
    pub fn rests(&mut self, now: Instant, name: &AgentName, every: Duration) {
        let row = self.row(name, every);
        row.busy = false;
        row.due = Some((now, Trigger::TurnEnded));
    }

    /// Records that a checkpoint was made, or failed (`failed`). `again`: the agent is due after
    /// this time although it is idle, for example because a shell runs in the background.
    pub fn done(&mut self, now: Instant, name: &AgentName, failed: bool, again: Option<Duration>) {
        let Some(row) = self.agents.get_mut(name) else {
            return;
        };
        row.running = false;
        row.failed = failed;
        if std::mem::take(&mut row.disturbed) && failed {
            row.due_at_once(now);
        } else if let Some(pause) = again.or(row.busy.then_some(row.every)) {
            row.due.get_or_insert((now + pause, Trigger::Time));
        } else if row.due.is_none() {
            self.agents.remove(name);
        }
    }

    /// Pauses: a save has begun, or the data directory is missing.
    pub fn pause(&mut self) {
        self.pauses += 1;
        for row in self.agents.values_mut() {
            row.disturbed |= row.running;
        }
    }

    /// Resumes: the save has ended, or the data directory is back.
    pub fn resume(&mut self, now: Instant) {
        self.pauses = self.pauses.saturating_sub(1);
        for row in self.agents.values_mut() {
            if row.failed && !row.running {
                row.due_at_once(now);
            }
        }
    }

    /// Returns the next checkpoint that is due, which counts as running from now on. Ended turns
    /// come before intervals.
    pub fn next(&mut self, now: Instant) -> Option<(AgentName, Trigger)> {
        let running = self.agents.values().filter(|row| row.running).count();
        if self.pauses > 0 || running >= AT_ONCE {
            return None;
        }
        let due = self.agents.iter_mut().filter_map(|(name, row)| {
            let (at, trigger) = row.due.filter(|(at, _)| !row.running && *at <= now)?;
            Some((trigger == Trigger::Time, at, name, row, trigger))
        });
        let (_, _, name, row, trigger) = due.min_by_key(|(late, at, ..)| (*late, *at))?;
        row.running = true;
        row.due = None;
        Some((name.clone(), trigger))
    }

    /// Returns when to ask again if no event comes before; `None`: only after an event.
    #[must_use]
    pub fn wakeup(&self) -> Option<Instant> {
        let running = self.agents.values().filter(|row| row.running).count();
        if self.pauses > 0 || running >= AT_ONCE {
            return None;
        }
        let waiting = self.agents.values().filter(|row| !row.running);
        waiting.filter_map(|row| Some(row.due?.0)).min()
    }

    fn row(&mut self, name: &AgentName, every: Duration) -> &mut Row {
        let row = self.agents.entry(name.clone()).or_insert(Row {
            every,
            busy: false,
            running: false,
            due: None,
            failed: false,
            disturbed: false,
        });
        row.every = every;
        row
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn name(text: &str) -> AgentName {
        AgentName::new(text).unwrap()
    }

    #[test]
    fn an_agent_at_work_is_due_every_minute_and_at_once_when_its_turn_ends() {
        let (mut schedule, start) = (Schedule::default(), Instant::now());
        schedule.busy(start, &name("a"), MINUTE);
        assert_eq!(schedule.next(start), None);
        assert_eq!(schedule.wakeup(), Some(start + MINUTE));
        let due = start + MINUTE;
        assert_eq!(schedule.next(due), Some((name("a"), Trigger::Time)));
        assert_eq!(schedule.wakeup(), None, "it is under way");
        schedule.done(due, &name("a"), false, None);
        assert_eq!(schedule.wakeup(), Some(due + MINUTE));
        schedule.rests(due, &name("a"), MINUTE);
        assert_eq!(schedule.next(due), Some((name("a"), Trigger::TurnEnded)));
    }

    #[test]
    fn an_idle_agent_causes_no_work_at_all() {
        let (mut schedule, now) = (Schedule::default(), Instant::now());
        schedule.rests(now, &name("a"), MINUTE);
        schedule.next(now).unwrap();
        schedule.done(now, &name("a"), false, None);
        assert_eq!(schedule.wakeup(), None);
        assert!(schedule.agents.is_empty());
    }

    #[test]
    fn a_shell_in_the_background_keeps_an_idle_agent_due() {
        let (mut schedule, now) = (Schedule::default(), Instant::now());
        schedule.rests(now, &name("a"), MINUTE);
        schedule.next(now).unwrap();
        schedule.done(now, &name("a"), false, Some(MINUTE));
        assert_eq!(schedule.wakeup(), Some(now + MINUTE));
    }

    #[test]
    fn a_turn_that_ends_during_a_checkpoint_is_not_forgotten() {
        let (mut schedule, now) = (Schedule::default(), Instant::now());
        schedule.busy(now, &name("a"), MINUTE);
        schedule.next(now + MINUTE).unwrap();
        schedule.rests(now + MINUTE, &name("a"), MINUTE);
        assert_eq!(
            schedule.next(now + MINUTE),
            None,
            "one at a time in one workspace"
        );
        schedule.done(now + MINUTE, &name("a"), false, None);
        assert_eq!(
            schedule.next(now + MINUTE),
            Some((name("a"), Trigger::TurnEnded))
        );
    }

    #[test]
    fn two_are_made_at_once_ended_turns_first() {
        let (mut schedule, now) = (Schedule::default(), Instant::now());
        schedule.busy(now, &name("a"), Duration::ZERO);
        for each in ["b", "c"] {
            schedule.rests(now + MINUTE, &name(each), MINUTE);
        }
        let now = now + MINUTE;
        let first: Vec<_> = std::iter::from_fn(|| schedule.next(now)).collect();
        assert_eq!(
            first,
            [
                (name("b"), Trigger::TurnEnded),
                (name("c"), Trigger::TurnEnded)
            ]
        );
        schedule.done(now, &name("b"), false, None);
        assert_eq!(schedule.next(now), Some((name("a"), Trigger::Time)));
    }

    #[test]
    fn nothing_is_due_while_a_save_runs() {
        let (mut schedule, now) = (Schedule::default(), Instant::now());
        schedule.pause();
        schedule.rests(now, &name("a"), MINUTE);
        assert_eq!((schedule.next(now), schedule.wakeup()), (None, None));
        schedule.resume(now);
        assert!(schedule.next(now).is_some());
    }

    /// Three checkpoints fail because the data directory is missing: the first before that is
    /// known, the second after it is back. The third was under way all the time and succeeds.
    #[test]
    fn what_fails_while_the_data_directory_is_missing_is_due_again_when_it_is_back() {
        let (mut schedule, now) = (Schedule::default(), Instant::now());
        schedule.rests(now, &name("a"), MINUTE);
        schedule.next(now).unwrap();
        schedule.done(now, &name("a"), true, Some(5 * MINUTE));
        for other in ["b", "c"] {
            schedule.rests(now, &name(other), MINUTE);
            schedule.next(now).unwrap();
        }
        schedule.pause();
        schedule.done(now, &name("c"), false, None);
        assert_eq!(schedule.next(now + 9 * MINUTE), None);
        let back = now + MINUTE;
        schedule.resume(back);
        assert_eq!(schedule.next(back), Some((name("a"), Trigger::Time)));
        schedule.done(back, &name("b"), true, Some(5 * MINUTE));
        assert_eq!(schedule.next(back), Some((name("b"), Trigger::Time)));
        schedule.done(back, &name("a"), false, None);
        schedule.done(back, &name("b"), true, Some(5 * MINUTE));
        // Its failure has another reason, then.
        assert_eq!(schedule.next(back), None);
        assert_eq!(schedule.wakeup(), Some(back + 5 * MINUTE));
    }
}
