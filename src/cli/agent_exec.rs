//! `spotkeep agent-exec`

use std::process::ExitCode;

use crate::keeper::agent_exec::become_claude;
use crate::state::AgentName;
use crate::state::layout::Root;
use crate::sys::error::Result;

/// Arguments.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Which agent.
    name: AgentName,
}

pub(super) fn run(root: &Root, args: &Args) -> Result<ExitCode> {
    Err(become_claude(root, &args.name))
}
