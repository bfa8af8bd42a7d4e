//! `spotkeep setup --upgrade FILE`: replaces the program on the disk under a running fleet.
//!
//! ```text
//! copy ─ run --version as the user ─ rename ─ write units ─ restart the keeper ─ READY
//!                                                  └──────────────┴─▶ otherwise: roll back
//! ```
//!
//! Root executes the file only as a copy that only root can change.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::account;
use crate::systemd::install;
use crate::systemd::units::{KEEPER, UnitPaths};
use state::layout::DataDir;
use sys::error::{Context as _, Error, Hint as _, Result, anyhow, bail, ensure};
use sys::failpoint::{Point, point};
use sys::prefix::Prefix;
use sys::process::{self, Signal};
use sys::run_as::{Groups, run_as};
use sys::{command, files, user};

/// A program prints its version at once, and writes its units within the time of a reload.
const LIMIT: Duration = Duration::from_secs(40);

/// The result of an upgrade.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Upgraded {
    /// The file is the installed program.
    Already(String),
    /// The program was replaced.
    Done {
        /// The version before.
        from: String,
        /// The version now.
        to: String,
        /// Whether a running keeper was restarted with it.
        restarted: bool,
    },
}

impl fmt::Display for Upgraded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Already(version) => write!(f, "already version {version}; nothing was changed"),
            Self::Done {
                from,
                to,
                restarted: true,
            } => write!(
                f,
                "replaced {from} by {to}; its keeper is ready, and no agent was touched"
            ),
            Self::Done { from, to, .. } => write!(f, "replaced {from} by {to}; no keeper ran"),
        }
    }
}

/// Replaces the data directory's program by `file` and restarts the keeper with it. Agents go on.
///
/// # Errors
/// This process is not root; users other than root can write to the directory; the file is not a
/// spotkeep; the new keeper was not ready in time, and the old one is back.
pub fn upgrade(data_dir: &DataDir, file: &Path) -> Result<Upgraded> {
    if user::id() != 0 {
        let (data_dir, file) = (data_dir.dir().display(), file.display());
        return Err(anyhow!("an upgrade needs root")).hint(format!(
            "sudo spotkeep --data-dir {data_dir} setup --upgrade {file}"
        ));
    }
    let program = data_dir.program();
    let bin = program.parent().context("the program has no directory")?;
    refuse_where_others_write(data_dir.dir(), bin)?;
    let user = UnitPaths::from_data_dir(data_dir)?.user;
    let place = UpgradeFiles {
        new: bin.join(".spotkeep.new"),
        previous: bin.join("spotkeep.prev"),
        spare: bin.join(".spotkeep.spare"),
        program,
    };
    place.copy_in(file)?;
    let to = match version(&place.new, &user) {
        Ok(to) => to,
        Err(error) => {
            fs::remove_file(&place.new).ok();
            return Err(error.context(format!("{} is not a spotkeep program", file.display())));
        }
    };
    let from = version(&place.program, &user).unwrap_or_else(|_| "(unknown version)".into());
    if same(&place.new, &place.program)? {
        fs::remove_file(&place.new).ok();
        return Ok(Upgraded::Already(to));
    }
    point(Point::UpgradeCopied);
    let restarted = install::is_active(KEEPER)?;
    place.swap()?;
    point(Point::UpgradeSwapped);
    match begin(data_dir, &place.program, restarted) {
        Ok(()) => Ok(Upgraded::Done {
            from,
            to,
            restarted,
        }),
        Err(why) => Err(place.back(data_dir, restarted, why, &to)),
    }
}

/// The files of an upgrade, all in one directory.
struct UpgradeFiles {
    program: PathBuf,
    previous: PathBuf,
    new: PathBuf,
    spare: PathBuf,
}

impl UpgradeFiles {
    /// Copies the file to where only root can change it.
    fn copy_in(&self, file: &Path) -> Result<()> {
        let mut from =
            File::open(file).with_context(|| format!("cannot read {}", file.display()))?;
        ensure!(
            from.metadata()?.is_file(),
            "{} is not a file",
            file.display()
        );
        // A leftover of an interrupted upgrade.
        fs::remove_file(&self.new).ok();
        let mut copy = || -> io::Result<()> {
            let mut to = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&self.new)?;
            io::copy(&mut from, &mut to)?;
            to.set_permissions(fs::Permissions::from_mode(0o755))?;
            to.sync_all()
        };
        copy_or_remove(copy(), &self.new)
    }

    /// Replaces the program and keeps the old one; there is a program at every moment.
    fn swap(&self) -> Result<()> {
        let swap = || -> io::Result<()> {
            if self.program.exists() {
                fs::remove_file(&self.spare).or_else(absent)?;
                fs::hard_link(&self.program, &self.spare)?;
                fs::rename(&self.spare, &self.previous)?;
            }
            fs::rename(&self.new, &self.program)?;
            self.sync()
        };
        swap().with_context(|| format!("cannot replace {}", self.program.display()))
    }

    /// Rolls back to the old program, with its units and its keeper. Returns the error to report.
    fn back(&self, data_dir: &DataDir, restart: bool, why: Error, to: &str) -> Error {
        let back = || -> Result<()> {
            fs::remove_file(&self.spare).or_else(absent)?;
            fs::hard_link(&self.previous, &self.spare)?;
            fs::rename(&self.spare, &self.program)?;
            self.sync()?;
            begin(data_dir, &self.program, restart)
        };
        match back() {
            Ok(()) => why.context(format!("{to} did not work, and the version before is back")),
            Err(worse) => why.context(format!(
                "{to} did not work, and the version before did not come back ({worse:#})"
            )),
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.program.parent().map_or(Ok(()), files::sync_dir)
    }
}

