//! Stalled agents: shows, waits for and nudges agents whose turn the API ended.
//!
//! The nudges of each agent are limited, and the nudges of the fleet are spaced.
//!
//! The number of stops in a row is not stored here but counted in the transcript, so another
//! keeper, or another boot, continues with the same count.

use std::time::{Duration, Instant};

use super::agent::{Agent, Stage, jitter_seed};
use super::{Action, Activity, Phase, Stall, Supervisor};
use crate::cause::reason_of_stop;
use crate::stall_retry::{StallRetry, after_stop};
use claude::ApiStop;
use state::{AgentName, Fleet, JournalEvent, StartKind};
use sys::process::ProcessId;

/// A nudge that could not be typed is tried again after this time, without a limit: nothing was
/// sent.
const RETYPE_AFTER: Duration = Duration::from_secs(120);

/// A nudge without effect so long after it was typed has failed.
const NUDGE_TIMEOUT: Duration = Duration::from_secs(120);

/// Pause between the end of a fleet-wide pause and the first nudge.
const SOON: Duration = Duration::from_secs(2);

/// What the keeper does about one stall.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Wait {
    /// Id of the stop's record.
    pub(super) id: String,
    pub(super) stop: ApiStop,
    /// Stops in a row, as counted in the transcript.
    pub(super) in_a_row: u32,
    /// Number of those stops that do not count any more.
    pub(super) forgiven: u32,
    /// Nudges that were typed and had no effect.
    pub(super) futile: u32,
    pub(super) next: Next,
    /// Why the last nudge could not be typed.
    pub(super) refused: Option<String>,
}

/// The next step of a wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Nudge at this time.
    Nudge(Instant),
    /// A nudge is being typed, or was; its effect is expected until this time.
    Typed(Instant),
    /// Wait for a login.
    Login,
    /// Wait for the user.
    Human,
}

impl Wait {
    fn plan(
        &mut self,
        now: Instant,
        ends_in: Option<Duration>,
        (jitter_seed, time_scale): (u64, u32),
    ) {
        let stops = self.in_a_row.saturating_sub(self.forgiven).max(1) + self.futile;
        self.next = match after_stop(self.stop, stops, ends_in, jitter_seed) {
            StallRetry::Wait(pause) => Next::Nudge(now + pause / time_scale),
            StallRetry::Human => Next::Human,
        };
    }
}

impl Supervisor {
    /// Updates the wait after an agent's activity. `begun`: how its session was begun, where this
    /// is the first report of the process; a stop in it then happened in an earlier process.
    pub(super) fn active(
        &mut self,
        now: Instant,
        name: &AgentName,
        activity: &Activity,
        begun: Option<StartKind>,
        out: &mut Vec<Action>,
    ) {
        match (activity, begun) {
            // A session that was begun with this process has no stop from an earlier one, however
            // late its first scan came.
            (Activity::Stalled(stall), begun)
                if stall.inherited && begun != Some(StartKind::First) =>
            {
                self.inherited(now, name, stall, begun);
            }
            (Activity::Stalled(stall), _) => self.stalled(now, name, stall, out),
            (Activity::Idle, _) => {
                if let Some(agent) = self.agents.get_mut(name) {
                    agent.wait = None;
                }
            }
            // Whether it works, or will stall at the same place again, its transcript will show.
            (Activity::Busy | Activity::Waiting(_), _) => {}
        }
    }

    fn wait_for(&self, name: &AgentName, stall: &Stall) -> Wait {
        let forgiven = self
            .agents
            .get(name)
            .and_then(|agent| Some(agent.wait.as_ref()?.forgiven));
        Wait {
            id: stall.id.clone(),
            stop: stall.stop,
            in_a_row: stall.in_a_row,
            forgiven: forgiven.unwrap_or(0).min(stall.in_a_row.saturating_sub(1)),
            futile: 0,
            next: Next::Human,
            refused: None,
        }
    }

