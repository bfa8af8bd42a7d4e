//! A fake Claude Code for tests and drills: starts, writes, ends and resumes like the real one.
//!
//! It is for machines without Claude Code, and for fleets of two hundred. Its behaviour follows
//! measurements of the real program, and it talks to an API on loopback only. `FAKE_CLAUDE_*`
//! variables make it fail:
//!
//! | variable | effect |
//! |---|---|
//! | `FAKE_CLAUDE_EXIT=N` | exits with N at once |
//! | `FAKE_CLAUDE_HANG=1` | starts and never shows a session |
//! | `FAKE_CLAUDE_DIALOG=TEXT` | shows a dialog and waits |
//! | `FAKE_CLAUDE_IGNORE_TERM=1` | does not end upon SIGTERM |

mod session;
mod startup_dialogs;
mod terminal;
mod transcript;
mod turn;

use std::io::BufRead as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use session::Session;
use sys::error::{Context as _, Result};
use sys::signal::{self, Ask};
use sys::terminal::take_keys;
use terminal::{Keys, open_box, show};

/// A line of input or a signal.
enum Event {
    Line(String),
    Signal(Ask),
}

/// The part of Claude's command line that matters here.
#[derive(Debug, Default, PartialEq, Eq)]
struct Arguments {
    session_id: Option<String>,
    resume: Option<String>,
    name: Option<String>,
    bypass: bool,
    version: bool,
    prompt: Option<String>,
}

impl Arguments {
    fn parse(args: &[String]) -> Self {
        let mut parsed = Self::default();
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--session-id" => parsed.session_id = args.next().cloned(),
                "--resume" | "-r" => parsed.resume = args.next().cloned(),
                "-n" | "--name" => parsed.name = args.next().cloned(),
                "--dangerously-skip-permissions" => parsed.bypass = true,
                "--version" | "-v" => parsed.version = true,
                // Options with a value that agents are started with.
                "--model"
                | "--settings"
                | "--permission-mode"
                | "--append-system-prompt"
                | "--mcp-config"
                | "--add-dir" => {
                    args.next();
                }
                "--" => {}
                flag if flag.starts_with('-') => {}
                prompt => parsed.prompt = Some(prompt.to_owned()),
            }
        }
        parsed
    }
}

/// The paths of Claude's configuration, and the working directory.
#[derive(Debug)]
struct ClaudePaths {
    config_dir: PathBuf,
    config_file: PathBuf,
    cwd: PathBuf,
}

impl ClaudePaths {
    fn from_env() -> Result<Self> {
        let home = || std::env::var_os("HOME").map(PathBuf::from);
        let (config_dir, config_file) = match std::env::var_os("CLAUDE_CONFIG_DIR") {
            Some(dir) => (PathBuf::from(&dir), PathBuf::from(dir).join(".claude.json")),
            None => {
                let home = home().context("HOME is not set")?;
                (home.join(".claude"), home.join(".claude.json"))
            }
        };
        Ok(Self {
            config_dir,
            config_file,
            cwd: std::env::current_dir()
                .and_then(|dir| dir.canonicalize())
                .context("cannot find the working directory")?,
        })
    }
}

/// Runs the fake with the arguments that Claude would get.
#[must_use]
pub fn main(args: &[String]) -> ExitCode {
    match run(&Arguments::parse(args)) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            show(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<u8> {
    if arguments.version {
        show("0.0.0 (fake)");
        return Ok(0);
    }
    if let Some(code) = variable("FAKE_CLAUDE_EXIT") {
        return Ok(code.parse().unwrap_or(1));
    }
    let place = ClaudePaths::from_env()?;
    let events = listen()?;
    if variable("FAKE_CLAUDE_HANG").is_some() {
        return Ok(wait_for_the_end(&events, None));
    }
    // A session that cannot be opened is refused before any dialog.
    let opened = transcript::open(arguments, &place)?;
    if let Some(code) = startup_dialogs::pass(arguments, &place, &events)? {
        return Ok(code);
    }
    let session = Arc::new(Session::begin(place, opened, arguments.name.clone())?);
    let prompts = turn::start(Arc::clone(&session))?;
    open_box(true);
    if let Some(prompt) = &arguments.prompt {
        prompts.send(prompt.clone()).ok();
    }
    let code = wait_for_the_end(&events, Some((&session, &prompts)));
    open_box(false);
    Ok(code)
}

/// Starts the threads that read signals and input; returns their events.
fn listen() -> Result<Receiver<Event>> {
    let (sender, events) = channel();
    let lines = sender.clone();
    let has_keys = take_keys()?;
    if has_keys {
        terminal::mark_pastes();
    }
    signal::listen(move |ask| {
        sender.send(Event::Signal(ask)).ok();
    })?;
    std::thread::Builder::new()
        .name("stdin".into())
        .stack_size(128 * 1024)
        .spawn(move || {
            let stdin = std::io::stdin().lock();
            let texts: Box<dyn Iterator<Item = String>> = match has_keys {
                true => Box::new(typed(stdin)),
                false => Box::new(stdin.lines().map_while(Result::ok)),
            };
            for text in texts {
                if lines.send(Event::Line(text)).is_err() {
                    return;
                }
            }
        })
        .context("cannot read the terminal")?;
    Ok(events)
}

/// Returns the texts that are submitted with Enter.
fn typed(mut stdin: impl std::io::Read) -> impl Iterator<Item = String> {
    let (mut keys, mut bytes) = (Keys::default(), vec![0; 4096]);
    let chunks = std::iter::from_fn(move || {
        let count = stdin.read(&mut bytes).ok().filter(|count| *count > 0)?;
        Some(keys.feed(&bytes[..count]))
    });
    chunks.flatten()
}

/// Passes typed lines on until an event ends the program; returns its exit code.
fn wait_for_the_end(events: &Receiver<Event>, session: Option<(&Session, &Sender<String>)>) -> u8 {
    for event in events {
        let code = match event {
            Event::Signal(Ask::Terminate) if variable("FAKE_CLAUDE_IGNORE_TERM").is_some() => {
                continue;
            }
            Event::Signal(Ask::Terminate) => 143,
            Event::Signal(Ask::Interrupt) => 0,
            Event::Line(line) => match (line.trim(), session) {
                ("", _) | (_, None) => continue,
                ("/exit" | "/quit", Some(_)) => 0,
                (text, Some((_, prompts))) => {
                    prompts.send(text.to_owned()).ok();
                    continue;
                }
            },
        };
        if let Some((session, _)) = session {
            session.end();
        }
        return code;
    }
    0
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests;
