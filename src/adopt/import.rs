//! Import of one session: carries out one entry of the plan.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::location::{Tie, WorkspaceLocation};
use super::plan::{Decision, Entry, WorkspaceTransfer};
use super::record::{Past, remember};
use super::scan::{ExistingSession, Live};
use crate::storage::{links, merge_tree};
use checkpoint::git;
use checkpoint::workspace;
use claude::session_file;
use claude::transcript::index;
use state::config;
use state::layout::DataDir;
use state::{Desired, TranscriptMark};
use sys::command;
use sys::error::{Context as _, ErrorKind, Hint as _, Result, anyhow, bail, ensure};
use sys::files;
use sys::process::{self, Signal};
use sys::secure_dir::rename_new;

/// How long a Claude may take to end: some hundred milliseconds, and more with a hook of the
/// user's.
const END_LIMIT: Duration = Duration::from_secs(15);

/// The timeout of `git worktree move`, which writes two small files and renames a directory.
const GIT_LIMIT: Duration = Duration::from_secs(60);

/// Options of an import beside the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Whether the agent shall run.
    pub desired: Desired,
    /// Whether a process that has the session open may be ended.
    pub end: bool,
}

/// The result of an import, as sentences.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImportResult {
    /// What was done.
    pub done: Vec<String>,
    /// Warnings about its new workspace.
    pub warnings: Vec<String>,
}

/// Imports a session if the plan says so.
///
/// # Errors
/// The import is incomplete. Its finished steps are kept, and the next import goes on from there.
pub fn import_session(data_dir: &DataDir, entry: &Entry, request: Request) -> Result<ImportResult> {
    let Decision::Import { how, workspace } = &entry.decision else {
        return Ok(ImportResult::default());
    };
    let (found, name) = (&entry.found, &entry.name);
    let mut done = Vec::new();
    if let Some(live) = &found.live {
        ensure!(request.end, "{} runs", found.session_id);
        done.push(end(live)?);
    }
    // A process may have opened it since the scan.
    refuse_open(found)?;
    let from = found
        .cwd
        .clone()
        .context("its transcript names no directory")?;
    if *how != WorkspaceTransfer::Stay {
        refuse_target(workspace)?;
    }
    if *how == WorkspaceTransfer::Move {
        refuse_used(&from)?;
    }
    let transcript = bring_transcript(data_dir, found, workspace)?;
    if transcript != found.transcript {
        done.push(format!("its transcript is in {}", transcript.display()));
    }
    let mark = TranscriptMark {
        session_id: found.session_id.clone(),
        length: fs::metadata(&transcript)?.len(),
        path: transcript
            .strip_prefix(data_dir.claude())
            .unwrap_or(&transcript)
            .to_path_buf(),
        generation: 0,
    };
    let past = Past {
        mark,
        cwd: data_dir.relative(workspace),
        desired: request.desired,
    };
    remember(data_dir, name, past)?;
    match how {
        WorkspaceTransfer::Stay => {}
        WorkspaceTransfer::Copy => done.push(copy_workspace(&from, workspace)?),
        WorkspaceTransfer::Move => done.push(move_workspace(found, &from, workspace)?),
    }
    let declared = data_dir.relative(workspace);
    let arguments = new_arguments(data_dir, found)?;
    config::add_agent(&data_dir.config(), name, &declared, None, &arguments)?;
    let warnings = workspace::warnings(data_dir, workspace);
    Ok(ImportResult { done, warnings })
}

/// Returns the session's arguments, without those that `spotkeep.toml` gives to all agents.
fn new_arguments(data_dir: &DataDir, found: &ExistingSession) -> Result<Vec<String>> {
    let defaults = config::Config::load(&data_dir.config())?.defaults.args;
    let skip = "--dangerously-skip-permissions";
    let is_given = defaults.iter().any(|given| given == skip);
    let own = found.arguments.iter();
    Ok(own
        .filter(|argument| !(is_given && *argument == skip))
        .cloned()
        .collect())
}

/// Ends a Claude by SIGTERM, and never by SIGKILL, since spotkeep did not start it.
fn end(live: &Live) -> Result<String> {
    let pid = live.process.pid;
    if let Some(process) = live.process.open() {
        process.signal(Signal::Term);
        if !process.wait(Some(Instant::now() + END_LIMIT)) {
            return Err(anyhow!("pid {pid} has not ended")).hint(format!("kill -KILL {pid}"));
        }
    }
    Ok(format!("ended pid {pid}"))
}

fn refuse_open(found: &ExistingSession) -> Result<()> {
    let open = session_file::live(&found.config_dir);
    if let Some(file) = open.iter().find(|file| file.session_id == found.session_id) {
        return Err(anyhow!("it is open in pid {}", file.process.pid))
            .hint("leave it with /exit")
            .kind(ErrorKind::NotAsDeclared);
    }
    Ok(())
}

fn refuse_target(workspace: &Path) -> Result<()> {
    let is_empty = match fs::read_dir(workspace) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    };
    if is_empty {
        return Ok(());
    }
    Err(anyhow!("{} already exists", workspace.display()))
        .hint("take another name: spotkeep adopt SESSION --name NAME")
        .kind(ErrorKind::Usage)
}