    /// Records that the API has ended an agent's turn.
    fn stalled(&mut self, now: Instant, name: &AgentName, stall: &Stall, out: &mut Vec<Action>) {
        let mut wait = self.wait_for(name, stall);
        let Some(agent) = self.agents.get_mut(name) else {
            return;
        };
        if agent.wait.as_ref().is_some_and(|known| known.id == wait.id) {
            return;
        }
        wait.plan(
            now,
            stall.ends_in,
            (jitter_seed(name), self.limits.time_scale),
        );
        let pauses = stall.stop == ApiStop::Login && !agent.own_login;
        if pauses {
            wait.next = Next::Login;
        }
        agent.wait = Some(wait);
        let until = match stall.stop {
            ApiStop::Limit { until } => until,
            _ => None,
        };
        let what = JournalEvent::Stalled {
            reason: reason_of_stop(stall.stop),
            why: stall.text.clone(),
            until,
            in_a_row: stall.in_a_row,
        };
        out.push(Action::journal(name, what));
        if stall.stop.is_api_trouble() {
            self.api_backoff.on_error(now);
        }
        if pauses {
            self.begin_pause(now, out);
        }
    }

    /// Plans for a session that the API stopped in an earlier process. Only a new try shows whether
    /// the stop still applies. Where the session was begun with a request to continue, or works on
    /// one, that is the try.
    fn inherited(
        &mut self,
        now: Instant,
        name: &AgentName,
        stall: &Stall,
        begun: Option<StartKind>,
    ) {
        let mut wait = self.wait_for(name, stall);
        wait.plan(
            now,
            stall.ends_in,
            (jitter_seed(name), self.limits.time_scale),
        );
        let tried = Next::Typed(now + NUDGE_TIMEOUT);
        wait.next = match (begun, stall.stop) {
            (Some(StartKind::Continue), _) => tried,
            (Some(_), ApiStop::Login) => Next::Nudge(now + SOON),
            (Some(_), _) | (None, ApiStop::Limit { .. } | ApiStop::Refused { .. }) => wait.next,
            (None, _) => tried,
        };
        if let Some(agent) = self.agents.get_mut(name)
            && agent.wait.as_ref().is_none_or(|known| known.id != wait.id)
        {
            agent.wait = Some(wait);
        }
    }

    /// Records that the model has answered an agent.
    pub(super) fn answered(
        &mut self,
        now: Instant,
        name: &AgentName,
        of: ProcessId,
        out: &mut Vec<Action>,
    ) {
        let Some(agent) = self.agents.get_mut(name) else {
            return;
        };
        // The response predates the stall; ignore it.
        if agent.process() != Some(of) || is_stalled(agent) {
            return;
        }
        let had_no_login = agent
            .wait
            .take()
            .is_some_and(|wait| wait.stop == ApiStop::Login);
        agent.own_login = false;
        self.api_backoff.on_success(now);
        let why = format!("the API answered {name}");
        if had_no_login {
            self.end_pause(now, why, false, out);
        } else if self.login.as_ref().is_some_and(|pause| pause.is_old(now)) {
            self.end_pause(now, why, true, out);
        }
    }

    /// Nudges the agents that are due, one at a time.
    pub(super) fn nudge(&mut self, now: Instant, out: &mut Vec<Action>) {
        self.next_nudge = None;
        if self.phase != Phase::Open || self.permit.is_none() || self.fleet == Fleet::Down {
            return;
        }
        self.give_up_on_typed(now);
        let gate = self.api_backoff.next_nudge(now);
        let due = match self.login {
            Some(_) => self.probing_agent(now),
            None => self.due(now),
        };
        if let Some(name) = due
            && gate.is_none()
        {
            self.nudge_one(now, name, out);
        }
        let gate = self.api_backoff.next_nudge(now);
        let retries = self.agents.values().filter_map(|agent| {
            match agent.wait.as_ref().filter(|_| can_be_nudged(agent))?.next {
                Next::Nudge(at) if self.login.is_none() => Some(at),
                Next::Typed(until) => Some(until),
                _ => None,
            }
        });
        let probe = self.login.as_ref().map(|pause| pause.probe_at);
        let next = retries.chain(probe).min();
        self.next_nudge = next.map(|at| gate.map_or(at, |gate| at.max(gate)));
    }

