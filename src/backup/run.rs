//! One backup run: change detection, restic backup, copy to the second repository, maintenance.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::fingerprint;
use super::lock::{self, BackupLock};
use super::restic::{self, LONG, Progress, Restic};
use super::state::BackupSummary;
use super::{BackupState, Repository, Settings, Stop, copy, include, maintain, snapshots};
use state::VERSION;
use sys::error::{Context as _, Error, ErrorKind, Hint as _, Result, anyhow, bail};
use sys::failpoint::{Point, point};
use sys::files;
use sys::time::Timestamp;

/// The default of `min_free` for a large disk.
const FLOOR_MAX: u64 = 2 << 30;

/// The default of `min_free` for a small disk: one of this many parts of it.
const FLOOR_PART: u64 = 20;

/// How long a backup that the user requested waits for another one to end.
const TIMEOUT: Duration = Duration::from_secs(10 * 60);

/// How long a backup waits for a check or a prune of another restic to end.
const LOCKED_LIMIT: Duration = Duration::from_secs(60);

/// Number of unreadable files that are recorded.
const UNREADABLE_KEPT: usize = 5;

/// Options of a backup run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RunOptions {
    /// Started by a timer, not by the user: it does not wait for another backup.
    pub scheduled: bool,
    /// Make a backup even if nothing has changed.
    pub always: bool,
    /// The progress is shown. Otherwise restic need not count the files in advance.
    pub watched: bool,
}

/// The result of a backup run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Version of this form.
    pub version: u32,
    /// Whether a backup was made.
    pub outcome: RunResult,
    /// The newest backup, whether it was made now or before.
    pub backup: Option<BackupSummary>,
    /// The repository to which it was copied.
    pub copied_to: Option<String>,
    /// Whether the repository was checked and pruned.
    pub tended: bool,
    /// Problems, in sentences.
    pub trouble: Vec<String>,
}

/// Whether a backup was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RunResult {
    /// A backup was made.
    Made,
    /// Nothing had changed since the last backup.
    Unchanged,
}

/// Makes a backup if something has changed, copies it, and maintains the repository when that is
/// due.
///
/// # Errors
/// No backup was made. The reason is recorded for `status`.
pub fn run(
    settings: &Settings,
    how: RunOptions,
    stop: &Stop,
    waits: &mut dyn FnMut(),
    progress: &mut dyn FnMut(&Progress),
) -> Result<Report> {
    settings.take_over()?;
    settings.ensure_mine()?;
    let timeout = if how.scheduled {
        Duration::ZERO
    } else {
        TIMEOUT
    };
    let lock = BackupLock::acquire(settings, timeout, stop, waits)?;
    let mut state = BackupState::load(settings)?;
    let made = make(settings, how, &mut state, stop, progress);
    let outcome = match made {
        Ok(outcome) => outcome,
        // A backup that was stopped is not a problem: the next one continues.
        Err(error) if stop.reason().is_some() => return Err(error),
        Err(error) => {
            let why = format!("{error:#}");
            if state.trouble.as_ref() != Some(&why) {
                state.trouble = Some(why);
                // On a full disk this fails as well; the first error is the one to report.
                state.store(settings).ok();
            }
            return Err(error);
        }
    };
    let (mut copied_to, mut tended) = (None, false);
    if copy::is_due(settings, &state) {
        copied_to = copy::run(settings, &mut state, stop)?;
    }
    if outcome == RunResult::Made && maintain::is_due(&state) && stop.reason().is_none() {
        tended = maintain::run(settings, &mut state, stop)?;
        if tended {
            copy::prune(settings, &mut state, stop)?;
        }
    }
    drop(lock);
    let mut trouble = state.troubles();
    trouble.extend(settings.unapproved.clone());
    if let Some(made) = state
        .last
        .as_ref()
        .filter(|made| !made.unreadable.is_empty())
    {
        trouble.push(format!(
            "some files could not be read: {}",
            made.unreadable.join("; ")
        ));
    }
    Ok(Report {
        version: VERSION,
        outcome,
        backup: state.last,
        copied_to,
        tended,
        trouble,
    })
}

/// Describes what [`run`] would do.
///
/// # Errors
/// The tree cannot be read.
pub fn plan(settings: &Settings, always: bool) -> Result<String> {
    settings.ensure_mine()?;
    let state = BackupState::load(settings)?;
    ensure_space(settings)?;
    let tree = fingerprint::walk(settings, &Stop::never())?;
    if !always && is_unchanged(&state, &tree.fingerprint) {
        return Ok("nothing has changed since the last backup; nothing would be done".into());
    }
    let parts: Vec<String> = include::parts(settings)
        .iter()
        .map(|part| part.display().to_string())
        .collect();
    let copy = match &settings.table.copy_to {
        Some(url) => format!(", and copy it to {}", restic::without_password(url)),
        None => String::new(),
    };
    Ok(format!(
        "would back up {} to {}{copy}",
        parts.join(", "),
        settings.repository().display()
    ))
}

