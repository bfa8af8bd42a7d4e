//! Merging of a directory tree into another one, without changing existing files.
//!
//! What is missing is copied, durably and completely; what exists is never changed. Run again, a
//! merge continues where it was interrupted.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use sys::error::{Context as _, Result, bail, ensure};
use sys::files;
use sys::secure_dir::rename_new;

/// The result of a merge.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Merged {
    /// Files and links that were copied.
    pub copied: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Files that existed already with the same content.
    pub same: u64,
    /// Relative paths that exist in the target with other content, which was not changed.
    pub kept: Vec<PathBuf>,
    /// Relative paths of sockets, pipes and the like, which mean nothing on another machine.
    pub left: Vec<PathBuf>,
}

/// Merges `from` into `to`, both files or both directories. `to` may be absent.
///
/// # Errors
/// Something cannot be read, or the disk is full; what was copied by then is whole.
pub fn merge(from: &Path, to: &Path) -> Result<Merged> {
    let mut merged = Merged::default();
    if let Some(parent) = to.parent() {
        files::create_private_dir(parent)?;
    }
    merge_entry(from, to, Path::new(""), from, &mut merged)?;
    files::sync_dir(to.parent().unwrap_or(Path::new("/")))?;
    Ok(merged)
}

/// Compares `from` with `to`, byte by byte, except for what the merge kept or left out.
/// Returns how many files and links were compared, and their bytes.
///
/// # Errors
/// Something is missing or differs: it was changed while it was copied.
pub fn verify(from: &Path, to: &Path, merged: &Merged) -> Result<(u64, u64)> {
    let mut compared = (0, 0);
    check(from, to, Path::new(""), from, merged, &mut compared)?;
    Ok(compared)
}

fn merge_entry(from: &Path, to: &Path, at: &Path, top: &Path, merged: &mut Merged) -> Result<()> {
    let meta =
        fs::symlink_metadata(from).with_context(|| format!("cannot read {}", from.display()))?;
    let kind = meta.file_type();
    let there = fs::symlink_metadata(to).ok();
    if kind.is_dir() {
        match &there {
            Some(there) if !there.is_dir() => {
                merged.kept.push(at.to_owned());
                return Ok(());
            }
            Some(_) => {}
            None => fs::DirBuilder::new()
                .mode(meta.permissions().mode() & 0o7777 | 0o700)
                .create(to)
                .with_context(|| format!("cannot create {}", to.display()))?,
        }
        for name in names(from)? {
            merge_entry(
                &from.join(&name),
                &to.join(&name),
                &at.join(&name),
                top,
                merged,
            )?;
        }
        return Ok(files::sync_dir(to)?);
    }
    if kind.is_symlink() {
        let target = carried(from, top)?;
        match there {
            None => {
                std::os::unix::fs::symlink(&target, to)
                    .with_context(|| format!("cannot make the link {}", to.display()))?;
                merged.copied += 1;
            }
            Some(_) if fs::read_link(to).is_ok_and(|other| other == target) => merged.same += 1,
            Some(_) => merged.kept.push(at.to_owned()),
        }
    } else if !kind.is_file() {
        merged.left.push(at.to_owned());
    } else if there.is_none() {
        copy_file(from, to, &meta)?;
        merged.copied += 1;
        merged.bytes += meta.len();
    } else if there.is_some_and(|there| there.is_file()) && same_bytes(from, to)? {
        merged.same += 1;
    } else {
        merged.kept.push(at.to_owned());
    }
    Ok(())
}

/// Returns the target of a link after the move: a relative target outside of the moved tree becomes
/// absolute.
fn carried(link: &Path, top: &Path) -> Result<PathBuf> {
    let target = fs::read_link(link).with_context(|| format!("cannot read {}", link.display()))?;
    if target.is_absolute() {
        return Ok(target);
    }
    let mut whole = link.parent().unwrap_or(Path::new("/")).to_path_buf();
    for part in target.components() {
        match part {
            std::path::Component::ParentDir => {
                whole.pop();
            }
            std::path::Component::CurDir => {}
            part => whole.push(part),
        }
    }
    Ok(if whole.starts_with(top) {
        target
    } else {
        whole
    })
}

/// Copies a file under a temporary name, syncs and renames it, so that a file is complete when its
/// name appears. Keeps the times, since Claude sorts sessions by them.
fn copy_file(from: &Path, to: &Path, meta: &fs::Metadata) -> Result<()> {
    let draft = draft(to);
    let copy = || -> io::Result<()> {
        match fs::remove_file(&draft) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut source = File::open(from)?;
        let mut target = File::create_new(&draft)?;
        target.set_permissions(fs::Permissions::from_mode(0o600))?;
        io::copy(&mut source, &mut target)?;
        target.flush()?;
        target.set_permissions(fs::Permissions::from_mode(meta.mode() & 0o777))?;
        let times = fs::FileTimes::new()
            .set_modified(meta.modified()?)
            .set_accessed(meta.accessed()?);
        target.set_times(times)?;
        target.sync_all()?;
        rename_new(&draft, to)
    };
    copy()
        .inspect_err(|_| {
            fs::remove_file(&draft).ok();
        })
        .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))
}

fn draft(to: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(to.file_name().unwrap_or_default());
    name.push(".spotkeep-copy");
    to.with_file_name(name)
}

