//! Scan for existing Claude Code sessions.
//!
//! It reads the user's own Claude Code configuration and the data directory's, and finds sessions
//! that run in terminals and in Claude Code's background. It changes nothing, and reads only this
//! user's processes.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::location::{self, WorkspaceLocation};
use crate::agent::terminate;
use claude::transcript::index::{self, Conversation};
use claude::{SessionFile, Status, background_jobs, session_file};
use state::config::Config;
use state::layout::DataDir;
use state::{AgentName, AgentRecord};
use sys::error::{Context as _, Result};
use sys::proc_usage_others;
use sys::process::{self, ProcessId};
use sys::time::Timestamp;
use sys::user;

/// An existing session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExistingSession {
    /// Claude Code's id for it.
    pub session_id: String,
    /// The Claude Code configuration directory that it is in, links resolved.
    pub config_dir: PathBuf,
    /// The path of its transcript.
    pub transcript: PathBuf,
    /// The size of its transcript in bytes.
    pub bytes: u64,
    /// When its transcript was last written.
    pub changed_at: Timestamp,
    /// The name that the user gave it.
    pub title: Option<String>,
    /// Whether a program began it (`claude -p`), and not a user at a terminal.
    pub by_program: bool,
    /// Its workspace, with links resolved if it exists.
    pub cwd: Option<PathBuf>,
    /// Where the workspace is.
    pub place: WorkspaceLocation,
    /// A process that has it open.
    pub live: Option<Live>,
    /// Its background job, if it is one.
    pub job: Option<SessionJob>,
    /// The declared agent that has or had it.
    pub agent: Option<AgentName>,
    /// The name of an agent that had it and is not declared any more.
    pub remembered: Option<AgentName>,
    /// Other transcripts of the same session with different contents.
    pub others: Vec<PathBuf>,
    /// The arguments that Claude Code needs again when the session is resumed.
    pub arguments: Vec<String>,
}

/// A process that has a session open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Live {
    /// The process.
    pub process: ProcessId,
    /// The status that it reports; `None` under `claude -p`, and while it starts.
    pub status: Option<String>,
    /// Whether it is in a turn.
    pub in_turn: bool,
    /// The tmux pane that it runs in.
    pub pane: Option<Pane>,
    /// Whether it is an agent of spotkeep, of any data directory.
    pub kept: bool,
    /// Whether Claude Code's daemon runs it, which would start it again.
    pub background: bool,
}

/// A pane of a tmux server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pane {
    /// The server's socket.
    pub socket: PathBuf,
    /// Its id, as `tmux -t` takes it.
    pub id: String,
}

/// A background job of Claude Code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionJob {
    /// The id for `claude stop`.
    pub id: String,
    /// The state that Claude Code reports: `working`, `failed` ...
    pub state: Option<String>,
}

/// How long to wait for a process that was asked to end.
const ENDING: Duration = Duration::from_secs(5);

/// The result of a scan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionScan {
    /// The sessions: those that run first, then the newest first.
    pub found: Vec<ExistingSession>,
    /// What could not be read, as sentences.
    pub notes: Vec<String>,
}

