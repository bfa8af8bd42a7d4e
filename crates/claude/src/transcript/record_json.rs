//! Parser of transcript records from JSON. Unexpected input becomes [`RecordKind::Unknown`].

use serde_json::{Map, Value};

use super::record::{Block, Cost, Dequeue, Record, RecordKind, Speaker, Tokens, ToolResult};
use sys::time::Timestamp;

impl Record {
    /// Parses a record; unexpected input becomes [`RecordKind::Unknown`].
    #[must_use]
    pub fn from_json(json: &Map<String, Value>) -> Self {
        let text = |key: &str| json.get(key).and_then(Value::as_str).map(str::to_owned);
        Self {
            kind: kind(json),
            uuid: text("uuid"),
            parent: text("parentUuid"),
            timestamp: text("timestamp").and_then(|time| Timestamp::parse(&time)),
            sidechain: flag(json, "isSidechain"),
        }
    }
}

fn kind(json: &Map<String, Value>) -> RecordKind {
    let name = str_of(json, "type");
    let known = match name {
        "user" => Some(user(json)),
        "assistant" => Some(assistant(json)),
        "system" => Some(system(json)),
        "queue-operation" => queue(json),
        "attachment" => absorbed(json),
        "custom-title" => Some(RecordKind::Title(str_of(json, "customTitle").to_owned())),
        _ => None,
    };
    known.unwrap_or_else(|| RecordKind::Unknown(name.to_owned()))
}

fn user(json: &Map<String, Value>) -> RecordKind {
    let content = json
        .get("message")
        .and_then(|message| message.get("content"));
    let mut results: Vec<ToolResult> = blocks(content).filter_map(tool_result).collect();
    if let Some(first) = results.first_mut() {
        first.background = background_task(json);
        return RecordKind::ToolResults(results);
    }
    let text = text_of(content);
    if flag(json, "isCompactSummary") {
        return RecordKind::Summary;
    }
    if let Some(rest) = text.strip_prefix("[Request interrupted by user") {
        return RecordKind::Interrupted {
            in_tool: rest.starts_with(" for tool use"),
        };
    }
    // A resumed session records what it lost in the background, and 2.1.330 begins no turn for
    // that.
    if is_local(&text, flag(json, "isMeta")) || flag(json, "queueTranscriptOnly") {
        return RecordKind::Local(text);
    }
    let origin = json
        .get("origin")
        .and_then(|origin| origin.get("kind"))
        .and_then(Value::as_str);
    let by = if flag(json, "isMeta") || origin.is_some_and(|kind| kind != "human") {
        Speaker::Machine
    } else {
        Speaker::Human
    };
    RecordKind::Prompt { text, by }
}

/// A user's own command (`/doit`) also begins with its name, but the text that it expands to
/// follows as a record without these marks.
fn is_local(text: &str, meta: bool) -> bool {
    let marks = ["<local-command-", "<command-", "<bash-"];
    marks.iter().any(|mark| text.starts_with(mark))
        || (meta && text.starts_with("<system-reminder>"))
}

fn assistant(json: &Map<String, Value>) -> RecordKind {
    let message = json.get("message");
    let content = message.and_then(|message| message.get("content"));
    if flag(json, "isApiErrorMessage") {
        return RecordKind::ApiError {
            error: json.get("error").and_then(Value::as_str).map(str::to_owned),
            status: json
                .get("apiErrorStatus")
                .and_then(Value::as_u64)
                .and_then(|status| u16::try_from(status).ok()),
            text: text_of(content),
            resets_at: json
                .get("quotaLimits")
                .and_then(|limits| limits.get("resetsAt")?.as_i64()?.checked_mul(1_000))
                .and_then(Timestamp::from_millis),
        };
    }
    RecordKind::Assistant {
        blocks: blocks(content).map(block).collect(),
        stop: message
            .and_then(|message| message.get("stop_reason"))
            .and_then(Value::as_str)
            .map(str::to_owned),
        cost: message.and_then(cost),
    }
}

fn cost(message: &Value) -> Option<Cost> {
    let usage = message.get("usage")?;
    let count = |key: &str| usage.get(key).and_then(Value::as_u64).unwrap_or(0);
    Some(Cost {
        message: message.get("id").and_then(Value::as_str).map(str::to_owned),
        tokens: Tokens {
            input: count("input_tokens"),
            output: count("output_tokens"),
            cache_written: count("cache_creation_input_tokens"),
            cache_read: count("cache_read_input_tokens"),
        },
    })
}

fn system(json: &Map<String, Value>) -> RecordKind {
    match str_of(json, "subtype") {
        "turn_duration" => RecordKind::TurnEnd {
            background_agents: json
                .get("pendingBackgroundAgentCount")
                .and_then(Value::as_u64)
                .unwrap_or(0),
        },
        subtype => RecordKind::System(subtype.to_owned()),
    }
}

