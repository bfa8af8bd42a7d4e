//! Backup lock; removes stale restic locks.
//!
//! restic itself considers a lock stale when its process has ended on the machine of that name, or
//! when it is half an hour old. After a preemption during a prune that would stop backups for half
//! an hour, since the new machine may have another name. A data directory is on one machine at a
//! time, so a restic that spotkeep started in an earlier boot has certainly ended; spotkeep records
//! its process before it starts restic.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::restic::SHORT;
use super::state::Worker;
use super::{Repository, Settings, Stop};
use sys::error::{Context as _, ErrorKind, Hint as _, Result, anyhow};
use sys::files::LockFile;
use sys::process::{self, ProcessId};

/// How often to try the lock again.
const RETRY_EVERY: Duration = Duration::from_millis(200);

/// An exclusive lock on the repository, held until dropped or until the process ends.
#[derive(Debug)]
pub struct BackupLock {
    _file: LockFile,
}

impl BackupLock {
    /// Acquires the lock within `timeout`; calls `waits` once if it has to wait.
    ///
    /// # Errors
    /// Another process holds it for longer, or there is a reason to stop.
    pub fn acquire(
        settings: &Settings,
        timeout: Duration,
        stop: &Stop,
        waits: &mut dyn FnMut(),
    ) -> Result<Self> {
        let path = settings.repository().join("spotkeep.lock");
        let until = Instant::now() + timeout;
        let mut said = false;
        loop {
            if let Some(mut file) = LockFile::try_take(&path)? {
                file.describe(&format!("{}\n", std::process::id()))?;
                return Ok(Self { _file: file });
            }
            stop.check()?;
            if Instant::now() >= until {
                let pid = fs::read_to_string(&path).unwrap_or_default();
                return Err(anyhow!("another backup is running (pid {})", pid.trim()))
                    .hint("try again when it has ended")
                    .kind(ErrorKind::NotAsDeclared);
            }
            if !said {
                waits();
                said = true;
            }
            std::thread::sleep(RETRY_EVERY);
        }
    }
}

/// Describes this process as one that works on the repository.
///
/// # Errors
/// `/proc` is not mounted.
pub fn this_worker() -> Result<Worker> {
    Ok(Worker {
        boot_id: process::current_boot_id()?,
        host: host_name(),
        process: ProcessId::current()?,
    })
}

fn host_name() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_owned()
}

/// A lock file of restic.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Lock {
    /// The machine's name.
    pub hostname: String,
    /// The process.
    pub pid: i32,
}

/// Whether the process of a lock has certainly ended. Pure except for `name_of`, which returns the
/// name of a process of this machine, `None` if there is no such process.
#[must_use]
pub fn is_stale(
    lock: &Lock,
    last: Option<&Worker>,
    boot_id: &str,
    host: &str,
    name_of: impl Fn(i32) -> Option<String>,
) -> bool {
    // Of spotkeep, in an earlier boot. The pid is that of its restic; the machine's name
    // distinguishes it from a restic that was run by hand elsewhere.
    let of_ended_boot =
        last.is_some_and(|worker| worker.boot_id != boot_id && worker.host == lock.hostname);
    if lock.hostname != host {
        return of_ended_boot;
    }
    // Of this machine: a pid that is free, or that belongs to another program, holds no lock.
    match name_of(lock.pid) {
        None => true,
        Some(name) => !name.contains("restic"),
    }
}

/// Removes the locks in the local repository whose processes have ended. Others stay.
///
/// # Errors
/// The repository cannot be read.
pub fn remove_stale(
    repository: &Repository,
    last: Option<&Worker>,
    boot_id: &str,
    stop: &Stop,
) -> Result<usize> {
    let Some(dir) = repository.directory() else {
        return Ok(0);
    };
    let locks = dir.join("locks");
    let entries =
        fs::read_dir(&locks).with_context(|| format!("cannot read {}", locks.display()))?;
    let ids: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    let host = host_name();
    let mut removed = 0;
    for id in ids {
        let mut cat = repository.command(["cat", "lock", "--no-lock", &id]);
        // It may have been removed meanwhile; one that cannot be read is left to restic.
        let Ok(text) = repository.ask(&mut cat, SHORT, stop) else {
            continue;
        };
        let Ok(lock) = serde_json::from_str::<Lock>(&text) else {
            continue;
        };
        if is_stale(&lock, last, boot_id, &host, program_of) {
            remove(&locks.join(&id))?;
            removed += 1;
        }
    }
    Ok(removed)
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove the stale lock {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// The command line of a running process.
fn program_of(pid: i32) -> Option<String> {
    ProcessId::from_pid(pid)?;
    // A process that cannot be read may be restic.
    let name = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let name = name.replace('\0', " ");
    Some(if name.trim().is_empty() {
        "perhaps restic".into()
    } else {
        name
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock(hostname: &str) -> Lock {
        Lock {
            hostname: hostname.into(),
            pid: 7,
        }
    }

    fn worker(boot_id: &str, host: &str) -> Worker {
        Worker {
            boot_id: boot_id.into(),
            host: host.into(),
            process: ProcessId {
                pid: 6,
                start_time: 1,
            },
        }
    }

    /// Description, the lock's host, the last worker, the process of that pid, and whether it is
    /// stale.
    type Case<'a> = (&'a str, &'a str, Option<&'a Worker>, Option<&'a str>, bool);

    #[test]
    fn a_lock_is_stale_only_where_its_process_is_provably_gone() {
        let ours = worker("last", "old-vm");
        let table: [Case<'_>; 7] = [
            ("this machine, no process", "vm", None, None, true),
            (
                "this machine, restic",
                "vm",
                None,
                Some("/usr/bin/restic check"),
                false,
            ),
            (
                "this machine, ours of now",
                "vm",
                Some(&ours),
                Some("restic backup"),
                false,
            ),
            (
                "this machine, another program",
                "vm",
                None,
                Some("/usr/bin/vim x"),
                true,
            ),
            ("another machine, unknown", "laptop", None, None, false),
            (
                "another machine, unknown to us",
                "laptop",
                Some(&ours),
                None,
                false,
            ),
            (
                "the machine of our last boot",
                "old-vm",
                Some(&ours),
                None,
                true,
            ),
        ];
        for (what, host, last, name, stale) in table {
            let name_of = |_| name.map(str::to_owned);
            assert_eq!(
                is_stale(&lock(host), last, "now", "vm", name_of),
                stale,
                "{what}"
            );
        }
        // A boot that has not ended.
        let now = worker("now", "old-vm");
        assert!(!is_stale(&lock("old-vm"), Some(&now), "now", "vm", |_| {
            None
        }));
    }
}
