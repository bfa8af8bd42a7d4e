//! `spotkeep logs`

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use super::ask::status;
use super::term::{complain, say, shorten};
use crate::claude::record::Block;
use crate::claude::{self, Kind, Lookup, Reader, Record};
use crate::error::{Context as _, Hint as _, Kind as Failure, Result, anyhow};
use crate::keeper::runtime::Holder;
use crate::os::watch::Watch;
use crate::root::Root;
use crate::state::AgentName;
use crate::time::Timestamp;
use crate::tmux::Tmux;

/// Bytes at the end of a transcript that are read for so many lines; a record may be long.
const BYTES_PER_LINE: u64 = 64 << 10;

/// The longest line; a terminal of 50 lines shows it whole.
const LINE_MAX: usize = 2_000;

/// The longest result of a tool.
const RESULT_MAX: usize = 200;

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  spotkeep logs agent-1 --follow\n  spotkeep logs agent-1 --raw"
)]
pub(super) struct Args {
    /// Which agent.
    name: AgentName,
    /// So many of the newest lines.
    #[arg(short = 'n', long, default_value_t = 40, value_name = "COUNT")]
    lines: usize,
    /// Go on with what is said from now on.
    #[arg(short, long, conflicts_with = "raw")]
    follow: bool,
    /// What its terminal shows.
    #[arg(long)]
    raw: bool,
}

pub(super) fn run(root: &Root, args: &Args) -> Result<ExitCode> {
    let now = status(root)?;
    let agent = now.agents.iter().find(|agent| agent.name == args.name);
    let agent = agent
        .with_context(|| format!("there is no agent {}", args.name))
        .hint("spotkeep ls")
        .kind(Failure::Usage)?;
    if args.raw {
        return raw(root, args);
    }
    let path = transcript(root, &args.name, &agent.session_id)?;
    let budget = BYTES_PER_LINE.saturating_mul(args.lines as u64);
    let mut reader = Reader::tail(&path, budget).context("cannot read the transcript")?;
    let records = reader.poll().context("cannot read the transcript")?;
    let lines: Vec<String> = records.iter().flat_map(readable).collect();
    for line in &lines[lines.len().saturating_sub(args.lines)..] {
        say(line);
    }
    let skipped = reader.skipped();
    if skipped.bytes > 0 {
        complain(&format!(
            "{} bytes of {} could not be read",
            skipped.bytes,
            path.display()
        ));
    }
    if args.follow {
        follow(&path, reader)
    } else {
        Ok(ExitCode::SUCCESS)
    }
}

fn raw(root: &Root, args: &Args) -> Result<ExitCode> {
    let holder = Holder::of(root)
        .context("no keeper has run here yet")
        .hint("spotkeep up")?;
    let lines = u32::try_from(args.lines).unwrap_or(u32::MAX);
    let screen = Tmux::new(&holder.runtime)
        .history(&args.name, lines)
        .context(format!("{} has no terminal", args.name))
        .hint(format!("spotkeep start {}", args.name))?;
    for line in screen.trim_end().lines() {
        say(line);
    }
    Ok(ExitCode::SUCCESS)
}

fn transcript(root: &Root, name: &AgentName, session_id: &str) -> Result<PathBuf> {
    match claude::locate(&root.claude(), session_id) {
        Lookup::Present(path) | Lookup::Blank(path) => Ok(path),
        Lookup::Several(paths) => {
            let first = paths.into_iter().next();
            first.context("its session is nowhere")
        }
        Lookup::Missing => {
            Err(anyhow!("{name} has said nothing yet")).hint(format!("spotkeep logs --raw {name}"))
        }
        Lookup::Unknown(why) => Err(anyhow!("cannot look for the transcript of {name}: {why}")),
    }
}

fn follow(path: &std::path::Path, mut reader: Reader) -> Result<ExitCode> {
    let watch = Watch::new()?;
    if let Some(dir) = path.parent() {
        watch.add(dir)?;
    }
    loop {
        watch.wait(Duration::from_secs(1));
        for record in reader.poll().context("cannot read the transcript")? {
            readable(&record).iter().for_each(|line| say(line));
        }
    }
}

/// A record as lines for a person; none for what only Claude needs.
fn readable(record: &Record) -> Vec<String> {
    let at = record.timestamp.map(Timestamp::clock).unwrap_or_default();
    let line = |who: &str, text: &str| format!("{at}  {who:<7} {}", shorten(text, LINE_MAX));
    match &record.kind {
        Kind::Prompt { text, .. } => vec![line("user", text)],
        Kind::Absorbed(text) => vec![line("user", text)],
        Kind::Assistant { blocks, .. } => blocks
            .iter()
            .filter_map(|block| match block {
                Block::Text(text) => Some(line("claude", text)),
                Block::ToolUse { name, input, .. } => Some(line(
                    "tool",
                    &format!("{name} {}", shorten(&input.to_string(), RESULT_MAX)),
                )),
                Block::Other(_) => None,
            })
            .collect(),
        Kind::ToolResults(results) => results
            .iter()
            .map(|result| {
                let sign = if result.is_error { "✕" } else { "→" };
                line("", &format!("{sign} {}", shorten(&result.text, RESULT_MAX)))
            })
            .collect(),
        Kind::ApiError { text, .. } => vec![line("api", text)],
        Kind::Interrupted { .. } => vec![line("user", "pressed Escape")],
        Kind::Summary => vec![line("claude", "(what came before was compacted)")],
        _ => Vec::new(),
    }
}
