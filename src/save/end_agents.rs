//! Ending the fleet: all at once, each with its grace, then what outlived them.

use std::time::{Duration, Instant};

use super::{Subject, drain, millis, row};
use crate::agent::terminate::{Ended, SWEEP_LIMIT, TERM_TIMEOUT, end_process, sweep};
use claude::Status;
use state::layout::DataDir;
use state::{AgentSaved, Launch};
use supervisor::notice::Notice;
use sys::deadline::Deadline;
use sys::inotify::Watch;
use sys::process::ProcessId;
use sys::thread;
use sys::time_limit::within;

/// While agents may finish their turns, they are looked at at least this often.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// What came of ending the fleet.
#[derive(Debug)]
pub(super) struct EndedAgents {
    /// How each ended, in words.
    pub(super) rows: Vec<AgentSaved>,
    /// Whether none of them is there any more.
    pub(super) all: bool,
    /// How many processes that outlived them were killed.
    pub(super) stragglers: usize,
}

/// Ends every agent that runs, all at the same time. Those in a turn may finish it first, as far
/// as the notice is long enough for that.
pub(super) fn end_all(agents: &[Subject], data_dir: &DataDir, notice: &Notice) -> EndedAgents {
    let mut all = true;
    let rows = thread::for_all("end", agents, |subject| end_one(subject, data_dir, notice))
        .into_iter()
        .zip(agents)
        .map(|(ended, subject)| {
            let (row, is_gone) =
                ended.unwrap_or_else(|| (row(subject, "could not be ended"), false));
            all &= is_gone;
            row
        })
        .collect();
    EndedAgents {
        rows,
        all,
        stragglers: sweep_all(agents, notice.deadline),
    }
}

/// Kills what outlived its agent; returns how many processes there were.
pub(super) fn sweep_all(agents: &[Subject], deadline: Deadline) -> usize {
    let launch = |subject: &Subject| subject.record.launch.clone();
    let launches: Vec<Launch> = agents.iter().filter_map(launch).collect();
    // At least one look, however late it is.
    sweep(&launches, SWEEP_LIMIT.min(deadline.remaining()))
}

/// The row of an agent that is left alone.
pub(super) fn goes_on(subject: &Subject) -> AgentSaved {
    row(
        subject,
        if subject.process.is_some() {
            "goes on"
        } else {
            "was not running"
        },
    )
}

/// How it ended, and whether it is gone.
fn end_one(subject: &Subject, data_dir: &DataDir, notice: &Notice) -> (AgentSaved, bool) {
    let Some(process) = subject.process else {
        return (row(subject, "was not running"), true);
    };
    let finished = wait_for_turn(process, data_dir, notice.drain);
    // It reads from a disk that may hang, and who is not told in time is not saved.
    let (of, at, deadline) = (subject.clone(), data_dir.clone(), notice.deadline);
    within(drain::limit(deadline), move || {
        drain::drain_response(&of, process, &at, deadline);
    });
    let began = Instant::now();
    let ended = end_process(process, TERM_TIMEOUT.min(notice.deadline.remaining()));
    let exit_ms = millis(began.elapsed());
    let mut saved = row(
        subject,
        match ended {
            Ended::Before => "had ended already",
            Ended::WithTerm if finished => "ended after its turn",
            Ended::WithTerm => "ended by itself",
            Ended::Killed => "killed: it did not end by itself",
            Ended::Not => "still there: it hangs in the kernel",
        },
    );
    saved.exit_ms = Some(exit_ms);
    (saved, ended != Ended::Not)
}

/// Waits until an agent is between turns, at most until `drain`. Returns whether it waited and
/// was not in vain.
fn wait_for_turn(process: ProcessId, data_dir: &DataDir, drain: Deadline) -> bool {
    if drain.has_passed() {
        return false;
    }
    let config_dir = data_dir.claude();
    let in_turn = || {
        claude::session_file::read(&config_dir, process.pid)
            .is_some_and(|file| matches!(file.status, Some(Status::Busy | Status::Shell)))
    };
    let Ok(watch) = Watch::new() else {
        return false;
    };
    watch
        .add(&claude::session_file::sessions_dir(&config_dir))
        .ok();
    let mut waited = false;
    while !drain.has_passed() && process.is_alive() && in_turn() {
        waited = true;
        watch.wait(POLL_INTERVAL.min(drain.remaining()));
    }
    waited && !in_turn()
}
