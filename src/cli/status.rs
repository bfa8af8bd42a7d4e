//! `spotkeep status`: shows the fleet status.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use super::daemon;
use super::ls::agents;
use super::output::{json, print_line};
use crate::keeper::status::Status;
use crate::resume::last_preemption_line;
use state::layout::DataDir;
use state::{AgentState, Fleet};
use sys::error::{ErrorKind, Result};
use sys::process;
use sys::time::{Timestamp, short};

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The exit code is 3 if an agent has failed, or there are other problems.

Examples:
  spotkeep status
  spotkeep status --json | jq .last_save")]
pub(super) struct Args {
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Print one line about a recent preemption. For login scripts: prints nothing if the last one
    /// was more than a day ago, and never fails.
    #[arg(long, conflicts_with = "json")]
    login_line: bool,
}

impl Args {
    /// Returns whether a login shell asks.
    pub(super) fn is_login_line(&self) -> bool {
        self.login_line
    }
}

pub(super) fn run(at: &Path, args: &Args) -> Result<ExitCode> {
    if args.login_line {
        if let Some(line) = login_line(at) {
            print_line(&line);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let now = daemon::status_at(at)?;
    if args.json {
        json(&now)?;
    } else {
        header(&now);
        agents(&now);
        hints(&now);
    }
    let failed = now
        .agents
        .iter()
        .any(|agent| agent.state == AgentState::Failed);
    let code = if failed || !now.trouble.is_empty() {
        ErrorKind::NotAsDeclared as u8
    } else {
        0
    };
    Ok(ExitCode::from(code))
}

/// Bytes at the end of the journal to search, about 5000 events. A preemption before those is not
/// recent.
const NEWS_BYTES: u64 = 1 << 20;

/// Returns the line about the last preemption. It reads files only, so that a login does not wait
/// for a keeper.
fn login_line(at: &Path) -> Option<String> {
    let data_dir = DataDir::open(at).ok()?;
    let boot_id = process::current_boot_id().ok()?;
    let (lines, _) = state::lines_of_tail(&data_dir.journal(), NEWS_BYTES).ok()?;
    last_preemption_line(&lines, &boot_id, Timestamp::now())
}

/// Prints hints for agents that have failed or are stalled.
fn hints(now: &Status) {
    let shown = now.agents.iter().filter(|agent| {
        let given_up = agent.state == AgentState::Stalled && agent.next_try.is_none();
        agent.state == AgentState::Failed || given_up
    });
    for agent in shown {
        if let Some(hint) = &agent.hint {
            print_line(&format!("hint    {hint}"));
        }
    }
}

fn header(now: &Status) {
    let fleet = if now.fleet == Fleet::Down {
        ", the fleet is down"
    } else {
        ""
    };
    print_line(&format!(
        "data    {} ({}, epoch {})",
        now.data_dir.display(),
        now.data_dir_id,
        now.epoch
    ));
    print_line(&format!("keeper  {}{fleet}", now.keeper));
    if now.paused.as_deref() == Some("login") {
        print_line(
            "paused  login: run /login in any agent (spotkeep attach NAME); then all continue",
        );
    }
    if let Some(notice) = &now.notice {
        print_line(&format!(
            "notice  {} from {}: no agent starts until the next boot",
            notice.at.for_people(),
            notice.source
        ));
    }
    if let Some(save) = &now.last_save {
        let safe = save.notice_to_safe_ms.map_or_else(
            || "never became safe".to_owned(),
            |ms| format!("safe after {}", short(Duration::from_millis(ms))),
        );
        let clean = if save.clean { "" } else { ", not clean" };
        print_line(&format!("save    {} {safe}{clean}", save.at.for_people()));
    }
    if let Some(backup) = &now.backup {
        let age = |at: Option<Timestamp>| {
            at.map_or_else(
                || "never".to_owned(),
                |at| format!("{} ago", short(Timestamp::now().since(at))),
            )
        };
        let copy = match &backup.copy_to {
            Some(to) => format!(", copied to {to} {}", age(backup.copied_at)),
            None => String::new(),
        };
        let check = age(backup.checked_at);
        print_line(&format!(
            "backup  {}{copy}, checked {check}",
            age(backup.at)
        ));
    }
    for trouble in &now.trouble {
        print_line(&format!("trouble {trouble}"));
    }
    print_line("");
}
