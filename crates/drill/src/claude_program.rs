//! Which Claude a drill is played with, and where.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use sys::command;
use sys::error::{Context as _, Result, ensure};
use sys::user;

/// The claude to play with: the one that was asked for, `SPOTKEEP_CLAUDE` (not as root), or the
/// first on the `PATH`. `None`: the fake plays. Nothing is looked for in the working directory,
/// which a cloned repository may have filled.
///
/// # Errors
/// The one that was asked for is not there.
pub fn find(asked: Option<&Path>) -> Result<Option<PathBuf>> {
    let of_environment = || {
        let named = std::env::var_os("SPOTKEEP_CLAUDE").filter(|_| user::id() != 0);
        named.map(PathBuf::from)
    };
    if let Some(path) = asked.map(Path::to_path_buf).or_else(of_environment) {
        ensure!(path.is_file(), "there is no claude at {}", path.display());
        return Ok(Some(path.canonicalize()?));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    Ok(first_on_path(&path))
}

/// The first `claude` in a directory of `path`. One that is relative, or empty, is the working
/// directory's.
fn first_on_path(path: &OsStr) -> Option<PathBuf> {
    std::env::split_paths(path)
        .filter(|dir| dir.is_absolute())
        .map(|dir| dir.join("claude"))
        .find(|path| path.is_file())
}

/// Whether every user can reach and execute the program at `path`.
#[must_use]
pub fn is_everybodys(path: &Path) -> bool {
    let Ok(path) = path.canonicalize() else {
        return false;
    };
    let mode = |path: &Path| fs::metadata(path).map_or(0, |meta| meta.permissions().mode());
    mode(&path) & 0o005 == 0o005 && path.ancestors().skip(1).all(|dir| mode(dir) & 0o001 != 0)
}

/// The first word of what `claude --version` says.
///
/// # Errors
/// It cannot be run.
pub fn version(claude: &Path, mut with: Command) -> Result<String> {
    with.arg("--version");
    let output = command::run(&mut with, Duration::from_secs(30))
        .with_context(|| format!("cannot ask {} for its version", claude.display()))?;
    let version = output.stdout.split_whitespace().next();
    Ok(version.context("claude says no version")?.to_owned())
}

/// Whether a network and mount namespace of our own can be had: as root, with the tools.
#[must_use]
pub fn can_isolate() -> bool {
    user::id() == 0
        && isolated("ip link set lo up && setpriv --pdeathsig TERM mount --version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
}

/// A shell that runs `script` where there is only loopback, and where no mount is seen outside.
#[must_use]
pub fn isolated(script: &str) -> Command {
    let mut command = Command::new("unshare");
    command.args(["-n", "-m", "--propagation", "private", "sh", "-c", script]);
    command::look_in_absolute_directories(&mut command);
    command
}

/// As [`isolated`], in a session without a terminal and among processes of its own: whatever it
/// starts ends with it. It is told by SIGTERM when this process ends.
#[must_use]
pub fn confined(script: &str) -> Command {
    let mut command = Command::new("setsid");
    // unshare itself lets SIGTERM pass by (unshare(1)); its end is what the first process is told of.
    command.args(["--wait", "setpriv", "--pdeathsig", "KILL", "unshare"]);
    command.args(["-n", "-m", "-p", "--fork", "--kill-child=TERM"]);
    command.args(["--mount-proc", "--propagation", "private"]);
    command.args(["sh", "-c", script]);
    command::look_in_absolute_directories(&mut command);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_claude_comes_from_the_working_directory() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("claude"), "").unwrap();
        let found = |path: &str| first_on_path(OsStr::new(path));
        let dir = dir.path().display();
        // Tests run in the crate's directory; `src/drill` is relative to it, as `.` is.
        assert_eq!(found(":.:src/drill"), None);
        assert_eq!(
            found(&format!("nowhere::{dir}")),
            Some(format!("{dir}/claude").into())
        );
    }

    #[test]
    fn a_program_in_a_private_directory_is_not_everybodys() {
        let dir = tempfile::tempdir_in("/tmp").unwrap();
        let program = dir.path().join("claude");
        fs::write(&program, "").unwrap();
        let set = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        set(&program, 0o755);
        set(dir.path(), 0o700);
        assert!(!is_everybodys(&program), "its directory is 0700");
        set(dir.path(), 0o711);
        assert!(is_everybodys(&program));
        set(&program, 0o750);
        assert!(!is_everybodys(&program));
        assert!(!is_everybodys(&dir.path().join("none")));
    }
}
