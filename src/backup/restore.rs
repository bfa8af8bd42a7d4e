//! `spotkeep backup restore`: restores files into a new directory or into the data directory.
//!
//! It replaces existing files only on request, and then renames the old ones.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::restic::LONG;
use super::snapshots::{self, Node};
use super::{Repository, Settings, Stop};
use sys::error::{Context as _, ErrorKind, Hint as _, Result, anyhow, ensure};
use sys::files::{self, LockFile};
use sys::time::Timestamp;
use sys::uuid::new_uuid;

/// A file of a backup, compared with the data directory.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Step {
    /// Relative to the data directory.
    pub path: PathBuf,
    /// Its state on the disk.
    pub now: Now,
}

/// The state of a file of a backup on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Now {
    /// It is missing.
    Missing,
    /// It is unchanged.
    Same,
    /// It differs, and was written before the backup's.
    Older,
    /// It differs, and was written after the backup's.
    Newer,
}

/// The result of a restore.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
pub struct Given {
    /// Number of restored files.
    pub restored: u64,
    /// Existing files that were not replaced.
    pub left: Vec<PathBuf>,
    /// Existing files that were renamed.
    pub renamed: Vec<PathBuf>,
}

/// Compares the files of a backup with the data directory.
///
/// # Errors
/// The repository cannot be read, or a path is not in the backup.
pub fn plan(
    settings: &Settings,
    repository: &Repository,
    id: &str,
    paths: &[PathBuf],
    stop: &Stop,
) -> Result<Vec<Step>> {
    let nodes = snapshots::nodes(repository, id, paths, stop)?;
    for path in paths {
        ensure_in_backup(&nodes, path, id)?;
    }
    Ok(nodes
        .into_iter()
        .filter(|node| node.kind != "dir")
        .map(|node| Step {
            now: compare(&settings.data_dir.absolute(&node.path), &node),
            path: node.path,
        })
        .collect())
}

fn ensure_in_backup(nodes: &[Node], path: &Path, id: &str) -> Result<()> {
    if nodes.iter().any(|node| node.path.starts_with(path)) {
        return Ok(());
    }
    Err(anyhow!("the backup {id} has no {}", path.display()))
        .hint(format!(
            "spotkeep backup restore {} --dry-run --json lists what it has",
            id.get(..8).unwrap_or(id)
        ))
        .kind(ErrorKind::Usage)
}

fn compare(path: &Path, node: &Node) -> Now {
    let Ok(meta) = fs::symlink_metadata(path) else {
        return Now::Missing;
    };
    let at = meta
        .mtime()
        .checked_mul(1000)
        .and_then(|millis| Timestamp::from_millis(millis + meta.mtime_nsec() / 1_000_000));
    let Some(at) = at else { return Now::Newer };
    let same_time = at.as_millis() == node.mtime.as_millis();
    // The length of a link is that of its target's name, which restic does not report.
    let same_length = node.kind != "file" || meta.len() == node.size;
    match at.as_millis() < node.mtime.as_millis() {
        _ if same_time && same_length => Now::Same,
        true => Now::Older,
        false => Now::Newer,
    }
}

/// Restores into a directory that is new or empty.
///
/// # Errors
/// The directory is not empty, or restic failed.
pub fn into_new_dir(
    repository: &Repository,
    id: &str,
    paths: &[PathBuf],
    to: &Path,
    stop: &Stop,
) -> Result<()> {
    let is_empty = fs::read_dir(to).map(|mut entries| entries.next().is_none());
    if !is_empty.unwrap_or(true) {
        return Err(anyhow!("{} is not empty", to.display()))
            .hint("use a new directory")
            .kind(ErrorKind::Usage);
    }
    files::create_private_dir(to)?;
    extract(repository, id, paths, to, stop)
}

fn extract(
    repository: &Repository,
    id: &str,
    paths: &[PathBuf],
    to: &Path,
    stop: &Stop,
) -> Result<()> {
    let mut command = repository.command(["restore", "--no-lock", id, "--target"]);
    command.arg(to);
    for path in paths {
        command.arg("--include").arg(Path::new("/").join(path));
    }
    repository.ask(&mut command, LONG, stop)?;
    Ok(())
}

