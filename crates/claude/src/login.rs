//! Login check: whether Claude Code can log in without a user, by files and variables.
//!
//! It never returns the secret itself.

use std::path::Path;

use serde_json::Value;

use super::config_repair::{self, Content};
use sys::files;
use sys::time::Timestamp;

/// Variables that log Claude Code in, or select another service. Documented by Anthropic.
pub const VARIABLES: [&str; 6] = [
    "ANTHROPIC_API_KEY",
    "ANTHROPIC_AUTH_TOKEN",
    "CLAUDE_CODE_OAUTH_TOKEN",
    "CLAUDE_CODE_USE_BEDROCK",
    "CLAUDE_CODE_USE_VERTEX",
    "CLAUDE_CODE_USE_FOUNDRY",
];

/// Transcripts older than this many days are deleted at a start, unless settings say otherwise.
/// Documented by Anthropic.
pub const RETENTION_DAYS: u64 = 30;

/// Content of `.credentials.json`, which `/login` writes on Linux.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credentials {
    /// There is no file.
    Missing,
    /// The file is empty, damaged, or without a token.
    Blank,
    /// A token.
    Token {
        /// When the access token ends.
        expires: Option<Timestamp>,
        /// Whether Claude Code can renew it automatically.
        renewable: bool,
    },
}

/// Reads the state of the credentials file.
#[must_use]
pub fn credentials(config_dir: &Path) -> Credentials {
    let path = config_repair::resolve(&config_dir.join(".credentials.json"));
    let object = match config_repair::content(files::read_optional(&path).unwrap_or_default()) {
        Content::Missing => return Credentials::Missing,
        Content::Damaged(_) => return Credentials::Blank,
        Content::Whole(object) => object,
    };
    let Some(login) = object.get("claudeAiOauth") else {
        return Credentials::Blank;
    };
    let has = |key: &str| {
        login[key]
            .as_str()
            .is_some_and(|text| !text.trim().is_empty())
    };
    if !has("accessToken") {
        return Credentials::Blank;
    }
    Credentials::Token {
        expires: login["expiresAt"].as_i64().and_then(Timestamp::from_millis),
        renewable: has("refreshToken"),
    }
}

/// Returns a key of `settings.json`; `None` where it is not set, or where the file cannot be read.
#[must_use]
pub fn setting(config_dir: &Path, key: &str) -> Option<Value> {
    let path = config_repair::resolve(&config_dir.join("settings.json"));
    match config_repair::content(files::read_optional(&path).ok()?) {
        Content::Whole(object) => object.get(key).cloned(),
        _ => None,
    }
}

/// Whether the user rejected this API key once; Claude Code then does not use it.
#[must_use]
pub fn is_rejected(config_dir: &Path, key: &str) -> bool {
    let path = config_repair::resolve(&config_dir.join(".claude.json"));
    let Ok(bytes) = files::read_optional(&path) else {
        return false;
    };
    let Content::Whole(object) = config_repair::content(bytes) else {
        return false;
    };
    let rejected = object
        .get("customApiKeyResponses")
        .and_then(|responses| responses.get("rejected"))
        .and_then(Value::as_array);
    let tail = super::onboarding::key_tail(key);
    rejected.is_some_and(|keys| keys.iter().any(|known| known.as_str() == Some(&tail)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn credentials_are_missing_blank_or_a_token() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(credentials(dir.path()), Credentials::Missing);
        let path = dir.path().join(".credentials.json");
        for blank in ["", "{", "{}", r#"{"claudeAiOauth":{"accessToken":""}}"#] {
            fs::write(&path, blank).unwrap();
            assert_eq!(credentials(dir.path()), Credentials::Blank, "{blank}");
        }
        let text =
            r#"{"claudeAiOauth":{"accessToken":"a","refreshToken":"r","expiresAt":1795373775968}}"#;
        fs::write(&path, text).unwrap();
        let Credentials::Token { expires, renewable } = credentials(dir.path()) else {
            panic!("no token");
        };
        assert!(expires.is_some() && renewable);
    }

    #[test]
    fn a_rejected_key_is_recognized_by_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let key = "sk-0123456789-abcdefghij-klmnop";
        assert!(!is_rejected(dir.path(), key));
        let tail = &key[key.len() - 20..];
        let text = format!(r#"{{"customApiKeyResponses":{{"rejected":["{tail}"]}}}}"#);
        fs::write(dir.path().join(".claude.json"), text).unwrap();
        assert!(is_rejected(dir.path(), key));
        assert!(!is_rejected(dir.path(), "another"));
        assert_eq!(setting(dir.path(), "cleanupPeriodDays"), None);
    }
}
