//! What root may do on a data directory that is somebody else's.
//!
//! An agent can put what it likes there: a program that `spotkeep.toml` names, a link in the state.
//! So nothing of it is read or run as root. And a process of the agents' user must never be on
//! root's terminal: an agent, which is that same user, can ptrace it and type into root's shell.
//! Hence a verb that only reads runs as the owner in a session of its own, without a terminal, and
//! what it prints comes back through a pipe; every other verb refuses, and says how the owner runs
//! it. Verbs of root's own (`setup`, `backup`) guard themselves.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};

use super::output::{relay, relay_complaint};
use crate::setup::account;
use sys::error::{Context as _, ErrorKind, Hint as _, Result, anyhow};
use sys::prefix::Prefix;
use sys::process::{self, Signal};
use sys::run_as::{Groups, run_as};
use sys::terminal::pass_on;
use sys::thread;
use sys::user::{self, as_user_hint};

/// What of root's environment is no secret, and makes a difference.
const KEPT: [&str; 5] = [
    "LANG",
    "GCE_METADATA_HOST",
    "RUST_BACKTRACE",
    "RUST_LOG",
    "TZ",
];

/// What a verb does on a data directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Nothing, or it guards itself.
    Own,
    /// It reads and prints, and needs no terminal.
    Reads,
    /// It changes something, or it needs a terminal.
    Acts,
}

/// Runs this command as the owner of the data directory at `at`, where this is root and the owner
/// is somebody else; returns how it ended. `None`: this process goes on itself.
///
/// # Errors
/// The verb does not only read, or there is no `setpriv`.
pub(super) fn act_as_owner(at: &Path, access: Access) -> Result<Option<ExitCode>> {
    if access == Access::Own || user::id() != 0 {
        return Ok(None);
    }
    let Some(uid) = somebody_else(at) else {
        return Ok(None);
    };
    match access {
        Access::Own | Access::Acts => refuse(at, uid),
        Access::Reads => read_as(at, uid).map(Some),
    }
}

/// Whether `at` is the data directory of somebody else's than root's, and this is root.
pub(super) fn is_anothers(at: &Path) -> bool {
    user::id() == 0 && somebody_else(at).is_some()
}

/// Runs this very command as the owner, without a terminal.
fn read_as(at: &Path, uid: u32) -> Result<ExitCode> {
    // A descriptor of root's, to its terminal or to a file of its own, would be theirs too.
    process::keep_descriptors_to_ourselves();
    let (_held, program) = process::inheritable_self()?;
    let known = account::find(&Prefix::new(None), &uid.to_string())?;
    // What group a foreign disk names is no reason to be in it, and who has no account has no others.
    let (gid, groups) = match &known {
        Some(account) => (account.gid, Groups::OfAccount),
        None => (uid, Groups::None),
    };
    let mut command = run_as(uid, gid, groups, Signal::Term, program);
    command
        .args(this_command(at).into_iter().skip(1))
        .envs(std::env::vars_os().filter(|(name, _)| is_kept(name)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if let Some(account) = known {
        command
            .env("HOME", account.home)
            .env("USER", &account.name)
            .env("LOGNAME", &account.name)
            .env("SHELL", account.shell);
    }
    let acting = || format!("cannot act as {}", user::name(uid));
    let mut child = command.spawn().with_context(acting)?;
    let (out, err) = (child.stdout.take(), child.stderr.take());
    thread::both(
        "relay",
        || pass_on(err, relay_complaint),
        || pass_on(out, relay),
    );
    let status = child.wait().with_context(acting)?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}

/// Says how the owner runs this command.
fn refuse(at: &Path, uid: u32) -> Result<Option<ExitCode>> {
    let name = user::name(uid);
    let refusal = Err(anyhow!(
        "{} belongs to {name}: root neither changes anything there nor gives a process of {name} \
         its terminal",
        at.display()
    ))
    .kind(ErrorKind::Usage);
    refusal.hint(as_user_hint(uid, &this_command(at)))
}

/// The words of this command, with the data directory named in full.
fn this_command(at: &Path) -> Vec<String> {
    let at = fs::canonicalize(at).unwrap_or_else(|_| at.to_owned());
    let mut given = std::env::args_os().map(|word| word.to_string_lossy().into_owned());
    let program = given.next().unwrap_or_default();
    let program = match program.contains('/') {
        true => std::env::current_exe().map_or(program, |path| path.display().to_string()),
        false => "spotkeep".to_owned(),
    };
    let mut words = vec![program, "--data-dir".to_owned(), at.display().to_string()];
    while let Some(word) = given.next() {
        match word.as_str() {
            "--" => {
                words.push(word);
                words.extend(given);
                break;
            }
            "--data-dir" | "--root" | "-D" => drop(given.next()),
            _ if word.starts_with("--data-dir=") || word.starts_with("--root=") => {}
            _ if word.starts_with("-D") => {}
            _ => words.push(word),
        }
    }
    words
}

/// The owner of a data directory that is not root's own. A link counts as whoever made it, so that nobody can
/// pass off a directory of root's as his state.
fn somebody_else(at: &Path) -> Option<u32> {
    let state: PathBuf = fs::canonicalize(at).ok()?.join("session-state");
    let meta = fs::symlink_metadata(state).ok()?;
    (meta.uid() != 0).then(|| meta.uid())
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
        for kept in ["TZ", "LC_ALL", "SPOTKEEP_DATA_DIR", "SPOTKEEP_ROOT"] {
            assert!(is_kept(OsStr::new(kept)), "{kept}");
        }
        for not in ["ANTHROPIC_API_KEY", "HOME", "SUDO_USER", "XDG_RUNTIME_DIR"] {
            assert!(!is_kept(OsStr::new(not)), "{not}");
        }
    }

    #[test]
    fn a_link_counts_as_whoever_made_it() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(somebody_else(dir.path()), None, "no data directory");
        let mine = dir.path().join("mine");
        fs::create_dir(&mine).unwrap();
        std::os::unix::fs::symlink(&mine, dir.path().join("session-state")).unwrap();
        let me = user::id();
        let of_link = somebody_else(dir.path());
        assert_eq!(of_link, (me != 0).then_some(me));
        if me == 0 {
            let link = dir.path().join("session-state");
            std::os::unix::fs::lchown(&link, Some(48_211), Some(48_212)).unwrap();
            assert_eq!(somebody_else(dir.path()), Some(48_211));
        }
    }
}
