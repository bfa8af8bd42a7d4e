//! Configuration repair: checks Claude Code's JSON files, and finds a copy to rebuild them from.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use sys::error::Result;
use sys::files;
use sys::time::Timestamp;

/// Content of a file that should be a JSON object.
#[derive(Debug, PartialEq)]
pub(super) enum Content {
    /// There is no such file.
    Missing,
    /// It is a JSON object.
    Whole(Map<String, Value>),
    /// It is not.
    Damaged(Vec<u8>),
}

pub(super) fn content(bytes: Option<Vec<u8>>) -> Content {
    match bytes {
        None => Content::Missing,
        Some(bytes) => match serde_json::from_slice(&bytes) {
            Ok(object) => Content::Whole(object),
            Err(_) => Content::Damaged(bytes),
        },
    }
}

/// Returns the file behind a symlink, which must stay one; also where the link dangles.
pub(super) fn resolve(path: &Path) -> PathBuf {
    if let Ok(target) = fs::canonicalize(path) {
        return target;
    }
    match fs::read_link(path) {
        Ok(target) => path.parent().unwrap_or(Path::new(".")).join(target),
        Err(_) => path.to_owned(),
    }
}

/// Saves a copy of a damaged file beside it.
pub(super) fn quarantine(path: &Path, bytes: &[u8]) -> Result<PathBuf> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".damaged-{}", Timestamp::now().as_millis()));
    let quarantined = path.with_file_name(name);
    files::write_atomic(&quarantined, bytes)?;
    Ok(quarantined)
}

/// Finds the newest whole `.claude.json` among spotkeep's own copy and the backups that Claude Code
/// makes at each start and change, with its path.
///
/// Newest by Claude Code's own count of starts, because clocks of two boots do not compare; then by
/// the number in the backup's name.
pub(super) fn newest_good(
    config_dir: &Path,
    keep_copy: &Path,
) -> Result<Option<(Map<String, Value>, PathBuf)>> {
    let mut candidates = vec![(0, keep_copy.to_owned())];
    match fs::read_dir(config_dir.join("backups")) {
        Ok(entries) => {
            for entry in entries {
                let path = entry?.path();
                let millis = path
                    .file_name()
                    .and_then(|name| name.to_str()?.strip_prefix(".claude.json.backup."))
                    .and_then(|millis| millis.parse::<u64>().ok());
                candidates.extend(millis.map(|millis| (millis, path)));
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error.into()),
    }
    let mut good = Vec::new();
    for (millis, path) in candidates {
        if let Content::Whole(object) = content(files::read_optional(&path)?) {
            let starts = object
                .get("numStartups")
                .and_then(Value::as_u64)
                .unwrap_or(0);
            good.push(((starts, millis), object, path));
        }
    }
    good.sort_by_key(|(age, ..)| *age);
    Ok(good.pop().map(|(_, object, path)| (object, path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_copy_with_the_most_starts_is_the_newest() {
        let dir = tempfile::tempdir().unwrap();
        let backups = dir.path().join("backups");
        fs::create_dir(&backups).unwrap();
        let copy = dir.path().join("copy");
        assert_eq!(newest_good(dir.path(), &copy).unwrap(), None);
        fs::write(
            backups.join(".claude.json.backup.20"),
            r#"{"numStartups":3}"#,
        )
        .unwrap();
        fs::write(
            backups.join(".claude.json.backup.10"),
            r#"{"numStartups":3}"#,
        )
        .unwrap();
        fs::write(
            backups.join(".claude.json.backup.99"),
            r#"{"numStartups":9"#,
        )
        .unwrap();
        fs::write(
            backups.join(".claude.json.corrupted.99"),
            r#"{"numStartups":9}"#,
        )
        .unwrap();
        let (_, path) = newest_good(dir.path(), &copy).unwrap().unwrap();
        assert_eq!(path, backups.join(".claude.json.backup.20"));
        fs::write(&copy, r#"{"numStartups":4}"#).unwrap();
        let (_, path) = newest_good(dir.path(), &copy).unwrap().unwrap();
        assert_eq!(path, copy);
    }

    #[test]
    fn an_empty_file_and_one_of_nulls_are_damaged() {
        assert!(matches!(content(Some(vec![])), Content::Damaged(_)));
        assert!(matches!(content(Some(vec![0; 9])), Content::Damaged(_)));
        assert!(matches!(content(Some(b"[]".to_vec())), Content::Damaged(_)));
        assert_eq!(content(None), Content::Missing);
    }
}
