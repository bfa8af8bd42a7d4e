//! Settings of backups: owner, repository, key, and which `[backup]` settings take effect.
//!
//! If root acts for a user, that user, and so any agent, can write `spotkeep.toml`. Times and
//! patterns in it do no harm. A setting that would start a program as root (`key_command`), send
//! the data elsewhere (`copy_to`), set root's environment (`env_file`), or remove backups (`keep`,
//! `copy_keeps_all`) takes effect only with its value in `backups.approved.json`, which belongs to
//! root (`spotkeep backup approve`).

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::agent::exec::read_env_file;
use state::VERSION;
use state::config::{Backup, Config, KeepBackups};
use state::layout::DataDir;
use sys::error::{Context as _, ErrorKind, Hint as _, Result, anyhow, ensure};
use sys::uuid::new_uuid;
use sys::{command, files, user};

/// The settings of a backup.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The data directory.
    pub data_dir: DataDir,
    /// Its id.
    pub data_dir_id: String,
    /// All declarations.
    pub config: Config,
    /// The `[backup]` table that takes effect.
    pub table: Backup,
    /// The owner of the data directory.
    pub owner: Owner,
    guarded: bool,
    /// The settings that root has not approved, as a sentence.
    pub unapproved: Option<String>,
}

/// The ids of a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// The source of the password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key {
    /// The first line of this file.
    File(PathBuf),
    /// The output of this command.
    Command(String),
}

/// The settings that root has approved.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approved {
    /// Version of this file's format.
    pub version: u32,
    /// As in `[backup]`.
    pub copy_to: Option<String>,
    /// As in `[backup]`.
    pub key_command: Option<String>,
    /// As in `[backup]`.
    pub env_file: Option<PathBuf>,
    /// As in `[backup]`: other backups are removed.
    #[serde(default)]
    pub keep: KeepBackups,
    /// As in `[backup]`.
    #[serde(default)]
    pub copy_keeps_all: bool,
}

impl Approved {
    fn from_config(table: &Backup) -> Self {
        Self {
            version: VERSION,
            copy_to: table.copy_to.clone(),
            key_command: table.key_command.clone(),
            env_file: table.env_file.clone(),
            keep: table.keep,
            copy_keeps_all: table.copy_keeps_all,
        }
    }
}

impl Settings {
    /// Reads the settings that take effect for the calling user.
    ///
    /// # Errors
    /// The declarations are invalid and there is no last good copy; or another user can write
    /// root's file.
    pub fn load(data_dir: &DataDir) -> Result<Self> {
        let (config, _) = Config::load_or_last_good(&data_dir.config(), &data_dir.config_copy())?;
        let (owner, guarded) = find_owner(data_dir)?;
        let mut settings = Self {
            data_dir_id: data_dir.identity()?.data_dir_id,
            table: config.backup.clone(),
            data_dir: data_dir.clone(),
            config,
            owner,
            guarded,
            unapproved: None,
        };
        if settings.is_guarded() {
            let approved = settings.approved()?.unwrap_or_default();
            let asked = Approved::from_config(&settings.table);
            settings.unapproved = difference(&asked, &approved);
            settings.table.copy_to = approved.copy_to;
            settings.table.key_command = approved.key_command;
            settings.table.env_file = approved.env_file;
            settings.table.keep = approved.keep;
            settings.table.copy_keeps_all = approved.copy_keeps_all;
        }
        Ok(settings)
    }

    /// Whether root acts on files that another user can write.
    #[must_use]
    pub fn is_guarded(&self) -> bool {
        self.guarded
    }

    /// The directory of the repository.
    #[must_use]
    pub fn repository(&self) -> PathBuf {
        self.data_dir.dir().join("backups")
    }

    /// Whether the repository exists.
    #[must_use]
    pub fn has_repository(&self) -> bool {
        self.repository().join("config").exists()
    }

    /// The source of its password.
    #[must_use]
    pub fn key(&self) -> Key {
        match &self.table.key_command {
            Some(command) => Key::Command(command.clone()),
            None => Key::File(self.key_file()),
        }
    }

    /// The file with the password, beside the repository and never in a backup.
    #[must_use]
    pub fn key_file(&self) -> PathBuf {
        self.data_dir.dir().join("backups.key")
    }

