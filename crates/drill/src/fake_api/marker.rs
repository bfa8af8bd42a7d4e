//! Marks such as `[[agent-1:a:7]]`: each thing that is said in a drill carries one of its own, so
//! that what was lost can be named and nothing is counted twice.

use std::fmt;

/// What kind of record a mark stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MarkerKind {
    /// What a person typed.
    Prompt,
    /// A text of the model.
    Text,
    /// A tool call of the model.
    Call,
    /// What a tool said.
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

    /// In words, for a report.
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

/// One mark.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Marker {
    /// The agent's name.
    pub agent: String,
    /// What it marks.
    pub kind: MarkerKind,
    /// Never the same twice for one agent.
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
    /// A shell command that prints the mark without containing it: a call that quotes its own
    /// output's mark would be taken for that output.
    #[must_use]
    pub fn echo(&self) -> String {
        format!(
            "echo '[[{}:{}:''{}]]'",
            self.agent,
            self.kind.letter(),
            self.serial
        )
    }

    /// Every mark in a text, in order.
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
    fn a_mark_is_found_again_and_its_echo_holds_none() {
        let marker = Marker {
            agent: "agent-1".into(),
            kind: MarkerKind::Output,
            serial: 7,
        };
        let text = format!("x [[ {marker} [[no]] {}", marker.echo());
        assert_eq!(Marker::all_in(&text).collect::<Vec<_>>(), [marker]);
    }
}
