//! Transcript check: what is left of the last boot's transcripts, before any agent is started.
//!
//! Later a loss could not be distinguished from what the agents write after it.

use std::fs;
use std::path::Path;

use claude::transcript::locate;
use claude::{Tail, TranscriptLookup};
use state::layout::DataDir;
use state::{AgentRecord, AgentSaved, Manifest, TranscriptMark};
use sys::files;

/// The agents whose transcripts lost something.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TranscriptCheck {
    /// Agents whose transcript is gone, or shorter than what was durable.
    pub short: Vec<String>,
    /// Agents whose transcript ends in a line that was cut off: one lost record each.
    pub damaged: Vec<String>,
}

/// Checks the transcript of each agent. `save` is the final save of the last boot, if there was
/// one: its figures are newer than the record's.
#[must_use]
pub fn check_transcripts(
    data_dir: &DataDir,
    records: &[AgentRecord],
    save: Option<&Manifest>,
) -> TranscriptCheck {
    let mut check = TranscriptCheck::default();
    for record in records {
        let Some(expected_length) = expected_length(record, save) else {
            continue; // It never had a transcript.
        };
        let name = record.name.to_string();
        match claude::locate(&data_dir.claude(), &record.session_id) {
            TranscriptLookup::Present(path) => {
                if fs::metadata(&path).map_or(0, |meta| meta.len()) < expected_length {
                    check.short.push(name);
                } else if is_damaged(&path) {
                    check.damaged.push(name);
                }
            }
            _ => check.short.push(name),
        }
    }
    check
}

/// Returns the transcript mark from a save, for a session whose record has none yet because its
/// transcript began in the last second before the save. Without the mark, the session would count
/// as one without a conversation. `cwd` is the agent's working directory.
#[must_use]
pub fn saved_unseen(save: &Manifest, record: &AgentRecord, cwd: &Path) -> Option<TranscriptMark> {
    // After `/clear` and before the first message, a file may have bytes and no conversation.
    if record.transcript.is_some() || !record.past_sessions.is_empty() {
        return None;
    }
    let session = &record.session_id;
    let said =
        |agent: &&AgentSaved| agent.session_id == *session && agent.open != Tail::Empty.to_string();
    let agent = save.agents.iter().find(said)?;
    let length = agent.transcript_bytes.filter(|bytes| *bytes > 0)?;
    let folder = Path::new("projects").join(locate::slug(cwd));
    Some(TranscriptMark {
        session_id: session.clone(),
        path: folder.join(format!("{session}.jsonl")),
        generation: 0,
        length,
    })
}

fn saved(save: &Manifest, session: &str) -> Option<u64> {
    let mut agents = save.agents.iter();
    agents
        .find(|agent| agent.session_id == session)?
        .transcript_bytes
}

fn expected_length(record: &AgentRecord, save: Option<&Manifest>) -> Option<u64> {
    let session = &record.session_id;
    let saved = save.and_then(|save| saved(save, session));
    let known = record.transcript.as_ref();
    let marked = known.filter(|mark| mark.session_id == *session);
    saved.or(marked.map(|mark| mark.length))
}

/// Returns whether the last line was cut off: whole lines end with a newline, and a power cut
/// leaves NULs of a line that was being written.
fn is_damaged(path: &Path) -> bool {
    files::read_tail(path, 1).is_ok_and(|(_, last)| last.first().is_some_and(|byte| *byte != b'\n'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use state::{AgentName, TranscriptMark};

    #[test]
    fn transcripts_that_are_shorter_gone_or_damaged_are_named_and_the_others_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let (data_dir, _) = DataDir::init(dir.path()).unwrap();
        let folder = data_dir.claude().join("projects/-srv");
        fs::create_dir_all(&folder).unwrap();
        let line = "{\"type\":\"user\",\"message\":{\"role\":\"user\",\"content\":\"x\"}}\n";
        let record = |name: &str, text: Option<&str>, expected_length: Option<usize>| {
            let mut record = AgentRecord::new(AgentName::new(name).unwrap(), "w".into());
            if let Some(text) = text {
                fs::write(folder.join(format!("{}.jsonl", record.session_id)), text).unwrap();
            }
            record.transcript = expected_length.map(|length| TranscriptMark {
                session_id: record.session_id.clone(),
                path: "x".into(),
                generation: 0,
                length: u64::try_from(length).unwrap(),
            });
            record
        };
        let whole = line.len();
        let damaged = format!("{line}{{\"type\":\"us");
        let records = [
            record("whole", Some(line), Some(whole)),
            record("grown", Some(&line.repeat(2)), Some(whole)),
            record("short", Some(line), Some(whole * 2)),
            record("gone", None, Some(whole)),
            record("damaged", Some(&damaged), Some(whole)),
            record("silent", None, None),
        ];
        let check = check_transcripts(&data_dir, &records, None);
        assert_eq!(check.short, ["short", "gone"]);
        assert_eq!(check.damaged, ["damaged"]);
    }

    #[test]
    fn a_transcript_that_only_the_save_has_seen_is_known_in_the_next_boot() {
        let mut record = AgentRecord::new(AgentName::new("a").unwrap(), "w".into());
        let mut save = Manifest::begin(
            "s".into(),
            "r".into(),
            1,
            "l".into(),
            "command".into(),
            true,
        );
        let cwd = Path::new("/srv/w");
        assert_eq!(saved_unseen(&save, &record, cwd), None);
        save.agents = serde_json::from_value(serde_json::json!([{
            "name": "a", "agent_id": record.agent_id, "session_id": record.session_id,
            "end": "exited in time", "exit_ms": 9, "open": "nothing", "transcript_bytes": 12,
            "transcript_safe": true,
            "workspace": {"checkpoint": null, "note": ""},
        }]))
        .unwrap();
        let mark = saved_unseen(&save, &record, cwd).unwrap();
        let path = format!("projects/-srv-w/{}.jsonl", record.session_id);
        assert_eq!((mark.length, mark.path.to_str()), (12, Some(path.as_str())));
        record.transcript = Some(mark);
        assert_eq!(
            saved_unseen(&save, &record, cwd),
            None,
            "the record's own mark counts"
        );
    }
}
