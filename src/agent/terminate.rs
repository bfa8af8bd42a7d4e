//! Ending an agent, with everything that it started.
//!
//! Claude's tools run in sessions of their own, so they outlive it and its process group
//! (measured). Each launch has a marker of its own in the environment, which its children inherit;
//! what carries it is ended too. A marker belongs to one launch, so a sweep that comes late never
//! meets the next one. Where the launch has a cgroup, what is in it is ended first, and at once.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use crate::systemd::cgroup::Leaf;
use state::{AgentRecord, Launch};
use sys::process::{ProcessId, Signal, with_any_marker, with_marker};

/// The environment variable that marks every process of one launch.
pub const MARKER: &str = "SPOTKEEP_LAUNCH";

/// From SIGTERM to SIGKILL. Claude ends in 0.1 to 0.6 s (measured on 2.1.197 and 2.1.330), longer
/// only for a session-end hook of the user's.
pub const TERM_TIMEOUT: Duration = Duration::from_secs(3);

/// What is left after a SIGKILL is gone at once, or hangs in the kernel for longer than we wait.
const KILL_LIMIT: Duration = Duration::from_secs(1);

/// A process that forks while it is looked for is found in the next round; for so long.
pub const SWEEP_LIMIT: Duration = Duration::from_secs(3);

/// How a process ended that was told to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It had ended already.
    Before,
    /// By itself, after SIGTERM.
    WithTerm,
    /// By SIGKILL.
    Killed,
    /// It is still there: it hangs in the kernel.
    Not,
}

/// The claude of a launch whose process nobody has taken down: its keeper was killed between the two. It is the one that was
/// given the session; what it has started itself is not.
#[must_use]
pub fn launched(record: &AgentRecord, boot_id: &str) -> Option<ProcessId> {
    if record.process.is_some() || record.boot_id.as_deref() != Some(boot_id) {
        return None;
    }
    let launch = record.launch.as_ref()?;
    let session = record.session_id.as_bytes();
    let is_it = |process: &ProcessId| {
        let words = std::fs::read(format!("/proc/{}/cmdline", process.pid)).unwrap_or_default();
        words.windows(session.len()).any(|word| word == session)
    };
    let marked = with_marker(&format!("{MARKER}={}", launch.marker));
    marked.into_iter().find(is_it)
}

/// Ends one process: SIGTERM, at most `grace` of patience, SIGKILL.
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

/// A walk waits so long for programs that are just beginning. One that somebody keeps from it holds no save up.
const BEGINS_WITHIN: Duration = Duration::from_millis(100);

/// Kills what is left of these launches, for `limit` at most; returns how many processes there were.
pub fn sweep(launches: &[Launch], limit: Duration) -> usize {
    let until = Instant::now() + limit;
    let leaf = |launch: &Launch| launch.cgroup.as_deref().map(Leaf::open);
    let leaves: Vec<Leaf> = launches.iter().filter_map(leaf).collect();
    // All of them before the first is waited for.
    let in_leaves: usize = leaves.iter().map(Leaf::kill).sum();
    // What left its cgroup, such as by sudo into another unit, still carries the marker.
    let pairs: Vec<String> = launches
        .iter()
        .map(|launch| format!("{MARKER}={}", launch.marker))
        .collect();
    let ended = in_leaves + sweep_marked(&pairs, until);
    leaves.iter().for_each(|leaf| leaf.remove(until));
    ended
}

/// Round after round, since a process may fork while it is looked for.
///
/// All are stopped before the first is killed: a place that is free is taken at once by what another one forks, and
/// within a limit on processes those that only stand still leave none free.
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
    fn what_ran_away_into_a_session_of_its_own_is_ended_and_nothing_else() {
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
                "trap '' TERM; echo ready; while :; do read x || exec tail -f /dev/null >/dev/null; done",
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
