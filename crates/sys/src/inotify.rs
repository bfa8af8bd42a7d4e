//! Waits for changes in directories, with inotify.
//!
//! A change is a hint only: events can be lost, so each caller checks again after a while anyway.

use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::inotify;

use crate::error::{Context as _, Result};

/// Wakes when something changes in its directories, or when its [`Bell`] is used.
#[derive(Debug)]
pub struct Watch {
    inotify: OwnedFd,
    bell: Arc<OwnedFd>,
}

/// Wakes a [`Watch`] from another thread.
#[derive(Debug, Clone)]
pub struct Bell(Arc<OwnedFd>);

impl Bell {
    /// Wakes the watch now, or as soon as it waits.
    pub fn wake(&self) {
        // This fails only when the counter is at its limit, and then the watch wakes anyway.
        rustix::io::write(&*self.0, &1u64.to_ne_bytes()).ok();
    }
}

impl Watch {
    /// Creates a watch without directories.
    ///
    /// # Errors
    /// The limit of inotify instances or of open files is reached.
    pub fn new() -> Result<Self> {
        Ok(Self {
            inotify: inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC)
                .context("cannot watch for changes")?,
            bell: Arc::new(
                eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)
                    .context("cannot create an eventfd")?,
            ),
        })
    }

    /// Returns the bell that wakes this watch.
    #[must_use]
    pub fn bell(&self) -> Bell {
        Bell(Arc::clone(&self.bell))
    }

    /// Adds a directory: the watch also wakes for files that are created, replaced, written or
    /// removed in `dir`. Adding a directory twice has no effect.
    ///
    /// # Errors
    /// The directory is missing, or the limit of watches is reached.
    pub fn add(&self, dir: &Path) -> Result<()> {
        use inotify::WatchFlags as Flags;
        let flags =
            Flags::CREATE | Flags::MOVED_TO | Flags::CLOSE_WRITE | Flags::MODIFY | Flags::DELETE;
        inotify::add_watch(&self.inotify, dir, flags)
            .with_context(|| format!("cannot watch {}", dir.display()))?;
        Ok(())
    }

    /// Waits for a change or the bell, at most for `limit`. Returns whether there was one.
    pub fn wait(&self, limit: Duration) -> bool {
        self.wait_or_input(limit, None)
    }

    /// Like [`Watch::wait`], and also until something can be read from `input`, which is not read.
    pub fn wait_or_input(&self, limit: Duration, input: Option<BorrowedFd<'_>>) -> bool {
        let timeout = Timespec::try_from(limit).unwrap_or(Timespec {
            tv_sec: 60,
            tv_nsec: 0,
        });
        let mut fds = vec![
            PollFd::new(&self.inotify, PollFlags::IN),
            PollFd::new(&*self.bell, PollFlags::IN),
        ];
        fds.extend(input.map(|input| PollFd::from_borrowed_fd(input, PollFlags::IN)));
        if poll(&mut fds, Some(&timeout)).unwrap_or(0) == 0 {
            return false;
        }
        // It does not matter what changed: both are emptied.
        rustix::io::read(&*self.bell, &mut [0u8; 8]).ok();
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(&self.inotify, &mut buffer);
        while reader.next().is_ok() {}
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use testing::wait::{FOREVER, during};

    #[test]
    fn a_new_file_and_a_bell_each_wake_a_watch() {
        let dir = tempfile::tempdir().unwrap();
        let watch = Watch::new().unwrap();
        watch.add(dir.path()).unwrap();
        std::fs::write(dir.path().join("x"), "1").unwrap();
        assert!(during("a new file", || watch.wait(FOREVER)));
        watch.bell().wake();
        assert!(during("a bell", || watch.wait(FOREVER)));
    }
}
