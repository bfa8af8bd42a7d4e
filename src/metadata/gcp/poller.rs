//! State machine that decides the next request to the metadata server from its answers. Pure.
//!
//! Asked with `wait_for_change` and the ETag of the last answer, the server answers as soon as the
//! value differs from the one that the ETag names, so no change is missed between two requests.
//! Google's pages on querying VM metadata say so, and that ETag 0 is never the current one: a first
//! request with it also finds a preemption that began before the watch did.
//!
//! * Only the body counts. An ETag that changes alone is not a change, and does not cause a busy
//!   loop.
//! * After any failure the poller reads the value without waiting once a second, and tries waiting
//!   again in between: first for 1 s, then twice as long each time, up to 60 s. So a server that
//!   does not answer requests delays a notice by seconds, not minutes.
//! * If nothing listens at the address, the poller asks less and less often, finally every 30 s.

use std::fmt;
use std::time::Duration;

use super::request::{Answer, Request};

/// The longest wait that the server is asked for, as in Google's guest agent. The client waits 10 s
/// more.
const LONGEST_WAIT_SECONDS: u64 = 60;

/// Shortest time between the starts of two requests.
const MIN_BETWEEN: Duration = Duration::from_millis(100);

/// Time between two plain reads, and between two waits that the server answers at once.
const READ_EVERY: Duration = Duration::from_secs(1);

/// An answer without a change that came sooner than this shows that the server does not wait.
const EARLY: Duration = Duration::from_millis(500);

/// Failures in a row before they are reported: one reset is normal.
const FAILURES_UNTIL_REPORTED: u32 = 3;

/// Refusals in a row, one a second, after which there seems to be no server.
const REFUSALS_UNTIL_ABSENT: u32 = 10;

/// After that, [`SLOW`], and from this many on, some three minutes later, [`SLOWEST`].
const REFUSALS_UNTIL_SLOWEST: u32 = 40;

const SLOW: Duration = Duration::from_secs(5);
const SLOWEST: Duration = Duration::from_secs(30);

/// The health of the watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// The server answers as soon as the value changes.
    Waiting,
    /// The server does not wait; it is asked about once a second.
    Reading,
    /// No usable answer, and the last reason; asked once a second.
    Failing(String),
    /// There seems to be no server, and the last reason; asked every 5 s, later every 30 s.
    Absent(String),
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Waiting => f.write_str("answers as soon as the value changes"),
            Self::Reading => f.write_str("does not wait for a change; asked once a second"),
            Self::Failing(why) => write!(f, "no usable answer ({why}); asked once a second"),
            Self::Absent(why) => write!(f, "no server found ({why}); asked every 5 to 30 s"),
        }
    }
}

/// An event of the watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchEvent {
    /// The preemption of this machine has begun. Delivered again only if it was withdrawn
    /// meanwhile.
    Preempted,
    /// The kind of the watch's health has changed.
    Health(Health),
}

/// What to do after an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Events to deliver now, the preemption first.
    pub seen: Vec<WatchEvent>,
    /// How long to wait before the next request.
    pub pause: Duration,
}

/// The state between two requests.
#[derive(Debug)]
pub struct Poller {
    etag: Option<String>,
    value: Option<bool>,
    /// Plain reads that have to succeed before waiting is tried (again); 0 = waiting.
    reads_left: u32,
    /// Duration of the next wait.
    wait_seconds: u64,
    /// Waits in a row that failed while plain reads between them succeeded.
    failed_waits: u32,
    /// Waits in a row that returned early without a change.
    idle_waits: u32,
    failures: u32,
    refusals: u32,
    health: Option<Health>,
}

impl Default for Poller {
    fn default() -> Self {
        Self {
            etag: None,
            value: None,
            reads_left: 0,
            wait_seconds: 1,
            failed_waits: 0,
            idle_waits: 0,
            failures: 0,
            refusals: 0,
            health: None,
        }
    }
}

