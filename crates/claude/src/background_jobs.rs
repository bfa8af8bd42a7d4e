//! Background jobs of Claude Code (`claude --bg`): reads `jobs/<id>/state.json`.
//!
//! A running job is also in [`super::session_file`], with the kind `bg`. A daemon starts a job's
//! process again when it was killed, within half a minute, so a job is ended by `claude stop <id>`.
//! After a power cut the daemon gives all jobs up (measured on 2.1.197); their transcripts are like
//! any other.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// One job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackgroundJob {
    /// Id as `claude stop` and `claude attach` take it.
    pub id: String,
    /// The session that it uses.
    pub session_id: String,
    /// `working`, `failed` ... as Claude Code records it.
    pub state: Option<String>,
    /// The name that the user gave it.
    pub name: Option<String>,
    /// Its working directory.
    pub cwd: Option<PathBuf>,
    /// Arguments with which Claude Code would start it again.
    pub arguments: Vec<String>,
}

/// Returns all jobs of a configuration directory. Unreadable files are skipped.
#[must_use]
pub fn all(config_dir: &Path) -> Vec<BackgroundJob> {
    let entries = fs::read_dir(config_dir.join("jobs")).into_iter().flatten();
    let mut jobs: Vec<BackgroundJob> = entries
        .filter_map(|entry| {
            let dir = entry.ok()?.path();
            let id = dir.file_name()?.to_str()?.to_owned();
            parse(id, &fs::read(dir.join("state.json")).ok()?)
        })
        .collect();
    jobs.sort_by(|one, other| one.id.cmp(&other.id));
    jobs
}

fn parse(id: String, bytes: &[u8]) -> Option<BackgroundJob> {
    let json: Value = serde_json::from_slice(bytes).ok()?;
    let text = |key: &str| json.get(key).and_then(Value::as_str).map(str::to_owned);
    let flags = json.get("respawnFlags").and_then(Value::as_array);
    Some(BackgroundJob {
        id,
        // The first is the present session.
        session_id: text("sessionId").or_else(|| text("resumeSessionId"))?,
        state: text("state"),
        name: text("name"),
        cwd: text("cwd").map(PathBuf::from),
        arguments: flags
            .into_iter()
            .flatten()
            .filter_map(|flag| flag.as_str().map(str::to_owned))
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_are_read_and_damaged_files_are_skipped() {
        let dir = tempfile::tempdir().unwrap();
        assert!(all(dir.path()).is_empty());
        let put = |id: &str, text: &str| {
            fs::create_dir_all(dir.path().join("jobs").join(id)).unwrap();
            fs::write(dir.path().join("jobs").join(id).join("state.json"), text).unwrap();
        };
        put(
            "9a0bb820",
            r#"{"state":"working","sessionId":"u-1","resumeSessionId":"u-0","cwd":"/srv/a","respawnFlags":["--model","opus"],"new":1}"#,
        );
        put("cut", "{\"state\":");
        fs::write(dir.path().join("jobs/pins.json"), "[]").unwrap();
        let jobs = all(dir.path());
        assert_eq!(jobs.len(), 1);
        assert_eq!(
            (jobs[0].id.as_str(), jobs[0].session_id.as_str()),
            ("9a0bb820", "u-1")
        );
        assert_eq!(jobs[0].arguments, ["--model", "opus"]);
    }
}
