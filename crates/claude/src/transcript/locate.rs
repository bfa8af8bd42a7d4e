//! Transcript lookup: finds the transcript of a session, `projects/<slug>/<session id>.jsonl`.
//!
//! The lookup goes by the file name, because the slug is ambiguous (`a_b` and `a-b` share one) and
//! because its hash for long paths is not known. One id can have a file in two folders: Claude Code
//! keeps ids unique per folder only (measured on 2.1.197).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::reader::Reader;
use super::record::RecordKind;
use sys::error::{Context as _, Result, ensure};
use sys::files;
use sys::time::Timestamp;

/// A slug is cut at this length, and a hash of the whole path follows (measured on 2.1.197 and
/// 2.1.330).
pub(crate) const SLUG_LIMIT: usize = 200;

/// Result of a lookup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TranscriptLookup {
    /// No file: the session has no records yet, or they are lost.
    Missing,
    /// A file without a readable user record. Claude Code refuses both `--resume` ("no conversation
    /// found") and `--session-id` ("already in use") with it (measured on 2.1.197 and 2.1.330):
    /// restore the conversation if there was one, else [`quarantine`] the file and start again.
    Blank(PathBuf),
    /// A conversation.
    Present(PathBuf),
    /// Files in more than one folder, those with user records first.
    Several(Vec<PathBuf>),
    /// The lookup failed, and why.
    Unknown(String),
}

/// Looks up the transcript of a session.
#[must_use]
pub fn locate(config_dir: &Path, session_id: &str) -> TranscriptLookup {
    match find(config_dir, session_id) {
        Ok(mut files) if files.len() > 1 => {
            files.sort_by_key(|(_, has_conversation)| !has_conversation);
            TranscriptLookup::Several(files.into_iter().map(|(path, _)| path).collect())
        }
        Ok(files) => match files.into_iter().next() {
            None => TranscriptLookup::Missing,
            Some((path, false)) => TranscriptLookup::Blank(path),
            Some((path, true)) => TranscriptLookup::Present(path),
        },
        Err(error) => TranscriptLookup::Unknown(format!("{}: {error}", config_dir.display())),
    }
}

fn find(config_dir: &Path, session_id: &str) -> io::Result<Vec<(PathBuf, bool)>> {
    let name = format!("{session_id}.jsonl");
    let folders = match fs::read_dir(config_dir.join("projects")) {
        Ok(folders) => folders,
        // Only a configuration directory that can be read proves that there are no projects in it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::read_dir(config_dir)?;
            return Ok(Vec::new());
        }
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for folder in folders {
        let path = folder?.path().join(&name);
        match fs::metadata(&path) {
            Ok(meta) if meta.is_file() => {
                let has_conversation = has_user_record(&path)?;
                found.push((path, has_conversation));
            }
            Ok(_) => {}
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) => {}
            Err(error) => return Err(error),
        }
    }
    found.sort();
    Ok(found)
}

/// Renames a blank transcript, so that Claude Code can use its session id again. Returns the new
/// path.
///
/// # Errors
/// The transcript holds a conversation, or cannot be renamed.
pub fn quarantine(blank: &Path) -> Result<PathBuf> {
    ensure!(
        !has_user_record(blank)?,
        "{} holds a conversation",
        blank.display()
    );
    let mut name = blank.file_name().unwrap_or_default().to_owned();
    name.push(format!(".blank-{}", Timestamp::now().as_millis()));
    let quarantined = blank.with_file_name(name);
    fs::rename(blank, &quarantined)
        .and_then(|()| files::sync_dir(blank.parent().unwrap_or(Path::new("."))))
        .with_context(|| format!("cannot rename {}", blank.display()))?;
    Ok(quarantined)
}

/// Whether a transcript has a user record. One of a local command like `/clear` counts: Claude Code
/// resumes a session that has nothing else.
pub(crate) fn has_user_record(path: &Path) -> io::Result<bool> {
    let mut found = false;
    Reader::open(path).each(|record| {
        found |= !record.sidechain
            && matches!(
                record.kind,
                RecordKind::Prompt { .. }
                    | RecordKind::Local(_)
                    | RecordKind::Summary
                    | RecordKind::ToolResults(_)
                    | RecordKind::Interrupted { .. }
            );
        !found
    })?;
    Ok(found)
}

