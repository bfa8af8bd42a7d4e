//! Rebuilds a workspace from a checkpoint.
//!
//! The workspace becomes a linked worktree of the repository again, or a separate repository with
//! the history of that one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::head;
use super::plan::Heads;
use super::{find, restore_checkpoint};
use crate::git::{self, Git, Repository, objects, shadow_dir};
use crate::message::{self, Kept};
use crate::{CheckpointTarget, ensure_names};
use sys::command::exchange;
use sys::error::{Context as _, Hint as _, Result, anyhow, bail};
use sys::files::create_private_dir;

pub(crate) fn rebuild(
    place: &CheckpointTarget,
    repository: &Path,
    id: &str,
    until: Instant,
) -> Result<Vec<String>> {
    ensure_names(place)?;
    ensure_empty(&place.workspace)?;
    let source = Repository::open(repository, until)?;
    let refs = Git::refs(&source, until);
    let kept = find(&refs, place, id)?;
    // A bare repository that exists only to be pushed to has no worktrees.
    let is_home = !source.settings.is_bare || source.common_dir.join("worktrees").is_dir();
    if kept.state.linked && is_home {
        link(&source, place, &kept)?;
    } else {
        clone(&source, place, &kept, until)?;
    }
    let made =
        Repository::find(&place.workspace, until)?.context("the new repository is not there")?;
    let mut messages = set_initial_head(place, &made, &kept, until)?;
    messages.extend(restore_checkpoint(place, &made, &kept, Heads::Stay, until)?);
    Ok(messages)
}

fn ensure_empty(workspace: &Path) -> Result<()> {
    match fs::read_dir(workspace) {
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) => Err(anyhow!("{} is not empty", workspace.display()))
                .hint(format!("mv {0} {0}.old", workspace.display())),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", workspace.display())),
    }
}

/// Links a worktree to the repository again. The registration of the former worktree at that path,
/// whose directory is gone, is replaced. Not with `git worktree add`, since that runs hooks.
fn link(source: &Repository, place: &CheckpointTarget, kept: &Kept) -> Result<()> {
    let commit = kept.state.head.commit.as_ref();
    let commit = commit.unwrap_or(&kept.checkpoint.commit);
    let workspace = &place.workspace;
    let make = || -> Result<()> {
        fs::create_dir_all(workspace)?;
        let workspace = fs::canonicalize(workspace)?;
        let worktrees = source.common_dir.join("worktrees");
        let own = registration(&worktrees, &workspace);
        if own.exists() {
            fs::remove_dir_all(&own)?;
        }
        create_private_dir(&own)?;
        let dot_git = workspace.join(".git");
        fs::write(own.join("commondir"), "../..\n")?;
        fs::write(own.join("gitdir"), format!("{}\n", dot_git.display()))?;
        fs::write(own.join("HEAD"), format!("{commit}\n"))?;
        Ok(fs::write(dot_git, format!("gitdir: {}\n", own.display()))?)
    };
    make().with_context(|| format!("cannot link {} again", workspace.display()))
}

/// Returns the repository's directory for the worktree at `workspace`: the former one, or one with
/// a free name.
fn registration(worktrees: &Path, workspace: &Path) -> PathBuf {
    let leads_here = |path: &PathBuf| {
        fs::read_to_string(path.join("gitdir"))
            .is_ok_and(|text| path.join(text.trim_end_matches('\n')) == workspace.join(".git"))
    };
    let entries = fs::read_dir(worktrees).into_iter().flatten().flatten();
    let found = entries.map(|entry| entry.path()).find(leads_here);
    found.unwrap_or_else(|| {
        let name = workspace.file_name().unwrap_or_default();
        let names = (1..).map(|count| match count {
            1 => worktrees.join(name),
            _ => worktrees.join(format!("{}{count}", name.display())),
        });
        // The list of names is infinite.
        names
            .into_iter()
            .find(|path| !path.exists())
            .unwrap_or_default()
    })
}

/// Makes a separate repository with all branches, tags and checkpoints of the other one.
fn clone(source: &Repository, place: &CheckpointTarget, kept: &Kept, until: Instant) -> Result<()> {
    fs::create_dir_all(&place.workspace)
        .with_context(|| format!("cannot create {}", place.workspace.display()))?;
    let ours = format!("+{0}*:{0}*", message::prefix(&place.agent_id));
    let format = if source.settings.oid_length == 32 {
        "sha256"
    } else {
        "sha1"
    };
    let format = format!("--object-format={format}");
    let from = source.common_dir.to_string_lossy().into_owned();
    let steps: [&[&str]; 2] = [
        // Without the hooks of the user's template.
        &[
            "init",
            "-q",
            "--template=",
            "--initial-branch=none",
            &format,
        ],
        &[
            "fetch",
            "-q",
            "--no-tags",
            "--no-write-fetch-head",
            "--update-shallow",
            &from,
            "+refs/heads/*:refs/heads/*",
            "+refs/tags/*:refs/tags/*",
            &ours,
        ],
    ];
    for arguments in steps {
        let mut command = git::command(&place.workspace);
        command
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            // Only from a local directory.
            .env("GIT_ALLOW_PROTOCOL", "file")
            .args(arguments);
        let said = exchange(&mut command, Vec::new(), until)?;
        if !said.status.success() {
            bail!("git {} failed: {}", arguments[0], said.stderr);
        }
    }
    let has_sparse = |name: &str| {
        objects::look_up(
            &Git::refs(source, until),
            &[format!("{}:meta/state/{name}", kept.tree)],
        )
    };
    if !has_sparse("info/sparse-checkout")?.is_empty() {
        let mut command = git::command(&place.workspace);
        command.args(["config", "core.sparseCheckout", "true"]);
        exchange(&mut command, Vec::new(), until)?;
    }
    Ok(())
}

/// Sets HEAD to where it was. If its branch has other commits by now, or is checked out in another
/// worktree, HEAD is detached, and the branch stays as it is.
fn set_initial_head(
    place: &CheckpointTarget,
    made: &Repository,
    kept: &Kept,
    until: Instant,
) -> Result<Vec<String>> {
    let common = shadow_dir::common(&place.private.join("git"), made)?;
    let git = Git::writing(made, &common, until);
    let state = &kept.state;
    let Some(branch) = &state.head.branch else {
        return head::set(&git, &state.head, "spotkeep: rebuilt");
    };
    let now = objects::look_up(&git, std::slice::from_ref(branch))?;
    let now = now.get(branch).map(|object| &object.oid);
    let elsewhere = head::elsewhere(made, branch, until)?;
    let is_free = elsewhere.is_none() && (now.is_none() || now == state.head.commit.as_ref());
    if is_free {
        return head::set(&git, &state.head, "spotkeep: rebuilt");
    }
    if let Some(commit) = &state.head.commit {
        git.run(&["update-ref", "--no-deref", "HEAD", commit], Vec::new())?;
    }
    let why = match elsewhere {
        Some(path) => format!("it is checked out in {path}"),
        None => "it has other commits by now".to_owned(),
    };
    Ok(vec![format!("HEAD is detached and not on {branch}: {why}")])
}
