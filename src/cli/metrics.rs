//! `spotkeep metrics`

use std::path::PathBuf;
use std::process::ExitCode;

use super::output::say;
use crate::keeper::client;
use crate::keeper::metrics::{Sample, text};
use crate::keeper::status::from_files;
use state::layout::Root;
use sys::error::Result;
use sys::files;

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  spotkeep metrics
  spotkeep metrics --textfile /var/lib/prometheus/node-exporter/spotkeep.prom    # from a timer, each minute")]
pub(super) struct Args {
    /// Into this file, whole or not at all, for the textfile collector of the node exporter.
    #[arg(long, value_name = "FILE")]
    textfile: Option<PathBuf>,
}

pub(super) fn run(root: &Root, args: &Args) -> Result<ExitCode> {
    let metrics = match client::metrics(root)? {
        Some(text) => text,
        None => without_a_keeper(root)?,
    };
    match &args.textfile {
        Some(path) => files::write_public(path, metrics.as_bytes())?,
        None => say(metrics.trim_end()),
    }
    Ok(ExitCode::SUCCESS)
}

fn without_a_keeper(root: &Root) -> Result<String> {
    let identity = root.identity()?;
    Ok(text(&Sample {
        status: &from_files(root)?,
        lives: (identity.lives, identity.preemptions),
        space: files::space(root.dir()).ok(),
        keeper: None,
    }))
}
