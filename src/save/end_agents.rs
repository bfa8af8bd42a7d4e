//! Ending of all agents in a save: SIGTERM to all at once, SIGKILL after a timeout, then a sweep.

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

/// How often, at least, agents are polled while they may finish their turns.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// The result of ending all agents.
#[derive(Debug)]
pub(super) struct EndedAgents {
    /// The manifest's row of each agent, with how it ended.
    pub(super) rows: Vec<AgentSaved>,
    /// Whether all of them have ended.
    pub(super) all: bool,
    /// How many leftover processes were killed.
    pub(super) stragglers: usize,
}

/// Ends all running agents at the same time. An agent in a turn may finish it first, as far as the
/// notice is long enough.
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

/// Kills processes that outlived their agent; returns how many there were.
pub(super) fn sweep_all(agents: &[Subject], deadline: Deadline) -> usize {
    let launch = |subject: &Subject| subject.record.launch.clone();
    let launches: Vec<Launch> = agents.iter().filter_map(launch).collect();
    // The sweep makes at least one round, however late it is.
    sweep(&launches, SWEEP_LIMIT.min(deadline.remaining()))
}

/// Returns the row of an agent that is not ended.
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

/// Ends one agent; returns its row and whether it has ended.
fn end_one(subject: &Subject, data_dir: &DataDir, notice: &Notice) -> (AgentSaved, bool) {
    let Some(process) = subject.process else {
        return (row(subject, "was not running"), true);
    };
    let finished = wait_until_turn_ends(process, data_dir, notice.drain);
    // Draining reads from a disk that may hang; the agent must get SIGTERM in time even then.
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
            Ended::WithTerm => "exited in time",
            Ended::Killed => "killed: it did not exit in time",
            Ended::Not => "still there: it hangs in the kernel",
        },
    );
    saved.exit_ms = Some(exit_ms);
    (saved, ended != Ended::Not)
}

/// Waits until an agent is between turns, at most until `drain`. Returns whether it waited and the
/// turn ended.
fn wait_until_turn_ends(process: ProcessId, data_dir: &DataDir, drain: Deadline) -> bool {
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
