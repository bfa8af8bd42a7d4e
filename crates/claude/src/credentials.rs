//! Credentials watch: restores a damaged `.credentials.json`, the user's login, from a copy.
//!
//! Claude Code replaces the file when it renews its tokens, which is every few hours, and any of
//! the agents may do so. A file that is empty, cut off or without tokens logs the whole fleet out
//! (reported by users; a full disk and a power cut cause it). A missing file is left alone:
//! `/logout` removes it. Its content is never written to a log, the journal or an event.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::config_repair::resolve;
use sys::error::Result;
use sys::files;
use sys::time::Timestamp;

/// State of a credentials file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Worth {
    /// It has a login that can be used, or renewed.
    Good,
    /// It has a login that has ended and cannot be renewed.
    Expired,
    /// It was a login, and is damaged: empty, cut off, or without its tokens.
    Damaged,
    /// There is no login, or one of another kind.
    None,
}

/// Evaluates the content of a file at a time.
#[must_use]
pub fn worth(content: Option<&[u8]>, now: Timestamp) -> Worth {
    let Some(bytes) = content else {
        return Worth::None;
    };
    let Ok(json) = serde_json::from_slice::<Value>(bytes) else {
        return Worth::Damaged;
    };
    let Some(login) = json.get("claudeAiOauth") else {
        return Worth::None;
    };
    let token = |name: &str| {
        login
            .get(name)
            .and_then(Value::as_str)
            .is_some_and(|token| !token.trim().is_empty())
    };
    let ends = login.get("expiresAt").and_then(Value::as_i64);
    let lasts = ends
        .and_then(Timestamp::from_millis)
        .is_some_and(|ends| ends > now);
    match (token("accessToken"), token("refreshToken")) {
        (false, _) => Worth::Damaged,
        (true, true) => Worth::Good,
        (true, false) if lasts => Worth::Good,
        (true, false) => Worth::Expired,
    }
}

/// Result of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoginCheck {
    /// Unchanged.
    Same,
    /// There is a good login that was not there before.
    Renewed,
    /// It is damaged; another check decides whether it stays damaged.
    Doubtful,
    /// It was damaged, and the copy was restored.
    PutBack,
    /// It is damaged, and there is no good copy.
    Lost,
}

/// Watches one credentials file.
#[derive(Debug)]
pub struct LoginWatch {
    file: PathBuf,
    copy: PathBuf,
    /// The last good content.
    good: Option<Vec<u8>>,
    /// The damage that was seen last.
    damage: Option<Vec<u8>>,
    /// What was restored already: a user or program that clears it again has a reason.
    put_back: Option<Vec<u8>>,
    lost: bool,
}

impl LoginWatch {
    /// Watches the file of a configuration directory; `copy` is where the newest good content is
    /// kept.
    #[must_use]
    pub fn new(config_dir: &Path, copy: &Path) -> Self {
        Self {
            file: config_dir.join(".credentials.json"),
            copy: copy.into(),
            good: files::read_optional(copy).ok().flatten(),
            damage: None,
            put_back: None,
            lost: false,
        }
    }

    /// Checks the file. `settled`: no process can be writing it now, so damage is permanent.
    ///
    /// # Errors
    /// The disk is full or missing.
    pub fn check(&mut self, settled: bool) -> Result<LoginCheck> {
        let file = resolve(&self.file);
        let content = files::read_optional(&file)?;
        let now = Timestamp::now();
        match (worth(content.as_deref(), now), content) {
            (Worth::Good, Some(content)) => {
                (self.damage, self.lost) = (None, false);
                if self.good.as_ref() == Some(&content) {
                    return Ok(LoginCheck::Same);
                }
                files::write_atomic(&self.copy, &content)?;
                self.good = Some(content);
                Ok(LoginCheck::Renewed)
            }
            (Worth::Damaged, Some(content)) => self.damaged(&file, content, settled),
            _ => {
                self.damage = None;
                Ok(LoginCheck::Same)
            }
        }
    }

