//! A running session of the fake: its file below `sessions/`, and its transcript records.

use std::fs;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};

use super::ClaudePaths;
use super::transcript::{Opened, Writer, new_id};
use super::turn::Refusal;
use sys::error::Result;
use sys::files::create_private_dir;
use sys::process::ProcessId;
use sys::time::Timestamp;

/// The version in the records.
const VERSION: &str = "0.0.0-fake";

/// A process and its current session.
#[derive(Debug)]
pub(super) struct Session {
    place: ClaudePaths,
    process: ProcessId,
    started: Timestamp,
    writer: Writer,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    id: String,
    path: PathBuf,
    name: Option<String>,
    /// Whether the name is written. It is written with the first record, so that every transcript
    /// has a prompt.
    named: bool,
    parent: Option<String>,
    last_prompt: String,
    messages: Vec<Value>,
    ended: bool,
}

impl Session {
    /// Begins or resumes a session, and sets its status to idle.
    pub(super) fn begin(place: ClaudePaths, opened: Opened, name: Option<String>) -> Result<Self> {
        let session = Self {
            process: ProcessId::current()?,
            started: Timestamp::now(),
            writer: Writer::start()?,
            state: Mutex::new(State {
                id: opened.session_id,
                path: opened.path,
                name,
                named: false,
                parent: opened.parent,
                last_prompt: String::new(),
                messages: opened.messages,
                ended: false,
            }),
            place,
        };
        create_private_dir(&session.place.config_dir.join("sessions"))?;
        session.status("idle");
        Ok(session)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn file(&self) -> PathBuf {
        let sessions = self.place.config_dir.join("sessions");
        sessions.join(format!("{}.json", self.process.pid))
    }

    /// Writes the status to the session file: `busy`, `idle` or `waiting`.
    pub(super) fn status(&self, status: &str) {
        let state = self.state();
        if state.ended {
            return;
        }
        let now = Timestamp::now().as_millis();
        let shown = json!({
            "pid": self.process.pid, "sessionId": state.id, "cwd": self.place.cwd,
            "startedAt": self.started.as_millis(),
            "procStart": self.process.start_time.to_string(), "version": VERSION,
            "peerProtocol": 1, "kind": "interactive", "entrypoint": "cli",
            "name": state.name, "status": status, "updatedAt": now, "statusUpdatedAt": now,
        });
        // Write errors are ignored, as in the real program.
        fs::write(self.file(), shown.to_string()).ok();
    }

    /// Returns the messages for the next request.
    pub(super) fn messages(&self) -> Vec<Value> {
        self.state().messages.clone()
    }

    /// Records a prompt, typed or from the command line.
    pub(super) fn prompt(&self, text: &str) {
        self.state().last_prompt = text.to_owned();
        self.append_record("user", &json!(text), json!({"promptSource": "typed"}));
    }

    /// Records one whole block of an answer.
    pub(super) fn assistant(&self, block: &Value, message_id: &str) {
        self.append_record(
            "assistant",
            &json!([block]),
            json!({"message": {
                "id": message_id, "type": "message", "model": "drill",
                // The same in each record of a message, as in the real program.
                "usage": {"input_tokens": 100, "output_tokens": 20},
            }}),
        );
    }

    /// Records the result of a tool.
    pub(super) fn tool_result(&self, id: &str, output: &str, is_error: bool) {
        let block = json!({
            "tool_use_id": id, "type": "tool_result", "content": output, "is_error": is_error,
        });
        let extra = json!({"toolUseResult": {"stdout": output, "interrupted": false}});
        self.append_record("user", &json!([block]), extra);
    }

    /// Records an API error in place of an answer, like the real program. Later requests include
    /// it.
    pub(super) fn api_error(&self, refusal: &Refusal) {
        let block = json!([{"type": "text", "text": refusal.shown()}]);
        let mut extra = json!({
            "isApiErrorMessage": true, "error": refusal.error(),
            "message": {"model": "<synthetic>", "stop_reason": "stop_sequence"},
        });
        if refusal.status > 0 {
            extra["apiErrorStatus"] = Value::from(refusal.status);
        }
        if let Some(until) = refusal.limit_until {
            extra["quotaLimits"] = json!({"status": "rejected", "resetsAt": until});
        }
        self.append_record("assistant", &block, extra);
    }

    /// Records the end of a turn.
    pub(super) fn turn_ended(&self, millis: u128) {
        let duration = u64::try_from(millis).unwrap_or(u64::MAX);
        let record = json!({"type": "system", "subtype": "turn_duration", "durationMs": duration});
        self.record(&mut self.state(), record);
    }

    /// Begins a new session in the same process, for `/clear`.
    pub(super) fn clear(&self) -> Result<()> {
        let mut state = self.state();
        state.id = new_id()?;
        state.path = state.path.with_file_name(format!("{}.jsonl", state.id));
        state.parent = None;
        state.messages.clear();
        state.named = false;
        let record = json!({"type": "system", "subtype": "local_command", "content": "/clear"});
        self.record(&mut state, record);
        drop(state);
        self.status("idle");
        Ok(())
    }

    /// Ends the session: writes the waiting records and the last prompt, and removes the session
    /// file.
    pub(super) fn end(&self) {
        let mut state = self.state();
        state.ended = true;
        self.writer.append(
            &state.path,
            &json!({
                "type": "last-prompt", "lastPrompt": state.last_prompt,
                "leafUuid": state.parent, "sessionId": state.id,
            }),
        );
        self.writer.flush();
        fs::remove_file(self.file()).ok();
    }

    fn append_record(&self, role: &str, content: &Value, extra: Value) {
        let mut state = self.state();
        state
            .messages
            .push(json!({"role": role, "content": content}));
        let mut record = json!({"type": role, "message": {"role": role, "content": content}});
        merge(&mut record, extra);
        self.record(&mut state, record);
    }

    fn record(&self, state: &mut State, extra: Value) {
        if state.ended {
            return;
        }
        if let Some(name) = state.name.clone().filter(|_| !state.named) {
            state.named = true;
            for (kind, key) in [("custom-title", "customTitle"), ("agent-name", "agentName")] {
                let record = json!({"type": kind, key: name, "sessionId": state.id});
                self.writer.append(&state.path, &record);
            }
        }
        let Ok(id) = new_id() else { return };
        let mut record = json!({
            "parentUuid": state.parent, "isSidechain": false, "uuid": id,
            "timestamp": Timestamp::now(), "userType": "external", "entrypoint": "cli",
            "cwd": self.place.cwd, "sessionId": state.id, "version": VERSION, "gitBranch": "HEAD",
        });
        merge(&mut record, extra);
        state.parent = Some(id);
        self.writer.append(&state.path, &record);
    }
}

/// Merges the fields of `extra` into `into`, recursively.
fn merge(into: &mut Value, extra: Value) {
    match (into, extra) {
        (Value::Object(fields), Value::Object(more)) => {
            for (key, value) in more {
                merge(fields.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, extra) => *into = extra,
    }
}
