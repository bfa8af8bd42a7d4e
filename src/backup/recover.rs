//! What is lost on the disk and is in a backup: the transcript of a session, a whole workspace.
//!
//! A transcript only grows, so of several versions the longest is the most complete, and the newest among
//! those. Nothing that is there is replaced by less, and what is replaced is renamed.

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

/// What was brought back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovery {
    /// Relative to the data directory.
    pub path: PathBuf,
    /// When the backup was begun that had it.
    pub at: Timestamp,
    /// Bytes of a file.
    pub bytes: u64,
}

impl Recovery {
    /// In words, for the journal and for the agent.
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

/// Brings back the transcript of a session, if a backup has one that is longer than so many bytes.
/// With it comes the directory of the same name, where it is missing.
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
    let aside = new_uuid();
    let brought = file(settings, &repository, &version, &aside, stop);
    privileged_write::order(settings, &WriteRequest::Drop(aside))?;
    brought?;
    // Results of tools that were too long for the transcript; a session goes on without them too.
    let side = version.path.with_extension("");
    if !settings.data_dir.absolute(&side).exists() {
        tree(settings, &repository, &version.id, &side, stop).ok();
    }
    Ok(Some(Recovery {
        path: version.path,
        at: version.at,
        bytes: version.bytes,
    }))
}

/// Every version of a session's transcript, newest backup first.
///
/// # Errors
/// The repository cannot be read.
pub fn transcripts(repository: &Repository, session_id: &str, stop: &Stop) -> Result<Vec<Version>> {
    ensure!(
        sys::uuid::is_uuid(session_id),
        "{session_id} is not the id of a session"
    );
    let mut versions =
        snapshots::versions(repository, &format!("{session_id}.jsonl"), "file", stop)?;
    versions.retain(|version| is_transcript(&version.path));
    Ok(versions)
}

/// `.claude/projects/<folder>/<id>.jsonl` and no other place.
fn is_transcript(path: &Path) -> bool {
    path.starts_with(".claude/projects") && path.components().count() == 4
}

fn best(versions: Vec<Version>) -> Option<Version> {
    versions
        .into_iter()
        .max_by(|a, b| (a.bytes, a.at).cmp(&(b.bytes, b.at)))
}

/// Brings back a directory of the data directory that is gone, from the newest backup that has it.
///
/// # Errors
/// The repository cannot be read, or the disk refused.
pub fn directory(settings: &Settings, path: &Path, stop: &Stop) -> Result<Option<Recovery>> {
    let is_inside = path
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    let Some(name) = path.file_name().filter(|_| is_inside) else {
        return Ok(None); // Outside of the data directory nothing is kept.
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

/// A name as a pattern that matches it and nothing else.
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
    aside: &str,
    stop: &Stop,
) -> Result<()> {
    let dump = dump(repository, &version.id, &version.path);
    stream(
        settings,
        repository,
        dump,
        &WriteRequest::TakeFile(aside.into()),
        stop,
    )?;
    point(Point::BroughtQuarantined);
    let place = WriteRequest::Place {
        aside: aside.into(),
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
    let aside = new_uuid();
    let order = WriteRequest::TakeTree(aside.clone());
    let taken = stream(
        settings,
        repository,
        dump(repository, id, path),
        &order,
        stop,
    )
    .and_then(|()| {
        let place = WriteRequest::Place {
            aside: aside.clone(),
            part: path.to_path_buf(),
            to: path.to_path_buf(),
            over_shorter: false,
        };
        privileged_write::order(settings, &place)
    });
    privileged_write::order(settings, &WriteRequest::Drop(aside))?;
    taken
}

fn dump(repository: &Repository, id: &str, path: &Path) -> Command {
    let mut command = repository.command(["dump", "--no-lock", id]);
    command.arg(Path::new("/").join(path));
    command
}

/// Restic's output into a child of the owner's, which puts it aside. Both have to succeed.
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
    .context("cannot take in what restic gives")?;
    let given = repository.run_into(&mut dump, writer, LONG, stop);
    // It holds the other end of the pipe.
    drop(dump);
    let taken = taking
        .join()
        .ok()
        .context("the child that takes it panicked")??;
    given?;
    ensure!(
        taken.status.success(),
        "cannot put it aside: {}",
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
    fn only_what_lies_where_transcripts_lie_is_one() {
        assert!(is_transcript(Path::new(".claude/projects/-a/u.jsonl")));
        for path in [
            "workspaces/x/u.jsonl",
            ".claude/projects/-a/u/subagents/u.jsonl",
        ] {
            assert!(!is_transcript(Path::new(path)), "{path}");
        }
    }
}
