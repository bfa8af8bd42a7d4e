//! Record of a transcript, reduced to the fields that are used or shown.
//!
//! Measured on 2.1.197 and 2.1.330. Each block of an assistant's message is its own record, written
//! once the message is complete, so its stop reason is always that of the message. A message that
//! was still streaming is not recorded.

use serde_json::Value;

use sys::time::Timestamp;

/// One record.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// Kind and content.
    pub kind: RecordKind,
    /// Its id; records about the session have none.
    pub uuid: Option<String>,
    /// The record that it continues; with `uuid` they form a tree.
    pub parent: Option<String>,
    /// When it was made.
    pub timestamp: Option<Timestamp>,
    /// Whether it belongs to a subagent.
    pub sidechain: bool,
}

/// Kind and content of a record.
#[derive(Debug, Clone, PartialEq)]
pub enum RecordKind {
    /// A message to the model that begins or continues a turn.
    Prompt {
        /// Text of the message.
        text: String,
        /// Who sent it.
        by: Speaker,
    },
    /// A command that runs in Claude Code itself (`/rename`, `! ls`) and its output, or a reminder;
    /// it begins no turn.
    Local(String),
    /// A message that was queued while the model worked, and was passed to it within the turn.
    Absorbed(String),
    /// The summary that replaces a compacted conversation.
    Summary,
    /// Results of tools.
    ToolResults(Vec<ToolResult>),
    /// A part of the model's answer.
    Assistant {
        /// Blocks in order.
        blocks: Vec<Block>,
        /// `end_turn` at the end of a turn, `tool_use` where tools are to run.
        stop: Option<String>,
        /// Tokens of the whole message; each record of it has the same.
        cost: Option<Cost>,
    },
    /// Claude Code's own message in place of an answer that the API did not give.
    ApiError {
        /// `rate_limit`, `authentication_failed`, `server_error`, `unknown` ...
        error: Option<String>,
        /// HTTP status.
        status: Option<u16>,
        /// The message as it is shown.
        text: String,
        /// When a usage limit ends; 2.1.330 records it, 2.1.197 only has it in the text.
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
        /// Subagents that the turn left running, and for which it waits.
        background_agents: u64,
    },
    /// A remark of Claude Code, by its subtype: `compact_boundary`, `stop_hook_summary`,
    /// `local_command` ...
    System(String),
    /// A prompt was queued while the model worked.
    Enqueue(String),
    /// Queued prompts left the queue.
    Dequeue(Dequeue),
    /// The session was given a name.
    Title(String),
    /// A record that is not used, by its type.
    Unknown(String),
}

/// Sender of a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaker {
    /// The user, or the program that started Claude Code with a prompt.
    Human,
    /// Claude Code itself: an expanded command, a hook's objection, the end of a background task.
    Machine,
}

/// How prompts left the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dequeue {
    /// The first prompt, or the one with this text where it is given.
    One(Option<String>),
    /// All prompts, back into the input box.
    All,
}

/// Tokens of a message of the model. A message of several blocks is recorded several times, each
/// with the same cost, which counts once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cost {
    /// Id of the message; without one, equal costs cannot be matched.
    pub message: Option<String>,
    /// Number of tokens.
    pub tokens: Tokens,
}

/// Token counts, as the API reports them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tokens {
    /// Input that is in no cache.
    pub input: u64,
    /// Output of the model.
    pub output: u64,
    /// Input that is written to the cache.
    pub cache_written: u64,
    /// Input that is read from the cache, so it was sent before.
    pub cache_read: u64,
}

/// A part of an assistant's message.
#[derive(Debug, Clone, PartialEq)]
pub enum Block {
    /// Text.
    Text(String),
    /// A call of a tool.
    ToolUse {
        /// Id that the result refers to.
        id: String,
        /// Name of the tool.
        name: String,
        /// Its arguments.
        input: Value,
    },
    /// Thinking, and unknown types.
    Other(String),
}

/// Result of one tool call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolResult {
    /// Id of the call.
    pub tool_use_id: String,
    /// Whether the tool failed or was refused.
    pub is_error: bool,
    /// Output as text, without images.
    pub text: String,
    /// Id of the task that it left running in the background: a command or a subagent. Its end is
    /// recorded later, in a `<task-notification>`.
    pub background: Option<String>,
}
