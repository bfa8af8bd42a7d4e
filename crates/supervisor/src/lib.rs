//! State machine of the fleet: takes events, returns actions. No clock, thread, file or process.
//!
//! Invariants, which the property tests check with random sequences of events:
//! 1. No session is launched while a process that spotkeep started may still use it.
//! 2. After a preemption notice nothing is launched until the user or the machine says that this
//!    boot continues.
//! 3. Nothing is launched without a permit.
//! 4. An agent that the user stopped is not launched, and no agent is while the fleet is down.
//! 5. An agent that is desired and does not run is queued, or its view says why not.
//! 6. An agent is nudged only after the API has ended its turn, not before its retry time, and no
//!    two agents are nudged at once.
//! 7. A fleet that waits for a login asks again, and continues when there is one.

pub mod activity_log;
mod agent;
pub mod api_backoff;
pub mod cause;
pub mod checkpoint_schedule;
mod commands;
mod event;
mod idle_shutdown;
mod launching;
mod lifecycle;
mod login;
pub mod notice;
pub mod notice_budget;
pub mod restart_backoff;
mod rollout;
pub mod stall_retry;
mod stalls;
pub mod start_limits;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use agent::{Agent, Held, Stage};
use login::Pause;

use crate::api_backoff::ApiBackoff;
use crate::notice::Notice;
use crate::start_limits::Limits;
use state::{AgentName, Fleet};

pub use agent::View;
pub use event::{
    Action, Activity, Attempt, Declared, DiskSpace, Ending, Event, Permit, Refusal, Stall,
};

/// How long an API that cannot be reached, or cannot be probed, delays the first starts at most.
const API_WAIT: Duration = Duration::from_secs(60);

/// A machine that still runs so long after the deadline was not preempted.
const SURVIVED_AFTER: Duration = Duration::from_secs(60);

/// Phase of this boot.
#[derive(Debug, Clone, PartialEq)]
enum Phase {
    /// Agents may be launched.
    Open,
    /// A notice has come and the save is under way.
    Saving(Notice),
    /// The save has ended. `check_at`: when to ask whether the machine is still shutting down.
    Over { check_at: Option<Instant> },
}

/// Whether the API is known to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Api {
    Unasked,
    Asked { wait_ends: Instant },
    Answers,
}

/// State of the fleet, on which all decisions are based.
#[derive(Debug)]
pub struct Supervisor {
    limits: Limits,
    permit: Option<Permit>,
    fleet: Fleet,
    phase: Phase,
    api: Api,
    available_memory: Option<u64>,
    api_backoff: ApiBackoff,
    /// When the API backoff permits the next start, while an agent waits for it.
    next_start: Option<Instant>,
    /// When to evaluate the stalled agents again.
    next_nudge: Option<Instant>,
    disk_space: DiskSpace,
    /// How long all agents must be idle before the machine is powered off.
    stop_when_idle: Option<Duration>,
    rests_since: Option<Instant>,
    checking_for_work: bool,
    /// The save under way was requested by the supervisor, to power the machine off.
    power_off: bool,
    /// The whole fleet waits for a login.
    login: Option<Pause>,
    /// Rollout of changed settings that is under way.
    rollout: Option<rollout::Rollout>,
    agents: BTreeMap<AgentName, Agent>,
}

impl Supervisor {
    /// Returns a supervisor that knows no agents yet. `noticed`: this boot has had its preemption
    /// notice already.
    #[must_use]
    pub fn new(limits: Limits, fleet: Fleet, noticed: bool) -> Self {
        let phase = if noticed {
            Phase::Over { check_at: None }
        } else {
            Phase::Open
        };
        Self {
            limits,
            permit: None,
            fleet,
            phase,
            api: Api::Unasked,
            available_memory: None,
            api_backoff: ApiBackoff::default(),
            next_start: None,
            next_nudge: None,
            disk_space: DiskSpace::Enough,
            stop_when_idle: None,
            rests_since: None,
            checking_for_work: false,
            power_off: false,
            login: None,
            rollout: None,
            agents: BTreeMap::new(),
        }
    }

    /// Returns the views of all agents, ordered by name.
    #[must_use]
    pub fn views(&self) -> Vec<View> {
        let agents = self.agents.iter();
        agents
            .map(|(name, agent)| self.view_of(name, agent))
            .collect()
    }

    /// Returns the view of one agent.
    #[must_use]
    pub fn view(&self, name: &AgentName) -> Option<View> {
        self.agents.get(name).map(|agent| self.view_of(name, agent))
    }

    fn view_of(&self, name: &AgentName, agent: &Agent) -> View {
        let saving = matches!(self.phase, Phase::Saving(_));
        let held = match () {
            () if self.permit.is_none() => Held::DataDir,
            () if self.disk_space != DiskSpace::Enough => Held::Disk,
            () if self.login.is_some() => Held::Login,
            () if self.api != Api::Answers => Held::Api,
            () if self.api_backoff.is_bad() => Held::ApiBackoff,
            () => Held::Turn,
        };
        agent.view(name, saving, held)
    }

