//! Termination of an agent's process and of everything that it started.
//!
//! Claude Code's tools run in separate sessions, so they outlive it and its process group
//! (measured). Each launch has its own marker in the environment, which its children inherit; every
//! process with the marker is ended too. A marker belongs to one launch, so a late sweep never ends
//! the next one. Where the launch has a cgroup, the processes in it are killed first, all at once.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use crate::systemd::cgroup::Leaf;
use state::{AgentRecord, Launch};
use sys::process::{ProcessId, Signal, with_any_marker, with_marker};

/// The environment variable that marks every process of one launch.
pub const MARKER: &str = "SPOTKEEP_LAUNCH";

/// The time from SIGTERM to SIGKILL. Claude Code ends in 0.1 to 0.6 s (measured on 2.1.197 and
/// 2.1.330); only a session-end hook of the user's takes longer.
pub const TERM_TIMEOUT: Duration = Duration::from_secs(3);

/// How long to wait after SIGKILL: a process ends at once, or hangs in the kernel for longer than
/// this.
const KILL_LIMIT: Duration = Duration::from_secs(1);

/// How long a sweep goes on: a process that forks meanwhile is found in the next round.
pub const SWEEP_LIMIT: Duration = Duration::from_secs(3);

/// How a process ended that was asked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The process had ended before.
    Before,
    /// It exited after SIGTERM.
    WithTerm,
    /// SIGKILL ended it.
    Killed,
    /// It is still there: it hangs in the kernel.
    Not,
}

/// Finds the `claude` of a launch whose process was not recorded, because the keeper was killed
/// before. It is the process with the session in its arguments; the processes that it started have
/// not.
#[must_use]
pub fn launched(record: &AgentRecord, boot_id: &str) -> Option<ProcessId> {
    if record.process.is_some() || record.boot_id.as_deref() != Some(boot_id) {
        return None;
    }
    let launch = record.launch.as_ref()?;
    let session = record.session_id.as_bytes();
    let is_it = |process: &ProcessId| {
        let arguments = std::fs::read(format!("/proc/{}/cmdline", process.pid)).unwrap_or_default();
        arguments.windows(session.len()).any(|part| part == session)
    };
    let marked = with_marker(&format!("{MARKER}={}", launch.marker));
    marked.into_iter().find(is_it)
}

/// Ends one process: sends SIGTERM, waits for `term_timeout` at most, and sends SIGKILL.
#[must_use]
pub fn end_process(process: ProcessId, term_timeout: Duration) -> Ended {
    let Some(pidfd) = process.open() else {
        return Ended::Before;
    };
    pidfd.signal(Signal::Term);
    if pidfd.wait(Some(Instant::now() + term_timeout)) {
        return Ended::WithTerm;
    }
    pidfd.signal(Signal::Kill);
    if pidfd.wait(Some(Instant::now() + KILL_LIMIT)) {
        Ended::Killed
    } else {
        Ended::Not
    }
}

/// How long a walk through the processes waits for programs that are just starting, so that a
/// process that never completes its start does not hold up a save.
const BEGINS_WITHIN: Duration = Duration::from_millis(100);

/// Kills the processes that are left of these launches, for `limit` at most; returns how many there
/// were.
pub fn sweep(launches: &[Launch], limit: Duration) -> usize {
    let until = Instant::now() + limit;
    let leaf = |launch: &Launch| launch.cgroup.as_deref().map(Leaf::open);
    let leaves: Vec<Leaf> = launches.iter().filter_map(leaf).collect();
    // Kill all cgroups before waiting for the first one.
    let in_leaves: usize = leaves.iter().map(Leaf::kill).sum();
    // A process that left its cgroup, for example by sudo into another unit, still has the marker.
    let pairs: Vec<String> = launches
        .iter()
        .map(|launch| format!("{MARKER}={}", launch.marker))
        .collect();
    let ended = in_leaves + sweep_marked(&pairs, until);
    leaves.iter().for_each(|leaf| leaf.remove(until));
    ended
}

/// Kills processes with these markers, round after round, since a process may fork meanwhile.
///
/// All are stopped before the first is killed: otherwise a process that forks takes the slot of a
/// killed one. Under a limit on processes, stopped ones leave no slot free.
fn sweep_marked(pairs: &[String], until: Instant) -> usize {
    let mut ended = 0;
    while !pairs.is_empty() {
        let mut known = HashSet::new();
        let mut pidfds = Vec::new();
        loop {
            let mut found = with_any_marker(pairs, until.min(Instant::now() + BEGINS_WITHIN));
            found.retain(|process| known.insert(*process));
            let new: Vec<_> = found.into_iter().filter_map(ProcessId::open).collect();
            for pidfd in &new {
                pidfd.signal(Signal::Stop);
            }
            let is_last = new.is_empty() || Instant::now() >= until;
            pidfds.extend(new);
            if is_last {
                break;
            }
        }
        ended += pidfds.len();
        for pidfd in &pidfds {
            pidfd.signal(Signal::Kill);
        }
        for pidfd in &pidfds {
            let _ended = pidfd.wait(Some(until));
        }
        if pidfds.is_empty() || Instant::now() >= until {
            break;
        }
    }
    ended
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead as _, BufReader};
    use std::process::{Command, Stdio};

    #[test]
    fn a_sweep_ends_a_process_in_another_session_and_no_foreign_one() {
        let marker = sys::uuid::new_uuid();
        let mut parent = Command::new("sh")
            .args([
                "-c",
                "setsid tail -f /dev/null >/dev/null & echo started; wait",
            ])
            .env(MARKER, &marker)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(parent.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let mut other = Command::new("tail")
            .args(["-f", "/dev/null"])
            .env(MARKER, "another")
            .spawn()
            .unwrap();
        let process = ProcessId::from_pid(i32::try_from(parent.id()).unwrap()).unwrap();
        assert_eq!(end_process(process, TERM_TIMEOUT), Ended::WithTerm);
        parent.wait().unwrap();
        let launch = Launch {
            program: "sh".into(),
            arguments: Vec::new(),
            marker,
            cgroup: None,
        };
        assert_eq!(sweep(std::slice::from_ref(&launch), SWEEP_LIMIT), 1);
        assert_eq!(sweep(&[launch], SWEEP_LIMIT), 0);
        assert!(other.try_wait().unwrap().is_none());
        other.kill().unwrap();
        other.wait().unwrap();
    }

    #[test]
    fn a_process_that_ignores_sigterm_is_killed() {
        let mut child = Command::new("sh")
            .args([
                "-c",
                "trap '' TERM; echo ready; while :; do read x || exec tail -f /dev/null \
                 >/dev/null; done",
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let process = ProcessId::from_pid(i32::try_from(child.id()).unwrap()).unwrap();
        assert_eq!(
            end_process(process, Duration::from_millis(50)),
            Ended::Killed
        );
        child.wait().unwrap();
        assert_eq!(end_process(process, TERM_TIMEOUT), Ended::Before);
    }
}
