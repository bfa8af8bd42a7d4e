//! Threads, one way to start them: named, and never by a call that panics where none can be had.
//!
//! `std::thread::spawn` and a scope's `spawn` panic when the machine has no process id left, which
//! one runaway agent suffices for. What has to be done all the same is then done by the caller.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};

/// Starts a thread that does `work`.
///
/// # Errors
/// There is no room for another one.
pub fn spawn<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    Builder::new().name(name.to_owned()).spawn(work)
}

/// As [`spawn`], with a stack of so many bytes: for threads of which there are many.
///
/// # Errors
/// As [`spawn`].
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

/// Does `work` in a thread of its own, or here, before it returns, where there can be none.
pub fn spawn_or_do(name: &str, work: impl FnOnce() + Send + 'static) {
    let slot = Arc::new(Mutex::new(Some(work)));
    let of_thread = Arc::clone(&slot);
    let started = spawn(name, move || {
        if let Some(work) = take_slot(&of_thread) {
            work();
        }
    });
    if let Err(error) = started {
        tracing::warn!("no thread for {name}, it is done here: {error}");
        if let Some(work) = take_slot(&slot) {
            work();
        }
    }
}

fn take_slot<T>(slot: &Mutex<Option<T>>) -> Option<T> {
    slot.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// Does `work` for all items at the same time, and returns what came of each, in their order;
/// `None` where it panicked. Where threads cannot be had, the caller does what is left.
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
        // First what has no thread, while the others are at it.
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

/// Does two things at the same time, or one after the other where there is no thread for the first;
/// its result is `None` where it panicked.
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

    /// More than any machine has room for.
    const TOO_MUCH: usize = usize::MAX >> 2;

    #[test]
    fn what_cannot_have_a_thread_is_an_error_and_no_panic() {
        assert!(spawn_with_stack("x", TOO_MUCH, || ()).is_err());
        assert_eq!(spawn("x", || 7).unwrap().join().unwrap(), 7);
    }

    #[test]
    fn all_items_are_done_in_their_order_and_a_panic_costs_its_own_only() {
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
