//! Helpers for verbs: query the keeper, or take its lock while no keeper runs.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::keeper::client::{self, status_without_data_dir};
use crate::keeper::status::{AgentStatus, Status, from_files};
use crate::setup::first_boot_script;
use state::config::Config;
use state::layout::DataDir;
use state::{AgentName, AgentState};
use sys::error::{Context as _, ErrorKind, Hint as _, Result, anyhow};
use sys::files::LockFile;

/// Poll interval while waiting for agents. The keeper answers in well under a millisecond.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Returns the status, from the keeper if one runs, otherwise from the files.
pub(super) fn status(data_dir: &DataDir) -> Result<Status> {
    let mut status = match client::status(data_dir, client::TIMEOUT)? {
        Some(status) => status,
        None => from_files(data_dir)?,
    };
    // The first-boot script belongs to the machine, so the keeper does not check it.
    status.trouble.extend(first_boot_script::trouble(data_dir));
    Ok(status)
}

/// Like [`status`], for verbs that only read: a keeper still answers when the disk of the data
/// directory is missing.
pub(super) fn status_at(at: &Path) -> Result<Status> {
    let error = match DataDir::open(at) {
        Ok(data_dir) => return status(&data_dir),
        Err(error) => error,
    };
    // A path that does not exist any more cannot be resolved.
    let dir = std::fs::canonicalize(at).unwrap_or_else(|_| at.to_path_buf());
    match status_without_data_dir(&dir) {
        Ok(status) => status.ok_or(error),
        Err(silent) => Err(silent.context(format!("{error:#}"))),
    }
}

/// Returns the named agents of a status; all of them if `names` is empty.
pub(super) fn named<'a>(status: &'a Status, names: &[AgentName]) -> Result<Vec<&'a AgentStatus>> {
    for name in names {
        if !status.agents.iter().any(|agent| agent.name == *name) {
            return Err(anyhow!("there is no agent {name}"))
                .hint("spotkeep ls")
                .kind(ErrorKind::Usage);
        }
    }
    Ok(status
        .agents
        .iter()
        .filter(|agent| names.is_empty() || names.contains(&agent.name))
        .collect())
}

/// Returns the given names, or those of all agents in spotkeep.toml.
pub(super) fn names_or_all(data_dir: &DataDir, names: Vec<AgentName>) -> Result<Vec<AgentName>> {
    if names.is_empty() {
        return Ok(Config::load(&data_dir.config())?
            .agents
            .into_keys()
            .collect());
    }
    Ok(names)
}

/// Takes the keeper's lock, so that no keeper starts while this process changes files.
pub(super) fn instead_of_keeper(data_dir: &DataDir) -> Result<LockFile> {
    LockFile::try_take(&data_dir.lock())?
        .context("a keeper is just starting or stopping")
        .hint("try again in a second")
}

/// Polls the status until `settled` or until `limit` is over; returns the last status.
pub(super) fn wait(
    data_dir: &DataDir,
    limit: Duration,
    settled: impl Fn(&Status) -> bool,
) -> Result<Status> {
    let until = Instant::now() + limit;
    loop {
        let now = status(data_dir)?;
        if settled(&now) || Instant::now() >= until {
            return Ok(now);
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// Returns whether an agent is in a state that ends soon: starting or saving.
pub(super) fn is_moving(agent: &AgentStatus) -> bool {
    matches!(agent.state, AgentState::Starting | AgentState::Saving)
}
