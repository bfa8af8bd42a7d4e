//! Chooses the next answer of the fake API. Pure.
//!
//! The answer depends on the conversation alone, so a request can be repeated after any cut.

use serde_json::{Value, json};

use super::conversation::{Asked, Conversation, Plan};
use super::marker::{Marker, MarkerKind};

/// The file that an agent writes when its turn goes on after a cut.
pub const CONTINUED_FILE: &str = "continued.txt";
/// The file that an agent writes when its open tool call runs.
pub const OPEN_FILE: &str = "open.txt";

/// An answer of the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// A text, then a tool call.
    Call {
        /// The text before the call.
        say: String,
        /// The mark of the text.
        text: Marker,
        /// The command of the Bash tool.
        command: String,
        /// The mark of the call.
        call: Marker,
        /// Whether the call never ends, so that the agent is cut in it.
        open: bool,
    },
    /// A text that never ends, so that the agent is cut in it.
    Endless {
        /// The mark at its beginning.
        text: Marker,
    },
    /// A text that ends the turn.
    End {
        /// The text.
        say: String,
        /// The mark of the text; without one it is not counted.
        text: Option<Marker>,
    },
}

/// Returns the next answer. `serial` is the agent's next free number; an answer takes three at
/// most.
#[must_use]
pub fn next(conversation: &Conversation, serial: u64) -> Answer {
    match &conversation.asked {
        Asked::Note(_) => after_the_note(conversation, serial),
        Asked::Prompt(turn) => in_a_turn(conversation, *turn, serial),
        Asked::Other => Answer::End {
            say: "Noted.".into(),
            text: None,
        },
    }
}

/// Whether a request shows that a cut turn has gone on: the step after the note was done.
#[must_use]
pub fn has_continued(conversation: &Conversation) -> bool {
    matches!(conversation.asked, Asked::Note(_)) && conversation.calls == 1
}

fn after_the_note(conversation: &Conversation, serial: u64) -> Answer {
    let at = Numbers::new(conversation, serial);
    match (conversation.calls, conversation.plan) {
        (_, Plan::Hold) => at.open(),
        (0, _) => at.call("I go on.", &format!("echo continued >> {CONTINUED_FILE}")),
        (_, Plan::Steady) => at.steady(),
        _ => at.end("The turn that was cut is done."),
    }
}

fn in_a_turn(conversation: &Conversation, turn: u32, serial: u64) -> Answer {
    let at = Numbers::new(conversation, serial);
    let (plan, calls) = (conversation.plan, conversation.calls);
    let first = "echo staged > staged-by-agent.txt && git add staged-by-agent.txt";
    let second = "echo changed >> tracked.txt && echo new > untracked-by-agent.txt";
    match (plan, turn, calls) {
        (Plan::Steady, _, _) => at.steady(),
        (Plan::Hold, _, _) => at.open(),
        (_, 1, 0) => at.call("First I stage a file.", first),
        (Plan::Tool | Plan::Idle, 1, 1) => at.call("Now a change and a new file.", second),
        (Plan::Tool, _, 2) => at.open(),
        (Plan::Second, 2, 0) => at.call("Now a change and a new file.", second),
        (Plan::Second, 2, 1) => at.open(),
        // Also after the open call returned: a Claude that is being ended may kill its tool and
        // send another request at once. A real model would still be thinking when the end comes.
        (Plan::Tool | Plan::Stream, _, _) | (Plan::Second, 2, _) => Answer::Endless {
            text: at.marker(MarkerKind::Text, 0),
        },
        (Plan::Second | Plan::Idle, _, _) => at.end("Done."),
    }
}

/// Makes answers with marks.
struct Numbers<'a> {
    agent: &'a str,
    serial: u64,
}

impl<'a> Numbers<'a> {
    fn new(conversation: &'a Conversation, serial: u64) -> Self {
        Self {
            agent: &conversation.agent,
            serial,
        }
    }

    fn marker(&self, kind: MarkerKind, offset: u64) -> Marker {
        Marker {
            agent: self.agent.to_owned(),
            kind,
            serial: self.serial + offset,
        }
    }

