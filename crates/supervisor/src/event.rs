//! What the supervisor is told, and what it asks for.

use std::time::{Duration, Instant};

use crate::notice::Notice;
use claude::ApiStop;
use state::config::Restart;
use state::{AgentName, Cause, Desired, Fleet, JournalEvent, StartKind};
use sys::exit::Exit;
use sys::process::ProcessId;

/// Counts the launches of one agent, so that news of an old one is not taken for the new one's.
pub type Attempt = u64;

/// Who may run this data directory, and until when. On one machine the lock gives an endless one; a lease
/// from elsewhere would give one that ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Permit {
    /// Raised with each keeper.
    pub epoch: u64,
    /// When it ends; `None`: with the process.
    pub until: Option<Instant>,
}

/// An agent as it is declared and remembered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declared {
    /// Its name.
    pub name: AgentName,
    /// The session that it would be started in.
    pub session_id: String,
    /// When it is started again after ending by itself.
    pub restart: Restart,
    /// What the user last said.
    pub desired: Desired,
    /// Restarts so far.
    pub restarts: u32,
    /// Its process, where one was found running in this boot.
    pub process: Option<ProcessId>,
    /// Why it stood still when it was last written down.
    pub why: Option<String>,
    /// The same in a word.
    pub cause: Option<Cause>,
    /// Why it cannot be started at all, such as a damaged record.
    pub broken: Option<String>,
}

/// What Claude says of itself in its session file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Activity {
    /// In a turn, or not telling.
    Busy,
    /// Between turns.
    Idle,
    /// Waits for a human.
    Waiting(Option<String>),
    /// Between turns, because the API ended the last one.
    Stalled(Stall),
}

/// A turn that was ended by the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stall {
    /// Why.
    pub stop: ApiStop,
    /// As Claude shows it.
    pub text: String,
    /// Which stop it is: the id of its record.
    pub id: String,
    /// How many times in a row it has come to this without a word of the model.
    pub in_a_row: u32,
    /// When its limit ends, from the moment that this was told.
    pub ends_in: Option<Duration>,
    /// Claude shows its dialog about the limit.
    pub dialog: bool,
    /// The transcript ended with it when this process was first looked at.
    pub inherited: bool,
}

impl Activity {
    /// Whether this says the same, whenever it was said.
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

/// How a process ended, and what it left on the screen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    /// How.
    pub exit: Exit,
    /// The last lines of its pane; often the only reason there is for a start that failed.
    pub last_words: Option<String>,
}

impl From<Exit> for Ending {
    fn from(exit: Exit) -> Self {
        Self {
            exit,
            last_words: None,
        }
    }
}

/// Why a launch did not lead to a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The reason, for a human.
    pub why: String,
    /// Whether trying again may help.
    pub retry: bool,
}