/// Scans all known configuration directories, and those in `more`.
///
/// # Errors
/// A configuration directory, or the records, cannot be read.
pub fn scan(data_dir: &DataDir, declared: &Config, more: &[PathBuf]) -> Result<SessionScan> {
    let processes = proc_usage_others::mine();
    let dirs = config_dirs(data_dir, more, &processes);
    let records = data_dir.all_records()?;
    let mut all = BTreeMap::<String, Vec<(Conversation, &PathBuf)>>::new();
    let mut live = BTreeMap::new();
    let mut jobs_by_session = BTreeMap::new();
    let mut notes = Vec::new();
    for dir in &dirs {
        let listed = index::conversations(dir)
            .with_context(|| format!("cannot look for sessions in {}", dir.display()));
        let conversations = match listed {
            Ok(conversations) => conversations,
            // Another program may remove files of the user's own directory during the scan.
            Err(error) if *dir != data_dir.claude() && !more.contains(dir) => {
                notes.push(format!("{error:#}"));
                continue;
            }
            Err(error) => return Err(error),
        };
        for one in conversations {
            let same = all.entry(one.session_id.clone()).or_default();
            same.push((one, dir));
        }
        for file in session_file::live(dir) {
            live.insert(file.session_id.clone(), file);
        }
        for job in background_jobs::all(dir) {
            jobs_by_session.insert(job.session_id.clone(), job);
        }
    }
    let homes = homes();
    let mut found = Vec::new();
    for (session_id, mut copies) in all {
        // The transcript in the data directory counts; otherwise the longest one.
        let in_data_dir = |dir: &Path| data_dir.holds(dir);
        copies.sort_by_key(|(one, dir)| (!in_data_dir(dir), std::cmp::Reverse(one.bytes)));
        let (first, rest) = copies.split_at(1);
        let Some((one, config_dir)) = first.first() else {
            continue;
        };
        let others = rest
            .iter()
            .map(|(other, _)| &other.transcript)
            .filter(|path| !begins_with(&one.transcript, path))
            .cloned();
        let job = jobs_by_session.get(&session_id);
        let about = match index::about(&one.transcript) {
            Ok(about) => about,
            Err(error) => {
                notes.push(format!("cannot read {}: {error}", one.transcript.display()));
                continue;
            }
        };
        let owner = |record: &AgentRecord| {
            record.session_id == session_id || record.past_sessions.contains(&session_id)
        };
        let record = records
            .iter()
            .filter_map(|(_, record)| record.as_ref().ok())
            .find(|record| owner(record));
        let is_declared = record.is_some_and(|record| declared.agents.contains_key(&record.name));
        let name = record.map(|record| record.name.clone());
        // A session whose import was interrupted before the workspace moved, or whose agent was
        // removed by `rm`, is where its record says.
        let of_record = record
            .map(|record| data_dir.absolute(&record.cwd))
            .filter(|cwd| cwd.is_dir());
        let cwd = of_record
            .or_else(|| about.cwd.clone())
            .or_else(|| job?.cwd.clone())
            .map(|cwd| fs::canonicalize(&cwd).unwrap_or(cwd));
        let process = live
            .get(&session_id)
            .filter(|file| !job.is_some_and(|job| ends_now(job, file.process)));
        found.push(ExistingSession {
            config_dir: (*config_dir).clone(),
            transcript: one.transcript.clone(),
            bytes: one.bytes,
            changed_at: one.changed_at,
            by_program: about.by_program,
            title: about.title.or_else(|| job?.name.clone()),
            place: cwd.as_ref().map_or(WorkspaceLocation::Gone, |cwd| {
                location::locate(data_dir, cwd, &homes)
            }),
            cwd,
            live: process.map(live_of),
            job: job.map(|job| SessionJob {
                id: job.id.clone(),
                state: job.state.clone(),
            }),
            agent: name.clone().filter(|_| is_declared),
            remembered: name.filter(|_| !is_declared),
            others: others.collect(),
            arguments: arguments_of(process, job),
            session_id,
        });
    }
    found.sort_by_key(|one| (one.live.is_none(), std::cmp::Reverse(one.changed_at)));
    notes.extend(unknown(&processes, live.values()));
    Ok(SessionScan { found, notes })
}

/// Returns the arguments that a resume needs again.
fn arguments_of(
    process: Option<&SessionFile>,
    job: Option<&background_jobs::BackgroundJob>,
) -> Vec<String> {
    let words = match (process, job) {
        (_, Some(job)) => job.arguments.clone(),
        (Some(file), None) => proc_usage_others::arguments(file.process.pid),
        (None, None) => Vec::new(),
    };
    claude::command_line::kept_arguments(&words)
}

/// Returns the configuration directories: the data directory's, the user's own, the ones in `more`,
/// and those of running processes.
fn config_dirs(
    data_dir: &DataDir,
    more: &[PathBuf],
    processes: &[(ProcessId, String)],
) -> Vec<PathBuf> {
    let own = [
        std::env::var_os("CLAUDE_CONFIG_DIR").map(PathBuf::from),
        home().map(|home| home.join(".claude")),
    ];
    // Agents of other data directories are not imported.
    let of_processes = processes
        .iter()
        .filter(|(process, _)| {
            proc_usage_others::variable(process.pid, terminate::MARKER).is_none()
        })
        .filter_map(|(process, _)| proc_usage_others::variable(process.pid, "CLAUDE_CONFIG_DIR"))
        .map(PathBuf::from);
    let mut dirs = Vec::new();
    let all = [data_dir.claude()]
        .into_iter()
        .chain(own.into_iter().flatten())
        .chain(more.iter().cloned())
        .chain(of_processes);
    for dir in all.filter_map(|dir| fs::canonicalize(dir).ok()) {
        if !dirs.contains(&dir) {
            dirs.push(dir);
        }
    }
    dirs
}

fn home() -> Option<PathBuf> {
    let home = std::env::var_os("HOME").filter(|home| !home.is_empty());
    home.map(PathBuf::from).or_else(|| user::home(user::id()))
}