fn make(
    settings: &Settings,
    how: RunOptions,
    state: &mut BackupState,
    stop: &Stop,
    progress: &mut dyn FnMut(&Progress),
) -> Result<RunResult> {
    ensure_space(settings)?;
    stop.check()?;
    // Computed before: changes while restic runs are for the next backup.
    let tree = fingerprint::walk(settings, stop)?;
    if !how.always && is_unchanged(state, &tree.fingerprint) {
        return Ok(RunResult::Unchanged);
    }
    point(Point::BackupLooked);
    let (restic, program) = Restic::find_unless(state.restic.as_ref())?;
    let key = settings.ensure_key()?;
    let repository = Repository::local(restic, settings, key);
    if !settings.has_repository() {
        restic::init(&repository, None, stop)?;
        point(Point::BackupFounded);
    }
    let worker = lock::this_worker()?;
    lock::remove_stale(&repository, state.worker.as_ref(), &worker.boot_id, stop)?;
    state.remember_worker(settings, worker)?;
    point(Point::BackupBegun);
    let last = state.last.as_ref();
    let given = (tree.made_again.as_slice(), how.watched);
    let made = backup(settings, &repository, last, given, stop, progress)?;
    point(Point::BackupMade);
    for (_, record) in settings.data_dir.all_records()? {
        // The workspace of an agent outside the data directory is not in the backup.
        if let Ok(record) = record
            && record.cwd.is_relative()
        {
            state.agents.insert(record.agent_id, made.at);
        }
    }
    state.last = Some(made);
    state.restic = Some(program);
    state.fingerprint = Some(tree.fingerprint);
    state.trouble = None;
    state.since_check = state.since_check.saturating_add(1);
    state.store(settings)?;
    Ok(RunResult::Made)
}

fn is_unchanged(state: &BackupState, fingerprint: &str) -> bool {
    state.trouble.is_none()
        && state.last.is_some()
        && state.fingerprint.as_deref() == Some(fingerprint)
}

/// Fails if the disk has too little free space, which the agents need.
fn ensure_space(settings: &Settings) -> Result<()> {
    let dir = settings.data_dir.dir();
    let space = files::space(dir)
        .with_context(|| format!("cannot read the free space of {}", dir.display()))?;
    let floor = match settings.table.min_free {
        Some(bytes) => bytes.0,
        None => FLOOR_MAX.min(space.total / FLOOR_PART),
    };
    if space.free >= floor {
        return Ok(());
    }
    Err(anyhow!(
        "{} MiB are free on the disk, and backups stop below {} MiB ([backup] min_free)",
        space.free >> 20,
        floor >> 20
    ))
    .hint(format!("du -xh -d2 {} | sort -h | tail", dir.display()))
    .kind(ErrorKind::NotAsDeclared)
}

/// The last line of `restic backup --json`.
#[derive(Debug, Deserialize)]
struct Summary {
    total_files_processed: u64,
    total_bytes_processed: u64,
    data_added: u64,
    snapshot_id: String,
}

fn backup(
    settings: &Settings,
    repository: &Repository,
    last: Option<&BackupSummary>,
    (made_again, watched): (&[PathBuf], bool),
    stop: &Stop,
    progress: &mut dyn FnMut(&Progress),
) -> Result<BackupSummary> {
    let until = Instant::now() + LOCKED_LIMIT;
    let mut parent = last.map(|made| made.id.as_str());
    loop {
        let (at, began) = (Timestamp::now(), Instant::now());
        let mut summary: Option<Summary> = None;
        let mut command = command(settings, repository, parent, made_again);
        if !watched {
            command.arg("--quiet");
        }
        // Relative paths, so that a restore works for a data directory that is mounted elsewhere.
        command.arg("--").args(include::parts(settings));
        let ended = repository.run(&mut command, LONG, stop, &mut |line| {
            if line.contains("\"summary\"") {
                summary = serde_json::from_str(line).ok();
            } else if let Ok(at) = serde_json::from_str(line) {
                progress(&at);
            }
        })?;
        let code = ended.status.code();
        // 3: made, except for files that could not be read.
        if let (Some(summary), Some(0 | 3)) = (summary, code) {
            return Ok(BackupSummary {
                id: summary.snapshot_id,
                at,
                files: summary.total_files_processed,
                bytes: summary.total_bytes_processed,
                bytes_added: summary.data_added,
                duration_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
                unreadable: unreadable(&ended.stderr, settings.data_dir.dir()),
            });
        }
        if code == Some(0) {
            bail!(
                "restic made a backup and printed no summary; this version of restic may be too new"
            );
        }
        let failure: Error = repository.failure(&ended);
        match restic::Trouble::from_exchange(&ended) {
            // The last backup was removed by hand: without a parent restic only has to read every
            // file again.
            _ if parent.is_some() && ended.stderr.contains("parent") => parent = None,
            restic::Trouble::Locked if Instant::now() < until => {
                std::thread::sleep(Duration::from_secs(1));
                stop.check()?;
            }
            _ => return Err(failure),
        }
    }
}

fn command(
    settings: &Settings,
    repository: &Repository,
    parent: Option<&str>,
    made_again: &[PathBuf],
) -> std::process::Command {
    let mut command = repository.command(["backup", "--json", "--one-file-system"]);
    command
        .current_dir(settings.data_dir.dir())
        // A status line each second is enough for a person.
        .env("RESTIC_PROGRESS_FPS", "1")
        .arg("--tag")
        .arg(snapshots::tag(&settings.data_dir_id));
    if let Some(parent) = parent {
        command.args(["--parent", parent]);
    }
    for pattern in include::patterns(settings, made_again) {
        command.arg("--exclude").arg(pattern);
    }
    command
}

/// Returns the files that restic could not read, except for those that were removed meanwhile.
fn unreadable(stderr: &str, data_dir: &Path) -> Vec<String> {
    let data_dir = format!("{}/", data_dir.display());
    stderr
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|told| told["message_type"] == "error")
        .filter_map(|told| {
            let why = told["error"]["Err"].as_u64().map_or_else(
                || told["error"].to_string(),
                |errno| format!("error {errno}"),
            );
            let item = told["item"].as_str().unwrap_or("?").replace(&data_dir, "");
            let is_gone = told["error"]["Err"] == 2 || why.contains("no such file");
            (!is_gone).then(|| format!("{item} ({why})"))
        })
        .take(UNREADABLE_KEPT)
        .collect()
}
