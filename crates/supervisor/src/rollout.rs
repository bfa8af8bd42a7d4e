//! Changed settings, such as a new model or another version of Claude, reach the fleet without cutting a turn:
//! one agent first, at its next idle moment, and the others at theirs once the first has lived with them
//! for a minute. If it cannot, the others keep what works.

use std::time::{Duration, Instant};

use super::agent::{Agent, Stage};
use super::{Action, Phase, Supervisor};
use state::{AgentName, Fleet, JournalEvent};
use sys::process::ProcessId;

/// So long the first one has to live. What is wrong with an argument shows within seconds.
const WATCH: Duration = Duration::from_secs(60);

/// A change on its way through the fleet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rollout {
    first: AgentName,
    /// Its process of before.
    old: Option<ProcessId>,
    /// Until when the new one is watched.
    watch: Option<Instant>,
    rest: Vec<AgentName>,
}

/// What the first one tells of the change.
enum News {
    None,
    Up,
    Fails(String),
    /// It is not there to tell.
    Gone,
}

impl Supervisor {
    /// Begins with one; a change that was under way is forgotten, since this one is newer.
    pub(super) fn roll_out(&mut self, now: Instant, names: Vec<AgentName>, out: &mut Vec<Action>) {
        // Who does not run gets the change by its next start.
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

    /// Looks at the first one, and goes on with the others.
    pub(super) fn go_on_rolling(&mut self, now: Instant, out: &mut Vec<Action>) {
        let Some(mut rollout) = self.rollout.take() else {
            return;
        };
        // Whoever comes back from there has the change.
        if self.phase != Phase::Open || self.fleet != Fleet::Up {
            return;
        }
        match self.news_of(&rollout) {
            News::None => rollout.watch = None,
            News::Gone => return self.roll_out(now, rollout.rest, out),
            News::Fails(why) => {
                let what = format!(
                    "{} does not come up with its changed settings, and the others keep theirs until `up`: {why}",
                    rollout.first
                );
                out.push(Action::Journal(None, JournalEvent::Trouble { what }));
                return;
            }
            News::Up => {
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

    /// When the first one has lived for long enough.
    pub(super) fn rollout_due(&self) -> Option<Instant> {
        self.rollout.as_ref()?.watch
    }

    fn news_of(&self, rollout: &Rollout) -> News {
        let Some(agent) = self.agents.get(&rollout.first) else {
            return News::Gone;
        };
        let why = || agent.why.clone().unwrap_or_else(|| "it ended".into());
        match &agent.stage {
            _ if !agent.is_desired() => News::Gone,
            Stage::Backoff { .. } | Stage::Failed => News::Fails(why()),
            Stage::Starting {
                blocker: Some(blocker),
                ..
            } => News::Fails(blocker.clone()),
            Stage::Up { process, .. } if Some(*process) != rollout.old => News::Up,
            _ => News::None,
        }
    }
}

fn is_up(agent: &Agent) -> bool {
    agent.is_desired() && matches!(agent.stage, Stage::Up { .. })
}
