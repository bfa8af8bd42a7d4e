//! A turn of the fake: sends requests to the API and runs the tool calls until the turn ends.

use std::io;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::session::Session;
use super::{show, variable};
use crate::http;
use sys::error::{Context as _, Result};

/// Starts the thread that runs a turn for each prompt, one after another.
pub(super) fn start(session: Arc<Session>) -> Result<Sender<String>> {
    let (sender, prompts) = channel::<String>();
    std::thread::Builder::new()
        .name("turns".into())
        .stack_size(512 * 1024)
        .spawn(move || {
            for prompt in prompts {
                if prompt == "/clear" {
                    session.clear().ok();
                } else {
                    turn(&session, &prompt);
                }
            }
        })
        .context("cannot start the turns")?;
    Ok(sender)
}

fn turn(session: &Session, prompt: &str) {
    let began = Instant::now();
    session.status("busy");
    show(&format!("> {prompt}"));
    session.prompt(prompt);
    loop {
        let calls = match ask_with_retries(session) {
            Ok(calls) => calls,
            Err(refusal) => {
                show(&refusal.shown());
                session.api_error(&refusal);
                break;
            }
        };
        if calls.is_empty() {
            break;
        }
        for call in calls {
            let command = call["input"]["command"].as_str().unwrap_or_default();
            show(&format!("● Bash({command})"));
            let (output, is_error) = bash(command);
            session.tool_result(call["id"].as_str().unwrap_or_default(), &output, is_error);
        }
    }
    session.turn_ended(began.elapsed().as_millis());
    session.status("idle");
}

/// An API error in place of an answer.
#[derive(Debug)]
pub(super) struct Refusal {
    /// The HTTP status; 0 if the API was not reached.
    pub(super) status: u16,
    /// The end of a usage limit, in seconds since 1970.
    pub(super) limit_until: Option<i64>,
    text: String,
}

impl Refusal {
    /// Returns the message of the real program (2.1.330).
    pub(super) fn shown(&self) -> String {
        let text = &self.text;
        match self.status {
            0 => format!("API Error: Unable to connect to API ({text})"),
            401 | 403 => format!("Please run /login · API Error: {} {text}", self.status),
            429 if self.limit_until.is_some() => "You've hit your 5-hour limit".to_owned(),
            429 => format!("API Error: Request rejected (429) · {text}"),
            status => format!("API Error: {status} {text}"),
        }
    }

    /// Returns the error name in the record.
    pub(super) fn error(&self) -> &'static str {
        match self.status {
            401 | 403 => "authentication_failed",
            429 => "rate_limit",
            0 | 500.. => "server_error",
            _ => "unknown",
        }
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self {
            status: 0,
            limit_until: None,
            text: error.to_string(),
        }
    }
}

impl From<serde_json::Error> for Refusal {
    fn from(error: serde_json::Error) -> Self {
        io::Error::from(error).into()
    }
}

/// Sends a request; retries an error as often as the real program would.
fn ask_with_retries(session: &Session) -> Result<Vec<Value>, Refusal> {
    let retries = variable("CLAUDE_CODE_MAX_RETRIES").and_then(|count| count.parse().ok());
    let mut delay = Duration::from_millis(500);
    for _ in 0..retries.unwrap_or(10_u32) {
        match ask(session) {
            Ok(calls) => return Ok(calls),
            Err(refusal)
                if matches!(refusal.status, 400..=403) || refusal.limit_until.is_some() =>
            {
                return Err(refusal);
            }
            // The real program waits too, and nothing here could wake it earlier.
            Err(_) => std::thread::sleep(delay),
        }
        delay = (delay * 2).min(Duration::from_secs(8));
    }
    ask(session)
}

/// Sends one request and records every whole block of the answer; returns the tool calls.
fn ask(session: &Session) -> Result<Vec<Value>, Refusal> {
    let base = variable("ANTHROPIC_BASE_URL")
        .ok_or_else(|| io::Error::other("ANTHROPIC_BASE_URL is not set"))?;
    let body = json!({
        "model": "drill", "max_tokens": 1000, "stream": true,
        "tools": [{"name": "Bash"}], "messages": session.messages(),
    });
    let headers = [("Content-Type", "application/json")];
    let url = format!("{base}/v1/messages");
    let mut answer = http::send("POST", &url, &headers, body.to_string().as_bytes())?;
    if answer.status != 200 {
        let until = answer.headers.get("anthropic-ratelimit-unified-reset");
        return Err(Refusal {
            status: answer.status,
            limit_until: until.and_then(|until| until.parse().ok()),
            text: answer.text()?,
        });
    }
    let mut calls = Vec::new();
    let mut id = String::new();
    let mut block = Value::Null;
    let mut text = String::new();
    while let Some(line) = answer.line()? {
        let Some(data) = line.strip_prefix("data: ") else {
            continue;
        };
        let event: Value = serde_json::from_str(data)?;
        match event["type"].as_str().unwrap_or_default() {
            "message_start" => {
                id = event["message"]["id"]
                    .as_str()
                    .unwrap_or_default()
                    .to_owned();
            }
            "content_block_start" => {
                block = event["content_block"].clone();
                text.clear();
            }
            "content_block_delta" => {
                let delta = &event["delta"];
                let piece = delta["text"].as_str().or(delta["partial_json"].as_str());
                text.push_str(piece.unwrap_or_default());
            }
            "content_block_stop" => {
                if block["type"] == "tool_use" {
                    block["input"] = serde_json::from_str(&text)?;
                    calls.push(block.clone());
                } else {
                    show(&format!("● {text}"));
                    block["text"] = Value::from(text.as_str());
                }
                session.assistant(&block, &id);
            }
            "message_stop" => return Ok(calls),
            _ => {}
        }
    }
    Err(io::Error::from(io::ErrorKind::UnexpectedEof).into())
}

/// Runs a command in its own session, like the real program, so that it survives this process.
fn bash(command: &str) -> (String, bool) {
    let output = Command::new("setsid")
        .args(["bash", "-c", command])
        .stdin(Stdio::null())
        .output();
    match output {
        Ok(output) => {
            let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
            text.push_str(&String::from_utf8_lossy(&output.stderr));
            if let Some(code) = output.status.code().filter(|code| *code != 0) {
                text = format!("Exit code {code}\n{text}");
            }
            (text, !output.status.success())
        }
        Err(error) => (error.to_string(), true),
    }
}