impl Poller {
    /// The request to send now.
    #[must_use]
    pub fn next(&self) -> Request {
        if self.reads_left > 0 {
            return Request::Read;
        }
        Request::Wait {
            etag: self.etag.clone().unwrap_or_else(|| "0".into()),
            seconds: self.wait_seconds,
        }
    }

    /// Evaluates the answer to [`Poller::next`], which came after `took`.
    pub fn on(&mut self, answer: Answer, took: Duration) -> Step {
        let mut seen = Vec::new();
        let (pause, health) = match answer {
            Answer::Value { preempted, etag } => {
                if preempted && self.value != Some(true) {
                    seen.push(WatchEvent::Preempted);
                }
                let is_news = self.value.replace(preempted) != Some(preempted);
                self.etag = etag;
                self.failures = 0;
                self.refusals = 0;
                if self.reads_left > 0 {
                    self.on_read()
                } else {
                    self.on_wait(is_news || took >= EARLY)
                }
            }
            Answer::NoServer(why) => self.on_failure(why, true),
            Answer::Trouble(why) => self.on_failure(why, false),
        };
        seen.extend(health.and_then(|health| self.set_health(health)));
        // A failure may be quick too; this is the shortest interval in any case.
        let pause = pause.max(MIN_BETWEEN.saturating_sub(took));
        Step { seen, pause }
    }

    fn on_read(&mut self) -> (Duration, Option<Health>) {
        self.reads_left -= 1;
        let pause = match self.reads_left {
            0 => Duration::ZERO,
            _ => READ_EVERY,
        };
        // Only the first wait after an outage shows whether waiting works.
        (pause, (self.failed_waits > 1).then_some(Health::Reading))
    }

    fn on_wait(&mut self, was_waited_for: bool) -> (Duration, Option<Health>) {
        self.failed_waits = 0;
        if was_waited_for {
            self.idle_waits = 0;
            self.wait_seconds = (self.wait_seconds * 2).min(LONGEST_WAIT_SECONDS);
            return (Duration::ZERO, Some(Health::Waiting));
        }
        let pause = MIN_BETWEEN * (1 << self.idle_waits.min(8));
        self.idle_waits += 1;
        if pause < READ_EVERY {
            return (pause, Some(Health::Waiting));
        }
        (READ_EVERY, Some(Health::Reading))
    }

    fn on_failure(&mut self, why: String, is_refusal: bool) -> (Duration, Option<Health>) {
        if self.reads_left == 0 {
            // 1, 2, 4 ... reads between two tries, for a minute at most.
            self.reads_left = (1 << self.failed_waits.min(6)).min(60);
            self.failed_waits = self.failed_waits.saturating_add(1);
            self.wait_seconds = 1;
        }
        self.failures = self.failures.saturating_add(1);
        self.refusals = match is_refusal {
            true => self.refusals.saturating_add(1),
            false => 0,
        };
        let pause = match self.refusals {
            // A single reset or 503 costs next to nothing.
            _ if self.failures == 1 => MIN_BETWEEN,
            0..REFUSALS_UNTIL_ABSENT => READ_EVERY,
            REFUSALS_UNTIL_ABSENT..REFUSALS_UNTIL_SLOWEST => SLOW,
            REFUSALS_UNTIL_SLOWEST.. => SLOWEST,
        };
        let health = match (self.refusals, self.failures) {
            (REFUSALS_UNTIL_ABSENT.., _) => Some(Health::Absent(why)),
            (_, FAILURES_UNTIL_REPORTED..) => Some(Health::Failing(why)),
            _ => None,
        };
        (pause, health)
    }

    /// Sets the health; returns an event if its kind changes. Reasons may alternate each second.
    fn set_health(&mut self, health: Health) -> Option<WatchEvent> {
        let kind = std::mem::discriminant::<Health>;
        let is_news = self.health.as_ref().map(kind) != Some(kind(&health));
        self.health = Some(health.clone());
        is_news.then_some(WatchEvent::Health(health))
    }
}