/// How much room there is on the data directory's disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DiskSpace {
    /// Enough, or not to be told.
    #[default]
    Enough,
    /// So little that an agent could not even write down what is said to it; percent free.
    None(u8),
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Time has passed; the memory that can still be given out, in bytes.
    Tick {
        /// `None` where it cannot be told.
        available_memory: Option<u64>,
    },
    /// The right to run this data directory was given, or taken away.
    Permit(Option<Permit>),
    /// What is declared now; agents that are not in it are ended.
    Declare(Vec<Declared>),
    /// The fleet as a whole is wanted or not.
    Fleet(Fleet),
    /// Somebody wants an agent to run or to stop. Wanting a failed one to run tries again.
    Want {
        /// Which.
        name: AgentName,
        /// What.
        desired: Desired,
        /// Who.
        by: String,
    },
    /// The user wants an agent started anew; at its next idle moment, or now.
    Restart {
        /// Which.
        name: AgentName,
        /// Whether to wait until its turn has ended.
        when_idle: bool,
    },
    /// These shall be started anew, each at its next idle moment, one of them before the others.
    RollOut(Vec<AgentName>),
    /// The machine is going to be taken away.
    Notice(Notice),
    /// After how long a rest of all agents the machine ends itself.
    StopWhenIdle(Option<Duration>),
    /// What still works beside the agents themselves, such as a command in the background.
    WorkChecked(Option<String>),
    /// The machine could not be powered off.
    PowerOffFailed(String),
    /// The room on the data directory's disk has changed.
    DiskSpace(DiskSpace),
    /// The API answers.
    ApiAnswers,
    /// A launch led to a process.
    Launched {
        /// Whose.
        name: AgentName,
        /// Which launch.
        attempt: Attempt,
        /// The process.
        process: ProcessId,
        /// How its session begins.
        how: StartKind,
    },
    /// A launch did not lead to a process.
    Refused {
        /// Whose.
        name: AgentName,
        /// Which launch.
        attempt: Attempt,
        /// Why.
        refusal: Refusal,
    },
    /// Claude's session file of this process names a session.
    Session {
        /// Whose.
        name: AgentName,
        /// The process that the file is of.
        process: ProcessId,
        /// The session that it is in now.
        session_id: String,
        /// What it is doing.
        activity: Activity,
    },
    /// The model has answered an agent; told now and then, not for each word.
    Answered {
        /// Whom.
        name: AgentName,
        /// In which process.
        process: ProcessId,
    },
    /// What came of a nudge.
    Nudged {
        /// Whose.
        name: AgentName,
        /// The process that it was for.
        process: ProcessId,
        /// After how many stops in a row.
        in_a_row: u32,
        /// Why it could not be typed, such as a person's unsent words; `None`: it was.
        refused: Option<String>,
    },
    /// There is a login again, or another one; says how that is known.
    Login(String),
    /// What the pane of an agent shows while its start is not confirmed: a dialog, or nothing known.
    Screen {
        /// Whose.
        name: AgentName,
        /// Which launch.
        attempt: Attempt,
        /// The dialog that blocks it.
        blocker: Option<String>,
    },
    /// An agent's process has ended.
    Exited {
        /// Whose.
        name: AgentName,
        /// The process.
        process: ProcessId,
        /// How.
        end: Ending,
    },
    /// The save has done what it could.
    SaveEnded,
    /// Whether the machine is shutting down, asked for by [`Action::AskShutdown`]; `None`: nobody could say.
    ShuttingDown(Option<bool>),
    /// A human says that this boot goes on after its notice.
    Survived,
}

/// What is to be done, in this order.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Write this agent's record, durably, before anything that follows.
    Persist(AgentName),
    /// Write a line into the journal, durably, before anything that follows.
    Journal(Option<AgentName>, JournalEvent),
    /// Remember a change of session, durably.
    Rebind {
        /// Whose.
        name: AgentName,
        /// The session that it is in now.
        session_id: String,
    },
    /// Find out whether the API answers; once.
    ProbeApi,
    /// Launch an agent.
    Launch {
        /// Which.
        name: AgentName,
        /// Its launch number.
        attempt: Attempt,
    },
    /// End an agent: SIGTERM, a grace period, SIGKILL, then what outlived it.
    End {
        /// Which.
        name: AgentName,
        /// Its process.
        process: ProcessId,
    },
    /// Type a word to go on into an agent whose turn the API ended.
    Nudge {
        /// Which.
        name: AgentName,
        /// Its process.
        process: ProcessId,
        /// Why its turn was ended.
        stop: ApiStop,
        /// How often in a row that was so.
        in_a_row: u32,
    },
    /// Look at the pane of an agent.
    ScanScreen {
        /// Which.
        name: AgentName,
        /// Its launch number.
        attempt: Attempt,
    },
    /// Close the launch gate to launches, then run the save to its end.
    Save(Notice),
    /// Find out whether the machine is shutting down.
    AskShutdown,
    /// Find out whether anything that the agents started still works.
    CheckForWork,
    /// End the machine; everything is safe.
    PowerOff,
}

impl Action {
    /// An entry in the journal about an agent.
    pub(crate) fn journal(name: &AgentName, event: JournalEvent) -> Self {
        Self::Journal(Some(name.clone()), event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stall_that_is_told_again_says_the_same_until_its_dialog_opens_or_the_next_comes() {
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
