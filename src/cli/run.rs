//! `spotkeep run`

use std::process::ExitCode;

use clap::ValueEnum;

use super::log;
use crate::keeper::{self, Options};
use state::layout::DataDir;
use sys::error::Result;
use sys::{command, process};

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  spotkeep run                     # under systemd, where SIGTERM means an upgrade
  spotkeep run --sigterm save      # in a container or a terminal, where SIGTERM means the end")]
pub(super) struct Args {
    /// What SIGTERM and SIGHUP mean: let go of the agents and end, or take it for the notice.
    /// Ctrl-C always lets go.
    #[arg(long, value_enum, default_value = "let-go")]
    sigterm: Sigterm,
    /// Started by `up`: apart from the terminal, and ends with the fleet.
    #[arg(long, hide = true)]
    background: bool,
    /// Started by spotkeep.service.
    #[arg(long, hide = true)]
    unit: bool,
}

/// What SIGTERM means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Sigterm {
    /// End, and touch no agent.
    LetGo,
    /// Save everything, end the agents, then end.
    Save,
}

pub(super) fn run(data_dir: &DataDir, args: &Args) -> Result<ExitCode> {
    if args.background {
        process::leave_terminal();
    }
    command::lead_groups();
    log::begin(&process::current_boot_id()?);
    let options = Options {
        sigterm_saves: args.sigterm == Sigterm::Save,
        in_background: args.background,
        by_unit: args.unit,
    };
    keeper::run(data_dir, options)?;
    Ok(ExitCode::SUCCESS)
}
