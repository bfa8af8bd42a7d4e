//! Claude's own background jobs (`claude --bg`): `jobs/<id>/state.json`. What runs of them is in
//! [`super::session_file`] too, with the kind `bg`.
//!
//! A daemon starts a job's process again when it was killed, within half a minute, so a job is ended by
//! `claude stop <id>`. After a power cut the daemon gives all jobs up (measured on 2.1.197); their transcripts
//! are like any other.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// One job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackgroundJob {
    /// As `claude stop` and `claude attach` take it.
    pub id: String,
    /// The session that it is in.
    pub session_id: String,
    /// `working`, `failed` ... as Claude says.
    pub state: Option<String>,
    /// The name that somebody gave it.
    pub name: Option<String>,
    /// Where it works.
    pub cwd: Option<PathBuf>,
    /// What Claude would start it again with.
    pub arguments: Vec<String>,
}

/// All jobs of a configuration directory. What cannot be read is passed over.
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
        // The first is what it has now.
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
    fn jobs_are_read_and_what_is_torn_is_passed_over() {
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
        put("torn", "{\"state\":");
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
