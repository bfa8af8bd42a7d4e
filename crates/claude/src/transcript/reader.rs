//! Transcript reader: tolerant of damaged lines, incremental, and bounded in memory.
//!
//! A position in a transcript is (session, generation, offset). Claude Code only appends; a file
//! that shrank or was replaced is another generation and is read from its beginning.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::damaged_line;
use super::record::Record;

/// How much is read at once, in bytes.
const CHUNK: usize = 256 * 1024;

/// Longer lines are skipped, in bytes. A record with several large images is shorter.
const LONGEST_LINE: usize = 64 * 1024 * 1024;

/// Position up to which a transcript has been read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Increases whenever the file shrank or was replaced.
    pub generation: u32,
    /// Bytes from the beginning; a record begins here, or will.
    pub offset: u64,
}

/// What could not be read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Skipped {
    /// Lines with an unreadable part.
    pub lines: u64,
    /// Bytes that belong to no record, NULs not counted.
    pub bytes: u64,
}

/// Reads a transcript as it grows.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    identity: Option<(u64, u64)>,
    mark: Mark,
    /// The beginning of a line that has not ended yet; it starts at the mark.
    partial: Vec<u8>,
    /// Bytes of the unfinished line that are not kept: leading NULs, or a line that is too long.
    dropped: u64,
    /// The rest of this line is skipped.
    overlong: bool,
    skipped: Skipped,
}

impl Reader {
    /// Returns a reader at the beginning. The file need not exist yet.
    #[must_use]
    pub fn open(path: impl Into<PathBuf>) -> Self {
        Self::from_mark(path, Mark::default())
    }

    /// Returns a reader that continues at an earlier reader's mark.
    #[must_use]
    pub fn from_mark(path: impl Into<PathBuf>, mark: Mark) -> Self {
        Self {
            path: path.into(),
            identity: None,
            mark,
            partial: Vec::new(),
            dropped: 0,
            overlong: false,
            skipped: Skipped::default(),
        }
    }

