//! Agent records: `session-state/agents/<name>.json`, everything needed to resume an agent.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{AgentName, Cause, VERSION};
use sys::process::ProcessId;
use sys::uuid::new_uuid;

/// Desired state of an agent, as the user set it last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Desired {
    /// It is to run, in this boot and in the next.
    #[default]
    Running,
    /// It stays stopped, over a reboot too.
    Stopped,
}

/// State of an agent, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AgentState {
    /// In a turn.
    Running,
    /// Waits for a human: a permission, a question, a dialog.
    Waiting,
    /// Alive, and has nothing to do.
    Idle,
    /// Launched, or about to be; not yet confirmed by Claude's own session file.
    Starting,
    /// Alive, but the API ended its last turn.
    Stalled,
    /// Given up; `why` has the reason.
    Failed,
    /// Not running, as desired.
    #[default]
    Stopped,
    /// Being ended under a deadline.
    Saving,
    /// Will be started again after a pause.
    Backoff,
    /// Not known.
    #[serde(other)]
    Unknown,
}

impl AgentState {
    /// Returns its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Waiting => "waiting",
            Self::Idle => "idle",
            Self::Starting => "starting",
            Self::Stalled => "stalled",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
            Self::Saving => "saving",
            Self::Backoff => "backoff",
            Self::Unknown => "unknown",
        }
    }

    /// Returns its symbol.
    #[must_use]
    pub fn glyph(self) -> char {
        match self {
            Self::Running => '●',
            Self::Waiting => '◐',
            Self::Idle => '○',
            Self::Starting | Self::Backoff => '◌',
            Self::Stalled | Self::Saving => '◍',
            Self::Failed => '✕',
            Self::Stopped => '–',
            Self::Unknown => '?',
        }
    }
}

impl fmt::Display for AgentState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The command line of the agent's last launch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launch {
    /// Absolute path of the program.
    pub program: PathBuf,
    /// Its arguments, without the program's name.
    pub arguments: Vec<String>,
    /// Marker of the processes of this launch, in the environment of each.
    pub marker: String,
    /// The directory of its cgroup, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<PathBuf>,
}

/// How much of an agent's transcript is known to exist.
///
/// If this is set and the transcript is gone, it was lost: the agent then never starts with a blank
/// session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TranscriptMark {
    /// The session that it belongs to.
    pub session_id: String,
    /// Relative to Claude's configuration directory.
    pub path: PathBuf,
    /// Increased whenever the file was seen to shrink or to be replaced.
    pub generation: u32,
    /// Bytes that were durable when this was written.
    pub length: u64,
}

/// The persistent record of an agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AgentRecord {
    /// Version of this file's format.
    pub version: u32,
    /// Its name, which is also the file's.
    pub name: AgentName,
    /// Its own id, independent of name and session; it never changes.
    pub agent_id: String,
    /// The session that a start resumes; stored before it is first used.
    pub session_id: String,
    /// Sessions that it had before, oldest first (after `/clear`, or a fork).
    #[serde(default)]
    pub past_sessions: Vec<String>,
    /// The one directory it is always started in; relative where it is inside the data directory.
    pub cwd: PathBuf,
    /// The URL that its workspace was cloned from.
    #[serde(default)]
    pub origin: Option<String>,
    /// The commit that its workspace began with.
    #[serde(default)]
    pub base_commit: Option<String>,
    /// Desired state.
    #[serde(default, alias = "wanted")]
    pub desired: Desired,
    /// Its state when this was written.
    #[serde(default)]
    pub state: AgentState,
    /// Its state when it was last seen alive: running, waiting or idle.
    #[serde(default)]
    pub last_seen: Option<AgentState>,
    /// Why it does not work, for people.
    #[serde(default)]
    pub why: Option<String>,
    /// Why it does not work, for programs.
    #[serde(default)]
    pub cause: Option<Cause>,
    /// Number of restarts after it ended without being stopped.
    #[serde(default)]
    pub restarts: u32,
    /// The boot in which `process` ran.
    #[serde(default, alias = "life")]
    pub boot_id: Option<String>,
    /// Claude's process.
    #[serde(default)]
    pub process: Option<ProcessId>,
    /// The last launch.
    #[serde(default)]
    pub launch: Option<Launch>,
    /// Whether the declared prompt has reached the transcript; it is never sent twice.
    #[serde(default)]
    pub prompt_delivered: bool,
    /// How much of the transcript is known to exist.
    #[serde(default)]
    pub transcript: Option<TranscriptMark>,
    /// Fields that a newer version wrote.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

