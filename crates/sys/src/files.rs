//! Durable files: after a power cut they are whole or absent.
//!
//! A rename without an fsync is not enough: on XFS the new file is empty after a cut, and the
//! rename itself is only durable once its directory has been synced.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::error::{Context as _, Result};
use crate::failpoint::{Point, point};

/// Replaces `path` by `bytes`: temporary file, fsync, rename, fsync of the directory. Mode 0600.
///
/// # Errors
/// A step failed; the old content is then still there.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    replace(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}

fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new()
        .prefix(".spotkeep-")
        .suffix(".tmp")
        .tempfile_in(dir)?;
    file.write_all(bytes)?;
    point(Point::StateDrafted);
    file.as_file().sync_all()?;
    point(Point::StateSynced);
    file.persist(path).map_err(|error| error.error)?;
    point(Point::StateReplaced);
    sync_dir(dir)
}

/// Replaces `path` by `bytes` atomically for every reader, but without a sync: after a power cut it
/// may be empty. For copies of what is stored elsewhere. Mode 0600.
///
/// # Errors
/// The disk is full or missing.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    write_with_mode(path, bytes, 0o600)
}

/// Like [`write_whole`], for files that every user may read (0644).
///
/// # Errors
/// The disk is full or missing.
pub fn write_public(path: &Path, bytes: &[u8]) -> Result<()> {
    write_with_mode(path, bytes, 0o644)
}

fn write_with_mode(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    let write = || -> io::Result<()> {
        let mut file = tempfile::Builder::new()
            .prefix(".spotkeep-")
            .suffix(".tmp")
            .tempfile_in(dir)?;
        file.write_all(bytes)?;
        let mode = fs::Permissions::from_mode(mode);
        file.as_file().set_permissions(mode)?;
        file.persist(path).map_err(|error| error.error)?;
        Ok(())
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

/// Makes the entries of a directory durable.
///
/// # Errors
/// The directory cannot be opened or synced.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Reads a whole file; `None` where it does not exist.
///
/// # Errors
/// It exists and cannot be read.
pub fn read_optional(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Reads at most `limit` bytes from the end of a file; returns the offset at which they start, too.
///
/// # Errors
/// The file cannot be opened or read.
pub fn read_tail(path: &Path, limit: u64) -> io::Result<(u64, Vec<u8>)> {
    use std::io::{Seek as _, SeekFrom};
    let mut file = File::open(path)?;
    let start = file.metadata()?.len().saturating_sub(limit);
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok((start, bytes))
}

/// A line-oriented file that is only appended to.
#[derive(Debug)]
pub struct AppendFile {
    file: File,
    length: u64,
    /// Whether the last write failed, and may have left a part of a line behind.
    is_damaged: bool,
}

impl AppendFile {
    /// Opens or creates it (0600). A last line that was cut off is closed with a newline, so that
    /// the next line is separate.
    ///
    /// # Errors
    /// It cannot be opened or written.
    pub fn open(path: &Path) -> Result<Self> {
        let open = || -> io::Result<Self> {
            let mut file = OpenOptions::new()
                .read(true)
                .append(true)
                .create(true)
                .mode(0o600)
                .open(path)?;
            let (_, last) = read_tail(path, 1)?;
            if last.first().is_some_and(|byte| *byte != b'\n') {
                file.write_all(b"\n")?;
            }
            let length = file.metadata()?.len();
            let is_damaged = false;
            Ok(Self {
                file,
                length,
                is_damaged,
            })
        };
        open().with_context(|| format!("cannot open {}", path.display()))
    }

    /// Appends one line in one write, and makes it durable. After a line that was cut off, as on a
    /// full disk, it begins a new line.
    ///
    /// # Errors
    /// The disk is full or missing.
    pub fn append(&mut self, line: &str) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(line.len() + 2);
        if self.is_damaged {
            bytes.push(b'\n');
        }
        bytes.extend_from_slice(line.as_bytes());
        bytes.push(b'\n');
        self.is_damaged = true;
        self.file.write_all(&bytes)?;
        self.is_damaged = false;
        self.length = self.length.saturating_add(bytes.len() as u64);
        point(Point::JournalWritten);
        self.file.sync_data()
    }

    /// Returns the number of bytes in it, as far as this process wrote them.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }
}

/// Makes the bytes of a file durable; returns its length. A missing file is not an error.
///
/// # Errors
/// The sync failed.
pub fn sync_file(path: &Path) -> io::Result<Option<u64>> {
    match File::open(path) {
        Ok(file) => {
            file.sync_data()?;
            Ok(Some(file.metadata()?.len()))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Opens a file for reading, but not through a link, and without waiting for the other end of a
/// pipe.
///
/// # Errors
/// It is a link, it is missing, or there is no permission to read it.
pub fn open_no_follow(path: &Path) -> io::Result<File> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?.into())
}

/// Whether an error means that the path does not exist, or is not of the expected type: it has
/// vanished, or became a link.
#[must_use]
pub fn is_gone(error: &io::Error) -> bool {
    let is_link = error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error());
    is_link
        || matches!(
            error.kind(),
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
        )
}

/// Makes everything on the filesystem that holds `path` durable.
///
/// # Errors
/// The sync failed.
pub fn sync_filesystem(path: &Path) -> io::Result<()> {
    Ok(rustix::fs::syncfs(File::open(path)?)?)
}

/// Creates a directory and its parents (0700 where new); an existing one is left as it is.
///
/// # Errors
/// It cannot be created.
pub fn create_private_dir(path: &Path) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| format!("cannot create the directory {}", path.display()))
}

