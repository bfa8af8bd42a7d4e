//! Marks like `[[agent-1:t:7]]`, which identify each record of a drill.
//!
//! Every prompt, text, call and output has its own mark, so that a loss can be named and no record
//! is counted twice.

use std::fmt;

/// The kind of record that a mark identifies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MarkerKind {
    /// A prompt.
    Prompt,
    /// A text from the API.
    Text,
    /// A tool call from the API.
    Call,
    /// The output of a tool.
    Output,
}

impl MarkerKind {
    fn letter(self) -> char {
        match self {
            Self::Prompt => 'p',
            Self::Text => 't',
            Self::Call => 'c',
            Self::Output => 'o',
        }
    }

    fn from_letter(letter: &str) -> Option<Self> {
        [Self::Prompt, Self::Text, Self::Call, Self::Output]
            .into_iter()
            .find(|kind| letter == kind.letter().to_string())
    }

    /// Returns the name for a report.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Prompt => "a prompt",
            Self::Text => "a text of the model",
            Self::Call => "a tool call",
            Self::Output => "a tool's output",
        }
    }
}

/// A mark.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Marker {
    /// The agent's name.
    pub agent: String,
    /// The kind of record.
    pub kind: MarkerKind,
    /// A number that is unique for each agent.
    pub serial: u64,
}

impl fmt::Display for Marker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "[[{}:{}:{}]]",
            self.agent,
            self.kind.letter(),
            self.serial
        )
    }
}

impl Marker {
    /// Returns a shell command that prints the mark without containing it: a call that contained
    /// its output's mark would be taken for that output.
    #[must_use]
    pub fn echo(&self) -> String {
        format!(
            "echo '[[{}:{}:''{}]]'",
            self.agent,
            self.kind.letter(),
            self.serial
        )
    }

    /// Returns every mark in a text, in order.
    pub fn all_in(text: &str) -> impl Iterator<Item = Self> + '_ {
        text.split("[[").skip(1).filter_map(|rest| {
            let mut parts = rest.split_once("]]")?.0.split(':');
            let marker = Self {
                agent: parts.next()?.to_owned(),
                kind: MarkerKind::from_letter(parts.next()?)?,
                serial: parts.next()?.parse().ok()?,
            };
            parts.next().is_none().then_some(marker)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_found_in_a_text_and_not_in_its_echo_command() {
        let marker = Marker {
            agent: "agent-1".into(),
            kind: MarkerKind::Output,
            serial: 7,
        };
        let text = format!("x [[ {marker} [[no]] {}", marker.echo());
        assert_eq!(Marker::all_in(&text).collect::<Vec<_>>(), [marker]);
    }
}
