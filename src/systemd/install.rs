//! Installation and removal of the systemd units, as root.
//!
//! All paths are below a `prefix`, `/` on the machine itself. Nothing here follows paths that a
//! user can write: `/etc` is root's.

use std::fmt;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::units::{ALL, FORMER, KEEPER, Shipped, UNIT_DIR, UnitPaths, is_keeper_of, render};
use sys::command;
use sys::command::Output;
use sys::error::{Context as _, Hint as _, Result, anyhow};
use sys::files;

/// systemctl answers at once; reloading a manager with many units takes a second or two.
const LIMIT: Duration = Duration::from_secs(30);

/// A start waits for READY, at most for the unit's own `TimeoutStartSec`.
pub const START_LIMIT: Duration = Duration::from_secs(70);

/// A difference between an installed file and what this version ships.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Difference {
    /// The file is missing.
    Missing(PathBuf),
    /// The file has another text.
    Differs(PathBuf),
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(path) => write!(f, "{} is missing", path.display()),
            Self::Differs(path) => write!(f, "{} is not as shipped", path.display()),
        }
    }
}

/// Returns the files that are missing or differ. Empty: the units are as shipped.
///
/// # Errors
/// A file exists and cannot be read, or [`render`] refuses the paths.
pub fn differences(prefix: &Path, paths: &UnitPaths) -> Result<Vec<Difference>> {
    let mut found = Vec::new();
    for Shipped { path, text } in render(paths)? {
        let path = prefix.join(path);
        match files::read_optional(&path)? {
            None => found.push(Difference::Missing(path)),
            Some(bytes) if bytes != text.as_bytes() => found.push(Difference::Differs(path)),
            Some(_) => {}
        }
    }
    Ok(found)
}

/// Removes units of former versions, writes what is missing or differs, and returns these files.
/// Nothing is reloaded or started.
///
/// # Errors
/// A file cannot be written or removed.
pub fn install(prefix: &Path, paths: &UnitPaths) -> Result<Vec<PathBuf>> {
    remove_former(prefix)?;
    let mut written = Vec::new();
    for Shipped { path, text } in render(paths)? {
        let path = prefix.join(path);
        if files::read_optional(&path)?.as_deref() == Some(text.as_bytes()) {
            continue;
        }
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        }
        files::write_atomic(&path, text.as_bytes())?;
        // Units hold no secret, and every user may run `systemctl cat`.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644))?;
        written.push(path);
    }
    Ok(written)
}

/// Removes spotkeep's files; returns those that existed. Units that run continue until they are
/// stopped, which is allowed after a reload of the manager.
///
/// # Errors
/// A file cannot be removed.
pub fn remove(prefix: &Path, paths: &UnitPaths) -> Result<Vec<PathBuf>> {
    let mut removed = remove_former(prefix)?;
    for Shipped { path, .. } in render(paths)? {
        remove_file(prefix.join(path), &mut removed)?;
    }
    Ok(removed)
}

fn remove_former(prefix: &Path) -> Result<Vec<PathBuf>> {
    let mut removed = Vec::new();
    for name in FORMER {
        remove_file(prefix.join(UNIT_DIR).join(name), &mut removed)?;
    }
    Ok(removed)
}

/// Removes a file, and adds it to `removed` if it existed.
fn remove_file(path: PathBuf, removed: &mut Vec<PathBuf>) -> Result<()> {
    match fs::remove_file(&path) {
        Ok(()) => removed.push(path),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => {
            return Err(error).with_context(|| format!("cannot remove {}", path.display()));
        }
    }
    Ok(())
}

/// Whether systemd runs here and has a keeper's unit for this data directory.
#[must_use]
pub fn keeps(prefix: &Path, data_dir: &Path) -> bool {
    let unit = prefix.join(UNIT_DIR).join(KEEPER);
    prefix.join("run/systemd/system").is_dir()
        && fs::read_to_string(unit).is_ok_and(|text| is_keeper_of(&text, data_dir))
}

/// Enables the units at boot.
///
/// # Errors
/// systemctl refused.
pub fn enable(prefix: &Path) -> Result<()> {
    systemctl(prefix, &[&["enable"], &ALL[..]].concat(), LIMIT).map(drop)
}

/// Whether all units are enabled at boot.
///
/// # Errors
/// systemctl cannot be run.
pub fn is_enabled(prefix: &Path) -> Result<bool> {
    let output = run(prefix, &[&["is-enabled"], &ALL[..]].concat(), LIMIT)?;
    Ok(output
        .stdout
        .lines()
        .filter(|line| *line == "enabled")
        .count()
        == ALL.len())
}

/// Disables the units at boot. Call it before [`remove`].
///
/// # Errors
/// systemctl refused.
pub fn disable(prefix: &Path) -> Result<()> {
    systemctl(prefix, &[&["disable"], &ALL[..]].concat(), LIMIT).map(drop)
}

