//! A data directory on a machine that has none, out of the repository that another one copied to.

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

/// What lies in a data directory that is being made, until it is whole.
const ASIDE: &str = ".restoring";

/// What a data directory is made of here: last what makes it one.
const LAST: &str = "session-state";

/// Where to take it from.
#[derive(Debug, Clone)]
pub struct From {
    /// As restic names it.
    pub url: String,
    /// Its password.
    pub key: Key,
    /// A file of environment variables for it.
    pub env_file: Option<PathBuf>,
    /// Which data directory, where there are several.
    pub data_dir_id: Option<String>,
    /// Which backup; the newest where none is named.
    pub id: Option<String>,
}

/// What was made.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Fresh {
    /// Version of this form.
    pub version: u32,
    /// Where.
    pub data_dir: PathBuf,
    /// The data directory's id, the same as before.
    pub data_dir_id: String,
    /// The backup that it was made of.
    pub backup: Snapshot,
    /// The agents that are declared.
    pub agents: Vec<String>,
    /// What no backup holds and the agents may miss, in sentences.
    pub missing: Vec<String>,
}

/// Finds the backup that is meant.
///
/// # Errors
/// There is none, there are several roots, or the repository cannot be read.
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
                "{name} holds backups of several roots: {}",
                ids.join(", ")
            ))
            .hint("say which with --data-dir-id")
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
/// There is one, or something that would be in its way.
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
            "{} is there, and a data directory is made only where there is none",
            path.display()
        ))
        .hint(
            "spotkeep --data-dir ANOTHER restore --from ...; single files: spotkeep backup restore",
        )
        .kind(ErrorKind::Usage),
    }
}

/// Makes the data directory. One that was cut off leaves no data directory, and is begun anew by the next.
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
    let aside = dir.join(ASIDE);
    if aside.exists() {
        fs::remove_dir_all(&aside).with_context(|| format!("cannot remove {}", aside.display()))?;
    }
    files::create_private_dir(&aside)?;
    let mut restore = repository.command(["restore", "--no-lock", &snapshot.id, "--target"]);
    repository.ask(restore.arg(&aside), LONG, stop)?;
    let identity = aside.join(LAST).join("root.json");
    if !identity.is_file() {
        return Err(anyhow!(
            "the backup {} is not one of a data directory",
            snapshot.id
        ))
        .hint("restic restore brings back what it is");
    }
    if let Key::File(file) = &from.key {
        let password = files::read_optional(file)?
            .with_context(|| format!("{} is missing", file.display()))?;
        files::write_atomic(&dir.join("backups.key"), &password)?;
    }
    files::sync_filesystem(&dir).context("cannot sync")?;
    let mut names: Vec<_> = fs::read_dir(&aside)?
        .filter_map(|entry| Some(entry.ok()?.file_name()))
        .collect();
    names.sort_by_key(|name| name == LAST);
    for name in names {
        let target = dir.join(&name);
        if target.is_dir() {
            // Empty, as was looked for above; anything else refuses.
            fs::remove_dir(&target)
                .with_context(|| format!("cannot replace {}", target.display()))?;
        }
        fs::rename(aside.join(&name), &target)
            .with_context(|| format!("cannot put {} in place", target.display()))?;
    }
    fs::remove_dir(&aside).ok();
    files::sync_dir(&dir)?;
    let (data_dir, _) = DataDir::init(&dir)?;
    let settings = Settings::load(&data_dir)?;
    // Cut in the same places as there, so that what is copied next time is what is new.
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
                "{} is not there: agents without an API key need one /login",
                path.display()
            )
        });
    let files = include::env_files(settings)
        .map(|file| data_dir.absolute(&file))
        .filter(|path| !path.exists())
        .map(|path| {
            format!(
                "{} is declared and not there: env_files are in no backup",
                path.display()
            )
        });
    let outside = settings.config.agents.iter().filter_map(|(name, agent)| {
        let path = data_dir.absolute(&agent.workspace);
        (!path.is_dir()).then(|| format!("{name} works in {}, which is not there", path.display()))
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
    fn which_root_is_meant_is_never_guessed() {
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
    fn a_root_is_made_only_where_there_is_none() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("workspaces")).unwrap();
        fs::create_dir(dir.path().join("lost+found")).unwrap();
        ensure_free(dir.path()).unwrap();
        fs::create_dir(dir.path().join("workspaces/a")).unwrap();
        assert!(ensure_free(dir.path()).is_err());
    }
}
