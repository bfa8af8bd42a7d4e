//! The `[checkpoint]` table: content, retention and push of checkpoints.

use std::time::Duration;

use serde::Deserialize;

use super::Span;
use sys::size::Size;

/// Default interval of checkpoints while an agent works.
pub const CHECKPOINT_EVERY: Span = Span::from_secs(60);

/// The table `[checkpoint]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Checkpoint {
    /// Files above this size are left out of checkpoints, and named.
    pub largest_file: Size,
    /// A remote to which checkpoints are pushed as well.
    pub push: Option<Remote>,
    /// How long which of them are kept.
    pub keep: Keep,
}

impl Default for Checkpoint {
    fn default() -> Self {
        Self {
            largest_file: Size(100 << 20),
            push: None,
            keep: Keep::default(),
        }
    }
}

/// How checkpoints are pruned by age. The newest is always kept.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Keep {
    /// All that are younger than this.
    pub all: Span,
    /// The newest of each hour, up to this age.
    pub hourly: Span,
    /// The newest of each day, up to this age.
    pub daily: Span,
}

impl Default for Keep {
    fn default() -> Self {
        Self {
            all: Span(HOUR),
            hourly: Span(DAY),
            daily: Span(DAY.saturating_mul(14)),
        }
    }
}

const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);

/// A git remote: a URL, `host:path`, or an absolute path.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Remote(String);

impl Remote {
    /// Returns the text for git.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Remote {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        // `ext::` and similar helpers run a program; git would take a text that begins with a dash
        // for an option.
        let has_helper = text.split_once("::").is_some_and(|(helper, _)| {
            !helper.is_empty()
                && helper
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || c == '-')
        });
        if text.trim().is_empty() || text.starts_with('-') || has_helper {
            return Err("this is not a git remote; \
                 write https://..., ssh://..., host:path, or an absolute path"
                .into());
        }
        let is_local = text.starts_with('/') || text.contains(':');
        if !is_local {
            return Err("this is relative; write the whole path or URL".into());
        }
        Ok(Self(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn the_table_is_read_and_has_good_defaults() {
        let config = Config::parse(
            "[checkpoint]\nlargest_file = \"1MiB\"\npush = \"git@example.org:me/safe.git\"\n\
             keep = { all = \"2h\" }\n",
        )
        .unwrap()
        .checkpoint;
        assert_eq!(config.largest_file, Size(1 << 20));
        assert_eq!(config.push.unwrap().as_str(), "git@example.org:me/safe.git");
        assert_eq!(config.keep.all, Span::from_secs(7_200));
        assert_eq!(config.keep.daily, Span::from_secs(14 * 86_400));
    }

    #[test]
    fn a_remote_that_would_run_a_program_is_refused() {
        for bad in ["ext::sh -c true", "-upload", "", "elsewhere"] {
            let text = format!("[checkpoint]\npush = \"{bad}\"\n");
            assert!(Config::parse(&text).is_err(), "{bad}");
        }
        for good in [
            "https://x/y",
            "ssh://h:22/p",
            "ssh://[::1]/p",
            "/srv/x.git",
            "file:///srv/x",
        ] {
            let text = format!("[checkpoint]\npush = \"{good}\"\n");
            assert!(Config::parse(&text).is_ok(), "{good}");
        }
    }
}
