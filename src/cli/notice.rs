//! `spotkeep notice`: shows whether this VM is preemptible, and whether it is being preempted.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::json;

use super::daemon::status;
use super::output::{self, print_line};
use crate::metadata::gcp::Metadata;
use state::VERSION;
use state::config::Config;
use state::layout::DataDir;
use sys::cloud_provider::Provider;
use sys::error::Result;
use sys::time::short;

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  spotkeep notice\n  spotkeep notice --json | jq .preempted")]
pub(super) struct Args {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the verb. It works without a data directory too, with the default settings.
pub(super) fn run(at: &Path, args: &Args) -> Result<ExitCode> {
    let data_dir = DataDir::open(at).ok();
    let config = data_dir
        .as_ref()
        .map(|data_dir| Config::load_or_last_good(&data_dir.config(), &data_dir.config_copy()))
        .transpose()?
        .map(|(config, _)| config)
        .unwrap_or_default();
    let provider = config.cloud.provider.resolve(Path::new("/"));
    let metadata = Metadata::find(config.cloud.provider, config.cloud.metadata.as_deref())?;
    let (preemptible, preempted) = match &metadata {
        Some(metadata) => (metadata.preemptible()?, metadata.preempted()?),
        None => (None, None),
    };
    let in_this_boot = data_dir
        .as_ref()
        .map(status)
        .transpose()?
        .and_then(|now| now.notice);
    let declared = config.cloud.notice.map(|span| span.0);
    let length = match (&declared, &metadata) {
        (None, Some(metadata)) => metadata.notice_length()?,
        _ => declared,
    };
    if args.json {
        output::json(&json!({
            "version": VERSION,
            "provider": provider,
            "metadata": metadata.as_ref().map(Metadata::address),
            "preemptible": preemptible,
            "preempted": preempted,
            "notice_ms": length.map(|length| length.as_millis()),
            "notice": in_this_boot,
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let yes_no = |answer: Option<bool>| match answer {
        Some(true) => "yes",
        Some(false) => "no",
        None => "unknown",
    };
    print_line(&match (provider, &metadata) {
        (_, Some(metadata)) => {
            format!("provider     gcp, asked at {}", metadata.address())
        }
        (Provider::Gcp, None) => "provider     gcp, but no metadata server answers".into(),
        (Provider::None, None) => {
            "provider     none: spotkeep sees only a shutdown or a signal".into()
        }
    });
    print_line(&format!("preemptible  {}", yes_no(preemptible)));
    print_line(&format!("preempted    {}", yes_no(preempted)));
    print_line(&match length {
        Some(Duration::ZERO) => {
            "notice       none before the shutdown, which takes up to 30 s".into()
        }
        Some(length) => format!(
            "notice       {} before the shutdown, {}",
            short(length),
            if declared.is_some() {
                "set in spotkeep.toml"
            } else {
                "set when the VM was created"
            }
        ),
        None => "notice       unknown: up to 30 s with the shutdown".into(),
    });
    if let Some(notice) = in_this_boot {
        print_line(&format!(
            "this boot    preemption notice at {}, source: {}",
            notice.at.for_people(),
            notice.source
        ));
    }
    Ok(ExitCode::SUCCESS)
}
