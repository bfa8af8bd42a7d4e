//! Transcript retention: for how many days Claude Code keeps transcripts.
//!
//! Claude Code deletes them after `cleanupPeriodDays` of `settings.json`, 30 days where it is not
//! set (documented): an agent that is idle for a month would lose its session.

use std::path::Path;

use serde_json::{Map, Value};

use super::config_repair::{self, Content};
use super::login;
use super::onboarding::update;
use sys::error::Result;

const KEY: &str = "cleanupPeriodDays";

/// What Claude Code does where nothing is set.
const DEFAULT_DAYS: u64 = 30;
/// What the setting is raised to.
pub const LONG_DAYS: u64 = 3650;

/// Returns the days that are set; `None` where nothing is, or the file is missing, damaged or
/// unreadable.
#[must_use]
pub fn days(config_dir: &Path) -> Option<u64> {
    login::setting(config_dir, KEY)
        .as_ref()
        .and_then(Value::as_u64)
}

/// Whether more than Claude Code's default is set: then the user decided on it.
#[must_use]
pub fn is_enough(days: Option<u64>) -> bool {
    days.is_some_and(|days| days > DEFAULT_DAYS)
}

/// Raises the days to [`LONG_DAYS`], and changes nothing else. Returns what else was found.
///
/// # Errors
/// The file cannot be read or written.
pub fn raise(config_dir: &Path) -> Result<Vec<String>> {
    let mut said = Vec::new();
    let path = config_repair::resolve(&config_dir.join("settings.json"));
    update(&path, &mut said, |content, _| {
        let mut object = match content {
            Content::Whole(object) => object,
            Content::Missing | Content::Damaged(_) => Map::new(),
        };
        if !is_enough(object.get(KEY).and_then(Value::as_u64)) {
            object.insert(KEY.to_owned(), LONG_DAYS.into());
        }
        Ok(Some(object))
    })?;
    Ok(said)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_period_is_raised_once_and_the_rest_of_the_settings_stays() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(days(dir.path()), None);
        fs::write(
            dir.path().join("settings.json"),
            r#"{"z":1,"cleanupPeriodDays":30,"a":2}"#,
        )
        .unwrap();
        assert!(!is_enough(days(dir.path())));
        raise(dir.path()).unwrap();
        assert_eq!(days(dir.path()), Some(LONG_DAYS));
        let text = fs::read_to_string(dir.path().join("settings.json")).unwrap();
        assert!(
            text.find("\"z\"") < text.find("cleanup") && text.find("cleanup") < text.find("\"a\"")
        );
        fs::write(
            dir.path().join("settings.json"),
            r#"{"cleanupPeriodDays":400}"#,
        )
        .unwrap();
        raise(dir.path()).unwrap();
        assert_eq!(days(dir.path()), Some(400));
    }
}
