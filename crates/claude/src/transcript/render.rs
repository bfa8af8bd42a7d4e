//! Transcript rendering: lines for people, with shortened tool calls and results. Pure.

use serde_json::Value;

use super::record::{Block, Record, RecordKind};
use sys::time::Timestamp;

/// Speaker of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineSpeaker {
    /// The user, or spotkeep on the user's behalf.
    User,
    /// The model.
    Claude,
    /// A call of a tool.
    Tool,
    /// Result of a tool.
    Result {
        /// The tool failed, or was refused.
        is_error: bool,
    },
    /// Claude Code's message about the API.
    Api,
}

impl LineSpeaker {
    /// Returns its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Claude => "claude",
            Self::Tool => "tool",
            Self::Result { .. } => "result",
            Self::Api => "api",
        }
    }
}

/// One line of a rendered transcript.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TranscriptLine {
    /// Time of the record.
    pub at: Option<Timestamp>,
    /// Its speaker.
    pub who: LineSpeaker,
    /// The whole text with its line breaks; a call in one line.
    pub text: String,
}

/// Returns the lines of a record; none where only Claude Code needs it.
#[must_use]
pub fn render(record: &Record) -> Vec<TranscriptLine> {
    let line = |who: LineSpeaker, text: &str| TranscriptLine {
        at: record.timestamp,
        who,
        text: clean(text).trim().to_owned(),
    };
    let all = match &record.kind {
        RecordKind::Prompt { text, .. } | RecordKind::Absorbed(text) => {
            vec![line(LineSpeaker::User, text)]
        }
        RecordKind::Assistant { blocks, .. } => blocks
            .iter()
            .filter_map(|block| match block {
                Block::Text(text) => Some(line(LineSpeaker::Claude, text)),
                Block::ToolUse { name, input, .. } => {
                    Some(line(LineSpeaker::Tool, &call(name, input)))
                }
                Block::Other(_) => None,
            })
            .collect(),
        RecordKind::ToolResults(results) => results
            .iter()
            .map(|result| {
                let is_error = result.is_error;
                line(LineSpeaker::Result { is_error }, &result.text)
            })
            .collect(),
        RecordKind::ApiError { text, .. } => vec![line(LineSpeaker::Api, text)],
        RecordKind::Interrupted { .. } => vec![line(LineSpeaker::User, "pressed Escape")],
        RecordKind::Summary => vec![line(
            LineSpeaker::Claude,
            "(the conversation before this was compacted)",
        )],
        _ => Vec::new(),
    };
    // An empty result shows that it came; an empty text shows nothing.
    let speaks = |said: &TranscriptLine| {
        !said.text.is_empty() || matches!(said.who, LineSpeaker::Result { .. })
    };
    all.into_iter().filter(speaks).collect()
}

/// Removes characters that move a terminal's cursor, or change its colours: a result may hold any.
fn clean(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '\x1b' if rest.next_if_eq(&'[').is_some() => {
                // A control sequence ends with its first letter, or a similar character.
                while rest.next().is_some_and(|c| !('@'..='~').contains(&c)) {}
            }
            '\n' | '\t' => clean.push(c),
            _ if c.is_control() => {}
            _ => clean.push(c),
        }
    }
    clean
}

/// The arguments that describe a tool call, best one first.
const SUBJECTS: [&str; 11] = [
    "command",
    "file_path",
    "notebook_path",
    "pattern",
    "url",
    "query",
    "description",
    "skill",
    "path",
    "plan",
    "prompt",
];

/// Returns a call in one line: the tool and its main argument.
#[must_use]
pub fn call(name: &str, input: &Value) -> String {
    if let Some(todos) = input.get("todos").and_then(Value::as_array) {
        return one_line(&format!("{name} {}", todo(todos)));
    }
    let subject = SUBJECTS
        .iter()
        .find_map(|key| input.get(key)?.as_str())
        .map(str::to_owned);
    let subject = subject.unwrap_or_else(|| match input.as_object() {
        Some(fields) if fields.is_empty() => String::new(),
        _ => input.to_string(),
    });
    // A command of several lines is shown by its first, and so is a plan.
    let mut lines = subject
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or_default();
    let more = if lines.next().is_some() { " …" } else { "" };
    one_line(&format!("{name} {first}{more}"))
}