fn check(
    from: &Path,
    to: &Path,
    at: &Path,
    top: &Path,
    merged: &Merged,
    compared: &mut (u64, u64),
) -> Result<()> {
    if merged
        .kept
        .iter()
        .chain(&merged.left)
        .any(|path| path == at)
    {
        return Ok(());
    }
    let meta = fs::symlink_metadata(from)?;
    if meta.is_dir() {
        for name in names(from)? {
            check(
                &from.join(&name),
                &to.join(&name),
                &at.join(&name),
                top,
                merged,
                compared,
            )?;
        }
        return Ok(());
    }
    let is_same = if meta.is_symlink() {
        fs::read_link(to)? == carried(from, top)?
    } else if meta.is_file() {
        to.is_file() && same_bytes(from, to)?
    } else {
        true
    };
    if !is_same {
        bail!("{} was changed while it was copied", from.display());
    }
    compared.0 += 1;
    compared.1 += meta.len();
    Ok(())
}

/// Whether two files hold the same bytes.
///
/// # Errors
/// One of them cannot be read.
pub fn same_bytes(one: &Path, other: &Path) -> Result<bool> {
    let (mut a, mut b) = (open(one)?, open(other)?);
    if a.metadata()?.len() != b.metadata()?.len() {
        return Ok(false);
    }
    let (mut left, mut right) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    loop {
        let read = a.read(&mut left)?;
        let (Some(left), Some(right)) = (left.get(..read), right.get_mut(..read)) else {
            return Ok(false);
        };
        if read == 0 {
            return Ok(true);
        }
        if b.read_exact(right).is_err() || left != right {
            return Ok(false);
        }
    }
}

fn open(path: &Path) -> Result<File> {
    File::open(path).with_context(|| format!("cannot read {}", path.display()))
}

fn names(dir: &Path) -> Result<Vec<std::ffi::OsString>> {
    let read = || -> io::Result<Vec<_>> {
        fs::read_dir(dir)?
            .map(|entry| Ok(entry?.file_name()))
            .collect()
    };
    let mut names = read().with_context(|| format!("cannot read {}", dir.display()))?;
    names.sort();
    Ok(names)
}

/// Returns the number of files and links of a tree, and their bytes.
///
/// # Errors
/// Something of it cannot be read.
pub fn measure(path: &Path) -> Result<(u64, u64)> {
    let meta =
        fs::symlink_metadata(path).with_context(|| format!("cannot read {}", path.display()))?;
    if !meta.is_dir() {
        return Ok((1, meta.len()));
    }
    let mut sum = (0, 0);
    for name in names(path)? {
        let (count, bytes) = measure(&path.join(name))?;
        sum = (sum.0 + count, sum.1 + bytes);
    }
    Ok(sum)
}

/// Refuses a copy that would fill the disk.
///
/// # Errors
/// There is too little space.
pub fn ensure_space(bytes: u64, on: &Path) -> Result<()> {
    let free = files::free_bytes(on)?;
    ensure!(
        bytes < free,
        "{} has {free} free bytes, and {bytes} bytes have to be copied",
        on.display()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn missing_files_are_copied_and_existing_ones_stay() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::create_dir_all(from.join("a/b")).unwrap();
        fs::create_dir_all(to.join("a")).unwrap();
        fs::write(from.join("a/new"), "new").unwrap();
        fs::write(from.join("a/both"), "home").unwrap();
        fs::write(to.join("a/both"), "disk").unwrap();
        fs::write(from.join("a/same"), "same").unwrap();
        fs::write(to.join("a/same"), "same").unwrap();
        symlink("new", from.join("a/inner")).unwrap();
        symlink("../../elsewhere", from.join("a/outer")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(from.join("socket")).unwrap();

        let merged = merge(&from, &to).unwrap();
        assert_eq!((merged.copied, merged.same), (3, 1));
        assert_eq!(merged.kept, [Path::new("a/both")]);
        assert_eq!(merged.left, [Path::new("socket")]);
        assert_eq!(fs::read_to_string(to.join("a/both")).unwrap(), "disk");
        assert_eq!(fs::read_link(to.join("a/inner")).unwrap(), Path::new("new"));
        assert_eq!(
            fs::read_link(to.join("a/outer")).unwrap(),
            dir.path().join("elsewhere")
        );
        assert!(to.join("a/b").is_dir());
        verify(&from, &to, &merged).unwrap();

        let again = merge(&from, &to).unwrap();
        assert_eq!((again.copied, again.same), (0, 4));
    }

    #[test]
    fn modes_and_times_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::write(&from, "key").unwrap();
        fs::set_permissions(&from, fs::Permissions::from_mode(0o640)).unwrap();
        let old = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
        File::options()
            .write(true)
            .open(&from)
            .unwrap()
            .set_modified(old)
            .unwrap();
        merge(&from, &to).unwrap();
        let meta = fs::metadata(&to).unwrap();
        assert_eq!(
            (meta.mode() & 0o777, meta.modified().unwrap()),
            (0o640, old)
        );
    }

    #[test]
    fn a_change_after_the_copy_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::create_dir(&from).unwrap();
        fs::write(from.join("x"), "1").unwrap();
        let merged = merge(&from, &to).unwrap();
        assert_eq!(verify(&from, &to, &merged).unwrap(), (1, 1));
        fs::write(from.join("x"), "2").unwrap();
        assert!(verify(&from, &to, &merged).is_err());
    }

    #[test]
    fn an_interrupted_copy_is_made_again_and_every_file_is_complete() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::create_dir(&from).unwrap();
        fs::create_dir(&to).unwrap();
        fs::write(from.join("x"), "whole").unwrap();
        fs::write(to.join(".x.spotkeep-copy"), "wh").unwrap();
        merge(&from, &to).unwrap();
        assert_eq!(names(&to).unwrap(), ["x"]);
        assert_eq!(fs::read_to_string(to.join("x")).unwrap(), "whole");
    }
}