impl AgentRecord {
    /// Returns the record of a new agent with a new id and session.
    #[must_use]
    pub fn new(name: AgentName, cwd: PathBuf) -> Self {
        Self {
            version: VERSION,
            name,
            agent_id: new_uuid(),
            session_id: new_uuid(),
            past_sessions: Vec::new(),
            cwd,
            origin: None,
            base_commit: None,
            desired: Desired::Running,
            state: AgentState::Stopped,
            last_seen: None,
            why: None,
            cause: None,
            restarts: 0,
            boot_id: None,
            process: None,
            launch: None,
            prompt_delivered: false,
            transcript: None,
            unknown: Map::new(),
        }
    }

    /// Returns its process, if that still runs in this boot.
    #[must_use]
    pub fn live_process(&self, boot_id: &str) -> Option<ProcessId> {
        if self.boot_id.as_deref() != Some(boot_id) {
            return None;
        }
        self.process.filter(|process| process.is_alive())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_a_newer_version_survive_being_rewritten() {
        let mut record = AgentRecord::new(AgentName::new("a").unwrap(), "workspaces/a".into());
        record.unknown.insert("colour".into(), Value::from("green"));
        let text = serde_json::to_string(&record).unwrap();
        let back: AgentRecord = serde_json::from_str(&text).unwrap();
        assert_eq!(back, record);
    }

    #[test]
    fn a_fraction_is_written_as_it_was_read() {
        for number in 1..1_000 {
            let fraction = 1e-7 / f64::from(number);
            let text = serde_json::to_string(&fraction).unwrap();
            let read: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(read.to_string(), text);
        }
    }

    #[test]
    fn a_record_of_the_first_version_is_read_for_ever() {
        let text = r#"{"version":1,"name":"agent-1","agent_id":"6d0f7d5e-3c3f-4a0e-8f43-0a3a5d2b8c11",
            "session_id":"0b6c1f7e-97a3-4f7c-8d92-7d0f6f0b9a55","cwd":"workspaces/agent-1"}"#;
        let record: AgentRecord = serde_json::from_str(text).unwrap();
        assert_eq!(record.desired, Desired::Running);
        assert_eq!(record.state, AgentState::Stopped);
    }

    #[test]
    fn a_state_that_only_a_newer_version_knows_is_unknown() {
        assert_eq!(
            serde_json::from_str::<AgentState>("\"dreaming\"").unwrap(),
            AgentState::Unknown
        );
    }

    #[test]
    fn the_name_of_a_state_is_that_in_its_file_and_each_has_a_symbol() {
        use AgentState::*;
        for state in [
            Running, Waiting, Idle, Starting, Stalled, Failed, Stopped, Saving, Backoff, Unknown,
        ] {
            assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
            assert_eq!(format!("{state:>8}|"), format!("{:>8}|", state.as_str()));
            assert!(!state.glyph().is_control() && !state.glyph().is_whitespace());
        }
    }

    #[test]
    fn a_process_of_another_boot_is_not_live_whatever_its_pid() {
        let mut record = AgentRecord::new(AgentName::new("a").unwrap(), "w".into());
        let own = ProcessId::current().unwrap();
        assert_eq!(record.live_process("now"), None);
        record.process = Some(own);
        assert_eq!(record.live_process("now"), None, "of no boot that is known");
        record.boot_id = Some("now".into());
        assert_eq!(record.live_process("now"), Some(own));
        assert_eq!(record.live_process("next"), None);
        // The pid now belongs to another process.
        record.process = Some(ProcessId {
            start_time: own.start_time + 1,
            ..own
        });
        assert_eq!(record.live_process("now"), None);
    }
}
