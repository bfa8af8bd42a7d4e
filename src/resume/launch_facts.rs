//! What the decision on a launch rests on.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use super::previous_boot::History;
use super::recover::Recovery;
use claude::{TailState, TranscriptLookup};
use state::AgentRecord;
use sys::time::Timestamp;

/// What is known of an agent before it is launched. What could be repaired was.
#[derive(Debug)]
pub(super) struct LaunchFacts<'a> {
    /// What is remembered of it.
    pub record: &'a AgentRecord,
    /// The declared prompt.
    pub prompt: Option<&'a str>,
    /// The boot.
    pub boot_id: &'a str,
    /// The boot before.
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
    /// What the end of its transcript says; nothing where there is none.
    pub tail: io::Result<TailState>,
    /// Whether Claude finds the transcript from the workspace.
    pub is_found_from_cwd: bool,
    /// What happened to its workspace, as sentences.
    pub workspace: Option<String>,
    /// What came of looking for what was lost.
    pub brought: Recovery,
    /// The file for the details of its note.
    pub note_file: PathBuf,
    /// A fresh mark for the processes of this launch.
    pub marker: String,
    /// Now.
    pub now: Timestamp,
}
