//! `spotkeep restore`

use std::process::ExitCode;

use super::ask::status;
use super::fleet;
use super::term::{json, say, table};
use crate::error::{Context as _, Hint as _, Result};
use crate::keeper::client::{PATIENCE, ask};
use crate::keeper::protocol::Request;
use crate::os::process;
use crate::restore;
use crate::root::Root;
use crate::state::{Journal, VERSION, What};

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A keeper does this by itself when a new life begins. By hand it also says that this
life goes on after a notice that came to nothing.

Examples:
  spotkeep restore --dry-run
  spotkeep restore"
)]
pub(super) struct Args {
    /// Show what would be done, and do nothing.
    #[arg(long)]
    dry_run: bool,
    /// The plan as JSON; implies --dry-run.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(root: &Root, args: &Args) -> Result<ExitCode> {
    if args.dry_run || args.json {
        return show_plan(root, args.json);
    }
    let now = status(root)?;
    if now.notice.is_some() && ask(root, &Request::Survived, PATIENCE)?.is_none() {
        let _lock = super::ask::instead_of_keeper(root)?;
        let identity = root.identity()?;
        let mut journal = Journal::open(
            &root.journal(),
            &identity.root_id,
            identity.epoch,
            &now.life,
        )?;
        journal
            .write(
                None,
                &What::Survived {
                    reason: "a human said so".into(),
                },
            )
            .context("cannot say that this life goes on")
            .hint("free some space, then: spotkeep restore")?;
    }
    fleet::up(root, &fleet::UpArgs::default())
}

fn show_plan(root: &Root, as_json: bool) -> Result<ExitCode> {
    let life = process::current_life()?;
    let records: Vec<_> = root
        .all_records()?
        .into_iter()
        .filter_map(|(_, record)| record.ok())
        .collect();
    let steps = restore::plan(root, &records, &life);
    if as_json {
        json(&serde_json::json!({ "version": VERSION, "agents": steps }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows: Vec<[String; 2]> = steps
        .into_iter()
        .map(|step| [step.name.to_string(), step.what])
        .collect();
    for line in table(["AGENT", "PLAN"], &rows) {
        say(&line);
    }
    Ok(ExitCode::SUCCESS)
}
