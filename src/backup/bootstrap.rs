//! Restore of a whole data directory on a new machine, from the second repository.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::restic::{self, LONG, Restic};
use super::settings::Key;
use super::{Repository, Settings, Snapshot, Stop, include, snapshots};
use crate::agent::exec::read_env_file;
use state::VERSION;
use state::layout::DataDir;
use sys::error::{Context as _, ErrorKind, Hint as _, Result, anyhow};
use sys::files;

/// The staging directory in a data directory that is being restored.
const STAGING: &str = ".restoring";

/// The directory that is moved last, since it makes the directory a data directory.
const LAST: &str = "session-state";

/// The repository and backup to restore.
#[derive(Debug, Clone)]
pub struct From {
    /// The restic URL of the repository.
    pub url: String,
    /// Its password.
    pub key: Key,
    /// A file of environment variables for it.
    pub env_file: Option<PathBuf>,
    /// The data directory, if the repository has several.
    pub data_dir_id: Option<String>,
    /// The backup; the newest by default.
    pub id: Option<String>,
}

/// The restored data directory.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Fresh {
    /// Version of this form.
    pub version: u32,
    /// Its path.
    pub data_dir: PathBuf,
    /// The data directory's id, the same as before.
    pub data_dir_id: String,
    /// The backup that was restored.
    pub backup: Snapshot,
    /// The agents that are declared.
    pub agents: Vec<String>,
    /// What no backup holds and the agents may miss, in sentences.
    pub missing: Vec<String>,
}

/// Finds the requested backup.
///
/// # Errors
/// There is none, it is ambiguous, or the repository cannot be read.
pub fn find(from: &From, stop: &Stop) -> Result<(Repository, Snapshot)> {
    restic::ensure_allowed(&from.url)?;
    let environment = match &from.env_file {
        Some(file) => read_env_file(file)?,
        None => Default::default(),
    };
    let repository = Repository::remote(Restic::find()?, &from.url, from.key.clone(), environment);
    let all = snapshots::list(&repository, stop)?;
    let snapshot = choose(&all, from)?.clone();
    Ok((repository, snapshot))
}

fn choose<'a>(all: &'a [Snapshot], from: &From) -> Result<&'a Snapshot> {
    if let Some(id) = &from.id {
        return snapshots::pick(all, id);
    }
    let ids: BTreeSet<&str> = all
        .iter()
        .filter_map(|snapshot| snapshot.data_dir_id.as_deref())
        .collect();
    let name = restic::without_password(&from.url);
    let requested = match (&from.data_dir_id, ids.len()) {
        (Some(id), _) => id.as_str(),
        (None, 1) => ids.first().copied().unwrap_or_default(),
        (None, 0) => {
            return Err(anyhow!("{name} holds no backup of a data directory"))
                .kind(ErrorKind::Failed);
        }
        (None, _) => {
            let ids: Vec<&str> = ids.into_iter().collect();
            return Err(anyhow!(
                "{name} holds backups of several data directories: {}",
                ids.join(", ")
            ))
            .hint("choose one with --data-dir-id ID")
            .kind(ErrorKind::Usage);
        }
    };
    all.iter()
        .find(|snapshot| snapshot.data_dir_id.as_deref() == Some(requested))
        .with_context(|| format!("{name} holds no backup of the data directory {requested}"))
}

/// Fails unless a data directory can be made at `dir`.
///
/// # Errors
/// There is one, or other files are in the way.
pub fn ensure_free(dir: &Path) -> Result<()> {
    let in_the_way = [
        "session-state",
        ".claude",
        "workspaces",
        "spotkeep.toml",
        "home",
    ]
    .iter()
    .map(|name| dir.join(name))
    .find(|path| {
        // `setup` makes the directories of an empty data directory.
        let is_empty = fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none());
        fs::symlink_metadata(path).is_ok() && !is_empty
    });
    match in_the_way {
        None => Ok(()),
        Some(path) => Err(anyhow!(
            "{} exists, and a data directory is made only where there is none",
            path.display()
        ))
        .hint(
            "spotkeep --data-dir ANOTHER restore --from ...; single files: spotkeep backup restore",
        )
        .kind(ErrorKind::Usage),
    }
}

