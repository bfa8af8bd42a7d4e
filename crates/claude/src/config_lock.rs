//! Configuration lock: Claude Code's own lock on a configuration file.
//!
//! The lock is a directory beside the file, `FILE.lock`, created before the file is read and
//! removed after it was replaced (seen in 2.1.197 and 2.1.330). Without it, a change that spotkeep
//! writes between the two is lost, and an agent that starts beside others stops at a dialog that
//! was answered already.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Claude Code holds it for some 10 ms, on a busy machine for 300 (measured), on a crowded one for
/// as long as it gets no CPU time. An older lock was left by a killed Claude Code, which also
/// removes it later.
const LEFT_AFTER: Duration = Duration::from_secs(10);

/// Interval between tries.
const EVERY: Duration = Duration::from_millis(5);

/// The lock, until it is dropped.
#[derive(Debug)]
pub(super) struct Lock {
    held: Option<PathBuf>,
}

impl Lock {
    /// Acquires the lock of a file whose symlinks are resolved; continues without it where that
    /// fails.
    pub(super) fn acquire(file: &Path) -> Self {
        let mut name = file.file_name().unwrap_or_default().to_owned();
        name.push(".lock");
        let path = file.with_file_name(name);
        let came = Instant::now();
        loop {
            match fs::create_dir(&path) {
                Ok(()) => return Self { held: Some(path) },
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(_) => return Self { held: None },
            }
            // Decided by its creation time, so that a lock from before a power cut is not waited
            // for.
            if came.elapsed() >= LEFT_AFTER || age(&path).is_some_and(|age| age >= LEFT_AFTER) {
                tracing::warn!(
                    "{} is held for too long; continuing without it",
                    path.display()
                );
                return Self { held: None };
            }
            std::thread::sleep(EVERY);
        }
    }
}

/// Returns how long ago the lock was made; `None` where it is missing, or a clock was set back.
fn age(path: &Path) -> Option<Duration> {
    fs::metadata(path).ok()?.modified().ok()?.elapsed().ok()
}

impl Drop for Lock {
    fn drop(&mut self) {
        if let Some(path) = &self.held {
            fs::remove_dir(path).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn two_locks_wait_for_each_other_and_leave_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(".claude.json");
        let first = Lock::acquire(&file);
        assert!(dir.path().join(".claude.json.lock").is_dir());
        let second = std::thread::scope(|scope| {
            let second = scope.spawn(|| Lock::acquire(&file));
            drop(first);
            second.join().unwrap()
        });
        assert!(second.held.is_some());
        drop(second);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_stale_lock_blocks_nothing_and_stays() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(".claude.json");
        let lock = dir.path().join(".claude.json.lock");
        fs::create_dir(&lock).unwrap();
        let long_ago = SystemTime::now() - 2 * LEFT_AFTER;
        let made = fs::File::open(&lock).unwrap();
        made.set_modified(long_ago).unwrap();
        assert!(Lock::acquire(&file).held.is_none());
        assert!(lock.is_dir());
    }
}
