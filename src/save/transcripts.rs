//! Making what was said durable: Claude never syncs a transcript (measured), so we do.

use std::sync::mpsc;

use super::Subject;
use claude::TranscriptLookup;
use claude::transcript::tail;
use state::layout::DataDir;
use state::{AgentRecord, AgentSaved};
use sys::deadline::Deadline;
use sys::files;
use sys::thread;

/// What became of one agent's transcript.
#[derive(Debug)]
pub(super) struct SavedTranscript {
    /// Durable bytes; `None`: there is no transcript.
    bytes: Option<u64>,
    /// What its tail says.
    open: String,
    trouble: Option<String>,
}

/// Syncs every transcript at the same time and reads its tail, until the deadline. An agent that
/// was not done by then is `None`.
pub(super) fn make_durable(
    data_dir: &DataDir,
    agents: &[Subject],
    deadline: Deadline,
) -> Vec<Option<SavedTranscript>> {
    let (done, results) = mpsc::channel();
    let mut without_thread = Vec::new();
    for (index, subject) in agents.iter().enumerate() {
        let (data_dir, record, done) = (data_dir.clone(), subject.record.clone(), done.clone());
        // Not scoped: a disk that hangs must not hold up those that do not.
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
    while let Ok((index, words)) = results.recv_timeout(deadline.remaining()) {
        all[index] = Some(words);
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
            open: tail_in_words(&path),
            trouble: None,
        },
        Err(error) => SavedTranscript {
            bytes: None,
            open: "unknown".into(),
            trouble: Some(format!("its transcript: {error}")),
        },
    }
}

fn tail_in_words(path: &std::path::Path) -> String {
    match tail::read(path) {
        Ok((state, _)) => state.tail().to_string(),
        Err(error) => format!("unknown: {error}"),
    }
}

/// Writes what became of the transcripts into the manifest's rows.
pub(super) fn enter(words: Vec<Option<SavedTranscript>>, rows: &mut [AgentSaved]) {
    for (row, words) in rows.iter_mut().zip(words) {
        match words {
            Some(words) => {
                row.transcript_safe = words.trouble.is_none();
                row.transcript_bytes = words.bytes;
                row.open = words.open;
                row.trouble = words.trouble;
            }
            None => row.trouble = Some("its transcript was not synced in time".into()),
        }
    }
}
