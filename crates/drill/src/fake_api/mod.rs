//! A fake Anthropic Messages API on loopback, for drills and tests.
//!
//! It answers by the plan in each prompt, and logs all requests in a [`RequestLog`].

pub mod conversation;
pub mod log;
pub mod marker;
pub mod script;

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::http::{Handler, Pieces, Reply, Request, Server};
use log::RequestLog;
use marker::Marker;
use script::Answer;
use sys::error::Result;

/// The pause between two pieces of a text that never ends.
const TRICKLE: Duration = Duration::from_millis(200);
/// The pause before each answer to a steady agent, so that it writes a few steps a second.
const PACE: Duration = Duration::from_millis(150);

/// A fault of the next conversation request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// The HTTP status (401, 429, 529 ...); 0 closes the connection without an answer.
    pub status: u16,
    /// Seconds for the `retry-after` header.
    pub retry_after: Option<u32>,
    /// The end of a subscription's usage limit, in seconds since 1970.
    pub limit_until: Option<i64>,
    /// The fault comes after the answer has begun.
    pub midway: bool,
    /// The answer stalls: nothing more is sent, and the connection stays open.
    pub stalls: bool,
}

impl Fault {
    /// An error status in place of an answer.
    #[must_use]
    pub fn status(status: u16) -> Self {
        Self {
            status,
            retry_after: None,
            limit_until: None,
            midway: false,
            stalls: false,
        }
    }

    /// An error after the answer has begun.
    #[must_use]
    pub fn midway(status: u16) -> Self {
        Self {
            midway: true,
            ..Self::status(status)
        }
    }

    /// A request that gets no answer.
    #[must_use]
    pub fn silent() -> Self {
        Self {
            stalls: true,
            ..Self::status(0)
        }
    }

    /// An answer that begins and then stalls.
    #[must_use]
    pub fn stalled() -> Self {
        Self {
            stalls: true,
            ..Self::midway(0)
        }
    }
}

/// The fake API; it ends when dropped.
#[derive(Debug)]
pub struct Model {
    server: Server,
    fake: Arc<Fake>,
}

impl Model {
    /// Starts the server with an empty log.
    ///
    /// # Errors
    /// The server cannot listen on a port.
    pub fn start() -> Result<Self> {
        Self::start_at(0)
    }

    /// Like [`Model::start`], on a given port, for a virtual machine whose requests lead to it.
    ///
    /// # Errors
    /// The server cannot listen on the port.
    pub fn start_at(port: u16) -> Result<Self> {
        let fake = Arc::new(Fake::default());
        let server = Server::start("model", port, Arc::clone(&fake) as Arc<dyn Handler>)?;
        Ok(Self { server, fake })
    }

    /// Returns the URL, as `ANTHROPIC_BASE_URL` takes it.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.server.address())
    }

    /// Returns a copy of the log.
    #[must_use]
    pub fn request_log(&self) -> RequestLog {
        self.fake.state().request_log.clone()
    }

    /// Waits until `enough` is true for the log; `false` if `limit` has passed.
    #[must_use]
    pub fn wait(&self, limit: Duration, enough: impl Fn(&RequestLog) -> bool) -> bool {
        let (state, _) = self
            .fake
            .changed
            .wait_timeout_while(self.fake.state(), limit, |state| {
                !enough(&state.request_log)
            })
            .unwrap_or_else(PoisonError::into_inner);
        enough(&state.request_log)
    }

    /// Begins the next boot: each agent's next request is its first.
    pub fn next_boot(&self) {
        self.fake.state().request_log.next_boot();
    }

    /// Adds a fault to the next `times` conversation requests, after the faults that are already
    /// queued.
    pub fn fault(&self, fault: Fault, times: usize) {
        let mut state = self.fake.state();
        state.faults.extend(std::iter::repeat_n(Some(fault), times));
    }

    /// Answers the next `times` conversation requests before later faults.
    pub fn let_pass(&self, times: usize) {
        let mut state = self.fake.state();
        state.faults.extend(std::iter::repeat_n(None, times));
    }

    /// Removes all faults.
    pub fn clear_faults(&self) {
        self.fake.state().faults.clear();
    }

    /// Sets whether every connection is reset.
    pub fn refuse(&self, refuse: bool) {
        self.fake.refusing.store(refuse, Ordering::SeqCst);
    }
}

