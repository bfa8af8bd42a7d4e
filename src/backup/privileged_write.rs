//! Writing of files outside of `backups/` as the owner of the data directory.
//!
//! If root acts for a user, a child process of that user writes, so that no link that the user has
//! set can redirect root.

use std::fs;
use std::io::{self, Read, Write as _};
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::{BackupState, Settings};
use state::AgentName;
use state::layout::DataDir;
use sys::error::{Context as _, Result, ensure};
use sys::process::{self, Signal};
use sys::run_as::{Groups, run_as};
use sys::time::Timestamp;
use sys::{command, files};

/// Time limit of a child that writes or renames one small file.
const LIMIT: Duration = Duration::from_secs(60);

/// Prefix of the names of staging files and directories.
const STAGING_PREFIX: &str = ".brought-";

/// A request to the child process, as JSON on its command line.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WriteRequest {
    /// Write the copy of the state.
    Publish(Box<BackupState>),
    /// Write standard input to a staging file of this name.
    TakeFile(String),
    /// Unpack a tar archive from standard input into a staging directory of this name.
    TakeTree(String),
    /// Move a staging file or directory to its destination.
    Place {
        /// Its staging name.
        #[serde(alias = "aside")]
        staging: String,
        /// The path below the staging directory to move; empty for all of it.
        part: PathBuf,
        /// The destination, relative to the data directory.
        to: PathBuf,
        /// Whether an existing shorter file is renamed and replaced; anything else that exists
        /// stays.
        over_shorter: bool,
    },
    /// Remove a staging file or directory.
    Drop(String),
    /// Record what was recovered for an agent, for its note at the next start.
    Tell {
        /// The agent's name.
        name: AgentName,
        /// One line.
        words: String,
    },
}

/// Writes the copy of the state.
pub(super) fn publish(settings: &Settings, state: &BackupState) -> Result<()> {
    order(settings, &WriteRequest::Publish(Box::new(state.clone())))
}

/// Carries out a request as the owner of the data directory.
///
/// # Errors
/// The request failed.
pub fn order(settings: &Settings, order: &WriteRequest) -> Result<()> {
    if !settings.is_guarded() {
        return carry_out(&settings.data_dir, order, &mut io::empty());
    }
    let output = command::run(&mut child(settings, order)?, LIMIT)?;
    ensure!(output.status.success(), "{}", output.stderr);
    Ok(())
}

/// Returns the command of a child process of the owner that carries out a request. The caller sets
/// its stdin.
///
/// # Errors
/// The path of this program cannot be found.
pub fn child(settings: &Settings, order: &WriteRequest) -> Result<Command> {
    let program = std::env::current_exe().context("cannot find the path of this program")?;
    let owner = settings.owner;
    let mut command = match settings.is_guarded() {
        true => {
            process::close_descriptors_on_exec();
            run_as(owner.uid, owner.gid, Groups::None, Signal::Kill, program)
        }
        false => Command::new(program),
    };
    command
        .arg("--data-dir")
        .arg(settings.data_dir.dir())
        .args(["backup", "carry-out"])
        .arg(serde_json::to_string(order)?)
        .current_dir("/")
        .stdin(Stdio::null());
    Ok(command)
}

/// Carries out a request in this process.
///
/// # Errors
/// The disk refused, or a path is outside the data directory.
pub fn carry_out(data_dir: &DataDir, order: &WriteRequest, input: &mut dyn Read) -> Result<()> {
    match order {
        WriteRequest::Publish(state) => state::store(&data_dir.backup_state(), state),
        WriteRequest::Tell { name, words } => {
            let path = data_dir.note(name).with_extension("repaired");
            files::AppendFile::open(&path)?
                .append(words)
                .with_context(|| format!("cannot write {}", path.display()))
        }
        WriteRequest::TakeFile(name) => {
            let path = staging_path(data_dir, name)?;
            let mut file = private_file(&path)?;
            io::copy(input, &mut file)
                .and_then(|_| file.flush())
                .and_then(|()| file.sync_all())
                .with_context(|| format!("cannot write {}", path.display()))
        }
        WriteRequest::TakeTree(name) => {
            let path = staging_path(data_dir, name)?;
            files::create_private_dir(&path)?;
            let mut tar = Command::new("tar");
            tar.args(["-x", "-p", "-f", "-", "-C"]).arg(&path);
            // tar reads this process's standard input.
            let output = tar
                .stdin(Stdio::inherit())
                .output()
                .context("cannot run tar")?;
            ensure!(
                output.status.success(),
                "tar: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            );
            files::sync_filesystem(&path).context("cannot sync")
        }
        WriteRequest::Place {
            staging: name,
            part,
            to,
            over_shorter,
        } => {
            ensure_inside(part)?;
            ensure_inside(to)?;
            let mut from = staging_path(data_dir, name)?;
            if !part.as_os_str().is_empty() {
                from.push(part);
            }
            write_file(data_dir, &from, to, *over_shorter)
        }
        WriteRequest::Drop(name) => {
            let path = staging_path(data_dir, name)?;
            let removed = match fs::symlink_metadata(&path) {
                Ok(meta) if meta.is_dir() => fs::remove_dir_all(&path),
                Ok(_) => fs::remove_file(&path),
                Err(_) => Ok(()),
            };
            removed.with_context(|| format!("cannot remove {}", path.display()))
        }
    }
}

/// The path of a staging file or directory, on the same filesystem, so that a rename is enough.
fn staging_path(data_dir: &DataDir, name: &str) -> Result<PathBuf> {
    // The same characters as in an agent's name: no separator and no "..".
    AgentName::new(name)?;
    Ok(data_dir
        .dir()
        .join("session-state")
        .join(format!("{STAGING_PREFIX}{name}")))
}

/// Removes staging files of interrupted recoveries, which may be whole workspaces. The keeper calls
/// it when it starts: no recovery runs then, and later only the keeper itself starts one.
///
/// # Errors
/// The disk refused.
pub fn remove_leftovers(data_dir: &DataDir) -> Result<()> {
    let dir = data_dir.session_state();
    let entries = fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))?;
    for entry in entries.flatten() {
        let name = entry.file_name();
        if let Some(name) = name
            .to_str()
            .and_then(|name| name.strip_prefix(STAGING_PREFIX))
        {
            carry_out(
                data_dir,
                &WriteRequest::Drop(name.to_owned()),
                &mut io::empty(),
            )?;
        }
    }
    Ok(())
}

