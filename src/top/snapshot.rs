//! What is known of the fleet at one moment, as the effects found it.

use std::collections::BTreeMap;

use crate::keeper::status::Status;
use claude::transcript::render::TranscriptLine;
use state::{AgentName, JournalEntry, Manifest};
use sys::files::Space;
use sys::time::Timestamp;

/// All of it.
#[derive(Debug, Clone, PartialEq)]
pub struct FleetSnapshot {
    /// How everything stands.
    pub status: Status,
    /// What went wrong at the last try to learn that; the status is then an older one.
    pub stale: Option<String>,
    /// What transcripts tell, by agent.
    pub glances: BTreeMap<AgentName, Glance>,
    /// What processes take, by agent.
    pub loads: BTreeMap<AgentName, Load>,
    /// The newest lines of the journal, oldest first.
    pub journal: Vec<JournalEntry>,
    /// The save of this boot, as far as it has come.
    pub save: Option<Manifest>,
    /// The disk of the data directory.
    pub disk: Option<Space>,
    /// The machine.
    pub machine: Machine,
    /// What was said by the agent whose words are looked at.
    pub words: Option<(AgentName, Vec<TranscriptLine>)>,
}

/// What a transcript tells in a glance.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Glance {
    /// The tool that is open, or the last words.
    pub doing: Option<String>,
    /// Tokens that were new to the model or said by it, over the session.
    pub tokens: u64,
    /// Tokens out of the model's cache, over the session.
    pub cached: u64,
    /// Tokens that the model has before its eyes.
    pub context: u64,
    /// The whole transcript was counted; otherwise there are more.
    pub is_whole: bool,
}

/// What an agent's processes take.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Load {
    /// Percent of one core, since the last look; none before the second.
    pub cpu: Option<u32>,
    /// Bytes of memory.
    pub memory: u64,
}

/// The machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Machine {
    /// Its name.
    pub name: String,
    /// Its cloud, where it is in one; null until it was asked.
    pub cloud: Option<String>,
    /// Whether it may be taken away at any time; null where nobody says.
    pub preemptible: Option<bool>,
}

/// Something that was found out, or happened.
#[derive(Debug, Clone, PartialEq)]
pub enum News {
    /// How everything stands now.
    FleetSnapshot(Box<FleetSnapshot>),
    /// What came of a command.
    Said {
        /// What was asked for, as it would be typed.
        command: String,
        /// What it printed.
        text: String,
        /// Whether it worked.
        worked: bool,
        /// It is to be read in full.
        show: bool,
    },
    /// Time has passed.
    Tick(Timestamp),
}
