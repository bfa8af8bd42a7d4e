//! What several verbs need of the keeper, or in its place.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::keeper::client::{self, status_without_root};
use crate::keeper::status::{AgentStatus, Status, from_files};
use crate::setup::first_boot_script;
use state::config::Config;
use state::layout::Root;
use state::{AgentName, AgentState};
use sys::error::{Context as _, ErrorKind, Hint as _, Result, anyhow};
use sys::files::LockFile;

/// How often a wait for agents looks again. The keeper answers in well under a millisecond.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How everything stands, from whoever knows.
pub(super) fn status(root: &Root) -> Result<Status> {
    let mut status = match client::status(root, client::PATIENCE)? {
        Some(status) => status,
        None => from_files(root)?,
    };
    // The machine's own script is no business of the keeper's.
    status.trouble.extend(first_boot_script::trouble(root));
    Ok(status)
}

/// The same for a reader, whom a keeper still answers when the root's disk has gone away under it.
pub(super) fn status_at(at: &Path) -> Result<Status> {
    let error = match Root::open(at) {
        Ok(root) => return status(&root),
        Err(error) => error,
    };
    // Where nothing is there any more, the path stands for itself.
    let dir = std::fs::canonicalize(at).unwrap_or_else(|_| at.to_path_buf());
    match status_without_root(&dir) {
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
pub(super) fn names_or_all(root: &Root, names: Vec<AgentName>) -> Result<Vec<AgentName>> {
    if names.is_empty() {
        return Ok(Config::load(&root.config())?.agents.into_keys().collect());
    }
    Ok(names)
}

/// Takes the keeper's place for a moment, so that files can be changed under nobody's feet.
pub(super) fn instead_of_keeper(root: &Root) -> Result<LockFile> {
    LockFile::try_take(&root.lock())?
        .context("a keeper is just starting or ending")
        .hint("try again in a second")
}

/// Looks at the fleet until `settled`, at most for `limit`; returns the last look.
pub(super) fn wait(
    root: &Root,
    limit: Duration,
    settled: impl Fn(&Status) -> bool,
) -> Result<Status> {
    let until = Instant::now() + limit;
    loop {
        let now = status(root)?;
        if settled(&now) || Instant::now() >= until {
            return Ok(now);
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Whether an agent is on its way to somewhere else.
pub(super) fn is_moving(agent: &AgentStatus) -> bool {
    matches!(agent.state, AgentState::Starting | AgentState::Saving)
}
