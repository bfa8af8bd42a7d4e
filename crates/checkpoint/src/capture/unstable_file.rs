//! Reads files that change while they are read, and adds them to the index.
//!
//! git maps a file into its memory while it hashes it, and dies when the file is truncated
//! meanwhile. Here the file is read into a buffer; if its metadata changed during that, it is read
//! again.

use std::fs::{self, Metadata};
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::index::{INDEX_INFO, line};
use crate::git::objects::{self, Copies};
use crate::git::{Git, ShadowGitDir};
use sys::error::{Context as _, Result};
use sys::files::{is_gone, open_no_follow};

/// Maximum number of reads of a file that changes while it is read.
const READS: usize = 3;

/// Updates the index that `git` works on with `paths` as they are on the disk, and removes those
/// that have vanished. Returns a message for each file that changed during every read.
pub(crate) fn add(
    git: &Git,
    shadow: &ShadowGitDir,
    paths: &[Vec<u8>],
    oid_length: usize,
) -> Result<Vec<String>> {
    let dir = shadow.file("torn");
    let mut copies = Copies::new(&dir)?;
    let mut messages = Vec::new();
    let mut modes = Vec::new();
    for path in paths {
        let file = shadow.work_tree.join(std::ffi::OsStr::from_bytes(path));
        let read = read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        modes.push(read.as_ref().map(|read| read.mode));
        if let Some(read) = read {
            copies.add(&read.bytes)?;
            if read.is_unstable {
                messages.push(format!(
                    "{} changed while it was read",
                    String::from_utf8_lossy(path)
                ));
            }
        }
    }
    let mut oids = copies.write(git)?.into_iter();
    let none = objects::none(oid_length);
    let mut lines = Vec::new();
    for (path, mode) in paths.iter().zip(modes) {
        match mode {
            Some(mode) => {
                let oid = oids.next().context("an object for each file")?;
                lines.extend(line(mode, &oid, 0, path));
            }
            None => lines.extend(line(0, &none, 0, path)),
        }
    }
    git.run(&INDEX_INFO, lines)?;
    Ok(messages)
}

struct Read {
    mode: u32,
    bytes: Vec<u8>,
    is_unstable: bool,
}

/// Returns `None` where the file does not exist, or is not of a type that git stores.
fn read(path: &Path) -> io::Result<Option<Read>> {
    let mut last = None;
    for _ in 0..READS {
        let found = match fs::symlink_metadata(path) {
            Ok(found) => found,
            Err(error) if is_gone(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        let read = if found.is_symlink() {
            fs::read_link(path).map(|to| (found.clone(), to.as_os_str().as_bytes().to_vec(), found))
        } else if found.is_file() {
            read_file(path)
        } else {
            return Ok(None);
        };
        let (before, bytes, after) = match read {
            Ok(read) => read,
            // The file's type changed since the first call.
            Err(error) if is_gone(&error) => continue,
            Err(error) => return Err(error),
        };
        let mode = match (before.is_symlink(), before.mode() & 0o100) {
            (true, _) => 0o120_000,
            (false, 0) => 0o100_644,
            (false, _) => 0o100_755,
        };
        let fingerprint = |found: &Metadata| (found.len(), found.mtime(), found.mtime_nsec());
        let is_unstable =
            fingerprint(&before) != fingerprint(&after) || bytes.len() as u64 != after.len();
        last = Some(Read {
            mode,
            bytes,
            is_unstable,
        });
        if !is_unstable {
            break;
        }
    }
    Ok(last)
}

fn read_file(path: &Path) -> io::Result<(Metadata, Vec<u8>, Metadata)> {
    let mut file = open_no_follow(path)?;
    let before = file.metadata()?;
    let mut bytes = Vec::new();
    // A file that grows for ever is read up to its size at the first call.
    (&mut file).take(before.len() + 1).read_to_end(&mut bytes)?;
    let after = file.metadata()?;
    Ok((before, bytes, after))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::time::Instant;

    use super::*;
    use crate::git::Repository;
    use testing::wait::FOREVER;

    #[test]
    fn files_are_read_without_git_as_git_would_and_vanished_ones_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let workspace = fs::canonicalize(dir.path()).unwrap().join("w");
        fs::create_dir(&workspace).unwrap();
        let plain = |arguments: &[&str]| {
            let output = crate::git::command(&workspace)
                .args(arguments)
                .output()
                .unwrap();
            assert!(output.status.success(), "{arguments:?}: {output:?}");
            String::from_utf8(output.stdout).unwrap()
        };
        plain(&["init", "-q"]);
        fs::write(workspace.join("a"), "one\r\n").unwrap();
        fs::write(workspace.join("with\nline"), "two\n").unwrap();
        symlink("a", workspace.join("link")).unwrap();
        fs::write(workspace.join("gone"), "three\n").unwrap();
        plain(&["add", "gone"]);
        fs::remove_file(workspace.join("gone")).unwrap();

        let until = Instant::now() + FOREVER;
        let repository = Repository::find(&workspace, until).unwrap().unwrap();
        let shadow = ShadowGitDir::open(&dir.path().join("side"), &repository).unwrap();
        let index = shadow.file("test.index");
        fs::copy(workspace.join(".git/index"), &index).unwrap();
        let git = Git::files(&shadow, until).on_index(&index);
        let paths = ["a", "with\nline", "link", "gone"].map(|path| path.as_bytes().to_vec());
        assert_eq!(add(&git, &shadow, &paths, 20).unwrap(), [""; 0]);
        let tree = git.line(&["write-tree"], Vec::new()).unwrap();
        fs::remove_file(workspace.join(".git/index")).unwrap();
        plain(&["-c", "core.autocrlf=false", "add", "-A"]);
        assert_eq!(tree, plain(&["write-tree"]).trim());
    }
}
