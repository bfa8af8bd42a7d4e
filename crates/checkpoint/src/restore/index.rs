//! Makes a staged index from a checkpoint, and replaces the agent's index with it.
//!
//! It is replaced the way git does it: under the index's lock, by a rename.

use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use crate::capture::index::{INDEX_INFO, Special, line};
use crate::git::{Git, Repository, ShadowGitDir, objects};
use sys::error::{Context as _, Hint as _, Result, anyhow};
use sys::files::{create_private_dir, sync_dir};

/// File name of the staged index.
const STAGED: &str = "prepared.index";

/// The lock on the agent's index: while it is held, no git process of the agent changes the index.
#[derive(Debug)]
pub(crate) struct IndexLock {
    path: PathBuf,
    index: PathBuf,
    file: File,
}

impl IndexLock {
    /// Acquires the lock.
    ///
    /// # Errors
    /// Another process holds it.
    pub fn acquire(repository: &Repository) -> Result<Self> {
        let path = repository.git_dir.join("index.lock");
        match File::options().write(true).create_new(true).open(&path) {
            Ok(file) => Ok(Self {
                index: repository.git_dir.join("index"),
                path,
                file,
            }),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(anyhow!(
                "{} exists: a git process runs in {}, or died there",
                path.display(),
                repository.work_tree.display()
            ))
            .hint(format!("when no git runs there: rm {}", path.display())),
            Err(error) => Err(error).with_context(|| format!("cannot create {}", path.display())),
        }
    }

    /// Replaces the index with `staged`, and releases the lock.
    pub fn replace(mut self, staged: &Path) -> Result<()> {
        let replace = |lock: &mut Self| -> io::Result<()> {
            let mut source = File::open(staged)?;
            io::copy(&mut source, &mut lock.file)?;
            // git takes an entry for unchanged only if its file is older than the index.
            lock.file.set_modified(source.metadata()?.modified()?)?;
            lock.file.sync_all()?;
            fs::rename(&lock.path, &lock.index)?;
            sync_dir(lock.index.parent().unwrap_or(Path::new("/")))
        };
        replace(&mut self).with_context(|| format!("cannot write {}", self.index.display()))
    }
}

impl Drop for IndexLock {
    fn drop(&mut self) {
        // After the rename the lock file is gone, and that of another process has another inode.
        let is_ours = || -> io::Result<bool> {
            use std::os::unix::fs::MetadataExt as _;
            Ok(fs::symlink_metadata(&self.path)?.ino() == self.file.metadata()?.ino())
        };
        if is_ours().unwrap_or(false) {
            fs::remove_file(&self.path).ok();
        }
    }
}

/// Makes an index of the tree `staged` and the entries that a tree cannot represent. Stat data come
/// from `disk`, an index that is up to date with the files.
pub(crate) fn prepare(
    git: &Git,
    shadow: &ShadowGitDir,
    disk: &Path,
    staged: &str,
    specials: &[Special],
    oid_length: usize,
) -> Result<PathBuf> {
    let path = shadow.file(STAGED);
    fs::copy(disk, &path).context("cannot copy spotkeep's index")?;
    let git = git.on_index(&path);
    git.run(&["read-tree", "-m", staged], Vec::new())?;
    let none = objects::none(oid_length);
    let in_conflict = specials.iter().filter(|entry| entry.stage > 0);
    let out = in_conflict
        .clone()
        .flat_map(|entry| line(0, &none, 0, &entry.path));
    let stages =
        in_conflict.flat_map(|entry| line(entry.mode, &entry.oid, entry.stage, &entry.path));
    let lines: Vec<u8> = out.chain(stages).collect();
    if !lines.is_empty() {
        git.run(&INDEX_INFO, lines)?;
    }
    add_names(&git, shadow, specials)?;
    let flags = |option: &str, is_set: fn(&Special) -> bool| {
        let paths = specials
            .iter()
            .filter(|entry| entry.stage == 0 && is_set(entry));
        let list: Vec<u8> = paths
            .flat_map(|entry| [&entry.path, &b"\0"[..]].concat())
            .collect();
        if list.is_empty() {
            return Ok(Vec::new());
        }
        git.run(&["update-index", "-z", option, "--stdin"], list)
    };
    flags("--assume-unchanged", |entry| entry.assume_unchanged)?;
    flags("--skip-worktree", |entry| entry.skip_worktree)?;
    // spotkeep's index has no checksum; the agent's has one.
    git.run(
        &[
            "-c",
            "index.skipHash=false",
            "update-index",
            "--force-write-index",
        ],
        Vec::new(),
    )?;
    Ok(path)
}

/// Adds entries that are an intent to add. git requires a file of that name, so one is created in
/// another directory: in the workspace it may be gone.
fn add_names(git: &Git, shadow: &ShadowGitDir, specials: &[Special]) -> Result<()> {
    let names: Vec<&Special> = specials
        .iter()
        .filter(|entry| entry.intent_to_add)
        .collect();
    if names.is_empty() {
        return Ok(());
    }
    let dir = shadow.file("names");
    if dir.exists() {
        fs::remove_dir_all(&dir).context("cannot clear spotkeep's directory")?;
    }
    create_private_dir(&dir)?;
    for entry in &names {
        let path = dir.join(std::ffi::OsStr::from_bytes(&entry.path));
        create_private_dir(path.parent().unwrap_or(&dir))?;
        if entry.mode == 0o120_000 {
            symlink("somewhere", &path).context("cannot make a link")?;
        } else {
            fs::write(&path, b"")?;
            fs::set_permissions(&path, fs::Permissions::from_mode(entry.mode & 0o777))?;
        }
    }
    let list = names
        .iter()
        .flat_map(|entry| [&entry.path, &b"\0"[..]].concat())
        .collect();
    let git = git.with("GIT_WORK_TREE", &dir).within(&dir);
    git.run(
        &[
            "add",
            "-N",
            "-f",
            "--pathspec-from-file=-",
            "--pathspec-file-nul",
        ],
        list,
    )?;
    fs::remove_dir_all(&dir).context("cannot clear spotkeep's directory")?;
    Ok(())
}