/// Joins a text into one line, without characters that move a cursor: its source may hold any.
pub(crate) fn one_line(text: &str) -> String {
    let text = clean(text);
    let words: Vec<&str> = text.split(['\n', '\t']).map(str::trim).collect();
    words.join(" ").trim().to_owned()
}

/// Returns a to-do list in one line: the item in progress, and how many are done.
fn todo(todos: &[Value]) -> String {
    let text = |todo: &Value, key: &str| todo.get(key).and_then(Value::as_str).map(str::to_owned);
    let is = |todo: &&Value, state: &str| text(todo, "status").as_deref() == Some(state);
    let done = todos.iter().filter(|todo| is(todo, "completed")).count();
    let current = todos.iter().find(|todo| is(todo, "in_progress"));
    let what = current.and_then(|todo| text(todo, "activeForm").or_else(|| text(todo, "content")));
    let what = what.map(|what| format!(": {what}")).unwrap_or_default();
    format!("{done} of {} done{what}", todos.len())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn lines(json: Value) -> Vec<(&'static str, String)> {
        let Value::Object(json) = json else {
            panic!("not an object")
        };
        render(&Record::from_json(&json))
            .into_iter()
            .map(|said| (said.who.as_str(), said.text))
            .collect()
    }

    #[test]
    fn a_call_is_shown_with_its_main_argument() {
        for (name, input, expected) in [
            (
                "Bash",
                json!({"command": "cargo test\n", "description": "run"}),
                "Bash cargo test",
            ),
            ("Bash", json!({"command": "\ncd x\nmake"}), "Bash cd x …"),
            (
                "Edit",
                json!({"file_path": "/w/a.rs", "old_string": "x"}),
                "Edit /w/a.rs",
            ),
            (
                "Grep",
                json!({"pattern": "fn main", "path": "src"}),
                "Grep fn main",
            ),
            (
                "Task",
                json!({"description": "Look", "prompt": "long"}),
                "Task Look",
            ),
            ("mcp__x", json!({"n": 1}), "mcp__x {\"n\":1}"),
            ("ExitPlanMode", json!({}), "ExitPlanMode"),
            ("x\u{1b}[2J\ny", json!({"command": "a\tb\u{7}"}), "x y a b"),
            (
                "TodoWrite",
                json!({"todos": [{"status": "completed", "content": "a"},
                    {"status": "in_progress", "content": "b", "activeForm": "Doing b"}]}),
                "TodoWrite 1 of 2 done: Doing b",
            ),
        ] {
            assert_eq!(call(name, &input), expected);
        }
    }

    #[test]
    fn no_text_of_a_transcript_moves_the_cursor() {
        assert_eq!(clean("\x1b[1;31mred\x1b[0m\r\n\tx\x07\x1b"), "red\n\tx");
        assert_eq!(clean("\x1b[31"), "");
    }

    #[test]
    fn records_that_only_claude_needs_give_no_line_and_an_empty_result_gives_one() {
        assert!(lines(json!({"type": "system", "subtype": "turn_duration"})).is_empty());
        assert!(
            lines(
                json!({"type": "assistant", "message": {"content": [{"type": "text",
            "text": " "}]}})
            )
            .is_empty()
        );
        let result = json!({"type": "user", "message": {"content": [
            {"type": "tool_result", "tool_use_id": "t", "content": ""}]}});
        assert_eq!(lines(result), [("result", String::new())]);
        let text = json!({"type": "assistant", "message": {"content": [
            {"type": "text", "text": "one\ntwo\n"},
            {"type": "tool_use", "id": "t", "name": "Read", "input": {"file_path": "a"}}]}});
        assert_eq!(
            lines(text),
            [
                ("claude", "one\ntwo".to_owned()),
                ("tool", "Read a".to_owned())
            ]
        );
    }
}
