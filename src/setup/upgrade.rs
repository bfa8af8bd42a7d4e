//! `setup --upgrade FILE`: another program in the place of this one, under a working fleet.
//!
//! ```text
//! copy ─ ask it for its version, as the user ─ rename ─ its units ─ restart the keeper ─ READY
//!                                                            └───────────┴─▶ otherwise: back
//! ```
//!
//! Root executes the file only once it is a copy that nobody but root can change.

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

/// A program says its version at once, and writes its units within the time of a reload.
const LIMIT: Duration = Duration::from_secs(40);

/// What an upgrade came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Upgraded {
    /// The file is the program that is there.
    Already(String),
    /// From one version to another.
    Done {
        /// What was there.
        from: String,
        /// What is there now.
        to: String,
        /// Whether a keeper ran, and was restarted with it.
        restarted: bool,
    },
}

impl fmt::Display for Upgraded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Already(version) => write!(f, "it is {version} already; nothing was changed"),
            Self::Done {
                from,
                to,
                restarted: true,
            } => write!(
                f,
                "{to} in place of {from}; its keeper is ready, and no agent was touched"
            ),
            Self::Done { from, to, .. } => write!(f, "{to} in place of {from}; no keeper ran"),
        }
    }
}

/// Puts `file` in the place of the data directory's program and restarts the keeper with it. Agents go on.
///
/// # Errors
/// Not root; the place is not safe from others; the file is no spotkeep; the new keeper was not
/// ready in time, and the old one is back.
pub fn upgrade(data_dir: &DataDir, file: &Path) -> Result<Upgraded> {
    if user::id() != 0 {
        let (data_dir, file) = (data_dir.dir().display(), file.display());
        return Err(anyhow!("an upgrade takes root")).hint(format!(
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
    place.take_copy(file)?;
    let to = match version(&place.new, &user) {
        Ok(to) => to,
        Err(error) => {
            fs::remove_file(&place.new).ok();
            return Err(error.context(format!("{} is no spotkeep", file.display())));
        }
    };
    let from = version(&place.program, &user).unwrap_or_else(|_| "nothing that runs".into());
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
    fn take_copy(&self, file: &Path) -> Result<()> {
        let mut from =
            File::open(file).with_context(|| format!("cannot read {}", file.display()))?;
        ensure!(from.metadata()?.is_file(), "{} is no file", file.display());
        // What an upgrade that was cut left behind.
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

    /// The new one in, and the old one kept; there is a program at every moment.
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

    /// The old one back in its place, with its units and its keeper. Returns what to tell.
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

/// Has a program put its own units into place, and the keeper run it.
fn begin(data_dir: &DataDir, program: &Path, restart: bool) -> Result<()> {
    if !restart {
        return Ok(());
    }
    let mut units = Command::new(program);
    // Every version knows the option by this name.
    units.arg("--root").arg(data_dir.dir()).arg("units");
    let output = command::run(&mut units, LIMIT)?;
    if !output.status.success() {
        bail!("it does not write its units: {}", output.stderr);
    }
    install::restart_keeper().context("its keeper was not ready in time")
}

/// What a program says of itself, asked as the user: whatever it is, it is not run as root for that.
fn version(program: &Path, user: &str) -> Result<String> {
    let account = account::find(&Prefix::new(None), user)?
        .with_context(|| format!("there is no account {user}"))?;
    process::keep_descriptors_to_ourselves();
    let (uid, gid) = (account.uid, account.gid);
    let mut command = run_as(uid, gid, Groups::OfAccount, Signal::Kill, program);
    command.arg("--version");
    let output = command::run(&mut command, LIMIT)?;
    let said = output.stdout.trim();
    match said.strip_prefix("spotkeep ") {
        Some(version) if output.status.success() && is_version(version) => Ok(version.to_owned()),
        _ => bail!("asked for its version, it says {said:?} {}", output.stderr),
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

/// The user owns what is in the data directory, but neither `bin` nor the way there.
fn refuse_where_others_write(data_dir: &Path, bin: &Path) -> Result<()> {
    for dir in [data_dir, bin] {
        let meta = fs::symlink_metadata(dir)
            .with_context(|| format!("cannot look at {}", dir.display()))?;
        let mode = meta.permissions().mode();
        // In a sticky directory nobody can rename what is root's.
        let closed = mode & 0o022 == 0 || (mode & 0o1000 != 0 && dir == data_dir);
        if !meta.is_dir() || meta.uid() != 0 || !closed {
            return Err(anyhow!(
                "{} can be changed by others than root, who would execute what is in it",
                dir.display()
            ))
            .hint("sudo spotkeep setup, which sets the owners right");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_told_from_anything_else() {
        for good in ["0.1.0", "1.2.3-rc.1+deb12"] {
            assert!(is_version(good), "{good}");
        }
        for bad in ["", "v1", "1.0 or so", "1.0\nroot"] {
            assert!(!is_version(bad), "{bad}");
        }
    }

    #[test]
    fn a_place_that_others_can_change_is_refused() {
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
    fn a_swap_keeps_the_old_one() {
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
            place.take_copy(&at("file")).unwrap();
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
