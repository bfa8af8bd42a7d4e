//! `spotkeep ls`

use std::io::IsTerminal as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::Value;

use super::daemon::status_at;
use super::output::{bytes, json, print_line, shorten, state, table};
use crate::keeper::client::places_of_change;
use crate::keeper::status::{AgentStatus, Status};
use state::layout::DataDir;
use sys::error::Result;
use sys::inotify::Watch;
use sys::time::{Timestamp, short};

/// The longest reason in a table; the whole of it is in `--json`.
const WHY_MAX: usize = 70;

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  spotkeep ls --watch\n  spotkeep ls --json | jq -r '.agents[] | select(.state == \"failed\") | .name'"
)]
pub(super) struct Args {
    /// As JSON; with --watch a line for each change.
    #[arg(long)]
    json: bool,
    /// Show it again whenever it changes, until ctrl-C.
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

/// What shows in no file, such as a count of dirty files, is asked for this often.
const POLL_INTERVAL: Duration = Duration::from_secs(2);

/// Changes come in bursts, and the keeper sees them when we do.
const DEBOUNCE: Duration = Duration::from_millis(50);

/// The keeper may have been behind, so there is a second look after a change.
const AGAIN_AFTER: Duration = Duration::from_millis(250);

fn watch(at: &Path, as_lines: bool) -> Result<ExitCode> {
    let changes = Watch::new()?;
    if let Ok(data_dir) = DataDir::open(at) {
        for dir in places_of_change(&data_dir) {
            // One that is not there yet is looked into every few seconds all the same.
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
            // Written over what was there, so that nothing flickers.
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
        print_line(&line);
    }
}

/// The same without the sizes.
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

/// How old the newest one is.
fn checkpoint(agent: &AgentStatus, now: Timestamp) -> String {
    match (agent.last_checkpoint, &agent.branch) {
        (Some(at), _) => short(now.since(at)),
        (None, Some(_)) => "-".into(),
        (None, None) => "no git".into(),
    }
}
