//! Fuzzes the readers of transcripts, which a power cut or an agent may have damaged.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::Path;

use claude::resume_note::{self, Cause, Cut};
use claude::transcript::render::render;
use claude::transcript::summary::Story;
use claude::transcript::{index, tail};
use claude::{Mark, Reader, Record, RecordKind, Tail, TailState};
use sys::time::Timestamp;

/// A record that Claude appends after the input.
const NEXT: &str = r#"{"type":"custom-title","customTitle":"next","sessionId":"s"}"#;

/// Runs all readers of transcripts on the input.
pub fn check(bytes: &[u8]) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("transcript.jsonl");
    fs::write(&path, bytes).unwrap();
    let at = super::choice(bytes, bytes.len() + 1);
    let whole = read(Reader::open(&path));
    a_tail_is_the_end_of_the_whole(&path, bytes, &whole, at);
    rendered_text_is_safe_for_a_terminal(&whole);
    the_tail_gives_the_state_of_the_whole(&path, &whole, at);
    index::about(&path).unwrap();
    a_reader_that_polls_in_between_sees_the_same(&path, bytes, at);
    a_power_cut_loses_one_record(&path, bytes, at);
}

fn read(mut reader: Reader) -> Vec<Record> {
    reader.poll().unwrap()
}

fn append(path: &Path, bytes: &[u8]) {
    let mut file = OpenOptions::new().append(true).open(path).unwrap();
    file.write_all(bytes).unwrap();
}

/// A tail has the records of the lines that begin in the last bytes of the file, and no others.
fn a_tail_is_the_end_of_the_whole(path: &Path, bytes: &[u8], whole: &[Record], at: usize) {
    let tail = read(Reader::tail(path, (bytes.len() - at) as u64).unwrap());
    let begins = match at {
        0 | 1 => Some(0),
        _ => bytes[at - 1..]
            .iter()
            .position(|byte| *byte == b'\n')
            .map(|newline| at + newline),
    };
    let before = path.with_extension("before");
    fs::write(&before, &bytes[..begins.unwrap_or(bytes.len())]).unwrap();
    let before = read(Reader::open(&before));
    match begins {
        Some(_) => assert_eq!([before, tail].concat(), whole),
        None => assert_eq!(tail, []),
    }
}

fn rendered_text_is_safe_for_a_terminal(whole: &[Record]) {
    let mut story = Story::default();
    for record in whole {
        for line in render(record) {
            let moves = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
            assert!(!line.text.contains(moves), "{line:?}");
        }
        story.push(record);
        let doing = story.doing().unwrap_or_default();
        assert!(!doing.contains(char::is_control), "{doing:?}");
    }
    assert!(story.lines().len() <= 400);
    assert!(story.lines().all(|line| line.text.chars().count() <= 4_000));
}

/// A tail that includes the start of the last turn has the same state as the whole transcript,
/// except for background tasks of earlier turns.
fn the_tail_gives_the_state_of_the_whole(path: &Path, whole: &[Record], at: usize) {
    let follow = |records: &[Record]| {
        let mut state = TailState::default();
        records.iter().for_each(|record| state.push(record));
        state
    };
    let all = follow(whole);
    let end = follow(&whole[at.min(whole.len())..]);
    if end.found_request() {
        let idle = |tail: Tail| match tail {
            Tail::AwaitingTasks { .. } => Tail::Idle,
            other => other,
        };
        assert_eq!(idle(end.tail()), idle(all.tail()));
        assert_eq!(end.stops_in_a_row(), all.stops_in_a_row());
        assert_eq!(end.last_prompt(), all.last_prompt());
    }
    let (state, _) = tail::read(path).unwrap();
    assert_eq!(state.tail(), all.tail());
    assert_eq!(state.queued(), all.queued());
    if let Some(stopped) = all.last_activity() {
        // spotkeep's own stop may have cut a tool; it changes nothing else.
        let tail = all.tail_when_stopped(stopped);
        assert!(matches!(tail, Tail::CutInTool { .. }) || tail == all.tail());
    }
    assert!(
        all.last_prompt()
            .is_none_or(|prompt| prompt.chars().count() <= 2_000)
    );
    a_note_is_valid_as_an_argument(&all);
}

/// A note is passed as an argument, which `ps` shows, so it has no control characters and is short.
fn a_note_is_valid_as_an_argument(state: &TailState) {
    let (what, queued) = (state.tail(), state.queued());
    let cut = Cut {
        what: &what,
        cause: &Cause::Preempted { noticed: true },
        awaited_permission: false,
        cut_at: state.last_activity(),
        back_at: Timestamp::from_millis(1_795_374_000_000).unwrap(),
        last_prompt: state.last_prompt(),
        queued: &queued,
        workspace: None,
        brought_back: &[],
    };
    let details = resume_note::details(&cut);
    assert!(queued.iter().all(|queued| details.contains(queued)));
    if let Some(note) = resume_note::prompt(&cut, Path::new("/root/note.md")) {
        assert!(!note.contains(char::is_control), "{note:?}");
        assert!(note.len() < 4_000, "{}", note.len());
    }
}

/// A reader that follows a growing file, and one that continues from a mark, see the same records
/// as a later reader, once the last line has ended. (In a line without an end, only the follower
/// sees a whole record before a damaged one.)
fn a_reader_that_polls_in_between_sees_the_same(path: &Path, bytes: &[u8], at: usize) {
    let bytes = &[bytes, b"\n"].concat()[..];
    fs::write(path, bytes).unwrap();
    let whole = read(Reader::open(path));
    let mut follower = Reader::open(path);
    fs::write(path, &bytes[..at]).unwrap();
    let first = follower.poll().unwrap();
    let mark = follower.mark();
    assert!(mark.offset <= at as u64);
    append(path, &bytes[at..]);
    let then = follower.poll().unwrap();
    assert_eq!([&first[..], &then[..]].concat(), whole);
    assert_eq!(follower.poll().unwrap(), []);
    let later = read(Reader::from_mark(path, mark));
    assert_eq!([first, later].concat(), whole);
    assert!(follower.skipped().bytes <= 3 * bytes.len() as u64);

    // A file that shrank is read from its beginning.
    if at < bytes.len() {
        let file = OpenOptions::new().write(true).open(path).unwrap();
        file.set_len(at as u64).unwrap();
        let again = follower.poll().unwrap();
        assert_eq!(follower.mark().generation, 1);
        assert_eq!(again, read(Reader::from_mark(path, Mark::default())));
    }
}

/// After a power cut, with or without NULs in place of lost data, the lines before it and the
/// records that Claude appends after it are read.
fn a_power_cut_loses_one_record(path: &Path, bytes: &[u8], at: usize) {
    let nulls = vec![0; super::choice(bytes, 3) * 300];
    fs::write(
        path,
        [&bytes[..at], &nulls, NEXT.as_bytes(), b"\n"].concat(),
    )
    .unwrap();
    let after = read(Reader::open(path));
    let lines = bytes[..at].iter().rposition(|byte| *byte == b'\n');
    fs::write(path, &bytes[..lines.map_or(0, |end| end + 1)]).unwrap();
    let before = read(Reader::open(path));
    assert!(after.starts_with(&before));
    let next = after.last().map(|record| &record.kind);
    assert_eq!(next, Some(&RecordKind::Title("next".to_owned())));
}
