//! `spotkeep checkpoint diff`

use std::io::{IsTerminal as _, Write as _};
use std::process::{Command, ExitCode, Stdio};

use super::{LIMIT, Subject};
use crate::cli::output::{complain, json, print_line};
use checkpoint::{Checkpoint, CheckpointOutcome, Layer};
use state::Trigger;
use state::layout::DataDir;
use state::{AgentName, VERSION};
use sys::deadline::Deadline;
use sys::error::{Result, anyhow};
use sys::time::{Timestamp, short};

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Without a second ID it is compared with the workspace as it is now, of which a checkpoint is made first.

Examples:
  spotkeep checkpoint diff agent-1
  spotkeep checkpoint diff agent-1 1h --stat"
)]
pub(super) struct Args {
    /// Which agent.
    name: AgentName,
    /// From this checkpoint.
    #[arg(default_value = "latest")]
    from: String,
    /// To this one; to the workspace as it is, where none is given.
    to: Option<String>,
    /// Names and numbers of lines only.
    #[arg(long)]
    stat: bool,
    /// As JSON: names and numbers of lines.
    #[arg(long, conflicts_with = "stat")]
    json: bool,
}

pub(super) fn run(data_dir: &DataDir, args: &Args) -> Result<ExitCode> {
    let deadline = Deadline::after(LIMIT);
    let subject = Subject::load(data_dir, &args.name)?;
    // First, since `latest` is meant as it was before.
    let from = subject.find(data_dir, &args.from)?;
    let end = match &args.to {
        Some(to) => Some(subject.find(data_dir, to)?),
        None => None,
    };
    let to = match &end {
        Some(to) => to.commit.clone(),
        None => match checkpoint::keep(data_dir, &subject.place, Trigger::Command, deadline)? {
            CheckpointOutcome::Taken(taken) => taken.commit,
            CheckpointOutcome::Unchanged(_) => match subject.list(data_dir)?.into_iter().next() {
                Some(newest) => newest.commit,
                None => from.commit.clone(),
            },
            CheckpointOutcome::NotGit => {
                return Err(anyhow!(
                    "{} is no git workspace",
                    subject.place.workspace.display()
                ));
            }
        },
    };
    let repository = subject.repository(data_dir);
    if args.json {
        let of = |layer| checkpoint::changes(&repository, &from.commit, &to, layer, deadline);
        json(&serde_json::json!({
            "version": VERSION, "from": from.commit, "to": to,
            "files": of(Layer::Worktree)?, "staged": of(Layer::Index)?,
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let colour = std::io::stdout().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let of = |layer, stat| {
        checkpoint::difference(
            &repository,
            &from.commit,
            &to,
            layer,
            stat,
            colour,
            deadline,
        )
    };
    let mut text = of(Layer::Worktree, args.stat)?;
    let staged = of(Layer::Index, true)?;
    if !staged.is_empty() {
        // What is staged is mostly what is in the worktree too: it is named, and not shown twice.
        text.push_str(&format!("\nstaged otherwise than then:\n{staged}"));
    }
    if text.is_empty() {
        complain(&format!(
            "nothing has changed {}",
            span(&from, end.as_ref())
        ));
    } else {
        let head = format!(
            "{}: what has changed {}",
            args.name,
            span(&from, end.as_ref())
        );
        let head = if colour {
            format!("\x1b[1m{head}\x1b[0m")
        } else {
            head
        };
        show(&format!("{head}\n\n{text}"));
    }
    Ok(ExitCode::SUCCESS)
}

/// Between which two moments.
fn span(from: &Checkpoint, to: Option<&Checkpoint>) -> String {
    let moment = |one: &Checkpoint| {
        let age = short(Timestamp::now().since(one.at));
        format!("{} ({age} ago, {})", one.id, one.trigger)
    };
    match to {
        Some(to) => format!("between {} and {}", moment(from), moment(to)),
        None => format!("since {}", moment(from)),
    }
}

/// In a pager on a terminal: the user's own, and never one that the repository names.
fn show(text: &str) {
    let lines = || print_line(text.trim_end());
    if !std::io::stdout().is_terminal() {
        return lines();
    }
    let pager = std::env::var("PAGER").unwrap_or_else(|_| "less".into());
    let spawned = Command::new("sh")
        .args(["-c", &pager])
        .env(
            "LESS",
            std::env::var_os("LESS").unwrap_or_else(|| "FRX".into()),
        )
        .stdin(Stdio::piped())
        .spawn();
    let Ok(mut child) = spawned else {
        return lines();
    };
    if let Some(mut pipe) = child.stdin.take() {
        // Whoever leaves the pager has seen enough.
        pipe.write_all(text.as_bytes()).ok();
    }
    child.wait().ok();
}
