//! Recovery of lost files from the backups: the transcript of a session, a whole workspace.
//!
//! A transcript only grows, so of several versions the longest is the most complete, and the newest
//! among those is taken. An existing file is replaced only by a longer one, and renamed before.

use std::path::{Component, Path, PathBuf};
use std::process::Command;

use super::privileged_write::{self, WriteRequest};
use super::restic::LONG;
use super::snapshots::{self, Version};
use super::{Repository, Settings, Stop};
use sys::error::{Context as _, Result, ensure};
use sys::failpoint::{Point, point};
use sys::thread;
use sys::time::{Timestamp, short};
use sys::uuid::new_uuid;

/// A recovered file or directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovery {
    /// Relative to the data directory.
    pub path: PathBuf,
    /// When the backup with it began.
    pub at: Timestamp,
    /// Bytes of a file; 0 for a directory.
    pub bytes: u64,
}

impl Recovery {
    /// Describes it for the journal and for the agent.
    #[must_use]
    pub fn describe(&self) -> String {
        format!(
            "{} was brought back from the backup of {}, {} old",
            self.path.display(),
            self.at.for_people(),
            short(Timestamp::now().since(self.at))
        )
    }
}

/// Recovers the transcript of a session, if a backup has one that is longer than `longer_than`
/// bytes, and the directory of the same name, if it is missing.
///
/// # Errors
/// The repository cannot be read, or the disk refused.
pub fn transcript(
    settings: &Settings,
    session_id: &str,
    longer_than: u64,
    stop: &Stop,
) -> Result<Option<Recovery>> {
    let repository = Repository::open(settings)?;
    let versions = transcripts(&repository, session_id, stop)?;
    let Some(version) = best(versions).filter(|version| version.bytes > longer_than) else {
        return Ok(None);
    };
    let staging = new_uuid();
    let recovered = file(settings, &repository, &version, &staging, stop);
    privileged_write::order(settings, &WriteRequest::Drop(staging))?;
    recovered?;
    // Tool results that were too long for the transcript; a session continues without them too.
    let tool_results = version.path.with_extension("");
    if !settings.data_dir.absolute(&tool_results).exists() {
        tree(settings, &repository, &version.id, &tool_results, stop).ok();
    }
    Ok(Some(Recovery {
        path: version.path,
        at: version.at,
        bytes: version.bytes,
    }))
}

/// Lists every version of a session's transcript, newest backup first.
///
/// # Errors
/// The repository cannot be read.
pub fn transcripts(repository: &Repository, session_id: &str, stop: &Stop) -> Result<Vec<Version>> {
    ensure!(
        sys::uuid::is_uuid(session_id),
        "{session_id} is not a session id"
    );
    let mut versions =
        snapshots::versions(repository, &format!("{session_id}.jsonl"), "file", stop)?;
    versions.retain(|version| is_transcript(&version.path));
    Ok(versions)
}

/// Whether a path has the form `.claude/projects/<folder>/<id>.jsonl`.
fn is_transcript(path: &Path) -> bool {
    path.starts_with(".claude/projects") && path.components().count() == 4
}

fn best(versions: Vec<Version>) -> Option<Version> {
    versions
        .into_iter()
        .max_by(|a, b| (a.bytes, a.at).cmp(&(b.bytes, b.at)))
}

/// Recovers a missing directory of the data directory from the newest backup that has it.
///
/// # Errors
/// The repository cannot be read, or the disk refused.
pub fn directory(settings: &Settings, path: &Path, stop: &Stop) -> Result<Option<Recovery>> {
    let is_inside = path
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    let Some(name) = path.file_name().filter(|_| is_inside) else {
        return Ok(None); // Backups have nothing outside of the data directory.
    };
    let repository = Repository::open(settings)?;
    let name = name.to_string_lossy();
    let versions = snapshots::versions(&repository, &escape(&name), "dir", stop)?;
    let Some(version) = versions.into_iter().find(|version| version.path == path) else {
        return Ok(None);
    };
    tree(settings, &repository, &version.id, path, stop)?;
    Ok(Some(Recovery {
        path: version.path,
        at: version.at,
        bytes: 0,
    }))
}

