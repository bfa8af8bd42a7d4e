//! The journal of events, in order: `session-state/journal.jsonl`, one durable line each.

use std::fs;
use std::io::{self, BufRead as _, BufReader};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::event::describe;
use super::{AgentName, JournalEvent, VERSION};
use sys::error::{Context as _, Error, Result, ensure};
use sys::files::{self, AppendFile, read_tail};
use sys::time::Timestamp;

/// Bytes at the end of the journal that are read when it is opened. A boot starts no agent after
/// its notice, so a notice of this boot is always within them.
const TAIL_BYTES: u64 = 4 << 20;

/// Size in bytes at which the journal is renamed to the old one, which it replaces. At most two of
/// them exist.
const LARGEST: u64 = 32 << 20;

/// Fields of every line, beside those of its event; two of them also by their former names.
const HEADER: [&str; 10] = [
    "version",
    "seq",
    "at",
    "data_dir_id",
    "root_id",
    "epoch",
    "boot_id",
    "life",
    "event",
    "agent",
];

/// A line of the journal, as read.
// `remote`: no `Deserialize`, which would read a line without its event and its text.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(remote = "Self")]
pub struct JournalEntry {
    /// Version of the line's format.
    pub version: u32,
    /// Increases by one over the whole journal.
    pub seq: u64,
    /// Time of the event, by the machine's clock in that boot.
    pub at: Timestamp,
    /// Id of the data directory.
    #[serde(alias = "root_id")]
    pub data_dir_id: String,
    /// The keeper's epoch.
    pub epoch: u64,
    /// Id of the boot.
    #[serde(alias = "life")]
    pub boot_id: String,
    /// The event's name, also of one that only a newer version knows.
    #[serde(rename = "event")]
    pub name: String,
    /// Name of the agent that it is about.
    pub agent: Option<String>,
    /// The event. One that this version cannot read is [`JournalEvent::Unknown`].
    #[serde(skip)]
    pub event: JournalEvent,
    /// The line as read: what `events --json` prints.
    #[serde(skip)]
    pub text: Box<str>,
}

impl JournalEntry {
    /// Parses one line; `None` if it is damaged.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim_matches('\0').trim();
        let mut reader = serde_json::Deserializer::from_str(text);
        let entry = Self::deserialize(&mut reader).ok()?;
        reader.end().ok()?;
        Some(Self {
            event: serde_json::from_str(text).unwrap_or_default(),
            text: text.into(),
            ..entry
        })
    }

    /// Returns the event's own fields, as read.
    #[must_use]
    pub fn data(&self) -> Map<String, Value> {
        let mut data: Map<String, Value> = serde_json::from_str(&self.text).unwrap_or_default();
        data.retain(|key, _| !HEADER.contains(&key.as_str()));
        data
    }

    /// Returns its fields for people, as `key=value`.
    #[must_use]
    pub fn fields(&self) -> String {
        describe(&self.data())
    }
}

/// A new line, with its keys in the order in which they are written.
#[derive(Serialize)]
struct NewEntry<'a> {
    version: u32,
    seq: u64,
    at: Timestamp,
    data_dir_id: &'a str,
    epoch: u64,
    boot_id: &'a str,
    event: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent: Option<&'a AgentName>,
    #[serde(flatten)]
    data: Map<String, Value>,
}

/// The journal, open for appending.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    /// `None` while the data directory is not mounted.
    file: Option<AppendFile>,
    data_dir_id: String,
    epoch: u64,
    boot_id: String,
    next_seq: u64,
    /// Size in bytes at which the file is rotated.
    largest: u64,
}