fn queue(json: &Map<String, Value>) -> Option<RecordKind> {
    let words = json
        .get("content")
        .and_then(Value::as_str)
        .map(str::to_owned);
    match str_of(json, "operation") {
        "enqueue" => words.map(RecordKind::Enqueue),
        "dequeue" | "remove" => Some(RecordKind::Dequeue(Dequeue::One(words))),
        "popAll" => Some(RecordKind::Dequeue(Dequeue::All)),
        _ => None,
    }
}

fn absorbed(json: &Map<String, Value>) -> Option<RecordKind> {
    let attachment = json.get("attachment")?;
    (attachment.get("type")?.as_str()? == "queued_command")
        .then(|| RecordKind::Absorbed(text_of(attachment.get("prompt"))))
}

fn block(block: &Value) -> Block {
    let text = |key: &str| block.get(key).and_then(Value::as_str).unwrap_or_default();
    match text("type") {
        "text" => Block::Text(text("text").to_owned()),
        "tool_use" => Block::ToolUse {
            id: text("id").to_owned(),
            name: text("name").to_owned(),
            input: block.get("input").cloned().unwrap_or_default(),
        },
        other => Block::Other(other.to_owned()),
    }
}

fn tool_result(block: &Value) -> Option<ToolResult> {
    (block.get("type")?.as_str()? == "tool_result").then(|| ToolResult {
        tool_use_id: block
            .get("tool_use_id")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned(),
        is_error: block
            .get("is_error")
            .and_then(Value::as_bool)
            .unwrap_or(false),
        text: text_of(block.get("content")),
        background: None,
    })
}

/// A record of tool results has one result; what the tool reported to Claude Code itself stands
/// beside it.
fn background_task(json: &Map<String, Value>) -> Option<String> {
    let told = json.get("toolUseResult")?;
    let id = told.get("backgroundTaskId").or_else(|| {
        let launched = told.get("isAsync")?.as_bool()?;
        told.get("agentId").filter(|_| launched)
    })?;
    id.as_str().map(str::to_owned)
}

fn blocks(content: Option<&Value>) -> impl Iterator<Item = &Value> {
    content.and_then(Value::as_array).into_iter().flatten()
}

/// Returns the text of a content, which is a string or a list of blocks.
fn text_of(content: Option<&Value>) -> String {
    if let Some(text) = content.and_then(Value::as_str) {
        return text.to_owned();
    }
    let texts: Vec<&str> = blocks(content)
        .filter_map(|block| block.get("text")?.as_str())
        .collect();
    texts.join("\n")
}

fn str_of<'a>(json: &'a Map<String, Value>, key: &str) -> &'a str {
    json.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn flag(json: &Map<String, Value>, key: &str) -> bool {
    json.get(key).and_then(Value::as_bool).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Record {
        let Value::Object(json) = serde_json::from_str(text).unwrap() else {
            panic!("not an object")
        };
        Record::from_json(&json)
    }

    #[test]
    fn a_prompt_of_the_user_is_distinguished_from_one_of_the_machine() {
        let human = read(
            r#"{"type":"user","origin":{"kind":"human"},"message":{"content":"do it"},"uuid":"a"}"#,
        );
        assert!(matches!(
            human.kind,
            RecordKind::Prompt {
                by: Speaker::Human,
                ..
            }
        ));
        assert_eq!(human.uuid.as_deref(), Some("a"));
        let task = read(
            r#"{"type":"user","origin":{"kind":"task-notification"},"message":{"content":"<task-notification>"}}"#,
        );
        assert!(matches!(
            task.kind,
            RecordKind::Prompt {
                by: Speaker::Machine,
                ..
            }
        ));
    }

    #[test]
    fn a_local_command_is_not_a_prompt() {
        for text in [
            r#"{"type":"user","isMeta":true,"message":{"content":"<local-command-caveat>x"}}"#,
            r#"{"type":"user","message":{"content":"<bash-input>ls</bash-input>"}}"#,
            r#"{"type":"user","isMeta":true,"message":{"content":"<system-reminder>\nnamed"}}"#,
        ] {
            assert!(matches!(read(text).kind, RecordKind::Local(_)), "{text}");
        }
    }

    #[test]
    fn unexpected_input_is_unknown_and_never_a_panic() {
        for text in [
            "{}",
            r#"{"type":7}"#,
            r#"{"type":"api-request","message":[]}"#,
            r#"{"type":"queue-operation","operation":"later"}"#,
            r#"{"type":"attachment","attachment":"x"}"#,
        ] {
            assert!(matches!(read(text).kind, RecordKind::Unknown(_)), "{text}");
        }
        assert!(matches!(
            read(r#"{"type":"assistant","message":7}"#).kind,
            RecordKind::Assistant { .. }
        ));
    }
}
