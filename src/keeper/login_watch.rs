//! The thread that watches over the login.

use std::time::{Duration, Instant};

use super::Message;
use claude::credentials::{LoginCheck, LoginWatch};
use state::JournalEvent;
use state::layout::DataDir;
use supervisor::Event;
use sys::error::{Context as _, Result};
use sys::inotify::Watch;
use sys::thread;

/// Damage that lasts so long is no file that is just being written.
const DEBOUNCE: Duration = Duration::from_secs(3);

/// It is looked at so often even if nothing is heard of it.
const POLL_INTERVAL: Duration = Duration::from_secs(60);

/// A look at a login when no agent runs that could be writing it.
///
/// # Errors
/// The disk is full or gone.
pub fn look_once(data_dir: &DataDir) -> Result<Option<JournalEvent>> {
    let mut login_watch = LoginWatch::new(&data_dir.claude(), &data_dir.credentials_copy());
    Ok(journal_event(login_watch.check(true)?))
}

/// Starts the thread.
///
/// # Errors
/// No thread or no watch can be had.
pub fn spawn(data_dir: &DataDir, deliver: impl Fn(Message) + Send + 'static) -> Result<()> {
    let watch = Watch::new()?;
    watch.add(&data_dir.claude())?;
    let mut login_watch = LoginWatch::new(&data_dir.claude(), &data_dir.credentials_copy());
    thread::spawn("guard", move || {
        loop {
            let doubtful = match login_watch.check(false) {
                Ok(looked) => {
                    report(looked, &deliver);
                    looked == LoginCheck::Doubtful
                }
                Err(error) => {
                    tracing::error!("cannot watch over the login: {error:#}");
                    false
                }
            };
            if doubtful {
                let look_at = Instant::now() + DEBOUNCE;
                // What is written meanwhile is seen by the next look.
                while Instant::now() < look_at {
                    watch.wait(look_at.saturating_duration_since(Instant::now()));
                }
            } else {
                watch.wait(POLL_INTERVAL);
            }
        }
    })
    .context("cannot start the guard thread")?;
    Ok(())
}

fn report(looked: LoginCheck, deliver: &impl Fn(Message)) {
    if let Some(what) = journal_event(looked) {
        deliver(Message::Journal(what));
    }
    match looked {
        LoginCheck::Renewed => deliver(Message::Event(Event::Login("there is a new login".into()))),
        LoginCheck::PutBack => deliver(Message::Event(Event::Login(
            "the login was put back".into(),
        ))),
        LoginCheck::Same | LoginCheck::Doubtful | LoginCheck::Lost => {}
    }
}

fn journal_event(looked: LoginCheck) -> Option<JournalEvent> {
    match looked {
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
