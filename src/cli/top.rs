//! `spotkeep top`

use std::process::ExitCode;

use super::daemon::status;
use super::output;
use crate::top::{self, Theme};
use state::layout::DataDir;
use sys::error::Result;

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "? shows what the keys do. NO_COLOR is heeded; over ssh and in a tmux pane it is the same.\n\nExample:\n  spotkeep top"
)]
pub(super) struct Args {}

pub(super) fn run(data_dir: &DataDir, _: &Args) -> Result<ExitCode> {
    let of = data_dir.clone();
    let look = Theme {
        colour: output::colourful(),
    };
    top::run(data_dir, Box::new(move || status(&of)), look)?;
    Ok(ExitCode::SUCCESS)
}
