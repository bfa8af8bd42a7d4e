//! The data directory: its layout, creation, checks and paths.
//!
//! It is the one directory that survives a preemption.

use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::{AgentName, AgentRecord, Identity};
use sys::error::{Context as _, ErrorKind, Hint as _, Result, anyhow, ensure};
use sys::trusted_path::first_open_to_others;
use sys::{files, user};

/// Data directory of a machine that `setup` has prepared.
pub const DEFAULT: &str = "/mnt/persist";

/// Returns the data directory where neither `--data-dir` nor `SPOTKEEP_DATA_DIR` is given:
/// `SPOTKEEP_ROOT`, the former name of the latter, or [`DEFAULT`].
#[must_use]
pub fn default_dir() -> PathBuf {
    std::env::var_os("SPOTKEEP_ROOT").map_or_else(|| DEFAULT.into(), PathBuf::from)
}

/// The directories of a new data directory with their modes.
const LAYOUT: [(&str, u32); 9] = [
    ("bin", 0o755),
    (".claude", 0o700),
    ("home", 0o700),
    ("workspaces", 0o755),
    ("session-state", 0o700),
    ("session-state/agents", 0o700),
    ("session-state/saves", 0o700),
    ("session-state/notes", 0o700),
    ("backups", 0o700),
];

/// An existing data directory.
#[derive(Debug, Clone)]
pub struct DataDir {
    dir: PathBuf,
    /// Device and inode of the directory as opened, shared by all clones: after a disk is unmounted
    /// or replaced under a running keeper, another directory is at the same path.
    place: Arc<Mutex<(u64, u64)>>,
}

impl DataDir {
    /// Opens the data directory at `dir`.
    ///
    /// # Errors
    /// There is none: the path does not exist, is an unmounted mount point, or is a directory that
    /// is not a data directory.
    ///
    /// For root also: another user could change it. Root would read, run or write through what an
    /// agent puts there.
    pub fn open(dir: &Path) -> Result<Self> {
        if let Ok(dir) = fs::canonicalize(dir) {
            refuse_for_root(&dir, "status")?;
        }
        Self::open_of_anybody(dir)
    }

    /// Like [`DataDir::open`], for what root does with another user's data directory: it follows no
    /// link and runs nothing there.
    ///
    /// # Errors
    /// Like [`DataDir::open`], except for the owner.
    pub fn open_of_anybody(dir: &Path) -> Result<Self> {
        refuse_unmounted(dir, &fs::read_to_string("/etc/fstab").unwrap_or_default())?;
        let dir = fs::canonicalize(dir)
            .with_context(|| format!("no data directory at {}", dir.display()))
            .hint(format!("spotkeep --data-dir {} init", dir.display()))?;
        let data_dir = Self::from_path(dir)?;
        ensure_data_dir(&data_dir)?;
        Ok(data_dir)
    }

    /// Creates a data directory at `dir`, or completes an existing one. Nothing that exists is
    /// changed. Returns it and whether it is new.
    ///
    /// # Errors
    /// The path cannot hold one, or holds one of another user.
    pub fn init(dir: &Path) -> Result<(Self, bool)> {
        refuse_unmounted(dir, &fs::read_to_string("/etc/fstab").unwrap_or_default())?;
        let there = dir
            .ancestors()
            .find_map(|above| fs::canonicalize(above).ok());
        if let Some(there) = there {
            refuse_for_root(&there, "init")?;
        }
        fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let data_dir = Self::from_path(fs::canonicalize(dir)?)?;
        for (name, mode) in LAYOUT {
            let path = data_dir.dir.join(name);
            if !path.is_dir() {
                fs::DirBuilder::new()
                    .mode(mode)
                    .create(&path)
                    .with_context(|| format!("cannot create {}", path.display()))?;
            }
        }
        let path = data_dir.identity_file();
        let is_new = crate::load::<Identity>(&path)?.is_none();
        if is_new {
            let mut identity = Identity::new(data_dir.dir.clone());
            // Where only this file was lost, the data directory keeps its identity.
            let (lines, _) = crate::lines(&data_dir.journal())?;
            crate::rebuild::data_dir(&mut identity, &lines);
            crate::store(&path, &identity)?;
        }
        Ok((data_dir, is_new))
    }

    fn from_path(dir: PathBuf) -> Result<Self> {
        let place = Arc::new(Mutex::new(place_of(&dir)?));
        Ok(Self { dir, place })
    }