/// Has the manager read the units again.
///
/// # Errors
/// systemctl refused.
pub fn reload() -> Result<()> {
    systemctl(Path::new("/"), &["daemon-reload"], LIMIT).map(drop)
}

/// Starts the units that do not run, and waits until the keeper is ready.
///
/// # Errors
/// A unit does not start; the error has systemd's message.
pub fn start() -> Result<()> {
    systemctl(
        Path::new("/"),
        &[&["start"], &ALL[..]].concat(),
        START_LIMIT,
    )
    .map(drop)
}

/// Restarts the keeper and waits until it is ready; agents are not touched.
///
/// # Errors
/// It is not ready in time.
pub fn restart_keeper() -> Result<()> {
    systemctl(Path::new("/"), &["restart", KEEPER], START_LIMIT).map(drop)
}

/// Stops the units, agents included: the save first, then the keeper, then tmux.
///
/// Two of them have `RefuseManualStop=yes`, which is overridden for this one stop.
///
/// # Errors
/// systemctl refused.
pub fn stop() -> Result<()> {
    let overrides = ALL.map(|unit| Path::new("/run/systemd/system").join(format!("{unit}.d")));
    for dir in &overrides {
        fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        files::write_atomic(&dir.join("stop.conf"), b"[Unit]\nRefuseManualStop=no\n")?;
    }
    reload()?;
    let stopped = systemctl(Path::new("/"), &[&["stop"], &ALL[..]].concat(), START_LIMIT);
    for dir in &overrides {
        fs::remove_dir_all(dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    }
    reload()?;
    stopped.map(drop)
}

/// Whether a unit runs.
///
/// # Errors
/// systemctl cannot be run.
pub fn is_active(unit: &str) -> Result<bool> {
    Ok(run(Path::new("/"), &["is-active", unit], LIMIT)?
        .status
        .success())
}

/// Whether a unit runs, or is starting or stopping. systemd starts a keeper that has ended again
/// after a delay; until then it is `activating`.
///
/// # Errors
/// systemctl cannot be run, or does not answer.
pub fn is_under_way(unit: &str) -> Result<bool> {
    let output = run(Path::new("/"), &["is-active", unit], LIMIT)?;
    let states = ["active", "reloading", "activating", "deactivating"];
    Ok(states.contains(&output.stdout.trim()))
}

fn systemctl(prefix: &Path, arguments: &[&str], limit: Duration) -> Result<Output> {
    let output = run(prefix, arguments, limit)?;
    if !output.status.success() {
        let unit = arguments.get(1).unwrap_or(&KEEPER);
        return Err(anyhow!(
            "systemctl {}: {}",
            arguments.join(" "),
            output.stderr
        ))
        .hint(format!("journalctl -u {unit} -n 30"));
    }
    Ok(output)
}

fn run(prefix: &Path, arguments: &[&str], limit: Duration) -> Result<Output> {
    let mut command = Command::new("systemctl");
    if prefix != Path::new("/") {
        // Offline: systemctl changes links only, and does not ask a manager.
        command.arg("--root").arg(prefix);
    }
    command::run(command.args(arguments), limit).context("cannot run systemctl")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths() -> UnitPaths {
        UnitPaths {
            data_dir: "/mnt/persist".into(),
            is_mount: true,
            user: "ann".into(),
            home: "/home/ann".into(),
            program: "/mnt/persist/bin/spotkeep".into(),
        }
    }

    #[test]
    fn a_second_installation_changes_nothing_and_restores_an_edited_unit() {
        let dir = tempfile::tempdir().unwrap();
        let first = install(dir.path(), &paths()).unwrap();
        assert_eq!(first.len(), 7);
        assert_eq!(
            install(dir.path(), &paths()).unwrap(),
            Vec::<PathBuf>::new()
        );
        assert_eq!(differences(dir.path(), &paths()).unwrap(), []);
        fs::write(&first[1], "[Service]\n").unwrap();
        fs::remove_file(&first[2]).unwrap();
        assert_eq!(
            differences(dir.path(), &paths()).unwrap(),
            [
                Difference::Differs(first[1].clone()),
                Difference::Missing(first[2].clone())
            ]
        );
        assert_eq!(install(dir.path(), &paths()).unwrap(), first[1..3]);
        let data_dir = Path::new("/mnt/persist");
        assert!(!keeps(dir.path(), data_dir), "systemd does not run here");
        fs::create_dir_all(dir.path().join("run/systemd/system")).unwrap();
        assert!(keeps(dir.path(), data_dir) && !keeps(dir.path(), Path::new("/mnt")));
        assert_eq!(remove(dir.path(), &paths()).unwrap(), first);
        assert!(!keeps(dir.path(), data_dir));
        assert_eq!(remove(dir.path(), &paths()).unwrap(), Vec::<PathBuf>::new());
    }
}
