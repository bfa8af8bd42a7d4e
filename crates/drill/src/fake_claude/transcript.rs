//! The transcript of the fake, written and read like the real program's.
//!
//! Records are appended in whole lines, a tenth of a second late, with one open, write and close
//! for each flush and without a sync. Damaged lines are tolerated when it is read.

use std::collections::HashSet;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Arguments, ClaudePaths};
use sys::error::{Context as _, Result, bail};

/// How long records are collected before they are written.
const BATCH: Duration = Duration::from_millis(100);

/// A session that a start has opened.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) session_id: String,
    pub(super) path: PathBuf,
    /// The messages of the past for the next request.
    pub(super) messages: Vec<Value>,
    /// The uuid of the newest record, which is the parent of the next one.
    pub(super) parent: Option<String>,
}

/// Opens the session that the arguments ask for.
///
/// # Errors
/// A new session exists, or one to resume does not. The messages are the real program's.
pub(super) fn open(arguments: &Arguments, place: &ClaudePaths) -> Result<Opened> {
    let path_of = |id: &str| {
        let folder = place.config_dir.join("projects").join(slug(&place.cwd));
        folder.join(format!("{id}.jsonl"))
    };
    if let Some(asked) = &arguments.resume {
        let path = if asked.starts_with('/') {
            PathBuf::from(asked)
        } else {
            path_of(asked)
        };
        let (messages, parent) = load(&path);
        if messages.is_empty() {
            bail!("No conversation found with session ID: {asked}");
        }
        let stem = path.file_stem().context("no session id in the path")?;
        return Ok(Opened {
            session_id: stem.to_string_lossy().into_owned(),
            messages,
            parent,
            path,
        });
    }
    let session_id = match &arguments.session_id {
        Some(id) => id.clone(),
        None => new_id()?,
    };
    let path = path_of(&session_id);
    if path.exists() {
        bail!("Error: Session ID {session_id} is already in use.");
    }
    Ok(Opened {
        session_id,
        path,
        messages: Vec::new(),
        parent: None,
    })
}

/// Returns a new random id.
pub(super) fn new_id() -> Result<String> {
    let id = fs::read_to_string("/proc/sys/kernel/random/uuid").context("no random id")?;
    Ok(id.trim().to_owned())
}

/// Returns the folder name of a working directory: all but letters and digits become dashes.
fn slug(cwd: &Path) -> String {
    cwd.to_string_lossy()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .take(200)
        .collect()
}

/// Reads the messages for a resumed session: damaged lines and NULs are skipped, a tool call
/// without its output is dropped, and a turn that was cut is closed with the real program's two
/// sentences.
fn load(path: &Path) -> (Vec<Value>, Option<String>) {
    let bytes = fs::read(path).unwrap_or_default();
    let records: Vec<Value> = bytes
        .split(|byte| *byte == b'\n' || *byte == 0)
        .filter_map(|line| serde_json::from_slice(line).ok())
        .filter(|record: &Value| matches!(record["type"].as_str(), Some("user" | "assistant")))
        .collect();
    if !records.iter().any(|record| record["type"] == "user") {
        return (Vec::new(), None);
    }
    let ids = |kind: &str, key: &str| -> HashSet<String> {
        blocks(&records)
            .filter(|block| block["type"] == kind)
            .filter_map(|block| Some(block[key].as_str()?.to_owned()))
            .collect()
    };
    let (called, answered) = (ids("tool_use", "id"), ids("tool_result", "tool_use_id"));
    let mut messages: Vec<Value> = Vec::new();
    let mut dropped = false;
    for record in &records {
        let mut message = json!({
            "role": record["message"]["role"], "content": record["message"]["content"],
        });
        if let Some(content) = message["content"].as_array_mut() {
            content.retain(|block| match block["type"].as_str() {
                Some("tool_use") => block["id"].as_str().is_some_and(|id| answered.contains(id)),
                Some("tool_result") => block["tool_use_id"]
                    .as_str()
                    .is_some_and(|id| called.contains(id)),
                _ => true,
            });
            dropped = content.is_empty();
            if dropped {
                continue;
            }
        }
        dropped = false;
        messages.push(message);
    }
    let last_is_user = messages.last().is_some_and(|last| last["role"] == "user");
    let last_is_prompt = last_is_user && messages.last().is_some_and(|m| m["content"].is_string());
    if dropped || (last_is_user && !last_is_prompt) {
        messages.push(json!({"role": "user", "content": "Continue from where you left off."}));
    }
    if dropped || last_is_user {
        let nothing = json!([{"type": "text", "text": "No response requested."}]);
        messages.push(json!({"role": "assistant", "content": nothing}));
    }
    let parent = records.last().and_then(|record| record["uuid"].as_str());
    (messages, parent.map(str::to_owned))
}