    /// Checks that the directory is still the one that was opened. A keeper calls it before each
    /// write, since it runs longer than a mount may.
    ///
    /// # Errors
    /// It is missing, or another one is in its place.
    pub fn ensure_there(&self) -> Result<()> {
        let known = *self.place.lock().unwrap_or_else(PoisonError::into_inner);
        if place_of(&self.dir).is_ok_and(|now| now == known) {
            return Ok(());
        }
        Err(anyhow!(
            "the data directory {} is missing",
            self.dir.display()
        ))
        .hint(format!("sudo mount {}", self.dir.display()))
    }

    /// Takes the directory that is there now for the data directory, after it was found to be the
    /// same one.
    ///
    /// # Errors
    /// There is none.
    pub fn settle(&self) -> Result<()> {
        let now = place_of(&self.dir)?;
        *self.place.lock().unwrap_or_else(PoisonError::into_inner) = now;
        Ok(())
    }

    /// Whether every directory of a data directory exists.
    #[must_use]
    pub fn is_complete(dir: &Path) -> bool {
        LAYOUT.iter().all(|(name, _)| dir.join(name).is_dir())
    }

    /// Returns the data directory itself, with links resolved.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Returns the path of the configuration file.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.dir.join("spotkeep.toml")
    }

    /// Returns the path of Claude's configuration directory.
    #[must_use]
    pub fn claude(&self) -> PathBuf {
        self.dir.join(".claude")
    }

    /// Returns the path of the data directory's identity.
    #[must_use]
    pub fn identity_file(&self) -> PathBuf {
        self.state().join("root.json")
    }

    /// Returns the path of the journal.
    #[must_use]
    pub fn journal(&self) -> PathBuf {
        self.state().join("journal.jsonl")
    }

    /// Returns the directory of the saves' manifests.
    #[must_use]
    pub fn saves(&self) -> PathBuf {
        self.state().join("saves")
    }

    /// Returns the path of the lock that one keeper holds, with a description of its holder.
    #[must_use]
    pub fn lock(&self) -> PathBuf {
        self.state().join("lock")
    }

    /// Returns the path of spotkeep's own good copy of Claude's `.claude.json`.
    #[must_use]
    pub fn claude_json_copy(&self) -> PathBuf {
        self.state().join("claude.json")
    }

    /// Returns the path of spotkeep's own copy of the newest valid login.
    #[must_use]
    pub fn credentials_copy(&self) -> PathBuf {
        self.state().join("credentials.json")
    }

    /// Returns the path of the last `spotkeep.toml` that a keeper accepted.
    #[must_use]
    pub fn config_copy(&self) -> PathBuf {
        self.state().join("spotkeep.toml")
    }

    /// Returns the path of the state of backups, which every user may read.
    #[must_use]
    pub fn backup_state(&self) -> PathBuf {
        self.state().join("backup.json")
    }

    /// Returns the path of the file that says to an agent what was cut off.
    #[must_use]
    pub fn note(&self, name: &AgentName) -> PathBuf {
        self.state().join("notes").join(format!("{name}.md"))
    }

    /// Returns the private directory for an agent's checkpoints: indexes, a lock.
    #[must_use]
    pub fn checkpoints(&self, agent_id: &str) -> PathBuf {
        self.state().join("checkpoints").join(agent_id)
    }

    /// Returns the path of an agent's record.
    #[must_use]
    pub fn record(&self, name: &AgentName) -> PathBuf {
        self.records().join(format!("{name}.json"))
    }

    /// Returns the path of the spotkeep program that the units of this data directory run.
    #[must_use]
    pub fn program(&self) -> PathBuf {
        self.dir.join("bin/spotkeep")
    }

    /// Returns the directory of the stored state.
    #[must_use]
    pub fn session_state(&self) -> PathBuf {
        self.state()
    }

    /// Returns the directory of the agents' records.
    #[must_use]
    pub fn records(&self) -> PathBuf {
        self.state().join("agents")
    }

    fn state(&self) -> PathBuf {
        self.dir.join("session-state")
    }

    /// Returns a path as it is stored: relative where it is inside the data directory.
    #[must_use]
    pub fn relative(&self, path: &Path) -> PathBuf {
        path.strip_prefix(&self.dir).unwrap_or(path).to_path_buf()
    }

    /// Returns a stored path as it is on this machine.
    #[must_use]
    pub fn absolute(&self, path: &Path) -> PathBuf {
        self.dir.join(path)
    }

    /// Whether a path is inside the data directory, links resolved.
    #[must_use]
    pub fn holds(&self, path: &Path) -> bool {
        fs::canonicalize(path).is_ok_and(|path| path.starts_with(&self.dir))
    }

    /// Whether the data directory is a separate filesystem, so that all of it can be synced without
    /// the rest of the machine.
    #[must_use]
    pub fn is_own_filesystem(&self) -> bool {
        files::is_mount_point(&self.dir).unwrap_or(false)
    }

    /// Reads the data directory's identity.
    ///
    /// # Errors
    /// It is missing or damaged.
    pub fn identity(&self) -> Result<Identity> {
        crate::load(&self.identity_file())?
            .with_context(|| format!("{} is missing", self.identity_file().display()))
    }

    /// Returns the agents that have a record, with the error where a record is damaged.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn all_records(&self) -> Result<Vec<(AgentName, Result<AgentRecord>)>> {
        let dir = self.records();
        let entries =
            fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))?;
        let mut names: Vec<AgentName> = entries
            .filter_map(|entry| {
                AgentName::new(entry.ok()?.file_name().to_str()?.strip_suffix(".json")?).ok()
            })
            .collect();
        names.sort();
        Ok(names
            .into_iter()
            .filter_map(|name| Some((name.clone(), self.load_record(&name).transpose()?)))
            .collect())
    }

    /// Reads an agent's record; `None` where it has none.
    ///
    /// # Errors
    /// It is damaged.
    pub fn load_record(&self, name: &AgentName) -> Result<Option<AgentRecord>> {
        crate::load(&self.record(name))
    }

    /// Writes an agent's record, durably.
    ///
    /// # Errors
    /// The disk is full or missing.
    pub fn store_record(&self, record: &AgentRecord) -> Result<()> {
        self.ensure_there()?;
        crate::store(&self.record(&record.name), record)
    }
}