/// The form of answer that a request asks for.
struct Asked {
    model: String,
    streaming: bool,
}

#[derive(Debug, Default)]
struct Fake {
    state: Mutex<State>,
    changed: Condvar,
    refusing: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    request_log: RequestLog,
    /// The queued faults; `None` lets one request pass.
    faults: VecDeque<Option<Fault>>,
    stopped: bool,
}

impl Fake {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state and wakes the threads that wait for it.
    fn note<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.state());
        self.changed.notify_all();
        result
    }

    /// Waits, unless the server ends; returns whether it still runs.
    fn pause(&self, duration: Duration) -> bool {
        let until = Instant::now() + duration;
        let mut state = self.state();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if state.stopped || left.is_zero() {
                return !state.stopped;
            }
            state = self
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    fn messages(&self, request: &Request, reply: Reply<'_>) -> io::Result<()> {
        let Ok(body) = serde_json::from_slice::<Value>(&request.body) else {
            return reply.send(400, &JSON, &failure("invalid_request_error"));
        };
        let asked = Asked {
            model: body["model"].as_str().unwrap_or("drill").to_owned(),
            streaming: body["stream"] == true,
        };
        let Some(conversation) = conversation::read(&body) else {
            self.note(|state| state.request_log.side_requests += 1);
            let end = Answer::End {
                say: "Drill".into(),
                text: None,
            };
            return self.send_answer(reply, &asked, "", &end);
        };
        let arrived = Instant::now();
        if let Some(Some(fault)) = self.note(|state| state.faults.pop_front()) {
            // An answer without streaming cannot fail midway.
            if fault.midway && asked.streaming {
                return self.fail_midway(reply, &asked, fault);
            }
            if fault.stalls {
                self.wait_for_the_end();
            }
            return fail(reply, fault);
        }
        let agent = conversation.agent.clone();
        let answer = self.note(|state| state.request_log.request(&conversation, arrived));
        if conversation.plan == conversation::Plan::Steady && !self.pause(PACE) {
            return Ok(());
        }
        self.send_answer(reply, &asked, &agent, &answer)
    }

    fn send_answer(
        &self,
        reply: Reply<'_>,
        asked: &Asked,
        agent: &str,
        answer: &Answer,
    ) -> io::Result<()> {
        if asked.streaming {
            let stream = reply.stream(200, &[("Content-Type", "text/event-stream")])?;
            return self.stream(stream, &asked.model, agent, answer);
        }
        let content = script::content(answer);
        let (blocks, markers): (Vec<_>, Vec<_>) = content.into_iter().unzip();
        let mut message = message(&asked.model, stop_reason(answer));
        message["content"] = Value::Array(blocks);
        reply.send(200, &JSON, message.to_string().as_bytes())?;
        let at = Instant::now();
        self.note(|state| {
            for marker in markers.iter().flatten() {
                state.request_log.record(marker, at);
            }
            if !agent.is_empty() {
                state.request_log.answered(agent, answer, at);
            }
        });
        Ok(())
    }

    fn stream(
        &self,
        mut to: Pieces<'_>,
        model: &str,
        agent: &str,
        answer: &Answer,
    ) -> io::Result<()> {
        let start = json!({"message": message(model, None)});
        to.write(&event("message_start", start))?;
        if let Answer::Endless { text } = answer {
            return self.endless(&mut to, agent, answer, text);
        }
        let content = script::content(answer);
        for (index, (block, marker)) in content.iter().enumerate() {
            to.write(&block_events(index, block))?;
            if let Some(marker) = marker {
                let at = Instant::now();
                self.note(|state| state.request_log.record(marker, at));
            }
        }
        let delta = json!({"stop_reason": stop_reason(answer), "stop_sequence": null});
        let end = json!({"delta": delta, "usage": {"output_tokens": 20}});
        to.write(&(event("message_delta", end) + &event("message_stop", json!({}))))?;
        to.finish()?;
        if !agent.is_empty() {
            let at = Instant::now();
            self.note(|state| state.request_log.answered(agent, answer, at));
        }
        Ok(())
    }

    fn wait_for_the_end(&self) {
        while self.pause(Duration::from_secs(1)) {}
    }

    /// Sends half an answer, and then the fault. It is not recorded.
    fn fail_midway(&self, reply: Reply<'_>, asked: &Asked, fault: Fault) -> io::Result<()> {
        let mut to = reply.stream(200, &[("Content-Type", "text/event-stream")])?;
        let start = json!({"message": message(&asked.model, None)});
        let block = json!({"index": 0, "content_block": {"type": "text", "text": ""}});
        to.write(&(event("message_start", start) + &event("content_block_start", block)))?;
        to.write(&text_delta(0, "half an answer"))?;
        if fault.stalls {
            self.wait_for_the_end();
        }
        if fault.status == 0 {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        let (kind, message) = (kind_of(fault.status), message_of(fault.status));
        let error = json!({"error": {"type": kind, "message": message}});
        to.write(&event("error", error))?;
        to.finish()
    }

    fn endless(
        &self,
        to: &mut Pieces<'_>,
        agent: &str,
        answer: &Answer,
        text: &Marker,
    ) -> io::Result<()> {
        let start = json!({"index": 0, "content_block": {"type": "text", "text": ""}});
        to.write(&event("content_block_start", start))?;
        to.write(&text_delta(0, &format!("{text} and so on")))?;
        let at = Instant::now();
        self.note(|state| state.request_log.answered(agent, answer, at));
        while self.pause(TRICKLE) {
            to.write(&text_delta(0, " and on"))?;
        }
        Ok(())
    }
}

impl Handler for Fake {
    fn admit(&self) -> bool {
        !self.refusing.load(Ordering::SeqCst)
    }

    fn answer(&self, request: &Request, reply: Reply<'_>) -> io::Result<()> {
        match (request.method.as_str(), request.path.as_str()) {
            ("POST", "/v1/messages") => self.messages(request, reply),
            ("POST", "/v1/messages/count_tokens") => {
                reply.send(200, &JSON, br#"{"input_tokens": 100}"#)
            }
            ("HEAD" | "GET", "/") => reply.send(200, &JSON, b"{}"),
            _ => reply.send(404, &JSON, &failure("not_found_error")),
        }
    }

    fn stop(&self) {
        self.note(|state| state.stopped = true);
    }
}

const JSON: [(&str, &str); 1] = [("Content-Type", "application/json")];

fn failure(kind: &str) -> Vec<u8> {
    let error = json!({"type": "error", "error": {"type": kind, "message": "a drill"}});
    error.to_string().into_bytes()
}

fn kind_of(status: u16) -> &'static str {
    match status {
        401 => "authentication_error",
        429 => "rate_limit_error",
        529 => "overloaded_error",
        _ => "api_error",
    }
}

/// The API's own message, which is all that Claude shows of an error after an answer has begun.
fn message_of(status: u16) -> &'static str {
    match status {
        401 => "invalid x-api-key",
        429 => "This request would exceed your account's rate limit. Please try again later.",
        529 => "Overloaded",
        _ => "Internal server error",
    }
}

