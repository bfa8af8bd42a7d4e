//! Syncing of transcripts in a save: Claude Code never syncs them (measured), so spotkeep does.

use std::sync::mpsc;

use super::Subject;
use claude::TranscriptLookup;
use claude::transcript::tail;
use state::layout::DataDir;
use state::{AgentRecord, AgentSaved};
use sys::deadline::Deadline;
use sys::files;
use sys::thread;

/// The result for one agent's transcript.
#[derive(Debug)]
pub(super) struct SavedTranscript {
    /// How many bytes are durable; `None`: there is no transcript.
    bytes: Option<u64>,
    /// What its tail shows: what the agent was doing.
    open: String,
    trouble: Option<String>,
}

/// Syncs all transcripts at the same time and reads their tails, until the deadline. The result of
/// one that was not done by then is `None`.
pub(super) fn make_durable(
    data_dir: &DataDir,
    agents: &[Subject],
    deadline: Deadline,
) -> Vec<Option<SavedTranscript>> {
    let (done, results) = mpsc::channel();
    let mut without_thread = Vec::new();
    for (index, subject) in agents.iter().enumerate() {
        let (data_dir, record, done) = (data_dir.clone(), subject.record.clone(), done.clone());
        // The threads are not scoped: a disk that hangs must not hold up the other transcripts.
        let sync = move || done.send((index, save_transcript(&data_dir, &record))).ok();
        if thread::spawn("save-transcripts", sync).is_err() {
            without_thread.push(index);
        }
    }
    for index in without_thread {
        done.send((index, save_transcript(data_dir, &agents[index].record)))
            .ok();
    }
    drop(done);
    let mut all: Vec<Option<SavedTranscript>> = agents.iter().map(|_| None).collect();
    while let Ok((index, saved)) = results.recv_timeout(deadline.remaining()) {
        all[index] = Some(saved);
    }
    all
}

fn save_transcript(data_dir: &DataDir, record: &AgentRecord) -> SavedTranscript {
    let path = match claude::locate(&data_dir.claude(), &record.session_id) {
        TranscriptLookup::Present(path) | TranscriptLookup::Blank(path) => path,
        TranscriptLookup::Several(paths) => match paths.into_iter().next() {
            Some(path) => path,
            None => {
                return SavedTranscript {
                    bytes: None,
                    open: "nothing said".into(),
                    trouble: None,
                };
            }
        },
        TranscriptLookup::Missing if record.transcript.is_some() => {
            return SavedTranscript {
                bytes: None,
                open: "unknown".into(),
                trouble: Some("its transcript is gone".into()),
            };
        }
        TranscriptLookup::Missing => {
            return SavedTranscript {
                bytes: None,
                open: "nothing said".into(),
                trouble: None,
            };
        }
        TranscriptLookup::Unknown(why) => {
            return SavedTranscript {
                bytes: None,
                open: "unknown".into(),
                trouble: Some(why),
            };
        }
    };
    let synced = files::sync_file(&path).and_then(|bytes| {
        path.parent().map_or(Ok(()), files::sync_dir)?;
        Ok(bytes)
    });
    match synced {
        Ok(bytes) => SavedTranscript {
            bytes,
            open: describe_tail(&path),
            trouble: None,
        },
        Err(error) => SavedTranscript {
            bytes: None,
            open: "unknown".into(),
            trouble: Some(format!("its transcript: {error}")),
        },
    }
}

fn describe_tail(path: &std::path::Path) -> String {
    match tail::read(path) {
        Ok((state, _)) => state.tail().to_string(),
        Err(error) => format!("unknown: {error}"),
    }
}

/// Writes the results into the manifest's rows.
pub(super) fn enter(saved: Vec<Option<SavedTranscript>>, rows: &mut [AgentSaved]) {
    for (row, saved) in rows.iter_mut().zip(saved) {
        match saved {
            Some(saved) => {
                row.transcript_safe = saved.trouble.is_none();
                row.transcript_bytes = saved.bytes;
                row.open = saved.open;
                row.trouble = saved.trouble;
            }
            None => row.trouble = Some("its transcript was not synced in time".into()),
        }
    }
}
