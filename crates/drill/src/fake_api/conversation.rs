//! A request to the model, read: whose conversation it is, what was asked last, and how far the
//! answer has come. Pure.

use std::collections::BTreeSet;

use serde_json::Value;

use super::marker::Marker;

/// How the note of a keeper begins.
pub const NOTE: &str = "[spotkeep]";
/// How a prompt of a drill begins: `DRILL agent=NAME plan=PLAN`.
pub const PROMPT: &str = "DRILL ";

/// What an agent is made to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    /// A few tool calls that dirty the workspace, then one that never ends.
    Tool,
    /// A tool call, then a text that never ends.
    Stream,
    /// A whole turn; in the turn after it, the second tool call never ends.
    Second,
    /// A whole turn, then nothing.
    Idle,
    /// Tool calls without end, each writing a file of its own.
    Steady,
    /// A tool call that never ends, and after each note another one.
    Hold,
}

impl Plan {
    /// As a prompt says it.
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

/// What was asked last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// A prompt of the drill; the number counts the agent's turns from 1.
    Prompt(u32),
    /// The keeper's note after a preemption.
    Note(String),
    /// Anything else, such as what a person types.
    Other,
}

/// One conversation, as far as a request shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conversation {
    /// The agent whose conversation this is.
    pub agent: String,
    /// What it was told to do.
    pub plan: Plan,
    /// What was asked last.
    pub asked: Asked,
    /// Tool calls of the model since then.
    pub calls: usize,
    /// Every mark that the model can see, except in a note.
    pub markers: BTreeSet<Marker>,
}

/// Reads the body of a request; `None` if it belongs to no agent of a drill, or is one of the
/// requests that the program makes for itself (titles, quota probes), which bring no tools.
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

/// Text that the program adds to what a person said.
fn is_machinery(text: &str) -> bool {
    text.is_empty() || text.starts_with('<')
}

/// Reads `DRILL agent=NAME plan=PLAN [turn=N]`.
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

/// All strings in a value, one a line.
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
    fn the_newest_prompt_is_found_behind_what_the_program_adds() {
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
    fn a_note_begins_anew_and_its_own_marks_do_not_count() {
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
    fn what_a_program_asks_for_itself_is_nobodys_conversation() {
        let title = json!({"messages": [{"role": "user", "content": "DRILL agent=a plan=tool"}]});
        assert_eq!(read(&title), None);
        assert_eq!(
            read(&request(json!([{"role": "user", "content": "hello"}]))),
            None
        );
    }
}