/// Refuses a workspace in which a process works: after a move it would write to the old path, or
/// fail.
fn refuse_used(workspace: &Path) -> Result<()> {
    let users = process::users_of(workspace);
    let Some((first, name)) = users.first() else {
        return Ok(());
    };
    Err(anyhow!(
        "{} is in use by {} (pid {})",
        workspace.display(),
        name,
        first.pid
    ))
    .hint(format!("kill {}", first.pid))
    .kind(ErrorKind::NotAsDeclared)
}

/// Brings the transcript and its companion files to where Claude Code looks from the new workspace.
fn bring_transcript(
    data_dir: &DataDir,
    found: &ExistingSession,
    workspace: &Path,
) -> Result<PathBuf> {
    let old = found.transcript.parent().and_then(Path::file_name);
    let old = old.unwrap_or_default().to_string_lossy().into_owned();
    let new = index::folder(workspace).unwrap_or_else(|| old.clone());
    let claude = data_dir.claude();
    let pairs = index::companions(&found.session_id, &old, &new);
    let is_here = data_dir.holds(&found.config_dir);
    for (from, to) in &pairs {
        let (from, to) = (found.config_dir.join(from), claude.join(to));
        if fs::symlink_metadata(&from).is_err() || from == to {
            continue;
        }
        let is_shared = from.file_name().is_some_and(|name| name == "memory");
        if is_here && !is_shared {
            rename(&from, &to)?;
        } else {
            copied(&from, &to, is_shared)?;
        }
    }
    let first = pairs.first().map(|(_, to)| claude.join(to));
    let transcript = first.context("a session has a transcript")?;
    files::sync_filesystem(&transcript)?;
    Ok(transcript)
}

/// Copies a file or directory and compares it byte for byte. What many sessions share may exist
/// already with other contents.
fn copied(from: &Path, to: &Path, is_shared: bool) -> Result<()> {
    let parent = to.parent().unwrap_or(Path::new("/"));
    files::create_private_dir(parent)?;
    merge_tree::ensure_space(merge_tree::measure(from)?.1, parent)?;
    let merged = merge_tree::merge(from, to)?;
    if let Some(kept) = merged.kept.first().filter(|_| !is_shared) {
        bail!("{} holds something else already", to.join(kept).display());
    }
    merge_tree::verify(from, to, &merged)?;
    Ok(())
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    let parent = to.parent().unwrap_or(Path::new("/"));
    files::create_private_dir(parent)?;
    rename_new(from, to).with_context(|| format!("cannot rename {}", from.display()))?;
    files::sync_dir(parent)?;
    Ok(files::sync_dir(from.parent().unwrap_or(Path::new("/")))?)
}

/// Copies a workspace under a temporary name, compares it, and renames it. The original stays.
fn copy_workspace(from: &Path, to: &Path) -> Result<String> {
    let parent = to.parent().unwrap_or(Path::new("/"));
    merge_tree::ensure_space(merge_tree::measure(from)?.1, parent)?;
    let draft = draft(to);
    let merged = merge_tree::merge(from, &draft)?;
    if let Some(kept) = merged.kept.first() {
        bail!(
            "{} was changed since it was copied in part; remove {} and try again",
            from.join(kept).display(),
            draft.display()
        );
    }
    merge_tree::verify(from, &draft, &merged)?;
    files::sync_filesystem(parent)?;
    put_in_place(&draft, to)?;
    Ok(format!(
        "copied {} ({} files) to {}",
        from.display(),
        merged.copied + merged.same,
        to.display()
    ))
}

/// Moves a workspace: by a rename on the same filesystem, otherwise by a copy, with the original
/// kept under another name.
fn move_workspace(found: &ExistingSession, from: &Path, to: &Path) -> Result<String> {
    let said = format!("moved {} to {}", from.display(), to.display());
    if let WorkspaceLocation::Outside(Tie::Linked { repository, .. }) = &found.place {
        let mut command = git::as_user(repository);
        command.args(["worktree", "move"]).arg(from).arg(to);
        let output = command::run(&mut command, GIT_LIMIT)?;
        ensure!(
            output.status.success(),
            "git worktree move failed: {}",
            output.stderr
        );
        return Ok(said);
    }
    match put_in_place(from, to) {
        Ok(()) => {
            files::sync_dir(from.parent().unwrap_or(Path::new("/")))?;
            return Ok(said);
        }
        Err(error) if !is_another_filesystem(&error) => return Err(error),
        Err(_) => {}
    }
    copy_workspace(from, to)?;
    let original = links::quarantine_path(from);
    rename_new(from, &original).with_context(|| format!("cannot rename {}", from.display()))?;
    Ok(format!(
        "{said}; the original is kept as {}",
        original.display()
    ))
}

/// Renames a directory to `to`, which is missing or an empty directory.
fn put_in_place(from: &Path, to: &Path) -> Result<()> {
    match fs::remove_dir(to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot remove {}", to.display()));
        }
        _ => {}
    }
    rename_new(from, to).with_context(|| format!("cannot rename {}", from.display()))?;
    Ok(files::sync_dir(to.parent().unwrap_or(Path::new("/")))?)
}

fn is_another_filesystem(error: &sys::error::Error) -> bool {
    error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == io::ErrorKind::CrossesDevices)
}

fn draft(to: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".new-");
    name.push(to.file_name().unwrap_or_default());
    to.with_file_name(name)
}