    /// Returns the notice of this boot while its save runs.
    #[must_use]
    pub fn notice(&self) -> Option<&Notice> {
        match &self.phase {
            Phase::Saving(notice) => Some(notice),
            _ => None,
        }
    }

    /// Whether this boot has had its notice, so that nothing is launched.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.phase != Phase::Open
    }

    /// Returns what the whole fleet waits for, in one word.
    #[must_use]
    pub fn paused(&self) -> Option<&'static str> {
        self.login.as_ref().map(|_| "login")
    }

    /// Whether an action that was decided earlier, and has waited for the disk since, is still
    /// needed.
    #[must_use]
    pub fn still_wants(&self, action: &Action) -> bool {
        match action {
            Action::Launch { name, attempt } => {
                let stage = self.agents.get(name).map(|agent| &agent.stage);
                matches!(
                    stage,
                    Some(Stage::Starting { attempt: now, process: None, then: None, .. })
                        if now == attempt
                )
            }
            Action::PowerOff => matches!(self.phase, Phase::Over { .. }),
            _ => true,
        }
    }

    /// Returns whether the fleet is up or down.
    #[must_use]
    pub fn fleet(&self) -> Fleet {
        self.fleet
    }

    /// Returns when to call `step` again if no event comes before.
    #[must_use]
    pub fn next_wakeup(&self) -> Option<Instant> {
        let agents = self.agents.values().filter_map(|agent| match &agent.stage {
            Stage::Starting { look_at, .. } => Some(*look_at),
            Stage::Backoff { until } => Some(*until),
            _ => None,
        });
        let api = match self.api {
            Api::Asked { wait_ends } => Some(wait_ends),
            _ => None,
        };
        let over = match self.phase {
            Phase::Over { check_at } => check_at,
            _ => None,
        };
        let paced = self.next_start.into_iter().chain(self.next_nudge);
        let slow = self.rest_due().into_iter().chain(self.rollout_due());
        agents.chain(api).chain(over).chain(paced).chain(slow).min()
    }

    /// Applies one event and returns the actions to carry out.
    pub fn step(&mut self, now: Instant, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        self.apply(now, event, &mut actions);
        self.pass_time(now, &mut actions);
        self.continue_rollout(now, &mut actions);
        self.launch(now, &mut actions);
        self.nudge(now, &mut actions);
        self.rest(now, &mut actions);
        self.agents
            .retain(|_, agent| agent.declared || agent.holds_session());
        let saving = matches!(self.phase, Phase::Saving(_));
        for agent in self.agents.values_mut() {
            agent.pass_time(saving, now);
        }
        actions
    }

    fn apply(&mut self, now: Instant, event: Event, out: &mut Vec<Action>) {
        match event {
            Event::Tick { available_memory } => self.available_memory = available_memory,
            Event::Permit(permit) => self.permit = permit,
            Event::Declare(declared) => self.declare(now, declared, out),
            Event::Fleet(fleet) => self.set_fleet(now, fleet, out),
            Event::Want { name, desired, by } => self.want(now, &name, (desired, by), out),
            Event::Restart { name, when_idle } => self.restart(now, &name, when_idle, out),
            Event::RollOut(names) => self.roll_out(now, names, out),
            Event::Notice(notice) => self.begin_save(now, notice, out),
            Event::StopWhenIdle(span) => self.stop_when_idle = span,
            Event::WorkChecked(found) => self.work_checked(now, found, out),
            Event::PowerOffFailed(why) => self.power_off_failed(why, out),
            Event::DiskSpace(disk_space) => self.disk_space = disk_space,
            Event::ApiAnswers => self.api = Api::Answers,
            Event::Launched {
                name,
                attempt,
                process,
                how,
            } => self.launched(now, &name, attempt, (process, how), out),
            Event::Refused {
                name,
                attempt,
                refusal,
            } => {
                self.refused(now, &name, attempt, refusal, out);
            }
            Event::Session {
                name,
                process,
                session_id,
                activity,
            } => {
                self.session(now, &name, process, session_id, activity, out);
            }
            Event::Answered { name, process } => self.answered(now, &name, process, out),
            Event::Nudged {
                name,
                process,
                in_a_row,
                refused,
            } => self.nudged(now, &name, (process, in_a_row), refused, out),
            Event::Login(why) => self.end_pause(now, why, false, out),
            Event::Screen {
                name,
                attempt,
                blocker,
            } => self.screen(now, &name, attempt, blocker, out),
            Event::Exited { name, process, end } => self.exited(now, &name, process, end, out),
            Event::SaveEnded => self.end_save(now, out),
            Event::ShuttingDown(Some(false)) => {
                self.survived("the machine was not preempted", out);
            }
            Event::ShuttingDown(Some(true) | None) => {
                if let Phase::Over { check_at } = &mut self.phase {
                    *check_at = Some(now + SURVIVED_AFTER);
                }
            }
            Event::Survived => self.survived("requested by the user", out),
        }
    }

    fn names(&self) -> Vec<AgentName> {
        self.agents.keys().cloned().collect()
    }
}

#[cfg(test)]
mod tests;
