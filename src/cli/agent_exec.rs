//! `spotkeep agent-exec`

use std::process::ExitCode;

use crate::agent::become_claude;
use crate::error::Result;
use crate::root::Root;
use crate::state::AgentName;

/// Arguments.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Which agent.
    name: AgentName,
}

pub(super) fn run(root: &Root, args: &Args) -> Result<ExitCode> {
    Err(become_claude(root, &args.name))
}
