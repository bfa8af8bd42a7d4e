//! Index of conversations: lists transcripts, and the files that belong to each.
//!
//! A conversation can be moved to another configuration directory, and to another working
//! directory: its transcript in the folder of the new directory is all that `--resume` needs. Older
//! records keep the old directory, which does no harm (measured on 2.1.197 and 2.1.330).

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use super::damaged_line;
use super::locate::{SLUG_LIMIT, has_user_record, slug};
use super::reader::Reader;
use super::record::RecordKind;
use sys::time::Timestamp;
use sys::uuid::is_uuid;

/// How much of a transcript is read to find its directory, at most, in bytes. Every record of a
/// turn names it.
const HEAD: u64 = 1 << 20;

/// How much of its end is read to find its name, in bytes. Claude Code repeats the name when a
/// session continues.
const END: u64 = 256 << 10;

/// One conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conversation {
    /// Id of its session.
    pub session_id: String,
    /// Path of its transcript.
    pub transcript: PathBuf,
    /// Size of the transcript in bytes.
    pub bytes: u64,
    /// Time of the last change.
    pub changed_at: Timestamp,
}

/// Facts about a session that its transcript records.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct About {
    /// The directory in which the session was begun, after which Claude Code named the folder;
    /// another one of its directories where none fits the folder, as after a move.
    pub cwd: Option<PathBuf>,
    /// The name that the user gave it.
    pub title: Option<String>,
    /// Whether a program began it (`claude -p`), and not a user at a terminal.
    pub by_program: bool,
}

/// Returns the conversations that have user records, in no order. Those of subagents are left out.
///
/// # Errors
/// The directory exists and cannot be read.
pub fn conversations(config_dir: &Path) -> io::Result<Vec<Conversation>> {
    let mut found = Vec::new();
    for folder in entries(&config_dir.join("projects"))? {
        for transcript in entries(&folder)? {
            let name = transcript.file_name().unwrap_or_default().to_string_lossy();
            let Some(session_id) = name.strip_suffix(".jsonl").filter(|id| is_uuid(id)) else {
                continue;
            };
            // One that vanishes meanwhile was removed by Claude Code.
            let Ok(metadata) = fs::metadata(&transcript) else {
                continue;
            };
            if metadata.is_file() && has_user_record(&transcript)? {
                found.push(Conversation {
                    session_id: session_id.to_owned(),
                    bytes: metadata.len(),
                    changed_at: Timestamp::from_system_time(metadata.modified()?),
                    transcript,
                });
            }
        }
    }
    Ok(found)
}

/// Returns the entries of a directory; none where it is missing.
fn entries(dir: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(dir) {
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect(),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            Ok(Vec::new())
        }
        Err(error) => Err(error),
    }
}

/// Reads the facts about a session from the beginning and the end of its transcript.
///
/// # Errors
/// It cannot be read.
pub fn about(transcript: &Path) -> io::Result<About> {
    let folder = transcript.parent().and_then(Path::file_name);
    let folder = folder.unwrap_or_default().to_string_lossy();
    let mut head = Vec::new();
    fs::File::open(transcript)?
        .take(HEAD)
        .read_to_end(&mut head)?;
    let mut about = About::default();
    for object in head
        .split(|byte| *byte == b'\n')
        .flat_map(|text| damaged_line::parse(text).objects)
    {
        let text = |key: &str| object.get(key).and_then(serde_json::Value::as_str);
        if text("type") == Some("custom-title") {
            about.title = text("customTitle").map(str::to_owned);
        }
        if let Some(entrypoint) = text("entrypoint") {
            about.by_program = entrypoint.starts_with("sdk");
        }
        if let Some(cwd) = text("cwd").map(PathBuf::from) {
            let is_its_own = fits(&folder, &cwd);
            if is_its_own || about.cwd.is_none() {
                about.cwd = Some(cwd);
            }
            if is_its_own {
                break;
            }
        }
    }
    Reader::tail(transcript, END)?.each(|record| {
        if let RecordKind::Title(title) = record.kind {
            about.title = Some(title);
        }
        true
    })?;
    about.title = about.title.filter(|title| !title.trim().is_empty());
    Ok(about)
}

