//! `spotkeep metrics`: prints fleet metrics for Prometheus.

use std::path::PathBuf;
use std::process::ExitCode;

use super::output::print_line;
use crate::keeper::client;
use crate::keeper::metrics::{Sample, text};
use crate::keeper::status::from_files;
use state::layout::DataDir;
use sys::error::Result;
use sys::files;

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Prometheus is a monitoring system. On each machine its node exporter can read such metrics from a
file.

Examples:
  spotkeep metrics
  spotkeep metrics --textfile /var/lib/prometheus/node-exporter/spotkeep.prom")]
pub(super) struct Args {
    /// Write to this file for the node exporter. The file is replaced at once, so a reader never
    /// sees half of it.
    #[arg(long, value_name = "FILE")]
    textfile: Option<PathBuf>,
}

pub(super) fn run(data_dir: &DataDir, args: &Args) -> Result<ExitCode> {
    let metrics = match client::metrics(data_dir)? {
        Some(text) => text,
        None => without_a_keeper(data_dir)?,
    };
    match &args.textfile {
        Some(path) => files::write_public(path, metrics.as_bytes())?,
        None => print_line(metrics.trim_end()),
    }
    Ok(ExitCode::SUCCESS)
}

fn without_a_keeper(data_dir: &DataDir) -> Result<String> {
    let identity = data_dir.identity()?;
    Ok(text(&Sample {
        status: &from_files(data_dir)?,
        boots: (identity.boots, identity.preemptions),
        space: files::space(data_dir.dir()).ok(),
        keeper: None,
    }))
}
