//! `spotkeep top`: shows and controls the fleet, updated live.

use std::process::ExitCode;

use super::daemon::status;
use super::output;
use crate::top::{self, Theme};
use state::layout::DataDir;
use sys::error::Result;

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Press ? for the list of keys. The environment variable NO_COLOR turns colours off.

Example:
  spotkeep top")]
pub(super) struct Args {}

pub(super) fn run(data_dir: &DataDir, _: &Args) -> Result<ExitCode> {
    let status_of = data_dir.clone();
    let theme = Theme {
        colour: output::colourful(),
    };
    top::run(data_dir, Box::new(move || status(&status_of)), theme)?;
    Ok(ExitCode::SUCCESS)
}