    fn call(&self, say: &str, command: &str) -> Answer {
        Answer::Call {
            say: say.to_owned(),
            text: self.marker(MarkerKind::Text, 0),
            command: format!("{command} && {}", self.marker(MarkerKind::Output, 2).echo()),
            call: self.marker(MarkerKind::Call, 1),
            open: false,
        }
    }

    fn steady(&self) -> Answer {
        let file = format!("steps/{:06}.txt", self.serial);
        self.call(
            "The next step.",
            &format!("mkdir -p steps && echo step > {file}"),
        )
    }

    /// Uses `tail`, because newer versions of the Bash tool refuse a bare `sleep`.
    fn open(&self) -> Answer {
        Answer::Call {
            say: "This will take long.".to_owned(),
            text: self.marker(MarkerKind::Text, 0),
            command: format!("echo open > {OPEN_FILE} && tail -f /dev/null"),
            call: self.marker(MarkerKind::Call, 1),
            open: true,
        }
    }

    fn end(&self, say: &str) -> Answer {
        Answer::End {
            say: say.to_owned(),
            text: Some(self.marker(MarkerKind::Text, 0)),
        }
    }
}

/// Returns the content blocks of an answer that ends, each with its mark.
#[must_use]
pub fn content(answer: &Answer) -> Vec<(Value, Option<Marker>)> {
    let text = |say: &str, marker: &Option<Marker>| {
        let mark = marker.as_ref().map(ToString::to_string).unwrap_or_default();
        json!({"type": "text", "text": format!("{say} {mark}").trim_end()})
    };
    match answer {
        Answer::Call {
            say,
            text: mark,
            command,
            call,
            ..
        } => {
            let mark = Some(mark.clone());
            let agent = call.agent.replace(|c: char| !c.is_alphanumeric(), "_");
            let tool_use = json!({
                "type": "tool_use",
                "id": format!("toolu_{agent}_{:06}", call.serial),
                "name": "Bash",
                "input": {"command": command, "description": format!("A step {call}")},
            });
            vec![(text(say, &mark), mark), (tool_use, Some(call.clone()))]
        }
        Answer::Endless { .. } => Vec::new(),
        Answer::End { say, text: mark } => vec![(text(say, mark), mark.clone())],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn conversation(plan: Plan, asked: Asked, calls: usize) -> Conversation {
        Conversation {
            agent: "a".into(),
            plan,
            asked,
            calls,
            markers: BTreeSet::new(),
        }
    }

    fn is_open(answer: &Answer) -> bool {
        matches!(
            answer,
            Answer::Call { open: true, .. } | Answer::Endless { .. }
        )
    }

    #[test]
    fn each_plan_opens_a_call_or_text_at_its_step() {
        let opens =
            |plan, turn, calls| is_open(&next(&conversation(plan, Asked::Prompt(turn), calls), 1));
        assert!(!opens(Plan::Tool, 1, 1) && opens(Plan::Tool, 1, 2) && opens(Plan::Tool, 1, 3));
        assert!(!opens(Plan::Stream, 1, 0) && opens(Plan::Stream, 1, 1));
        assert!(!opens(Plan::Second, 1, 1) && !opens(Plan::Second, 2, 0));
        assert!(opens(Plan::Second, 2, 1));
        assert!(!opens(Plan::Idle, 1, 2) && !opens(Plan::Steady, 1, 99));
        assert!(opens(Plan::Hold, 1, 0) && opens(Plan::Hold, 2, 0));
        let note = Asked::Note(String::new());
        assert!(is_open(&next(&conversation(Plan::Hold, note, 0), 1)));
    }

    #[test]
    fn after_the_note_comes_one_step_and_the_end() {
        let note = || Asked::Note(String::new());
        let step = next(&conversation(Plan::Tool, note(), 0), 5);
        assert!(matches!(&step, Answer::Call { command, open: false,
            .. } if command.contains(CONTINUED_FILE)));
        let done = conversation(Plan::Tool, note(), 1);
        assert!(has_continued(&done));
        assert!(matches!(next(&done, 8), Answer::End { text: Some(_), .. }));
    }

    #[test]
    fn a_call_does_not_quote_the_mark_of_its_output() {
        let answer = next(&conversation(Plan::Idle, Asked::Prompt(1), 0), 1);
        let json = content(&answer)[1].0.to_string();
        assert!(Marker::all_in(&json).all(|marker| marker.kind == MarkerKind::Call));
    }
}