/// Refuses, for root, a directory that another user could change.
fn refuse_for_root(dir: &Path, verb: &str) -> Result<()> {
    if user::id() != 0 {
        return Ok(());
    }
    let Some(open) = first_open_to_others(dir) else {
        return Ok(());
    };
    let owner = fs::metadata(open).map_or(0, |meta| meta.uid());
    let words = ["spotkeep", "--data-dir", &dir.display().to_string(), verb].map(str::to_owned);
    Err(anyhow!(
        "root does not use a data directory that others can change: {} is not root's alone",
        open.display()
    ))
    .hint(match owner {
        0 => format!("sudo ls -ld {}", open.display()),
        owner => user::as_user_hint(owner, &words),
    })
}

fn place_of(dir: &Path) -> Result<(u64, u64)> {
    let meta =
        fs::metadata(dir).with_context(|| format!("no data directory at {}", dir.display()))?;
    Ok((meta.dev(), meta.ino()))
}

fn ensure_data_dir(data_dir: &DataDir) -> Result<()> {
    let display = data_dir.dir.display();
    // The directory's owner is checked, since another user cannot see the file in it.
    if let Ok(state) = fs::metadata(data_dir.state()) {
        ensure_mine(&data_dir.dir, state.uid())?;
    }
    ensure_hinted(
        data_dir.identity_file().exists(),
        || format!("{display} is not a spotkeep data directory: it has no session-state/root.json"),
        || format!("spotkeep --data-dir {display} init"),
    )?;
    ensure_mine(&data_dir.dir, fs::metadata(data_dir.identity_file())?.uid())?;
    // If other users could read a data directory, they would see every transcript.
    let mode = fs::metadata(data_dir.state())?.permissions().mode();
    ensure!(
        mode & 0o002 == 0,
        "{} is writable for every user",
        data_dir.state().display()
    );
    Ok(())
}

fn ensure_mine(dir: &Path, owner: u32) -> Result<()> {
    let me = user::id();
    let (display, user) = (dir.display(), || user::name(owner));
    ensure_hinted(
        owner == me || me == 0,
        || {
            format!(
                "the data directory {display} belongs to the user {}",
                user()
            )
        },
        || {
            let words = ["spotkeep", "--data-dir", &display.to_string(), "status"];
            user::as_user_hint(owner, &words.map(str::to_owned))
        },
    )
}

fn ensure_hinted(
    good: bool,
    what: impl FnOnce() -> String,
    hint: impl FnOnce() -> String,
) -> Result<()> {
    if good {
        Ok(())
    } else {
        Err(anyhow!(what())).hint(hint())
    }
}

/// Whether a mount unit of this machine, as `setup` writes it, has that mount point.
fn has_mount_unit(units: &Path, dir: &Path) -> bool {
    let desired = format!("Where={}", dir.display());
    let entries = fs::read_dir(units).into_iter().flatten();
    entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|kind| kind == "mount"))
        .any(|path| {
            fs::read_to_string(path).is_ok_and(|text| text.lines().any(|line| line == desired))
        })
}

