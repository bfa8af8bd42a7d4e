//! Safe directory access for root in places that other users can write to.
//!
//! Each directory is opened without following a link, checked, and changed through the open handle.
//! A directory that is swapped in between is not changed.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};

use crate::error::{Context as _, Result, bail, ensure};

/// Flags to open a directory for reading, but not a link.
const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Largest size of a state file, in bytes.
const FILE_LIMIT: u64 = 1 << 20;

/// Owner and permissions of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ownership {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// The twelve permission bits.
    pub mode: u32,
}

/// A directory that is held open.
#[derive(Debug)]
pub struct Dir {
    fd: OwnedFd,
    path: PathBuf,
}

/// Type of an entry in a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// It does not exist.
    Absent,
    /// A symbolic link.
    Link,
    /// A directory.
    Directory(Ownership),
    /// Any other type.
    Other(Ownership),
}

impl Dir {
    /// Opens an absolute path, of which no part may be a link.
    ///
    /// # Errors
    /// A part of it is missing, is a link, or is not a directory.
    pub fn open(path: &Path) -> Result<Self> {
        ensure!(path.is_absolute(), "{} is not absolute", path.display());
        let top = rustix::fs::open("/", DIRECTORY, Mode::empty()).context("cannot open /")?;
        let mut dir = Self {
            fd: top,
            path: PathBuf::from("/"),
        };
        for part in path.components() {
            match part {
                Component::RootDir => {}
                Component::Normal(name) => dir = dir.child(name)?,
                _ => bail!("{} is not a plain path", path.display()),
            }
        }
        Ok(dir)
    }

    /// Opens a directory in this one.
    ///
    /// # Errors
    /// It is missing, is a link, or is not a directory.
    pub fn child(&self, name: impl AsRef<OsStr>) -> Result<Self> {
        let name = name.as_ref();
        let path = self.path.join(name);
        match rustix::fs::openat(&self.fd, name, DIRECTORY, Mode::empty()) {
            Ok(fd) => Ok(Self { fd, path }),
            Err(Errno::LOOP | Errno::NOTDIR) => {
                bail!("{} is a link or not a directory", path.display())
            }
            Err(error) => Err(error).with_context(|| format!("cannot open {}", path.display())),
        }
    }

