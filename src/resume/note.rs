//! Note to an agent about the end of its last process: a prompt, and details for a file. Pure.
//!
//! The prompt is for an agent whose turn was cut. Only the user can read the file with the details.

use super::launch_facts::LaunchFacts;
use claude::resume_note::{self, Cause, Cut};
use claude::{ApiStop, Status, Tail, TailState};
use state::AgentState;
use sys::time::Timestamp;

/// The note to an agent.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Note {
    /// The prompt of the resume.
    pub prompt: String,
    /// The text of its file, where the prompt names that file.
    pub details: Option<String>,
}

/// Returns whether an agent that an API error had stopped asks the API again right after its start.
/// An agent at a usage limit waits, and the keeper nudges it once the limit has ended.
fn asks_at_once(stop: ApiStop, in_a_row: u32, now: Timestamp) -> bool {
    let over = match stop {
        ApiStop::Limit { until } => until.is_some_and(|until| until <= now),
        _ => true,
    };
    over && supervisor::stall_retry::after_stop(stop, in_a_row, None, 0)
        != supervisor::stall_retry::StallRetry::Human
}

/// Returns why the last process ended.
fn cause(facts: &LaunchFacts<'_>, same_boot: bool) -> Cause {
    let LaunchFacts {
        record, history, ..
    } = facts;
    match (&record.why, same_boot) {
        (_, false) if history.noticed_by.as_deref() == Some("metadata") => {
            Cause::Preempted { noticed: true }
        }
        (_, false) if history.noticed_by.is_some() => Cause::ShutDown,
        (_, false) => Cause::Preempted { noticed: false },
        (Some(why), true) if record.state == AgentState::Backoff => Cause::Crashed(why.clone()),
        (_, true) => Cause::Restarted,
    }
}

/// Writes the note; `None` where none is needed. `tail` is the state at the end of the transcript.
pub(super) fn write(facts: &LaunchFacts<'_>, tail: &TailState) -> Option<Note> {
    let record = facts.record;
    let workspace = facts.workspace.as_deref();
    let brought_back = facts.brought.back.as_slice();
    let same_boot = record.boot_id.as_deref() == Some(facts.boot_id);
    let noticed_at = facts.history.noticed_at.filter(|_| !same_boot);
    // A turn that ended because its tools were killed was cut by spotkeep.
    let what = noticed_at.map_or_else(|| tail.tail(), |at| tail.tail_when_stopped(at));
    let last_status = (record.last_seen == Some(AgentState::Idle)).then_some(Status::Idle);
    let queued = tail.queued();
    if let Tail::StoppedByApi { reason, .. } = what
        && queued.is_empty()
        && workspace.is_none()
    {
        let is_due = asks_at_once(reason, tail.stops_in_a_row(), facts.now);
        return is_due.then(|| Note {
            prompt: resume_note::again(reason),
            details: None,
        });
    }
    let is_whole = workspace.is_none() && brought_back.is_empty();
    if !what.was_cut(last_status.as_ref()) && queued.is_empty() && is_whole {
        return None;
    }
    let cut = Cut {
        what: &what,
        cause: &cause(facts, same_boot),
        awaited_permission: record.last_seen == Some(AgentState::Waiting),
        cut_at: noticed_at.or(tail.last_activity()),
        back_at: facts.now,
        last_prompt: tail.last_prompt(),
        queued: &queued,
        workspace,
        brought_back,
    };
    let prompt = resume_note::prompt(&cut, &facts.note_file)?;
    Some(Note {
        prompt,
        details: Some(resume_note::details(&cut)),
    })
}