fn copy_or_remove(copied: io::Result<()>, new: &Path) -> Result<()> {
    if copied.is_err() {
        fs::remove_file(new).ok();
    }
    copied.with_context(|| format!("cannot write {}", new.display()))
}

fn absent(error: io::Error) -> io::Result<()> {
    match error.kind() {
        io::ErrorKind::NotFound => Ok(()),
        _ => Err(error),
    }
}

/// Has a program write its units, and restarts the keeper with it.
fn begin(data_dir: &DataDir, program: &Path, restart: bool) -> Result<()> {
    if !restart {
        return Ok(());
    }
    // The old name of --data-dir, which every version reads.
    let alias = "--root";
    let mut units = Command::new(program);
    units.arg(alias).arg(data_dir.dir()).arg("units");
    let output = command::run(&mut units, LIMIT)?;
    if !output.status.success() {
        bail!("it cannot write its units: {}", output.stderr);
    }
    install::restart_keeper().context("its keeper was not ready in time")
}

/// Returns the version that a program prints. It is run as the user, since it may be any program.
fn version(program: &Path, user: &str) -> Result<String> {
    let account = account::find(&Prefix::new(None), user)?
        .with_context(|| format!("there is no account {user}"))?;
    process::close_descriptors_on_exec();
    let (uid, gid) = (account.uid, account.gid);
    let mut command = run_as(uid, gid, Groups::OfAccount, Signal::Kill, program);
    command.arg("--version");
    let output = command::run(&mut command, LIMIT)?;
    let said = output.stdout.trim();
    match said.strip_prefix("spotkeep ") {
        Some(version) if output.status.success() && is_version(version) => Ok(version.to_owned()),
        _ => bail!("its --version prints {said:?} {}", output.stderr),
    }
}

fn is_version(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_digit())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b".-+".contains(&byte))
}

fn same(one: &Path, other: &Path) -> Result<bool> {
    Ok(files::read_optional(one)? == files::read_optional(other)?)
}

/// Refuses if users other than root can change `bin` or the data directory itself.
fn refuse_where_others_write(data_dir: &Path, bin: &Path) -> Result<()> {
    for dir in [data_dir, bin] {
        let meta =
            fs::symlink_metadata(dir).with_context(|| format!("cannot read {}", dir.display()))?;
        let mode = meta.permissions().mode();
        // In a sticky directory only root can rename what root owns.
        let closed = mode & 0o022 == 0 || (mode & 0o1000 != 0 && dir == data_dir);
        if !meta.is_dir() || meta.uid() != 0 || !closed {
            return Err(anyhow!(
                "{} can be changed by users other than root, and root executes what is in it",
                dir.display()
            ))
            .hint("sudo spotkeep setup    # corrects the owners");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_recognised() {
        for good in ["0.1.0", "1.2.3-rc.1+deb12"] {
            assert!(is_version(good), "{good}");
        }
        for bad in ["", "v1", "1.0 or so", "1.0\nroot"] {
            assert!(!is_version(bad), "{bad}");
        }
    }

    #[test]
    fn a_directory_that_others_can_change_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let bin = dir.path().join("bin");
        fs::create_dir(&bin).unwrap();
        let set = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        let check = || refuse_where_others_write(dir.path(), &bin).is_ok();
        let is_root = user::id() == 0;
        set(dir.path(), 0o1775);
        set(&bin, 0o755);
        assert_eq!(check(), is_root);
        set(dir.path(), 0o775);
        assert!(!check());
        set(dir.path(), 0o1775);
        set(&bin, 0o1775);
        assert!(!check());
        fs::remove_dir(&bin).unwrap();
        std::os::unix::fs::symlink("/usr/bin", &bin).unwrap();
        assert!(!check());
    }

    #[test]
    fn a_swap_keeps_the_old_program() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let place = UpgradeFiles {
            program: at("spotkeep"),
            previous: at("spotkeep.prev"),
            new: at(".new"),
            spare: at(".spare"),
        };
        for (content, previous) in [("one", None), ("two", Some("one")), ("three", Some("two"))] {
            fs::write(at("file"), content).unwrap();
            place.copy_in(&at("file")).unwrap();
            place.swap().unwrap();
            assert_eq!(fs::read_to_string(&place.program).unwrap(), content);
            assert_eq!(
                fs::read_to_string(&place.previous).ok().as_deref(),
                previous
            );
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
    }
}
