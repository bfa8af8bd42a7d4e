//! A fake Compute Engine metadata server on loopback.
//!
//! It answers a keeper's requests, holds its long polls, announces a preemption on demand, and has
//! the faults that were observed on the real server.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::http::{Handler, Reply, Request, Server};
use sys::cloud_provider::NOTICE_KEY;
use sys::error::Result;

/// The path prefix of all keys.
const BASE: &str = "/computeMetadata/v1/";
/// The maximum duration of a poll without `timeout_sec`.
const LONGEST_POLL: Duration = Duration::from_secs(300);

/// A fault of the next request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// 503, as during maintenance.
    Unavailable,
    /// The connection is reset.
    Reset,
    /// 404: the key does not exist.
    NotFound,
    /// The answer comes this much later.
    Slow(Duration),
}

/// An answer that the server has sent.
#[derive(Debug, Clone)]
pub struct Answer {
    /// When it was sent.
    pub at: Instant,
    /// The requested key, like `instance/preempted`.
    pub key: String,
    /// The status code.
    pub status: u16,
    /// The body.
    pub value: String,
    /// Whether the request asked to wait for a change.
    pub polled: bool,
}

/// The fake metadata server; it ends when dropped.
#[derive(Debug)]
pub struct Metadata {
    server: Server,
    fake: Arc<Fake>,
}

impl Metadata {
    /// Starts a server for a spot VM that is not being preempted.
    ///
    /// # Errors
    /// The server cannot listen on a port.
    pub fn start() -> Result<Self> {
        Self::start_at(0)
    }

    /// Like [`Metadata::start`], on a given port, for a virtual machine whose requests lead to it.
    ///
    /// # Errors
    /// The server cannot listen on the port.
    pub fn start_at(port: u16) -> Result<Self> {
        let fake = Arc::new(Fake::default());
        let server = Server::start("metadata", port, Arc::clone(&fake) as Arc<dyn Handler>)?;
        Ok(Self { server, fake })
    }

    /// Returns the address, `127.0.0.1:PORT`, as `GCE_METADATA_HOST` takes it.
    #[must_use]
    pub fn address(&self) -> String {
        self.server.address()
    }

    /// Announces the preemption and answers every poll. Returns the time.
    pub fn preempt(&self) -> Instant {
        let mut state = self.fake.state();
        state.preempted = true;
        state.generation += 1;
        let at = Instant::now();
        drop(state);
        self.fake.changed.notify_all();
        at
    }

    /// Withdraws the announcement, for the next machine.
    pub fn withdraw(&self) {
        let mut state = self.fake.state();
        state.preempted = false;
        state.generation += 1;
        drop(state);
        self.fake.changed.notify_all();
    }

    /// Changes only the `ETag`, and answers every poll, as the real server sometimes does.
    pub fn touch(&self) {
        self.fake.state().generation += 1;
        self.fake.changed.notify_all();
    }

    /// Sets whether this VM is preemptible.
    pub fn set_preemptible(&self, preemptible: bool) {
        self.fake.state().ordinary = !preemptible;
    }

    /// Sets the notice length that this VM was created with, like `120s`.
    pub fn set_notice(&self, notice: &str) {
        self.fake.state().notice = Some(notice.to_owned());
    }

    /// Adds a fault to the next `times` requests, after the faults that are already queued.
    pub fn fault(&self, fault: Fault, times: usize) {
        let mut state = self.fake.state();
        state.faults.extend(std::iter::repeat_n(fault, times));
    }

    /// Removes all faults, and answers requests that are delayed.
    pub fn repair(&self) {
        let mut state = self.fake.state();
        state.faults.clear();
        state.repaired += 1;
        drop(state);
        self.fake.changed.notify_all();
    }

    /// Returns every answer so far, oldest first.
    #[must_use]
    pub fn answers(&self) -> Vec<Answer> {
        self.fake.state().answers.clone()
    }

    /// Returns the number of polls of `instance/preempted` that are held now.
    #[must_use]
    pub fn pollers(&self) -> usize {
        self.fake.state().pollers
    }

    /// Waits until at least `count` polls are held; `false` if `limit` has passed.
    #[must_use]
    pub fn wait_for_pollers(&self, count: usize, limit: Duration) -> bool {
        self.wait(limit, |state| state.pollers >= count)
    }

