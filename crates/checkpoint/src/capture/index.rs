//! Snapshots of a repository's git index for capturing a checkpoint.
//!
//! The agent's index is read once, as a whole, and copied to files that spotkeep's own git may
//! change.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::git::index::{self, IndexKind};
use crate::git::{Git, Repository, ShadowGitDir, objects};
use sys::error::{Context as _, Result};

/// File name of spotkeep's index of the worktree, kept from one checkpoint to the next.
pub(crate) const WORKTREE: &str = "worktree.index";
/// File name of the [`Memory`](super::Memory) of the last checkpoint.
pub(crate) const MEMORY: &str = "memory.json";
/// File name of the copy of the agent's index, for staged content.
pub(crate) const STAGED: &str = "staged.index";
/// File name of a scratch index for intermediate trees.
pub(crate) const SCRATCH: &str = "scratch.index";

/// Identity of a version of the index file: while it is the same, so is the staged content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fingerprint {
    length: u64,
    /// Modification time in nanoseconds since 1970.
    modified: i64,
    inode: u64,
    /// The last bytes of the file: git's checksum over all of it.
    trailer: Vec<u8>,
}

/// The index file at one moment. git replaces it by a rename, so the bytes read are a whole index.
#[derive(Debug)]
pub(crate) struct IndexSnapshot {
    pub fingerprint: Option<Fingerprint>,
    file: Option<(File, SystemTime)>,
}

impl IndexSnapshot {
    /// Opens the index of a repository; without an index file nothing is staged.
    pub fn open(repository: &Repository) -> Result<Self> {
        let path = repository.git_dir.join("index");
        let open = || -> io::Result<(File, SystemTime, Fingerprint)> {
            use std::os::unix::fs::FileExt as _;
            let file = sys::files::open_no_follow(&path)?;
            let found = file.metadata()?;
            if !found.is_file() {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            let mut trailer = vec![0; 32.min(usize::try_from(found.len()).unwrap_or(32))];
            let at = found.len() - trailer.len() as u64;
            file.read_exact_at(&mut trailer, at)?;
            let fingerprint = Fingerprint {
                length: found.len(),
                modified: found.mtime() * 1_000_000_000 + found.mtime_nsec(),
                inode: found.ino(),
                trailer,
            };
            Ok((file, found.modified()?, fingerprint))
        };
        match open() {
            Ok((file, modified, fingerprint)) => Ok(Self {
                fingerprint: Some(fingerprint),
                file: Some((file, modified)),
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self {
                fingerprint: None,
                file: None,
            }),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }
}

/// An index entry that a tree object cannot represent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Special {
    pub path: Vec<u8>,
    pub mode: u32,
    pub oid: String,
    pub stage: u8,
    pub assume_unchanged: bool,
    pub skip_worktree: bool,
    pub intent_to_add: bool,
}

/// The content of an index that a checkpoint uses.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    pub specials: Vec<Special>,
    /// Paths of submodules and of other commits of another repository (gitlinks).
    pub gitlinks: Vec<Vec<u8>>,
    /// Paths of `.gitattributes`.
    pub attributes: Vec<Vec<u8>>,
    /// Whether the index cannot be read, so that the staged content is not known.
    pub lost: bool,
    /// The bytes of the index, where it can be read.
    pub bytes: Vec<u8>,
}

impl Scan {
    /// Copies the agent's index to both working indexes, with its modification time: git takes an
    /// entry for unchanged only if its file is older than the index. Where the index is damaged,
    /// the copy is made from HEAD.
    pub fn run(
        snapshot: IndexSnapshot,
        shadow: &ShadowGitDir,
        repository: &Repository,
        head: Option<&str>,
        git: &Git,
    ) -> Result<Self> {
        let (worktree, staged) = (shadow.file(WORKTREE), shadow.file(STAGED));
        for path in [&worktree, &staged] {
            remove(path)?;
        }
        let Some((mut file, modified)) = snapshot.file else {
            return Ok(Self::default());
        };
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)
            .context("cannot read the index")?;
        let oid_length = repository.settings.oid_length;
        let mut kind = index::read(&bytes, oid_length, |_| ());
        if kind.is_some() {
            place(&worktree, &bytes, modified)?;
        }
        if kind == Some(IndexKind::Partial) {
            // The rest of a split index is in a file beside it. git rewrites the index as a whole,
            // with all its stat data.
            shadow.share_index(repository)?;
            let whole = git
                .on_index(&worktree)
                .run(&["update-index", "--force-write-index"], Vec::new());
            bytes = match whole {
                Ok(_) => fs::read(&worktree).context("cannot read spotkeep's index")?,
                Err(_) => Vec::new(),
            };
            kind = index::read(&bytes, oid_length, |_| ());
        }
        if kind != Some(IndexKind::Whole) {
            if let Some(head) = head {
                git.on_index(&worktree)
                    .run(&["read-tree", head], Vec::new())?;
                git.on_index(&staged)
                    .run(&["read-tree", head], Vec::new())?;
            }
            return Ok(Self {
                lost: true,
                ..Self::default()
            });
        }
        let modified = fs::metadata(&worktree).and_then(|found| found.modified());
        place(
            &staged,
            &bytes,
            modified.context("cannot read spotkeep's index")?,
        )?;
        Ok(Self::read(bytes, oid_length))
    }

