//! The facts from which a launch is decided.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use super::previous_boot::History;
use super::recover::Recovery;
use claude::{TailState, TranscriptLookup};
use state::AgentRecord;
use sys::time::Timestamp;

/// What is known of an agent before its launch, after all repairs.
#[derive(Debug)]
pub(super) struct LaunchFacts<'a> {
    /// Its record.
    pub record: &'a AgentRecord,
    /// The declared prompt.
    pub prompt: Option<&'a str>,
    /// The boot's id.
    pub boot_id: &'a str,
    /// How the boot before ended.
    pub history: &'a History,
    /// The absolute path of its workspace.
    pub cwd: PathBuf,
    /// The program that it runs.
    pub program: PathBuf,
    /// The arguments that are declared for it.
    pub extra: Vec<String>,
    /// The environment that is declared for it.
    pub environment: BTreeMap<String, String>,
    /// Where its transcript is.
    pub session: TranscriptLookup,
    /// The state at the end of its transcript; empty where there is none.
    pub tail: io::Result<TailState>,
    /// Whether Claude Code finds the transcript from the workspace.
    pub is_found_from_cwd: bool,
    /// What happened to its workspace, as sentences.
    pub workspace: Option<String>,
    /// What was recovered, and what could not be.
    pub brought: Recovery,
    /// The file for the details of its note.
    pub note_file: PathBuf,
    /// A new marker for the processes of this launch.
    pub marker: String,
    /// The current time.
    pub now: Timestamp,
}
