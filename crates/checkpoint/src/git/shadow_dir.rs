//! The shadow git directory: spotkeep's own, beside the repository's.
//!
//! It has the repository's objects, and spotkeep's configuration and indexes.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::Repository;
use sys::error::{Context as _, Result};
use sys::files::{create_private_dir, write_whole};

/// Attributes that disable every conversion: files go into objects byte for byte, and come back the
/// same. This file has precedence over every `.gitattributes`.
const ATTRIBUTES: &str = "* -text -eol -crlf -ident -filter -working-tree-encoding\n";

/// Largest size in bytes of a file of ignore patterns that is used.
const PATTERNS_MAX: u64 = 1 << 20;

/// spotkeep's own git directory for a workspace.
#[derive(Debug, Clone)]
pub struct ShadowGitDir {
    /// Its path.
    pub dir: PathBuf,
    /// The workspace.
    pub work_tree: PathBuf,
    /// The repository's directory of objects.
    pub objects: PathBuf,
}

impl ShadowGitDir {
    /// Creates it at `dir`, or updates it. Locks in it are of processes that have ended, since the
    /// caller holds the target's lock.
    ///
    /// # Errors
    /// The disk is full or missing.
    pub fn open(dir: &Path, repository: &Repository) -> Result<Self> {
        for name in ["objects", "refs", "info"] {
            create_private_dir(&dir.join(name))?;
        }
        for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
            let path = entry?.path();
            if path
                .extension()
                .is_some_and(|kind| kind == "lock" || kind == "tmp")
            {
                fs::remove_file(&path).ok();
            }
        }
        let shadow = Self {
            dir: dir.to_path_buf(),
            work_tree: repository.work_tree.clone(),
            objects: repository.common_dir.join("objects"),
        };
        let settings = &repository.settings;
        let mut config = format!(
            "[core]\n\trepositoryformatversion = 1\n\tbare = false\n\tfilemode = {}\n",
            settings.file_mode
        );
        if let Some(path) = settings
            .excludes_file
            .as_deref()
            .filter(|path| is_patterns(path))
        {
            config += &format!("\texcludesFile = {}\n", quoted(path));
        }
        if settings.oid_length == 32 {
            config += "[extensions]\n\tobjectFormat = sha256\n";
        }
        // Without the checksum, writing a large index takes half of the time; no other program
        // reads this index.
        config += "[index]\n\tskipHash = true\n";
        let exclude = repository.common_dir.join("info/exclude");
        let exclude = if is_patterns(&exclude) {
            fs::read(&exclude).unwrap_or_default()
        } else {
            Vec::new()
        };
        shadow.write("config", config.as_bytes())?;
        shadow.write("info/attributes", ATTRIBUTES.as_bytes())?;
        shadow.write("info/exclude", &exclude)?;
        common(dir, repository)?;
        if !shadow.file("HEAD").exists() {
            shadow.set_head(None)?;
        }
        Ok(shadow)
    }

    /// Sets HEAD for the next commands: a commit, or none.
    ///
    /// # Errors
    /// The disk is full or missing.
    pub fn set_head(&self, commit: Option<&str>) -> Result<()> {
        let text = match commit {
            Some(oid) => format!("{oid}\n"),
            None => "ref: refs/heads/none\n".to_owned(),
        };
        self.write("HEAD", text.as_bytes())
    }

    /// Copies the other parts of the repository's split index here, where git searches them.
    ///
    /// # Errors
    /// The disk is full or missing.
    pub fn share_index(&self, repository: &Repository) -> Result<()> {
        let entries = fs::read_dir(&repository.git_dir).context("cannot read the git directory")?;
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            if name.to_string_lossy().starts_with("sharedindex.") && entry.file_type()?.is_file() {
                fs::copy(entry.path(), self.dir.join(name))
                    .context("cannot copy a shared index")?;
            }
        }
        Ok(())
    }

    /// Returns the directory that replaces the repository's common directory when refs are written.
    #[must_use]
    pub fn common(&self) -> PathBuf {
        self.file("common")
    }

    /// Returns the path of a file in it.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.file(name);
        let write = || -> io::Result<()> {
            if fs::read(&path).is_ok_and(|found| found == bytes) {
                return Ok(());
            }
            fs::write(&path, bytes)
        };
        write().with_context(|| format!("cannot write {}", path.display()))
    }
}

/// Creates the directory that replaces the repository's common directory when refs are written, in
/// a shadow git directory at `dir`: spotkeep's configuration, and no hook. git finds the refs
/// themselves through the git directory, whatever this one is. (measured)
///
/// # Errors
/// The disk is full or missing.
pub fn common(dir: &Path, repository: &Repository) -> Result<PathBuf> {
    let common = dir.join("common");
    create_private_dir(&common.join("refs"))?;
    let settings = &repository.settings;
    let mut config = "[core]\n\trepositoryformatversion = 1\n".to_owned();
    if settings.oid_length == 32 {
        config += "[extensions]\n\tobjectFormat = sha256\n";
    }
    if settings.reftable {
        config += "[extensions]\n\trefStorage = reftable\n";
    }
    if settings.is_sparse {
        config += "[core]\n\tsparseCheckout = true\n";
    }
    let path = common.join("config");
    if !fs::read(&path).is_ok_and(|found| found == config.as_bytes()) {
        write_whole(&path, config.as_bytes())?;
    }
    Ok(common)
}

/// Whether it is a regular file of a plausible size: a pipe would never end.
fn is_patterns(path: &Path) -> bool {
    // A line end in its name would begin another setting in spotkeep's configuration.
    let is_plain = path
        .to_str()
        .is_some_and(|path| !path.contains(char::is_control));
    is_plain && fs::metadata(path).is_ok_and(|found| found.is_file() && found.len() <= PATTERNS_MAX)
}

/// Returns a path quoted for git's configuration files.
fn quoted(path: &Path) -> String {
    let text = path.to_string_lossy();
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}
