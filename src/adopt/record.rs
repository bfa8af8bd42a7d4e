//! Record of an agent that continues an existing session.

use std::fs;
use std::path::PathBuf;

use claude::TranscriptLookup;
use state::config::Config;
use state::layout::DataDir;
use state::{AgentName, AgentRecord, Desired, TranscriptMark};
use sys::error::{ErrorKind, Hint as _, Result, anyhow};
use sys::process;
use sys::uuid::is_uuid;

/// The existing session that an agent continues.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Past {
    /// Its transcript, which is in the data directory.
    pub mark: TranscriptMark,
    /// The agent's working directory, as it is stored.
    pub cwd: PathBuf,
    /// Whether it shall run.
    pub desired: Desired,
}

/// Finds the transcript of an existing session in the data directory.
///
/// # Errors
/// It does not exist, it exists more than once, or an agent has it.
pub fn session_mark(
    data_dir: &DataDir,
    declared: &Config,
    session_id: &str,
) -> Result<TranscriptMark> {
    if !is_uuid(session_id) {
        return Err(anyhow!(
            "{session_id:?} is not a session id; it must be a UUID"
        ))
        .hint("spotkeep adopt --all")
        .kind(ErrorKind::Usage);
    }
    for name in declared.agents.keys() {
        if data_dir
            .load_record(name)?
            .is_some_and(|record| record.session_id == session_id)
        {
            return Err(anyhow!(
                "the session {session_id} belongs to the agent {name}"
            ))
            .hint(format!("spotkeep attach {name}"))
            .kind(ErrorKind::Usage);
        }
    }
    let config_dir = data_dir.claude();
    match claude::locate(&config_dir, session_id) {
        TranscriptLookup::Present(path) => Ok(TranscriptMark {
            session_id: session_id.to_owned(),
            length: fs::metadata(&path)?.len(),
            path: path
                .strip_prefix(&config_dir)
                .unwrap_or(&path)
                .to_path_buf(),
            generation: 0,
        }),
        TranscriptLookup::Several(paths) => Err(anyhow!(
            "the session {session_id} exists in {} folders",
            paths.len()
        ))
        .hint(format!(
            "move all but the right one away: {}",
            paths[0].display()
        )),
        TranscriptLookup::Unknown(why) => {
            Err(anyhow!("cannot look for the session {session_id}: {why}"))
        }
        TranscriptLookup::Missing | TranscriptLookup::Blank(_) => Err(anyhow!(
            "there is no session {session_id} in {}",
            config_dir.display()
        ))
        .hint(format!(
            "spotkeep --data-dir {} adopt {session_id}",
            data_dir.dir().display()
        )),
    }
}

/// Writes the record before the agent is declared, because a keeper reads it only then. Where no
/// keeper runs, the caller holds the keeper's lock.
///
/// # Errors
/// The record is damaged, or the disk refused.
pub fn remember(data_dir: &DataDir, name: &AgentName, past: Past) -> Result<()> {
    let mut record = data_dir
        .load_record(name)?
        .unwrap_or_else(|| AgentRecord::new(name.clone(), past.cwd.clone()));
    let old = std::mem::replace(&mut record.session_id, past.mark.session_id.clone());
    if record.transcript.is_some() && old != record.session_id {
        record.past_sessions.push(old);
    }
    record.transcript = Some(past.mark);
    record.prompt_delivered = true;
    record.cwd = past.cwd;
    record.desired = past.desired;
    record.why = (past.desired == Desired::Stopped).then(|| "stopped by you".to_owned());
    // No preemption ended the session, so the agent's note must not mention one.
    record.boot_id = Some(process::current_boot_id()?);
    data_dir.store_record(&record)
}
