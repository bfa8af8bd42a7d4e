//! `spotkeep checkpoint ls`: lists checkpoints.

use std::process::ExitCode;

use super::{LIMIT, Subject};
use crate::cli::daemon::names_or_all;
use crate::cli::output::{json, print_line, shorten, table};
use checkpoint::{Checkpoint, Size};
use state::layout::DataDir;
use state::{AgentName, VERSION};
use sys::deadline::Deadline;
use sys::error::Result;

/// The longest list of files that were left out, in a table, in characters.
const LEFT_OUT_MAX: usize = 60;

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  spotkeep checkpoint ls agent-1
  spotkeep checkpoint ls --json | jq -r '.checkpoints[].id'")]
pub(super) struct Args {
    /// The agent's name (default: all agents).
    name: Option<AgentName>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(data_dir: &DataDir, args: Args) -> Result<ExitCode> {
    let names = names_or_all(data_dir, args.name.clone().into_iter().collect())?;
    let mut all: Vec<(AgentName, Checkpoint, Size)> = Vec::new();
    for name in names {
        let listed = Subject::load(data_dir, &name)
            .and_then(|subject| subject.list(data_dir).map(|found| (subject, found)));
        let (subject, found) = match listed {
            Ok(listed) => listed,
            // With all agents, those without checkpoints are skipped.
            Err(_) if args.name.is_none() => continue,
            Err(error) => return Err(error),
        };
        let repository = subject.repository(data_dir);
        let sizes = checkpoint::sizes(&repository, &found, Deadline::after(LIMIT))?;
        all.extend(
            found
                .into_iter()
                .zip(sizes)
                .map(|(one, size)| (name.clone(), one, size)),
        );
    }
    if args.json {
        let rows: Vec<_> = all
            .iter()
            .map(|(name, one, size)| row(name, one, *size))
            .collect();
        json(&serde_json::json!({ "version": VERSION, "checkpoints": rows }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows: Vec<[String; 7]> = all
        .iter()
        .map(|(name, one, size)| {
            [
                name.to_string(),
                one.id.clone(),
                one.at.for_people(),
                size.files.to_string(),
                format!("+{} -{}", size.added, size.removed),
                one.trigger.to_string(),
                shorten(&one.left_out.join("; "), LEFT_OUT_MAX),
            ]
        })
        .collect();
    let header = ["AGENT", "ID", "AT", "FILES", "LINES", "TRIGGER", "LEFT OUT"];
    for line in table(header, &rows) {
        print_line(&line);
    }
    Ok(ExitCode::SUCCESS)
}

fn row(name: &AgentName, one: &Checkpoint, size: Size) -> serde_json::Value {
    serde_json::json!({
        "agent": name,
        "id": one.id,
        "at": one.at,
        "trigger": one.trigger,
        "commit": one.commit,
        "files": size.files,
        "lines_added": size.added,
        "lines_removed": size.removed,
        "left_out": one.left_out,
    })
}
