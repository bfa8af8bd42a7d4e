//! Parses a Messages API request: the agent, the last prompt, and the tool calls since then. Pure.

use std::collections::BTreeSet;

use serde_json::Value;

use super::marker::Marker;

/// The prefix of a keeper's note.
pub const NOTE: &str = "[spotkeep]";
/// The prefix of a drill's prompt: `DRILL agent=NAME plan=PLAN`.
pub const PROMPT: &str = "DRILL ";

/// The plan of an agent: what the fake API makes it do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    /// A few tool calls that change the workspace, then one that never ends.
    Tool,
    /// A tool call, then a text that never ends.
    Stream,
    /// A whole turn; in the turn after it, the second tool call never ends.
    Second,
    /// A whole turn, then nothing.
    Idle,
    /// Tool calls without end, each of which writes a new file.
    Steady,
    /// A tool call that never ends, and after each note another one.
    Hold,
}

impl Plan {
    /// Returns the name in a prompt.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tool => "tool",
            Self::Stream => "stream",
            Self::Second => "second",
            Self::Idle => "idle",
            Self::Steady => "steady",
            Self::Hold => "hold",
        }
    }

    fn from_name(word: &str) -> Option<Self> {
        [
            Self::Tool,
            Self::Stream,
            Self::Second,
            Self::Idle,
            Self::Steady,
            Self::Hold,
        ]
        .into_iter()
        .find(|plan| plan.as_str() == word)
    }
}

/// The last user message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// A prompt of the drill; the number counts the agent's turns from 1.
    Prompt(u32),
    /// The keeper's note after a preemption.
    Note(String),
    /// Any other message, like one that a user types.
    Other,
}

/// The state of a conversation, as far as a request shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conversation {
    /// The name of the agent.
    pub agent: String,
    /// The plan in the agent's last prompt.
    pub plan: Plan,
    /// The last user message.
    pub asked: Asked,
    /// The number of tool calls since the last user message.
    pub calls: usize,
    /// Every mark in the request, except in a note.
    pub markers: BTreeSet<Marker>,
}

/// Parses the body of a request; `None` if it belongs to no agent of a drill, or is one of Claude
/// Code's own requests (titles, quota probes), which have no tools.
#[must_use]
pub fn read(body: &Value) -> Option<Conversation> {
    let tools = body.get("tools")?.as_array()?;
    let has_bash = tools.iter().any(|tool| field(tool, "name") == "Bash");
    if !has_bash {
        return None;
    }
    let mut found: Option<(String, Plan)> = None;
    let mut asked = Asked::Other;
    let mut calls = 0;
    let mut markers = BTreeSet::new();
    for message in body.get("messages")?.as_array()? {
        for block in blocks(message) {
            match (field(message, "role"), block) {
                ("user", Block::Text(text)) => {
                    let text = text.trim_start();
                    if is_machinery(text) {
                        continue;
                    }
                    calls = 0;
                    if text.starts_with(NOTE) {
                        asked = Asked::Note(text.to_owned());
                        continue;
                    }
                    asked = Asked::Other;
                    if let Some((agent, plan, turn)) = prompt(text) {
                        asked = Asked::Prompt(turn);
                        found = Some((agent, plan));
                    }
                    markers.extend(Marker::all_in(text));
                }
                ("assistant", Block::Call(input)) => {
                    calls += 1;
                    markers.extend(Marker::all_in(&input));
                }
                ("user" | "assistant", Block::Text(text) | Block::Output(text)) => {
                    markers.extend(Marker::all_in(&text));
                }
                _ => {}
            }
        }
    }
    let (agent, plan) = found?;
    Some(Conversation {
        agent,
        plan,
        asked,
        calls,
        markers,
    })
}

/// Whether a text is one that Claude Code adds to a message.
fn is_machinery(text: &str) -> bool {
    text.is_empty() || text.starts_with('<')
}

/// Parses `DRILL agent=NAME plan=PLAN [turn=N]`.
fn prompt(text: &str) -> Option<(String, Plan, u32)> {
    let mut agent = None;
    let mut plan = None;
    let mut turn = 1;
    for word in text.strip_prefix(PROMPT)?.split_whitespace() {
        match word.split_once('=') {
            Some(("agent", name)) => agent = Some(name.to_owned()),
            Some(("plan", word)) => plan = Plan::from_name(word),
            Some(("turn", number)) => turn = number.parse().ok()?,
            _ => {}
        }
    }
    Some((agent?, plan?, turn))
}

enum Block {
    Text(String),
    Call(String),
    Output(String),
    Other,
}

fn blocks(message: &Value) -> Vec<Block> {
    match message.get("content") {
        Some(Value::String(text)) => vec![Block::Text(text.clone())],
        Some(Value::Array(blocks)) => blocks.iter().map(block).collect(),
        _ => Vec::new(),
    }
}

fn block(block: &Value) -> Block {
    match field(block, "type") {
        "text" => Block::Text(field(block, "text").to_owned()),
        "tool_use" => Block::Call(texts(block.get("input"))),
        "tool_result" => Block::Output(texts(block.get("content"))),
        _ => Block::Other,
    }
}

/// Returns all strings in a value, one in each line.
fn texts(value: Option<&Value>) -> String {
    match value {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(items)) => join(items.iter()),
        Some(Value::Object(fields)) => join(fields.values()),
        _ => String::new(),
    }
}

fn join<'a>(values: impl Iterator<Item = &'a Value>) -> String {
    values
        .map(|value| texts(Some(value)))
        .collect::<Vec<_>>()
        .join("\n")
}

fn field<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn request(messages: Value) -> Value {
        json!({"tools": [{"name": "Bash"}], "messages": messages})
    }

    #[test]
    fn the_newest_prompt_is_found_among_texts_that_claude_adds() {
        let conversation = read(&request(json!([
            {"role": "user", "content": [
                {"type": "text", "text": "<system-reminder>x</system-reminder>"},
                {"type": "text", "text": "DRILL agent=a plan=tool [[a:p:0]]"}]},
            {"role": "assistant", "content": [
                {"type": "text", "text": "[[a:t:1]]"},
                {"type": "tool_use", "input": {"command": "x", "description": "[[a:c:2]]"}}]},
            {"role": "user", "content": [
                {"type": "tool_result", "content": [{"type": "text", "text": "[[a:o:3]]"}]},
                {"type": "text", "text": "<system-reminder>y</system-reminder>"}]},
        ])))
        .unwrap();
        assert_eq!(conversation.agent, "a");
        assert_eq!(conversation.plan, Plan::Tool);
        assert_eq!(conversation.asked, Asked::Prompt(1));
        assert_eq!(conversation.calls, 1);
        assert_eq!(conversation.markers.len(), 4);
    }

    #[test]
    fn a_note_restarts_the_count_of_calls_and_its_marks_do_not_count() {
        let conversation = read(&request(json!([
            {"role": "user", "content": "DRILL agent=a plan=second turn=2"},
            {"role": "assistant", "content": [{"type": "text", "text": "No response requested."}]},
            {"role": "user", "content": "[spotkeep] cut in [[a:c:9]]"},
        ])))
        .unwrap();
        assert!(matches!(conversation.asked, Asked::Note(_)));
        assert_eq!(conversation.plan, Plan::Second);
        assert!(conversation.markers.is_empty());
    }

    #[test]
    fn claudes_own_requests_are_not_conversations() {
        let title = json!({"messages": [{"role": "user", "content": "DRILL agent=a plan=tool"}]});
        assert_eq!(read(&title), None);
        assert_eq!(
            read(&request(json!([{"role": "user", "content": "hello"}]))),
            None
        );
    }
}
