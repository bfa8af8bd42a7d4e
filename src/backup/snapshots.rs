//! What is in a repository: its backups, the files in one, every version of one file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::restic::SHORT;
use super::{Repository, Stop};
use sys::error::{Context as _, ErrorKind, Hint as _, Result, anyhow};
use sys::time::Timestamp;

/// The tag of all that is ours begins so; the data directory's id follows.
const TAG: &str = "root=";

/// The tag of a data directory's backups.
#[must_use]
pub fn tag(data_dir_id: &str) -> String {
    format!("{TAG}{data_dir_id}")
}

/// One backup.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Its id, as restic takes it.
    pub id: String,
    /// When it was begun.
    pub at: Timestamp,
    /// Which data directory it is of; null where it was not made by us.
    pub data_dir_id: Option<String>,
    /// The machine that made it.
    pub host: String,
}

/// As restic tells it.
#[derive(Debug, Deserialize)]
struct Told {
    id: String,
    time: Timestamp,
    #[serde(default)]
    hostname: String,
    #[serde(default)]
    tags: Option<Vec<String>>,
}

/// All backups, newest first.
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
    // An empty repository is told as null by some versions.
    let told: Option<Vec<Told>> =
        serde_json::from_str(text).context("cannot read restic's list")?;
    let mut all: Vec<Snapshot> = told
        .unwrap_or_default()
        .into_iter()
        .map(|told| Snapshot {
            data_dir_id: told
                .tags
                .iter()
                .flatten()
                .find_map(|tag| tag.strip_prefix(TAG))
                .map(str::to_owned),
            id: told.id,
            at: told.time,
            host: told.hostname,
        })
        .collect();
    all.sort_by_key(|one| std::cmp::Reverse(one.at));
    Ok(all)
}

/// The one backup that is meant by the beginning of an id, or by `latest`.
///
/// # Errors
/// There is none, or more than one.
pub fn pick<'a>(all: &'a [Snapshot], id: &str) -> Result<&'a Snapshot> {
    let mut meant = all
        .iter()
        .filter(|snapshot| id == "latest" || (id.len() >= 4 && snapshot.id.starts_with(id)));
    let first = meant.next();
    match (first, meant.next()) {
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
    /// When that was begun.
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

/// Every version of what has this name and is of this kind (`file`, `dir`), newest backup first.
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

/// What a path in a backup is.
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

/// All that a backup holds below `paths`, or all of it where none is given.
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
    // Asked for a path, restic also tells the directories that lead to it.
    nodes.retain(|node| paths.is_empty() || paths.iter().any(|path| node.path.starts_with(path)));
    Ok(nodes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = r#"[{"time":"2026-11-22T10:00:00.1Z","tree":"t","paths":["/r"],"hostname":"vm","tags":["root=abc"],"id":"aaaa1111","short_id":"aaaa"},
        {"time":"2026-11-22T11:00:00Z","tree":"t","paths":["/r"],"hostname":"vm","id":"aaaa2222","short_id":"aaaa"}]"#;

    #[test]
    fn the_newest_backup_comes_first_and_knows_its_root() {
        let all = parse(LIST).unwrap();
        assert_eq!(all[0].id, "aaaa2222");
        assert_eq!(all[1].data_dir_id.as_deref(), Some("abc"));
        assert_eq!(parse("null").unwrap(), []);
    }

    #[test]
    fn the_beginning_of_an_id_will_do_where_it_means_one() {
        let all = parse(LIST).unwrap();
        assert_eq!(pick(&all, "aaaa1").unwrap().id, "aaaa1111");
        assert_eq!(pick(&all, "latest").unwrap().id, "aaaa2222");
        for bad in ["aaaa", "aaa", "bbbb", ""] {
            assert!(pick(&all, bad).is_err(), "{bad}");
        }
    }
}
