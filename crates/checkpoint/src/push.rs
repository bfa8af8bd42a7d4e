//! Pushes checkpoints to the remote that `spotkeep.toml` names.
//!
//! The agent can write its repository's configuration, and a push reads more of a configuration
//! than any other command: hooks, `url.*.insteadOf`, `remote.*.receivepack`, credential helpers,
//! `core.sshCommand`. So git is run in a bare repository of spotkeep's that holds only a list of
//! refs, and borrows the objects. The user's own `~/.gitconfig` and ssh keys are used, since a push
//! needs the user's credentials.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::capture::nested::nested_places;
use super::git::call::ask;
use super::{CheckpointTarget, WorkspaceLock, list};
use crate::git::{self, without_secret};
use crate::workspace;
use state::VERSION;
use state::config::Remote;
use sys::deadline::Deadline;
use sys::error::{Context as _, Hint as _, Result, anyhow};
use sys::{command, files};

/// ssh asks no questions, and does not wait for ever for a host that does not answer.
const SSH: &str = "ssh -o BatchMode=yes -o ConnectTimeout=10 -o ServerAliveInterval=10";

/// File name of the password of a push, which exists only during the push.
const PASSWORD: &str = "password";

/// Record of what the remote has, so that a push without news opens no connection, and a checkpoint
/// that was pruned here is removed there too. A checkpoint that vanished here in any other way
/// stays there: it may be the last copy.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Pushed {
    version: u32,
    remote: String,
    ids: BTreeSet<String>,
    #[serde(default, alias = "thinned")]
    pruned: BTreeSet<String>,
}

/// Pushes new checkpoints, and removes from the remote those that were pruned here.
///
/// # Errors
/// The remote cannot be reached, refuses, or is slow; nothing here was changed.
pub fn push(place: &CheckpointTarget, remote: &Remote, deadline: Deadline) -> Result<()> {
    // The keeper and a save may both push, and both create the bare repository at the same path.
    let _lock = WorkspaceLock::wait_for_push(place, deadline)?;
    let path = place.private.join("pushed.json");
    let mut pushed: Pushed = state::load(&path).ok().flatten().unwrap_or_default();
    // The record has the remote's URL without its password: this file is kept in backups.
    let to = without_secret(remote.as_str());
    if pushed.remote != to {
        pushed = Pushed {
            remote: to,
            ..Pushed::default()
        };
    }
    pushed.version = VERSION;
    let mut all = BTreeSet::new();
    for place in with_nested(place) {
        push_one(&place, remote, &mut pushed, &mut all, deadline)?;
    }
    if all.is_subset(&pushed.ids) && pushed.pruned.is_empty() {
        return Ok(());
    }
    pushed.ids.extend(all);
    pushed.pruned.clear();
    state::store(&path, &pushed)
}

/// Pushes the checkpoints of one repository; its ids are added to `all`.
fn push_one(
    place: &CheckpointTarget,
    remote: &Remote,
    pushed: &mut Pushed,
    all: &mut BTreeSet<String>,
    deadline: Deadline,
) -> Result<()> {
    let here = list(place)?;
    let ids: BTreeSet<String> = here.into_iter().map(|checkpoint| checkpoint.id).collect();
    let new: Vec<&String> = ids.difference(&pushed.ids).collect();
    let pruned: Vec<String> = pushed
        .pruned
        .iter()
        .filter(|id| pushed.ids.contains(*id) && !ids.contains(*id))
        .cloned()
        .collect();
    if !new.is_empty() || !pruned.is_empty() {
        let prefix = format!("refs/spotkeep/{}", place.agent_id);
        let added = new.iter().map(|id| format!("{prefix}/{id}:{prefix}/{id}"));
        let removed = pruned.iter().map(|id| format!(":{prefix}/{id}"));
        let refspecs: Vec<String> = added.chain(removed).collect();
        let shadow = place.private.join("push.git");
        let (url, password) = apart(remote.as_str());
        let made = create_shadow(place, &shadow, password.as_deref(), deadline)
            .and_then(|()| run(&shadow, &url, &refspecs, deadline))
            .with_context(|| format!("cannot push to {}", without_secret(remote.as_str())))
            .hint(format!("git ls-remote {}", without_secret(remote.as_str())));
        fs::remove_dir_all(&shadow).ok();
        made?;
        for id in &pruned {
            pushed.ids.remove(id);
        }
    }
    all.extend(ids);
    Ok(())
}

/// Returns a target, and those of the repositories inside of it that its newest checkpoint names.
fn with_nested(place: &CheckpointTarget) -> Vec<CheckpointTarget> {
    let mut places = vec![place.clone()];
    let mut at = 0;
    while let Some(place) = places.get(at).cloned() {
        at += 1;
        let newest = list(&place).unwrap_or_default().into_iter().next();
        let nested = newest.map(|newest| newest.nested).unwrap_or_default();
        places.extend(nested_places(&place, &nested));
    }
    places
}

/// Records which checkpoints were pruned, if they had been pushed.
///
/// # Errors
/// The disk is full or missing.
pub(super) fn remember_pruned(place: &CheckpointTarget, ids: &BTreeSet<String>) -> Result<()> {
    if ids.is_empty() {
        return Ok(());
    }
    let path = place.private.join("pushed.json");
    let Some(mut pushed) = state::load::<Pushed>(&path).ok().flatten() else {
        return Ok(()); // Nothing was ever pushed.
    };
    pushed.pruned.extend(ids.iter().cloned());
    state::store(&path, &pushed)
}