/// Refuses a directory that is a mount point in `/etc/fstab` or a unit while nothing is mounted
/// there: the next mount would hide what was written to it.
fn refuse_unmounted(dir: &Path, fstab: &str) -> Result<()> {
    let listed = fstab
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .filter_map(|line| line.split_whitespace().nth(1))
        .any(|mount| Path::new(mount) == dir);
    let listed = listed || has_mount_unit(Path::new("/etc/systemd/system"), dir);
    if listed && dir.is_dir() && !files::is_mount_point(dir).unwrap_or(true) {
        return Err(anyhow!(
            "{} is a mount point and nothing is mounted on it",
            dir.display()
        ))
        .hint(format!("sudo mount {}", dir.display()))
        .kind(ErrorKind::Failed);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use sys::error::hint_of;

    #[test]
    fn init_creates_a_data_directory_once_and_does_not_change_it_later() {
        let dir = tempfile_dir();
        let (data_dir, is_new) = DataDir::init(dir.path()).unwrap();
        assert!(is_new);
        let first = data_dir.identity().unwrap();
        let (data_dir, is_new) = DataDir::init(dir.path()).unwrap();
        assert!(!is_new);
        assert_eq!(data_dir.identity().unwrap(), first);
        DataDir::open(dir.path()).unwrap();
    }

    #[test]
    fn a_mount_point_with_nothing_mounted_is_refused() {
        let dir = tempfile_dir();
        let fstab = format!(
            "# data\nUUID=1 {} ext4 defaults,nofail 0 2\n",
            dir.path().display()
        );
        let error = refuse_unmounted(dir.path(), &fstab).unwrap_err();
        assert!(hint_of(&error).unwrap().starts_with("sudo mount"));
        assert!(refuse_unmounted(Path::new("/proc"), "proc /proc proc defaults 0 0").is_ok());
    }

    #[test]
    fn another_directory_in_place_of_the_data_directory_gets_no_record() {
        let dir = tempfile_dir();
        let (data_dir, _) = DataDir::init(&dir.path().join("r")).unwrap();
        let record = AgentRecord::new(AgentName::new("a").unwrap(), "w".into());
        data_dir.store_record(&record).unwrap();
        fs::rename(data_dir.dir(), dir.path().join("moved")).unwrap();
        assert!(data_dir.ensure_there().is_err());
        let (other, _) = DataDir::init(&dir.path().join("r")).unwrap();
        assert!(data_dir.store_record(&record).is_err());
        assert!(!other.record(&record.name).exists());
        fs::remove_dir_all(other.dir()).unwrap();
        fs::rename(dir.path().join("moved"), data_dir.dir()).unwrap();
        data_dir.store_record(&record).unwrap();
    }

    #[test]
    fn a_mount_point_of_a_unit_is_known() {
        let dir = tempfile_dir();
        fs::write(dir.path().join("x.mount"), "[Mount]\nWhere=/mnt/persist\n").unwrap();
        assert!(has_mount_unit(dir.path(), Path::new("/mnt/persist")));
        assert!(!has_mount_unit(dir.path(), Path::new("/mnt")));
    }

    #[test]
    fn the_error_for_another_directory_says_how_to_create_a_data_directory() {
        let dir = tempfile_dir();
        let error = DataDir::open(dir.path()).unwrap_err();
        assert!(hint_of(&error).unwrap().ends_with("init"));
    }

    #[test]
    fn paths_inside_are_stored_relative_to_the_data_directory() {
        let dir = tempfile_dir();
        let (data_dir, _) = DataDir::init(dir.path()).unwrap();
        let inside = data_dir.dir().join("workspaces/a");
        assert_eq!(data_dir.relative(&inside), Path::new("workspaces/a"));
        assert_eq!(data_dir.absolute(Path::new("workspaces/a")), inside);
        assert_eq!(data_dir.relative(Path::new("/srv/x")), Path::new("/srv/x"));
        assert_eq!(data_dir.absolute(Path::new("/srv/x")), Path::new("/srv/x"));
    }

    #[test]
    fn a_missing_root_json_is_rebuilt_from_the_journal() {
        let dir = tempfile_dir();
        let (data_dir, _) = DataDir::init(dir.path()).unwrap();
        let id = data_dir.identity().unwrap().data_dir_id;
        let what = crate::JournalEvent::Survived { reason: "x".into() };
        let mut journal = crate::Journal::open(&data_dir.journal(), &id, 4, "l").unwrap();
        journal.write(None, &what).unwrap();
        fs::remove_file(data_dir.identity_file()).unwrap();
        let (data_dir, _) = DataDir::init(dir.path()).unwrap();
        let again = data_dir.identity().unwrap();
        assert_eq!((again.data_dir_id, again.epoch), (id, 4));
    }

    fn tempfile_dir() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }
}
