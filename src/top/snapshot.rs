//! Fleet snapshot: everything that `spotkeep top` shows at one moment.

use std::collections::BTreeMap;

use crate::keeper::status::Status;
use claude::transcript::render::TranscriptLine;
use state::{AgentName, JournalEntry, Manifest};
use sys::files::Space;
use sys::time::Timestamp;

/// The state of the fleet at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct FleetSnapshot {
    /// The status of the fleet.
    pub status: Status,
    /// Why the last poll failed; the status is then an older one.
    pub stale: Option<String>,
    /// Summaries of the transcripts, by agent.
    pub glances: BTreeMap<AgentName, Glance>,
    /// CPU and memory, by agent.
    pub loads: BTreeMap<AgentName, Load>,
    /// The newest lines of the journal, oldest first.
    pub journal: Vec<JournalEntry>,
    /// The manifest of this boot's save, as far as it has come.
    pub save: Option<Manifest>,
    /// Space on the disk of the data directory.
    pub disk: Option<Space>,
    /// The machine.
    pub machine: Machine,
    /// The transcript of the agent that is followed.
    pub transcript: Option<(AgentName, Vec<TranscriptLine>)>,
}

/// A summary of a transcript.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Glance {
    /// The running tool, or the last message.
    pub doing: Option<String>,
    /// New input tokens and output tokens of the session.
    pub tokens: u64,
    /// Cached input tokens of the session.
    pub cached: u64,
    /// Tokens in the model's context.
    pub context: u64,
    /// Whether the whole transcript was counted; otherwise there are more tokens.
    pub is_whole: bool,
}

/// CPU and memory of an agent's processes.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Load {
    /// CPU usage since the last sample, in percent of one core; `None` before the second sample.
    pub cpu: Option<u32>,
    /// Memory, in bytes.
    pub memory: u64,
}

/// The machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Machine {
    /// The host name.
    pub name: String,
    /// The cloud, if it is in one; `None` until the cloud has answered.
    pub cloud: Option<String>,
    /// Whether the cloud may preempt it; `None` if unknown.
    pub preemptible: Option<bool>,
}

/// A message to the model.
#[derive(Debug, Clone, PartialEq)]
pub enum News {
    /// A new snapshot of the fleet.
    FleetSnapshot(Box<FleetSnapshot>),
    /// A command has ended.
    CommandDone {
        /// The command as the user would type it.
        command: String,
        /// Its output.
        text: String,
        /// Whether it succeeded.
        worked: bool,
        /// Whether to show the output in the pager.
        show: bool,
    },
    /// Time has passed.
    Tick(Timestamp),
}
