//! Parser of the git index format, versions 2, 3 and 4.
//!
//! One pass over bytes in memory takes milliseconds, while each query to git would cost a process
//! that reads the index again. The format is described in git's `index-format`. The checksum is
//! left to git, which checks it whenever it reads the same bytes.

/// An entry of an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Path inside of the work tree; any bytes but NUL.
    pub path: &'a [u8],
    /// `0o100644`, `0o100755`, `0o120000` (a link), `0o160000` (another repository's commit).
    pub mode: u32,
    /// Object name as bytes.
    pub oid: &'a [u8],
    /// 0, or 1 to 3 in a conflict.
    pub stage: u8,
    /// Size on the disk when git last read the file, in bytes modulo 2³².
    pub disk_size: u32,
    /// `update-index --assume-unchanged`.
    pub assume_unchanged: bool,
    /// Whether the file is not to be on the disk: a sparse checkout, or
    /// `update-index --skip-worktree`.
    pub skip_worktree: bool,
    /// `add --intent-to-add`: an entry without content.
    pub intent_to_add: bool,
}

impl Entry<'_> {
    /// Returns the object's name in hexadecimal digits.
    #[must_use]
    pub fn hex(&self) -> String {
        use std::fmt::Write as _;
        self.oid.iter().fold(String::new(), |mut hex, byte| {
            // Writing to a string does not fail.
            write!(hex, "{byte:02x}").ok();
            hex
        })
    }
}

/// Whether an index can be read without git.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IndexKind {
    /// All entries are in the file.
    Whole,
    /// A part of it is in another file, or whole directories are folded into one entry: git has to
    /// rewrite it before its entries can be read.
    Partial,
}

/// Calls `each` for every entry in order; returns `None` where the bytes are not a valid index.
pub fn read(bytes: &[u8], oid_length: usize, mut each: impl FnMut(Entry<'_>)) -> Option<IndexKind> {
    let number = |at: usize| -> Option<u32> {
        Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
    };
    let short = |at: usize| -> Option<u16> {
        Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
    };
    let version = number(4)?;
    if bytes.get(..4)? != b"DIRC" || !(2..=4).contains(&version) {
        return None;
    }
    let mut path = Vec::new();
    let mut at = 12;
    for _ in 0..number(8)? {
        let start = at;
        let (mode, disk_size) = (number(at + 24)?, number(at + 36)?);
        let oid = bytes.get(at + 40..at + 40 + oid_length)?;
        at += 40 + oid_length;
        let flags = short(at)?;
        at += 2;
        let more = if flags & 0x4000 == 0 {
            0
        } else {
            at += 2;
            short(at - 2)?
        };
        if version == 4 {
            // Only the end of the path differs from the path before it.
            let (dropped, used) = varint(bytes.get(at..)?)?;
            path.truncate(path.len().checked_sub(dropped)?);
            at += used;
        } else {
            path.clear();
        }
        let length = bytes.get(at..)?.iter().position(|byte| *byte == 0)?;
        path.extend_from_slice(&bytes[at..at + length]);
        at += length + 1;
        if version != 4 {
            // Filled with one to eight NULs to a multiple of eight bytes.
            at = start + (at - start).next_multiple_of(8);
        }
        each(Entry {
            path: &path,
            mode,
            oid,
            stage: (flags >> 12 & 3) as u8,
            disk_size,
            assume_unchanged: flags & 0x8000 != 0,
            skip_worktree: more & 0x4000 != 0,
            intent_to_add: more & 0x2000 != 0,
        });
    }
    let end = bytes.len().checked_sub(oid_length)?;
    let mut kind = IndexKind::Whole;
    while at + 8 <= end {
        if matches!(bytes.get(at..at + 4)?, b"link" | b"sdir") {
            kind = IndexKind::Partial;
        }
        at += 8 + number(at + 4)? as usize;
    }
    (at == end).then_some(kind)
}

/// Reads a number in git's offset encoding; returns it and how many bytes it takes.
fn varint(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut value = usize::from(bytes.first()? & 127);
    let mut used = 1;
    while bytes[used - 1] & 128 != 0 {
        let byte = bytes.get(used)?;
        value = value.checked_add(1)?.checked_mul(128)? + usize::from(byte & 127);
        used += 1;
    }
    Some((value, used))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    fn git(dir: &Path, arguments: &[&str]) -> String {
        let output = crate::git::command(dir).args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn listed(bytes: &[u8]) -> Option<(String, IndexKind)> {
        let mut text = String::new();
        let kind = read(bytes, 20, |entry| {
            let path = String::from_utf8_lossy(entry.path);
            text += &format!(
                "{:06o} {} {}\t{path}\n",
                entry.mode,
                entry.hex(),
                entry.stage
            );
        })?;
        Some((text, kind))
    }

    #[test]
    fn every_index_version_is_read_as_git_reads_it_and_a_damaged_index_is_rejected() {
        let dir = tempfile::tempdir().unwrap();
        git(dir.path(), &["init", "-q"]);
        // Long paths take two bytes where the end of the one before is dropped.
        let long = "x".repeat(200);
        for name in ["a", "a b", "dir/one", "dir/two", "z"] {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, name).unwrap();
        }
        fs::write(dir.path().join(&long), "").unwrap();
        git(dir.path(), &["add", "."]);
        for (version, more) in [
            ("2", &[][..]),
            ("3", &["--skip-worktree", "z"]),
            ("4", &["--assume-unchanged", "a"]),
        ] {
            git(
                dir.path(),
                &[&["update-index", "--index-version", version], more].concat(),
            );
            let bytes = fs::read(dir.path().join(".git/index")).unwrap();
            let expected = git(dir.path(), &["ls-files", "-s"]);
            assert_eq!(
                listed(&bytes),
                Some((expected, IndexKind::Whole)),
                "version {version}"
            );
            for length in [0, 3, 11, 12, 60, 200, bytes.len() - 21, bytes.len() - 1] {
                assert_eq!(
                    listed(&bytes[..length]),
                    None,
                    "version {version}, {length} bytes"
                );
            }
        }
        let bytes = fs::read(dir.path().join(".git/index")).unwrap();
        let mut flags = Vec::new();
        read(&bytes, 20, |entry| {
            flags.push((
                entry.path.to_vec(),
                entry.assume_unchanged,
                entry.skip_worktree,
            ));
        });
        assert_eq!(flags[0], (b"a".to_vec(), true, false));
        assert_eq!(flags[flags.len() - 1], (b"z".to_vec(), false, true));
        git(
            dir.path(),
            &[
                "-c",
                "core.splitIndex=true",
                "update-index",
                "--split-index",
            ],
        );
        let bytes = fs::read(dir.path().join(".git/index")).unwrap();
        assert_eq!(
            listed(&bytes).map(|(_, kind)| kind),
            Some(IndexKind::Partial)
        );
    }
}
