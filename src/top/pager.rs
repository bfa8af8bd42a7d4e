//! Pure: something long that is read: an agent's words as they come, or what a command printed.

use claude::transcript::render::{LineSpeaker, TranscriptLine};
use state::AgentName;
use sys::time::Timestamp;

/// The longest result that is shown, in lines: `spotkeep logs` has the rest.
const RESULT_LINES: usize = 6;

/// How a line is to be seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// As it is.
    Plain,
    /// The user's words.
    User,
    /// A tool, or the name of a file.
    Tool,
    /// Of less weight.
    Faint,
    /// Added.
    Added,
    /// Removed, or failed.
    Removed,
}

/// The text.
#[derive(Debug, Clone, PartialEq)]
pub struct Pager {
    /// What it is.
    pub title: String,
    /// Its lines.
    pub lines: Vec<(Tone, String)>,
    /// Whose words it shows.
    words_of: Option<AgentName>,
    /// So many lines are below what is seen.
    below: usize,
    /// It has been filled once.
    pub is_there: bool,
}

impl Pager {
    /// An agent's words, which are yet to come.
    #[must_use]
    pub fn of_words(name: &AgentName) -> Self {
        Self {
            title: format!("spotkeep logs {name} --follow"),
            lines: Vec::new(),
            words_of: Some(name.clone()),
            below: 0,
            is_there: false,
        }
    }

    /// What a command printed, such as a difference; it is read from its beginning.
    #[must_use]
    pub fn of_text(title: &str, text: &str) -> Self {
        let lines: Vec<(Tone, String)> = text
            .lines()
            .map(|line| (tone_of_diff(line), line.replace('\t', "    ")))
            .collect();
        Self {
            title: title.to_owned(),
            below: lines.len(),
            lines,
            words_of: None,
            is_there: true,
        }
    }

    /// Whether it shows an agent's words.
    #[must_use]
    pub fn is_of_words(&self) -> bool {
        self.words_of.is_some()
    }

    /// Takes in an agent's words. Who has scrolled up stays where they are.
    pub fn append(&mut self, name: &AgentName, words: &[TranscriptLine]) {
        if self.words_of.as_ref() != Some(name) {
            return;
        }
        let lines: Vec<(Tone, String)> = words.iter().flat_map(lines_of).collect();
        if self.below > 0 {
            self.below += lines.len().saturating_sub(self.lines.len());
        }
        self.lines = lines;
        self.is_there = true;
    }

    /// Towards the beginning.
    pub fn up(&mut self, by: usize) {
        self.below = self.below.saturating_add(by).min(self.lines.len());
    }

    /// Towards the end.
    pub fn down(&mut self, by: usize) {
        self.below = self.below.saturating_sub(by);
    }

    /// The range of lines that is seen where so many fit. The first page is as far up as it goes, and
    /// the last as far down.
    #[must_use]
    pub fn visible(&self, height: usize) -> std::ops::Range<usize> {
        let most = self.lines.len().saturating_sub(height);
        let below = self.below.min(most);
        let end = self.lines.len() - below;
        end.saturating_sub(height)..end
    }

    /// Keeps the place within what there is, once it is known how much fits: one step down from the
    /// beginning then moves at once.
    pub fn settle(&mut self, height: usize) {
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
    fn whoever_scrolls_up_stays_where_they_are_while_more_is_said() {
        let name = AgentName::new("a").unwrap();
        let mut pager = Pager::of_words(&name);
        let mut words: Vec<TranscriptLine> = (0..20)
            .map(|number| said(LineSpeaker::Claude, &number.to_string()))
            .collect();
        pager.append(&name, &words);
        assert_eq!(pager.visible(5), 15..20);
        pager.up(3);
        assert_eq!(pager.visible(5), 12..17);
        words.push(said(LineSpeaker::Claude, "more"));
        pager.append(&name, &words);
        assert_eq!(pager.visible(5), 12..17);
        pager.down(usize::MAX);
        assert_eq!(pager.visible(5), 16..21);
        pager.up(usize::MAX);
        assert_eq!(pager.visible(5), 0..5);
        pager.settle(5);
        pager.down(1);
        assert_eq!(pager.visible(5), 1..6);
        pager.append(&AgentName::new("b").unwrap(), &[]);
        assert_eq!(pager.lines.len(), 21);
    }

    #[test]
    fn a_text_is_read_from_its_beginning() {
        let pager = Pager::of_text("x", "a\nb\nc\nd");
        assert_eq!(pager.visible(3), 0..3);
        assert_eq!(pager.visible(9), 0..4);
    }

    #[test]
    fn a_long_result_is_cut_and_says_so() {
        let text: String = (0..10).map(|number| format!("line {number}\n")).collect();
        let lines = lines_of(&said(LineSpeaker::Result { is_error: false }, &text));
        assert_eq!(lines.len(), RESULT_LINES + 1);
        assert_eq!(lines[0].1, "14:03:22          → line 0");
        assert_eq!(lines[6].1, "                    … 4 more lines");
    }
}
