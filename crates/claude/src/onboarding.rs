//! Onboarding: answers Claude Code's start dialogs in its configuration, for starts without a user.
//!
//! A damaged `.claude.json` blocks an interactive start by a dialog and is reset by `-p`, so it is
//! rebuilt here first (measured on 2.1.197 and 2.1.330). Nothing of the user's is lost or
//! reordered, and nothing is written where nothing has to change, because running Claude Code
//! processes rewrite the same file.

use std::path::Path;

use serde_json::{Map, Value};

use super::config_lock::Lock;
use super::config_repair::{self, Content};
use sys::error::{Context as _, Result, bail};
use sys::files;

/// How often a merge begins again because another process wrote the file meanwhile.
const ATTEMPTS: usize = 5;

/// Length of the part of an API key that Claude Code remembers, which is its end.
const KEY_TAIL: usize = 20;

/// What to answer in advance.
#[derive(Debug, Clone, Copy, Default)]
pub struct Seed<'a> {
    /// Working directories to trust, symlinks resolved.
    pub cwds: &'a [&'a Path],
    /// A key in the agents' environment that is to be used.
    pub api_key: Option<&'a str>,
    /// Whether an agent is started with `--dangerously-skip-permissions`.
    pub skip_permissions: bool,
}

/// Prepares the configuration. Returns what was done or found, in sentences for the journal.
///
/// `keep_copy` is the path of spotkeep's last good copy of `.claude.json`, which is read and
/// written.
///
/// # Errors
/// A file cannot be read or written, or another process rewrites it again and again.
pub fn seed(config_dir: &Path, seed: &Seed, keep_copy: &Path) -> Result<Vec<String>> {
    let mut said = Vec::new();
    let config = config_repair::resolve(&config_dir.join(".claude.json"));
    let whole = update(&config, &mut said, |content, said| {
        let mut object = match content {
            Content::Whole(object) => object,
            Content::Missing | Content::Damaged(_) => rebuild(config_dir, keep_copy, said)?,
        };
        merge_config(&mut object, seed, said);
        Ok(Some(object))
    })?;
    if let Some(whole) = whole {
        keep(keep_copy, &whole)?;
    }
    let settings = config_repair::resolve(&config_dir.join("settings.json"));
    update(&settings, &mut said, |content, said| {
        let mut object = match content {
            Content::Whole(object) => object,
            Content::Missing if !seed.skip_permissions => return Ok(None),
            Content::Missing | Content::Damaged(_) => Map::new(),
        };
        if seed.skip_permissions {
            merge_settings(&mut object, said);
        }
        Ok(Some(object))
    })?;
    Ok(said)
}

/// Reads a file, lets `merge` decide on the new content, and writes that if it differs. Returns it.
///
/// Nothing is locked where nothing has to change. If another process changes the file between
/// reading and locking, the merge begins again.
pub(super) fn update(
    path: &Path,
    said: &mut Vec<String>,
    merge: impl Fn(Content, &mut Vec<String>) -> Result<Option<Map<String, Value>>>,
) -> Result<Option<Map<String, Value>>> {
    let mut lock = None;
    for _ in 0..ATTEMPTS {
        let mut news = Vec::new();
        let bytes = files::read_optional(path)?;
        let before = config_repair::content(bytes.clone());
        let damaged = match &before {
            Content::Damaged(bytes) => Some(bytes.clone()),
            _ => None,
        };
        let old = match &before {
            Content::Whole(object) => Some(object.clone()),
            _ => None,
        };
        let new = merge(before, &mut news)?;
        if new == old {
            said.append(&mut news);
            return Ok(new);
        }
        let Some(object) = new else {
            return Ok(None);
        };
        let mut text = serde_json::to_vec_pretty(&object).context("cannot write JSON")?;
        text.push(b'\n');
        lock.get_or_insert_with(|| Lock::acquire(path));
        if files::read_optional(path)? != bytes {
            continue;
        }
        if let Some(damaged) = damaged {
            let quarantined = config_repair::quarantine(path, &damaged)?;
            said.push(format!(
                "{} was damaged; it is kept as {}",
                path.display(),
                quarantined.display()
            ));
        }
        files::write_atomic(path, &text)?;
        said.append(&mut news);
        return Ok(Some(object));
    }
    bail!("{} changes faster than it can be merged", path.display())
}

