//! Activity log: collects the state changes of agents with their times, for the journal. Pure.
//!
//! Changes are written at most once a minute. A fleet that is idle writes nothing, and a fleet
//! whose agents change all the time writes one line a minute with three changes per agent. A keeper
//! that is killed loses the last minute.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::View;
use state::{AgentName, AgentState, StateChange};
use sys::time::Timestamp;

/// How long changes are collected, from the first.
const GATHER: Duration = Duration::from_secs(60);

/// A state that lasted less is left out: users could not have seen it.
const BLINK: Duration = Duration::from_secs(1);

/// Changes of one agent that are kept per minute; of more, the first ones and the last.
const MOST: usize = 3;

/// The states seen last, and the changes that are not written yet.
#[derive(Debug, Default)]
pub struct ActivityLog {
    known: BTreeMap<AgentName, AgentState>,
    pending: BTreeMap<AgentName, Vec<SeenState>>,
    due: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct SeenState {
    /// `None`: the agent is no longer configured.
    state: Option<AgentState>,
    since: Instant,
    at: Timestamp,
}

impl ActivityLog {
    /// Records the states of all agents, at this time by both clocks.
    pub fn observe(&mut self, now: Instant, at: Timestamp, views: &[View]) {
        let seen = |state| SeenState {
            state,
            since: now,
            at,
        };
        for view in views {
            let before = self.known.insert(view.name.clone(), view.state);
            if before != Some(view.state) {
                self.note(&view.name, seen(Some(view.state)));
            }
        }
        let is_gone = |name: &&AgentName| !views.iter().any(|view| view.name == **name);
        let gone: Vec<AgentName> = self.known.keys().filter(is_gone).cloned().collect();
        for name in gone {
            self.known.remove(&name);
            self.note(&name, seen(None));
        }
    }

    fn note(&mut self, name: &AgentName, seen: SeenState) {
        let list = self.pending.entry(name.clone()).or_default();
        let blinked = |last: &SeenState| seen.since.saturating_duration_since(last.since) < BLINK;
        if list.last().is_some_and(blinked) || list.len() >= MOST {
            list.pop();
        }
        if list.last().is_none_or(|last| last.state != seen.state) {
            list.push(seen);
        }
        self.due = self.due.or(Some(seen.since + GATHER));
    }

    /// Returns when changes are to be written.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Returns the changes that are not written yet, ordered by time.
    pub fn drain(&mut self) -> Vec<StateChange> {
        self.due = None;
        let pending = std::mem::take(&mut self.pending);
        let mut changes: Vec<StateChange> = pending
            .into_iter()
            .flat_map(|(agent, list)| {
                list.into_iter().map(move |seen| StateChange {
                    agent: agent.clone(),
                    state: seen.state,
                    at: seen.at,
                })
            })
            .collect();
        changes.sort_by_key(|change| change.at);
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use state::Desired;

    fn view(name: &str, state: AgentState) -> View {
        View {
            name: AgentName::new(name).unwrap(),
            state,
            since: None,
            why: None,
            cause: None,
            desired: Desired::Running,
            restarts: 0,
            process: None,
            session_id: String::new(),
            next_try: None,
        }
    }

    /// Observes one agent at these seconds, and returns the states that are written and since which
    /// second.
    fn written(seen_states: &[(u64, Option<AgentState>)]) -> Vec<(&'static str, i64)> {
        let (mut activity_log, start) = (ActivityLog::default(), Instant::now());
        for (seconds, state) in seen_states {
            let views: Vec<View> = state.iter().map(|state| view("a", *state)).collect();
            let at = Timestamp::from_millis(i64::try_from(*seconds).unwrap() * 1000).unwrap();
            activity_log.observe(start + Duration::from_secs(*seconds), at, &views);
        }
        let changes = activity_log.drain();
        changes
            .iter()
            .map(|change| {
                let word = change.state.map_or("removed", AgentState::as_str);
                (word, change.at.as_millis() / 1000)
            })
            .collect()
    }

    use AgentState::{Idle, Running, Starting, Waiting};

    #[test]
    fn an_idle_fleet_writes_nothing_and_changes_are_collected_for_a_minute() {
        let (mut activity_log, start) = (ActivityLog::default(), Instant::now());
        let views = [view("a", Idle), view("b", Running)];
        activity_log.observe(start, Timestamp::now(), &views);
        assert_eq!(activity_log.due(), Some(start + GATHER));
        assert_eq!(activity_log.drain().len(), 2);
        for seconds in 1..1_000 {
            activity_log.observe(
                start + Duration::from_secs(seconds),
                Timestamp::now(),
                &views,
            );
            assert_eq!(activity_log.due(), None);
        }
        assert_eq!(activity_log.drain(), []);
    }

    #[test]
    fn changes_keep_their_times() {
        let seen = [(0, Some(Idle)), (10, Some(Running)), (20, Some(Running))];
        assert_eq!(written(&seen), [("idle", 0), ("running", 10)]);
    }

    #[test]
    fn short_changes_are_left_out_and_of_many_the_last_is_kept() {
        let seen = [(5, Some(Starting)), (5, Some(Running)), (5, Some(Idle))];
        assert_eq!(written(&seen), [("idle", 5)]);
        let seen = [
            (0, Some(Idle)),
            (5, Some(Running)),
            (9, Some(Waiting)),
            (14, Some(Running)),
            (30, Some(Waiting)),
        ];
        assert_eq!(
            written(&seen),
            [("idle", 0), ("running", 5), ("waiting", 30)]
        );
    }

    #[test]
    fn an_agent_that_is_removed_is_logged_once() {
        assert_eq!(
            written(&[(0, Some(Idle)), (9, None), (12, None)]),
            [("idle", 0), ("removed", 9)]
        );
    }
}
