//! Events that the supervisor takes, and actions that it returns.

use std::time::{Duration, Instant};

use crate::notice::Notice;
use claude::ApiStop;
use state::config::Restart;
use state::{AgentName, Cause, Desired, Fleet, JournalEvent, StartKind};
use sys::exit::Exit;
use sys::process::ProcessId;

/// Number of a launch of one agent, so that an event of an old launch is not applied to a new one.
pub type Attempt = u64;

/// Permission to run this data directory, and until when. On one machine the lock gives one without
/// an end; a lease from elsewhere would give one that ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Permit {
    /// Increases with each start of a keeper.
    pub epoch: u64,
    /// When it ends; `None`: with the process.
    pub until: Option<Instant>,
}

/// An agent as it is configured and recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declared {
    /// Its name.
    pub name: AgentName,
    /// The session that it would be started in.
    pub session_id: String,
    /// When it is started again after its process has ended.
    pub restart: Restart,
    /// What the user last requested.
    pub desired: Desired,
    /// Automatic restarts in total.
    pub restarts: u32,
    /// Its process, where one was found running in this boot.
    pub process: Option<ProcessId>,
    /// Why it did not work when its record was last written.
    pub why: Option<String>,
    /// The cause that belongs to `why`.
    pub cause: Option<Cause>,
    /// Why it cannot be started at all, like a damaged record.
    pub broken: Option<String>,
}

/// Activity that Claude Code reports in its session file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Activity {
    /// In a turn, or not reported.
    Busy,
    /// Between turns.
    Idle,
    /// Waits for the user.
    Waiting(Option<String>),
    /// Between turns, because the API ended the last one.
    Stalled(Stall),
}

/// A turn that was ended by the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stall {
    /// Why the API ended it.
    pub stop: ApiStop,
    /// The message as Claude Code shows it.
    pub text: String,
    /// Id of its record, which identifies the stop.
    pub id: String,
    /// How many stops in a row there were without an answer of the model.
    pub in_a_row: u32,
    /// When its limit ends, counted from this event.
    pub ends_in: Option<Duration>,
    /// Claude Code shows its dialog about the limit.
    pub dialog: bool,
    /// The transcript already ended with it when this process was first seen.
    pub inherited: bool,
}

impl Activity {
    /// Whether both describe the same stop, whenever they were reported.
    #[must_use]
    pub fn says_the_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Stalled(one), Self::Stalled(two)) => {
                (&one.id, one.dialog) == (&two.id, two.dialog)
            }
            (one, two) => one == two,
        }
    }
}

/// How a process ended, and the last lines of its pane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    /// Exit status of the process.
    pub exit: Exit,
    /// The last lines of its pane; often the only reason there is for a start that failed.
    pub last_output: Option<String>,
}

impl From<Exit> for Ending {
    fn from(exit: Exit) -> Self {
        Self {
            exit,
            last_output: None,
        }
    }
}

/// Why a launch did not lead to a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The reason, for the user.
    pub why: String,
    /// Whether trying again may help.
    pub retry: bool,
}

/// Free space on the data directory's disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DiskSpace {
    /// Enough, or not known.
    #[default]
    Enough,
    /// So little that an agent could not even record its input; percent free.
    None(u8),
}

