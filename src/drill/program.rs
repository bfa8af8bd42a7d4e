//! Which Claude a drill is played with, and where.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::error::{Context as _, Result, ensure};
use crate::os::command;
use crate::os::user;

/// The claude to play with: the one that was asked for, `SPOTKEEP_CLAUDE`, the first on the
/// `PATH`, or the newest that was fetched into `.claude-bin`. `None`: the stand-in plays.
///
/// # Errors
/// The one that was asked for is not there.
pub fn find(asked: Option<&Path>) -> Result<Option<PathBuf>> {
    let named = asked
        .map(Path::to_path_buf)
        .or_else(|| std::env::var_os("SPOTKEEP_CLAUDE").map(PathBuf::from));
    if let Some(path) = named {
        ensure!(path.is_file(), "there is no claude at {}", path.display());
        return Ok(Some(path.canonicalize()?));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).map(|dir| dir.join("claude"));
    let found = on_path.into_iter().find(|path| path.is_file());
    Ok(found.or_else(|| newest(Path::new(".claude-bin"))))
}

/// The newest of `DIR/VERSION/claude`.
fn newest(dir: &Path) -> Option<PathBuf> {
    let versions = fs::read_dir(dir).ok()?;
    versions
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.join("claude").is_file())
        .max_by_key(|path| version_key(&path.file_name().unwrap_or_default().to_string_lossy()))
        .and_then(|path| path.join("claude").canonicalize().ok())
}

fn version_key(version: &str) -> Vec<u64> {
    version
        .split('.')
        .map(|part| part.parse().unwrap_or(0))
        .collect()
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
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_is_newest_by_number() {
        let dir = tempfile::tempdir().unwrap();
        for version in ["2.1.99", "2.1.330", "2.1.197"] {
            fs::create_dir(dir.path().join(version)).unwrap();
            fs::write(dir.path().join(version).join("claude"), "").unwrap();
        }
        fs::create_dir(dir.path().join("9.0.0")).unwrap();
        let newest = newest(dir.path()).unwrap();
        assert!(newest.ends_with("2.1.330/claude"), "{}", newest.display());
    }
}
