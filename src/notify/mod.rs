//! Tells somebody what happened: a webhook, a command. In a thread of its own behind a short queue, so
//! that nobody who does not answer is ever in the way of a save.
//!
//! A webhook is sent by `curl`, which is on every machine that agents work on: TLS of our own would
//! be some twenty crates more, and a list of authorities that grows old in the binary. The URL, which
//! is a secret as a rule, goes through its standard input and is in no list of processes.

mod message;
mod send;

use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::time::Duration;

use state::config::Notify;
use sys::error::{Context as _, Error, Result};
use sys::thread;

pub use message::Message;

/// How many may wait. What comes on top is left out: it is in the journal.
const QUEUE: usize = 64;

/// Before the second and the third try.
const PAUSES: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(10)];

enum NotifierCommand {
    Tell(Message, Notify),
    Flush(SyncSender<()>),
}

/// Gives messages to the thread.
#[derive(Debug, Clone)]
pub struct Notifier {
    orders: SyncSender<NotifierCommand>,
}

impl std::fmt::Debug for NotifierCommand {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Order") // A webhook's URL is a secret.
    }
}

impl Notifier {
    /// Starts the thread; `done` is told how each message went.
    ///
    /// # Errors
    /// No thread can be had.
    pub fn spawn(done: impl Fn(Option<Error>) + Send + 'static) -> Result<Self> {
        let (orders, queue) = mpsc::sync_channel(QUEUE);
        thread::spawn("notify", move || run(&queue, &done))
            .context("cannot start the thread that notifies")?;
        Ok(Self { orders })
    }

    /// Tells somebody, soon; returns at once.
    pub fn tell(&self, message: Message, whom: &Notify) {
        if !whom.wants(message.kind) {
            return;
        }
        match self
            .orders
            .try_send(NotifierCommand::Tell(message, whom.clone()))
        {
            Ok(()) | Err(TrySendError::Disconnected(_)) => {}
            Err(TrySendError::Full(_)) => tracing::warn!("a notification is left out"),
        }
    }

    /// Waits until what was said so far has been told, at most for `limit`.
    pub fn flush(&self, limit: Duration) {
        let (done, told) = mpsc::sync_channel(1);
        if self.orders.try_send(NotifierCommand::Flush(done)).is_ok() {
            told.recv_timeout(limit).ok();
        }
    }
}

fn run(queue: &Receiver<NotifierCommand>, done: &dyn Fn(Option<Error>)) {
    for order in queue {
        match order {
            NotifierCommand::Tell(message, whom) => done(tell(&message, &whom).err()),
            NotifierCommand::Flush(told) => {
                told.send(()).ok();
            }
        }
    }
}

fn tell(message: &Message, whom: &Notify) -> Result<()> {
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
