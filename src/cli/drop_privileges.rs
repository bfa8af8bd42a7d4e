//! Privilege drop: verbs that root runs on another user's data directory.
//!
//! An agent can write anything into its data directory: the name of a program in `spotkeep.toml`, a
//! link in the state. So root reads and runs nothing of it. A process of the agents' user must
//! never run on root's terminal: an agent has the same user, can ptrace it and type into root's
//! shell.
//!
//! So a verb that only reads runs as the owner, in its own session without a terminal, and its
//! output comes back through a pipe. Every other verb is refused, with a hint how the owner runs
//! it. Verbs for root (`setup`, `backup`) check the owner themselves.

use std::ffi::{OsStr, OsString};
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

/// Environment variables of root that are passed on: they are not secret, and change the result.
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
    /// Nothing, or the verb checks the owner itself.
    Own,
    /// Reads and prints; needs no terminal.
    Reads,
    /// Changes something, or needs a terminal.
    Acts,
}

/// Runs this command as the owner of the data directory at `at`, if this process is root and the
/// owner is another user. Returns the exit code, or `None` if this process runs the verb itself.
///
/// # Errors
/// The verb does not only read, or `setpriv` is missing.
pub(super) fn act_as_owner(at: &Path, access: Access) -> Result<Option<ExitCode>> {
    if access == Access::Own || user::id() != 0 {
        return Ok(None);
    }
    let Some(uid) = other_owner(at) else {
        return Ok(None);
    };
    match access {
        Access::Own | Access::Acts => refuse(at, uid),
        Access::Reads => read_as(at, uid).map(Some),
    }
}

/// Returns whether this is root, and `at` is the data directory of another user.
pub(super) fn is_anothers(at: &Path) -> bool {
    user::id() == 0 && other_owner(at).is_some()
}

/// Runs this command as the owner, without a terminal.
fn read_as(at: &Path, uid: u32) -> Result<ExitCode> {
    // The owner's process must not inherit root's terminal or open files.
    process::close_descriptors_on_exec();
    let (_held, program) = process::inheritable_self()?;
    let known = account::find(&Prefix::new(None), &uid.to_string())?;
    // The group that a foreign disk names is not used. A user without an account has no other
    // groups.
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

/// Returns the error with a hint how the owner runs this command.
fn refuse(at: &Path, uid: u32) -> Result<Option<ExitCode>> {
    let name = user::name(uid);
    let refusal = Err(anyhow!(
        "{} belongs to {name}: root does not change it, and does not run a process of {name} \
         on root's terminal",
        at.display()
    ))
    .kind(ErrorKind::Usage);
    refusal.hint(as_user_hint(uid, &this_command(at)))
}

/// Returns the arguments of this command, with the absolute path of the data directory.
fn this_command(at: &Path) -> Vec<String> {
    let at = fs::canonicalize(at).unwrap_or_else(|_| at.to_owned());
    let mut given = std::env::args_os();
    let program = given.next().unwrap_or_default();
    let program = program.to_string_lossy().into_owned();
    let program = match program.contains('/') {
        true => std::env::current_exe().map_or(program, |path| path.display().to_string()),
        false => "spotkeep".to_owned(),
    };
    let mut words = vec![program, "--data-dir".to_owned(), at.display().to_string()];
    let others = without_data_dir(given).into_iter();
    words.extend(others.map(|word| word.to_string_lossy().into_owned()));
    words
}

/// Returns `arguments` without the option that names the data directory, in each of its forms.
pub(super) fn without_data_dir(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments = arguments;
    let mut others = Vec::new();
    while let Some(word) = arguments.next() {
        match word.to_string_lossy().as_ref() {
            "--" => {
                others.push(word);
                others.extend(arguments);
                break;
            }
            "--data-dir" | "--root" | "-D" => drop(arguments.next()),
            text if text.starts_with("--data-dir=") || text.starts_with("--root=") => {}
            text if text.starts_with("-D") => {}
            _ => others.push(word),
        }
    }
    others
}

/// Returns the owner of a data directory, unless it is root. For a link, its own owner counts, so
/// that no user can use root's directory as session state.
fn other_owner(at: &Path) -> Option<u32> {
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
    fn no_secret_of_roots_environment_is_passed_on() {
        for kept in ["TZ", "LC_ALL", "SPOTKEEP_DATA_DIR", "SPOTKEEP_ROOT"] {
            assert!(is_kept(OsStr::new(kept)), "{kept}");
        }
        for not in ["ANTHROPIC_API_KEY", "HOME", "SUDO_USER", "XDG_RUNTIME_DIR"] {
            assert!(!is_kept(OsStr::new(not)), "{not}");
        }
    }

    #[test]
    fn for_a_link_its_own_owner_counts() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(other_owner(dir.path()), None, "no data directory");
        let mine = dir.path().join("mine");
        fs::create_dir(&mine).unwrap();
        std::os::unix::fs::symlink(&mine, dir.path().join("session-state")).unwrap();
        let me = user::id();
        let of_link = other_owner(dir.path());
        assert_eq!(of_link, (me != 0).then_some(me));
        if me == 0 {
            let link = dir.path().join("session-state");
            std::os::unix::fs::lchown(&link, Some(48_211), Some(48_212)).unwrap();
            assert_eq!(other_owner(dir.path()), Some(48_211));
        }
    }
}
