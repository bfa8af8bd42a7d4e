//! Facts about the machine and the data directory that several groups of checks share.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::keeper::client::{self, status_without_data_dir};
use crate::keeper::status::{Status, from_files};
use crate::systemd::units;
use state::config::Config;
use state::layout::DataDir;
use sys::cloud_provider::Provider;
use sys::command;
use sys::error::{Error, Result};

use super::LIMIT;

/// The options of `spotkeep doctor`.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// A directory that stands for `/`, with its own programs in `usr/bin`; for tests.
    pub machine: Option<PathBuf>,
    /// Whether to simulate a preemption with Claude, to check that it behaves as expected.
    pub probe: bool,
}

/// The machine, or a directory that stands for it.
#[derive(Debug, Clone)]
pub(super) struct Machine {
    prefix: PathBuf,
}

impl Machine {
    pub(super) fn path(&self, path: &str) -> PathBuf {
        self.prefix.join(path.trim_start_matches('/'))
    }

    pub(super) fn prefix(&self) -> &Path {
        &self.prefix
    }

    /// Reads a small text file; `None` where it cannot be read.
    pub(super) fn read(&self, path: &str) -> Option<String> {
        std::fs::read_to_string(self.path(path)).ok()
    }

    /// Reads a file that holds one number.
    pub(super) fn number(&self, path: &str) -> Option<u64> {
        self.read(path)?.trim().parse().ok()
    }

    /// Runs a program of the machine and returns its output; `None` if there is no such program or
    /// it takes too long.
    pub(super) fn output(&self, program: &str, arguments: &[&str]) -> Option<String> {
        let mut command = match self.prefix == Path::new("/") {
            true => Command::new(program),
            false => Command::new(self.path("usr/bin").join(program)),
        };
        let output = command::run(command.args(arguments), LIMIT).ok()?;
        Some(output.stdout)
    }
}

/// The user whose agents these are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) uid: u32,
    pub(super) name: String,
    pub(super) home: Option<PathBuf>,
}

/// What the checks evaluate.
#[derive(Debug)]
pub(super) struct Facts {
    /// The path of the data directory, as given.
    pub(super) at: PathBuf,
    pub(super) data_dir: Result<DataDir>,
    pub(super) machine: Machine,
    /// The declarations, or the last ones that could be read.
    pub(super) config: Config,
    /// Why `spotkeep.toml` cannot be used.
    pub(super) config_wrong: Option<Error>,
    pub(super) owner: Option<Owner>,
    pub(super) status: Option<Result<Status>>,
    /// Whether spotkeep's units are installed.
    pub(super) has_units: bool,
    /// Whether the keeper's unit was written by hand.
    pub(super) has_own_unit: bool,
    /// Whether systemd is the service manager.
    pub(super) systemd: bool,
    pub(super) provider: Provider,
}

impl Facts {
    pub(super) fn gather(at: &Path, options: &Options) -> Self {
        let prefix = options.machine.clone().unwrap_or_else(|| "/".into());
        let machine = Machine { prefix };
        let data_dir = DataDir::open(at);
        let (config, config_wrong) = match &data_dir {
            Ok(data_dir) => {
                match Config::load_or_last_good(&data_dir.config(), &data_dir.config_copy()) {
                    Ok((config, wrong)) => (config, wrong),
                    Err(error) => (Config::default(), Some(error)),
                }
            }
            Err(_) => (Config::default(), None),
        };
        let owner = data_dir
            .as_ref()
            .ok()
            .and_then(|data_dir| data_dir.identity().ok())
            .map(|identity| Owner {
                home: home_of(
                    &machine.read("etc/passwd").unwrap_or_default(),
                    identity.uid,
                ),
                uid: identity.uid,
                name: identity.user,
            });
        let status = match &data_dir {
            Ok(data_dir) => Some(status(data_dir)),
            // The disk may have disappeared under a running keeper, which then knows more.
            Err(_) => status_without_data_dir(at).transpose(),
        };
        let unit = machine.read(&format!("{}/{}", units::UNIT_DIR, units::KEEPER));
        let has_units = unit.as_deref().and_then(units::version_of).is_some();
        Self {
            at: at.to_path_buf(),
            has_units,
            has_own_unit: unit.is_some() && !has_units,
            systemd: machine.path("run/systemd/system").exists(),
            provider: config.cloud.provider.resolve(machine.prefix()),
            status,
            data_dir,
            config,
            config_wrong,
            owner,
            machine,
        }
    }

    /// Whether the whole machine is spotkeep's concern: a VM that may be preempted, or one that was
    /// set up for it. On a laptop boot and shutdown are not checked.
    pub(super) fn is_vm(&self) -> bool {
        self.has_units || self.has_own_unit || self.provider == Provider::Gcp
    }

    /// The command line of `spotkeep VERB` for this data directory.
    pub(super) fn spotkeep(&self, verb: &str) -> String {
        match self.at == Path::new(state::layout::DEFAULT) {
            true => format!("spotkeep {verb}"),
            false => format!("spotkeep --data-dir {} {verb}", self.at.display()),
        }
    }

    /// Whether the data directory should be a mount point: fstab or a mount unit says so.
    pub(super) fn expects_mount(&self) -> bool {
        let dir = match &self.data_dir {
            Ok(data_dir) => data_dir.dir().to_path_buf(),
            Err(_) => self.at.clone(),
        };
        let unit = format!("{}/{}", units::UNIT_DIR, units::mount_unit(&dir));
        let fstab = self.machine.read("etc/fstab").unwrap_or_default();
        self.machine.path(&unit).exists() || lists(&fstab, &dir)
    }
}

fn status(data_dir: &DataDir) -> Result<Status> {
    match client::status(data_dir, LIMIT)? {
        Some(status) => Ok(status),
        None => from_files(data_dir),
    }
}

fn lists(fstab: &str, dir: &Path) -> bool {
    fstab
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .filter_map(|line| line.split_whitespace().nth(1))
        .any(|point| Path::new(point) == dir)
}

fn home_of(passwd: &str, uid: u32) -> Option<PathBuf> {
    passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        (fields.get(2)?.parse() == Ok(uid)).then(|| fields.get(5).map(PathBuf::from))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_is_found_by_the_user_id() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\nann:x:1000:1000::/home/ann:/bin/sh\n";
        assert_eq!(home_of(passwd, 1000), Some("/home/ann".into()));
        assert_eq!(home_of(passwd, 7), None);
    }

    #[test]
    fn a_comment_in_fstab_mounts_nothing() {
        let fstab = "# UUID=1 /mnt/persist ext4\nUUID=2 /srv ext4 defaults 0 2\n";
        assert!(!lists(fstab, Path::new("/mnt/persist")));
        assert!(lists(fstab, Path::new("/srv")));
    }
}
