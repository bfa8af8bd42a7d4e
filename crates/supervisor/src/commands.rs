//! Events from the user and the cloud: configuration, start, stop, restart, preemption notice.

use std::time::Instant;

use super::agent::{Agent, Purpose, Stage};
use super::{Action, Declared, Phase, SURVIVED_AFTER, Supervisor};
use crate::notice::{Notice, Source};
use state::{AgentName, Cause, Desired, Fleet, JournalEvent};

impl Supervisor {
    /// Adds new agents, applies changed policies, and ends agents that are no longer configured.
    pub(super) fn declare(&mut self, now: Instant, declared: Vec<Declared>, out: &mut Vec<Action>) {
        let gone: Vec<AgentName> = self
            .agents
            .keys()
            .filter(|name| !declared.iter().any(|d| d.name == **name))
            .cloned()
            .collect();
        for name in gone {
            self.end(&name, Purpose::Stop, out);
            if let Some(agent) = self.agents.get_mut(&name) {
                agent.cause = Some(Cause::Stopped {
                    by: "declared".into(),
                });
                agent.declared = false;
            }
        }
        for declared in declared {
            if let Some(agent) = self.agents.get_mut(&declared.name) {
                agent.restart = declared.restart;
                agent.declared = true;
                let may_heal = agent.stage == Stage::Failed && declared.broken.is_none();
                if may_heal {
                    agent.stage = Stage::Down;
                    agent.failures = 0;
                    agent.session_id = declared.session_id;
                }
            } else {
                self.agents
                    .insert(declared.name.clone(), Agent::new(&declared, now));
            }
            if self.phase != Phase::Open
                && let Some(agent) = self.agents.get_mut(&declared.name)
                && agent.stage == Stage::Down
            {
                agent.mark_saved();
            }
            self.enqueue(&declared.name);
        }
    }

    pub(super) fn set_fleet(&mut self, now: Instant, fleet: Fleet, out: &mut Vec<Action>) {
        if self.fleet != fleet {
            self.fleet = fleet;
            out.push(Action::Journal(
                None,
                JournalEvent::Fleet { desired: fleet },
            ));
        }
        if fleet == Fleet::Up {
            self.end_pause(now, "requested by you".into(), false, out);
        }
        for name in self.names() {
            match fleet {
                Fleet::Up => self.enqueue(&name),
                Fleet::Down => self.end(&name, Purpose::Stop, out),
            }
        }
    }

    pub(super) fn want(
        &mut self,
        now: Instant,
        name: &AgentName,
        (desired, by): (Desired, String),
        out: &mut Vec<Action>,
    ) {
        if desired == Desired::Running {
            self.end_pause(now, "requested by you".into(), false, out);
        }
        let Some(agent) = self.agents.get_mut(name) else {
            return;
        };
        if agent.desired != desired {
            agent.desired = desired;
            out.push(Action::journal(
                name,
                JournalEvent::Desired {
                    desired,
                    by: by.clone(),
                },
            ));
        }
        match desired {
            Desired::Stopped => {
                agent.why = Some("stopped by you".into());
                agent.cause = Some(Cause::Stopped { by });
                // A user who stops a failed agent has seen the failure; it is not shown any more.
                if agent.stage == Stage::Failed {
                    agent.stage = Stage::Down;
                }
                out.push(Action::Persist(name.clone()));
                self.end(name, Purpose::Stop, out);
            }
            Desired::Running => {
                if let Stage::Starting { then, .. } = &mut agent.stage {
                    *then = None;
                }
                // A user who starts a failed agent has repaired something, so its failures are
                // reset.
                if matches!(agent.stage, Stage::Failed | Stage::Backoff { .. }) {
                    agent.stage = Stage::Down;
                }
                if agent.stage == Stage::Down {
                    agent.failures = 0;
                    agent.why = None;
                }
                out.push(Action::Persist(name.clone()));
                self.enqueue(name);
            }
        }
    }

    pub(super) fn restart(
        &mut self,
        now: Instant,
        name: &AgentName,
        when_idle: bool,
        out: &mut Vec<Action>,
    ) {
        self.end_pause(now, "requested by you".into(), false, out);
        let Some(agent) = self.agents.get_mut(name) else {
            return;
        };
        match agent.stage {
            Stage::Up { .. } if when_idle && !agent.is_idle() => agent.restart_when_idle = true,
            _ => self.end(name, Purpose::Restart, out),
        }
    }

    pub(super) fn begin_save(&mut self, now: Instant, notice: Notice, out: &mut Vec<Action>) {
        if self.phase != Phase::Open {
            return; // The first notice counts; the sender of a later one waits for the same save.
        }
        let left = notice.deadline.instant().saturating_duration_since(now);
        let deadline_ms = u64::try_from(left.as_millis()).ok();
        self.phase = Phase::Saving(notice);
        let what = JournalEvent::Notice {
            source: notice.source.to_string(),
            deadline_ms,
        };
        out.push(Action::Journal(None, what));
        out.push(Action::Save(notice));
    }

    pub(super) fn end_save(&mut self, now: Instant, out: &mut Vec<Action>) {
        let Phase::Saving(notice) = self.phase else {
            return;
        };
        // Only a cloud withdraws a notice. A signal or a command was a user's decision.
        let check_at = (notice.source == Source::Metadata)
            .then(|| notice.deadline.instant().max(now) + SURVIVED_AFTER);
        self.phase = Phase::Over { check_at };
        if self.power_off {
            out.push(Action::PowerOff);
        }
        for (name, agent) in &mut self.agents {
            if !matches!(agent.stage, Stage::Down | Stage::Failed) {
                agent.mark_saved();
                out.push(Action::Persist(name.clone()));
            }
        }
    }

    pub(super) fn survived(&mut self, reason: &str, out: &mut Vec<Action>) {
        if !matches!(self.phase, Phase::Over { .. }) {
            return;
        }
        self.phase = Phase::Open;
        out.push(Action::Journal(
            None,
            JournalEvent::Survived {
                reason: reason.into(),
            },
        ));
        for (_, agent) in self
            .agents
            .iter_mut()
            .filter(|(_, agent)| agent.stage == Stage::Saved)
        {
            agent.stage = Stage::Down;
            agent.why = None;
        }
        for name in self.names() {
            self.enqueue(&name);
        }
    }
}
