//! Launches of agents: the queue, the limits on starts, and the timers of each stage.

use std::time::Instant;

use super::agent::{LOOK_AFTER, POLL_INTERVAL, Stage};
use super::{API_WAIT, Action, Api, DiskSpace, Phase, Supervisor};
use crate::restart_backoff::HEALTHY_AFTER;
use crate::start_limits::starts_allowed;
use state::{AgentName, Cause, Fleet, JournalEvent};

impl Supervisor {
    /// Queues an agent that is desired and does not run.
    pub(super) fn enqueue(&mut self, name: &AgentName) {
        let up = self.fleet == Fleet::Up;
        if let Some(agent) = self.agents.get_mut(name)
            && agent.stage == Stage::Down
            && agent.is_desired()
            && up
        {
            agent.stage = Stage::Queued;
        }
    }

    /// Applies what is due because time has passed.
    pub(super) fn pass_time(&mut self, now: Instant, out: &mut Vec<Action>) {
        if let Some(until) = self.permit.and_then(|permit| permit.until)
            && now >= until
        {
            self.permit = None;
        }
        if let Phase::Over { check_at } = &mut self.phase
            && check_at.is_some_and(|at| now >= at)
        {
            *check_at = None;
            out.push(Action::AskShutdown);
        }
        for (name, agent) in &mut self.agents {
            let desired = agent.is_desired() && self.fleet == Fleet::Up;
            match &mut agent.stage {
                // Whatever put it there, an agent that is not desired does not stay on its way to a
                // launch.
                Stage::Queued | Stage::Backoff { .. } if !desired => {
                    agent.stage = Stage::Down;
                    out.push(Action::Persist(name.clone()));
                }
                Stage::Backoff { until } if now >= *until => agent.stage = Stage::Queued,
                Stage::Up { since, .. }
                    if now.saturating_duration_since(*since) >= HEALTHY_AFTER =>
                {
                    agent.failures = 0;
                }
                Stage::Starting {
                    attempt,
                    look_at,
                    process: Some(_),
                    ..
                } if now >= *look_at => {
                    *look_at = now + POLL_INTERVAL;
                    out.push(Action::ScanScreen {
                        name: name.clone(),
                        attempt: *attempt,
                    });
                }
                Stage::Starting { look_at, .. } if now >= *look_at => {
                    *look_at = now + POLL_INTERVAL;
                }
                _ => {}
            }
        }
    }

    /// Launches queued agents as far as the limits permit.
    pub(super) fn launch(&mut self, now: Instant, out: &mut Vec<Action>) {
        self.next_start = None;
        if self.phase != Phase::Open || self.permit.is_none() || self.fleet == Fleet::Down {
            return;
        }
        let queued: Vec<AgentName> = self
            .agents
            .iter()
            .filter(|(_, agent)| agent.stage == Stage::Queued)
            .map(|(name, _)| name.clone())
            .collect();
        if queued.is_empty() || !self.api_is_ready(now, out) {
            return;
        }
        if self.disk_space != DiskSpace::Enough {
            return;
        }
        if self.login.is_some_and(|pause| !pause.may_start) {
            return;
        }
        let only_one = self.login.is_some() || self.api_backoff.is_bad();
        if let Some(next) = self.api_backoff.next_start(now) {
            self.next_start = Some(next);
            return;
        }
        let starting = self
            .agents
            .values()
            .filter(|agent| agent.is_starting())
            .count();
        let allowed = starts_allowed(self.limits, starting, self.available_memory);
        let allowed = if only_one { allowed.min(1) } else { allowed };
        for name in queued.into_iter().take(allowed) {
            self.api_backoff.on_request(now);
            if let Some(pause) = &mut self.login {
                pause.may_start = false;
            }
            self.launch_one(now, &name, out);
        }
    }

    pub(super) fn launch_one(&mut self, now: Instant, name: &AgentName, out: &mut Vec<Action>) {
        let Some(session_id) = self.agents.get(name).map(|agent| agent.session_id.clone()) else {
            return;
        };
        let holder = self
            .agents
            .iter()
            .find(|(other, agent)| {
                *other != name && agent.session_id == session_id && agent.holds_session()
            })
            .map(|(other, _)| other.clone());
        if let Some(holder) = holder {
            let why = format!("its session {session_id} is in use by the agent {holder}");
            self.failed(now, name, (why, Cause::CannotStart), false, out);
            return;
        }
        let Some(agent) = self.agents.get_mut(name) else {
            return;
        };
        agent.wait = None;
        agent.last_attempt += 1;
        let attempt = agent.last_attempt;
        agent.stage = Stage::Starting {
            attempt,
            since: now,
            look_at: now + LOOK_AFTER,
            process: None,
            blocker: None,
            then: None,
        };
        out.push(Action::Launch {
            name: name.clone(),
            attempt,
        });
    }

    /// Whether starts need not wait for the API any longer.
    pub(super) fn api_is_ready(&mut self, now: Instant, out: &mut Vec<Action>) -> bool {
        match self.api {
            Api::Answers => true,
            Api::Unasked => {
                self.api = Api::Asked {
                    wait_ends: now + API_WAIT,
                };
                out.push(Action::ProbeApi);
                false
            }
            Api::Asked { wait_ends } if now < wait_ends => false,
            Api::Asked { .. } => {
                self.api = Api::Answers;
                let what =
                    "the API did not answer within a minute; agents are started anyway".to_owned();
                out.push(Action::Journal(None, JournalEvent::Trouble { what }));
                true
            }
        }
    }
}
