//! `spotkeep ls`: lists the agents.

use std::io::IsTerminal as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::Value;

use super::daemon::status_at;
use super::output::{bytes, json, print_line, shorten, state, table};
use crate::keeper::client::watched_dirs;
use crate::keeper::status::{AgentStatus, Status};
use state::layout::DataDir;
use sys::error::Result;
use sys::inotify::Watch;
use sys::time::{Timestamp, short};

/// The longest reason in a table, in characters; `--json` has all of it.
const WHY_MAX: usize = 70;

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  spotkeep ls --watch
  spotkeep ls --json | jq -r '.agents[] | select(.state == \"failed\") | .name'")]
pub(super) struct Args {
    /// Print JSON; with --watch, one line per change.
    #[arg(long)]
    json: bool,
    /// Keep running and show changes (ctrl-C stops).
    #[arg(short, long)]
    watch: bool,
}

pub(super) fn run(at: &Path, args: &Args) -> Result<ExitCode> {
    if args.watch {
        return watch(at, args.json);
    }
    let now = status_at(at)?;
    if args.json {
        json(&as_json(&now))?;
    } else {
        lines(&now).iter().for_each(|line| print_line(line));
    }
    Ok(ExitCode::SUCCESS)
}

fn as_json(now: &Status) -> Value {
    serde_json::json!({ "version": now.version, "agents": now.agents })
}

/// Poll interval for values that no file watch reports, like the number of dirty files.
const POLL_INTERVAL: Duration = Duration::from_secs(2);

/// Pause after a change: changes come in bursts, and the keeper sees them at the same time.
const DEBOUNCE: Duration = Duration::from_millis(50);

/// Delay of the second poll after a change: the keeper may not have seen the change at the first
/// one.
const AGAIN_AFTER: Duration = Duration::from_millis(250);

fn watch(at: &Path, as_lines: bool) -> Result<ExitCode> {
    let changes = Watch::new()?;
    if let Ok(data_dir) = DataDir::open(at) {
        for dir in watched_dirs(&data_dir) {
            // A directory that does not exist yet is covered by the poll interval.
            changes.add(&dir).ok();
        }
    }
    let in_place = std::io::stdout().is_terminal() && !as_lines;
    let mut last: Option<Status> = None;
    loop {
        let now = status_at(at)?;
        let is_new = last.as_ref().is_none_or(|last| last.agents != now.agents);
        if as_lines && is_new {
            print_line(&serde_json::to_string(&as_json(&now))?);
        } else if in_place {
            // Overwrites the earlier text, which avoids flicker.
            let rows = lines(&now).join("\x1b[K\n");
            let clear = if last.is_none() { "\x1b[2J" } else { "" };
            print_line(&format!("{clear}\x1b[H{rows}\x1b[K\n\x1b[J"));
        } else if is_new {
            if last.is_some() {
                print_line("");
            }
            lines(&now).iter().for_each(|line| print_line(line));
        }
        last = Some(now);
        let pause = if is_new { AGAIN_AFTER } else { POLL_INTERVAL };
        if changes.wait(pause) {
            std::thread::sleep(DEBOUNCE);
        }
    }
}

/// Returns why an agent does not work, and until when. The shorter part comes first.
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

/// Index of the column SIZE, which `ls` leaves out.
const SIZE: usize = 6;

/// Prints the table of agents.
pub(super) fn agents(now: &Status) {
    for line in table(HEADER, &rows(now)) {
        print_line(&line);
    }
}

/// Returns the lines of the table without the column SIZE.
fn lines(now: &Status) -> Vec<String> {
    let at = |column: usize| column + usize::from(column >= SIZE);
    let rows: Vec<[String; 8]> = rows(now)
        .iter()
        .map(|row| std::array::from_fn(|column| row[at(column)].clone()))
        .collect();
    table(std::array::from_fn(|column| HEADER[at(column)]), &rows)
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

/// Returns the age of the newest checkpoint.
fn checkpoint(agent: &AgentStatus, now: Timestamp) -> String {
    match (agent.last_checkpoint, &agent.branch) {
        (Some(at), _) => short(now.since(at)),
        (None, Some(_)) => "-".into(),
        (None, None) => "no git".into(),
    }
}
