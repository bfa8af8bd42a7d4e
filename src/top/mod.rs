//! `spotkeep top`: the fleet at a glance, live. The only room that names `ratatui`.
//!
//! ```text
//! status ──┐
//! transcripts │                                ┌▶ view (pure) ▶ screen
//! journal ─┼▶ feed ▶ news ─┐
//! /proc ───┘               ├▶ model (pure) ─┤
//! keys ────────────────────┘                └▶ effects (attach, a command of our own)
//! ```
//!
//! The model holds what is looked at, and decides what a key means; the view turns it into cells; neither
//! reads a clock or a file. The feed waits for files to change, and sleeps otherwise.

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

/// How often ages are told anew.
const TICK: Duration = Duration::from_secs(1);

/// While a countdown runs, it is.
const FAST_TICK: Duration = Duration::from_millis(200);

/// How long a command of ours may take: a difference of a large workspace takes its time.
const COMMAND_LIMIT: Duration = Duration::from_secs(300);

/// Shows the fleet until the user has seen enough. `ask` tells how everything stands.
///
/// # Errors
/// There is no terminal; how things stand cannot be told at all.
pub fn run(data_dir: &DataDir, ask: AskStatus, look: Theme) -> Result<()> {
    if !screen::is_there() {
        return Err(anyhow!("top needs a terminal to draw on"))
            .hint("spotkeep ls --watch")
            .kind(ErrorKind::Usage);
    }
    let watch = Watch::new()?;
    let ended = Arc::new(AtomicBool::new(false));
    let (bell, flag) = (watch.bell(), Arc::clone(&ended));
    // ctrl-C is a key here; as a signal it is meant for whoever the terminal is lent to.
    signal::listen(move |ask| {
        if ask == Ask::Terminate {
            flag.store(true, Ordering::SeqCst);
            bell.retention();
        }
    })?;
    let bell = watch.bell();
    signal::on_resize(move || bell.retention())?;
    let inbox = Arc::new(Inbox::default());
    let (feed, first) = Feed::spawn(data_dir, ask, &inbox, watch.bell())?;
    let hands = Hands {
        // Found also where an upgrade has put another one in its place, or where its path is somebody else's.
        program: PathBuf::from("/proc/self/exe"),
        data_dir: data_dir.dir().to_path_buf(),
        feed,
        inbox: Arc::clone(&inbox),
        bell: watch.bell(),
    };
    let mut model = Model::new(first, Timestamp::now());
    let mut screen = Screen::open(look)?;
    while !ended.load(Ordering::SeqCst) {
        let height = screen.draw(&model)?;
        if let Mode::Reading(pager) = &mut model.mode {
            pager.settle(view::pager_height(height));
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
                        let came = screen.lend(|| hands.attach(&name))?;
                        came.into_iter().for_each(|news| model.apply(news));
                        hands.feed.refresh();
                    }
                    Effect::Listen(name) => hands.feed.listen(name),
                    Effect::Run { arguments, show } => hands.run(arguments, show)?,
                }
            }
        }
    }
    Ok(())
}

/// What does things outside: this program again, as a user would call it.
struct Hands {
    program: PathBuf,
    data_dir: PathBuf,
    feed: Feed,
    inbox: Arc<Inbox>,
    bell: Bell,
}

impl Hands {
    fn command(&self, arguments: &[String]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .arg("--data-dir")
            .arg(&self.data_dir)
            .args(arguments);
        command
    }

    /// Goes to an agent's terminal and comes back; the news is why it could not be done.
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
        (!worked).then(|| News::Said {
            command: format!("spotkeep attach {name}"),
            text: in_a_line(&text),
            worked,
            show: false,
        })
    }

    /// Runs a command aside; what it says becomes news.
    fn run(&self, arguments: Vec<String>, show: bool) -> Result<()> {
        let mut command = self.command(&arguments);
        let said = format!("spotkeep {}", arguments.join(" "));
        let (inbox, bell) = (Arc::clone(&self.inbox), self.bell.clone());
        thread::spawn("command", move || {
            let (worked, text) = match command::run(&mut command, COMMAND_LIMIT) {
                Ok(output) if output.status.success() => {
                    let silent = output.stdout.trim().is_empty();
                    (true, if silent { output.stderr } else { output.stdout })
                }
                Ok(output) => (false, in_a_line(&(output.stdout + &output.stderr))),
                Err(error) => (false, format!("{error:#}")),
            };
            inbox.send(News::Said {
                command: said,
                text,
                worked,
                show,
            });
            bell.retention();
        })
        .context("cannot start a thread")?;
        self.feed.refresh();
        Ok(())
    }
}

/// An error with its hint.
fn in_a_line(text: &str) -> String {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.collect::<Vec<_>>().join(" · ")
}
