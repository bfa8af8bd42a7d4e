//! Finds the Claude program for a drill, and makes the commands that isolate it.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use sys::command;
use sys::error::{Context as _, Result, ensure};
use sys::user;

/// Returns the claude to use: `asked`, `SPOTKEEP_CLAUDE` (not as root), or the first on the `PATH`;
/// `None` for the fake. The working directory is not searched, because it may be a cloned
/// repository.
///
/// # Errors
/// The named program does not exist.
pub fn find(asked: Option<&Path>) -> Result<Option<PathBuf>> {
    let from_env = || {
        let named = std::env::var_os("SPOTKEEP_CLAUDE").filter(|_| user::id() != 0);
        named.map(PathBuf::from)
    };
    if let Some(path) = asked.map(Path::to_path_buf).or_else(from_env) {
        ensure!(path.is_file(), "there is no claude at {}", path.display());
        return Ok(Some(path.canonicalize()?));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    Ok(first_on_path(&path))
}

/// Returns the first `claude` on `path`. Relative and empty entries, which mean the working
/// directory, are skipped.
fn first_on_path(path: &OsStr) -> Option<PathBuf> {
    std::env::split_paths(path)
        .filter(|dir| dir.is_absolute())
        .map(|dir| dir.join("claude"))
        .find(|path| path.is_file())
}

/// Whether every user can reach and execute the program at `path`.
#[must_use]
pub fn is_executable_by_all(path: &Path) -> bool {
    let Ok(path) = path.canonicalize() else {
        return false;
    };
    let mode = |path: &Path| fs::metadata(path).map_or(0, |meta| meta.permissions().mode());
    mode(&path) & 0o005 == 0o005 && path.ancestors().skip(1).all(|dir| mode(dir) & 0o001 != 0)
}

/// Returns the first word of the output of `claude --version`.
///
/// # Errors
/// It cannot be run.
pub fn version(claude: &Path, mut with: Command) -> Result<String> {
    with.arg("--version");
    let output = command::run(&mut with, Duration::from_secs(30))
        .with_context(|| format!("cannot ask {} for its version", claude.display()))?;
    let version = output.stdout.split_whitespace().next();
    Ok(version
        .context("claude --version prints nothing")?
        .to_owned())
}

/// Whether this process can create a network and mount namespace: it needs root and the tools.
#[must_use]
pub fn can_isolate() -> bool {
    user::id() == 0
        && isolated("ip link set lo up && setpriv --pdeathsig TERM mount --version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
}

/// Returns a shell command that runs `script` in a network namespace without devices but loopback,
/// and in a private mount namespace.
#[must_use]
pub fn isolated(script: &str) -> Command {
    let mut command = Command::new("unshare");
    command.args(["-n", "-m", "--propagation", "private", "sh", "-c", script]);
    command::keep_absolute_path_only(&mut command);
    command
}

/// Like [`isolated`], in a session without a terminal and in a PID namespace, so that all its
/// children end with it. It gets SIGTERM when this process ends.
#[must_use]
pub fn confined(script: &str) -> Command {
    let mut command = Command::new("setsid");
    // unshare ignores SIGTERM (unshare(1)), so it is killed, and sends SIGTERM to the first
    // process.
    command.args(["--wait", "setpriv", "--pdeathsig", "KILL", "unshare"]);
    command.args(["-n", "-m", "-p", "--fork", "--kill-child=TERM"]);
    command.args(["--mount-proc", "--propagation", "private"]);
    command.args(["sh", "-c", script]);
    command::keep_absolute_path_only(&mut command);
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
    fn a_program_in_a_private_directory_is_not_executable_by_all() {
        let dir = tempfile::tempdir_in("/tmp").unwrap();
        let program = dir.path().join("claude");
        fs::write(&program, "").unwrap();
        let set = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        set(&program, 0o755);
        set(dir.path(), 0o700);
        assert!(!is_executable_by_all(&program), "its directory is 0700");
        set(dir.path(), 0o711);
        assert!(is_executable_by_all(&program));
        set(&program, 0o750);
        assert!(!is_executable_by_all(&program));
        assert!(!is_executable_by_all(&dir.path().join("none")));
    }
}
