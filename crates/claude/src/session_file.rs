//! Session files: reads `sessions/<pid>.json`, the state that a live Claude Code publishes.
//!
//! Measured on 2.1.197 and 2.1.330. The file appears about a second after the start and only once
//! every blocking dialog (trust, API key, bypass mode, broken configuration) has been passed;
//! `status` follows some 50 to 200 ms later. The session picker writes a file without `status`,
//! under another session id; under `-p` there is no `status` either. A clean exit removes the file,
//! SIGKILL and a power cut leave it, so it only counts together with the start time of the process.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use sys::process::ProcessId;

/// What Claude Code does, according to its session file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// In a turn, or waiting for its background agents.
    Busy,
    /// At its prompt.
    Idle,
    /// The user has to answer.
    Waiting {
        /// What the user is asked, in Claude Code's wording, like `permission prompt`.
        for_what: Option<String>,
    },
    /// At its prompt, while a background shell runs.
    Shell,
    /// A status that spotkeep does not know.
    Unknown(String),
}

/// Content of one session file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionFile {
    /// The process that wrote it.
    pub process: ProcessId,
    /// The session that it uses now; `/clear` changes it under the same pid.
    pub session_id: String,
    /// Its working directory, symlinks resolved.
    pub cwd: PathBuf,
    /// Name of the session; for some milliseconds after a start still a derived one.
    pub name: Option<String>,
    /// `None` while it starts, in the session picker, and under `-p`.
    pub status: Option<Status>,
    /// Version of Claude Code.
    pub version: Option<String>,
    /// `interactive` (also under `-p`) or `bg`.
    pub kind: Option<String>,
}

/// Returns the directory of the session files.
#[must_use]
pub fn sessions_dir(config_dir: &Path) -> PathBuf {
    config_dir.join("sessions")
}

/// Returns the session of the live process `pid`. A missing, damaged or stale file is `None`.
#[must_use]
pub fn read(config_dir: &Path, pid: i32) -> Option<SessionFile> {
    let bytes = fs::read(sessions_dir(config_dir).join(format!("{pid}.json"))).ok()?;
    parse(&bytes).filter(|file| file.process.pid == pid && file.process.is_alive())
}

/// Returns the sessions of all live processes, by pid.
#[must_use]
pub fn live(config_dir: &Path) -> Vec<SessionFile> {
    let Ok(entries) = fs::read_dir(sessions_dir(config_dir)) else {
        return Vec::new();
    };
    let mut pids: Vec<i32> = entries
        .filter_map(|entry| {
            let name = entry.ok()?.file_name();
            name.to_str()?.strip_suffix(".json")?.parse().ok()
        })
        .collect();
    pids.sort_unstable();
    pids.into_iter()
        .filter_map(|pid| read(config_dir, pid))
        .collect()
}

/// Parses one session file, whether its process still runs or not; `None` where it is damaged or
/// names no process, session or directory.
#[must_use]
pub fn parse(bytes: &[u8]) -> Option<SessionFile> {
    let json: Value = serde_json::from_slice(bytes).ok()?;
    let text = |key: &str| json.get(key).and_then(Value::as_str).map(str::to_owned);
    let start_time = match json.get("procStart")? {
        Value::String(ticks) => ticks.parse().ok()?,
        number => number.as_u64()?,
    };
    Some(SessionFile {
        process: ProcessId {
            pid: i32::try_from(json.get("pid")?.as_i64()?).ok()?,
            start_time,
        },
        session_id: text("sessionId")?,
        cwd: text("cwd")?.into(),
        name: text("name"),
        status: text("status").map(|word| match word.as_str() {
            "busy" => Status::Busy,
            "idle" => Status::Idle,
            "shell" => Status::Shell,
            "waiting" => Status::Waiting {
                for_what: text("waitingFor"),
            },
            _ => Status::Unknown(word),
        }),
        version: text("version"),
        kind: text("kind"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(dir: &Path, pid: i32, start: &str, status: &str) {
        fs::create_dir_all(sessions_dir(dir)).unwrap();
        let text = format!(
            r#"{{"pid":{pid},"sessionId":"0546","cwd":"/srv/work","startedAt":1795373775968,"procStart":"{start}","version":"2.1.330","peerProtocol":1,"kind":"interactive","name":"one",{status}"updatedAt":1}}"#
        );
        fs::write(sessions_dir(dir).join(format!("{pid}.json")), text).unwrap();
    }

    #[test]
    fn a_file_of_this_process_is_read_and_one_of_an_earlier_boot_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let me = ProcessId::current().unwrap();
        write(
            dir.path(),
            me.pid,
            &me.start_time.to_string(),
            r#""status":"waiting","waitingFor":"permission prompt","#,
        );
        let file = read(dir.path(), me.pid).unwrap();
        assert_eq!(
            file.status,
            Some(Status::Waiting {
                for_what: Some("permission prompt".to_owned())
            })
        );
        assert_eq!(live(dir.path()), [file]);

        write(dir.path(), me.pid, "1", "");
        assert_eq!(read(dir.path(), me.pid), None);
        assert!(live(dir.path()).is_empty());
    }

    #[test]
    fn the_session_picker_has_no_status() {
        let dir = tempfile::tempdir().unwrap();
        let me = ProcessId::current().unwrap();
        write(dir.path(), me.pid, &me.start_time.to_string(), "");
        assert_eq!(read(dir.path(), me.pid).unwrap().status, None);
    }

    #[test]
    fn damaged_files_and_key_files_are_skipped() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(sessions_dir(dir.path())).unwrap();
        fs::write(sessions_dir(dir.path()).join("7.json"), "{\"pid\":7,").unwrap();
        fs::write(sessions_dir(dir.path()).join("7.abcd.key"), "x").unwrap();
        fs::write(sessions_dir(dir.path()).join("8.json"), "").unwrap();
        assert!(live(dir.path()).is_empty());
        assert!(live(&dir.path().join("absent")).is_empty());
    }
}
