//! `spotkeep agent-exec`: replaces itself with an agent's Claude process.

use std::process::ExitCode;

use crate::agent::exec::become_claude;
use state::AgentName;
use state::layout::DataDir;
use sys::error::Result;

/// Arguments.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The agent's name.
    name: AgentName,
}

pub(super) fn run(data_dir: &DataDir, args: &Args) -> Result<ExitCode> {
    Err(become_claude(data_dir, &args.name))
}
