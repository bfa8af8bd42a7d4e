//! Root acts as the user whose root it is.
//!
//! Under `sudo spotkeep status` root would read, and with other verbs run and write, where an agent can put
//! what it likes: a program that `spotkeep.toml` names, a link in the state. And what root had written, the
//! keeper could not write any more. So root becomes the owner before anything of the root is read. Verbs
//! that are root's own (`setup`, `backup`) guard themselves.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Hint as _, Result, anyhow};
use crate::os::place::Place;
use crate::os::process;
use crate::os::user;
use crate::setup::account::{self, Account};

/// What of root's environment is no secret, and makes a difference.
const KEPT: [&str; 10] = [
    "PATH",
    "TERM",
    "COLORTERM",
    "NO_COLOR",
    "LANG",
    "TMUX",
    "GCE_METADATA_HOST",
    "RUST_BACKTRACE",
    "RUST_LOG",
    "TZ",
];

/// Goes on as the owner of the root at `at`, where this is root and the owner is somebody else: then it
/// returns only if it fails. Whoever is `apart` is not left root's terminal to type into.
///
/// # Errors
/// There is no `setpriv`.
pub(super) fn become_owner(at: &Path, apart: bool) -> Result<()> {
    let Some((uid, gid)) = somebody_else(at).filter(|_| user::id() == 0) else {
        return Ok(());
    };
    let (_held, program) = process::inheritable_self()?;
    let known = account::find(&Place::new(None), &uid.to_string())?;
    let mut command = Command::new("setpriv");
    if apart {
        command = Command::new("setsid");
        command.args(["--wait", "setpriv"]);
    }
    command
        .args(identity(uid, gid, known.as_ref()))
        .arg("--")
        .arg(program)
        .args(std::env::args_os().skip(1))
        .env_clear()
        .envs(std::env::vars_os().filter(|(name, _)| is_kept(name)));
    if let Some(account) = known {
        command
            .env("HOME", account.home)
            .env("USER", &account.name)
            .env("LOGNAME", &account.name)
            .env("SHELL", account.shell);
    }
    let error = command.exec();
    let user = user::name(uid);
    Err(anyhow!("cannot act as {user}, whose root this is: {error}")).hint(format!(
        "sudo -u {user} spotkeep --root {} ...",
        at.display()
    ))
}

/// User and group of a root that is not root's own. A link counts as whoever made it, so that nobody can
/// pass off a directory of root's as his state.
fn somebody_else(at: &Path) -> Option<(u32, u32)> {
    let state: PathBuf = fs::canonicalize(at).ok()?.join("session-state");
    let meta = fs::symlink_metadata(state).ok()?;
    (meta.uid() != 0).then(|| (meta.uid(), meta.gid()))
}

/// Arguments of `setpriv`. Who has no account here has no further groups.
fn identity(uid: u32, gid: u32, known: Option<&Account>) -> Vec<String> {
    let gid = known.map_or(gid, |account| account.gid);
    let groups = match known {
        Some(_) => "--init-groups",
        None => "--clear-groups",
    };
    vec![
        format!("--reuid={uid}"),
        format!("--regid={gid}"),
        groups.to_owned(),
    ]
}

fn is_kept(name: &OsStr) -> bool {
    name.to_str().is_some_and(|name| {
        KEPT.contains(&name) || name.starts_with("SPOTKEEP_") || name.starts_with("LC_")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_secret_of_roots_environment_goes_along() {
        for kept in ["PATH", "LC_ALL", "SPOTKEEP_ROOT"] {
            assert!(is_kept(OsStr::new(kept)), "{kept}");
        }
        for not in ["ANTHROPIC_API_KEY", "HOME", "SUDO_USER", "XDG_RUNTIME_DIR"] {
            assert!(!is_kept(OsStr::new(not)), "{not}");
        }
    }

    #[test]
    fn a_link_counts_as_whoever_made_it() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(somebody_else(dir.path()), None, "no root");
        let mine = dir.path().join("mine");
        fs::create_dir(&mine).unwrap();
        std::os::unix::fs::symlink(&mine, dir.path().join("session-state")).unwrap();
        let me = user::id();
        let of_link = somebody_else(dir.path()).map(|(uid, _)| uid);
        assert_eq!(of_link, (me != 0).then_some(me));
        if me == 0 {
            let link = dir.path().join("session-state");
            std::os::unix::fs::lchown(&link, Some(48_211), Some(48_212)).unwrap();
            assert_eq!(somebody_else(dir.path()), Some((48_211, 48_212)));
        }
    }
}
