//! `spotkeep run`: runs the keeper in the foreground.

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
  spotkeep run --sigterm save      # in a container, where SIGTERM means the end")]
pub(super) struct Args {
    /// Choose what SIGTERM and SIGHUP do. On ctrl-C the keeper always exits and leaves the agents
    /// running.
    #[arg(long, value_enum, default_value = "let-go")]
    sigterm: Sigterm,
    /// Started by `up`: without a terminal; ends with the fleet.
    #[arg(long, hide = true)]
    background: bool,
    /// Started by spotkeep.service.
    #[arg(long, hide = true)]
    unit: bool,
}

/// What the keeper does on SIGTERM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Sigterm {
    /// Exit and leave the agents running.
    LetGo,
    /// Save everything, stop the agents, then exit.
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