/// Makes the data directory. An interrupted run leaves no data directory, and the next one starts
/// again.
///
/// # Errors
/// As [`ensure_free`]; restic failed; the disk refused.
pub fn make(
    dir: &Path,
    from: &From,
    repository: &Repository,
    snapshot: Snapshot,
    stop: &Stop,
) -> Result<Fresh> {
    ensure_free(dir)?;
    fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let dir = fs::canonicalize(dir)?;
    let staging = dir.join(STAGING);
    if staging.exists() {
        fs::remove_dir_all(&staging)
            .with_context(|| format!("cannot remove {}", staging.display()))?;
    }
    files::create_private_dir(&staging)?;
    let mut restore = repository.command(["restore", "--no-lock", &snapshot.id, "--target"]);
    repository.ask(restore.arg(&staging), LONG, stop)?;
    let identity = staging.join(LAST).join("root.json");
    if !identity.is_file() {
        return Err(anyhow!(
            "the backup {} is not one of a data directory",
            snapshot.id
        ))
        .hint("to restore it anyway, use restic restore");
    }
    if let Key::File(file) = &from.key {
        let password = files::read_optional(file)?
            .with_context(|| format!("{} is missing", file.display()))?;
        files::write_atomic(&dir.join("backups.key"), &password)?;
    }
    files::sync_filesystem(&dir).context("cannot sync")?;
    let mut names: Vec<_> = fs::read_dir(&staging)?
        .filter_map(|entry| Some(entry.ok()?.file_name()))
        .collect();
    names.sort_by_key(|name| name == LAST);
    for name in names {
        let target = dir.join(&name);
        if target.is_dir() {
            // It is empty, as was checked above; otherwise this fails.
            fs::remove_dir(&target)
                .with_context(|| format!("cannot replace {}", target.display()))?;
        }
        fs::rename(staging.join(&name), &target)
            .with_context(|| format!("cannot move {} into place", target.display()))?;
    }
    fs::remove_dir(&staging).ok();
    files::sync_dir(&dir)?;
    let (data_dir, _) = DataDir::init(&dir)?;
    let settings = Settings::load(&data_dir)?;
    // With the same chunker parameters, so that the next copy transfers only new data.
    if !settings.has_repository() {
        let local = Repository::local(Restic::find()?, &settings, settings.ensure_key()?);
        restic::init(&local, Some(repository), stop)?;
    }
    Ok(Fresh {
        version: VERSION,
        data_dir_id: data_dir.identity()?.data_dir_id,
        agents: settings
            .config
            .agents
            .keys()
            .map(ToString::to_string)
            .collect(),
        missing: missing(&data_dir, &settings),
        data_dir: dir,
        backup: snapshot,
    })
}

fn missing(data_dir: &DataDir, settings: &Settings) -> Vec<String> {
    let login = claude::SECRETS
        .iter()
        .map(|name| data_dir.claude().join(name))
        .filter(|path| !path.exists())
        .map(|path| {
            format!(
                "{} is missing: agents without an API key need one /login",
                path.display()
            )
        });
    let files = include::env_files(settings)
        .map(|file| data_dir.absolute(&file))
        .filter(|path| !path.exists())
        .map(|path| {
            format!(
                "{} is declared and missing: backups do not contain env_files",
                path.display()
            )
        });
    let outside = settings.config.agents.iter().filter_map(|(name, agent)| {
        let path = data_dir.absolute(&agent.workspace);
        (!path.is_dir()).then(|| format!("{name} works in {}, which is missing", path.display()))
    });
    login.chain(files).chain(outside).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use sys::time::Timestamp;

    fn snapshot(id: &str, data_dir: Option<&str>) -> Snapshot {
        Snapshot {
            id: id.into(),
            at: Timestamp::now(),
            data_dir_id: data_dir.map(str::to_owned),
            host: "vm".into(),
        }
    }

    fn from() -> From {
        From {
            url: "/x".into(),
            key: Key::File("/k".into()),
            env_file: None,
            data_dir_id: None,
            id: None,
        }
    }

    #[test]
    fn one_of_several_data_directories_is_never_guessed() {
        let one = [snapshot("cccc1", None), snapshot("aaaa1", Some("a"))];
        assert_eq!(choose(&one, &from()).unwrap().id, "aaaa1");
        let two = [snapshot("bbbb1", Some("b")), snapshot("aaaa1", Some("a"))];
        assert!(choose(&two, &from()).is_err());
        let named = From {
            data_dir_id: Some("a".into()),
            ..from()
        };
        assert_eq!(choose(&two, &named).unwrap().id, "aaaa1");
        assert!(choose(&[], &from()).is_err());
    }

    #[test]
    fn a_data_directory_is_made_only_where_there_is_none() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("workspaces")).unwrap();
        fs::create_dir(dir.path().join("lost+found")).unwrap();
        ensure_free(dir.path()).unwrap();
        fs::create_dir(dir.path().join("workspaces/a")).unwrap();
        assert!(ensure_free(dir.path()).is_err());
    }
}
