//! Watching the Compute Engine metadata server for a preemption notice.
//!
//! [`Metadata`] sends one request at a time; [`Poller`], a pure state machine, decides the next
//! request and evaluates the answers; [`watch()`] runs both in a thread.

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

/// A watch in its own thread. It ends, and stops delivering, when this is dropped.
#[derive(Debug)]
pub struct Watcher {
    client: Client,
    /// Nothing is ever sent; the thread ends when it is dropped.
    _alive: Sender<Infallible>,
}

impl Drop for Watcher {
    fn drop(&mut self) {
        // The request in flight may have a minute to go. It fails now; the thread finds the sender
        // dropped (fields are dropped right after this), or fails in one more request, and ends.
        self.client.clone().shutdown();
    }
}

/// Watches `metadata` from now on and calls `deliver` for each preemption of the machine, which may
/// have begun before, and for each change of the watch's own health.
///
/// Whatever the server does, it is asked again, at most ten times a second and at least every 30
/// seconds.
///
/// # Errors
/// No thread can be started.
pub fn watch(
    metadata: &Metadata,
    deliver: impl FnMut(WatchEvent) + Send + 'static,
) -> Result<Watcher> {
    // Its own client, so that ending the watch ends no other request.
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
