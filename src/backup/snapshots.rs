//! Listing of a repository: backups, the files of a backup, all versions of a file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::restic::SHORT;
use super::{Repository, Stop};
use sys::error::{Context as _, ErrorKind, Hint as _, Result, anyhow};
use sys::time::Timestamp;

/// Prefix of the tag of spotkeep's backups; the data directory's id follows.
const TAG: &str = "root=";

/// The tag of a data directory's backups.
#[must_use]
pub fn tag(data_dir_id: &str) -> String {
    format!("{TAG}{data_dir_id}")
}

/// One backup.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Its restic id.
    pub id: String,
    /// When it began.
    pub at: Timestamp,
    /// The id of its data directory; null if spotkeep did not make it.
    pub data_dir_id: Option<String>,
    /// The machine that made it.
    pub host: String,
}

/// A snapshot in restic's JSON.
#[derive(Debug, Deserialize)]
struct ResticSnapshot {
    id: String,
    time: Timestamp,
    #[serde(default)]
    hostname: String,
    #[serde(default)]
    tags: Option<Vec<String>>,
}

/// Lists all backups, newest first.
///
/// # Errors
/// The repository cannot be read.
pub fn list(repository: &Repository, stop: &Stop) -> Result<Vec<Snapshot>> {
    let text = repository.ask(
        &mut repository.command(["snapshots", "--json", "--no-lock"]),
        SHORT,
        stop,
    )?;
    parse(&text)
}

fn parse(text: &str) -> Result<Vec<Snapshot>> {
    // Some versions of restic print null for an empty repository.
    let listed: Option<Vec<ResticSnapshot>> =
        serde_json::from_str(text).context("cannot read the output of restic snapshots")?;
    let mut all: Vec<Snapshot> = listed
        .unwrap_or_default()
        .into_iter()
        .map(|snapshot| Snapshot {
            data_dir_id: snapshot
                .tags
                .iter()
                .flatten()
                .find_map(|tag| tag.strip_prefix(TAG))
                .map(str::to_owned),
            id: snapshot.id,
            at: snapshot.time,
            host: snapshot.hostname,
        })
        .collect();
    all.sort_by_key(|one| std::cmp::Reverse(one.at));
    Ok(all)
}

/// Finds the backup with this id or prefix of an id, or the newest for `latest`.
///
/// # Errors
/// There is none, or more than one.
pub fn pick<'a>(all: &'a [Snapshot], id: &str) -> Result<&'a Snapshot> {
    let mut matching = all
        .iter()
        .filter(|snapshot| id == "latest" || (id.len() >= 4 && snapshot.id.starts_with(id)));
    let first = matching.next();
    match (first, matching.next()) {
        (Some(snapshot), None) => Ok(snapshot),
        (Some(snapshot), _) if id == "latest" => Ok(snapshot),
        (Some(_), Some(_)) => Err(anyhow!("{id} is the beginning of more than one id"))
            .hint("spotkeep backup ls")
            .kind(ErrorKind::Usage),
        (None, _) => Err(anyhow!("there is no backup {id}"))
            .hint("spotkeep backup ls")
            .kind(ErrorKind::Usage),
    }
}

/// One version of a file or a directory.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Version {
    /// The backup that has it.
    pub id: String,
    /// When that backup began.
    pub at: Timestamp,
    /// Relative to the data directory.
    pub path: PathBuf,
    /// Its length.
    pub bytes: u64,
}

#[derive(Debug, Deserialize)]
struct SnapshotMatches {
    #[serde(default)]
    matches: Vec<Match>,
    snapshot: String,
}

#[derive(Debug, Deserialize)]
struct Match {
    path: PathBuf,
    #[serde(default)]
    size: u64,
    #[serde(rename = "type")]
    kind: String,
}

/// Lists every version of the name, of one kind (`file`, `dir`), newest backup first.
///
/// # Errors
/// The repository cannot be read.
pub fn versions(
    repository: &Repository,
    name: &str,
    kind: &str,
    stop: &Stop,
) -> Result<Vec<Version>> {
    let times: BTreeMap<String, Timestamp> = list(repository, stop)?
        .into_iter()
        .map(|snapshot| (snapshot.id, snapshot.at))
        .collect();
    let text = repository.ask(
        &mut repository.command(["find", "--json", "--no-lock", "--", name]),
        SHORT,
        stop,
    )?;
    let found: Vec<SnapshotMatches> = serde_json::from_str(text.trim()).unwrap_or_default();
    let mut all: Vec<Version> = found
        .into_iter()
        .flat_map(|found| {
            let at = times.get(&found.snapshot).copied();
            let files = found.matches.into_iter().filter(|node| node.kind == kind);
            files.filter_map(move |file| {
                Some(Version {
                    id: found.snapshot.clone(),
                    at: at?,
                    path: file.path.strip_prefix("/").ok()?.to_path_buf(),
                    bytes: file.size,
                })
            })
        })
        .collect();
    all.sort_by_key(|one| std::cmp::Reverse(one.at));
    Ok(all)
}

/// A file, directory or link in a backup.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Node {
    /// Relative to the data directory.
    pub path: PathBuf,
    /// `file`, `dir`, `symlink` and so on.
    #[serde(rename = "type")]
    pub kind: String,
    /// Bytes of a file.
    #[serde(default)]
    pub size: u64,
    /// When it was last written.
    pub mtime: Timestamp,
}

/// Lists what a backup holds below `paths`, or all of it if `paths` is empty.
///
/// # Errors
/// The repository cannot be read.
pub fn nodes(
    repository: &Repository,
    id: &str,
    paths: &[PathBuf],
    stop: &Stop,
) -> Result<Vec<Node>> {
    let mut command = repository.command(["ls", "--json", "--no-lock", "--recursive", id]);
    command.args(paths.iter().map(|path| Path::new("/").join(path)));
    let mut nodes = Vec::new();
    let ended = repository.run(&mut command, SHORT, stop, &mut |line| {
        // The first line is the snapshot itself.
        if let Ok(mut node) = serde_json::from_str::<Node>(line) {
            if let Ok(path) = node.path.strip_prefix("/") {
                node.path = path.to_path_buf();
            }
            nodes.push(node);
        }
    })?;
    repository.ensure_success(&ended)?;
    // For a path, restic also lists its parent directories.
    nodes.retain(|node| paths.is_empty() || paths.iter().any(|path| node.path.starts_with(path)));
    Ok(nodes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = r#"[{"time":"2026-11-22T10:00:00.1Z","tree":"t","paths":["/r"],
        "hostname":"vm",
        "tags":["root=abc"],"id":"aaaa1111","short_id":"aaaa"},
        {"time":"2026-11-22T11:00:00Z","tree":"t","paths":["/r"],
        "hostname":"vm",
        "id":"aaaa2222","short_id":"aaaa"}]"#;

    #[test]
    fn the_newest_backup_comes_first_with_its_data_directory() {
        let all = parse(LIST).unwrap();
        assert_eq!(all[0].id, "aaaa2222");
        assert_eq!(all[1].data_dir_id.as_deref(), Some("abc"));
        assert_eq!(parse("null").unwrap(), []);
    }

    #[test]
    fn a_prefix_of_an_id_is_enough_if_it_matches_one() {
        let all = parse(LIST).unwrap();
        assert_eq!(pick(&all, "aaaa1").unwrap().id, "aaaa1111");
        assert_eq!(pick(&all, "latest").unwrap().id, "aaaa2222");
        for bad in ["aaaa", "aaa", "bbbb", ""] {
            assert!(pick(&all, bad).is_err(), "{bad}");
        }
    }
}