/// Splits a URL into one without its password, and a line for git's own store of passwords. Every
/// user on the machine can see the arguments of git and of the program that it starts for HTTP, but
/// not a private file.
fn apart(url: &str) -> (String, Option<String>) {
    let whole = || (url.to_owned(), None);
    let Some((scheme, rest)) = url.split_once("://") else {
        return whole();
    };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let login = authority.rsplit_once('@');
    match login.and_then(|(login, host)| Some((login.split_once(':')?.0, host))) {
        Some((user, host)) if matches!(scheme, "http" | "https") => (
            format!("{scheme}://{user}@{host}{path}"),
            Some(format!("{scheme}://{authority}\n")),
        ),
        _ => whole(),
    }
}

/// Configuration by which git finds the password only in a file that its environment names.
const ASK_THE_FILE: &str =
    "[credential]\n\thelper =\n\thelper = \"store --file=\\\"$SPOTKEEP_PASSWORD_FILE\\\"\"\n";

/// Creates a bare repository that holds only a list of refs and a pointer to objects.
fn create_shadow(
    place: &CheckpointTarget,
    shadow: &Path,
    password: Option<&str>,
    deadline: Deadline,
) -> Result<()> {
    let repository =
        workspace::common_dir(&place.workspace).context("the workspace is not a git repository")?;
    let repository = fs::canonicalize(repository)?;
    // A push that was killed may have left one behind.
    if shadow.exists() {
        fs::remove_dir_all(shadow)?;
    }
    for dir in ["objects/info", "refs"] {
        files::create_private_dir(&shadow.join(dir))?;
    }
    let format = ask(
        &place.workspace,
        &["rev-parse", "--show-object-format"],
        deadline,
    )?;
    let mut config = match format.trim() {
        "sha1" | "" => "[core]\n\trepositoryformatversion = 0\n\tbare = true\n".to_owned(),
        other => format!(
            "[core]\n\trepositoryformatversion = 1\n\tbare = true\n\
             [extensions]\n\tobjectFormat = {other}\n"
        ),
    };
    let prefix = format!("refs/spotkeep/{}/", place.agent_id);
    let refs = ask(
        &place.workspace,
        &["for-each-ref", "--format=%(objectname) %(refname)", &prefix],
        deadline,
    )?;
    let objects = repository.join("objects");
    let objects = objects
        .to_str()
        .context("the path of the repository is not UTF-8")?;
    fs::write(shadow.join("objects/info/alternates"), quoted(objects))?;
    fs::write(
        shadow.join("packed-refs"),
        format!("# pack-refs with: sorted\n{refs}"),
    )?;
    if let Some(password) = password {
        files::write_atomic(&shadow.join(PASSWORD), password.as_bytes())?;
        config.push_str(ASK_THE_FILE);
    }
    fs::write(shadow.join("config"), config)?;
    // Written last: without this file it is not a repository.
    fs::write(shadow.join("HEAD"), "ref: refs/heads/none\n")?;
    Ok(())
}

/// Returns a line of `alternates`, in which a path that begins with a quote has to be quoted.
fn quoted(path: &str) -> String {
    let needs = path.starts_with(['"', '#']) || path.contains(['\n', '\\']);
    match needs {
        true => format!(
            "\"{}\"\n",
            path.replace('\\', "\\\\")
                .replace('"', "\\\"")
                .replace('\n', "\\n")
        ),
        false => format!("{path}\n"),
    }
}

fn run(shadow: &Path, url: &str, refspecs: &[String], deadline: Deadline) -> Result<()> {
    let mut command = git::as_user(shadow);
    for (key, value) in [
        ("core.hooksPath", "/dev/null"),
        ("core.askPass", ""),
        ("protocol.ext.allow", "never"),
        ("push.gpgSign", "false"),
        ("push.recurseSubmodules", "no"),
        ("gc.auto", "0"),
        ("maintenance.auto", "false"),
    ] {
        command.arg("-c").arg(format!("{key}={value}"));
    }
    command
        .env("GIT_DIR", shadow)
        .env("GIT_SSH_COMMAND", SSH)
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("SPOTKEEP_PASSWORD_FILE", shadow.join(PASSWORD))
        .env_remove("GIT_ASKPASS")
        .env_remove("SSH_ASKPASS")
        .args(["push", "--no-verify", "--porcelain", "--force", "--"])
        .arg(url)
        .args(refspecs);
    let output = command::exchange(&mut command, Vec::new(), deadline.instant())?;
    if output.status.success() {
        return Ok(());
    }
    let said = output.stderr.lines().find(|line| {
        line.starts_with("fatal:") || line.starts_with("error:") || line.contains("denied")
    });
    let said = said
        .or(output.stderr.lines().next())
        .unwrap_or("git gave no reason");
    Err(anyhow!("{said}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_not_an_argument() {
        let (url, password) = apart("https://me:se%40cret@git.example:8443/a/b.git");
        assert_eq!(url, "https://me@git.example:8443/a/b.git");
        assert_eq!(password.unwrap(), "https://me:se%40cret@git.example:8443\n");
        for plain in [
            "https://git.example/a",
            "https://me@git.example/a:b@c",
            "ssh://git@h/p",
            "git@example.org:me/safe.git",
            "/srv/a:b@c",
        ] {
            assert_eq!(apart(plain), (plain.to_owned(), None));
        }
    }
}