    fn read(bytes: Vec<u8>, oid_length: usize) -> Self {
        let mut scan = Self::default();
        index::read(&bytes, oid_length, |entry| {
            let is_special = entry.stage > 0
                || entry.assume_unchanged
                || entry.skip_worktree
                || entry.intent_to_add;
            if is_special {
                scan.specials.push(Special {
                    path: entry.path.to_vec(),
                    mode: entry.mode,
                    oid: entry.hex(),
                    stage: entry.stage,
                    assume_unchanged: entry.assume_unchanged,
                    skip_worktree: entry.skip_worktree,
                    intent_to_add: entry.intent_to_add,
                });
            }
            if entry.mode == 0o160_000 && scan.gitlinks.last().is_none_or(|last| last != entry.path)
            {
                scan.gitlinks.push(entry.path.to_vec());
            }
            if entry.path.ends_with(b".gitattributes") {
                scan.attributes.push(entry.path.to_vec());
            }
        });
        scan.bytes = bytes;
        scan
    }
}

/// The staged content as objects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Staged {
    pub tree: String,
    /// Object name of a blob: the special entries, as [`entry_line`] writes them.
    pub entries: Option<String>,
    /// Object name of a tree of `1/…`, `2/…`, `3/…`: the stages of paths in a conflict.
    pub stages: Option<String>,
}

impl Staged {
    /// Writes the staged content as objects.
    pub fn write(scan: &Scan, shadow: &ShadowGitDir, git: &Git, oid_length: usize) -> Result<Self> {
        let staged = git.on_index(&shadow.file(STAGED));
        let in_conflict: Vec<&Special> = scan
            .specials
            .iter()
            .filter(|entry| entry.stage > 0)
            .collect();
        let mut stages = None;
        if !in_conflict.is_empty() {
            let none = objects::none(oid_length);
            let gone = in_conflict
                .iter()
                .flat_map(|entry| line(0, &none, 0, &entry.path));
            staged.run(&INDEX_INFO, gone.collect())?;
            remove(&shadow.file(SCRATCH))?;
            let scratch = git.on_index(&shadow.file(SCRATCH));
            let apart = in_conflict.iter().flat_map(|entry| {
                let path = [entry.stage.to_string().as_bytes(), b"/", &entry.path].concat();
                line(entry.mode, &entry.oid, 0, &path)
            });
            scratch.run(&INDEX_INFO, apart.collect())?;
            stages = Some(scratch.line(&["write-tree", "--missing-ok"], Vec::new())?);
        }
        let entries = if scan.specials.is_empty() {
            None
        } else {
            let lines = scan.specials.iter().flat_map(entry_line).collect();
            Some(git.line(&["hash-object", "-w", "--stdin"], lines)?)
        };
        Ok(Self {
            // In a partial clone, staged objects outside of a sparse checkout may be on the remote
            // only.
            tree: staged.line(&["write-tree", "--missing-ok"], Vec::new())?,
            entries,
            stages,
        })
    }
}

/// Arguments of git that change the entries of an index as spotkeep lists them on standard input.
pub(crate) const INDEX_INFO: [&str; 3] = ["update-index", "-z", "--index-info"];

/// Returns a line for [`INDEX_INFO`]; mode 0 removes the path, at all stages.
pub(crate) fn line(mode: u32, oid: &str, stage: u8, path: &[u8]) -> Vec<u8> {
    let mut line = format!("{mode:06o} {oid} {stage}\t").into_bytes();
    line.extend_from_slice(path);
    line.push(0);
    line
}

/// Returns the stored form of a special entry: flags (`a`ssume unchanged, `s`kip worktree, `i`ntent
/// to add, or `-`), then mode, object, stage and path.
pub(crate) fn entry_line(entry: &Special) -> Vec<u8> {
    let flag = |is_set, letter| if is_set { letter } else { b'-' };
    let mut bytes = vec![
        flag(entry.assume_unchanged, b'a'),
        flag(entry.skip_worktree, b's'),
        flag(entry.intent_to_add, b'i'),
        b' ',
    ];
    bytes.extend(line(entry.mode, &entry.oid, entry.stage, &entry.path));
    bytes
}

/// Reads the entries that [`entry_line`] wrote.
pub(crate) fn read_entries(bytes: &[u8]) -> Vec<Special> {
    bytes
        .split(|byte| *byte == 0)
        .filter_map(|line| {
            let tab = line.iter().position(|byte| *byte == b'\t')?;
            let head = std::str::from_utf8(&line[..tab]).ok()?;
            let mut words = head.split(' ');
            let flags = words.next()?;
            Some(Special {
                path: line[tab + 1..].to_vec(),
                mode: u32::from_str_radix(words.next()?, 8).ok()?,
                oid: words.next()?.to_owned(),
                stage: words.next()?.parse().ok()?,
                assume_unchanged: flags.contains('a'),
                skip_worktree: flags.contains('s'),
                intent_to_add: flags.contains('i'),
            })
        })
        .collect()
}

/// Removes a file if it exists.
pub(crate) fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Writes a copy with the modification time of the original.
fn place(path: &Path, bytes: &[u8], modified: SystemTime) -> Result<()> {
    let write = || -> io::Result<()> {
        fs::write(path, bytes)?;
        File::options()
            .write(true)
            .open(path)?
            .set_modified(modified)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}