fn fail(reply: Reply<'_>, fault: Fault) -> io::Result<()> {
    let kind = kind_of(fault.status);
    if fault.status == 0 {
        return Err(io::ErrorKind::ConnectionAborted.into());
    }
    let after = fault.retry_after.unwrap_or_default().to_string();
    let until = fault.limit_until.unwrap_or_default().to_string();
    let mut headers = JSON.to_vec();
    if fault.retry_after.is_some() {
        headers.push(("Retry-After", &after));
    }
    if fault.limit_until.is_some() {
        headers.extend([
            ("anthropic-ratelimit-unified-status", "rejected"),
            (
                "anthropic-ratelimit-unified-representative-claim",
                "five_hour",
            ),
            ("anthropic-ratelimit-unified-reset", &until),
        ]);
    }
    reply.send(fault.status, &headers, &failure(kind))
}

fn stop_reason(answer: &Answer) -> Option<&'static str> {
    Some(match answer {
        Answer::Call { .. } => "tool_use",
        Answer::Endless { .. } | Answer::End { .. } => "end_turn",
    })
}

/// The message around an answer's blocks, with a unique id: Claude treats blocks with one id as one
/// message.
fn message(model: &str, stop_reason: Option<&str>) -> Value {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let id = NEXT.fetch_add(1, Ordering::Relaxed);
    json!({
        "id": format!("msg_drill_{id:06}"), "type": "message", "role": "assistant", "model": model,
        "content": [], "stop_reason": stop_reason, "stop_sequence": null,
        "usage": {"input_tokens": 100, "output_tokens": 1},
    })
}

