//! Recovery of lost files before an agent's start: from checkpoints and backups, in a fixed order.
//!
//! A workspace comes from its checkpoints, then from a backup (`workspace.rs`); a transcript from a
//! backup. The first source that has the file is used. If none has it, the start is refused.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::decision::had_conversation;
use crate::backup::{Settings, Stop, recover};
use checkpoint::CheckpointTarget;
use claude::TranscriptLookup;
use state::config::Config;
use state::layout::DataDir;
use state::{AgentName, AgentRecord};
use sys::error::{Error, Result, hint_of};
use sys::files::AppendFile;

/// A file or directory that an agent needs and that the disk does not have any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loss {
    /// The transcript of its session, or the end of it.
    Transcript {
        /// The session's id.
        session_id: String,
        /// Bytes that are left of it.
        left: u64,
    },
    /// Its workspace, relative to the data directory.
    Workspace(PathBuf),
}

impl Loss {
    /// Describes the loss for people.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::Transcript {
                session_id,
                left: 0,
            } => format!("the transcript of the session {session_id}"),
            Self::Transcript { session_id, left } => {
                format!("more than {left} bytes of the transcript of the session {session_id}")
            }
            Self::Workspace(path) => format!("the workspace {}", path.display()),
        }
    }
}

/// The result of a recovery.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovery {
    /// What was recovered, as sentences.
    pub back: Vec<String>,
    /// Why a source could not be read, as sentences.
    pub failures: Vec<String>,
}

/// Returns what is missing on the disk, compared with an agent's record.
#[must_use]
pub fn losses(data_dir: &DataDir, record: &AgentRecord) -> Vec<Loss> {
    let mut losses = Vec::new();
    if record.cwd.is_relative() && !data_dir.absolute(&record.cwd).exists() {
        losses.push(Loss::Workspace(record.cwd.clone()));
    }
    let lost = |left| Loss::Transcript {
        session_id: record.session_id.clone(),
        left,
    };
    match claude::locate(&data_dir.claude(), &record.session_id) {
        TranscriptLookup::Missing | TranscriptLookup::Blank(_) if had_conversation(record) => {
            losses.push(lost(0));
        }
        TranscriptLookup::Present(path) => losses.extend(shrunk(data_dir, record, &path).map(lost)),
        _ => {}
    }
    losses
}

/// Returns the bytes that are left of a transcript that was longer before: a transcript only grows,
/// so its end is lost.
fn shrunk(data_dir: &DataDir, record: &AgentRecord, path: &Path) -> Option<u64> {
    let mark = record.transcript.as_ref()?;
    let is_it = mark.session_id == record.session_id && data_dir.claude().join(&mark.path) == path;
    let length = fs::metadata(path).ok()?.len();
    (is_it && length < mark.length).then_some(length)
}

/// Recovers an agent's lost transcript from a backup. The result includes what was recovered since
/// the agent's last start, for example by root.
#[must_use]
pub fn bring_back(data_dir: &DataDir, boot_id: &str, record: &AgentRecord) -> Recovery {
    let mut brought = Recovery::default();
    let repaired = repaired(data_dir, &record.name);
    let alias = repaired.with_extension("mended");
    for path in [alias, repaired] {
        if let Ok(text) = fs::read_to_string(&path) {
            brought.back.extend(text.lines().map(str::to_owned));
            fs::remove_file(&path).ok();
        }
    }
    for loss in losses(data_dir, record) {
        if matches!(loss, Loss::Workspace(_)) {
            continue; // Its checkpoints come first: see `workspace.rs`.
        }
        match from_backups(data_dir, boot_id, &loss) {
            Ok(Some(sentence)) => brought.back.push(sentence),
            Ok(None) => {}
            Err(error) => brought.failures.push(with_hint(&error)),
        }
    }
    brought
}

/// Stores what an agent has to know for its next start, when this start fails.
pub(super) fn report_later<'a>(
    data_dir: &DataDir,
    name: &AgentName,
    unreported: impl Iterator<Item = &'a String>,
) {
    // Each try finds the same damage again, so lines may repeat.
    let lines: BTreeSet<String> = unreported.map(|line| line.replace('\n', " ")).collect();
    if lines.is_empty() {
        return;
    }
    let keep = || -> Result<()> {
        let mut file = AppendFile::open(&repaired(data_dir, name))?;
        Ok(lines.iter().try_for_each(|line| file.append(line))?)
    };
    if let Err(error) = keep() {
        tracing::error!("cannot store what was brought back for {name}: {error:#}");
    }
}

