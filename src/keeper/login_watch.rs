//! Login watch: a thread that watches Claude Code's login and restores it when it is damaged.

use std::time::{Duration, Instant};

use super::Message;
use claude::credentials::{LoginCheck, LoginWatch};
use state::JournalEvent;
use state::layout::DataDir;
use supervisor::Event;
use sys::error::{Context as _, Result};
use sys::inotify::Watch;
use sys::thread;

/// Damage that lasts longer than this is not a file that is just being written.
const DEBOUNCE: Duration = Duration::from_secs(3);

/// How often the login is checked even if the file is not reported as changed.
const POLL_INTERVAL: Duration = Duration::from_secs(60);

/// Checks the login once, while no agent runs that could be writing it.
///
/// # Errors
/// The disk is full or missing.
pub fn check_once(data_dir: &DataDir) -> Result<Option<JournalEvent>> {
    let mut login_watch = LoginWatch::new(&data_dir.claude(), &data_dir.credentials_copy());
    Ok(journal_event(login_watch.check(true)?))
}

/// Starts the thread.
///
/// # Errors
/// The thread or the watch cannot be started.
pub fn spawn(data_dir: &DataDir, deliver: impl Fn(Message) + Send + 'static) -> Result<()> {
    let watch = Watch::new()?;
    watch.add(&data_dir.claude())?;
    let mut login_watch = LoginWatch::new(&data_dir.claude(), &data_dir.credentials_copy());
    thread::spawn("login-watch", move || {
        loop {
            let doubtful = match login_watch.check(false) {
                Ok(check) => {
                    report(check, &deliver);
                    check == LoginCheck::Doubtful
                }
                Err(error) => {
                    tracing::error!("cannot check the login: {error:#}");
                    false
                }
            };
            if doubtful {
                let until = Instant::now() + DEBOUNCE;
                // The next check sees what is written meanwhile.
                while Instant::now() < until {
                    watch.wait(until.saturating_duration_since(Instant::now()));
                }
            } else {
                watch.wait(POLL_INTERVAL);
            }
        }
    })
    .context("cannot start the login watch thread")?;
    Ok(())
}

fn report(check: LoginCheck, deliver: &impl Fn(Message)) {
    if let Some(what) = journal_event(check) {
        deliver(Message::Journal(what));
    }
    match check {
        LoginCheck::Renewed => deliver(Message::Event(Event::Login("there is a new login".into()))),
        LoginCheck::PutBack => deliver(Message::Event(Event::Login(
            "the login was put back".into(),
        ))),
        LoginCheck::Same | LoginCheck::Doubtful | LoginCheck::Lost => {}
    }
}

fn journal_event(check: LoginCheck) -> Option<JournalEvent> {
    match check {
        LoginCheck::PutBack => Some(JournalEvent::Repaired {
            what: ".credentials.json was damaged; the newest good copy was put back".into(),
        }),
        LoginCheck::Lost => Some(JournalEvent::Trouble {
            what:
                ".credentials.json is damaged, and there is no good copy; run /login in any agent"
                    .into(),
        }),
        _ => None,
    }
}