fn event(name: &str, mut data: Value) -> String {
    data["type"] = Value::from(name);
    format!("event: {name}\ndata: {data}\n\n")
}

fn text_delta(index: usize, text: &str) -> String {
    let delta = json!({"index": index, "delta": {"type": "text_delta", "text": text}});
    event("content_block_delta", delta)
}

/// The events of one whole block: its start, one delta, its stop.
fn block_events(index: usize, block: &Value) -> String {
    let (empty, piece) = if block["type"] == "tool_use" {
        let mut empty = block.clone();
        empty["input"] = json!({});
        let input = block["input"].to_string();
        let delta = json!({"type": "input_json_delta", "partial_json": input});
        (
            empty,
            event(
                "content_block_delta",
                json!({"index": index, "delta": delta}),
            ),
        )
    } else {
        let text = block["text"].as_str().unwrap_or_default();
        (json!({"type": "text", "text": ""}), text_delta(index, text))
    };
    let start = json!({"index": index, "content_block": empty});
    event("content_block_start", start)
        + &piece
        + &event("content_block_stop", json!({"index": index}))
}

#[cfg(test)]
mod tests {
    use super::super::http::send;
    use super::*;
    use testing::wait::{FOREVER, during};

    fn ask(model: &Model, stream: bool, text: &str) -> super::super::http::Response {
        let body = json!({
            "stream": stream, "tools": [{"name": "Bash"}],
            "messages": [{"role": "user", "content": text}],
        });
        let url = format!("{}/v1/messages?beta=true", model.url());
        send("POST", &url, &[], body.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn a_prompt_and_its_answer_are_each_recorded_once() {
        let model = Model::start().unwrap();
        for _ in 0..2 {
            let prompt = "DRILL agent=a plan=idle [[a:p:0]]";
            let answer = ask(&model, true, prompt).text().unwrap();
            assert!(answer.contains("message_stop"), "{answer}");
        }
        during("all records are logged", || {
            model.wait(FOREVER, |request_log| {
                request_log.agents["a"].records.len() == 5
            })
        });
        let markers: Vec<_> = model.request_log().agents["a"]
            .records
            .iter()
            .map(|record| record.marker.to_string())
            .collect();
        let expected = [
            "[[a:p:0]]",
            "[[a:t:1]]",
            "[[a:c:2]]",
            "[[a:t:4]]",
            "[[a:c:5]]",
        ];
        assert_eq!(markers, expected);
    }

    #[test]
    fn an_endless_text_is_open_and_never_a_record() {
        let model = Model::start().unwrap();
        let body = json!({"stream": true, "tools": [{"name": "Bash"}], "messages": [
            {"role": "user", "content": "DRILL agent=a plan=stream"},
            {"role": "assistant", "content": [{"type": "tool_use", "input": {}}]}]});
        let url = format!("{}/v1/messages", model.url());
        let mut answer = send("POST", &url, &[], body.to_string().as_bytes()).unwrap();
        while !answer.line().unwrap().unwrap().contains("and so on") {}
        during("the text is open", || {
            model.wait(FOREVER, |request_log| {
                request_log.agents["a"].open.is_some()
            })
        });
        assert!(model.request_log().agents["a"].records.is_empty());
    }

    #[test]
    fn an_answer_that_fails_midway_has_a_beginning_and_no_end() {
        let model = Model::start().unwrap();
        model.fault(Fault::midway(529), 1);
        let answer = ask(&model, true, "DRILL agent=a plan=idle").text().unwrap();
        assert!(answer.contains("half an answer"), "{answer}");
        assert!(answer.contains("overloaded_error"), "{answer}");
        assert!(!answer.contains("message_stop"), "{answer}");
    }

    #[test]
    fn faults_apply_to_conversations_and_not_to_side_requests() {
        let model = Model::start().unwrap();
        let fault = Fault {
            retry_after: Some(7),
            ..Fault::status(429)
        };
        model.fault(fault, 1);
        assert_eq!(ask(&model, false, "a title, please").status, 200);
        let refused = ask(&model, false, "DRILL agent=a plan=idle");
        assert_eq!(
            (refused.status, refused.headers["retry-after"].as_str()),
            (429, "7")
        );
        assert_eq!(ask(&model, false, "DRILL agent=a plan=idle").status, 200);
        assert_eq!(model.request_log().side_requests, 1);
    }
}
