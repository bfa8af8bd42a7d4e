//! Idle shutdown: powers the machine off when all agents have finished, if configured.

use std::time::Instant;

use super::agent::{Agent, Stage};
use super::{Action, Activity, Phase, Supervisor};
use crate::notice::{Notice, Source};
use state::{Fleet, JournalEvent};

impl Supervisor {
    /// Checks for remaining work once all agents have been idle for long enough.
    pub(super) fn rest(&mut self, now: Instant, out: &mut Vec<Action>) {
        let Some(span) = self.stop_when_idle.filter(|_| self.is_at_rest()) else {
            self.rests_since = None;
            return;
        };
        let since = *self.rests_since.get_or_insert(now);
        if now.saturating_duration_since(since) >= span && !self.checking_for_work {
            self.checking_for_work = true;
            out.push(Action::CheckForWork);
        }
    }

    /// Returns when the agents will have been idle for long enough.
    pub(super) fn rest_due(&self) -> Option<Instant> {
        let span = self.stop_when_idle.filter(|_| !self.checking_for_work)?;
        self.rests_since.map(|since| since + span)
    }

    /// Takes the result of the check. If nothing else runs, the machine saves and powers off.
    pub(super) fn work_checked(
        &mut self,
        now: Instant,
        found: Option<String>,
        out: &mut Vec<Action>,
    ) {
        self.checking_for_work = false;
        let rested = self.rests_since.take().is_some() && self.is_at_rest();
        if found.is_some() || !rested {
            return; // The idle time counts from zero again.
        }
        let why = "every agent has finished, and nothing is pending".to_owned();
        out.push(Action::Journal(None, JournalEvent::PoweringOff { why }));
        self.power_off = true;
        self.begin_save(now, Notice::new(Source::Command, now, None), out);
    }

    /// Reopens this boot: the machine still runs, so its user has to look after it.
    pub(super) fn power_off_failed(&mut self, why: String, out: &mut Vec<Action>) {
        self.power_off = false;
        let what = format!("the machine could not be powered off: {why}");
        out.push(Action::Journal(None, JournalEvent::Trouble { what }));
        self.stop_when_idle = None;
        self.survived("the machine could not be powered off", out);
    }

    fn is_at_rest(&self) -> bool {
        self.phase == Phase::Open
            && self.permit.is_some()
            && self.fleet == Fleet::Up
            && !self.agents.is_empty()
            && self.agents.values().all(has_finished)
    }
}

/// Whether an agent neither works, nor is about to, nor waits for anything.
fn has_finished(agent: &Agent) -> bool {
    match &agent.stage {
        Stage::Down => !agent.is_desired(),
        Stage::Failed => true,
        Stage::Up { activity, .. } => *activity == Activity::Idle,
        _ => false,
    }
}