    fn approved_file(&self) -> PathBuf {
        self.data_dir.dir().join("backups.approved.json")
    }

    /// The variables for the second repository; never shown.
    ///
    /// # Errors
    /// The file is missing, others can read it, or root acts and the user can write it.
    pub fn environment(&self) -> Result<BTreeMap<String, String>> {
        let Some(file) = &self.table.env_file else {
            return Ok(BTreeMap::new());
        };
        let path = self.data_dir.absolute(file);
        if self.is_guarded() {
            ensure_of_root(&path)?;
        }
        read_env_file(&path)
    }

    /// Fails unless the repository belongs to the calling user.
    ///
    /// # Errors
    /// It belongs to root or another user; the hint is the command that works.
    pub fn ensure_mine(&self) -> Result<()> {
        let dir = self.repository();
        let owner =
            fs::symlink_metadata(&dir).with_context(|| format!("cannot read {}", dir.display()))?;
        ensure!(owner.is_dir(), "{} is not a directory", dir.display());
        if owner.uid() == user::id() {
            return Ok(());
        }
        let name = user::name(owner.uid());
        Err(anyhow!("{} belongs to {name}", dir.display())).hint(format!(
            "sudo -u {name} spotkeep --data-dir {} backup ls",
            self.data_dir.dir().display()
        ))
    }

    /// Gives the repository to root, if root acts for a user: `chown -h` follows no link.
    ///
    /// # Errors
    /// The user could replace the repository in the data directory.
    pub fn take_over(&self) -> Result<()> {
        if !self.is_guarded() || self.ensure_mine().is_ok() {
            return Ok(());
        }
        let data_dir = self.data_dir.dir();
        let meta = fs::symlink_metadata(data_dir)?;
        let open = meta.mode() & 0o022 != 0 && meta.mode() & 0o1000 == 0;
        if meta.uid() != 0 || open {
            return Err(anyhow!(
                "the user could replace files that root writes into {}",
                data_dir.display()
            ))
            .hint(format!(
                "sudo chown root {0} && sudo chmod 1775 {0}",
                data_dir.display()
            ));
        }
        let mut chown = std::process::Command::new("chown");
        chown.args(["-Rh", "--", "0:0"]).arg(self.repository());
        if fs::symlink_metadata(self.key_file()).is_ok() {
            chown.arg(self.key_file());
        }
        let output = command::run(&mut chown, std::time::Duration::from_secs(600))?;
        ensure!(
            output.status.success(),
            "cannot give {} to root: {}",
            self.repository().display(),
            output.stderr
        );
        fs::set_permissions(
            self.repository(),
            std::os::unix::fs::PermissionsExt::from_mode(0o700),
        )?;
        Ok(())
    }

    /// Approves the current settings of the user, as root.
    ///
    /// # Errors
    /// The caller is not root, or the disk refused.
    pub fn approve(&self) -> Result<Approved> {
        if !self.is_guarded() {
            return Err(anyhow!(
                "there is nothing to approve: these backups are made by the user who declares them"
            ))
            .hint("if root makes them: sudo spotkeep backup approve")
            .kind(ErrorKind::Usage);
        }
        let approved = Approved::from_config(&self.config.backup);
        state::store(&self.approved_file(), &approved)?;
        Ok(approved)
    }

    fn approved(&self) -> Result<Option<Approved>> {
        let path = self.approved_file();
        if fs::symlink_metadata(&path).is_err() {
            return Ok(None);
        }
        ensure_of_root(&path)?;
        state::load(&path)
    }

    /// Creates the password if there is neither a password nor a repository yet.
    ///
    /// # Errors
    /// There is a repository and its password is missing, or the disk refused.
    pub fn ensure_key(&self) -> Result<Key> {
        let key = self.key();
        let Key::File(path) = &key else {
            return Ok(key);
        };
        if files::read_optional(path)?.is_some_and(|bytes| !bytes.trim_ascii().is_empty()) {
            return Ok(key);
        }
        if self.has_repository() {
            return Err(anyhow!(
                "{} is missing, and without it the backups cannot be read",
                path.display()
            ))
            .hint(format!(
                "put your copy of it back, or start a new repository: mv {0} {0}.lost",
                self.repository().display()
            ));
        }
        // Two UUIDs have 244 random bits.
        let password = format!("{}{}\n", new_uuid(), new_uuid()).replace('-', "");
        files::write_atomic(path, password.as_bytes())?;
        Ok(key)
    }
}