/// Returns the name of Claude Code's folder for a working directory, whose symlinks must be
/// resolved already. Where it is longer than 200 characters, only the beginning of the name.
#[must_use]
pub fn slug(cwd: &Path) -> String {
    let full: String = cwd
        .to_string_lossy()
        .encode_utf16()
        .map(|unit| {
            u8::try_from(unit)
                .ok()
                .filter(u8::is_ascii_alphanumeric)
                .map_or('-', char::from)
        })
        .collect();
    match full.get(..SLUG_LIMIT) {
        Some(prefix) if full.len() > SLUG_LIMIT => format!("{prefix}-"),
        _ => full,
    }
}

/// Whether `--resume <session id>` from `cwd` would find this transcript. Otherwise it has to be
/// resumed by the path of its file, which works from anywhere (measured on 2.1.197 and 2.1.330).
#[must_use]
pub fn found_from(transcript: &Path, cwd: &Path) -> bool {
    let cwd = fs::canonicalize(cwd).unwrap_or_else(|_| cwd.to_owned());
    let slug = slug(&cwd);
    let folder = transcript
        .parent()
        .and_then(Path::file_name)
        .map(|name| name.to_string_lossy())
        .unwrap_or_default();
    if slug.len() > SLUG_LIMIT {
        folder.starts_with(&slug)
    } else {
        folder == slug
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USER: &str = r#"{"type":"user","message":{"role":"user","content":"hello"},"uuid":"1"}"#;

    fn put(dir: &Path, folder: &str, text: &str) -> PathBuf {
        let folder = dir.join("projects").join(folder);
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("u.jsonl");
        fs::write(&path, text).unwrap();
        path
    }

    #[test]
    fn a_session_is_missing_blank_present_or_in_two_places() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(locate(dir.path(), "u"), TranscriptLookup::Missing);
        let first = put(dir.path(), "-b", "{\"type\":\"user\",\"mess");
        assert_eq!(
            locate(dir.path(), "u"),
            TranscriptLookup::Blank(first.clone())
        );
        put(dir.path(), "-b", &format!("{USER}\n"));
        assert_eq!(
            locate(dir.path(), "u"),
            TranscriptLookup::Present(first.clone())
        );
        let second = put(dir.path(), "-a", "");
        assert_eq!(
            locate(dir.path(), "u"),
            TranscriptLookup::Several(vec![first, second])
        );
    }

    #[test]
    fn a_cleared_session_is_present() {
        let dir = tempfile::tempdir().unwrap();
        let local =
            r#"{"type":"user","message":{"content":"<command-name>/clear</command-name>"}}"#;
        let path = put(dir.path(), "-a", local);
        assert_eq!(locate(dir.path(), "u"), TranscriptLookup::Present(path));
    }

    #[test]
    fn only_a_blank_transcript_is_quarantined_and_nothing_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let path = put(dir.path(), "-a", "{\"type\":\"us");
        let quarantined = quarantine(&path).unwrap();
        assert_eq!(fs::read_to_string(quarantined).unwrap(), "{\"type\":\"us");
        assert_eq!(locate(dir.path(), "u"), TranscriptLookup::Missing);
        let path = put(dir.path(), "-a", USER);
        assert!(quarantine(&path).is_err());
        assert_eq!(locate(dir.path(), "u"), TranscriptLookup::Present(path));
    }

    #[test]
    fn a_configuration_that_cannot_be_read_is_unknown_and_not_missing() {
        let dir = tempfile::tempdir().unwrap();
        let gone = dir.path().join("gone");
        assert!(matches!(locate(&gone, "u"), TranscriptLookup::Unknown(_)));
        fs::write(dir.path().join("projects"), "").unwrap();
        assert!(matches!(
            locate(dir.path(), "u"),
            TranscriptLookup::Unknown(_)
        ));
    }

    #[test]
    fn the_slug_is_the_path_with_all_but_letters_and_digits_as_hyphens() {
        assert_eq!(
            slug(Path::new("/srv/demo/t_slug/a.b_c d-e@f/ünï")),
            "-srv-demo-t-slug-a-b-c-d-e-f--n-"
        );
    }

    #[test]
    fn a_long_path_is_compared_by_the_beginning_of_its_slug() {
        let cwd = PathBuf::from(format!("/{}", "abcdefghi/".repeat(30)));
        let folder = format!("{}i2zfwf", slug(&cwd));
        assert_eq!(folder.len(), 207);
        let there = Path::new("/c/projects").join(folder).join("u.jsonl");
        assert!(found_from(&there, &cwd));
        assert!(!found_from(&there, Path::new("/abcdefghi")));
    }

    #[test]
    fn a_moved_workspace_is_not_found_by_id() {
        let there = Path::new("/c/projects/-srv-work/u.jsonl");
        assert!(found_from(there, Path::new("/srv/work")));
        assert!(!found_from(there, Path::new("/srv/other")));
    }
}