fn rebuild(
    config_dir: &Path,
    keep_copy: &Path,
    said: &mut Vec<String>,
) -> Result<Map<String, Value>> {
    Ok(match config_repair::newest_good(config_dir, keep_copy)? {
        Some((object, path)) => {
            said.push(format!(".claude.json was rebuilt from {}", path.display()));
            object
        }
        None => Map::new(),
    })
}

fn keep(keep_copy: &Path, object: &Map<String, Value>) -> Result<()> {
    let text = serde_json::to_vec_pretty(object).context("cannot write JSON")?;
    if files::read_optional(keep_copy)?.as_deref() == Some(&text[..]) {
        return Ok(());
    }
    files::write_atomic(keep_copy, &text)
}

fn merge_config(config: &mut Map<String, Value>, seed: &Seed, said: &mut Vec<String>) {
    if set_true(config, "hasCompletedOnboarding") {
        said.push("the first-start setup was marked as done".to_owned());
    }
    if let Some(key) = seed.api_key {
        approve(config, key, said);
    }
    for cwd in seed.cwds {
        let Some(project) = object(config, "projects")
            .and_then(|projects| object(projects, &cwd.to_string_lossy()))
        else {
            said.push(
                "\"projects\" in .claude.json is not an object and was left alone".to_owned(),
            );
            return;
        };
        if set_true(project, "hasTrustDialogAccepted") {
            said.push(format!("{} was marked as trusted", cwd.display()));
        }
    }
}

/// Returns the part of a key that Claude Code remembers.
pub(super) fn key_tail(key: &str) -> String {
    let start = key.chars().count().saturating_sub(KEY_TAIL);
    key.chars().skip(start).collect()
}

fn approve(config: &mut Map<String, Value>, key: &str, said: &mut Vec<String>) {
    let tail = key_tail(key);
    let Some(responses) = object(config, "customApiKeyResponses") else {
        return;
    };
    let holds = |list: Option<&Value>| {
        list.and_then(Value::as_array)
            .is_some_and(|list| list.iter().any(|known| known.as_str() == Some(&tail)))
    };
    if holds(responses.get("rejected")) {
        said.push(
            "the API key was rejected by the user in Claude; it stays rejected, and Claude will \
             not use it"
                .to_owned(),
        );
    } else if !holds(responses.get("approved")) {
        let approved = responses
            .entry("approved")
            .or_insert_with(|| Value::Array(Vec::new()));
        if let Some(list) = approved.as_array_mut() {
            list.push(Value::String(tail));
            said.push("the API key was approved".to_owned());
        }
        responses
            .entry("rejected")
            .or_insert_with(|| Value::Array(Vec::new()));
    }
}

fn merge_settings(settings: &mut Map<String, Value>, said: &mut Vec<String>) {
    if set_true(settings, "skipDangerousModePermissionPrompt") {
        said.push("the warning of the bypass mode was accepted in settings.json".to_owned());
    }
}

/// Returns the object under a key, created where nothing is there; `None` where another type is
/// there.
fn object<'a>(map: &'a mut Map<String, Value>, key: &str) -> Option<&'a mut Map<String, Value>> {
    map.entry(key)
        .or_insert_with(|| Value::Object(Map::new()))
        .as_object_mut()
}

