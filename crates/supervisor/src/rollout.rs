//! Rollout of changed settings without interrupting a turn, one agent first.
//!
//! Settings are, for example, a new model or another version of Claude Code. The first agent is
//! restarted when it is idle next, and the others once the first has run with the settings for a
//! minute. If the first cannot, the others keep the old settings.

use std::time::{Duration, Instant};

use super::agent::{Agent, Stage};
use super::{Action, Phase, Supervisor};
use state::{AgentName, Fleet, JournalEvent};
use sys::process::ProcessId;

/// How long the first agent has to run. A wrong argument shows within seconds.
const WATCH: Duration = Duration::from_secs(60);

/// A rollout that is under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rollout {
    first: AgentName,
    /// Its process before the restart.
    old: Option<ProcessId>,
    /// Until when the new process is watched.
    watch: Option<Instant>,
    rest: Vec<AgentName>,
}

/// State of the first agent of a rollout.
enum FirstAgent {
    None,
    Up,
    Fails(String),
    /// It was stopped or removed, so it shows nothing.
    Gone,
}

impl Supervisor {
    /// Begins a rollout with one agent; replaces an older rollout that is under way.
    pub(super) fn roll_out(&mut self, now: Instant, names: Vec<AgentName>, out: &mut Vec<Action>) {
        // An agent that does not run gets the change at its next start.
        let mut runs: Vec<AgentName> = names
            .into_iter()
            .filter(|name| self.agents.get(name).is_some_and(is_up))
            .collect();
        let idle = |name: &AgentName| self.agents.get(name).is_some_and(Agent::is_idle);
        let at = runs.iter().position(idle).unwrap_or(0);
        self.rollout = None;
        if runs.is_empty() {
            return;
        }
        let first = runs.remove(at);
        if !runs.is_empty() {
            self.rollout = Some(Rollout {
                old: self.agents.get(&first).and_then(Agent::process),
                first: first.clone(),
                watch: None,
                rest: runs,
            });
        }
        self.restart(now, &first, true, out);
    }

    /// Checks the first agent, and continues with the others.
    pub(super) fn continue_rollout(&mut self, now: Instant, out: &mut Vec<Action>) {
        let Some(mut rollout) = self.rollout.take() else {
            return;
        };
        // After a save or `down`, each agent starts with the changed settings.
        if self.phase != Phase::Open || self.fleet != Fleet::Up {
            return;
        }
        match self.first_agent(&rollout) {
            FirstAgent::None => rollout.watch = None,
            FirstAgent::Gone => return self.roll_out(now, rollout.rest, out),
            FirstAgent::Fails(why) => {
                let what = format!(
                    "{} does not start with its changed settings; the other agents keep their old \
                     settings until `spotkeep up`: {why}",
                    rollout.first
                );
                out.push(Action::Journal(None, JournalEvent::Trouble { what }));
                return;
            }
            FirstAgent::Up => {
                let until = *rollout
                    .watch
                    .get_or_insert(now + WATCH / self.limits.time_scale);
                if now >= until {
                    for name in &rollout.rest {
                        if self.agents.get(name).is_some_and(is_up) {
                            self.restart(now, name, true, out);
                        }
                    }
                    return;
                }
            }
        }
        self.rollout = Some(rollout);
    }

    /// Returns when the first agent has run for long enough.
    pub(super) fn rollout_due(&self) -> Option<Instant> {
        self.rollout.as_ref()?.watch
    }

    fn first_agent(&self, rollout: &Rollout) -> FirstAgent {
        let Some(agent) = self.agents.get(&rollout.first) else {
            return FirstAgent::Gone;
        };
        let why = || agent.why.clone().unwrap_or_else(|| "it ended".into());
        match &agent.stage {
            _ if !agent.is_desired() => FirstAgent::Gone,
            Stage::Backoff { .. } | Stage::Failed => FirstAgent::Fails(why()),
            Stage::Starting {
                blocker: Some(blocker),
                ..
            } => FirstAgent::Fails(blocker.clone()),
            Stage::Up { process, .. } if Some(*process) != rollout.old => FirstAgent::Up,
            _ => FirstAgent::None,
        }
    }
}

fn is_up(agent: &Agent) -> bool {
    agent.is_desired() && matches!(agent.stage, Stage::Up { .. })
}
