//! Creates a workspace from a repository.
//!
//! Agents that work on one repository share its objects: `workspaces/.repos/<repository>.git` is a
//! bare clone, made by the first `add` of the URL, and every workspace is a worktree linked to it.
//! A second agent then costs a checkout and no download, and a workspace that is removed can be
//! rebuilt from its checkpoints, which are in the shared part. A repository that is inside the data
//! directory already is used itself.
//!
//! Everything is created under a name that begins with `.new-` and moved to its final path when it
//! is complete, so that an interrupted run leaves no incomplete workspace. The next `add` removes
//! the rest.

use std::fs;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::git::{self, without_secret};
use state::AgentName;
use state::layout::DataDir;
use sys::command;
use sys::error::{Context as _, ErrorKind, Hint as _, Result, anyhow};
use sys::uuid::new_uuid;

/// Time limit of any step other than a download or a checkout.
const SHORT: Duration = Duration::from_secs(60);

/// Result of creating a workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreatedWorkspace {
    /// Absolute path of the workspace.
    pub workspace: PathBuf,
    /// Its origin, without a password.
    pub origin: String,
    /// The commit that it begins with; `None` where the repository has none yet.
    pub base_commit: Option<String>,
    /// The branch that is checked out.
    pub branch: String,
}

/// Origin of a new workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A repository inside the data directory, to which the workspace is linked.
    Inside(PathBuf),
    /// Any other: a URL, or a path outside of the data directory.
    Elsewhere(String),
}

impl Source {
    /// Finds out which one it is.
    ///
    /// # Errors
    /// A path of something other than a repository, or neither a path nor a URL.
    pub fn find(data_dir: &DataDir, given: &str) -> Result<Self> {
        let is_url =
            given.contains("://") || (given.contains(':') && !given.starts_with(['/', '.']));
        if given.starts_with('-') || given.contains("::") {
            return Err(anyhow!("{given:?} is not a repository")).kind(ErrorKind::Usage);
        }
        if is_url {
            return Ok(Self::Elsewhere(given.to_owned()));
        }
        let candidates = [
            std::env::current_dir()?.join(given),
            data_dir.absolute(Path::new(given)),
        ];
        let Some(path) = candidates.iter().find(|path| path.is_dir()) else {
            return Err(anyhow!("there is no repository at {given}"))
                .hint("spotkeep add NAME --repo https://...")
                .kind(ErrorKind::Usage);
        };
        let path = fs::canonicalize(path)?;
        let common = text(git::as_user(&path).args(["rev-parse", "--git-common-dir"]))
            .with_context(|| format!("{} is not a git repository", path.display()))
            .kind(ErrorKind::Usage)?;
        let common = fs::canonicalize(path.join(common))?;
        Ok(match data_dir.holds(&common) {
            true => Self::Inside(path),
            false => Self::Elsewhere(path.to_string_lossy().into_owned()),
        })
    }

    /// Returns the source for people.
    #[must_use]
    pub fn shown(&self) -> String {
        match self {
            Self::Inside(path) => path.display().to_string(),
            Self::Elsewhere(url) => without_secret(url),
        }
    }
}

/// Creates the workspace of an agent.
///
/// # Errors
/// The repository cannot be read, the branch does not exist, or the path is taken. Nothing
/// incomplete is left.
pub fn make(
    data_dir: &DataDir,
    name: &AgentName,
    source: &Source,
    branch: Option<&str>,
) -> Result<CreatedWorkspace> {
    let workspaces = data_dir.absolute(Path::new("workspaces"));
    let workspace = workspaces.join(name.as_str());
    if fs::symlink_metadata(&workspace).is_ok() {
        let is_empty = fs::read_dir(&workspace).is_ok_and(|mut entries| entries.next().is_none());
        if !is_empty {
            return Err(anyhow!("{} already exists", workspace.display()))
                .hint(format!("spotkeep add {name} --workspace workspaces/{name}"))
                .kind(ErrorKind::Usage);
        }
    }
    let repository = match source {
        Source::Inside(path) => path.clone(),
        Source::Elsewhere(url) => shared(&workspaces.join(".repos"), url)?,
    };
    let temporary = workspaces.join(format!(".new-{name}"));
    clear(&repository, &temporary)?;
    let made = link(&repository, &temporary, name, branch).and_then(|branch| {
        if workspace.is_dir() {
            fs::remove_dir(&workspace)?;
        }
        quiet(
            git::as_user(&repository)
                .args(["worktree", "move"])
                .args([&temporary, &workspace]),
        )?;
        Ok(branch)
    });
    let branch = match made {
        Ok(branch) => branch,
        Err(error) => {
            clear(&repository, &temporary).ok();
            return Err(error);
        }
    };
    let head = text(git::as_user(&workspace).args(["rev-parse", "-q", "--verify", "HEAD"]));
    Ok(CreatedWorkspace {
        workspace,
        origin: source.shown(),
        base_commit: head.ok(),
        branch,
    })
}

