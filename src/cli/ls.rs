//! `spotkeep ls`

use std::path::Path;
use std::process::ExitCode;

use super::ask::status_at;
use super::term::{bytes, json, say, shorten, state, table};
use crate::error::Result;
use crate::keeper::status::{AgentStatus, Status};
use crate::time::{Timestamp, short};

/// The longest reason in a table; the whole of it is in `--json`.
const WHY_MAX: usize = 70;

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  spotkeep ls --json | jq -r '.agents[] | select(.state == \"failed\") | .name'"
)]
pub(super) struct Args {
    /// As JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(at: &Path, args: &Args) -> Result<ExitCode> {
    let now = status_at(at)?;
    if args.json {
        json(&serde_json::json!({ "version": now.version, "agents": now.agents }))?;
    } else {
        without_sizes(&now);
    }
    Ok(ExitCode::SUCCESS)
}

/// Why it stands still, and until when, the shorter first.
fn why(agent: &AgentStatus) -> String {
    let why = agent.why.as_deref().unwrap_or("");
    match agent.next_try {
        Some(at) => format!("until {}: {why}", at.for_people()),
        None => why.to_owned(),
    }
}

const HEADER: [&str; 9] = [
    "STATE",
    "AGENT",
    "SESSION",
    "BRANCH",
    "DIRTY",
    "CHECKPOINT",
    "SIZE",
    "RESTARTS",
    "WHY",
];

/// Where the size is, which `ls` leaves out.
const SIZE: usize = 6;

/// The table of agents.
pub(super) fn agents(now: &Status) {
    for line in table(HEADER, &rows(now)) {
        say(&line);
    }
}

fn without_sizes(now: &Status) {
    let at = |column: usize| column + usize::from(column >= SIZE);
    let rows: Vec<[String; 8]> = rows(now)
        .iter()
        .map(|row| std::array::from_fn(|column| row[at(column)].clone()))
        .collect();
    for line in table(std::array::from_fn(|column| HEADER[at(column)]), &rows) {
        say(&line);
    }
}

fn rows(now: &Status) -> Vec<[String; 9]> {
    let now_at = Timestamp::now();
    let agents = now.agents.iter().map(|agent| {
        [
            state(agent.state),
            agent.name.to_string(),
            agent.session_id.get(..8).unwrap_or("-").to_owned(),
            agent.branch.clone().unwrap_or_else(|| "-".into()),
            agent
                .dirty
                .map_or_else(|| "-".into(), |count| count.to_string()),
            checkpoint(agent, now_at),
            agent.size_bytes.map_or_else(|| "-".into(), bytes),
            agent.restarts.to_string(),
            shorten(&why(agent), WHY_MAX),
        ]
    });
    agents.collect()
}

/// How old the newest one is.
fn checkpoint(agent: &AgentStatus, now: Timestamp) -> String {
    match (agent.last_checkpoint, &agent.branch) {
        (Some(at), _) => short(now.since(at)),
        (None, Some(_)) => "-".into(),
        (None, None) => "no git".into(),
    }
}
