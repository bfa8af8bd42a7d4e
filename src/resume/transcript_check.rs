//! What is left of the words of the last boot, looked at before anything is started: the one moment
//! at which it can be told from what is said afterwards.

use std::fs;
use std::path::Path;

use claude::transcript::locate;
use claude::{Tail, TranscriptLookup};
use state::layout::DataDir;
use state::{AgentRecord, AgentSaved, Manifest, TranscriptMark};
use sys::files;

/// The agents whose transcripts are not as they were left.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Account {
    /// Shorter than what was durable, or gone.
    pub short: Vec<String>,
    /// Their last line was cut off in the middle: one record each.
    pub torn: Vec<String>,
}

/// Looks at the transcript of each agent. `save` is the final one of the last boot, if there was one:
/// its word on what was durable is newer than the record's.
#[must_use]
pub fn account(data_dir: &DataDir, records: &[AgentRecord], save: Option<&Manifest>) -> Account {
    let mut account = Account::default();
    for record in records {
        let Some(promised) = promised(record, save) else {
            continue; // It never said anything.
        };
        let name = record.name.to_string();
        match claude::locate(&data_dir.claude(), &record.session_id) {
            TranscriptLookup::Present(path) => {
                if fs::metadata(&path).map_or(0, |meta| meta.len()) < promised {
                    account.short.push(name);
                } else if is_torn(&path) {
                    account.torn.push(name);
                }
            }
            _ => account.short.push(name),
        }
    }
    account
}

/// What a save made durable of a session of which its record knows no word yet: those of the last second
/// before it. Without this it would count as one in which nothing was ever said. `cwd` is where it works.
#[must_use]
pub fn saved_unseen(save: &Manifest, record: &AgentRecord, cwd: &Path) -> Option<TranscriptMark> {
    // After `/clear`, and before a first word, a file may have bytes and no words.
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

fn promised(record: &AgentRecord, save: Option<&Manifest>) -> Option<u64> {
    let session = &record.session_id;
    let saved = save.and_then(|save| saved(save, session));
    let known = record.transcript.as_ref();
    let marked = known.filter(|mark| mark.session_id == *session);
    saved.or(marked.map(|mark| mark.length))
}

/// Whole lines end with a newline; NULs are what a power cut leaves of one that was being written.
fn is_torn(path: &Path) -> bool {
    files::read_tail(path, 1).is_ok_and(|(_, last)| last.first().is_some_and(|byte| *byte != b'\n'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use state::{AgentName, TranscriptMark};

    #[test]
    fn what_is_shorter_gone_or_torn_is_named_and_the_rest_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let (data_dir, _) = DataDir::init(dir.path()).unwrap();
        let folder = data_dir.claude().join("projects/-srv");
        fs::create_dir_all(&folder).unwrap();
        let line = "{\"type\":\"user\",\"message\":{\"role\":\"user\",\"content\":\"x\"}}\n";
        let record = |name: &str, text: Option<&str>, promised: Option<usize>| {
            let mut record = AgentRecord::new(AgentName::new(name).unwrap(), "w".into());
            if let Some(text) = text {
                fs::write(folder.join(format!("{}.jsonl", record.session_id)), text).unwrap();
            }
            record.transcript = promised.map(|length| TranscriptMark {
                session_id: record.session_id.clone(),
                path: "x".into(),
                generation: 0,
                length: u64::try_from(length).unwrap(),
            });
            record
        };
        let whole = line.len();
        let torn = format!("{line}{{\"type\":\"us");
        let records = [
            record("whole", Some(line), Some(whole)),
            record("grown", Some(&line.repeat(2)), Some(whole)),
            record("short", Some(line), Some(whole * 2)),
            record("gone", None, Some(whole)),
            record("torn", Some(&torn), Some(whole)),
            record("silent", None, None),
        ];
        let account = account(&data_dir, &records, None);
        assert_eq!(account.short, ["short", "gone"]);
        assert_eq!(account.torn, ["torn"]);
    }

    #[test]
    fn words_that_only_the_save_has_seen_are_known_in_the_next_boot() {
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
            "name": "a", "agent_id": record.agent_id, "session_id": record.session_id, "end": "ended by itself",
            "exit_ms": 9, "open": "nothing", "transcript_bytes": 12, "transcript_safe": true,
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
            "the record's own word counts"
        );
    }
}