/// Returns the shared clone of a URL: an existing one is updated, otherwise a new one is made.
fn shared(repos: &Path, url: &str) -> Result<PathBuf> {
    fs::create_dir_all(repos).with_context(|| format!("cannot create {}", repos.display()))?;
    for entry in fs::read_dir(repos)? {
        let path = entry?.path();
        let is_hidden = path
            .file_name()
            .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        let origin = text(git::as_user(&path).args(["config", "--get", "remote.origin.url"]));
        if !is_hidden && origin.is_ok_and(|origin| origin == url) {
            watched(git::as_user(&path).arg("fetch"), "origin")
                .with_context(|| format!("cannot fetch from {}", without_secret(url)))?;
            return Ok(path);
        }
    }
    let temporary = repos.join(format!(".new-{}", new_uuid()));
    let cloned = clone(&temporary, url).and_then(|()| {
        let place = free_name(repos, url);
        fs::rename(&temporary, &place)?;
        Ok(place)
    });
    if cloned.is_err() {
        fs::remove_dir_all(&temporary).ok();
    }
    cloned
}

/// Makes a bare clone, with branches where every clone has them: under `refs/remotes/origin`.
fn clone(place: &Path, url: &str) -> Result<()> {
    fs::create_dir(place)?;
    let run = |arguments: &[&str]| quiet(git::as_user(place).args(arguments));
    run(&["init", "--quiet", "--bare"])?;
    run(&["config", "remote.origin.url", url])?;
    run(&[
        "config",
        "remote.origin.fetch",
        "+refs/heads/*:refs/remotes/origin/*",
    ])?;
    watched(git::as_user(place).arg("fetch"), "origin")
        .with_context(|| format!("cannot clone {}", without_secret(url)))
        .hint(format!("git ls-remote {}", without_secret(url)))?;
    // An empty repository has no default branch.
    quiet(git::as_user(place).args(["remote", "set-head", "origin", "--auto"])).ok();
    Ok(())
}

/// Returns a readable name that is not in use yet.
fn free_name(repos: &Path, url: &str) -> PathBuf {
    let last = url
        .trim_end_matches('/')
        .rsplit(['/', ':'])
        .next()
        .unwrap_or("");
    let stem: String = last
        .trim_end_matches(".git")
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || "-_.".contains(c) {
                c
            } else {
                '-'
            }
        })
        .collect();
    let stem = stem.trim_start_matches('.');
    let stem = if stem.is_empty() { "repository" } else { stem };
    let mut place = repos.join(format!("{stem}.git"));
    let mut count = 2;
    while place.exists() {
        place = repos.join(format!("{stem}-{count}.git"));
        count += 1;
    }
    place
}

/// Adds a worktree at `place`: on the requested branch, or, where that is checked out elsewhere, on
/// a new one that begins there and is named after the agent. Returns the branch.
fn link(repository: &Path, place: &Path, name: &AgentName, asked: Option<&str>) -> Result<String> {
    let has = |reference: &str| {
        let mut command = git::as_user(repository);
        quiet(command.args([
            "rev-parse",
            "-q",
            "--verify",
            &format!("{reference}^{{commit}}"),
        ]))
        .is_ok()
    };
    let default = || {
        let symbolic = |reference: &str| {
            text(git::as_user(repository).args(["symbolic-ref", "-q", "--short", reference])).ok()
        };
        let remote = symbolic("refs/remotes/origin/HEAD");
        let remote = remote.and_then(|name| Some(name.strip_prefix("origin/")?.to_owned()));
        remote.or_else(|| symbolic("HEAD"))
    };
    let requested = match asked {
        Some(branch) => branch.to_owned(),
        None => default().unwrap_or_else(|| "main".to_owned()),
    };
    let (local, remote) = (
        format!("refs/heads/{requested}"),
        format!("refs/remotes/origin/{requested}"),
    );
    // Remote commits may be newer than a local branch that no worktree has checked out; but that
    // branch may hold its own commits, so it is used where it is free.
    let snapshot = match (has(&local), has(&remote)) {
        (_, true) if is_checked_out(repository, &local)? => Some(remote),
        (true, _) => Some(local.clone()),
        (false, true) => Some(remote),
        (false, false) => None,
    };
    let Some(snapshot) = snapshot else {
        let is_empty = !has("HEAD")
            && text(git::as_user(repository).args(["for-each-ref", "--count=1", "refs/remotes"]))?
                .is_empty();
        if asked.is_some() || !is_empty {
            return Err(anyhow!(
                "there is no branch {requested} in {}",
                repository.display()
            ))
            .hint(format!("git -C {} branch --all", repository.display()))
            .kind(ErrorKind::Usage);
        }
        return Err(anyhow!(
            "the repository has no commit yet, so nothing can be checked out"
        ))
        .hint(format!(
            "git clone it to workspaces/{name}, \
                 then: spotkeep add {name} --workspace workspaces/{name}"
        ))
        .kind(ErrorKind::Usage);
    };
    let mut add = git::as_user(repository);
    add.args(["worktree", "add"]);
    let branch = if is_checked_out(repository, &local)? {
        let own = free_branch(repository, name)?;
        if has(&format!("refs/heads/{own}")) {
            // From an earlier workspace, with its commits.
            add.arg(place).arg(&own);
        } else {
            add.args(["--no-track", "-b", &own])
                .arg(place)
                .arg(&snapshot);
        }
        own
    } else if snapshot == local {
        add.arg(place).arg(&requested);
        requested
    } else {
        add.args(["--track", "-b", &requested])
            .arg(place)
            .arg(&snapshot);
        requested
    };
    let output = {
        if !std::io::stderr().is_terminal() {
            add.stderr(Stdio::piped());
        }
        add.stdin(Stdio::null())
            .stdout(Stdio::null())
            .output()
            .context("cannot run git")?
    };
    if !output.status.success() {
        return Err(failed(
            "worktree add",
            &String::from_utf8_lossy(&output.stderr),
        ));
    }
    Ok(branch)
}

