//! Draining of a model's answer that Claude Code has not yet written to the transcript.
//!
//! At SIGTERM Claude Code writes what it has received, but not what is still on its way from the
//! model: on two cores, a message that was sent up to 0.1 s before was lost with three busy agents
//! (measured on 2.1.197 and 2.1.330, in 7 of 25 preemptions of an agent that wrote all the time).
//! The safe moment is right after a message was written, since Claude Code does not ask the model
//! again before the tool has run.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use super::Subject;
use claude::transcript::tail;
use claude::{Status, Tail, TranscriptLookup};
use state::layout::DataDir;
use sys::deadline::Deadline;
use sys::inotify::Watch;
use sys::process::ProcessId;

/// How long the save waits for an answer: a message that has come is written by then, even with
/// eight processes on each core (0.4 s was seen). The save does not wait longer for one that still
/// streams.
const TIMEOUT: Duration = Duration::from_millis(500);

/// How old a tool call has to be to count as running: Claude Code writes some 0.1 s late
/// (measured), so a call that was just written may already have its result, and the model may have
/// been asked again.
const BEHIND: Duration = Duration::from_millis(300);

/// The part of the remaining time that draining may take at most; after a late notice there is
/// none.
const PART: u32 = 20;

/// How often the transcript is read without an event: files may change without one.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Returns when the save stops waiting for [`drain_response`].
pub(super) fn limit(deadline: Deadline) -> Deadline {
    Deadline::after(2 * TIMEOUT.min(deadline.remaining() / PART))
}

/// Waits a moment for the model's answer to be written, where one is expected. An idle agent, or
/// one that runs a tool, is not held up.
pub(super) fn drain_response(
    subject: &Subject,
    process: ProcessId,
    data_dir: &DataDir,
    deadline: Deadline,
) {
    // This is nearly free, while reading the transcript is not.
    let says = claude::session_file::read(&data_dir.claude(), process.pid);
    if says.is_some_and(|file| file.status == Some(Status::Idle)) {
        return;
    }
    let limit = TIMEOUT.min(deadline.remaining() / PART);
    if let TranscriptLookup::Present(path) =
        claude::locate(&data_dir.claude(), &subject.record.session_id)
    {
        wait_until_written(&path, limit);
    }
}

/// Waits until a transcript does not end in a question to the model, for `limit` at most. Returns
/// whether that is so.
fn wait_until_written(transcript: &Path, limit: Duration) -> bool {
    let until = Instant::now() + limit;
    let Ok(watch) = Watch::new() else {
        return false;
    };
    if let Some(dir) = transcript.parent() {
        // Without a watch the transcript is polled.
        watch.add(dir).ok();
    }
    let Ok((mut state, mut reader)) = tail::read(transcript) else {
        return false;
    };
    let mut was_heard = false;
    loop {
        let rests = match state.tail() {
            Tail::CutInStream => false,
            Tail::CutInTool { .. } => was_heard || is_older_than(transcript, BEHIND),
            _ => true,
        };
        let left = until.saturating_duration_since(Instant::now());
        if rests || left.is_zero() {
            return rests;
        }
        watch.wait(left.min(POLL_INTERVAL));
        for record in reader.poll().unwrap_or_default() {
            state.push(&record);
            was_heard = true;
        }
    }
}

fn is_older_than(file: &Path, age: Duration) -> bool {
    let changed = fs::metadata(file).and_then(|meta| meta.modified());
    // After the clock was set back the age is unknown, and counts as old, so that nothing waits.
    changed.map_or(true, |at| at.elapsed().map_or(true, |since| since >= age))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use testing::wait::FOREVER;

    const QUESTION: &str = r#"{"type":"user","uuid":"1","message":{"role":"user","content":"x"}}"#;
    const ANSWER: &str = r#"{"type":"assistant","uuid":"2","message":{"id":"m","role":"assistant","stop_reason":"tool_use","content":[{"type":"tool_use","id":"t","name":"Bash","input":{}}]}}"#;

    #[test]
    fn an_answer_that_is_written_late_is_waited_for_up_to_a_limit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.jsonl");
        fs::write(&path, format!("{QUESTION}\n")).unwrap();
        assert!(!wait_until_written(&path, Duration::from_millis(1)));
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| wait_until_written(&path, FOREVER));
            let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
            writeln!(file, "{ANSWER}").unwrap();
            assert!(waiting.join().unwrap());
        });
        // In a tool by now, but only just: the tool's answer may not have been written yet.
        let file = fs::File::options().append(true).open(&path).unwrap();
        let now = std::time::SystemTime::now();
        file.set_modified(now + Duration::from_secs(60)).unwrap();
        assert!(wait_until_written(&path, Duration::ZERO));
        file.set_modified(now).unwrap();
        assert!(!wait_until_written(&path, Duration::ZERO));
        file.set_modified(now - BEHIND).unwrap();
        assert!(wait_until_written(&path, Duration::ZERO));
    }
}