/// Sets a key to true. Returns whether that was a change.
fn set_true(map: &mut Map<String, Value>, key: &str) -> bool {
    map.insert(key.to_owned(), Value::Bool(true)) != Some(Value::Bool(true))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt as _, symlink};

    use super::*;

    fn run(dir: &Path, key: Option<&str>, skip_permissions: bool) -> Vec<String> {
        let cwds = [Path::new("/srv/work")];
        let desired = Seed {
            cwds: &cwds,
            api_key: key,
            skip_permissions,
        };
        seed(dir, &desired, &dir.join("copy.json")).unwrap()
    }

    fn config(dir: &Path) -> Value {
        serde_json::from_slice(&fs::read(dir.join(".claude.json")).unwrap()).unwrap()
    }

    #[test]
    fn a_new_directory_gets_exactly_what_a_start_needs() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(
            run(dir.path(), Some("sk-0123456789-0123456789"), true).len(),
            4
        );
        assert_eq!(
            config(dir.path()),
            serde_json::json!({
                "hasCompletedOnboarding": true,
                "customApiKeyResponses": {"approved": ["123456789-0123456789"], "rejected": []},
                "projects": {"/srv/work": {"hasTrustDialogAccepted": true}},
            })
        );
        let inode = fs::metadata(dir.path().join(".claude.json")).unwrap().ino();
        assert!(run(dir.path(), Some("sk-0123456789-0123456789"), true).is_empty());
        assert_eq!(
            fs::metadata(dir.path().join(".claude.json")).unwrap().ino(),
            inode,
            "an unchanged file is not written again"
        );
    }

    #[test]
    fn without_the_bypass_mode_no_settings_are_made() {
        let dir = tempfile::tempdir().unwrap();
        run(dir.path(), None, false);
        assert!(!dir.path().join("settings.json").exists());
    }

    #[test]
    fn the_users_keys_stay_in_their_order() {
        let dir = tempfile::tempdir().unwrap();
        let before = r#"{"zeta":1.5,"projects":{"/srv/work":{"allowedTools":["x"]},"/b":{}},"alpha":{"y":null}}"#;
        fs::write(dir.path().join(".claude.json"), before).unwrap();
        run(dir.path(), None, false);
        let Value::Object(after) = config(dir.path()) else {
            panic!("no object")
        };
        let keys: Vec<_> = after.keys().map(String::as_str).collect();
        assert_eq!(
            keys,
            ["zeta", "projects", "alpha", "hasCompletedOnboarding"]
        );
        assert_eq!(after["projects"]["/srv/work"]["allowedTools"][0], "x");
        assert_eq!(
            after["projects"]["/srv/work"]["hasTrustDialogAccepted"],
            true
        );
    }

    #[test]
    fn a_key_that_the_user_rejected_stays_rejected_and_is_reported() {
        let dir = tempfile::tempdir().unwrap();
        let before = r#"{"customApiKeyResponses":{"approved":[],"rejected":["short"]}}"#;
        fs::write(dir.path().join(".claude.json"), before).unwrap();
        let said = run(dir.path(), Some("short"), false);
        assert!(
            said.iter().any(|line| line.contains("rejected")),
            "{said:?}"
        );
        let after = config(dir.path());
        assert_eq!(
            after["customApiKeyResponses"]["approved"],
            serde_json::json!([])
        );
    }

    #[test]
    fn a_damaged_configuration_is_quarantined_and_rebuilt() {
        for damaged in [&b"{\"hasCompleted"[..], b"", &[0; 64]] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join(".claude.json");
            fs::write(&path, r#"{"userID":"me","numStartups":7}"#).unwrap();
            run(dir.path(), None, false);
            fs::write(&path, damaged).unwrap();
            let said = run(dir.path(), None, false);
            assert!(
                said.iter().any(|line| line.contains("was damaged")),
                "{said:?}"
            );
            assert_eq!(config(dir.path())["userID"], "me");
            let quarantined = fs::read_dir(dir.path())
                .unwrap()
                .map(|entry| entry.unwrap().path())
                .find(|path| path.to_string_lossy().contains(".damaged-"))
                .unwrap();
            assert_eq!(fs::read(quarantined).unwrap(), damaged);
        }
    }

    #[test]
    fn a_missing_configuration_is_restored() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(".claude.json"), r#"{"userID":"me"}"#).unwrap();
        run(dir.path(), None, false);
        fs::remove_file(dir.path().join(".claude.json")).unwrap();
        let said = run(dir.path(), None, false);
        assert!(said.iter().any(|line| line.contains("rebuilt")), "{said:?}");
        assert_eq!(config(dir.path())["userID"], "me");
    }

    #[test]
    fn damaged_settings_are_quarantined_and_created_again() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("settings.json"), "{\"model\"").unwrap();
        let said = run(dir.path(), None, true);
        assert!(
            said.iter()
                .any(|line| line.contains("settings.json was damaged"))
        );
        let text = fs::read_to_string(dir.path().join("settings.json")).unwrap();
        assert!(text.contains("skipDangerousModePermissionPrompt"), "{text}");
    }

    #[test]
    fn a_symlinked_configuration_stays_a_symlink() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().join("real.json");
        symlink("real.json", dir.path().join(".claude.json")).unwrap();
        run(dir.path(), None, false);
        assert!(
            fs::symlink_metadata(dir.path().join(".claude.json"))
                .unwrap()
                .is_symlink()
        );
        assert!(
            fs::read_to_string(&real)
                .unwrap()
                .contains("hasCompletedOnboarding")
        );
        assert_eq!(fs::metadata(&real).unwrap().mode() & 0o777, 0o600);
        assert_eq!(
            fs::metadata(dir.path().join("copy.json")).unwrap().mode() & 0o777,
            0o600
        );
    }
}
