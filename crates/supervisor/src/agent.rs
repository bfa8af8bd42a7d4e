//! Supervisor's state of one agent: stage, failures, and the view that users see.

use std::time::{Duration, Instant};

use super::event::{Activity, Attempt, Declared};
use super::stalls::{Next, Wait};
use crate::cause::cause_of_stop;
use state::config::Restart;
use state::{AgentName, AgentState, Cause, Desired, StartKind};
use sys::process::ProcessId;

/// The screen of a start that is not confirmed by now is scanned: a dialog may block it. Measured
/// starts take 1 to 3 s, 16 s with a transcript of 100 MB.
pub(super) const LOOK_AFTER: Duration = Duration::from_secs(5);

/// Interval of further scans of the screen.
pub(super) const POLL_INTERVAL: Duration = Duration::from_secs(5);

/// A start that is not confirmed by now, and shows no dialog, has failed. The limit is generous
/// because a crowded machine with large transcripts is slow and not broken.
pub(super) const START_LIMIT: Duration = Duration::from_secs(180);

/// Why an agent is being ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Purpose {
    /// It is not desired any more.
    Stop,
    /// It is to be started again.
    Restart,
    /// Its start failed; the reason.
    BadStart(String),
}

/// Stage of an agent between desired and running.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stage {
    /// Does not run, and will not be started.
    Down,
    /// Is started as soon as the limits permit it.
    Queued,
    /// Launched; not yet confirmed.
    Starting {
        attempt: Attempt,
        since: Instant,
        look_at: Instant,
        process: Option<(ProcessId, StartKind)>,
        /// The dialog that blocks it. A blocked start does not delay other starts.
        blocker: Option<String>,
        /// What was requested while the process was not yet known.
        then: Option<Purpose>,
    },
    /// Confirmed, or found running.
    Up {
        process: ProcessId,
        since: Instant,
        activity: Activity,
    },
    /// Asked to end.
    Ending {
        process: ProcessId,
        purpose: Purpose,
    },
    /// Failed; started again at `until`.
    Backoff { until: Instant },
    /// Failed too often, or cannot be started; needs the user.
    Failed,
    /// Ended by the save of this boot, or about to be.
    Saved,
}

/// Why a queued agent is not started yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Held {
    DataDir,
    Disk,
    Login,
    Api,
    ApiBackoff,
    Turn,
}

impl Held {
    fn why(self) -> &'static str {
        match self {
            Self::DataDir => "waits for the data directory to be available again",
            Self::Disk => "waits for disk space: the disk is full",
            Self::Login => "waits for a login: run /login in any agent",
            Self::Api => "waits for the API to answer",
            Self::ApiBackoff => "waits to be started; API errors slow down all starts",
            Self::Turn => "waits for other agents to start",
        }
    }
}

/// Seed that spreads the pauses of agents, derived from the name.
pub(super) fn jitter_seed(name: &AgentName) -> u64 {
    name.bytes().fold(0u64, |sum, byte| {
        sum.wrapping_mul(31).wrapping_add(u64::from(byte))
    })
}

/// One agent.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Agent {
    pub(super) session_id: String,
    pub(super) restart: Restart,
    pub(super) desired: Desired,
    /// Whether it is in the configuration file. An agent that is not is removed once it has ended.
    pub(super) declared: bool,
    pub(super) stage: Stage,
    /// Automatic restarts in total.
    pub(super) restarts: u32,
    /// Failures since it was last healthy.
    pub(super) failures: u32,
    pub(super) why: Option<String>,
    /// The cause that belongs to `why`.
    pub(super) cause: Option<Cause>,
    pub(super) restart_when_idle: bool,
    /// What is done about the last turn that the API ended.
    pub(super) wait: Option<Wait>,
    /// Other agents have a login while this one has none, so the problem is its own login.
    pub(super) own_login: bool,
    pub(super) last_attempt: Attempt,
    /// The state that users see, and since when.
    shown: (AgentState, Instant),
}

impl Agent {
    pub(super) fn new(declared: &Declared, now: Instant) -> Self {
        let stage = match (&declared.process, &declared.broken) {
            (Some(process), _) => Stage::Up {
                process: *process,
                since: now,
                activity: Activity::Busy,
            },
            (None, Some(_)) => Stage::Failed,
            (None, None) => Stage::Down,
        };
        Self {
            session_id: declared.session_id.clone(),
            restart: declared.restart,
            desired: declared.desired,
            declared: true,
            stage,
            restarts: declared.restarts,
            failures: 0,
            why: declared.broken.clone().or_else(|| {
                let stands_still = declared.desired == Desired::Stopped;
                declared.why.clone().filter(|_| stands_still)
            }),
            cause: match declared.broken {
                Some(_) => Some(Cause::CannotStart),
                None => declared.cause.clone(),
            },
            restart_when_idle: false,
            wait: None,
            own_login: false,
            last_attempt: 0,
            shown: (AgentState::Unknown, now),
        }
    }

    /// Updates since when the agent is in its state.
    pub(super) fn pass_time(&mut self, saving: bool, now: Instant) {
        let state = self.state(saving);
        if self.shown.0 != state {
            self.shown = (state, now);
        }
    }

    /// Whether the user wants it to run.
    pub(super) fn is_desired(&self) -> bool {
        self.declared && self.desired == Desired::Running
    }

    /// Returns its process in any stage.
    pub(super) fn process(&self) -> Option<ProcessId> {
        match &self.stage {
            Stage::Starting { process, .. } => process.map(|(process, _)| process),
            Stage::Up { process, .. } | Stage::Ending { process, .. } => Some(*process),
            _ => None,
        }
    }

