//! Ending the fleet: all at once, each with its grace, then what outlived them.

use std::time::{Duration, Instant};

use super::{Subject, drain, millis, row};
use crate::keeper::terminate::{Ended, GRACE, SWEEP_LIMIT, end_process, sweep};
use claude::Status;
use state::layout::Root;
use state::{AgentSaved, Launch};
use supervisor::notice::Notice;
use sys::deadline::Deadline;
use sys::inotify::Watch;
use sys::process::ProcessId;
use sys::thread;
use sys::time_limit::within;

/// What the manifest says of an agent that nothing could end.
pub(super) const STILL_THERE: &str = "still there: it hangs in the kernel";

/// While agents may finish their turns, they are looked at at least this often.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Ends every agent that runs, all at the same time. Those in a turn may finish it first, as far
/// as the notice is long enough for that. Returns how each ended, and how many processes that
/// outlived them were killed.
pub(super) fn end_all(
    agents: &[Subject],
    root: &Root,
    notice: &Notice,
) -> (Vec<AgentSaved>, usize) {
    let rows = thread::for_all("end", agents, |subject| end_one(subject, root, notice))
        .into_iter()
        .zip(agents)
        .map(|(ended, subject)| ended.unwrap_or_else(|| row(subject, "could not be ended")))
        .collect();
    (rows, sweep_all(agents, notice.deadline))
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

fn end_one(subject: &Subject, root: &Root, notice: &Notice) -> AgentSaved {
    let Some(process) = subject.process else {
        return row(subject, "was not running");
    };
    let finished = wait_for_turn(process, root, notice.drain);
    // It reads from a disk that may hang, and who is not told in time is not saved.
    let (of, at, deadline) = (subject.clone(), root.clone(), notice.deadline);
    within(drain::limit(deadline), move || {
        drain::hear_out(&of, process, &at, deadline);
    });
    let began = Instant::now();
    let ended = end_process(process, GRACE.min(notice.deadline.remaining()));
    let exit_ms = millis(began.elapsed());
    let mut saved = row(
        subject,
        match ended {
            Ended::Before => "had ended already",
            Ended::Gracefully if finished => "ended after its turn",
            Ended::Gracefully => "ended by itself",
            Ended::Killed => "killed: it did not end by itself",
            Ended::Not => STILL_THERE,
        },
    );
    saved.exit_ms = Some(exit_ms);
    saved
}

/// Waits until an agent is between turns, at most until `drain`. Returns whether it waited and
/// was not in vain.
fn wait_for_turn(process: ProcessId, root: &Root, drain: Deadline) -> bool {
    if drain.has_passed() {
        return false;
    }
    let config_dir = root.claude();
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
        watch.wait(LOOK_EVERY.min(drain.remaining()));
    }
    waited && !in_turn()
}
