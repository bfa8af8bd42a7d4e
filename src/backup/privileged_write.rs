//! What is written outside of `backups/`. Where root acts for a user, a child of the user's does it, so that
//! no link that the user set can lead root anywhere.

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

/// For a child that writes one small file, or renames one.
const LIMIT: Duration = Duration::from_secs(60);

/// What the names of all that lies aside begin with.
const ASIDE: &str = ".brought-";

/// What a child is asked to do; as JSON on its command line.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WriteRequest {
    /// Write the copy of the state.
    Publish(Box<BackupState>),
    /// Take a file from standard input, and put it aside under this name.
    TakeFile(String),
    /// Take a tar archive from standard input, and unpack it aside under this name.
    TakeTree(String),
    /// Put what lies aside where it belongs.
    Place {
        /// Its name aside.
        aside: String,
        /// Below what lies aside, the part that is meant; empty for all of it.
        part: PathBuf,
        /// Where it belongs, relative to the data directory.
        to: PathBuf,
        /// A file that is there and is shorter is renamed; anything else that is there stays.
        over_shorter: bool,
    },
    /// Remove what lies aside.
    Drop(String),
    /// Write down what was brought back for an agent, for its note at the next start.
    Tell {
        /// Which agent.
        name: AgentName,
        /// One line.
        words: String,
    },
}

/// Writes the copy of the state.
pub(super) fn publish(settings: &Settings, state: &BackupState) -> Result<()> {
    order(settings, &WriteRequest::Publish(Box::new(state.clone())))
}

/// Has an order carried out, by the owner of the data directory.
///
/// # Errors
/// It could not be.
pub fn order(settings: &Settings, order: &WriteRequest) -> Result<()> {
    if !settings.is_guarded() {
        return carry_out(&settings.data_dir, order, &mut io::empty());
    }
    let output = command::run(&mut child(settings, order)?, LIMIT)?;
    ensure!(output.status.success(), "{}", output.stderr);
    Ok(())
}

/// A child of the owner's that carries out an order; its standard input is for the caller to give.
///
/// # Errors
/// This program cannot tell where it is.
pub fn child(settings: &Settings, order: &WriteRequest) -> Result<Command> {
    let program = std::env::current_exe().context("cannot tell where this program is")?;
    let owner = settings.owner;
    let mut command = match settings.is_guarded() {
        true => {
            process::keep_descriptors_to_ourselves();
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

/// Carries out an order.
///
/// # Errors
/// The disk refused; the order leads out of the data directory.
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
            let path = aside(data_dir, name)?;
            let mut file = private_file(&path)?;
            io::copy(input, &mut file)
                .and_then(|_| file.flush())
                .and_then(|()| file.sync_all())
                .with_context(|| format!("cannot write {}", path.display()))
        }
        WriteRequest::TakeTree(name) => {
            let path = aside(data_dir, name)?;
            files::create_private_dir(&path)?;
            let mut tar = Command::new("tar");
            tar.args(["-x", "-p", "-f", "-", "-C"]).arg(&path);
            // It reads what we were given.
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
            aside: name,
            part,
            to,
            over_shorter,
        } => {
            ensure_inside(part)?;
            ensure_inside(to)?;
            let mut from = aside(data_dir, name)?;
            if !part.as_os_str().is_empty() {
                from.push(part);
            }
            write_file(data_dir, &from, to, *over_shorter)
        }
        WriteRequest::Drop(name) => {
            let path = aside(data_dir, name)?;
            let removed = match fs::symlink_metadata(&path) {
                Ok(meta) if meta.is_dir() => fs::remove_dir_all(&path),
                Ok(_) => fs::remove_file(&path),
                Err(_) => Ok(()),
            };
            removed.with_context(|| format!("cannot remove {}", path.display()))
        }
    }
}

/// What is being brought lies here until it is whole: on the same filesystem, so that a rename is enough.
fn aside(data_dir: &DataDir, name: &str) -> Result<PathBuf> {
    // The same letters that an agent's name may have: no way leads up.
    AgentName::new(name)?;
    Ok(data_dir
        .dir()
        .join("session-state")
        .join(format!("{ASIDE}{name}")))
}

/// Removes what lies aside since somebody was killed while bringing it: it may be a whole workspace. For a keeper that begins, before
/// which nobody brings anything, and after which nobody but itself does.
///
/// # Errors
/// The disk refused.
pub fn remove_leftovers(data_dir: &DataDir) -> Result<()> {
    let dir = data_dir.session_state();
    let entries = fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))?;
    for entry in entries.flatten() {
        let name = entry.file_name();
        if let Some(name) = name.to_str().and_then(|name| name.strip_prefix(ASIDE)) {
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
    ensure!(good, "{} leads out of the data directory", path.display());
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

/// Nothing is lost by it: what is there is renamed, and stays where it is no shorter.
fn write_file(data_dir: &DataDir, from: &Path, to: &Path, over_shorter: bool) -> Result<()> {
    let target = data_dir.absolute(to);
    let parent = target
        .parent()
        .context("the data directory itself cannot be replaced")?;
    // Two directories of Claude's and the workspaces: none of them is a secret of another user.
    files::create_private_dir(parent)?;
    match fs::symlink_metadata(&target) {
        Ok(meta) => {
            let may = over_shorter && meta.is_file();
            let is_longer = fs::symlink_metadata(from)?.len() > meta.len();
            // One without a word may be as long as it likes: a power cut leaves NULs.
            let is_gone =
                may && !is_longer && claude::transcript::locate::quarantine(&target).is_ok();
            ensure!(
                may && (is_longer || is_gone),
                "{} is there, and no shorter",
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
            return Err(error).with_context(|| format!("cannot look at {}", target.display()));
        }
    }
    fs::rename(from, &target)
        .and_then(|()| files::sync_dir(parent))
        .with_context(|| format!("cannot put {} in place", target.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data_dir() -> (tempfile::TempDir, DataDir) {
        let dir = tempfile::tempdir().unwrap();
        let (data_dir, _) = DataDir::init(dir.path()).unwrap();
        (dir, data_dir)
    }

    fn bring(data_dir: &DataDir, text: &str, to: &str, over_shorter: bool) -> Result<()> {
        carry_out(
            data_dir,
            &WriteRequest::TakeFile("x".into()),
            &mut text.as_bytes(),
        )?;
        let placed = carry_out(
            data_dir,
            &WriteRequest::Place {
                aside: "x".into(),
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
    fn a_file_is_brought_where_none_is_and_never_replaced_by_a_shorter_one() {
        let (_dir, data_dir) = data_dir();
        let to = ".claude/projects/-a/u.jsonl";
        let path = data_dir.dir().join(to);
        bring(&data_dir, "four", to, false).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "four");
        let said = r#"{"type":"user","message":{"content":"hello"}}"#;
        bring(&data_dir, said, to, true).unwrap();
        assert!(bring(&data_dir, "shor", to, true).is_err());
        assert!(bring(&data_dir, &said.repeat(2), to, false).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), said);
        let kept = fs::read_dir(path.parent().unwrap()).unwrap();
        let mut names: Vec<String> = kept
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert!(names[1].starts_with("u.jsonl.shrunk-"), "{names:?}");
    }

    #[test]
    fn no_order_leads_out_of_the_root() {
        let (_dir, data_dir) = data_dir();
        for to in ["../x", "/etc/x", "workspaces/../../x"] {
            assert!(bring(&data_dir, "x", to, false).is_err(), "{to}");
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