/// Returns a branch named after the agent that no other worktree has checked out.
fn free_branch(repository: &Path, name: &AgentName) -> Result<String> {
    for count in 1..100 {
        let branch = match count {
            1 => name.to_string(),
            _ => format!("{name}-{count}"),
        };
        if !is_checked_out(repository, &format!("refs/heads/{branch}"))? {
            return Ok(branch);
        }
    }
    Err(anyhow!("a hundred branches are named like {name}")).hint("spotkeep add with --branch")
}

/// Whether a worktree has a branch checked out. The bare repository's own HEAD does not count.
fn is_checked_out(repository: &Path, reference: &str) -> Result<bool> {
    let list = text(git::as_user(repository).args(["worktree", "list", "--porcelain"]))?;
    Ok(list.split("\n\n").any(|worktree| {
        let mut lines = worktree.lines();
        let is_bare = worktree.lines().any(|line| line == "bare");
        !is_bare && lines.any(|line| line.strip_prefix("branch ") == Some(reference))
    }))
}

/// Removes what an interrupted `add` left behind.
fn clear(repository: &Path, temporary: &Path) -> Result<()> {
    if !temporary.exists() {
        return Ok(());
    }
    let mut remove = git::as_user(repository);
    remove
        .args(["worktree", "remove", "--force", "--force"])
        .arg(temporary);
    if quiet(&mut remove).is_err() {
        fs::remove_dir_all(temporary)
            .with_context(|| format!("cannot remove {}", temporary.display()))?;
    }
    Ok(())
}

/// Returns what git printed, trimmed.
fn text(command: &mut Command) -> Result<String> {
    let output = command::run(command, SHORT)?;
    if !output.status.success() {
        return Err(failed("", &output.stderr));
    }
    Ok(output.stdout.trim().to_owned())
}

fn quiet(command: &mut Command) -> Result<()> {
    text(command).map(|_| ())
}

/// Runs a download without a time limit: the user sees its progress, and can interrupt it.
fn watched(command: &mut Command, what: &str) -> Result<()> {
    let is_terminal = std::io::stderr().is_terminal();
    if is_terminal {
        command.arg("--progress").stderr(Stdio::inherit());
    } else {
        command.arg("--quiet").stderr(Stdio::piped());
    }
    let child = command
        .arg(what)
        .stdin(Stdio::inherit())
        .stdout(Stdio::null())
        .spawn();
    let output = child
        .and_then(std::process::Child::wait_with_output)
        .context("cannot run git")?;
    match output.status.success() {
        true => Ok(()),
        false => Err(failed("fetch", &String::from_utf8_lossy(&output.stderr))),
    }
}

fn failed(verb: &str, said: &str) -> sys::error::Error {
    let line = said
        .lines()
        .find(|line| line.starts_with("fatal:") || line.starts_with("error:"));
    let why = line.or(said.lines().next()).unwrap_or("it failed");
    let why = why
        .trim_start_matches("fatal: ")
        .trim_start_matches("error: ");
    anyhow!(
        "git {verb}{}{why}",
        if verb.is_empty() { "says: " } else { ": " }
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shared_clone_has_a_readable_unique_name() {
        let dir = tempfile::tempdir().unwrap();
        let name = |url: &str| free_name(dir.path(), url).file_name().unwrap().to_owned();
        assert_eq!(name("https://h/you/api.git"), "api.git");
        assert_eq!(name("git@h:you/api"), "api.git");
        assert_eq!(name("h:.git"), "repository.git");
        assert_eq!(name("/srv/x y/"), "x-y.git");
        fs::create_dir(dir.path().join("api.git")).unwrap();
        assert_eq!(name("https://other/api"), "api-2.git");
    }
}
