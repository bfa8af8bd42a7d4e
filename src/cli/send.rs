//! `spotkeep send`: sends a message to agents.

use std::io::Read as _;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use super::daemon::{named, status};
use super::output::{complain, print_line};
use crate::keeper::client::{self, watched_dirs};
use state::layout::DataDir;
use state::{AgentName, AgentState};
use sys::error::{Context as _, Error, ErrorKind, Hint as _, Result, ensure, hint_of, kind_of};
use sys::inotify::Watch;
use sys::time::parse_duration;

/// The longest text, in bytes. A longer text belongs in a file.
const TEXT_MAX: usize = 512 << 10;

/// Poll interval while waiting for agents.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The text is pasted into the agent's input box as a whole, and Enter is pressed once. It is refused
while the agent asks a question (the text could answer it), while no input box is shown, and while
the input box has unsubmitted input. An agent at work reads the message when it can; with
--when-idle it gets it when its work is done.

Examples:
  spotkeep send agent-1 'Then run the tests again.'
  spotkeep send api,docs --when-idle 'Rebase onto main.'
  spotkeep send --all - < review.md")]
pub(super) struct Args {
    /// Agent names, separated by commas, then the text. With --all the text only. Without a text,
    /// or with -, it is read from standard input.
    #[arg(value_names = ["NAME[,NAME...]", "TEXT"], num_args = 0..=2)]
    words: Vec<String>,
    /// Send to all running agents.
    #[arg(long)]
    all: bool,
    /// Wait until each agent is idle.
    #[arg(long)]
    when_idle: bool,
    /// Wait at most this long.
    #[arg(long, value_name = "DURATION", default_value = "12h", requires = "when_idle",
    value_parser = duration)]
    within: Duration,
    /// Show what would be done; change nothing.
    #[arg(long)]
    dry_run: bool,
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).map_err(|error| format!("{error:#}"))
}

pub(super) fn run(data_dir: &DataDir, args: Args) -> Result<ExitCode> {
    let (names, text) = meant(data_dir, &args)?;
    if args.dry_run {
        for name in &names {
            let count = text.chars().count();
            let when = if args.when_idle {
                " when it is idle"
            } else {
                ""
            };
            print_line(&format!("would send {count} characters to {name}{when}"));
        }
        return Ok(ExitCode::SUCCESS);
    }
    let sending = Sending {
        data_dir,
        text,
        when_idle: args.when_idle,
        alone: names.len() == 1,
    };
    sending.to(names, Instant::now() + args.within)
}

/// Returns the agents and the text that the arguments name.
fn meant(data_dir: &DataDir, args: &Args) -> Result<(Vec<AgentName>, String)> {
    let mut words = args.words.iter();
    let names = match args.all {
        true => {
            let now = status(data_dir)?;
            let running = now.agents.into_iter().filter(|agent| agent.pid.is_some());
            running.map(|agent| agent.name).collect()
        }
        false => {
            let list = words.next().context("no agent is named");
            let list = list
                .hint("spotkeep send NAME 'TEXT'")
                .kind(ErrorKind::Usage)?;
            let names: Result<Vec<AgentName>> = list.split(',').map(AgentName::new).collect();
            let names = names.kind(ErrorKind::Usage)?;
            named(&status(data_dir)?, &names)?;
            names
        }
    };
    let text = match (words.next().map(String::as_str), words.next()) {
        (Some(_), Some(_)) => Err(Error::msg("--all takes one text"))
            .hint("put the text in quotes: spotkeep send --all 'TEXT'")
            .kind(ErrorKind::Usage)?,
        (Some("-") | None, _) => {
            let mut text = String::new();
            let limit = TEXT_MAX as u64 + 1;
            let read = std::io::stdin()
                .lock()
                .take(limit)
                .read_to_string(&mut text);
            read.context("cannot read the text from standard input")?;
            text
        }
        (Some(text), None) => text.to_owned(),
    };
    let text = text.trim_end_matches(['\n', '\r']).to_owned();
    let fits = || {
        ensure!(!text.is_empty(), "the text is empty");
        ensure!(
            text.len() <= TEXT_MAX,
            "the text has more than {TEXT_MAX} bytes; give it as a file of the workspace"
        );
        Ok(())
    };
    fits()
        .hint("spotkeep send NAME 'TEXT'")
        .kind(ErrorKind::Usage)?;
    Ok((names, text))
}

struct Sending<'a> {
    data_dir: &'a DataDir,
    text: String,
    when_idle: bool,
    /// Whether there is one agent only: its error is then the error of the command.
    alone: bool,
}

impl Sending<'_> {
    fn to(&self, mut names: Vec<AgentName>, until: Instant) -> Result<ExitCode> {
        let watch = Watch::new()?;
        for dir in watched_dirs(self.data_dir) {
            // A directory that cannot be watched is covered by the poll interval.
            watch.add(&dir).ok();
        }
        let mut code = 0;
        loop {
            let mut busy = Vec::new();
            for name in std::mem::take(&mut names) {
                if self.when_idle && self.is_in_turn(&name)? {
                    busy.push(name);
                    continue;
                }
                match self.send_to(&name) {
                    Ok(()) => print_line(&format!("sent to {name}")),
                    // The agent has begun a turn in between.
                    Err(_) if self.when_idle && self.is_in_turn(&name)? => busy.push(name),
                    Err(error) if self.alone => return Err(error),
                    Err(error) => {
                        complain(&format!("error: {error:#}"));
                        if let Some(hint) = hint_of(&error) {
                            complain(&format!("hint: {hint}"));
                        }
                        code = code.max(kind_of(&error) as u8);
                    }
                }
            }
            if busy.is_empty() {
                return Ok(ExitCode::from(code));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let list: Vec<&str> = busy.iter().map(AgentName::as_str).collect();
                let failed = Err(Error::msg(format!(
                    "nothing was sent to {}: still busy",
                    list.join(", ")
                )));
                return failed.hint("spotkeep ls").kind(ErrorKind::NotAsDeclared);
            }
            names = busy;
            watch.wait(left.min(POLL_INTERVAL));
        }
    }

    /// Returns whether to wait for the agent: it is in a turn, starting, or waiting for a human.
    fn is_in_turn(&self, name: &AgentName) -> Result<bool> {
        let now = status(self.data_dir)?;
        let agent = now.agents.iter().find(|agent| agent.name == *name);
        Ok(agent.is_some_and(|agent| {
            now.keeper.runs()
                && matches!(
                    agent.state,
                    AgentState::Running
                        | AgentState::Waiting
                        | AgentState::Starting
                        | AgentState::Backoff
                )
        }))
    }

    fn send_to(&self, name: &AgentName) -> Result<()> {
        client::send(self.data_dir, name, &self.text, self.when_idle)?
            .context("no keeper runs")
            .hint("spotkeep up")?;
        Ok(())
    }
}
