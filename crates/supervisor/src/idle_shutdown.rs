//! A machine whose agents have all finished ends itself, where its user asked for that.

use std::time::Instant;

use super::agent::{Agent, Stage};
use super::{Action, Activity, Phase, Supervisor};
use crate::notice::{Notice, Source};
use state::{Fleet, JournalEvent};

impl Supervisor {
    /// Asks whether really nothing works any more, once everybody has rested for long enough.
    pub(super) fn rest(&mut self, now: Instant, out: &mut Vec<Action>) {
        let Some(span) = self.stop_when_idle.filter(|_| self.is_at_rest()) else {
            self.rests_since = None;
            return;
        };
        let since = *self.rests_since.get_or_insert(now);
        if now.saturating_duration_since(since) >= span && !self.asked_for_rest {
            self.asked_for_rest = true;
            out.push(Action::CheckForWork);
        }
    }

    /// When it will have lasted for long enough.
    pub(super) fn rest_due(&self) -> Option<Instant> {
        let span = self.stop_when_idle.filter(|_| !self.asked_for_rest)?;
        self.rests_since.map(|since| since + span)
    }

    /// What was found beside the agents themselves; nothing: the machine saves, and goes.
    pub(super) fn looked_for_work(
        &mut self,
        now: Instant,
        found: Option<String>,
        out: &mut Vec<Action>,
    ) {
        self.asked_for_rest = false;
        let rested = self.rests_since.take().is_some() && self.is_at_rest();
        if found.is_some() || !rested {
            return; // From here it counts anew.
        }
        let why = "every agent has finished, and nothing waits".to_owned();
        out.push(Action::Journal(None, JournalEvent::PoweringOff { why }));
        self.power_off = true;
        self.begin_save(now, Notice::new(Source::Command, now, None), out);
    }

    /// The machine is still there: somebody has to come back to it.
    pub(super) fn power_off_failed(&mut self, why: String, out: &mut Vec<Action>) {
        self.power_off = false;
        let what = format!("the machine could not be powered off: {why}");
        out.push(Action::Journal(None, JournalEvent::Trouble { what }));
        self.stop_when_idle = None;
        self.survived("it could not be powered off", out);
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