    /// Waits until at least `count` answers were sent (a reset is not an answer); `false` if
    /// `limit` has passed.
    #[must_use]
    pub fn wait_for_answers(&self, count: usize, limit: Duration) -> bool {
        self.wait(limit, |state| state.answers.len() >= count)
    }

    fn wait(&self, limit: Duration, enough: impl Fn(&State) -> bool) -> bool {
        let (state, _) = self
            .fake
            .changed
            .wait_timeout_while(self.fake.state(), limit, |state| !enough(state))
            .unwrap_or_else(PoisonError::into_inner);
        enough(&state)
    }
}

#[derive(Debug, Default)]
struct Fake {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    preempted: bool,
    ordinary: bool,
    notice: Option<String>,
    /// The number of changes, from which the `ETag` is made.
    generation: u64,
    faults: VecDeque<Fault>,
    /// The number of calls of `repair`.
    repaired: u32,
    answers: Vec<Answer>,
    pollers: usize,
    stopped: bool,
}

impl State {
    fn etag(&self) -> String {
        // Sixteen digits like the real one, and never "0".
        format!("{:016x}", 0x7b5d_1c00_0000_0001_u64 + self.generation)
    }

    fn value(&self, key: &str) -> Option<String> {
        let text = |yes: bool| if yes { "TRUE" } else { "FALSE" };
        Some(match key {
            "instance/preempted" => text(self.preempted).to_owned(),
            "instance/scheduling/preemptible" => text(!self.ordinary).to_owned(),
            "instance/scheduling/on-host-maintenance" => "TERMINATE".to_owned(),
            "instance/scheduling/automatic-restart" => "FALSE".to_owned(),
            "instance/maintenance-event" => "NONE".to_owned(),
            "instance/id" => "4242424242424242424".to_owned(),
            "instance/name" => "drill".to_owned(),
            "instance/zone" => "projects/1/zones/drill-a".to_owned(),
            _ => return None,
        })
    }
}

impl Fake {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds a poll until the `ETag` differs from the client's, the poll times out, or the server
    /// ends. Without `last_etag` it waits for the next change, as the real server does.
    fn hold<'a>(&self, state: MutexGuard<'a, State>, request: &Request) -> MutexGuard<'a, State> {
        let known = request
            .query("last_etag")
            .map_or_else(|| state.etag(), str::to_owned);
        let limit = request
            .query("timeout_sec")
            .and_then(|seconds| seconds.parse().ok())
            .map_or(LONGEST_POLL, Duration::from_secs);
        let mut state = state;
        state.pollers += 1;
        self.changed.notify_all();
        let (mut state, _) = self
            .changed
            .wait_timeout_while(state, limit, |state| {
                !state.stopped && state.etag() == known
            })
            .unwrap_or_else(PoisonError::into_inner);
        state.pollers -= 1;
        state
    }

    fn respond(&self, key: &str, request: &Request) -> (u16, String, String) {
        let refused = request.headers.contains_key("x-forwarded-for")
            || request.headers.get("metadata-flavor").map(String::as_str) != Some("Google");
        let mut state = self.state();
        if refused {
            let why = "Missing required header \"Metadata-Flavor\": \"Google\"";
            return (403, why.to_owned(), state.etag());
        }
        // The notice length has no faults: they are for the keeper's polls only.
        if key == NOTICE_KEY {
            return match &state.notice {
                Some(notice) => (200, notice.clone(), state.etag()),
                None => (404, "not found".to_owned(), state.etag()),
            };
        }
        match state.faults.pop_front() {
            Some(Fault::Unavailable) => return (503, "unavailable".to_owned(), state.etag()),
            Some(Fault::NotFound) => return (404, "not found".to_owned(), state.etag()),
            Some(Fault::Slow(delay)) => {
                let repaired = state.repaired;
                let (after, _) = self
                    .changed
                    .wait_timeout_while(state, delay, |state| {
                        !state.stopped && state.repaired == repaired
                    })
                    .unwrap_or_else(PoisonError::into_inner);
                state = after;
            }
            // `admit` has handled a reset before the request was read.
            Some(Fault::Reset) | None => {}
        }
        if request.query("wait_for_change") == Some("true") {
            state = self.hold(state, request);
        }
        let etag = state.etag();
        match state.value(key) {
            Some(value) => (200, value, etag),
            None => (404, "not found".to_owned(), etag),
        }
    }
}