    fn damaged(&mut self, file: &Path, content: Vec<u8>, settled: bool) -> Result<LoginCheck> {
        if !settled && self.damage.as_ref() != Some(&content) {
            self.damage = Some(content);
            return Ok(LoginCheck::Doubtful);
        }
        let good = self.good.clone().filter(|good| {
            worth(Some(good), Timestamp::now()) == Worth::Good
                && self.put_back.as_ref() != Some(good)
        });
        let Some(good) = good else {
            let reported = std::mem::replace(&mut self.lost, true);
            return Ok(if reported {
                LoginCheck::Same
            } else {
                LoginCheck::Lost
            });
        };
        // The user may have logged in just now: a newer login is never overwritten.
        if files::read_optional(file)?.as_ref() != Some(&content) {
            return Ok(LoginCheck::Doubtful);
        }
        files::write_atomic(file, &good)?;
        self.damage = None;
        self.put_back = Some(good);
        Ok(LoginCheck::PutBack)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    fn login(access: &str, refresh: &str, ends: i64) -> String {
        format!(
            r#"{{"claudeAiOauth":{{"accessToken":"{access}","refreshToken":"{refresh}","expiresAt":{ends}}}}}"#
        )
    }

    const FAR: i64 = 9_999_999_999_999;

    #[test]
    fn a_login_is_distinguished_from_a_damaged_one_and_from_none() {
        for (text, expected) in [
            (Some(login("a", "r", 1)), Worth::Good),
            (Some(login("a", "", FAR)), Worth::Good),
            (Some(login("a", "", 1)), Worth::Expired),
            (Some(login("", "r", FAR)), Worth::Damaged),
            (Some(String::new()), Worth::Damaged),
            (Some("{\"claudeAiOauth\":{\"acc".into()), Worth::Damaged),
            (Some("\0\0\0\0".into()), Worth::Damaged),
            (Some("{\"mcpOAuth\":{}}".into()), Worth::None),
            (None, Worth::None),
        ] {
            let content = text.as_ref().map(String::as_bytes);
            assert_eq!(worth(content, Timestamp::now()), expected, "{text:?}");
        }
    }

    #[test]
    fn a_damaged_login_is_restored_once_and_a_newer_one_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let (file, copy) = (
            dir.path().join(".credentials.json"),
            dir.path().join("copy"),
        );
        let mut login_watch = LoginWatch::new(dir.path(), &copy);
        assert_eq!(
            login_watch.check(false).unwrap(),
            LoginCheck::Same,
            "no login"
        );
        fs::write(&file, login("one", "r", FAR)).unwrap();
        assert_eq!(login_watch.check(false).unwrap(), LoginCheck::Renewed);
        assert_eq!(login_watch.check(false).unwrap(), LoginCheck::Same);
        assert_eq!(
            fs::metadata(&copy).unwrap().permissions().mode() & 0o777,
            0o600
        );
        fs::write(&file, login("two", "r", FAR)).unwrap();
        assert_eq!(login_watch.check(false).unwrap(), LoginCheck::Renewed);

        fs::write(&file, "").unwrap();
        assert_eq!(login_watch.check(false).unwrap(), LoginCheck::Doubtful);
        fs::write(&file, "{").unwrap();
        assert_eq!(
            login_watch.check(false).unwrap(),
            LoginCheck::Doubtful,
            "it changes"
        );
        assert_eq!(login_watch.check(false).unwrap(), LoginCheck::PutBack);
        assert_eq!(
            fs::read_to_string(&file).unwrap(),
            login("two", "r", FAR),
            "the newest"
        );
        fs::write(&file, "").unwrap();
        assert_eq!(
            login_watch.check(true).unwrap(),
            LoginCheck::Lost,
            "blanked on purpose"
        );
        assert_eq!(
            login_watch.check(true).unwrap(),
            LoginCheck::Same,
            "reported once"
        );
        fs::write(&file, login("three", "r", FAR)).unwrap();
        assert_eq!(login_watch.check(false).unwrap(), LoginCheck::Renewed);
    }

    #[test]
    fn a_login_that_has_ended_is_not_restored() {
        let dir = tempfile::tempdir().unwrap();
        let copy = dir.path().join("copy");
        fs::write(&copy, login("old", "", 1)).unwrap();
        fs::write(dir.path().join(".credentials.json"), "").unwrap();
        let mut login_watch = LoginWatch::new(dir.path(), &copy);
        assert_eq!(login_watch.check(true).unwrap(), LoginCheck::Lost);
    }
}