    /// Returns a reader at the first line that starts in the last `bytes` of the file, as
    /// generation 0.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn tail(path: impl Into<PathBuf>, bytes: u64) -> io::Result<Self> {
        let path = path.into();
        let length = std::fs::metadata(&path)?.len();
        let start = match length.saturating_sub(bytes) {
            0 | 1 => 0,
            start => start,
        };
        let mut reader = Self::from_mark(
            path,
            Mark {
                generation: 0,
                offset: start.saturating_sub(1),
            },
        );
        // Reading one byte early distinguishes a line that starts exactly there from the rest of
        // another.
        reader.overlong = start > 0;
        Ok(reader)
    }

    /// Returns the path of the file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the position up to which it has read.
    #[must_use]
    pub fn mark(&self) -> Mark {
        self.mark
    }

    /// Returns what could not be read so far.
    #[must_use]
    pub fn skipped(&self) -> Skipped {
        self.skipped
    }

    /// Returns the records that are new since the last call. A missing file has none.
    ///
    /// For the first read of a transcript, which may be huge, use [`Reader::each`].
    ///
    /// # Errors
    /// The file cannot be read; what was read before stays read.
    pub fn poll(&mut self) -> io::Result<Vec<Record>> {
        let mut records = Vec::new();
        self.each(|record| {
            records.push(record);
            true
        })?;
        Ok(records)
    }

    /// Passes the records that are new since the last call to `take`, one by one, until it returns
    /// false; the rest of the file is then left for the next call, except for records in the same
    /// chunk.
    ///
    /// # Errors
    /// The file cannot be read; what was read before stays read.
    pub fn each(&mut self, mut take: impl FnMut(Record) -> bool) -> io::Result<()> {
        let mut file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        self.check_generation(&file)?;
        file.seek(SeekFrom::Start(self.reached()))?;
        let mut chunk = vec![0; CHUNK];
        let mut go_on = true;
        while go_on {
            let length = match file.read(&mut chunk) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if length == 0 {
                self.take_unended_line(&mut take);
                break;
            }
            go_on = self.feed(&chunk[..length], &mut take);
        }
        Ok(())
    }

    fn check_generation(&mut self, file: &File) -> io::Result<()> {
        let meta = file.metadata()?;
        let identity = (meta.dev(), meta.ino());
        let replaced = self.identity.is_some_and(|known| known != identity);
        if replaced || meta.len() < self.reached() {
            *self = Self {
                skipped: self.skipped,
                ..Self::from_mark(
                    std::mem::take(&mut self.path),
                    Mark {
                        generation: self.mark.generation + 1,
                        offset: 0,
                    },
                )
            };
        }
        self.identity = Some(identity);
        Ok(())
    }

    /// Returns the offset of the first byte that has not been read.
    fn reached(&self) -> u64 {
        self.mark.offset + self.dropped + self.partial.len() as u64
    }

    fn feed(&mut self, mut bytes: &[u8], take: &mut impl FnMut(Record) -> bool) -> bool {
        let mut go_on = true;
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.keep(&bytes[..end]);
            go_on &= self.end_line(take);
            bytes = &bytes[end + 1..];
        }
        self.keep(bytes);
        go_on
    }

    fn keep(&mut self, bytes: &[u8]) {
        let leading = match self.partial.is_empty() {
            true => bytes.iter().take_while(|byte| **byte == 0).count(),
            false => 0,
        };
        self.dropped += leading as u64;
        let bytes = &bytes[leading..];
        if self.overlong || self.partial.len() + bytes.len() > LONGEST_LINE {
            self.dropped += (self.partial.len() + bytes.len()) as u64;
            self.partial = Vec::new();
            self.overlong = true;
        } else {
            self.partial.extend_from_slice(bytes);
        }
    }

    fn end_line(&mut self, take: &mut impl FnMut(Record) -> bool) -> bool {
        let next = self.reached() + 1;
        let mut go_on = true;
        if !self.overlong {
            let parsed = damaged_line::parse(&self.partial);
            self.count(parsed.skipped);
            for object in &parsed.objects {
                go_on &= take(Record::from_json(object));
            }
        } else if self.dropped > LONGEST_LINE as u64 {
            self.count(self.dropped);
        }
        self.start_line(next);
        go_on
    }

    /// A last line without its newline counts as soon as it is a whole object: a power cut may have
    /// removed the newline alone, and Claude Code continues behind it without adding one.
    fn take_unended_line(&mut self, take: &mut impl FnMut(Record) -> bool) {
        if self.overlong {
            return;
        }
        if let Some(object) = damaged_line::parse_exactly(&self.partial) {
            take(Record::from_json(&object));
            self.start_line(self.reached());
        }
    }

    fn start_line(&mut self, offset: u64) {
        self.mark.offset = offset;
        self.partial.clear();
        self.dropped = 0;
        self.overlong = false;
    }

    fn count(&mut self, bytes: u64) {
        self.skipped.bytes += bytes;
        self.skipped.lines += u64::from(bytes > 0);
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, OpenOptions};
    use std::io::Write as _;

    use super::*;
    use crate::transcript::record::RecordKind;

    fn title(name: &str) -> String {
        format!(r#"{{"type":"custom-title","customTitle":"{name}","sessionId":"s"}}"#)
    }

    fn append(path: &Path, text: &str) {
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    fn titles(reader: &mut Reader) -> Vec<String> {
        let records = reader.poll().unwrap();
        records
            .into_iter()
            .map(|record| match record.kind {
                RecordKind::Title(title) => title,
                other => format!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn a_record_is_returned_once_it_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("u.jsonl");
        let mut reader = Reader::open(&path);
        assert!(titles(&mut reader).is_empty());
        let line = title("one");
        append(&path, &line[..20]);
        assert!(titles(&mut reader).is_empty());
        append(&path, &line[20..]);
        assert_eq!(titles(&mut reader), ["one"]);
        append(&path, &format!("\n{}\n", title("two")));
        assert_eq!(titles(&mut reader), ["two"]);
        assert!(titles(&mut reader).is_empty());
        assert_eq!(reader.mark().offset, fs::metadata(&path).unwrap().len());
    }

    #[test]
    fn a_later_reader_continues_at_the_mark_of_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("u.jsonl");
        append(&path, &format!("{}\n{{\"type\":\"cust", title("one")));
        let mut first = Reader::open(&path);
        assert_eq!(titles(&mut first), ["one"]);
        append(&path, &format!("{}\n", title("two")));
        let mut second = Reader::from_mark(&path, first.mark());
        assert_eq!(titles(&mut second), ["two"]);
        assert_eq!(second.skipped().lines, 1);
    }

    #[test]
    fn a_file_that_shrank_or_was_replaced_is_another_generation() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("u.jsonl");
        append(&path, &format!("{}\n{}\n", title("one"), title("two")));
        let mut reader = Reader::open(&path);
        assert_eq!(titles(&mut reader), ["one", "two"]);
        let shrunk = OpenOptions::new().write(true).open(&path).unwrap();
        shrunk.set_len(title("one").len() as u64 + 1).unwrap();
        assert_eq!(titles(&mut reader), ["one"]);
        assert_eq!(reader.mark().generation, 1);

        let other = dir.path().join("other");
        append(&other, &format!("{}\n{}\n", title("three"), title("four")));
        fs::rename(&other, &path).unwrap();
        assert_eq!(titles(&mut reader), ["three", "four"]);
        assert_eq!(reader.mark().generation, 2);
    }

    #[test]
    fn the_tail_begins_with_a_whole_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("u.jsonl");
        append(&path, &format!("{}\n{}\n", title("one"), title("two")));
        let length = title("two").len() as u64 + 1;
        for (bytes, expected) in [
            (length - 1, vec![]),
            (length, vec!["two"]),
            (length + 5, vec!["two"]),
            (1_000, vec!["one", "two"]),
        ] {
            let mut reader = Reader::tail(&path, bytes).unwrap();
            assert_eq!(titles(&mut reader), expected, "{bytes}");
            assert_eq!(reader.skipped(), Skipped::default());
        }
    }

    #[test]
    fn a_run_of_nulls_is_skipped_without_being_kept_in_memory() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("u.jsonl");
        append(&path, &format!("{}\n", title("one")));
        let hole = 80 * 1024 * 1024;
        OpenOptions::new()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(hole)
            .unwrap();
        append(&path, &format!("{}\n", title("two")));
        let mut reader = Reader::open(&path);
        assert_eq!(titles(&mut reader), ["one", "two"]);
        assert!(reader.partial.capacity() < LONGEST_LINE);
    }

    #[test]
    fn reading_stops_when_the_callback_returns_false() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("u.jsonl");
        let line = format!("{}\n", title(&"x".repeat(1_000)));
        append(&path, &line.repeat(2_000));
        let mut reader = Reader::open(&path);
        reader.each(|_| false).unwrap();
        let rest = reader.poll().unwrap().len();
        assert!(rest > 1_000 && rest < 2_000, "{rest}");
    }

    proptest::proptest! {
        #![proptest_config(proptest::test_runner::Config {
            cases: 64,
            failure_persistence: None,
            ..Default::default()
        })]

        /// A power cut anywhere, NULs in its place, and Claude Code continuing behind it: only the
        /// record that was being written is lost, however often the file is read meanwhile.
        #[test]
        fn a_power_cut_loses_no_whole_record(
            names in proptest::collection::vec("[a-z{}\":,\\\\é\u{0}😀 ]{0,12}", 1..6),
            more in proptest::collection::vec("[a-z{}\"]{0,8}", 1..4),
            at in 0.0..1.0f64,
            nulls in 0..3usize,
            look in proptest::bool::ANY,
        ) {
            let line = |name: &String| {
                serde_json::json!({"a": {"type": "x", "b": [{"type": name}]},
                    "type": "custom-title", "customTitle": name, "sessionId": "s"}).to_string()
            };
            let lines: Vec<String> = names.iter().map(line).collect();
            let all = lines.iter().map(|line| format!("{line}\n")).collect::<String>();
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let cut = (all.len() as f64 * at) as usize;
            let mut end = 0;
            let mut expected: Vec<String> = Vec::new();
            for (name, line) in names.iter().zip(&lines) {
                if end + line.len() <= cut {
                    expected.push(name.clone());
                }
                end += line.len() + 1;
            }
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("u.jsonl");
            let mut reader = Reader::open(&path);
            let mut found = Vec::new();
            let steps = [
                all.as_bytes()[..cut].to_vec(),
                vec![0; nulls * 700],
                more.iter().map(|name| line(name) + "\n").collect::<String>().into_bytes(),
            ];
            let mut file = OpenOptions::new().create(true).append(true).open(&path).unwrap();
            for step in steps {
                file.write_all(&step).unwrap();
                if look {
                    found.extend(titles(&mut reader));
                }
            }
            found.extend(titles(&mut reader));
            expected.extend(more);
            proptest::prop_assert_eq!(found, expected);
        }
    }
}
