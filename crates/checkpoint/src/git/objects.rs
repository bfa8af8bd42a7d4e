//! Reads and writes git objects in batches.

use std::collections::HashMap;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use super::Git;
use sys::error::{Context as _, Result, ensure};
use sys::files::create_private_dir;

/// Returns the name of the tree without entries, which always exists.
#[must_use]
pub fn empty_tree(oid_length: usize) -> &'static str {
    if oid_length == 32 {
        "6ef19b41225c5369f1c104d45d8d85efa9b057b53b14b4b9b939dd74decc5321"
    } else {
        "4b825dc642cb6eb9a060e54bf8d69288fbee4904"
    }
}

/// Returns the object name of only zeros, which means no object.
#[must_use]
pub fn none(oid_length: usize) -> String {
    "0".repeat(oid_length * 2)
}

/// Whether a text is the full name of an object.
#[must_use]
pub fn is_oid(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// An existing object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Its full name.
    pub oid: String,
    /// `commit`, `tree`, `blob` or `tag`.
    pub kind: String,
    /// Its size in bytes.
    pub size: u64,
}

/// Looks up names; names of no object, or of one that cannot be read, are left out. Every line of
/// the output is read: git's exit status does not report a damaged object.
///
/// # Errors
/// git failed.
pub fn look_up<S: AsRef<str>>(git: &Git, names: &[S]) -> Result<HashMap<String, Object>> {
    if names.is_empty() {
        return Ok(HashMap::new());
    }
    let mut input = String::new();
    for name in names {
        input.push_str(name.as_ref());
        input.push('\n');
    }
    let answer = git.run(&["cat-file", "--batch-check"], input.into_bytes())?;
    let answer = String::from_utf8_lossy(&answer);
    let lines: Vec<&str> = answer.lines().collect();
    ensure!(
        lines.len() == names.len(),
        "git cat-file returned {} of {} results",
        lines.len(),
        names.len()
    );
    let object = |line: &str| {
        let mut words = line.split(' ');
        let oid = words.next().filter(|oid| is_oid(oid))?.to_owned();
        let kind = words.next()?.to_owned();
        let size = words.next()?.parse().ok()?;
        Some(Object { oid, kind, size })
    };
    Ok(names
        .iter()
        .zip(lines)
        .filter_map(|(name, line)| Some((name.as_ref().to_owned(), object(line)?)))
        .collect())
}

/// Writes contents as objects, byte for byte, all at once, through files in `dir`, which is
/// spotkeep's and is removed again.
///
/// # Errors
/// The disk is full, or git failed.
pub fn write(git: &Git, dir: &Path, contents: &[&[u8]]) -> Result<Vec<String>> {
    let mut copies = Copies::new(dir)?;
    for bytes in contents {
        copies.add(bytes)?;
    }
    copies.write(git)
}

/// Writes a tree of trees, whose names have to be in order. Not with `git mktree`, since that
/// ignores `core.fsync`.
///
/// # Errors
/// The disk is full, or git failed.
pub fn write_tree(git: &Git, entries: &[(&str, &str)]) -> Result<String> {
    let mut bytes = Vec::new();
    for (name, oid) in entries {
        ensure!(is_oid(oid), "\"{oid}\" is not a tree");
        bytes.extend_from_slice(format!("40000 {name}\0").as_bytes());
        for at in (0..oid.len()).step_by(2) {
            bytes.push(u8::from_str_radix(&oid[at..at + 2], 16).context("not an object name")?);
        }
    }
    git.line(&["hash-object", "-w", "-t", "tree", "--stdin"], bytes)
}

/// Temporary copies of file contents, from which objects are written.
pub struct Copies<'a> {
    dir: &'a Path,
    count: usize,
}

impl<'a> Copies<'a> {
    /// Creates an empty set of copies in `dir`.
    ///
    /// # Errors
    /// The directory cannot be created.
    pub fn new(dir: &'a Path) -> Result<Self> {
        create_private_dir(dir)?;
        Ok(Self { dir, count: 0 })
    }

    /// Adds a copy.
    ///
    /// # Errors
    /// The disk is full.
    pub fn add(&mut self, bytes: &[u8]) -> Result<()> {
        let path = self.dir.join(self.count.to_string());
        self.count += 1;
        fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Writes the copies as objects, in their order.
    ///
    /// # Errors
    /// The disk is full, or git failed.
    pub fn write(self, git: &Git) -> Result<Vec<String>> {
        let paths = (0..self.count).flat_map(|at| {
            let path = self.dir.join(at.to_string());
            [path.as_os_str().as_bytes(), b"\n"].concat()
        });
        let paths: Vec<u8> = paths.collect();
        if paths.is_empty() {
            return Ok(Vec::new());
        }
        let answer = git.run(
            &["hash-object", "-w", "--no-filters", "--stdin-paths"],
            paths,
        )?;
        let names: Vec<String> = String::from_utf8_lossy(&answer)
            .lines()
            .map(str::to_owned)
            .collect();
        ensure!(
            names.len() == self.count && names.iter().all(|name| is_oid(name)),
            "git hash-object returned too few objects"
        );
        Ok(names)
    }
}

impl Drop for Copies<'_> {
    fn drop(&mut self) {
        // Files that stay behind are overwritten by the next use.
        fs::remove_dir_all(self.dir).ok();
    }
}
