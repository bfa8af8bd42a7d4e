//! The `[backup]` table: schedule, content, destination and retention of backups.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::de::{Deserializer, Error as _, Visitor};
use serde::{Deserialize, Serialize};

use super::Span;
use sys::error::{Hint as _, Result, anyhow, ensure};
use sys::size::Size;

/// Default time between two backups.
const EVERY: Span = Span::from_secs(15 * 60);

/// Shortest time between two backups: with a shorter one, backups would run without a pause.
const EVERY_MIN: Duration = Duration::from_secs(60);

/// The table `[backup]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Backup {
    every: Option<Pause>,
    /// How many backups are kept.
    pub keep: KeepBackups,
    /// Patterns of files to leave out, in addition to those that are always left out.
    pub exclude: Vec<String>,
    /// Patterns of files to save although `exclude` or the default patterns leave them out.
    pub keep_ignored: Vec<String>,
    /// Whether logins, keys and environment files are saved too.
    pub secrets: bool,
    /// A second repository, off the machine, in restic's notation.
    pub copy_to: Option<String>,
    /// A command that prints the repository's password; without one it is in a file.
    pub key_command: Option<String>,
    /// A file of environment variables for `copy_to`, relative to the data directory; never shown.
    pub env_file: Option<PathBuf>,
    /// Whether nothing is ever removed from the second repository, for one that refuses removal.
    pub copy_keeps_all: bool,
    /// Free space under which no backup is started.
    pub min_free: Option<Size>,
}

/// How many backups are kept: the newest of so many hours, days, weeks that have one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KeepBackups {
    /// Number of the newest, whatever their time.
    pub last: u32,
    /// Number of hours.
    pub hourly: u32,
    /// Number of days.
    pub daily: u32,
    /// Number of weeks.
    pub weekly: u32,
}

impl Default for KeepBackups {
    fn default() -> Self {
        Self {
            last: 4,
            hourly: 24,
            daily: 14,
            weekly: 9,
        }
    }
}

impl KeepBackups {
    /// Whether no backup at all would be kept.
    #[must_use]
    pub fn is_nothing(self) -> bool {
        self.last == 0 && self.hourly == 0 && self.daily == 0 && self.weekly == 0
    }
}

impl Backup {
    /// Returns the time between two backups; `None`: automatic backups are off.
    #[must_use]
    pub fn every(&self) -> Option<Duration> {
        match self.every.unwrap_or(Pause::Every(EVERY)) {
            Pause::Never => None,
            Pause::Every(span) => Some(span.0),
        }
    }

    /// Checks what the types do not.
    ///
    /// # Errors
    /// A setting is invalid.
    pub(super) fn check(&self) -> Result<()> {
        ensure!(
            !self.keep.is_nothing(),
            "[backup] keep: this keeps nothing; set at least one count above 0"
        );
        ensure!(
            self.copy_to
                .as_ref()
                .is_none_or(|url| !url.trim().is_empty()),
            "[backup] copy_to is empty"
        );
        let patterns = || self.exclude.iter().chain(&self.keep_ignored);
        if let Some(pattern) = patterns().find(|pattern| pattern.starts_with('!')) {
            return Err(anyhow!(
                "[backup] {pattern:?}: a pattern cannot begin with !"
            ))
            .hint("list the patterns of files to keep in keep_ignored");
        }
        ensure!(
            patterns().all(|pattern| !pattern.trim().is_empty()),
            "[backup] an empty pattern matches nothing"
        );
        Ok(())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pause {
    Never,
    Every(Span),
}

impl<'de> Deserialize<'de> for Pause {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let text = text_of(
            deserializer,
            "a duration in quotes, like \"15m\", or \"never\"",
        )?;
        if text == "never" {
            return Ok(Self::Never);
        }
        let span = sys::time::parse_duration(&text).map_err(D::Error::custom)?;
        if span < EVERY_MIN {
            return Err(D::Error::custom(format!(
                "\"{text}\" is too often for a backup; \
                 1m is the least, and \"never\" turns them off"
            )));
        }
        Ok(Self::Every(Span(span)))
    }
}

/// Reads the text of a value, so that an error names its position in the file.
fn text_of<'de, D: Deserializer<'de>>(
    deserializer: D,
    what: &'static str,
) -> std::result::Result<String, D::Error> {
    struct Text(&'static str);
    impl Visitor<'_> for Text {
        type Value = String;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
        fn visit_str<E: serde::de::Error>(self, text: &str) -> std::result::Result<String, E> {
            Ok(text.to_owned())
        }
    }
    deserializer.deserialize_str(Text(what))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn backups_are_made_every_quarter_of_an_hour_unless_the_file_says_otherwise() {
        assert_eq!(Backup::default().every(), Some(Duration::from_secs(900)));
        let config = Config::parse("[backup]\nevery = \"never\"\nmin_free = \"2G\"\n").unwrap();
        assert_eq!(config.backup.every(), None);
        assert_eq!(config.backup.min_free, Some(Size(2 << 30)));
        let config = Config::parse("[backup]\nkeep = { daily = 3 }\n").unwrap();
        assert_eq!(
            (config.backup.keep.daily, config.backup.keep.hourly),
            (3, 24)
        );
    }

    #[test]
    fn every_error_in_the_backup_table_has_line_and_column() {
        for (text, said) in [
            ("every = \"5s\"", "too often"),
            ("every = \"soon\"", "not a duration"),
            ("min_free = \"lots\"", "not a size"),
            ("min_free = 7", "a size in quotes"),
            ("copyto = \"gs:b:/\"", "copyto"),
            ("keep = { hourly = -1 }", "keep"),
            (
                "keep = { last = 0, hourly = 0, daily = 0, weekly = 0 }",
                "keeps nothing",
            ),
            ("copy_to = \"\"", "copy_to"),
            ("exclude = [\"!x\"]", "cannot begin with !"),
        ] {
            let error = format!(
                "{:#}",
                Config::parse(&format!("[backup]\n{text}\n")).unwrap_err()
            );
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}