impl Handler for Fake {
    fn admit(&self) -> bool {
        let mut state = self.state();
        let reset = state.faults.front() == Some(&Fault::Reset);
        if reset {
            state.faults.pop_front();
        }
        !reset
    }

    fn answer(&self, request: &Request, reply: Reply<'_>) -> io::Result<()> {
        let key = request.path.strip_prefix(BASE).unwrap_or(&request.path);
        let (status, value, etag) = self.respond(key, request);
        let headers = [
            ("Metadata-Flavor", "Google"),
            ("ETag", etag.as_str()),
            ("Content-Type", "application/text"),
        ];
        let sent = reply.send(status, &headers, value.as_bytes());
        self.state().answers.push(Answer {
            at: Instant::now(),
            key: key.to_owned(),
            status,
            value,
            polled: request.query("wait_for_change").is_some(),
        });
        self.changed.notify_all();
        sent
    }

    fn stop(&self) {
        self.state().stopped = true;
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::super::http::{Response, send};
    use super::*;
    use testing::wait::{FOREVER, during};

    fn get(server: &Metadata, key: &str) -> io::Result<Response> {
        let url = format!("http://{}{BASE}{key}", server.address());
        send("GET", &url, &[("Metadata-Flavor", "Google")], b"")
    }

    #[test]
    fn a_poll_is_held_until_the_preemption() {
        let server = Metadata::start().unwrap();
        let etag = get(&server, "instance/preempted").unwrap().headers["etag"].clone();
        std::thread::scope(|scope| {
            let poll = scope.spawn(|| {
                let key = format!("instance/preempted?wait_for_change=true&last_etag={etag}");
                get(&server, &key).unwrap().text().unwrap()
            });
            during("a poll is held", || server.wait_for_pollers(1, FOREVER));
            let flipped = server.preempt();
            assert_eq!(poll.join().unwrap(), "TRUE");
            during("the poll is answered", || {
                server.wait_for_answers(2, FOREVER)
            });
            assert!(server.answers()[1].at >= flipped);
            assert!(server.answers()[1].polled);
        });
    }

    #[test]
    fn an_old_etag_is_answered_at_once_and_so_is_none() {
        let server = Metadata::start().unwrap();
        let key = "instance/preempted?wait_for_change=true&last_etag=0";
        assert_eq!(get(&server, key).unwrap().text().unwrap(), "FALSE");
    }

    #[test]
    fn a_poll_ends_unchanged_when_its_time_is_over() {
        let server = Metadata::start().unwrap();
        let key = "instance/preempted?wait_for_change=true&timeout_sec=0";
        assert_eq!(get(&server, key).unwrap().text().unwrap(), "FALSE");
    }

    #[test]
    fn an_etag_can_change_without_its_value() {
        let server = Metadata::start().unwrap();
        let before = get(&server, "instance/preempted").unwrap();
        server.touch();
        let mut after = get(&server, "instance/preempted").unwrap();
        assert_ne!(before.headers["etag"], after.headers["etag"]);
        assert_eq!(after.text().unwrap(), "FALSE");
    }

    #[test]
    fn faults_come_in_their_order_and_then_all_is_well() {
        let server = Metadata::start().unwrap();
        server.fault(Fault::Unavailable, 2);
        server.fault(Fault::Reset, 1);
        server.fault(Fault::NotFound, 1);
        let status = |_| {
            get(&server, "instance/id")
                .map(|response| response.status)
                .ok()
        };
        let seen: Vec<_> = (0..5).map(status).collect();
        assert_eq!(seen, [Some(503), Some(503), None, Some(404), Some(200)]);
    }

    #[test]
    fn a_request_without_the_header_is_refused() {
        let server = Metadata::start().unwrap();
        let url = format!("http://{}{BASE}instance/id", server.address());
        assert_eq!(send("GET", &url, &[], b"").unwrap().status, 403);
    }
}