/// The owner of a data directory, and whether root acts for that user. No link is followed: by a
/// link the user could present a file of root's as the owner's.
fn find_owner(data_dir: &DataDir) -> Result<(Owner, bool)> {
    let state = data_dir.identity_file();
    let state_dir = state.parent().unwrap_or(data_dir.dir());
    let read = |path: &Path| {
        fs::symlink_metadata(path).with_context(|| format!("cannot read {}", path.display()))
    };
    let meta = read(state_dir)?;
    let owner = Owner {
        uid: meta.uid(),
        gid: meta.gid(),
    };
    if user::id() != 0 {
        return Ok((owner, false));
    }
    let mut controlling = vec![meta, read(data_dir.dir())?, read(&state)?];
    controlling.extend(fs::symlink_metadata(data_dir.config()).ok());
    let all_of_root = controlling
        .iter()
        .all(|meta| meta.uid() == 0 && !meta.is_symlink());
    ensure!(
        all_of_root || owner.uid != 0,
        "{} belongs to root, and other parts of the data directory belong to another user or are \
         links",
        state_dir.display()
    );
    Ok((owner, !all_of_root))
}

/// Names the settings that differ from what root has approved.
fn difference(asked: &Approved, approved: &Approved) -> Option<String> {
    let named = [
        ("copy_to", asked.copy_to == approved.copy_to),
        ("key_command", asked.key_command == approved.key_command),
        ("env_file", asked.env_file == approved.env_file),
        ("keep", asked.keep == approved.keep),
        (
            "copy_keeps_all",
            asked.copy_keeps_all == approved.copy_keeps_all,
        ),
    ];
    let differing: Vec<&str> = named
        .iter()
        .filter(|(_, same)| !same)
        .map(|(name, _)| *name)
        .collect();
    (!differing.is_empty()).then(|| {
        format!(
            "[backup] {} in spotkeep.toml is not approved by root and has no effect; to approve \
             it: sudo spotkeep backup approve",
            differing.join(", ")
        )
    })
}

/// Fails unless a file that controls root belongs to root, is not a link, and only root can write
/// it.
fn ensure_of_root(path: &Path) -> Result<()> {
    let meta =
        fs::symlink_metadata(path).with_context(|| format!("cannot read {}", path.display()))?;
    if meta.is_file() && meta.uid() == 0 && meta.mode() & 0o022 == 0 {
        return Ok(());
    }
    Err(anyhow!(
        "{} controls what root does, and users other than root can change it",
        path.display()
    ))
    .hint(format!(
        "check its content, then: sudo chown root: {0} && sudo chmod 600 {0}",
        path.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_root_has_not_approved_are_named() {
        let asked = Approved {
            copy_to: Some("gs:b:/".into()),
            ..Approved::default()
        };
        let said = difference(&asked, &Approved::default()).unwrap();
        assert!(
            said.contains("copy_to") && !said.contains("key_command"),
            "{said}"
        );
        assert_eq!(difference(&asked, &asked.clone()), None);
    }

    #[test]
    fn a_key_is_created_once_and_never_for_an_existing_repository() {
        let dir = tempfile::tempdir().unwrap();
        let (data_dir, _) = DataDir::init(dir.path()).unwrap();
        Config::lay_down(&data_dir.config(), &data_dir.config_copy(), false).unwrap();
        let settings = Settings::load(&data_dir).unwrap();
        let Key::File(path) = settings.ensure_key().unwrap() else {
            panic!("a file");
        };
        let first = fs::read(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert!(first.len() > 60);
        settings.ensure_key().unwrap();
        assert_eq!(fs::read(&path).unwrap(), first);
        fs::write(settings.repository().join("config"), "x").unwrap();
        fs::remove_file(&path).unwrap();
        assert!(settings.ensure_key().is_err());
    }
}
