//! `spotkeep attach`: opens an agent's terminal.

use std::os::unix::process::CommandExt as _;
use std::process::ExitCode;

use super::daemon::status;
use crate::keeper::runtime_dir::Holder;
use crate::tmux::Tmux;
use state::AgentName;
use state::layout::DataDir;
use sys::error::{Context as _, ErrorKind, Hint as _, Result, anyhow};

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Leave it with ctrl-b d; the agent keeps running.

Examples:
  spotkeep attach agent-1
  spotkeep attach")]
pub(super) struct Args {
    /// The agent's name. Without one, choose from a list.
    name: Option<AgentName>,
}

pub(super) fn run(data_dir: &DataDir, args: &Args) -> Result<ExitCode> {
    let holder = Holder::read(data_dir)
        .context("no keeper has run here yet")
        .hint("spotkeep up")?;
    let now = status(data_dir)?;
    let name = match &args.name {
        Some(name) => Some(name.clone()),
        // With a single agent there is nothing to choose.
        None if now.agents.len() == 1 => now.agents.first().map(|agent| agent.name.clone()),
        None => None,
    };
    if let Some(name) = &name
        && !now.agents.iter().any(|agent| agent.name == *name)
    {
        return Err(anyhow!("there is no agent {name}"))
            .hint("spotkeep ls")
            .kind(ErrorKind::Usage);
    }
    let tmux = Tmux::new(&holder.runtime);
    if let Some(name) = &name {
        tmux.screen(name)
            .context(format!("{name} has no terminal"))
            .hint(format!("spotkeep start {name}"))?;
    }
    Err(anyhow!(tmux.attach_command(name.as_ref()).exec()).context("cannot run tmux"))
}
