//! Fingerprint of the backed-up tree, to skip a backup when nothing has changed.
//!
//! It is a hash of the names, sizes and times of all files in a backup, without starting a process
//! or opening a file.

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash as _, Hasher as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::include;
use super::{Settings, Stop};
use sys::error::{Context as _, Result};

/// The name of the file that marks a cache directory (bford.info/cachedir).
const CACHE_TAG: &str = "CACHEDIR.TAG";

/// The beginning of that file.
const CACHE_MARK: &[u8; 43] = b"Signature: 8a477f597d28d172789f06886806bc55";

/// Number of entries between two checks for a reason to stop.
const PIECE: u32 = 1024;

/// The result of a walk over the tree of a data directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    /// The fingerprint.
    pub fingerprint: String,
    /// Paths that are excluded because they are made again, relative to the data directory.
    pub made_again: Vec<PathBuf>,
}

/// Walks the tree and returns its fingerprint.
///
/// On one machine, the same tree has the same fingerprint; a new version of spotkeep may compute
/// another one, which costs one backup.
///
/// # Errors
/// A directory cannot be read, or there is a reason to stop.
pub fn walk(settings: &Settings, stop: &Stop) -> Result<Tree> {
    let mut walk = Walk {
        settings,
        stop,
        hasher: DefaultHasher::new(),
        seen: 0,
        made_again: Vec::new(),
    };
    // The files in a backup depend on these too.
    include::patterns(settings, &[]).hash(&mut walk.hasher);
    for part in include::parts(settings) {
        walk.visit(&part)?;
    }
    Ok(Tree {
        fingerprint: format!("{:016x}-{}", walk.hasher.finish(), walk.seen),
        made_again: walk.made_again,
    })
}

struct Walk<'a> {
    settings: &'a Settings,
    stop: &'a Stop,
    hasher: DefaultHasher,
    seen: u32,
    made_again: Vec<PathBuf>,
}

impl Walk<'_> {
    fn visit(&mut self, path: &Path) -> Result<()> {
        if include::is_made_again(path) && self.leaves_out(path) {
            return Ok(());
        }
        self.seen += 1;
        if self.seen.is_multiple_of(PIECE) {
            self.stop.check()?;
        }
        let absolute = self.settings.data_dir.absolute(path);
        let Ok(meta) = fs::symlink_metadata(&absolute) else {
            return Ok(()); // It was removed meanwhile, which the next walk finds.
        };
        path.as_os_str().as_bytes().hash(&mut self.hasher);
        // A directory's own times also change by excluded entries; its other entries are hashed.
        if meta.is_dir() {
            (meta.mode(), meta.uid(), meta.gid()).hash(&mut self.hasher);
            return self.enter(path, &absolute);
        }
        let times = (
            meta.mtime(),
            meta.mtime_nsec(),
            meta.ctime(),
            meta.ctime_nsec(),
        );
        (meta.len(), meta.ino(), times).hash(&mut self.hasher);
        Ok(())
    }

    /// Records an excluded path; returns whether to skip it. With `keep_ignored` some of it may be
    /// in the backup: then it is hashed, and a backup is made too often rather than too seldom.
    fn leaves_out(&mut self, path: &Path) -> bool {
        self.made_again.push(path.to_path_buf());
        self.settings.table.keep_ignored.is_empty() || !path.starts_with("workspaces")
    }

    fn enter(&mut self, path: &Path, absolute: &Path) -> Result<()> {
        let entries = match fs::read_dir(absolute) {
            Ok(entries) => entries,
            // The backup itself reports it.
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => return Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", absolute.display()));
            }
        };
        let mut names: Vec<_> = entries
            .filter_map(|entry| Some(entry.ok()?.file_name()))
            .collect();
        let is_cache =
            names.iter().any(|name| name == CACHE_TAG) && is_tag(&absolute.join(CACHE_TAG));
        if is_cache && self.leaves_out(path) {
            return Ok(());
        }
        names.sort_unstable();
        for name in names {
            self.visit(&path.join(name))?;
        }
        Ok(())
    }
}

/// Whether a file begins like a cache mark.
fn is_tag(path: &Path) -> bool {
    use std::io::Read as _;
    let mut head = [0; CACHE_MARK.len()];
    sys::files::open_no_follow(path)
        .and_then(|mut file| file.read_exact(&mut head))
        .is_ok_and(|()| head == *CACHE_MARK)
}

#[cfg(test)]
mod tests {
    use super::*;
    use state::config::Config;
    use state::layout::DataDir;

    #[test]
    fn only_changes_of_files_in_a_backup_change_the_fingerprint() {
        let dir = tempfile::tempdir().unwrap();
        let (data_dir, _) = DataDir::init(dir.path()).unwrap();
        Config::lay_down(&data_dir.config(), &data_dir.config_copy(), false).unwrap();
        let work = data_dir.dir().join("workspaces/a");
        for name in ["target", "src", "cached", ".git/refs/heads"] {
            fs::create_dir_all(work.join(name)).unwrap();
        }
        fs::write(work.join("cached/CACHEDIR.TAG"), CACHE_MARK).unwrap();
        fs::create_dir(work.join("plain")).unwrap();
        fs::write(work.join("plain/CACHEDIR.TAG"), "no mark of one").unwrap();
        fs::write(work.join("src/x"), "1").unwrap();
        let settings = Settings::load(&data_dir).unwrap();
        let now = || walk(&settings, &Stop::never()).unwrap().fingerprint;
        let before = now();
        fs::write(work.join("target/o"), "1").unwrap();
        fs::write(work.join("cached/o"), "1").unwrap();
        fs::write(data_dir.dir().join("session-state/backup.json"), "{}").unwrap();
        assert_eq!(now(), before);
        let mut last = before;
        for path in ["src/x", "new", "plain/x", ".git/refs/heads/target"] {
            fs::write(work.join(path), "22").unwrap();
            let next = now();
            assert_ne!(next, last, "{path}");
            last = next;
        }
        fs::remove_file(work.join("src/x")).unwrap();
        assert_ne!(now(), last);
    }
}
