//! Pure: what the end of a transcript says.
//!
//! Measured on 2.1.197 and 2.1.330. A turn has ended once the model stopped with `end_turn`;
//! `turn_duration` follows in interactive sessions, but not under `-p` and not always after an API
//! error. Records are taken in the order of the file and not along the tree: answers of parallel
//! tools hang on different branches, and a call that is open on one of them is open.
//!
//! Escape before the first word of an answer leaves no trace: the transcript then ends in a prompt
//! that looks unanswered, while Claude is idle. [`Tail::was_cut`] therefore asks for the last
//! status.

use std::io;
use std::path::Path;

use std::fmt;

use serde_json::Value;

use super::reader::Reader;
use crate::session_file::Status;

pub use super::tail_state::{NUDGE_MARK, OWN_MARK, TailState};
pub use crate::api_error::ApiStop;

/// How much of a transcript is read at first, in bytes; a turn is seldom longer.
const FIRST_LOOK: u64 = 4 * 1024 * 1024;

/// What the end of a transcript says.
#[derive(Debug, Clone, PartialEq)]
pub enum Tail {
    /// Nothing was said yet.
    Empty,
    /// The last turn has ended.
    Idle,
    /// The last turn has ended, and commands or subagents of it run in the background. They die
    /// with Claude, whose next process does not always tell the model (2.1.197 begins a turn for
    /// lost commands, 2.1.330 does not), so nothing would wake it.
    AwaitingTasks {
        /// How many.
        count: u64,
    },
    /// Tools were called and have not answered, or were killed while Claude was being stopped. Such
    /// a call may also be waiting for a permission, which only [`Status::Waiting`] tells.
    CutInTool {
        /// In the order of the calls.
        tools: Vec<OpenTool>,
    },
    /// A prompt or a tool's answer has had no reply.
    CutInStream,
    /// The model asked the user, who has not answered.
    WaitingForHuman {
        /// `AskUserQuestion` or `ExitPlanMode`.
        tool: OpenTool,
    },
    /// The API did not answer, and Claude has given up.
    StoppedByApi {
        /// Why.
        reason: ApiStop,
        /// As Claude shows it.
        text: String,
    },
    /// The user pressed Escape.
    InterruptedByUser,
}

/// A tool call without an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct OpenTool {
    /// Id of the call.
    pub id: String,
    /// Name of the tool.
    pub name: String,
    /// Its arguments; never to be shown where others can see it.
    pub input: Value,
}

impl fmt::Display for Tail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("nothing said"),
            Self::Idle => f.write_str("idle"),
            Self::AwaitingTasks { count } => write!(f, "waiting for {count} background tasks"),
            Self::CutInTool { tools } => {
                let names: Vec<&str> = tools.iter().map(|tool| tool.name.as_str()).collect();
                write!(f, "in a tool ({})", names.join(", "))
            }
            Self::CutInStream => f.write_str("in a stream"),
            Self::WaitingForHuman { .. } => f.write_str("waiting for a human"),
            Self::StoppedByApi { text, .. } => write!(f, "stopped by the API: {text}"),
            Self::InterruptedByUser => f.write_str("interrupted by its user"),
        }
    }
}

impl Tail {
    /// Whether a turn was cut off that should go on, `last_status` being what Claude said last
    /// before it ended, where that is known.
    #[must_use]
    pub fn was_cut(&self, last_status: Option<&Status>) -> bool {
        match self {
            Self::CutInStream => !matches!(last_status, Some(Status::Idle | Status::Shell)),
            Self::CutInTool { .. } | Self::AwaitingTasks { .. } | Self::WaitingForHuman { .. } => {
                true
            }
            Self::Empty | Self::Idle | Self::StoppedByApi { .. } | Self::InterruptedByUser => false,
        }
    }
}

/// Reads as much of the end of a transcript as it takes to know its last turn.
///
/// Returns the reader as well, to go on with. What earlier turns left running in the background is
/// known only so far as it was read; who follows a transcript from its beginning knows all.
///
/// # Errors
/// The file cannot be read.
pub fn read(path: &Path) -> io::Result<(TailState, Reader)> {
    let mut bytes = FIRST_LOOK;
    loop {
        let mut reader = Reader::tail(path, bytes)?;
        let from_the_start = reader.mark().offset == 0;
        let mut state = TailState::default();
        reader.each(|record| {
            state.push(&record);
            true
        })?;
        if state.found_request() || from_the_start {
            return Ok((state, reader));
        }
        bytes = bytes.saturating_mul(8);
    }
}

#[cfg(test)]
#[path = "tail_tests.rs"]
mod tests;
