//! Transcript summary: the present activity, the model's last text, and the tokens used. Pure.

use std::collections::VecDeque;

use super::record::{Block, Record, RecordKind};
use super::render::{TranscriptLine, call, one_line, render};
use super::tokens::Counters;

/// Number of newest lines that are kept.
const LINES: usize = 400;

/// A line is kept up to this length, in characters: a result may be a whole file.
const LINE_MAX: usize = 4_000;

/// Follows a transcript record by record.
#[derive(Debug, Clone, Default)]
pub struct Story {
    counters: Counters,
    /// Calls without a result yet, with their ids.
    open: Vec<(String, String)>,
    /// The model's last text in this turn.
    words: Option<String>,
    /// The last turn has ended.
    is_over: bool,
    lines: VecDeque<TranscriptLine>,
}

impl Story {
    /// Adds the next record of the file.
    pub fn push(&mut self, record: &Record) {
        self.counters.push(record);
        if record.sidechain {
            return;
        }
        for mut line in render(record) {
            if let Some((end, _)) = line.text.char_indices().nth(LINE_MAX) {
                line.text.truncate(end);
            }
            self.lines.push_back(line);
        }
        let surplus = self.lines.len().saturating_sub(LINES);
        self.lines.drain(..surplus);
        match &record.kind {
            RecordKind::Prompt { .. } => {
                self.is_over = false;
                self.open.clear();
                self.words = None;
            }
            RecordKind::Assistant { blocks, stop, .. } => {
                blocks.iter().for_each(|block| self.block(block));
                self.is_over = stop.as_deref() == Some("end_turn");
            }
            RecordKind::ToolResults(results) => {
                self.is_over = false;
                let is_open = |id: &str| !results.iter().any(|result| result.tool_use_id == id);
                self.open.retain(|(id, _)| is_open(id));
            }
            RecordKind::Interrupted { .. }
            | RecordKind::ApiError { .. }
            | RecordKind::TurnEnd { .. } => {
                self.is_over = true;
                self.open.clear();
            }
            _ => {}
        }
    }

    fn block(&mut self, block: &Block) {
        match block {
            Block::ToolUse { id, name, input } => self.open.push((id.clone(), call(name, input))),
            Block::Text(text) => {
                let first = text.lines().map(str::trim).find(|line| !line.is_empty());
                self.words = first.map(one_line).or(self.words.take());
            }
            Block::Other(_) => {}
        }
    }

    /// Returns the tool call that runs now, with its main argument, or the model's last text where
    /// none runs.
    #[must_use]
    pub fn doing(&self) -> Option<String> {
        match &self.open[..] {
            [] => self.words.clone(),
            [(_, only)] => Some(only.clone()),
            [.., (_, last)] => Some(format!("{last} (and {} more)", self.open.len() - 1)),
        }
    }

    /// Whether the last turn has ended.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.is_over
    }

    /// Returns the tokens used so far.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Returns the newest lines, oldest first.
    pub fn lines(&self) -> impl ExactSizeIterator<Item = &TranscriptLine> + DoubleEndedIterator {
        self.lines.iter()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn push(story: &mut Story, json: Value) {
        let Value::Object(json) = json else {
            panic!("not an object")
        };
        story.push(&Record::from_json(&json));
    }

    fn tool(id: &str, command: &str) -> Value {
        json!({"type": "assistant", "message": {"stop_reason": "tool_use", "content": [
            {"type": "tool_use", "id": id, "name": "Bash", "input": {"command": command}}]}})
    }

    fn text(text: &str, stop: &str) -> Value {
        json!({"type": "assistant", "message": {"stop_reason": stop, "content": [
            {"type": "text", "text": text}]}})
    }

    fn result(id: &str) -> Value {
        json!({"type": "user", "message": {"content": [
            {"type": "tool_result", "tool_use_id": id, "content": "ok"}]}})
    }

    #[test]
    fn the_open_tool_is_shown_and_then_the_last_text() {
        let mut story = Story::default();
        assert_eq!(story.doing(), None);
        push(
            &mut story,
            json!({"type": "user", "message": {"content": "go"}}),
        );
        assert_eq!(story.doing(), None);
        push(&mut story, text("\nI look.\nThen more.", "tool_use"));
        assert_eq!(story.doing().as_deref(), Some("I look."));
        push(&mut story, tool("1", "make"));
        push(&mut story, tool("2", "make test"));
        assert_eq!(
            story.doing().as_deref(),
            Some("Bash make test (and 1 more)")
        );
        push(&mut story, result("2"));
        assert_eq!(story.doing().as_deref(), Some("Bash make"));
        push(&mut story, result("1"));
        assert_eq!(story.doing().as_deref(), Some("I look."));
        assert!(!story.is_over());
        push(&mut story, text("All done.", "end_turn"));
        assert!(story.is_over());
        assert_eq!(story.doing().as_deref(), Some("All done."));
        assert_eq!(story.lines().len(), 7);
    }

    #[test]
    fn only_the_newest_lines_are_kept_and_each_is_bounded() {
        let mut story = Story::default();
        for _ in 0..LINES + 5 {
            push(&mut story, text(&"é".repeat(LINE_MAX + 5), "tool_use"));
        }
        assert_eq!(story.lines().len(), LINES);
        assert!(
            story
                .lines()
                .all(|line| line.text.chars().count() == LINE_MAX)
        );
    }
}
