//! Starts named threads, and never panics where no thread can be started.
//!
//! `std::thread::spawn` and a scope's `spawn` panic when the machine has no process id left, which
//! one runaway agent can cause. The caller then does the necessary work itself.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};

/// Starts a thread that does `work`.
///
/// # Errors
/// No thread can be started.
pub fn spawn<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    Builder::new().name(name.to_owned()).spawn(work)
}

/// Like [`spawn`], with a stack of so many bytes: for threads of which there are many.
///
/// # Errors
/// Like [`spawn`].
pub fn spawn_with_stack<T: Send + 'static>(
    name: &str,
    bytes: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    Builder::new()
        .name(name.to_owned())
        .stack_size(bytes)
        .spawn(work)
}

/// Does `work` in a new thread, or in the calling thread before it returns where none can be
/// started.
pub fn spawn_or_do(name: &str, work: impl FnOnce() + Send + 'static) {
    let slot = Arc::new(Mutex::new(Some(work)));
    let of_thread = Arc::clone(&slot);
    let started = spawn(name, move || {
        if let Some(work) = take_slot(&of_thread) {
            work();
        }
    });
    if let Err(error) = started {
        tracing::warn!("cannot start the thread {name}, its work runs in the caller: {error}");
        if let Some(work) = take_slot(&slot) {
            work();
        }
    }
}

fn take_slot<T>(slot: &Mutex<Option<T>>) -> Option<T> {
    slot.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// Does `work` for all items at the same time, and returns the results in their order; `None` where
/// it panicked. Where threads cannot be started, the caller does the rest.
pub fn for_all<I: Sync, T: Send>(
    name: &str,
    items: &[I],
    work: impl Fn(&I) -> T + Sync,
) -> Vec<Option<T>> {
    std::thread::scope(|scope| {
        let started: Vec<_> = items
            .iter()
            .map(|item| {
                let work = &work;
                let builder = Builder::new().name(name.to_owned());
                (item, builder.spawn_scoped(scope, move || work(item)).ok())
            })
            .collect();
        // First the items without a thread, while the threads run.
        let done: Vec<_> = started
            .into_iter()
            .map(|(item, thread)| match thread {
                Some(thread) => Err(thread),
                None => Ok(work(item)),
            })
            .collect();
        done.into_iter()
            .map(|done| match done {
                Ok(done) => Some(done),
                Err(thread) => thread.join().ok(),
            })
            .collect()
    })
}

/// Does two things at the same time, or one after the other where no thread can be started for the
/// first; its result is `None` where it panicked.
pub fn both<A: Send, B>(
    name: &str,
    first: impl FnOnce() -> A + Send,
    second: impl FnOnce() -> B,
) -> (Option<A>, B) {
    let slot = Mutex::new(Some(first));
    let run = || take_slot(&slot).map(|first| first());
    std::thread::scope(|scope| {
        let thread = Builder::new()
            .name(name.to_owned())
            .spawn_scoped(scope, run);
        let second = second();
        let first = match thread {
            Ok(thread) => thread.join().ok().flatten(),
            Err(_) => run(),
        };
        (first, second)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// More memory than any machine has.
    const TOO_MUCH: usize = usize::MAX >> 2;

    #[test]
    fn a_thread_that_cannot_start_is_an_error_and_not_a_panic() {
        assert!(spawn_with_stack("x", TOO_MUCH, || ()).is_err());
        assert_eq!(spawn("x", || 7).unwrap().join().unwrap(), 7);
    }

    #[test]
    fn all_results_are_in_order_and_a_panic_affects_only_its_item() {
        let items: Vec<u32> = (0..20).collect();
        let done = for_all("x", &items, |item| {
            assert_ne!(*item, 3, "on purpose");
            item * 2
        });
        for (item, done) in items.iter().zip(done) {
            assert_eq!(done, (*item != 3).then_some(item * 2));
        }
    }

    #[test]
    fn both_are_done() {
        assert_eq!(both("x", || 1, || 2), (Some(1), 2));
    }
}