/// An event that the supervisor takes.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Time has passed.
    Tick {
        /// Memory that can still be allocated, in bytes; `None` where it is not known.
        available_memory: Option<u64>,
    },
    /// The permission to run this data directory was given or taken away.
    Permit(Option<Permit>),
    /// The agents that are configured now; agents that are not in the list are ended.
    Declare(Vec<Declared>),
    /// The user started or stopped the fleet as a whole.
    Fleet(Fleet),
    /// The user requests that an agent runs or stops. A request to run a failed agent tries it
    /// again.
    Want {
        /// The agent.
        name: AgentName,
        /// Whether it is to run.
        desired: Desired,
        /// Who requested it.
        by: String,
    },
    /// The user requests a restart of an agent, when it is idle next or now.
    Restart {
        /// The agent.
        name: AgentName,
        /// Whether to wait until its turn has ended.
        when_idle: bool,
    },
    /// Settings of these agents have changed: each is restarted when it is idle next, one of them
    /// before the others.
    RollOut(Vec<AgentName>),
    /// A preemption notice: the machine is about to end.
    Notice(Notice),
    /// How long all agents must be idle before the machine is powered off; `None`: it is not.
    StopWhenIdle(Option<Duration>),
    /// What else still runs besides the agents' turns, like a command in the background.
    WorkChecked(Option<String>),
    /// The machine could not be powered off.
    PowerOffFailed(String),
    /// The free space on the data directory's disk has changed.
    DiskSpace(DiskSpace),
    /// The API responds.
    ApiAnswers,
    /// A launch led to a process.
    Launched {
        /// The agent.
        name: AgentName,
        /// The launch.
        attempt: Attempt,
        /// The process.
        process: ProcessId,
        /// How its session was begun.
        how: StartKind,
    },
    /// A launch did not lead to a process.
    Refused {
        /// The agent.
        name: AgentName,
        /// The launch.
        attempt: Attempt,
        /// Why it failed.
        refusal: Refusal,
    },
    /// Claude Code's session file of this process names a session.
    Session {
        /// The agent.
        name: AgentName,
        /// The process that the file belongs to.
        process: ProcessId,
        /// The session that it uses now.
        session_id: String,
        /// What it is doing.
        activity: Activity,
    },
    /// The model has answered an agent. Sent now and then, not for each output.
    Answered {
        /// The agent.
        name: AgentName,
        /// The process that got the answer.
        process: ProcessId,
    },
    /// Result of a nudge.
    Nudged {
        /// The agent.
        name: AgentName,
        /// The process that it was for.
        process: ProcessId,
        /// Number of stops in a row before it.
        in_a_row: u32,
        /// Why it could not be typed, like a user's unsubmitted input; `None`: it was typed.
        refused: Option<String>,
    },
    /// There is a login again, or another one; says how that is known.
    Login(String),
    /// What the pane of an agent shows while its start is not confirmed.
    Screen {
        /// The agent.
        name: AgentName,
        /// The launch.
        attempt: Attempt,
        /// The dialog that blocks it; `None`: no known dialog.
        blocker: Option<String>,
    },
    /// An agent's process has ended.
    Exited {
        /// The agent.
        name: AgentName,
        /// The process.
        process: ProcessId,
        /// How it ended.
        end: Ending,
    },
    /// The save has ended, complete or not.
    SaveEnded,
    /// Whether the machine is shutting down, as asked for by [`Action::AskShutdown`]; `None`: not
    /// known.
    ShuttingDown(Option<bool>),
    /// The user says that this boot continues after its notice.
    Survived,
}

/// An action that the keeper carries out, in this order.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Write this agent's record durably, before any action that follows.
    Persist(AgentName),
    /// Write an entry into the journal durably, before any action that follows.
    Journal(Option<AgentName>, JournalEvent),
    /// Record a change of session durably.
    Rebind {
        /// The agent.
        name: AgentName,
        /// The session that it uses now.
        session_id: String,
    },
    /// Probe the API once.
    ProbeApi,
    /// Launch an agent.
    Launch {
        /// The agent.
        name: AgentName,
        /// Number of the launch.
        attempt: Attempt,
    },
    /// End an agent: SIGTERM, the grace period, SIGKILL, then the processes that outlived it.
    End {
        /// The agent.
        name: AgentName,
        /// Its process.
        process: ProcessId,
    },
    /// Type a request to continue into an agent whose turn the API ended.
    Nudge {
        /// The agent.
        name: AgentName,
        /// Its process.
        process: ProcessId,
        /// Why its turn was ended.
        stop: ApiStop,
        /// Number of stops in a row.
        in_a_row: u32,
    },
    /// Scan the pane of an agent.
    ScanScreen {
        /// The agent.
        name: AgentName,
        /// Number of the launch.
        attempt: Attempt,
    },
    /// Close the launch gate, then run the save to its end.
    Save(Notice),
    /// Ask whether the machine is shutting down.
    AskShutdown,
    /// Check whether anything that the agents started still runs.
    CheckForWork,
    /// Power the machine off; everything is saved.
    PowerOff,
}

impl Action {
    /// Returns a journal entry about an agent.
    pub(crate) fn journal(name: &AgentName, event: JournalEvent) -> Self {
        Self::Journal(Some(name.clone()), event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_stall_is_the_same_until_its_dialog_opens_or_the_next_stall_comes() {
        let stall = |id: &str, dialog, in_a_row| {
            Activity::Stalled(Stall {
                stop: ApiStop::Network,
                text: "API Error".into(),
                id: id.into(),
                in_a_row,
                ends_in: None,
                dialog,
                inherited: false,
            })
        };
        let first = stall("1", false, 1);
        for (other, same) in [
            (stall("1", false, 1), true),
            (stall("1", false, 2), true),
            (stall("1", true, 1), false),
            (stall("2", false, 1), false),
            (Activity::Idle, false),
        ] {
            assert_eq!(first.says_the_same(&other), same, "{other:?}");
            assert_eq!(other.says_the_same(&first), same, "{other:?}");
        }
        assert!(Activity::Idle.says_the_same(&Activity::Idle));
        assert!(!Activity::Idle.says_the_same(&Activity::Busy));
    }
}
