//! `spotkeep ls`

use std::path::Path;
use std::process::ExitCode;

use super::ask::status_at;
use super::term::{json, say, shorten, state, table};
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
        agents(&now);
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

/// The table of agents.
pub(super) fn agents(now: &Status) {
    let now_at = Timestamp::now();
    let rows: Vec<[String; 8]> = now
        .agents
        .iter()
        .map(|agent| {
            [
                state(agent.state),
                agent.name.to_string(),
                agent.session_id.get(..8).unwrap_or("-").to_owned(),
                agent.branch.clone().unwrap_or_else(|| "-".into()),
                agent
                    .dirty
                    .map_or_else(|| "-".into(), |count| count.to_string()),
                checkpoint(agent, now_at),
                agent.restarts.to_string(),
                shorten(&why(agent), WHY_MAX),
            ]
        })
        .collect();
    for line in table(
        [
            "STATE",
            "AGENT",
            "SESSION",
            "BRANCH",
            "DIRTY",
            "CHECKPOINT",
            "RESTARTS",
            "WHY",
        ],
        &rows,
    ) {
        say(&line);
    }
}

/// How old the newest one is.
fn checkpoint(agent: &AgentStatus, now: Timestamp) -> String {
    match (agent.last_checkpoint, &agent.branch) {
        (Some(at), _) => short(now.since(at)),
        (None, Some(_)) => "-".into(),
        (None, None) => "no git".into(),
    }
}