/// Escapes a name, so that the pattern matches only this name.
fn escape(name: &str) -> String {
    name.chars()
        .flat_map(|c| {
            let special = matches!(c, '*' | '?' | '[' | ']' | '\\');
            special.then_some('\\').into_iter().chain([c])
        })
        .collect()
}

fn file(
    settings: &Settings,
    repository: &Repository,
    version: &Version,
    staging: &str,
    stop: &Stop,
) -> Result<()> {
    let dump = dump(repository, &version.id, &version.path);
    stream(
        settings,
        repository,
        dump,
        &WriteRequest::TakeFile(staging.into()),
        stop,
    )?;
    point(Point::BroughtQuarantined);
    let place = WriteRequest::Place {
        staging: staging.into(),
        part: PathBuf::new(),
        to: version.path.clone(),
        over_shorter: true,
    };
    privileged_write::order(settings, &place)?;
    point(Point::BroughtPlaced);
    Ok(())
}

fn tree(
    settings: &Settings,
    repository: &Repository,
    id: &str,
    path: &Path,
    stop: &Stop,
) -> Result<()> {
    let staging = new_uuid();
    let order = WriteRequest::TakeTree(staging.clone());
    let taken = stream(
        settings,
        repository,
        dump(repository, id, path),
        &order,
        stop,
    )
    .and_then(|()| {
        let place = WriteRequest::Place {
            staging: staging.clone(),
            part: path.to_path_buf(),
            to: path.to_path_buf(),
            over_shorter: false,
        };
        privileged_write::order(settings, &place)
    });
    privileged_write::order(settings, &WriteRequest::Drop(staging))?;
    taken
}

fn dump(repository: &Repository, id: &str, path: &Path) -> Command {
    let mut command = repository.command(["dump", "--no-lock", id]);
    command.arg(Path::new("/").join(path));
    command
}

/// Pipes restic's output into a child process of the owner, which writes staging files. Both must
/// succeed.
fn stream(
    settings: &Settings,
    repository: &Repository,
    mut dump: Command,
    order: &WriteRequest,
    stop: &Stop,
) -> Result<()> {
    let (reader, writer) = std::io::pipe().context("cannot make a pipe")?;
    let mut taker = privileged_write::child(settings, order)?;
    taker.stdin(reader);
    let taking = thread::spawn("take", move || {
        sys::command::run_fed(&mut taker, LONG.total)
    })
    .context("cannot start the thread that reads from restic")?;
    let given = repository.run_into(&mut dump, writer, LONG, stop);
    // It holds the write end of the pipe.
    drop(dump);
    let taken = taking
        .join()
        .ok()
        .context("the thread that runs the child process panicked")??;
    given?;
    ensure!(
        taken.status.success(),
        "cannot write the staging files: {}",
        taken.stderr
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(at: &str, bytes: u64) -> Version {
        Version {
            id: at.into(),
            at: Timestamp::parse(at).unwrap(),
            path: ".claude/projects/-a/u.jsonl".into(),
            bytes,
        }
    }

    #[test]
    fn the_longest_version_is_the_best_and_the_newest_of_those() {
        let all = vec![
            version("2026-11-22T12:00:00Z", 1),
            version("2026-11-22T11:00:00Z", 9),
            version("2026-11-22T10:00:00Z", 9),
        ];
        assert_eq!(best(all).unwrap().at.clock(), "11:00:00");
        assert_eq!(best(Vec::new()), None);
    }

    #[test]
    fn only_a_path_of_a_transcript_is_one() {
        assert!(is_transcript(Path::new(".claude/projects/-a/u.jsonl")));
        for path in [
            "workspaces/x/u.jsonl",
            ".claude/projects/-a/u/subagents/u.jsonl",
        ] {
            assert!(!is_transcript(Path::new(path)), "{path}");
        }
    }
}
