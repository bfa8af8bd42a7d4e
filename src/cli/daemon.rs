//! What several verbs need of the keeper, or in its place.

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

/// How often a wait for agents looks again. The keeper answers in well under a millisecond.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// How everything stands, from whoever knows.
pub(super) fn status(data_dir: &DataDir) -> Result<Status> {
    let mut status = match client::status(data_dir, client::TIMEOUT)? {
        Some(status) => status,
        None => from_files(data_dir)?,
    };
    // The machine's own script is no business of the keeper's.
    status.trouble.extend(first_boot_script::trouble(data_dir));
    Ok(status)
}

/// The same for a reader, whom a keeper still answers when the data directory's disk has gone away under it.
pub(super) fn status_at(at: &Path) -> Result<Status> {
    let error = match DataDir::open(at) {
        Ok(data_dir) => return status(&data_dir),
        Err(error) => error,
    };
    // Where nothing is there any more, the path stands for itself.
    let dir = std::fs::canonicalize(at).unwrap_or_else(|_| at.to_path_buf());
    match status_without_data_dir(&dir) {
        Ok(status) => status.ok_or(error),
        Err(silent) => Err(silent.context(format!("{error:#}"))),
    }
}

/// The agents of a status that are named; all of them where none is.
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

/// The names that are meant: those given, or all that are declared.
pub(super) fn names_or_all(data_dir: &DataDir, names: Vec<AgentName>) -> Result<Vec<AgentName>> {
    if names.is_empty() {
        return Ok(Config::load(&data_dir.config())?
            .agents
            .into_keys()
            .collect());
    }
    Ok(names)
}

/// Takes the keeper's place for a moment, so that files can be changed under nobody's feet.
pub(super) fn instead_of_keeper(data_dir: &DataDir) -> Result<LockFile> {
    LockFile::try_take(&data_dir.lock())?
        .context("a keeper is just starting or ending")
        .hint("try again in a second")
}

/// Looks at the fleet until `settled`, at most for `limit`; returns the last look.
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

/// Whether an agent is on its way to somewhere else.
pub(super) fn is_moving(agent: &AgentStatus) -> bool {
    matches!(agent.state, AgentState::Starting | AgentState::Saving)
}