    /// Whether a process that spotkeep started may use its session.
    pub(super) fn holds_session(&self) -> bool {
        matches!(
            self.stage,
            Stage::Starting { .. } | Stage::Up { .. } | Stage::Ending { .. }
        )
    }

    /// Whether it counts against the limit of simultaneous starts.
    pub(super) fn is_starting(&self) -> bool {
        matches!(self.stage, Stage::Starting { blocker: None, .. })
    }

    pub(super) fn is_idle(&self) -> bool {
        matches!(
            &self.stage,
            Stage::Up {
                activity: Activity::Idle | Activity::Stalled(_),
                ..
            }
        )
    }

    /// Marks the agent as saved: it does not run until the next boot, or until this boot continues.
    pub(super) fn mark_saved(&mut self) {
        if self.desired == Desired::Running {
            self.stage = Stage::Saved;
            self.why = Some("ended by a save; the next boot resumes it".into());
            self.cause = Some(Cause::Preempted);
        } else {
            self.stage = Stage::Down;
        }
    }

    fn state(&self, saving: bool) -> AgentState {
        match &self.stage {
            Stage::Queued => AgentState::Starting,
            Stage::Starting {
                blocker: Some(_), ..
            } => AgentState::Waiting,
            _ if saving && self.process().is_some() => AgentState::Saving,
            Stage::Starting { .. } => AgentState::Starting,
            Stage::Up { activity, .. } => match activity {
                Activity::Busy => AgentState::Running,
                Activity::Idle => AgentState::Idle,
                Activity::Waiting(_) => AgentState::Waiting,
                Activity::Stalled(_) => AgentState::Stalled,
            },
            Stage::Ending {
                purpose: Purpose::BadStart(_),
                ..
            } => AgentState::Starting,
            Stage::Ending { .. } => AgentState::Running,
            Stage::Backoff { .. } => AgentState::Backoff,
            Stage::Failed => AgentState::Failed,
            Stage::Down | Stage::Saved => AgentState::Stopped,
        }
    }

    fn why(&self, saving: bool, held: Held) -> Option<String> {
        match &self.stage {
            Stage::Queued => Some(held.why().into()),
            Stage::Starting {
                blocker: Some(blocker),
                ..
            } => Some(blocker.clone()),
            _ if saving && self.process().is_some() => self.why.clone(),
            Stage::Up { activity, .. } => match activity {
                Activity::Busy | Activity::Idle => None,
                Activity::Waiting(what) => what.clone(),
                Activity::Stalled(stall) => Some(self.stalled_why(&stall.text)),
            },
            Stage::Ending {
                purpose: Purpose::BadStart(why),
                ..
            } => Some(why.clone()),
            Stage::Ending { .. } => Some("is being ended".into()),
            Stage::Starting { .. }
            | Stage::Backoff { .. }
            | Stage::Failed
            | Stage::Down
            | Stage::Saved => self.why.clone(),
        }
    }

    /// Returns the view of the agent that users see.
    pub(super) fn view(&self, name: &AgentName, saving: bool, held: Held) -> View {
        View {
            name: name.clone(),
            state: self.state(saving),
            since: Some(self.shown.1),
            why: self.why(saving, held),
            cause: self.shown_cause(held),
            desired: self.desired,
            restarts: self.restarts,
            process: self.process(),
            session_id: self.session_id.clone(),
            next_try: match (&self.stage, self.wait.as_ref().map(|wait| wait.next)) {
                (Stage::Backoff { until }, _) => Some(*until),
                (
                    Stage::Up {
                        activity: Activity::Stalled(_),
                        ..
                    },
                    Some(Next::Nudge(at)),
                ) => Some(at),
                _ => None,
            },
        }
    }

    /// Returns the cause that keeps it from working now.
    fn shown_cause(&self, held: Held) -> Option<Cause> {
        match &self.stage {
            Stage::Queued => match held {
                Held::Disk => Some(Cause::DiskFull),
                Held::Login => Some(Cause::Login),
                Held::DataDir | Held::Api | Held::ApiBackoff | Held::Turn => None,
            },
            Stage::Starting {
                blocker: Some(shows),
                ..
            } => Some(Cause::Dialog {
                shows: shows.clone(),
            }),
            Stage::Up {
                activity: Activity::Stalled(stall),
                ..
            } => Some(cause_of_stop(stall.stop)),
            Stage::Starting { .. } | Stage::Up { .. } | Stage::Ending { .. } => None,
            Stage::Down | Stage::Backoff { .. } | Stage::Failed | Stage::Saved => {
                self.cause.clone()
            }
        }
    }

    fn stalled_why(&self, text: &str) -> String {
        let Some(wait) = &self.wait else {
            return format!("stopped by the API: {text}");
        };
        let then = match (&wait.refused, wait.next) {
            (Some(refused), Next::Nudge(_)) => format!("; not asked to continue yet: {refused}"),
            (_, Next::Nudge(_) | Next::Typed(_)) => String::new(),
            (_, Next::Login) => "; the fleet waits for a login".to_owned(),
            (_, Next::Human) => "; it waits for you".to_owned(),
        };
        format!("stopped by the API: {text}{then}")
    }
}

/// An agent as users see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// Its name.
    pub name: AgentName,
    /// What it is doing.
    pub state: AgentState,
    /// Since when; not before the keeper was started.
    pub since: Option<Instant>,
    /// Why it does not work, if it does not.
    pub why: Option<String>,
    /// The cause that belongs to `why`.
    pub cause: Option<Cause>,
    /// What the user requested.
    pub desired: Desired,
    /// Automatic restarts in total.
    pub restarts: u32,
    /// Its process, if it has one.
    pub process: Option<ProcessId>,
    /// Its session.
    pub session_id: String,
    /// Earliest time of its next start or nudge.
    pub next_try: Option<Instant>,
}