/// Returns the free bytes that an ordinary user may still use, on the filesystem that holds `path`.
///
/// # Errors
/// The path does not exist.
pub fn free_bytes(path: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Space on a filesystem: bytes and inodes, free for an ordinary user, and in total.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Bytes that are free.
    pub free: u64,
    /// Total bytes.
    pub total: u64,
    /// Inodes that are free.
    pub free_inodes: u64,
    /// Total inodes; 0 where the filesystem sets no limit.
    pub inodes: u64,
}

/// Returns the space on the filesystem that holds `path`.
///
/// # Errors
/// The path does not exist.
pub fn space(path: &Path) -> io::Result<Space> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(Space {
        free: stat.f_bavail.saturating_mul(stat.f_frsize),
        total: stat.f_blocks.saturating_mul(stat.f_frsize),
        free_inodes: stat.f_favail,
        inodes: stat.f_files,
    })
}

/// Whether `path` is a mount point: its device differs from its parent's.
///
/// # Errors
/// The path or its parent cannot be read.
pub fn is_mount_point(path: &Path) -> io::Result<bool> {
    let here = fs::metadata(path)?;
    let parent = fs::metadata(path.join(".."))?;
    Ok(here.dev() != parent.dev() || here.ino() == parent.ino())
}

/// An exclusive lock on a file, held until dropped or until the process ends.
///
/// `flock`: it excludes other processes of this machine, and has no effect on another machine.
#[derive(Debug)]
pub struct LockFile {
    file: File,
}

impl LockFile {
    /// Acquires the lock; `None` if another process holds it.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn try_take(path: &Path) -> Result<Option<Self>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .with_context(|| format!("cannot open the lock {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self { file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("cannot lock {}", path.display()))
            }
        }
    }

    /// Like [`LockFile::try_take`], for a holder that has just ended: a program that it was about
    /// to start has its descriptors, and with them the lock, until that program runs. Waits for a
    /// second at most, as long as `has_ended` returns true.
    ///
    /// # Errors
    /// Like [`LockFile::try_take`].
    pub fn take_after(path: &Path, has_ended: impl Fn() -> bool) -> Result<Option<Self>> {
        let until = Instant::now() + Duration::from_secs(1);
        loop {
            let lock = Self::try_take(path)?;
            if lock.is_some() || !has_ended() || Instant::now() > until {
                return Ok(lock);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Writes a description of the lock's holder, for others to read.
    ///
    /// # Errors
    /// The write failed.
    pub fn describe(&mut self, text: &str) -> io::Result<()> {
        use std::io::Seek as _;
        self.file.rewind()?;
        self.file.set_len(0)?;
        self.file.write_all(text.as_bytes())?;
        self.file.sync_data()
    }
}

impl Drop for LockFile {
    /// Unlocks explicitly: a child that is just being started has the descriptor too.
    fn drop(&mut self) {
        self.file.unlock().ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_last_line_stays_a_separate_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        fs::write(&path, "one\ntw").unwrap();
        AppendFile::open(&path).unwrap().append("three").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "one\ntw\nthree\n");
    }

    #[test]
    fn a_line_after_one_that_was_cut_off_is_separate() {
        use std::io::{PipeReader, PipeWriter};
        use std::os::fd::OwnedFd;
        // A full pipe behaves like a full disk: it takes a part of a line, and has space again
        // later.
        let (mut reader, writer): (PipeReader, PipeWriter) = std::io::pipe().unwrap();
        rustix::io::ioctl_fionbio(&writer, true).unwrap();
        let mut file = AppendFile {
            file: File::from(OwnedFd::from(writer)),
            length: 0,
            is_damaged: false,
        };
        let long = "x".repeat(1 << 20);
        assert!(file.append(&long).is_err());
        let mut cut_off = vec![0; 1 << 20];
        let length = reader.read(&mut cut_off).unwrap();
        assert!(length > 0 && cut_off[..length].iter().all(|byte| *byte == b'x'));
        // The rest of the pipe is left to be read with the next line; a pipe cannot be synced.
        file.append("next").unwrap_err();
        drop(file);
        let mut rest = String::new();
        reader.read_to_string(&mut rest).unwrap();
        assert!(rest.ends_with("\nnext\n"), "{}", rest.len());
    }

    #[test]
    fn a_second_lock_is_refused_until_the_first_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let first = LockFile::try_take(&path).unwrap();
        assert!(first.is_some());
        assert!(LockFile::try_take(&path).unwrap().is_none());
        drop(first);
        assert!(LockFile::try_take(&path).unwrap().is_some());
    }

    #[test]
    fn a_released_lock_is_free_although_a_child_has_its_descriptor() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let lock = LockFile::try_take(&path).unwrap().unwrap();
        let of_child = lock.file.try_clone().unwrap();
        drop(lock);
        assert!(LockFile::try_take(&path).unwrap().is_some());
        drop(of_child);
    }

    #[test]
    fn only_the_lock_of_a_holder_that_has_ended_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let held = LockFile::try_take(&path).unwrap().unwrap();
        assert!(LockFile::take_after(&path, || false).unwrap().is_none());
        let held = std::cell::Cell::new(Some(held));
        let ended = || {
            held.take();
            true
        };
        assert!(LockFile::take_after(&path, ended).unwrap().is_some());
    }

    #[test]
    fn an_atomic_write_leaves_nothing_beside_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        write_atomic(&path, b"1").unwrap();
        write_atomic(&path, b"2").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"2");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    }
}
