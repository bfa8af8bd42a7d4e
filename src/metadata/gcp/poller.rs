//! What to ask the metadata server next, and what its answer means. Pure: answers in, steps out.
//!
//! Asked with `wait_for_change` and the ETag of the last answer, the server answers as soon as the
//! value differs from the one that the ETag names, so nothing can change unseen between two
//! questions. Google's pages on querying VM metadata say so, and that ETag 0 is never the current
//! one: asking with it first also finds a preemption that began before the watch did.
//!
//! * The body decides. An ETag that changes alone says nothing, and may not make us spin.
//! * After trouble of any kind the value is read plainly once a second, and waiting is tried again
//!   in between: first for 1 s, then twice as long each time, up to 60 s. A server that
//!   swallows questions so costs seconds of blindness, not minutes.
//! * Where nobody listens at all, it is asked less and less often, every 30 s at last.

use std::fmt;
use std::time::Duration;

use super::request::{Answer, Request};

/// The longest that the server is asked to wait: what Google's guest agent asks for. The client
/// waits 10 s more.
const LONGEST_WAIT_SECONDS: u64 = 60;

/// Between the starts of two questions, at least.
const MIN_BETWEEN: Duration = Duration::from_millis(100);

/// Between two plain reads, and between two waits of which the server makes nothing.
const READ_EVERY: Duration = Duration::from_secs(1);

/// An answer that came sooner than this and says nothing new was not waited for.
const EARLY: Duration = Duration::from_millis(500);

/// Failures in a row before it is worth saying: one reset is nothing.
const FAILURES_WORTH_SAYING: u32 = 3;

/// Refusals in a row, one a second, after which there seems to be no server.
const REFUSALS_UNTIL_ABSENT: u32 = 10;

/// After that, [`SLOW`], and from this many on, some three minutes later, [`SLOWEST`].
const REFUSALS_UNTIL_SLOWEST: u32 = 40;

const SLOW: Duration = Duration::from_secs(5);
const SLOWEST: Duration = Duration::from_secs(30);

/// How well the watch itself is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// The server tells at once.
    Waiting,
    /// The server does not wait as asked; it is asked about once a second.
    Reading,
    /// No usable answer, and the last reason; asked once a second.
    Failing(String),
    /// There seems to be no server, and the last reason; asked every 5 s, later every 30 s.
    Absent(String),
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Waiting => f.write_str("it tells at once"),
            Self::Reading => f.write_str("it does not wait; asked once a second"),
            Self::Failing(why) => write!(f, "no usable answer ({why}); asked once a second"),
            Self::Absent(why) => write!(f, "there seems to be none ({why}); asked now and then"),
        }
    }
}

/// What a watch tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchEvent {
    /// The preemption of this machine has begun. Told again only if it was taken back meanwhile.
    Preempted,
    /// The watch's own health is another kind than before.
    Health(Health),
}

/// What follows from an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// To be told now, the preemption first.
    pub seen: Vec<WatchEvent>,
    /// How long not to ask.
    pub pause: Duration,
}

/// The state between two questions.
#[derive(Debug)]
pub struct Poller {
    etag: Option<String>,
    value: Option<bool>,
    /// Plain reads that have to succeed before waiting is tried (again); 0 = waiting.
    reads_left: u32,
    /// What the next wait asks for.
    wait_seconds: u64,
    /// Waits in a row that failed although plain reads between them did not.
    failed_waits: u32,
    /// Waits in a row that came back early with nothing new.
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
    /// The question to ask now.
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

    /// Takes the answer to [`Poller::next`], which came after `took`.
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
            Answer::Nobody(why) => self.on_failure(why, true),
            Answer::Trouble(why) => self.on_failure(why, false),
        };
        seen.extend(health.and_then(|health| self.turn(health)));
        // Failing may be quick too, and whatever happens, this is the pace at most.
        let pause = pause.max(MIN_BETWEEN.saturating_sub(took));
        Step { seen, pause }
    }

    fn on_read(&mut self) -> (Duration, Option<Health>) {
        self.reads_left -= 1;
        let pause = match self.reads_left {
            0 => Duration::ZERO,
            _ => READ_EVERY,
        };
        // The first wait after an outage has yet to show whether waiting works.
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
            // 1, 2, 4 ... reads between two tries: a minute of them at most.
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
            (_, FAILURES_WORTH_SAYING..) => Some(Health::Failing(why)),
            _ => None,
        };
        (pause, health)
    }

    /// Takes on a health; it is told when it is another kind. Reasons may alternate each second.
    fn turn(&mut self, health: Health) -> Option<WatchEvent> {
        let kind = std::mem::discriminant::<Health>;
        let is_news = self.health.as_ref().map(kind) != Some(kind(&health));
        self.health = Some(health.clone());
        is_news.then_some(WatchEvent::Health(health))
    }
}
