//! `spotkeep checkpoint diff`: shows changes since a checkpoint, or between two.

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
#[command(after_help = "\
Without a second ID it compares with the workspace as it is now; a checkpoint of it is made first.

Examples:
  spotkeep checkpoint diff agent-1
  spotkeep checkpoint diff agent-1 1h --stat")]
pub(super) struct Args {
    /// The agent's name.
    name: AgentName,
    /// The earlier checkpoint.
    #[arg(default_value = "latest")]
    from: String,
    /// The later checkpoint (default: the current workspace).
    to: Option<String>,
    /// Show file names and line counts only.
    #[arg(long)]
    stat: bool,
    /// Print JSON: file names and line counts.
    #[arg(long, conflicts_with = "stat")]
    json: bool,
}

pub(super) fn run(data_dir: &DataDir, args: &Args) -> Result<ExitCode> {
    let deadline = Deadline::after(LIMIT);
    let subject = Subject::load(data_dir, &args.name)?;
    // First, since an age could also mean the checkpoint that is made below.
    let from = subject.find(data_dir, &args.from)?;
    let end = match &args.to {
        Some(to) => Some(subject.find(data_dir, to)?),
        None => None,
    };
    let to = match &end {
        Some(to) => to.commit.clone(),
        None => match checkpoint::keep(data_dir, &subject.place, Trigger::Before, deadline)? {
            CheckpointOutcome::Taken(taken) => taken.commit,
            CheckpointOutcome::Unchanged(_) => match subject.list(data_dir)?.into_iter().next() {
                Some(newest) => newest.commit,
                None => from.commit.clone(),
            },
            CheckpointOutcome::NotGit => {
                return Err(anyhow!(
                    "{} is not a git repository",
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
        // Staged changes are mostly in the worktree too, so their files are listed without a second
        // diff.
        text.push_str(&format!("\nchanges in the staged files:\n{staged}"));
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

/// Describes the two ends of a comparison.
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

/// Prints the text, on a terminal through the user's pager. A pager that the repository names is
/// never run.
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
        // The user may leave the pager before the end.
        pipe.write_all(text.as_bytes()).ok();
    }
    child.wait().ok();
}