/// Whether a folder's name is that of a directory.
fn fits(folder: &str, cwd: &Path) -> bool {
    let slug = slug(cwd);
    folder == slug || (slug.len() > SLUG_LIMIT && folder.starts_with(&slug))
}

/// Returns the files that Claude Code keeps for a session, each with its present path and the path
/// in another folder. Both are relative to the configuration directory; any of them may be missing.
/// The first is the transcript; the last is the memory of the folder, which all its sessions share.
#[must_use]
pub fn companions(session_id: &str, from: &str, to: &str) -> Vec<(PathBuf, PathBuf)> {
    let project = |folder: &str| Path::new("projects").join(folder);
    let mut all = vec![
        (
            project(from).join(format!("{session_id}.jsonl")),
            project(to).join(format!("{session_id}.jsonl")),
        ),
        (project(from).join(session_id), project(to).join(session_id)),
    ];
    for kept in ["file-history", "tasks", "session-env"] {
        let path = Path::new(kept).join(session_id);
        all.push((path.clone(), path));
    }
    all.push((project(from).join("memory"), project(to).join("memory")));
    all
}

/// Returns the name of the folder for a directory whose symlinks are resolved; `None` where its
/// path is so long that Claude Code adds a hash. A session is then resumed by its file.
#[must_use]
pub fn folder(cwd: &Path) -> Option<String> {
    Some(slug(cwd)).filter(|slug| slug.len() <= SLUG_LIMIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0b6c1f7e-97a3-4f7c-8d92-7d0f6f0b9a55";

    fn put(dir: &Path, folder: &str, name: &str, text: &str) -> PathBuf {
        let folder = dir.join("projects").join(folder);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(name), text).unwrap();
        folder.join(name)
    }

    fn said(cwd: &str) -> String {
        format!(
            r#"{{"type":"user","message":{{"content":"hi"}},"cwd":"{cwd}","entrypoint":"sdk-cli","sessionId":"{ID}"}}"#
        )
    }

    #[test]
    fn conversations_are_found_and_files_without_user_records_are_not() {
        let dir = tempfile::tempdir().unwrap();
        assert!(conversations(dir.path()).unwrap().is_empty());
        put(
            dir.path(),
            "-srv-a",
            &format!("{ID}.jsonl"),
            &said("/srv/a"),
        );
        put(dir.path(), "-srv-a", "agent-1.jsonl", &said("/srv/a"));
        let blank = "1b6c1f7e-97a3-4f7c-8d92-7d0f6f0b9a55.jsonl";
        put(
            dir.path(),
            "-srv-a",
            blank,
            r#"{"type":"mode","sessionId":"x"}"#,
        );
        let found = conversations(dir.path()).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].session_id, ID);
        assert_eq!(found[0].bytes, said("/srv/a").len() as u64);
    }

    #[test]
    fn the_directory_is_the_one_that_the_folder_is_named_after_and_the_newest_name_is_used() {
        let dir = tempfile::tempdir().unwrap();
        let title = |text: &str| {
            format!(r#"{{"type":"custom-title","customTitle":"{text}","sessionId":"{ID}"}}"#)
        };
        let text = [
            title("first"),
            said("/srv/a/deeper"),
            said("/srv/a"),
            title("second"),
        ];
        let path = put(dir.path(), "-srv-a", "u.jsonl", &text.join("\n"));
        let about = about(&path).unwrap();
        assert_eq!(about.cwd.as_deref(), Some(Path::new("/srv/a")));
        assert_eq!(about.title.as_deref(), Some("second"));
        assert!(about.by_program);
    }

    #[test]
    fn a_transcript_in_a_folder_of_another_name_still_names_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        let path = put(
            dir.path(),
            "-moved",
            "u.jsonl",
            &format!("{{\"cut\n{}", said("/srv/a")),
        );
        assert_eq!(about(&path).unwrap().cwd.unwrap(), Path::new("/srv/a"));
    }
}