    /// Returns the type of an entry.
    ///
    /// # Errors
    /// It cannot be accessed.
    pub fn entry(&self, name: impl AsRef<OsStr>) -> Result<Entry> {
        let name = name.as_ref();
        match rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => {
                let ownership = ownership(&stat);
                Ok(match FileType::from_raw_mode(stat.st_mode) {
                    FileType::Symlink => Entry::Link,
                    FileType::Directory => Entry::Directory(ownership),
                    _ => Entry::Other(ownership),
                })
            }
            Err(Errno::NOENT) => Ok(Entry::Absent),
            Err(error) => Err(error)
                .with_context(|| format!("cannot access {}", self.path.join(name).display())),
        }
    }

    /// Creates a directory that was absent, with access for its owner only, and opens it.
    ///
    /// # Errors
    /// The name is taken by now, or the disk is full or missing.
    pub fn make(&self, name: impl AsRef<OsStr>) -> Result<Self> {
        let name = name.as_ref();
        rustix::fs::mkdirat(&self.fd, name, Mode::RWXU)
            .with_context(|| format!("cannot create {}", self.path.join(name).display()))?;
        self.child(name)
    }

    /// Returns the owner and permissions of this directory.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn ownership(&self) -> Result<Ownership> {
        Ok(ownership(&rustix::fs::fstat(&self.fd).with_context(
            || format!("cannot access {}", self.path.display()),
        )?))
    }

    /// Changes owner and permissions of this directory, but not of its content.
    ///
    /// # Errors
    /// There is no permission, or the change failed.
    pub fn chown(&self, to: Ownership) -> Result<()> {
        let give = || -> rustix::io::Result<()> {
            let (uid, gid) = (Uid::from_raw(to.uid), Gid::from_raw(to.gid));
            rustix::fs::fchown(&self.fd, Some(uid), Some(gid))?;
            // Set after the owner: changing the owner clears bits.
            rustix::fs::fchmod(&self.fd, Mode::from_raw_mode(to.mode))
        };
        give().with_context(|| format!("cannot change the owner of {}", self.path.display()))
    }

    /// Returns the names of its entries, sorted.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn names(&self) -> Result<Vec<String>> {
        let read = || -> rustix::io::Result<Vec<String>> {
            let mut names = Vec::new();
            for entry in rustix::fs::Dir::read_from(&self.fd)? {
                let name = entry?.file_name().to_string_lossy().into_owned();
                if name != "." && name != ".." {
                    names.push(name);
                }
            }
            names.sort();
            Ok(names)
        };
        read().with_context(|| format!("cannot read {}", self.path.display()))
    }

    /// Reads a small regular file; `None` where there is none. A link is an error.
    ///
    /// # Errors
    /// It is a link, is not a regular file, is too large, or cannot be read.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let path = self.path.join(name);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&self.fd, name, flags, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot open {}", path.display()));
            }
        };
        ensure!(
            file.metadata()?.is_file(),
            "{} is not a regular file",
            path.display()
        );
        let mut bytes = Vec::new();
        file.take(FILE_LIMIT + 1).read_to_end(&mut bytes)?;
        ensure!(
            bytes.len() as u64 <= FILE_LIMIT,
            "{} is too large",
            path.display()
        );
        Ok(Some(bytes))
    }

    /// Replaces a file: `fill` writes a temporary file, which gets its mode, is synced and renamed;
    /// then the directory is synced.
    ///
    /// # Errors
    /// A step failed, or `fill` did; the old content is then still there.
    pub fn replace(
        &self,
        name: &str,
        mode: u32,
        fill: impl FnOnce(&mut File) -> Result<()>,
    ) -> Result<()> {
        let path = self.path.join(name);
        let draft = format!(".{name}.spotkeep-new");
        let write = || -> Result<()> {
            match rustix::fs::unlinkat(&self.fd, &draft, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
            let flags =
                OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let fd = rustix::fs::openat(&self.fd, &draft, flags, Mode::RUSR | Mode::WUSR)?;
            let mut file = File::from(fd);
            fill(&mut file)?;
            rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?;
            file.flush()?;
            file.sync_all()?;
            rustix::fs::renameat(&self.fd, &draft, &self.fd, name)?;
            self.sync()
        };
        write()
            .inspect_err(|_| {
                rustix::fs::unlinkat(&self.fd, &draft, AtFlags::empty()).ok();
            })
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// Renames within this directory, and never replaces an entry.
    ///
    /// # Errors
    /// The new name is taken, or the rename failed.
    pub fn rename(&self, from: &str, to: &str) -> Result<()> {
        let flags = rustix::fs::RenameFlags::NOREPLACE;
        rustix::fs::renameat_with(&self.fd, from, &self.fd, to, flags)
            .with_context(|| format!("cannot rename {}", self.path.join(from).display()))?;
        self.sync()
    }

    /// Creates a symbolic link that was absent.
    ///
    /// # Errors
    /// The name is taken by now, or the disk is full or missing.
    pub fn link(&self, name: impl AsRef<OsStr>, target: &Path) -> Result<()> {
        let name = name.as_ref();
        rustix::fs::symlinkat(target, &self.fd, name)
            .with_context(|| format!("cannot make the link {}", self.path.join(name).display()))?;
        self.sync()
    }

    /// Makes its entries durable.
    ///
    /// # Errors
    /// The sync failed.
    pub fn sync(&self) -> Result<()> {
        rustix::fs::fsync(self.fd.as_fd())
            .with_context(|| format!("cannot sync {}", self.path.display()))
    }

    /// Returns its path when it was opened.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Renames, and never replaces anything.
///
/// # Errors
/// `to` exists, or the rename failed.
pub fn rename_new(from: &Path, to: &Path) -> std::io::Result<()> {
    let flags = rustix::fs::RenameFlags::NOREPLACE;
    Ok(rustix::fs::renameat_with(
        rustix::fs::CWD,
        from,
        rustix::fs::CWD,
        to,
        flags,
    )?)
}

fn ownership(stat: &rustix::fs::Stat) -> Ownership {
    Ownership {
        uid: stat.st_uid,
        gid: stat.st_gid,
        mode: stat.st_mode & 0o7777,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_link_anywhere_on_the_way_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let base = fs::canonicalize(dir.path()).unwrap();
        fs::create_dir_all(base.join("real/inner")).unwrap();
        std::os::unix::fs::symlink(base.join("real"), base.join("link")).unwrap();
        assert!(Dir::open(&base.join("real/inner")).is_ok());
        let error = Dir::open(&base.join("link/inner")).unwrap_err();
        assert!(error.to_string().contains("is a link"), "{error}");
        assert!(Dir::open(&base.join("real/../real")).is_err());
        let at = Dir::open(&base).unwrap();
        assert_eq!(at.entry("link").unwrap(), Entry::Link);
        assert!(at.make("link").is_err(), "made through a link");
    }

    #[test]
    fn what_is_swapped_in_after_opening_is_not_touched() {
        let dir = tempfile::tempdir().unwrap();
        let base = fs::canonicalize(dir.path()).unwrap();
        fs::create_dir(base.join("victim")).unwrap();
        fs::set_permissions(
            base.join("victim"),
            std::os::unix::fs::PermissionsExt::from_mode(0o700),
        )
        .unwrap();
        let made = Dir::open(&base).unwrap().make("a").unwrap();
        fs::rename(base.join("a"), base.join("b")).unwrap();
        std::os::unix::fs::symlink(base.join("victim"), base.join("a")).unwrap();
        let mine = made.ownership().unwrap();
        made.chown(Ownership {
            mode: 0o755,
            ..mine
        })
        .unwrap();
        let mode = |name: &str| {
            use std::os::unix::fs::PermissionsExt as _;
            fs::metadata(base.join(name)).unwrap().permissions().mode() & 0o777
        };
        assert_eq!((mode("victim"), mode("b")), (0o700, 0o755));
    }

    #[test]
    fn a_planted_file_link_is_neither_read_nor_written_through() {
        let dir = tempfile::tempdir().unwrap();
        let base = fs::canonicalize(dir.path()).unwrap();
        fs::write(base.join("secret"), "s").unwrap();
        std::os::unix::fs::symlink(base.join("secret"), base.join("f")).unwrap();
        std::os::unix::fs::symlink(base.join("secret"), base.join(".f.spotkeep-new")).unwrap();
        let at = Dir::open(&base).unwrap();
        assert!(at.read("f").is_err());
        at.replace("f", 0o644, |file| Ok(file.write_all(b"new")?))
            .unwrap();
        assert_eq!(fs::read_to_string(base.join("secret")).unwrap(), "s");
        assert_eq!(at.read("f").unwrap().unwrap(), b"new");
        assert_eq!(at.read("gone").unwrap(), None);
    }

    #[test]
    fn a_rename_never_replaces() {
        let dir = tempfile::tempdir().unwrap();
        let base = fs::canonicalize(dir.path()).unwrap();
        fs::write(base.join("a"), "a").unwrap();
        fs::write(base.join("b"), "b").unwrap();
        assert!(Dir::open(&base).unwrap().rename("a", "b").is_err());
        assert!(rename_new(&base.join("a"), &base.join("b")).is_err());
        rename_new(&base.join("a"), &base.join("c")).unwrap();
        assert_eq!(fs::read_to_string(base.join("b")).unwrap(), "b");
    }
}