fn ensure_inside(path: &Path) -> Result<()> {
    let good = path
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    ensure!(good, "{} is outside the data directory", path.display());
    Ok(())
}

fn private_file(path: &Path) -> Result<fs::File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("cannot create {}", path.display()))
}

/// Moves a file into place. An existing shorter file is renamed; one that is not shorter stays.
fn write_file(data_dir: &DataDir, from: &Path, to: &Path, over_shorter: bool) -> Result<()> {
    let target = data_dir.absolute(to);
    let parent = target
        .parent()
        .context("the data directory itself cannot be replaced")?;
    // The parent is one of two directories of Claude's or a workspace's.
    files::create_private_dir(parent)?;
    match fs::symlink_metadata(&target) {
        Ok(meta) => {
            let may = over_shorter && meta.is_file();
            let is_longer = fs::symlink_metadata(from)?.len() > meta.len();
            // A transcript without a message is replaced at any length: a power cut leaves NULs.
            let is_gone =
                may && !is_longer && claude::transcript::locate::quarantine(&target).is_ok();
            ensure!(
                may && (is_longer || is_gone),
                "{} exists and is not shorter",
                target.display()
            );
            if is_longer {
                let mut name = target.file_name().unwrap_or_default().to_owned();
                name.push(format!(".shrunk-{}", Timestamp::now().as_millis()));
                fs::rename(&target, target.with_file_name(name))
                    .with_context(|| format!("cannot rename {}", target.display()))?;
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => {
            return Err(error).with_context(|| format!("cannot read {}", target.display()));
        }
    }
    fs::rename(from, &target)
        .and_then(|()| files::sync_dir(parent))
        .with_context(|| format!("cannot move {} into place", target.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data_dir() -> (tempfile::TempDir, DataDir) {
        let dir = tempfile::tempdir().unwrap();
        let (data_dir, _) = DataDir::init(dir.path()).unwrap();
        (dir, data_dir)
    }

    fn recover(data_dir: &DataDir, text: &str, to: &str, over_shorter: bool) -> Result<()> {
        carry_out(
            data_dir,
            &WriteRequest::TakeFile("x".into()),
            &mut text.as_bytes(),
        )?;
        let placed = carry_out(
            data_dir,
            &WriteRequest::Place {
                staging: "x".into(),
                part: PathBuf::new(),
                to: to.into(),
                over_shorter,
            },
            &mut io::empty(),
        );
        carry_out(data_dir, &WriteRequest::Drop("x".into()), &mut io::empty())?;
        placed
    }

    #[test]
    fn a_missing_file_is_recovered_and_never_replaced_by_a_shorter_one() {
        let (_dir, data_dir) = data_dir();
        let to = ".claude/projects/-a/u.jsonl";
        let path = data_dir.dir().join(to);
        recover(&data_dir, "four", to, false).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "four");
        let said = r#"{"type":"user","message":{"content":"hello"}}"#;
        recover(&data_dir, said, to, true).unwrap();
        assert!(recover(&data_dir, "shor", to, true).is_err());
        assert!(recover(&data_dir, &said.repeat(2), to, false).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), said);
        let kept = fs::read_dir(path.parent().unwrap()).unwrap();
        let mut names: Vec<String> = kept
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert!(names[1].starts_with("u.jsonl.shrunk-"), "{names:?}");
    }

    #[test]
    fn no_request_writes_outside_the_data_directory() {
        let (_dir, data_dir) = data_dir();
        for to in ["../x", "/etc/x", "workspaces/../../x"] {
            assert!(recover(&data_dir, "x", to, false).is_err(), "{to}");
        }
        for name in ["../x", "a/b", ""] {
            let order = WriteRequest::TakeFile(name.into());
            assert!(
                carry_out(&data_dir, &order, &mut io::empty()).is_err(),
                "{name}"
            );
        }
    }
}
