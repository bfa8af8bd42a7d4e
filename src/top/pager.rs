//! Pager: scrollable text, either an agent's transcript as it grows or the output of a command.
//!
//! Pure: no I/O.

use claude::transcript::render::{LineSpeaker, TranscriptLine};
use state::AgentName;
use sys::time::Timestamp;

/// The longest result that is shown, in lines; `spotkeep logs` has the rest.
const RESULT_LINES: usize = 6;

/// The style of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// Normal text.
    Plain,
    /// A message of the user.
    User,
    /// A tool call, or the name of a file.
    Tool,
    /// Less important.
    Faint,
    /// An added line.
    Added,
    /// A removed line, or an error.
    Removed,
}

/// A scrollable text.
#[derive(Debug, Clone, PartialEq)]
pub struct Pager {
    /// The title: the command that prints the same.
    pub title: String,
    /// The lines.
    pub lines: Vec<(Tone, String)>,
    /// The agent whose transcript is shown, if it is one.
    agent: Option<AgentName>,
    /// Number of lines below the visible ones.
    below: usize,
    /// Whether text has arrived.
    pub is_loaded: bool,
}

impl Pager {
    /// Returns a pager for an agent's transcript, which is still empty.
    #[must_use]
    pub fn from_agent(name: &AgentName) -> Self {
        Self {
            title: format!("spotkeep logs {name} --follow"),
            lines: Vec::new(),
            agent: Some(name.clone()),
            below: 0,
            is_loaded: false,
        }
    }

    /// Returns a pager for the output of a command, like a diff; it starts at the beginning.
    #[must_use]
    pub fn from_text(title: &str, text: &str) -> Self {
        let lines: Vec<(Tone, String)> = text
            .lines()
            .map(|line| (tone_of_diff(line), line.replace('\t', "    ")))
            .collect();
        Self {
            title: title.to_owned(),
            below: lines.len(),
            lines,
            agent: None,
            is_loaded: true,
        }
    }

    /// Returns whether it shows an agent's transcript.
    #[must_use]
    pub fn is_transcript(&self) -> bool {
        self.agent.is_some()
    }

    /// Sets the lines of an agent's transcript. A user who has scrolled up keeps their place.
    pub fn append(&mut self, name: &AgentName, transcript: &[TranscriptLine]) {
        if self.agent.as_ref() != Some(name) {
            return;
        }
        let lines: Vec<(Tone, String)> = transcript.iter().flat_map(lines_of).collect();
        if self.below > 0 {
            self.below += lines.len().saturating_sub(self.lines.len());
        }
        self.lines = lines;
        self.is_loaded = true;
    }

    /// Scrolls towards the beginning.
    pub fn up(&mut self, by: usize) {
        self.below = self.below.saturating_add(by).min(self.lines.len());
    }

    /// Scrolls towards the end.
    pub fn down(&mut self, by: usize) {
        self.below = self.below.saturating_sub(by);
    }

    /// Returns the range of visible lines on a screen of this height. Scrolling stops at the first
    /// and the last page.
    #[must_use]
    pub fn visible(&self, height: usize) -> std::ops::Range<usize> {
        let most = self.lines.len().saturating_sub(height);
        let below = self.below.min(most);
        let end = self.lines.len() - below;
        end.saturating_sub(height)..end
    }

    /// Limits the scroll position to the first page, for a screen of this height, so that one step
    /// down from there has an effect.
    pub fn clamp(&mut self, height: usize) {
        self.below = self.below.min(self.lines.len().saturating_sub(height));
    }
}

fn lines_of(said: &TranscriptLine) -> Vec<(Tone, String)> {
    let (tone, sign) = match said.who {
        LineSpeaker::User => (Tone::User, "user    "),
        LineSpeaker::Claude => (Tone::Plain, "claude  "),
        LineSpeaker::Tool => (Tone::Tool, "tool    "),
        LineSpeaker::Result { is_error: false } => (Tone::Faint, "        → "),
        LineSpeaker::Result { is_error: true } => (Tone::Removed, "        ✕ "),
        LineSpeaker::Api => (Tone::Removed, "api     "),
    };
    let clock = said.at.map_or_else(|| " ".repeat(8), Timestamp::clock);
    let gap = " ".repeat(sign.chars().count());
    let is_result = matches!(said.who, LineSpeaker::Result { .. });
    let all: Vec<&str> = said.text.lines().collect();
    let shown = match is_result {
        true => all.len().min(RESULT_LINES),
        false => all.len(),
    };
    let mut lines: Vec<(Tone, String)> = Vec::new();
    for (index, text) in all[..shown].iter().enumerate() {
        let (clock, sign) = match index {
            0 => (clock.as_str(), sign),
            _ => ("        ", gap.as_str()),
        };
        let text = text.replace('\t', "    ");
        lines.push((tone, format!("{clock}  {sign}{text}").trim_end().to_owned()));
    }
    if all.is_empty() {
        lines.push((tone, format!("{clock}  {sign}(nothing)")));
    }
    if shown < all.len() {
        let left = all.len() - shown;
        lines.push((Tone::Faint, format!("          {gap}… {left} more lines")));
    }
    lines
}

fn tone_of_diff(line: &str) -> Tone {
    match line {
        _ if line.starts_with("+++") || line.starts_with("---") => Tone::Faint,
        _ if line.starts_with('+') => Tone::Added,
        _ if line.starts_with('-') => Tone::Removed,
        _ if line.starts_with("diff ") || line.starts_with("@@") => Tone::Tool,
        _ if line.starts_with("index ") => Tone::Faint,
        _ => Tone::Plain,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(who: LineSpeaker, text: &str) -> TranscriptLine {
        TranscriptLine {
            at: Timestamp::parse("2026-11-28T14:03:22Z"),
            who,
            text: text.into(),
        }
    }

    #[test]
    fn a_user_who_scrolls_up_keeps_their_place_while_lines_arrive() {
        let name = AgentName::new("a").unwrap();
        let mut pager = Pager::from_agent(&name);
        let mut transcript: Vec<TranscriptLine> = (0..20)
            .map(|number| said(LineSpeaker::Claude, &number.to_string()))
            .collect();
        pager.append(&name, &transcript);
        assert_eq!(pager.visible(5), 15..20);
        pager.up(3);
        assert_eq!(pager.visible(5), 12..17);
        transcript.push(said(LineSpeaker::Claude, "more"));
        pager.append(&name, &transcript);
        assert_eq!(pager.visible(5), 12..17);
        pager.down(usize::MAX);
        assert_eq!(pager.visible(5), 16..21);
        pager.up(usize::MAX);
        assert_eq!(pager.visible(5), 0..5);
        pager.clamp(5);
        pager.down(1);
        assert_eq!(pager.visible(5), 1..6);
        pager.append(&AgentName::new("b").unwrap(), &[]);
        assert_eq!(pager.lines.len(), 21);
    }

    #[test]
    fn the_output_of_a_command_starts_at_its_beginning() {
        let pager = Pager::from_text("x", "a\nb\nc\nd");
        assert_eq!(pager.visible(3), 0..3);
        assert_eq!(pager.visible(9), 0..4);
    }

    #[test]
    fn a_long_result_is_cut_with_a_count_of_the_rest() {
        let text: String = (0..10).map(|number| format!("line {number}\n")).collect();
        let lines = lines_of(&said(LineSpeaker::Result { is_error: false }, &text));
        assert_eq!(lines.len(), RESULT_LINES + 1);
        assert_eq!(lines[0].1, "14:03:22          → line 0");
        assert_eq!(lines[6].1, "                    … 4 more lines");
    }
}
