//! How tests wait: for the event that they are about, as long as that takes. The one deadline is the test
//! runner's (`.config/nextest.toml`); a test that is ended by it has said by then what it waited for.

#![allow(clippy::print_stderr, reason = "the runner shows what a test said")]

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// For what wants a limit. It can be added to any time, and ends with nobody who runs this.
pub const FOREVER: Duration = Duration::from_secs(u32::MAX as u64);

/// After so long it is said once, on standard error, what is waited for.
const SAID_AFTER: Duration = Duration::from_secs(30);

/// Between two looks at something that tells nobody of its changes.
const PAUSE: Duration = Duration::from_millis(10);

/// Waits in `wait`, which returns when `what` has come true.
pub fn during<T>(what: &str, wait: impl FnOnce() -> T) -> T {
    let (came, coming) = channel::<()>();
    let what = what.to_owned();
    std::thread::spawn(move || {
        // Dropped without a word once it has come, or once the test has failed.
        if coming.recv_timeout(SAID_AFTER) == Err(RecvTimeoutError::Timeout) {
            eprintln!("waiting for more than {SAID_AFTER:?}: {what}");
        }
    });
    let value = wait();
    drop(came);
    value
}

/// Looks again and again until there is something.
pub fn until<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    until_with(what, String::new, || std::thread::sleep(PAUSE), look)
}

/// The same, with `account` for all there is to know where it takes long, and `pause` between two looks.
pub fn until_with<T>(
    what: &str,
    account: impl Fn() -> String,
    pause: impl Fn(),
    mut look: impl FnMut() -> Option<T>,
) -> T {
    during(what, || {
        let mut say_at = Some(Instant::now() + SAID_AFTER);
        loop {
            if let Some(found) = look() {
                return found;
            }
            if say_at.is_some_and(|at| Instant::now() > at) {
                say_at = None;
                eprintln!("{}", account());
            }
            pause();
        }
    })
}