fn blocks(records: &[Value]) -> impl Iterator<Item = &Value> {
    records
        .iter()
        .filter_map(|record| record["message"]["content"].as_array())
        .flatten()
}

/// Writes transcripts, in a separate thread.
#[derive(Debug, Clone)]
pub(super) struct Writer {
    lines: Sender<WriterCommand>,
}

enum WriterCommand {
    Append(PathBuf, String),
    Flush(SyncSender<()>),
}

impl Writer {
    pub(super) fn start() -> Result<Self> {
        let (lines, commands) = channel::<WriterCommand>();
        let work = move || {
            let mut waiting: Vec<(PathBuf, String)> = Vec::new();
            let mut due: Option<Instant> = None;
            loop {
                let limit = due.map_or(Duration::from_secs(3600), |due| {
                    due.saturating_duration_since(Instant::now())
                });
                match commands.recv_timeout(limit) {
                    Ok(WriterCommand::Append(path, line)) => {
                        waiting.push((path, line));
                        due.get_or_insert(Instant::now() + BATCH);
                        continue;
                    }
                    Ok(WriterCommand::Flush(done)) => {
                        flush(&mut waiting);
                        done.send(()).ok();
                    }
                    Err(RecvTimeoutError::Timeout) => flush(&mut waiting),
                    Err(RecvTimeoutError::Disconnected) => return flush(&mut waiting),
                }
                due = None;
            }
        };
        std::thread::Builder::new()
            .name("transcript".into())
            .stack_size(128 * 1024)
            .spawn(work)
            .context("cannot start the writer")?;
        Ok(Self { lines })
    }

    /// Appends a record, a tenth of a second later.
    pub(super) fn append(&self, path: &Path, record: &Value) {
        let command = WriterCommand::Append(path.to_owned(), format!("{record}\n"));
        self.lines.send(command).ok();
    }

    /// Writes the waiting records now.
    pub(super) fn flush(&self) {
        let (done, wait) = sync_channel(1);
        self.lines.send(WriterCommand::Flush(done)).ok();
        wait.recv().ok();
    }
}

/// Writes records with one open, write and close for each file. Errors are ignored, as in the real
/// program.
fn flush(waiting: &mut Vec<(PathBuf, String)>) {
    while let Some(path) = waiting.first().map(|(path, _)| path.clone()) {
        let (now, later) = std::mem::take(waiting)
            .into_iter()
            .partition::<Vec<_>, _>(|(to, _)| *to == path);
        *waiting = later;
        let text: String = now.into_iter().map(|(_, line)| line).collect();
        if let Some(dir) = path.parent() {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(dir)
                .ok();
        }
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&path);
        if let Ok(mut file) = file {
            file.write_all(text.as_bytes()).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resumed_request_does_not_have_the_call_that_was_cut() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("u.jsonl");
        let lines = [
            r#"{"type":"user","uuid":"1","message":{"role":"user","content":"do"}}"#,
            r#"{"type":"assistant","uuid":"2","message":{"role":"assistant","content":[{"type":"text","text":"so"}]}}"#,
            r#"{"type":"assistant","uuid":"3","message":{"role":"assistant","content":[{"type":"tool_use","id":"t"}]}}"#,
            r#"{"type":"assi"#,
        ];
        fs::write(&path, lines.join("\n") + "\0\0\0").unwrap();
        let (messages, parent) = load(&path);
        let texts: Vec<_> = messages.iter().map(|m| m["content"].to_string()).collect();
        assert_eq!(parent.as_deref(), Some("3"));
        assert_eq!(texts.len(), 4, "{texts:?}");
        assert!(texts[2].contains("Continue from"), "{texts:?}");
    }

    #[test]
    fn a_folder_is_named_by_its_path() {
        assert_eq!(slug(Path::new("/srv/a.b_c d")), "-srv-a-b-c-d");
    }
}
