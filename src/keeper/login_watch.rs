//! The thread that watches over the login.

use std::time::{Duration, Instant};

use super::Message;
use claude::credentials::{LoginWatch, Looked};
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
    Ok(words(login_watch.look(true)?))
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
            let doubtful = match login_watch.look(false) {
                Ok(looked) => {
                    tell(looked, &deliver);
                    looked == Looked::Doubtful
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

fn tell(looked: Looked, deliver: &impl Fn(Message)) {
    if let Some(what) = words(looked) {
        deliver(Message::Journal(what));
    }
    match looked {
        Looked::Renewed => deliver(Message::Event(Event::Login("there is a new login".into()))),
        Looked::PutBack => deliver(Message::Event(Event::Login(
            "the login was put back".into(),
        ))),
        Looked::Same | Looked::Doubtful | Looked::Lost => {}
    }
}

fn words(looked: Looked) -> Option<JournalEvent> {
    match looked {
        Looked::PutBack => Some(JournalEvent::Repaired {
            what: ".credentials.json was damaged; the newest good copy was put back".into(),
        }),
        Looked::Lost => Some(JournalEvent::Trouble {
            what:
                ".credentials.json is damaged, and there is no good copy; run /login in any agent"
                    .into(),
        }),
        _ => None,
    }
}
