//! Watching a Compute Engine VM's metadata server for the word that it is preempted.
//!
//! [`Metadata`] asks one question at a time; [`Poller`] decides, purely, what to ask next and what
//! an answer means; [`watch()`] lets the two run in a thread.

mod metadata;
mod poller;
mod request;

use std::convert::Infallible;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::time::Instant;

use sys::error::{Context as _, Result};
use sys::http::Client;
use sys::thread;

pub use metadata::Metadata;
pub use poller::{Health, Poller, Step, WatchEvent};
pub use request::{Answer, Request};

/// A watch in a thread of its own. It ends, and stops delivering, when this is dropped.
#[derive(Debug)]
pub struct Watcher {
    client: Client,
    /// Nothing is ever sent: that it is gone is the message.
    _alive: Sender<Infallible>,
}

impl Drop for Watcher {
    fn drop(&mut self) {
        // The request in flight may have a minute to go. It fails, the thread finds the sender
        // gone (fields are dropped right after this) or asks once more in vain, and ends.
        self.client.clone().shutdown();
    }
}

/// Watches `metadata` from now on and calls `deliver` with what it sees: each time that the
/// machine is preempted, which may have begun before, and each change of the watch's own health.
///
/// It never gives up: whatever the server does, it is asked again, at most ten times a second and
/// at least every 30 seconds.
///
/// # Errors
/// No thread can be started.
pub fn watch(
    metadata: &Metadata,
    deliver: impl FnMut(WatchEvent) + Send + 'static,
) -> Result<Watcher> {
    // A client of its own, so that ending the watch ends nobody else's request.
    let client = Client::new();
    let metadata = metadata.with_client(client.clone());
    let (alive, ended) = channel();
    thread::spawn("notice-gcp", move || run(&metadata, &ended, deliver))
        .context("cannot start the thread that watches the metadata server")?;
    Ok(Watcher {
        client,
        _alive: alive,
    })
}

fn run(metadata: &Metadata, ended: &Receiver<Infallible>, mut deliver: impl FnMut(WatchEvent)) {
    let mut poller = Poller::default();
    loop {
        let asked = Instant::now();
        let answer = metadata.ask(&poller.next());
        let step = poller.on(answer, asked.elapsed());
        if ended.try_recv() == Err(TryRecvError::Disconnected) {
            return;
        }
        step.seen.into_iter().for_each(&mut deliver);
        if ended.recv_timeout(step.pause) == Err(RecvTimeoutError::Disconnected) {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