/// Formats an error with its hint.
pub(super) fn with_hint(error: &Error) -> String {
    match hint_of(error) {
        Some(hint) => format!("{error:#} ({hint})"),
        None => format!("{error:#}"),
    }
}

/// Returns the path of the file with what was recovered and not yet reported to an agent.
fn repaired(data_dir: &DataDir, name: &AgentName) -> PathBuf {
    data_dir.note(name).with_extension("repaired")
}

/// Returns whether a lost workspace may be recreated from a checkpoint: its stored repository is
/// outside of it and exists. git is not run, since this process may be root's.
#[must_use]
pub fn may_have_checkpoint(data_dir: &DataDir, config: &Config, record: &AgentRecord) -> bool {
    let place = CheckpointTarget::from_record(data_dir, &config.checkpoint, record);
    checkpoint::home(data_dir, &place.private)
        .is_some_and(|home| home.is_dir() && !home.starts_with(&place.workspace))
}

/// Recovers a loss from the backups and describes what was recovered. `None`: no backup has it.
///
/// # Errors
/// The backups cannot be read, for example because they are root's.
pub fn from_backups(data_dir: &DataDir, boot_id: &str, loss: &Loss) -> Result<Option<String>> {
    let settings = Settings::load(data_dir)?;
    let was_never_made = settings.ensure_mine().is_ok() && !settings.has_repository();
    if was_never_made {
        return Ok(None);
    }
    let stop = Stop::never().or_at_the_notice(data_dir, boot_id);
    let brought = match loss {
        Loss::Transcript { session_id, left } => {
            recover::transcript(&settings, session_id, *left, &stop)?
        }
        Loss::Workspace(path) => recover::directory(&settings, path, &stop)?,
    };
    Ok(brought.map(|brought| brought.describe()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use state::TranscriptMark;

    const USER: &str = r#"{"type":"user","message":{"content":"hello"}}"#;

    #[test]
    fn losses_are_found_by_comparing_the_disk_with_the_record() {
        let dir = tempfile::tempdir().unwrap();
        let (data_dir, _) = DataDir::init(dir.path()).unwrap();
        let mut record = AgentRecord::new(AgentName::new("a").unwrap(), "workspaces/a".into());
        assert_eq!(
            losses(&data_dir, &record),
            [Loss::Workspace("workspaces/a".into())]
        );
        fs::create_dir(data_dir.dir().join("workspaces/a")).unwrap();
        assert_eq!(losses(&data_dir, &record), []);
        let path = PathBuf::from(format!("projects/-a/{}.jsonl", record.session_id));
        record.transcript = Some(TranscriptMark {
            session_id: record.session_id.clone(),
            path: path.clone(),
            generation: 0,
            length: 100,
        });
        let lost = |left| Loss::Transcript {
            session_id: record.session_id.clone(),
            left,
        };
        assert_eq!(losses(&data_dir, &record), [lost(0)]);
        let file = data_dir.claude().join(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, "").unwrap();
        assert_eq!(losses(&data_dir, &record), [lost(0)]);
        fs::write(&file, USER).unwrap();
        assert_eq!(losses(&data_dir, &record), [lost(USER.len() as u64)]);
        fs::write(&file, format!("{USER}{}", " ".repeat(100))).unwrap();
        assert_eq!(losses(&data_dir, &record), []);
    }

    #[test]
    fn a_note_that_an_older_version_kept_is_reported_once() {
        let dir = tempfile::tempdir().unwrap();
        let (data_dir, _) = DataDir::init(dir.path()).unwrap();
        let record = AgentRecord::new(AgentName::new("a").unwrap(), "workspaces/a".into());
        let alias = data_dir.note(&record.name).with_extension("mended");
        fs::write(&alias, "one\n").unwrap();
        fs::write(repaired(&data_dir, &record.name), "two\n").unwrap();
        let back = || bring_back(&data_dir, "boot", &record).back;
        assert_eq!(back(), ["one", "two"]);
        assert_eq!(back(), [""; 0]);
    }
}
