//! Fuzzes the state files: agent records, `root.json`, save manifests and the journal.
//!
//! A newer version may have written them, a power cut may have damaged them, and an agent can write
//! to all of them.

use std::fmt::Debug;
use std::fs;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use state::{
    self, AgentName, AgentRecord, Identity, Journal, JournalEntry, JournalEvent, Manifest, rebuild,
};

/// Reads the input as each of these files.
pub fn check(bytes: &[u8]) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file.json");
    fs::write(&path, bytes).unwrap();
    a_file_survives_a_round_trip::<AgentRecord>(&path, bytes);
    a_file_survives_a_round_trip::<Identity>(&path, bytes);
    a_file_survives_a_round_trip::<Manifest>(&path, bytes);

    let path = dir.path().join("journal.jsonl");
    fs::write(&path, bytes).unwrap();
    let lines = all_readers_of_the_journal_agree(&path, bytes);
    rebuilt_state_comes_from_the_journal(&lines, &dir.path().join("file.json"));
    a_line_is_added_and_none_is_lost(&path, &lines);
    let at = super::choice(bytes, bytes.len() + 1);
    a_damaged_line_loses_only_itself(&path, bytes, at);
}

/// A file that is read, written and read again is the same, with all keys of a newer version.
fn a_file_survives_a_round_trip<T>(path: &Path, bytes: &[u8])
where
    T: Serialize + DeserializeOwned + PartialEq + Debug,
{
    let read = match state::load::<T>(path) {
        Ok(read) => read.expect("the file exists"),
        Err(error) => {
            let error = format!("{error:#}");
            assert!(error.contains("file.json"), "{error}");
            return;
        }
    };
    let again = path.with_extension("again");
    state::store(&again, &read).unwrap();
    assert_eq!(state::load::<T>(&again).unwrap(), Some(read));
    let object =
        |bytes: &[u8]| serde_json::from_slice::<Map<String, Value>>(bytes).unwrap_or_default();
    let (was, is) = (object(bytes), object(&fs::read(&again).unwrap()));
    let known = serde_json::to_value(blank::<T>(&is)).unwrap_or_default();
    for (key, value) in was.iter().filter(|(key, _)| known.get(key).is_none()) {
        let mut renamed = state::FORMER_KEYS.iter();
        let name = renamed.find(|(_, former)| former == key);
        if name.is_none_or(|(name, _)| is.get(*name).is_none()) {
            assert_eq!(is.get(key), Some(value), "{key}");
        }
    }
}

/// Removes all optional keys; the keys that are left are those that this version knows.
fn blank<T: DeserializeOwned>(whole: &Map<String, Value>) -> Option<T> {
    let mut object = whole.clone();
    for key in whole.keys() {
        let mut less = object.clone();
        less.shift_remove(key);
        if serde_json::from_value::<T>(Value::Object(less.clone())).is_ok() {
            object = less;
        }
    }
    serde_json::from_value(Value::Object(object)).ok()
}

fn all_readers_of_the_journal_agree(path: &Path, bytes: &[u8]) -> Vec<JournalEntry> {
    let (lines, damaged) = state::lines(path).unwrap();
    let mut each = Vec::new();
    let each_damaged = state::each_line(path, |line| each.push(line)).unwrap();
    assert_eq!(each, lines);
    assert_eq!(each_damaged, damaged);
    let end = super::choice(bytes, bytes.len() + 1) as u64;
    let (tail, _) = state::lines_of_tail(path, end).unwrap();
    assert!(lines.ends_with(&tail));
    let text = String::from_utf8_lossy(bytes);
    for line in &lines {
        let fields = line.fields();
        assert!(line.data().keys().all(|key| fields.contains(key)));
        assert!(text.contains(&*line.text));
        assert_eq!(JournalEntry::parse(&line.text).as_ref(), Some(line));
    }
    lines
}

fn rebuilt_state_comes_from_the_journal(lines: &[JournalEntry], save: &Path) {
    let mut data_dir = Identity::new("/root".into());
    if rebuild::data_dir(&mut data_dir, lines) {
        assert!(lines.iter().all(|line| line.epoch <= data_dir.epoch));
        assert!(
            lines
                .iter()
                .any(|line| line.data_dir_id == data_dir.data_dir_id)
        );
    }
    let save = state::load::<Manifest>(save).ok().flatten();
    let named = lines.iter().filter_map(|line| line.agent.clone());
    let saved = save.iter().flat_map(|save| &save.agents);
    let mut names: Vec<String> = named
        .chain(saved.map(|saved| saved.name.to_string()))
        .collect();
    names.sort_unstable();
    names.dedup();
    for name in names.iter().filter_map(|name| AgentName::new(name).ok()) {
        let mut record = AgentRecord::new(name, "workspaces/a".into());
        let minted = record.session_id.clone();
        // An agent that had a session never gets a new one.
        let known = rebuild::agent(&mut record, lines, save.as_ref());
        assert_eq!(known, record.session_id != minted);
        assert!(!record.past_sessions.contains(&record.session_id));
    }
}

fn write(path: &Path) -> JournalEntry {
    let mut journal = Journal::open(path, "root", 1, "boot_id").unwrap();
    let what = JournalEvent::Survived {
        reason: "fuzzing".into(),
    };
    journal.write(None, &what).unwrap();
    let (lines, _) = state::lines(path).unwrap();
    let line = lines.last().expect("one was written").clone();
    assert_eq!((&line.event, line.epoch), (&what, 1));
    line
}

fn a_line_is_added_and_none_is_lost(path: &Path, lines: &[JournalEntry]) {
    let line = write(path);
    assert_eq!(
        line.seq,
        lines.last().map_or(1, |last| last.seq.saturating_add(1))
    );
    let (after, _) = state::lines(path).unwrap();
    assert_eq!(after, [lines, &[line]].concat());
}

/// Simulates a power cut anywhere in the file, and a keeper that appends a line afterwards.
fn a_damaged_line_loses_only_itself(path: &Path, bytes: &[u8], at: usize) {
    let whole = bytes[..at]
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(0, |end| end + 1);
    fs::write(path, &bytes[..whole]).unwrap();
    let (before, _) = state::lines(path).unwrap();
    let nulls = vec![0; super::choice(bytes, 3) * 300];
    fs::write(path, [&bytes[..at], &nulls].concat()).unwrap();
    let line = write(path);
    let (after, _) = state::lines(path).unwrap();
    assert!(after.starts_with(&before));
    assert_eq!(after.last(), Some(&line));
    assert!(after.len() - before.len() <= 2);
}
