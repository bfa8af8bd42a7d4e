//! Transcript tail: the state of a session according to the end of its transcript. Pure.
//!
//! Measured on 2.1.197 and 2.1.330. A turn has ended once the model stopped with `end_turn`;
//! `turn_duration` follows in interactive sessions, but not under `-p` and not always after an API
//! error. Records are taken in the order of the file and not along the tree: results of parallel
//! tools are on different branches, and a call that is open on one of them is open.
//!
//! Escape before the first output of an answer leaves no trace: the transcript then ends in a
//! prompt that looks unanswered, while Claude Code is idle. [`Tail::was_cut`] therefore asks for
//! the last status.

use std::io;
use std::path::Path;

use std::fmt;

use serde_json::Value;

use super::reader::Reader;
use crate::session_file::Status;

pub use super::tail_state::{NUDGE_MARK, OWN_MARK, TailState};
pub use crate::api_error::ApiStop;

/// How much of a transcript is read at first, in bytes; a turn is seldom longer.
const FIRST_READ: u64 = 4 * 1024 * 1024;

/// State of a session at the end of its transcript.
#[derive(Debug, Clone, PartialEq)]
pub enum Tail {
    /// No records of a conversation yet.
    Empty,
    /// The last turn has ended.
    Idle,
    /// The last turn has ended, and commands or subagents of it run in the background. They end
    /// with Claude Code, whose next process does not always inform the model (2.1.197 begins a turn
    /// for lost commands, 2.1.330 does not), so nothing would wake it.
    AwaitingTasks {
        /// Number of tasks.
        count: u64,
    },
    /// Tools were called and have no result, or were killed while Claude Code was being stopped.
    /// Such a call may also be waiting for a permission, which only [`Status::Waiting`] shows.
    CutInTool {
        /// Calls in order.
        tools: Vec<OpenTool>,
    },
    /// A prompt or a tool result has had no reply.
    CutInStream,
    /// The model asked the user, who has not answered.
    WaitingForHuman {
        /// The call of `AskUserQuestion` or `ExitPlanMode`.
        tool: OpenTool,
    },
    /// The API did not answer, and Claude Code has given up.
    StoppedByApi {
        /// Why the API did not answer.
        reason: ApiStop,
        /// The message as Claude Code shows it.
        text: String,
    },
    /// The user pressed Escape.
    InterruptedByUser,
}

/// A tool call without a result.
#[derive(Debug, Clone, PartialEq)]
pub struct OpenTool {
    /// Id of the call.
    pub id: String,
    /// Name of the tool.
    pub name: String,
    /// Its arguments; never shown where other users can see them.
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
            Self::CutInStream => f.write_str("in the middle of an answer"),
            Self::WaitingForHuman { .. } => f.write_str("waiting for a human"),
            Self::StoppedByApi { text, .. } => write!(f, "stopped by the API: {text}"),
            Self::InterruptedByUser => f.write_str("interrupted by the user"),
        }
    }
}

impl Tail {
    /// Whether a turn was cut off that should continue. `last_status` is the last status of Claude
    /// Code before it ended, where it is known.
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

/// Reads as much of the end of a transcript as is needed to know its last turn.
///
/// Returns the reader as well, to continue with. Tasks that earlier turns left running in the
/// background are known only so far as the file was read; reading from the beginning finds all.
///
/// # Errors
/// The file cannot be read.
pub fn read(path: &Path) -> io::Result<(TailState, Reader)> {
    let mut bytes = FIRST_READ;
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
