//! Whose backups these are, where they lie, and what counts of `[backup]`.
//!
//! Where root acts for a user, `spotkeep.toml` is the user's to write, and so any agent's. What it says
//! of times and patterns does no harm. What would start a program as root (`key_command`), send the
//! data away or write somewhere (`copy_to`), set root's environment (`env_file`), or have history removed (`keep`) counts only
//! as it stands in `backups.approved.json`, which belongs to root (`spotkeep backup approve`).

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

/// All that a backup needs to know.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The data directory.
    pub data_dir: DataDir,
    /// Its id.
    pub data_dir_id: String,
    /// The whole file of declarations.
    pub config: Config,
    /// The table of it, as it counts here.
    pub table: Backup,
    /// The user whose agents live here.
    pub owner: Owner,
    guarded: bool,
    /// What the user asked for and root has not approved, in words.
    pub unapproved: Option<String>,
}

/// A user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// How the password is come by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key {
    /// It is the first line of this file.
    File(PathBuf),
    /// This command prints it.
    Command(String),
}

/// What root has approved of the user's settings.
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
    /// As in `[backup]`: what is not kept is removed.
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
    /// Reads what is declared, as it counts for whoever calls.
    ///
    /// # Errors
    /// The declarations are wrong and never were good; root's own file is not root's.
    pub fn load(data_dir: &DataDir) -> Result<Self> {
        let (config, _) = Config::load_or_last_good(&data_dir.config(), &data_dir.config_copy())?;
        let (owner, guarded) = whose(data_dir)?;
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

    /// Whether root acts on what somebody else can write.
    #[must_use]
    pub fn is_guarded(&self) -> bool {
        self.guarded
    }

    /// The repository.
    #[must_use]
    pub fn repository(&self) -> PathBuf {
        self.data_dir.dir().join("backups")
    }

    /// Whether there is one.
    #[must_use]
    pub fn has_repository(&self) -> bool {
        self.repository().join("config").exists()
    }

    /// How its password is come by.
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
    /// The file is missing, others can read it, or it is the user's where root acts.
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

    /// Fails unless the repository is the caller's.
    ///
    /// # Errors
    /// It is root's, or another user's; the hint is the command that works.
    pub fn ensure_mine(&self) -> Result<()> {
        let dir = self.repository();
        let owner = fs::symlink_metadata(&dir)
            .with_context(|| format!("cannot look at {}", dir.display()))?;
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

    /// Makes the repository root's, where root acts for a user: `chown -h` follows no link.
    ///
    /// # Errors
    /// The root directory is one in which the user could replace it.
    pub fn take_over(&self) -> Result<()> {
        if !self.is_guarded() || self.ensure_mine().is_ok() {
            return Ok(());
        }
        let data_dir = self.data_dir.dir();
        let meta = fs::symlink_metadata(data_dir)?;
        let open = meta.mode() & 0o022 != 0 && meta.mode() & 0o1000 == 0;
        if meta.uid() != 0 || open {
            return Err(anyhow!(
                "the user could replace what root writes into {}",
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

    /// Approves what the user asks for now, as root.
    ///
    /// # Errors
    /// Who asks is not root, or the disk refused.
    pub fn approve(&self) -> Result<Approved> {
        if !self.is_guarded() {
            return Err(anyhow!(
                "there is nothing to approve: whoever makes these backups declares them too"
            ))
            .hint("where root makes them: sudo spotkeep backup approve")
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

    /// Makes the password where there is neither one nor a repository yet.
    ///
    /// # Errors
    /// There is a repository and its password is gone, or the disk refused.
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
                "put your copy of it back, or begin anew: mv {0} {0}.lost",
                self.repository().display()
            ));
        }
        // Two of them hold 244 random bits.
        let password = format!("{}{}\n", new_uuid(), new_uuid()).replace('-', "");
        files::write_atomic(path, password.as_bytes())?;
        Ok(key)
    }
}

/// The owner of a data directory, and whether root acts for them. No link is followed: by one, the user could make a file
/// of root's pass for the owner's.
fn whose(data_dir: &DataDir) -> Result<(Owner, bool)> {
    let state = data_dir.identity_file();
    let state_dir = state.parent().unwrap_or(data_dir.dir());
    let look = |path: &Path| {
        fs::symlink_metadata(path).with_context(|| format!("cannot look at {}", path.display()))
    };
    let meta = look(state_dir)?;
    let owner = Owner {
        uid: meta.uid(),
        gid: meta.gid(),
    };
    if user::id() != 0 {
        return Ok((owner, false));
    }
    let mut steering = vec![meta, look(data_dir.dir())?, look(&state)?];
    steering.extend(fs::symlink_metadata(data_dir.config()).ok());
    let all_of_root = steering
        .iter()
        .all(|meta| meta.uid() == 0 && !meta.is_symlink());
    ensure!(
        all_of_root || owner.uid != 0,
        "{} belongs to root, and other parts of the data directory to somebody else or elsewhere: whose is it?",
        state_dir.display()
    );
    Ok((owner, !all_of_root))
}

/// What the user asks for beyond what root has approved.
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
            "[backup] {} in spotkeep.toml is not what root approved, which is what counts; if it is right: sudo spotkeep backup approve",
            differing.join(", ")
        )
    })
}

/// A file that steers root must be root's, and no link.
fn ensure_of_root(path: &Path) -> Result<()> {
    let meta =
        fs::symlink_metadata(path).with_context(|| format!("cannot look at {}", path.display()))?;
    if meta.is_file() && meta.uid() == 0 && meta.mode() & 0o022 == 0 {
        return Ok(());
    }
    Err(anyhow!(
        "{} steers what root does, and is not root's alone",
        path.display()
    ))
    .hint(format!(
        "look into it, then: sudo chown root: {0} && sudo chmod 600 {0}",
        path.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_from_what_root_approved_is_named() {
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
    fn a_key_is_made_once_and_never_for_a_repository_that_has_one_already() {
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
