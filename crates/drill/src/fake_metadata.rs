//! A metadata server of Google's cloud, on loopback: answers what a keeper asks, holds its long
//! polls, announces a preemption when told to, and misbehaves as the real one was seen to.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::http::{Handler, Reply, Request, Server};
use sys::cloud_provider::NOTICE_KEY;
use sys::error::Result;

/// Below this path lies everything.
const BASE: &str = "/computeMetadata/v1/";
/// How long a poll without `timeout_sec` is held at most.
const LONGEST_POLL: Duration = Duration::from_secs(300);

/// How the next request that reaches the fake goes wrong.
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

/// One answer that was given.
#[derive(Debug, Clone)]
pub struct Answer {
    /// When it was written.
    pub at: Instant,
    /// The key that was asked for, such as `instance/preempted`.
    pub key: String,
    /// The status code.
    pub status: u16,
    /// The body.
    pub value: String,
    /// Whether the request asked to wait for a change.
    pub polled: bool,
}

/// The metadata server; it ends when dropped.
#[derive(Debug)]
pub struct Metadata {
    server: Server,
    fake: Arc<Fake>,
}

impl Metadata {
    /// Starts a server for a spot VM that is not being preempted.
    ///
    /// # Errors
    /// No port can be had.
    pub fn start() -> Result<Self> {
        Self::start_at(0)
    }

    /// The same on a port of its own choice, for a machine of which we are the outside.
    ///
    /// # Errors
    /// The port cannot be had.
    pub fn start_at(port: u16) -> Result<Self> {
        let fake = Arc::new(Fake::default());
        let server = Server::start("metadata", port, Arc::clone(&fake) as Arc<dyn Handler>)?;
        Ok(Self { server, fake })
    }

    /// `127.0.0.1:PORT`, as `GCE_METADATA_HOST` takes it.
    #[must_use]
    pub fn address(&self) -> String {
        self.server.address()
    }

    /// Announces the preemption and wakes every poll. Returns when that was.
    pub fn preempt(&self) -> Instant {
        let mut state = self.fake.state();
        state.preempted = true;
        state.generation += 1;
        let at = Instant::now();
        drop(state);
        self.fake.changed.notify_all();
        at
    }

    /// Takes the announcement back, for a new machine of which nothing has been said yet.
    pub fn withdraw(&self) {
        let mut state = self.fake.state();
        state.preempted = false;
        state.generation += 1;
        drop(state);
        self.fake.changed.notify_all();
    }

    /// Changes the `ETag` and nothing else, and answers every poll, as the real one does at times.
    pub fn touch(&self) {
        self.fake.state().generation += 1;
        self.fake.changed.notify_all();
    }

    /// Makes this VM one that is not preemptible.
    pub fn set_preemptible(&self, preemptible: bool) {
        self.fake.state().ordinary = !preemptible;
    }

    /// Writes down how long a notice this VM was made with, such as `120s`.
    pub fn set_notice(&self, notice: &str) {
        self.fake.state().notice = Some(notice.to_owned());
    }

    /// Lets the next `times` requests go wrong, after the faults that are already waiting.
    pub fn fault(&self, fault: Fault, times: usize) {
        let mut state = self.fake.state();
        state.faults.extend(std::iter::repeat_n(fault, times));
    }

    /// From now on nothing goes wrong any more; what is slow is answered.
    pub fn repair(&self) {
        let mut state = self.fake.state();
        state.faults.clear();
        state.repaired += 1;
        drop(state);
        self.fake.changed.notify_all();
    }

    /// Every answer so far, oldest first.
    #[must_use]
    pub fn answers(&self) -> Vec<Answer> {
        self.fake.state().answers.clone()
    }

    /// Polls of `instance/preempted` that are held at this moment.
    #[must_use]
    pub fn pollers(&self) -> usize {
        self.fake.state().pollers
    }

    /// Waits until at least this many polls are held; `false` when `limit` has passed before.
    #[must_use]
    pub fn wait_for_pollers(&self, count: usize, limit: Duration) -> bool {
        self.wait(limit, |state| state.pollers >= count)
    }

    /// Waits until at least this many answers were given (requests that were reset count none);
    /// `false` when `limit` has passed before.
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
    /// Counts changes; the `ETag` is made of it.
    generation: u64,
    faults: VecDeque<Fault>,
    /// How often all was repaired.
    repaired: u32,
    answers: Vec<Answer>,
    pollers: usize,
    stopped: bool,
}

impl State {
    fn etag(&self) -> String {
        // Sixteen digits as the real one has, and never "0".
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

    /// Holds a poll until the `ETag` differs from the one the client knows, its time is over, or
    /// the server ends. Without `last_etag` it waits for the next change, as the real one does.
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
        // Asked beside the watch, whose faults are meant to be its own.
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
            // A reset was dealt with before the request was read.
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
