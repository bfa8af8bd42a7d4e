//! Runs work that may hang in the kernel, with a deadline.

use std::sync::mpsc;

use crate::deadline::Deadline;
use crate::thread;

/// Runs `work` in a new thread and waits for it until the deadline. `None`: it did not end in time.
/// The thread is then left behind: a call that hangs on a disk cannot be cancelled. Where no thread
/// can be started, the caller does the work, and may be late.
pub fn within<T: Send + 'static>(
    deadline: Deadline,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (done, result) = mpsc::channel();
    thread::spawn_or_do("save", move || {
        done.send(work()).ok();
    });
    result.recv_timeout(deadline.remaining()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use testing::wait::FOREVER;

    #[test]
    fn work_that_hangs_is_left_behind_at_the_deadline() {
        let (_keep, never) = mpsc::channel::<()>();
        let deadline = Deadline::after(Duration::from_millis(20));
        assert!(within(deadline, move || never.recv().ok()).is_none());
        assert_eq!(within(Deadline::after(FOREVER), || 7), Some(7));
    }
}