/// Restores into the data directory. With `over`, existing files that differ are renamed and
/// replaced.
///
/// # Errors
/// Root acts for a user; a keeper runs and its files would be replaced; restic failed.
pub fn into_data_dir(
    settings: &Settings,
    repository: &Repository,
    id: &str,
    steps: &[Step],
    paths: &[PathBuf],
    over: bool,
    stop: &Stop,
) -> Result<Given> {
    if settings.is_guarded() {
        return Err(anyhow!(
            "root does not write into a data directory that {} can change",
            sys::user::name(settings.owner.uid)
        ))
        .hint(format!(
            "sudo spotkeep backup restore {id} --to DIR    # then copy from there as the user"
        ))
        .kind(ErrorKind::Usage);
    }
    let replaced = |step: &&Step| over && matches!(step.now, Now::Older | Now::Newer);
    let is_live =
        |step: &Step| step.path.starts_with(".claude") || step.path.starts_with("session-state");
    if steps.iter().filter(replaced).any(is_live)
        && LockFile::try_take(&settings.data_dir.lock())?.is_none()
    {
        return Err(anyhow!(
            "a keeper runs, and files that its agents write would be replaced"
        ))
        .hint("run spotkeep down first, or restore to another directory with --to DIR")
        .kind(ErrorKind::NotAsDeclared);
    }
    let data_dir = settings.data_dir.dir();
    let staging = data_dir.join(format!(".restored-{}", new_uuid()));
    files::create_private_dir(&staging)?;
    let mut given = Given::default();
    let merged = extract(repository, id, paths, &staging, stop)
        .and_then(|()| merge(&staging, data_dir, Path::new(""), over, &mut given));
    fs::remove_dir_all(&staging).with_context(|| format!("cannot remove {}", staging.display()))?;
    merged?;
    files::sync_filesystem(data_dir).context("cannot sync")?;
    Ok(given)
}

/// Moves the restored files into place, whole directories where there is none.
fn merge(from: &Path, data_dir: &Path, path: &Path, over: bool, given: &mut Given) -> Result<()> {
    for entry in fs::read_dir(from.join(path))? {
        let entry = entry?;
        let (path, target) = (
            path.join(entry.file_name()),
            data_dir.join(path).join(entry.file_name()),
        );
        let new = entry.metadata()?;
        match fs::symlink_metadata(&target) {
            Ok(old) if old.is_dir() && new.is_dir() => merge(from, data_dir, &path, over, given)?,
            Ok(old) if is_same(&old, &new) => {}
            Ok(_) if !over => given.left.push(path),
            Ok(_) => {
                let mut name = entry.file_name();
                name.push(format!(".before-restore-{}", Timestamp::now().as_millis()));
                move_to(&target, &target.with_file_name(name))?;
                move_to(&from.join(&path), &target)?;
                given.renamed.push(path);
                given.restored += 1;
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                given.restored += count(&from.join(&path));
                move_to(&from.join(&path), &target)?;
            }
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", target.display()));
            }
        }
    }
    Ok(())
}

fn is_same(old: &fs::Metadata, new: &fs::Metadata) -> bool {
    let times = |meta: &fs::Metadata| (meta.mtime(), meta.mtime_nsec());
    old.file_type() == new.file_type() && old.len() == new.len() && times(old) == times(new)
}

fn move_to(from: &Path, to: &Path) -> Result<()> {
    ensure!(!to.exists(), "{} exists", to.display());
    fs::rename(from, to).with_context(|| format!("cannot move {} into place", to.display()))
}

/// Number of files below a path.
fn count(path: &Path) -> u64 {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::read_dir(path).map_or(0, |entries| {
            entries.flatten().map(|entry| count(&entry.path())).sum()
        }),
        Ok(_) => 1,
        Err(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn existing_files_are_replaced_only_on_request_and_kept_under_another_name() {
        let dir = tempfile::tempdir().unwrap();
        let (from, data_dir) = (dir.path().join("from"), dir.path().join("root"));
        for (base, name, text) in [
            (&from, "w/a", "old"),
            (&from, "w/gone/x", "1"),
            (&from, "w/gone/y", "2"),
            (&data_dir, "w/a", "newer"),
        ] {
            let path = base.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let mut given = Given::default();
        merge(&from, &data_dir, Path::new(""), false, &mut given).unwrap();
        assert_eq!(
            (given.restored, &given.left[..]),
            (2, &[PathBuf::from("w/a")][..])
        );
        assert_eq!(fs::read_to_string(data_dir.join("w/a")).unwrap(), "newer");
        assert_eq!(fs::read_to_string(data_dir.join("w/gone/y")).unwrap(), "2");
        let mut given = Given::default();
        merge(&from, &data_dir, Path::new(""), true, &mut given).unwrap();
        assert_eq!(given.renamed, [PathBuf::from("w/a")]);
        assert_eq!(fs::read_to_string(data_dir.join("w/a")).unwrap(), "old");
        let kept = fs::read_dir(data_dir.join("w")).unwrap().flatten();
        assert!(kept.into_iter().any(|entry| {
            let name = entry.file_name().into_string().unwrap();
            name.starts_with("a.before-restore-")
                && fs::read_to_string(entry.path()).unwrap() == "newer"
        }));
    }
}
