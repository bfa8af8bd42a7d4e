//! Waiting in tests: for an event, without a time limit.
//!
//! The only deadline is the test runner's (`.config/nextest.toml`). Before it ends a test, the test
//! has printed what it waits for.

#![allow(clippy::print_stderr, reason = "the runner shows what a test printed")]

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// A time limit that no test run reaches, and that can be added to any time.
pub const FOREVER: Duration = Duration::from_secs(u32::MAX as u64);

/// How long a wait lasts before a message about it is printed once.
const REPORT_AFTER: Duration = Duration::from_secs(30);

/// The interval of polling.
const PAUSE: Duration = Duration::from_millis(10);

/// Calls `wait`, which returns when `what` has come true.
pub fn during<T>(what: &str, wait: impl FnOnce() -> T) -> T {
    let (came, coming) = channel::<()>();
    let what = what.to_owned();
    std::thread::spawn(move || {
        // The sender is dropped when the wait has ended, or when the test has failed.
        if coming.recv_timeout(REPORT_AFTER) == Err(RecvTimeoutError::Timeout) {
            eprintln!("waiting for more than {REPORT_AFTER:?}: {what}");
        }
    });
    let value = wait();
    drop(came);
    value
}

/// Polls `look` until it returns a value.
pub fn until<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    until_with(what, String::new, || std::thread::sleep(PAUSE), look)
}

/// Like [`until`]; prints `account` if the wait is long, and calls `pause` between two polls.
pub fn until_with<T>(
    what: &str,
    account: impl Fn() -> String,
    pause: impl Fn(),
    mut look: impl FnMut() -> Option<T>,
) -> T {
    during(what, || {
        let mut report_at = Some(Instant::now() + REPORT_AFTER);
        loop {
            if let Some(found) = look() {
                return found;
            }
            if report_at.is_some_and(|at| Instant::now() > at) {
                report_at = None;
                eprintln!("{}", account());
            }
            pause();
        }
    })
}
