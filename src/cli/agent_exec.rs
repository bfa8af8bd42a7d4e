//! `spotkeep agent-exec`

use std::process::ExitCode;

use crate::agent::exec::become_claude;
use state::AgentName;
use state::layout::Root;
use sys::error::Result;

/// Arguments.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Which agent.
    name: AgentName,
}

pub(super) fn run(root: &Root, args: &Args) -> Result<ExitCode> {
    Err(become_claude(root, &args.name))
}
