//! `spotkeep top`: terminal user interface of the fleet, updated live. The only module that uses
//! `ratatui`.
//!
//! ```text
//! status ──┐
//! transcripts │                                ┌▶ view (pure) ▶ screen
//! journal ─┼▶ feed ▶ news ─┐
//! /proc ───┘               ├▶ model (pure) ─┤
//! keys ────────────────────┘                └▶ effects (attach, a spotkeep command)
//! ```
//!
//! The model holds what is shown and decides what a key does; the view turns it into cells. Neither
//! reads a clock or a file. The feed sleeps until a file changes.

mod feed;
pub mod key;
pub mod model;
pub mod pager;
mod resource_usage;
pub mod row;
mod screen;
pub mod snapshot;
mod transcripts;
pub mod view;

use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

pub use feed::Ask as AskStatus;
use feed::{Feed, Inbox};
use model::{Effect, Mode, Model};
use screen::Screen;
use snapshot::News;
use state::AgentName;
use state::layout::DataDir;
use sys::command;
use sys::error::{Context as _, ErrorKind, Hint as _, Result, anyhow};
use sys::inotify::{Bell, Watch};
use sys::signal::{self, Ask};
use sys::thread;
use sys::time::Timestamp;
pub use view::Theme;

/// How often ages are updated.
const TICK: Duration = Duration::from_secs(1);

/// How often a countdown is updated.
const FAST_TICK: Duration = Duration::from_millis(200);

/// Time limit of a spotkeep command; the diff of a large workspace takes long.
const COMMAND_LIMIT: Duration = Duration::from_secs(300);

/// Shows the fleet until the user quits. `ask` returns its status.
///
/// # Errors
/// There is no terminal; the status cannot be read.
pub fn run(data_dir: &DataDir, ask: AskStatus, theme: Theme) -> Result<()> {
    if !screen::is_there() {
        return Err(anyhow!("top needs a terminal"))
            .hint("spotkeep ls --watch")
            .kind(ErrorKind::Usage);
    }
    let watch = Watch::new()?;
    let ended = Arc::new(AtomicBool::new(false));
    let (bell, flag) = (watch.bell(), Arc::clone(&ended));
    // ctrl-C is a key here. As a signal it is for the program that uses the terminal meanwhile.
    signal::listen(move |ask| {
        if ask == Ask::Terminate {
            flag.store(true, Ordering::SeqCst);
            bell.wake();
        }
    })?;
    let bell = watch.bell();
    signal::on_resize(move || bell.wake())?;
    let inbox = Arc::new(Inbox::default());
    let (feed, first) = Feed::spawn(data_dir, ask, &inbox, watch.bell())?;
    let runner = EffectRunner {
        // The running program, even if an upgrade has replaced its file or the path now belongs to
        // another file.
        program: PathBuf::from("/proc/self/exe"),
        data_dir: data_dir.dir().to_path_buf(),
        feed,
        inbox: Arc::clone(&inbox),
        bell: watch.bell(),
    };
    let mut model = Model::new(first, Timestamp::now());
    let mut screen = Screen::open(theme)?;
    while !ended.load(Ordering::SeqCst) {
        let height = screen.draw(&model)?;
        if let Mode::Reading(pager) = &mut model.mode {
            pager.clamp(view::pager_height(height));
        }
        let saving = model.fleet.status.notice.is_some();
        let tick = if saving { FAST_TICK } else { TICK };
        watch.wait_or_input(tick, Some(std::io::stdin().as_fd()));
        model.apply(News::Tick(Timestamp::now()));
        inbox.drain().into_iter().for_each(|news| model.apply(news));
        for key in screen.keys()? {
            for effect in model.press(key) {
                match effect {
                    Effect::Quit => return Ok(()),
                    Effect::Attach(name) => {
                        let news = screen.lend(|| runner.attach(&name))?;
                        news.into_iter().for_each(|news| model.apply(news));
                        runner.feed.refresh();
                    }
                    Effect::Follow(name) => runner.feed.follow(name),
                    Effect::Run { arguments, show } => runner.run(arguments, show)?,
                }
            }
        }
    }
    Ok(())
}

/// Carries out effects by running this program, like a user would.
struct EffectRunner {
    program: PathBuf,
    data_dir: PathBuf,
    feed: Feed,
    inbox: Arc<Inbox>,
    bell: Bell,
}

impl EffectRunner {
    fn command(&self, arguments: &[String]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .arg("--data-dir")
            .arg(&self.data_dir)
            .args(arguments);
        command
    }

    /// Opens an agent's terminal and waits until the user leaves it. Returns news only if it
    /// failed.
    fn attach(&self, name: &AgentName) -> Option<News> {
        let arguments = ["attach".to_owned(), name.to_string()];
        let child = self.command(&arguments).stderr(Stdio::piped()).spawn();
        let output = child.and_then(std::process::Child::wait_with_output);
        let (worked, text) = match output {
            Ok(output) => (
                output.status.success(),
                String::from_utf8_lossy(&output.stderr).into_owned(),
            ),
            Err(error) => (false, error.to_string()),
        };
        (!worked).then(|| News::CommandDone {
            command: format!("spotkeep attach {name}"),
            text: join_lines(&text),
            worked,
            show: false,
        })
    }

    /// Runs a command in the background; its output becomes news.
    fn run(&self, arguments: Vec<String>, show: bool) -> Result<()> {
        let mut command = self.command(&arguments);
        let typed = format!("spotkeep {}", arguments.join(" "));
        let (inbox, bell) = (Arc::clone(&self.inbox), self.bell.clone());
        thread::spawn("command", move || {
            let (worked, text) = match command::run(&mut command, COMMAND_LIMIT) {
                Ok(output) if output.status.success() => {
                    let silent = output.stdout.trim().is_empty();
                    (true, if silent { output.stderr } else { output.stdout })
                }
                Ok(output) => (false, join_lines(&(output.stdout + &output.stderr))),
                Err(error) => (false, format!("{error:#}")),
            };
            inbox.send(News::CommandDone {
                command: typed,
                text,
                worked,
                show,
            });
            bell.wake();
        })
        .context("cannot start a thread")?;
        self.feed.refresh();
        Ok(())
    }
}

/// Joins the lines of an error and its hint into one line.
fn join_lines(text: &str) -> String {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.collect::<Vec<_>>().join(" · ")
}