    fn nudge_one(&mut self, now: Instant, name: AgentName, out: &mut Vec<Action>) {
        let Some(agent) = self.agents.get_mut(&name) else {
            return;
        };
        let (Some(process), Some(wait)) = (agent.process(), agent.wait.as_mut()) else {
            return;
        };
        wait.next = Next::Typed(now + NUDGE_TIMEOUT);
        let (stop, in_a_row) = (wait.stop, wait.in_a_row);
        self.api_backoff.on_request(now);
        if let Some(pause) = &mut self.login {
            pause.probed(now);
        }
        out.push(Action::Nudge {
            name,
            process,
            stop,
            in_a_row,
        });
    }

    /// Returns the agent whose nudge has been due for longest.
    pub(super) fn due(&self, now: Instant) -> Option<AgentName> {
        let due = self.agents.iter().filter_map(|(name, agent)| {
            let wait = agent.wait.as_ref().filter(|_| can_be_nudged(agent))?;
            match wait.next {
                Next::Nudge(at) if at <= now => Some((at, name)),
                _ => None,
            }
        });
        due.min().map(|(_, name)| name.clone())
    }

    /// Counts a nudge without effect like a stop.
    fn give_up_on_typed(&mut self, now: Instant) {
        let (paused, time_scale) = (self.login.is_some(), self.limits.time_scale);
        for (name, agent) in &mut self.agents {
            if !can_be_nudged(agent) {
                continue;
            }
            if let Some(wait) = &mut agent.wait
                && matches!(wait.next, Next::Typed(until) if until <= now)
            {
                wait.futile += 1;
                if wait.stop == ApiStop::Login && paused {
                    wait.next = Next::Login;
                } else {
                    wait.plan(now, None, (jitter_seed(name), time_scale));
                }
            }
        }
    }

    /// Records whether a nudge was typed. An agent that answered quickly waits for nothing any
    /// more.
    pub(super) fn nudged(
        &mut self,
        now: Instant,
        name: &AgentName,
        (of, in_a_row): (ProcessId, u32),
        refused: Option<String>,
        out: &mut Vec<Action>,
    ) {
        if refused.is_none() {
            let what = JournalEvent::Nudged { in_a_row };
            out.push(Action::journal(name, what));
        }
        let paused = self.login.is_some();
        let Some(agent) = self.agents.get_mut(name) else {
            return;
        };
        if agent.process() != Some(of) {
            return;
        }
        let Some(wait) = &mut agent.wait else { return };
        if refused.is_some() {
            wait.next = match wait.next {
                Next::Typed(_) if paused && wait.stop == ApiStop::Login => Next::Login,
                Next::Typed(_) => Next::Nudge(now + RETYPE_AFTER),
                other => other,
            };
        }
        wait.refused = refused;
        out.push(Action::Persist(name.clone()));
    }

    /// Nudges the agents that stalled for lack of a login. `theirs`: other agents had a login all
    /// the time, so the problem is the agents' own login, and a fleet-wide pause does not help
    /// them.
    pub(super) fn ask_again(&mut self, now: Instant, theirs: bool) {
        let time_scale = self.limits.time_scale;
        for (name, agent) in &mut self.agents {
            let Some(wait) = &mut agent.wait else {
                continue;
            };
            if wait.stop != ApiStop::Login || !matches!(wait.next, Next::Login | Next::Human) {
                continue;
            }
            wait.forgiven = wait.in_a_row.saturating_sub(1);
            wait.futile = 0;
            if theirs {
                agent.own_login = true;
                wait.plan(now, None, (jitter_seed(name), time_scale));
            } else {
                wait.next = Next::Nudge(now + SOON);
            }
        }
    }
}

fn is_stalled(agent: &Agent) -> bool {
    matches!(
        &agent.stage,
        Stage::Up {
            activity: Activity::Stalled(_),
            ..
        }
    )
}

/// Whether a nudge would reach the agent in its stall.
pub(super) fn can_be_nudged(agent: &Agent) -> bool {
    is_stalled(agent) && agent.is_desired()
}