/// Returns directories that are more than a workspace.
fn homes() -> Vec<PathBuf> {
    home()
        .into_iter()
        .chain(user::home(user::id()))
        .chain([std::env::temp_dir()])
        .collect()
}

fn live_of(file: &SessionFile) -> Live {
    let pid = file.process.pid;
    let tmux = proc_usage_others::variable(pid, "TMUX").and_then(|value| value.into_string().ok());
    let pane =
        proc_usage_others::variable(pid, "TMUX_PANE").and_then(|value| value.into_string().ok());
    let socket = tmux.and_then(|tmux| Some(PathBuf::from(tmux.split(',').next()?)));
    let status = file.status.as_ref().map(|status| match status {
        Status::Busy => "busy".to_owned(),
        Status::Idle => "idle".to_owned(),
        Status::Shell => "a background shell runs".to_owned(),
        Status::Waiting { for_what } => match for_what {
            Some(what) => format!("waits: {what}"),
            None => "waits".to_owned(),
        },
        Status::Unknown(word) => word.clone(),
    });
    Live {
        process: file.process,
        status,
        in_turn: !matches!(file.status, Some(Status::Idle)),
        pane: socket
            .zip(pane)
            .map(|(socket, id)| Pane { socket, id })
            .filter(|pane| !pane.socket.as_os_str().is_empty()),
        kept: proc_usage_others::variable(pid, terminate::MARKER).is_some(),
        background: file.kind.as_deref() == Some("bg"),
    }
}

/// Returns whether the process of a stopped job has ended, or ends within moments: `claude stop`
/// returns 0.1 to 0.4 s before the end (measured on 2.1.197 and 2.1.330).
fn ends_now(job: &background_jobs::BackgroundJob, process: ProcessId) -> bool {
    let stopped = job.state.as_deref() == Some("stopped");
    stopped
        && process
            .open()
            .is_none_or(|process| process.wait(Some(Instant::now() + ENDING)))
}

/// Returns whether a process serves background jobs and is not one itself (measured on 2.1.197 and
/// 2.1.330).
fn is_of_the_daemon(arguments: &[String]) -> bool {
    let roles = ["daemon", "--bg-pty-host", "--bg-spare"];
    arguments
        .iter()
        .take(2)
        .any(|word| roles.contains(&word.as_str()))
}

/// Returns notes on Claude processes without a session file: they show a dialog, or are just
/// starting.
fn unknown<'a>(
    processes: &[(ProcessId, String)],
    live: impl Iterator<Item = &'a SessionFile>,
) -> Vec<String> {
    let known: Vec<ProcessId> = live.map(|file| file.process).collect();
    let silent = processes
        .iter()
        .filter(|(process, name)| name == "claude" && !known.contains(process));
    silent
        .filter(|(process, _)| {
            proc_usage_others::variable(process.pid, terminate::MARKER).is_none()
        })
        // Helper processes of Claude Code have its name too.
        .filter(|(process, _)| process::session_of(process.pid) == Some(process.pid))
        .filter(|(process, _)| {
            let arguments = proc_usage_others::arguments(process.pid);
            // Without arguments it has ended, or is just executing another program.
            !arguments.is_empty() && !is_of_the_daemon(&arguments)
        })
        .map(|(process, _)| {
            format!(
                "pid {} is a claude without a session file: it is starting, or shows a dialog",
                process.pid
            )
        })
        .collect()
}

/// Returns whether a file begins with the whole contents of another one.
fn begins_with(path: &Path, other: &Path) -> bool {
    use std::io::Read as _;
    let read = || -> std::io::Result<bool> {
        let (mut one, mut other) = (fs::File::open(path)?, fs::File::open(other)?);
        let (mut left, mut right) = (vec![0; 1 << 16], vec![0; 1 << 16]);
        loop {
            let count = other.read(&mut right)?;
            if count == 0 {
                return Ok(true);
            }
            if one.read_exact(&mut left[..count]).is_err() || left[..count] != right[..count] {
                return Ok(false);
            }
        }
    };
    read().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transcript_that_is_the_beginning_of_another_one_is_not_a_different_one() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| {
            fs::write(dir.path().join(name), text).unwrap();
            dir.path().join(name)
        };
        let (long, short) = (put("long", "abc"), put("short", "ab"));
        let other = put("other", "abd");
        assert!(begins_with(&long, &short) && begins_with(&long, &long));
        assert!(!begins_with(&short, &long) && !begins_with(&long, &other));
        assert!(!begins_with(&long, &dir.path().join("gone")));
    }
}
