//! One record of a transcript, reduced to what decides something or is shown to people.
//!
//! Measured on 2.1.197 and 2.1.330. A block of an assistant's message is a record of its own,
//! written once the message is whole, so its stop reason is always that of the message; what was
//! still streaming is nowhere.

use serde_json::Value;

use sys::time::Timestamp;

/// One record.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// What it says.
    pub kind: RecordKind,
    /// Its own id; records about the session have none.
    pub uuid: Option<String>,
    /// The record that it continues; with `uuid` they form a tree.
    pub parent: Option<String>,
    /// When it was made.
    pub timestamp: Option<Timestamp>,
    /// Whether it belongs to a subagent.
    pub sidechain: bool,
}

/// What a record says.
#[derive(Debug, Clone, PartialEq)]
pub enum RecordKind {
    /// Something said to the model that begins or goes on with a turn.
    Prompt {
        /// The words.
        text: String,
        /// Who said it.
        by: Speaker,
    },
    /// A command that runs in Claude itself (`/rename`, `! ls`) and its output, or a reminder: no
    /// turn.
    Local(String),
    /// A message that was queued while the model worked, and that it was given within the turn.
    Absorbed(String),
    /// The summary that takes the place of what was compacted away.
    Summary,
    /// What tools answered.
    ToolResults(Vec<ToolResult>),
    /// A part of what the model said.
    Assistant {
        /// In order.
        blocks: Vec<Block>,
        /// `end_turn` at the end of a turn, `tool_use` where tools are to run.
        stop: Option<String>,
        /// What the whole message cost; each record of it says the same.
        cost: Option<Cost>,
    },
    /// Claude's own words in place of an answer that the API did not give.
    ApiError {
        /// `rate_limit`, `authentication_failed`, `server_error`, `unknown` ...
        error: Option<String>,
        /// HTTP status.
        status: Option<u16>,
        /// As it is shown.
        text: String,
        /// When a usage limit ends; 2.1.330 says it, 2.1.197 only in words.
        resets_at: Option<Timestamp>,
    },
    /// The user pressed Escape.
    Interrupted {
        /// In a tool, not in the stream.
        in_tool: bool,
    },
    /// The end of an interactive turn (`turn_duration`); not written under `-p`, nor always after
    /// an error.
    TurnEnd {
        /// Subagents that the turn left running, and on which it waits.
        background_agents: u64,
    },
    /// A remark of Claude's, by its subtype: `compact_boundary`, `stop_hook_summary`,
    /// `local_command` ...
    System(String),
    /// A prompt was queued while the model worked.
    Enqueue(String),
    /// Queued prompts left the queue.
    Dequeue(Dequeue),
    /// The session was given a name.
    Title(String),
    /// What we have no use for, by its type.
    Unknown(String),
}

/// Who said a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaker {
    /// A human, or whoever started Claude with a prompt.
    Human,
    /// Claude Code itself: an expanded command, a hook's objection, the end of a background task.
    Machine,
}

/// How prompts left the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dequeue {
    /// The first one, or the one with these words where they are given.
    One(Option<String>),
    /// All, back into the input box.
    All,
}

/// What a message of the model cost. A message of several blocks is as many records, and the cost
/// stands in each: it counts once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cost {
    /// Of which message; without an id it cannot be told from another's.
    pub message: Option<String>,
    /// How much.
    pub tokens: Tokens,
}

/// Tokens, as the API counts them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tokens {
    /// Given to the model, and in no cache.
    pub input: u64,
    /// Said by the model.
    pub output: u64,
    /// Given to the model, and put into its cache.
    pub cache_written: u64,
    /// Given to the model out of its cache: the same words again.
    pub cache_read: u64,
}

/// A part of an assistant's message.
#[derive(Debug, Clone, PartialEq)]
pub enum Block {
    /// Words.
    Text(String),
    /// A call of a tool.
    ToolUse {
        /// Which a result refers to.
        id: String,
        /// Name of the tool.
        name: String,
        /// Its arguments.
        input: Value,
    },
    /// Thinking, and whatever comes.
    Other(String),
}

/// The answer to one tool call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolResult {
    /// The call.
    pub tool_use_id: String,
    /// Whether the tool failed or was refused.
    pub is_error: bool,
    /// What it said, images left out.
    pub text: String,
    /// Id of the task that it left running in the background: a command or a subagent. Its end
    /// is told later, in a `<task-notification>`.
    pub background: Option<String>,
}
