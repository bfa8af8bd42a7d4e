//! Pure: a transcript as lines for a person: who said what, tools by what they are used on, results
//! shortened.

use serde_json::Value;

use super::record::{Block, Record, RecordKind};
use sys::time::Timestamp;

/// Who says a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineSpeaker {
    /// The user, or spotkeep in their place.
    User,
    /// The model.
    Claude,
    /// A call of a tool.
    Tool,
    /// What a tool answered.
    Result {
        /// It failed, or was refused.
        is_error: bool,
    },
    /// Claude Code, of the API.
    Api,
}

impl LineSpeaker {
    /// A word for it.
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

/// Something that was said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TranscriptLine {
    /// When.
    pub at: Option<Timestamp>,
    /// By whom.
    pub who: LineSpeaker,
    /// Whole, and with its lines; a call in one line.
    pub text: String,
}

/// What a record says to a person; nothing where only Claude needs it.
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
            "(what came before was compacted)",
        )],
        _ => Vec::new(),
    };
    // A result may be empty and says that it came; words may not.
    let speaks = |said: &TranscriptLine| {
        !said.text.is_empty() || matches!(said.who, LineSpeaker::Result { .. })
    };
    all.into_iter().filter(speaks).collect()
}

/// Without what moves a terminal's cursor, or colours it: a result may hold anything.
fn clean(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '\x1b' if rest.next_if_eq(&'[').is_some() => {
                // A control sequence ends with its first letter, or the like.
                while rest.next().is_some_and(|c| !('@'..='~').contains(&c)) {}
            }
            '\n' | '\t' => clean.push(c),
            _ if c.is_control() => {}
            _ => clean.push(c),
        }
    }
    clean
}

/// What a tool is used on, by the argument that says it best.
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

/// A call in one line: the tool, and what it is used on.
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
    // A command of several lines is known by its first, and so is a plan.
    let mut lines = subject
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or_default();
    let more = if lines.next().is_some() { " …" } else { "" };
    one_line(&format!("{name} {first}{more}"))
}

/// On one line, and without what moves a cursor: whatever it was made of may hold anything.
pub(crate) fn one_line(text: &str) -> String {
    let text = clean(text);
    let words: Vec<&str> = text.split(['\n', '\t']).map(str::trim).collect();
    words.join(" ").trim().to_owned()
}

/// A list of things to do, by the one that is being done.
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
            panic!("no object")
        };
        render(&Record::from_json(&json))
            .into_iter()
            .map(|said| (said.who.as_str(), said.text))
            .collect()
    }

    #[test]
    fn a_call_is_known_by_what_it_is_used_on() {
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
    fn nothing_that_was_said_moves_the_cursor() {
        assert_eq!(clean("\x1b[1;31mred\x1b[0m\r\n\tx\x07\x1b"), "red\n\tx");
        assert_eq!(clean("\x1b[31"), "");
    }

    #[test]
    fn what_only_claude_needs_is_no_line_and_an_empty_result_is_one() {
        assert!(lines(json!({"type": "system", "subtype": "turn_duration"})).is_empty());
        assert!(
            lines(json!({"type": "assistant", "message": {"content": [{"type": "text", "text": " "}]}}))
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