impl Journal {
    /// Opens it for one keeper in one boot.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open(path: &Path, data_dir_id: &str, epoch: u64, boot_id: &str) -> Result<Self> {
        let file = AppendFile::open(path)?;
        let (lines, _) = lines(path)?;
        let next_seq = lines.last().map_or(1, |line| line.seq.saturating_add(1));
        Ok(Self {
            path: path.to_owned(),
            file: Some(file),
            data_dir_id: data_dir_id.to_owned(),
            epoch,
            boot_id: boot_id.to_owned(),
            next_seq,
            largest: LARGEST,
        })
    }

    /// Closes the file, so that its filesystem can be unmounted. Until [`Journal::reopen`] nothing
    /// is written.
    pub fn release(&mut self) {
        self.file = None;
    }

    /// Opens the file again after a release.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn reopen(&mut self) -> Result<()> {
        if self.file.is_none() {
            self.file = Some(AppendFile::open(&self.path)?);
        }
        Ok(())
    }

    /// Fails while the file is released.
    ///
    /// # Errors
    /// The file is released.
    pub fn ensure_there(&self) -> Result<()> {
        ensure!(
            self.file.is_some(),
            "the data directory is not mounted, so the journal is closed"
        );
        Ok(())
    }

    /// Appends a line and makes it durable before it returns.
    ///
    /// # Errors
    /// The disk is full or missing.
    pub fn write(&mut self, agent: Option<&AgentName>, event: &JournalEvent) -> Result<()> {
        self.write_at(Timestamp::now(), agent, event)
    }

    /// Like [`Journal::write`], for an event of the time `at`.
    ///
    /// # Errors
    /// Like [`Journal::write`].
    pub fn write_at(
        &mut self,
        at: Timestamp,
        agent: Option<&AgentName>,
        event: &JournalEvent,
    ) -> Result<()> {
        let (event, data) = event.parts().context("cannot write JSON")?;
        let line = NewEntry {
            version: VERSION,
            seq: self.next_seq,
            at,
            data_dir_id: &self.data_dir_id,
            epoch: self.epoch,
            boot_id: &self.boot_id,
            event,
            agent,
            data,
        };
        let file = self.file.as_mut();
        let file = file.context("the data directory is not mounted, so the journal is closed")?;
        file.append(&serde_json::to_string(&line).context("cannot write JSON")?)
            .context("cannot write the journal")?;
        self.next_seq = self.next_seq.saturating_add(1);
        if file.length() >= self.largest {
            self.rotate();
        }
        Ok(())
    }

    /// Renames the file to the old one, and begins a new one. Every line is durable in it, and
    /// readers use the old one until there is a new one. On an error the file grows on, and the
    /// next line tries again.
    fn rotate(&mut self) {
        let renamed = match fs::rename(&self.path, older(&self.path)) {
            // It was renamed before, and a new one could not be opened.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
            Ok(()) => files::sync_dir(self.path.parent().unwrap_or(Path::new("."))),
        };
        match renamed
            .map_err(Error::from)
            .and_then(|()| AppendFile::open(&self.path))
        {
            Ok(file) => self.file = Some(file),
            Err(error) => tracing::warn!("the journal was not rotated: {error:#}"),
        }
    }
}

/// Returns the path of the older half of a journal.
fn older(path: &Path) -> PathBuf {
    path.with_extension("old.jsonl")
}

/// Parses a line of the file; a damaged one is counted, an empty one is ignored.
fn read(bytes: &[u8], damaged: &mut usize) -> Option<JournalEntry> {
    let text = String::from_utf8_lossy(bytes);
    let entry = JournalEntry::parse(&text);
    *damaged += usize::from(entry.is_none() && !text.trim().is_empty());
    entry
}

/// Returns the newest lines of a journal, oldest first, and how many could not be read. A missing
/// journal is empty.
///
/// # Errors
/// It exists and cannot be read.
pub fn lines(path: &Path) -> Result<(Vec<JournalEntry>, usize)> {
    lines_of_tail(path, TAIL_BYTES)
}

/// Like [`lines`], for so many bytes at the end: for a caller that must not wait.
///
/// # Errors
/// Like [`lines`].
pub fn lines_of_tail(path: &Path, bytes: u64) -> Result<(Vec<JournalEntry>, usize)> {
    let newer = tail(path, bytes)?;
    let left = bytes.saturating_sub(newer.1.len() as u64);
    let is_whole = newer.0 == 0;
    let parts = [
        is_whole.then(|| tail(&older(path), left)).transpose()?,
        Some(newer),
    ];
    let (mut good, mut damaged) = (Vec::new(), 0);
    for (start, bytes) in parts.into_iter().flatten() {
        // The first line of a part is incomplete, which is not damage.
        let lines = bytes.split(|byte| *byte == b'\n');
        let whole = lines.skip(usize::from(start > 0));
        good.extend(whole.filter_map(|line| read(line, &mut damaged)));
    }
    Ok((good, damaged))
}

/// Returns so many bytes at the end of a file, with their offset; a missing file is empty.
fn tail(path: &Path, bytes: u64) -> Result<(u64, Vec<u8>)> {
    match read_tail(path, bytes) {
        Ok(tail) => Ok(tail),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok((0, Vec::new())),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Returns the lines from the notice that is in force in this boot on; empty without one, or where
/// the boot continued after it. Lines of later boots may follow.
#[must_use]
pub fn since_notice<'a>(lines: &'a [JournalEntry], boot_id: &str) -> &'a [JournalEntry] {
    use JournalEvent::{Notice, Survived};
    let decides = |line: &JournalEntry| {
        line.boot_id == boot_id && matches!(line.event, Notice { .. } | Survived { .. })
    };
    let last = lines.iter().rposition(decides);
    match last.map(|at| &lines[at..]) {
        Some(since @ [notice, ..]) if matches!(notice.event, Notice { .. }) => since,
        _ => &[],
    }
}

