//! Notifications: sends events to a webhook or a command.
//!
//! A separate thread with a short queue sends them, so that a receiver that does not answer never
//! holds up a save. `curl` sends the webhook; it is on every machine that agents work on. A TLS
//! library would add some twenty crates, and a list of authorities that grows old in the binary.
//! The URL, which is usually a secret, goes through curl's standard input and so is in no list of
//! processes.

mod message;
mod send;

use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::time::Duration;

use state::config::Notify;
use sys::error::{Context as _, Error, Result};
use sys::thread;

pub use message::Message;

/// How many messages may wait. More are dropped; their events are in the journal.
const QUEUE: usize = 64;

/// The pauses before the second and the third try.
const PAUSES: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(10)];

enum NotifierCommand {
    Send(Message, Notify),
    Flush(SyncSender<()>),
}

/// A handle to the notifier's thread.
#[derive(Debug, Clone)]
pub struct Notifier {
    orders: SyncSender<NotifierCommand>,
}

impl std::fmt::Debug for NotifierCommand {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NotifierCommand") // A webhook's URL is a secret.
    }
}

impl Notifier {
    /// Starts the thread; `done` gets the error of each message, or `None` where it was sent.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn spawn(done: impl Fn(Option<Error>) + Send + 'static) -> Result<Self> {
        let (orders, queue) = mpsc::sync_channel(QUEUE);
        thread::spawn("notify", move || run(&queue, &done))
            .context("cannot start the notifier thread")?;
        Ok(Self { orders })
    }

    /// Queues a message and returns at once.
    pub fn send(&self, message: Message, whom: &Notify) {
        if !whom.wants(message.kind) {
            return;
        }
        match self
            .orders
            .try_send(NotifierCommand::Send(message, whom.clone()))
        {
            Ok(()) | Err(TrySendError::Disconnected(_)) => {}
            Err(TrySendError::Full(_)) => {
                tracing::warn!("a notification was dropped: its queue is full");
            }
        }
    }

    /// Waits until all queued messages are sent, for `limit` at most.
    pub fn flush(&self, limit: Duration) {
        let (done, flushed) = mpsc::sync_channel(1);
        if self.orders.try_send(NotifierCommand::Flush(done)).is_ok() {
            flushed.recv_timeout(limit).ok();
        }
    }
}

fn run(queue: &Receiver<NotifierCommand>, done: &dyn Fn(Option<Error>)) {
    for order in queue {
        match order {
            NotifierCommand::Send(message, whom) => done(deliver(&message, &whom).err()),
            NotifierCommand::Flush(flushed) => {
                flushed.send(()).ok();
            }
        }
    }
}

fn deliver(message: &Message, whom: &Notify) -> Result<()> {
    let webhook = whom.webhook.as_deref().map_or(Ok(()), |url| {
        again(|| send::webhook(url, &message.body(whom.format)))
    });
    let command = whom
        .command
        .as_deref()
        .map_or(Ok(()), |command| again(|| send::command(command, message)));
    webhook.and(command)
}

fn again(send: impl Fn() -> Result<()>) -> Result<()> {
    for pause in PAUSES {
        if send().is_ok() {
            return Ok(());
        }
        std::thread::sleep(pause);
    }
    send()
}