/// Calls `take` for all lines, oldest first, one at a time: for a reader of the whole history that
/// must not hold all of it in memory. Returns how many could not be read.
///
/// # Errors
/// Like [`lines`].
pub fn each_line(path: &Path, mut take: impl FnMut(JournalEntry)) -> Result<usize> {
    let mut damaged = 0;
    for path in [&older(path), path] {
        let file = match fs::File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", path.display()));
            }
        };
        for bytes in BufReader::new(file).split(b'\n') {
            let bytes = bytes.with_context(|| format!("cannot read {}", path.display()))?;
            read(&bytes, &mut damaged).map(&mut take);
        }
    }
    Ok(damaged)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Cause;

    #[test]
    fn a_released_journal_takes_no_line_and_continues_where_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.jsonl");
        let mut journal = Journal::open(&path, "r", 1, "l").unwrap();
        let what = JournalEvent::Survived { reason: "x".into() };
        journal.write(None, &what).unwrap();
        journal.release();
        assert!(journal.write(None, &what).is_err());
        journal.reopen().unwrap();
        journal.write(None, &what).unwrap();
        let (lines, damaged) = lines(&path).unwrap();
        let numbers: Vec<u64> = lines.iter().map(|line| line.seq).collect();
        assert_eq!((numbers, damaged), (vec![1, 2], 0));
    }

    #[test]
    fn a_large_journal_is_rotated_and_no_reader_misses_a_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.jsonl");
        let mut journal = Journal::open(&path, "r", 1, "l").unwrap();
        journal.largest = 2_000;
        let what = JournalEvent::Survived { reason: "x".into() };
        let numbers =
            |lines: Vec<JournalEntry>| lines.iter().map(|line| line.seq).collect::<Vec<_>>();
        let mut rotations = 0;
        for seq in 1..=60 {
            journal.write(None, &what).unwrap();
            rotations += usize::from(!path.metadata().is_ok_and(|meta| meta.len() > 0));
            let seen = numbers(lines(&path).unwrap().0);
            assert!(seen.ends_with(&[seq]) && seen.is_sorted(), "{seen:?}");
            let all = std::cell::RefCell::new(Vec::new());
            each_line(&path, |line| all.borrow_mut().push(line)).unwrap();
            assert_eq!(numbers(all.into_inner()), seen);
            assert!(
                seq < 10 || seen.len() >= 10,
                "the older half is read too: {seen:?}"
            );
        }
        assert!(rotations > 2);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
        // The next keeper continues the numbers, also right after a rotation.
        fs::write(&path, "").unwrap();
        let last = lines(&path).unwrap().0.last().unwrap().seq;
        let mut next = Journal::open(&path, "r", 2, "m").unwrap();
        next.write(None, &what).unwrap();
        assert_eq!(lines(&path).unwrap().0.last().unwrap().seq, last + 1);
        assert_eq!(numbers(lines_of_tail(&path, 50).unwrap().0), [] as [u64; 0]);
    }

    #[test]
    fn all_readers_count_the_same_and_numbers_stop_at_the_maximum() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.jsonl");
        let line = format!(
            r#"{{"version":1,"seq":{},"at":"2026-11-22T03:00:00Z","data_dir_id":"r","epoch":1,"boot_id":"l","event":"safe"}}"#,
            u64::MAX
        );
        std::fs::write(&path, format!("\r\n{line}\r\n \n\0\0\n")).unwrap();
        assert_eq!(lines(&path).unwrap().1, 1);
        assert_eq!(each_line(&path, |_| ()).unwrap(), 1);
        let mut journal = Journal::open(&path, "r", 2, "l").unwrap();
        let what = JournalEvent::Survived { reason: "x".into() };
        journal.write(None, &what).unwrap();
        journal.write(None, &what).unwrap();
        assert_eq!(lines(&path).unwrap().0.last().unwrap().seq, u64::MAX);
    }

    #[test]
    fn a_damaged_line_is_skipped_and_counted_and_the_numbers_continue() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.jsonl");
        let mut journal = Journal::open(&path, "r", 1, "boot-1").unwrap();
        journal
            .write(
                None,
                &JournalEvent::KeeperStopped {
                    reason: "let go".into(),
                },
            )
            .unwrap();
        drop(journal);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.extend_from_slice(b"{\"version\":1,\"se\0\0\0");
        std::fs::write(&path, bytes).unwrap();
        let mut journal = Journal::open(&path, "r", 2, "boot-2").unwrap();
        let name = AgentName::new("a").unwrap();
        journal
            .write(Some(&name), &JournalEvent::Survived { reason: "x".into() })
            .unwrap();
        let (lines, damaged) = lines(&path).unwrap();
        assert_eq!(damaged, 1);
        let seen: Vec<_> = lines
            .iter()
            .map(|line| (line.seq, line.name.as_str(), line.epoch))
            .collect();
        assert_eq!(seen, [(1, "keeper-stopped", 1), (2, "survived", 2)]);
        assert_eq!(lines[1].agent.as_deref(), Some("a"));
    }

    #[test]
    fn a_line_is_shown_as_its_name_and_its_fields() {
        let what = JournalEvent::Exited {
            how: "exit 1".into(),
            cause: Cause::Finished,
        };
        assert_eq!(what.name(), "exited");
        let fields = r#"how=exit 1 cause={"kind":"finished"}"#;
        assert_eq!(what.to_string(), format!("exited {fields}"));
        let activity = JournalEvent::Activity {
            changes: Vec::new(),
        };
        assert!(what.is_news() && !activity.is_news());
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.jsonl");
        let mut journal = Journal::open(&path, "r", 1, "l").unwrap();
        journal.write(None, &what).unwrap();
        journal.write(None, &activity).unwrap();
        let (lines, _) = lines(&path).unwrap();
        assert_eq!(lines[0].fields(), fields);
        assert!(lines[0].event.is_news() && !lines[1].event.is_news());
    }

    #[test]
    fn a_journal_whose_new_half_could_not_be_made_gets_it_with_the_next_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.jsonl");
        let mut journal = Journal::open(&path, "r", 1, "l").unwrap();
        let what = JournalEvent::Survived { reason: "x".into() };
        journal.largest = 1;
        fs::rename(&path, older(&path)).unwrap();
        journal.write(None, &what).unwrap();
        journal.largest = LARGEST;
        journal.write(None, &what).unwrap();
        let line_in = |path: &Path| fs::read_to_string(path).unwrap().lines().count();
        assert_eq!((line_in(&older(&path)), line_in(&path)), (1, 1));
    }

    #[test]
    fn a_journal_that_cannot_be_rotated_grows_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.jsonl");
        let mut journal = Journal::open(&path, "r", 1, "l").unwrap();
        journal.largest = 1;
        fs::create_dir_all(older(&path).join("in the way")).unwrap();
        for _ in 0..3 {
            journal
                .write(None, &JournalEvent::Survived { reason: "x".into() })
                .unwrap();
        }
        let whole = fs::read_to_string(&path).unwrap();
        assert_eq!(whole.lines().count(), 3);
    }

    #[test]
    fn an_unreadable_journal_is_an_error_and_noise_affects_only_its_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.jsonl");
        let none = |_: JournalEntry| panic!("there is no line");
        assert_eq!(each_line(&path, none).unwrap(), 0);
        let mut journal = Journal::open(&path, "r", 1, "l").unwrap();
        journal
            .write(None, &JournalEvent::Survived { reason: "x".into() })
            .unwrap();
        let line = fs::read_to_string(&path).unwrap();
        let text = [
            line.as_bytes(),
            b"\xff\xfe noise\n\n\0\0",
            line.as_bytes(),
            b"{\"ver",
        ]
        .concat();
        fs::write(&path, &text).unwrap();
        let mut seen = 0;
        assert_eq!(each_line(&path, |_| seen += 1).unwrap(), 2);
        assert_eq!(seen, 2);
        let all = text.len() as u64;
        // A part that begins within a line loses that line, and this is not damage.
        for (bytes, good, damaged) in [(all, 2, 2), (all + 1, 2, 2), (all - 1, 1, 2), (5, 0, 0)] {
            let (lines, bad) = lines_of_tail(&path, bytes).unwrap();
            assert_eq!((lines.len(), bad), (good, damaged), "of {bytes} bytes");
        }
        // A directory in its place, and a file in the place of its directory.
        let below = path.join("journal.jsonl");
        assert!(each_line(&below, none).is_err() && lines(&below).is_err());
        assert!(each_line(dir.path(), none).is_err());
        assert!(lines(dir.path()).is_err() && Journal::open(dir.path(), "r", 1, "l").is_err());
    }
}
