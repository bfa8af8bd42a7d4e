//! Styles of `spotkeep top`, with and without colours. Without colours, bold text and symbols show
//! the same. Pure.

use ratatui::style::{Color, Modifier, Style};

use crate::top::pager::Tone;
use state::AgentState;

/// The styles; whether to use colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Theme {
    /// Whether to use colours.
    pub colour: bool,
}

impl Theme {
    fn in_colour(self, colour: Color) -> Style {
        match self.colour {
            true => Style::new().fg(colour),
            false => Style::new(),
        }
    }

    /// Returns the style of a state; the colours are those of `ls`.
    #[must_use]
    pub fn state(self, state: AgentState) -> Style {
        match state {
            AgentState::Running => self.in_colour(Color::Green),
            AgentState::Waiting | AgentState::Stalled | AgentState::Backoff => {
                self.in_colour(Color::Yellow).add_modifier(Modifier::BOLD)
            }
            AgentState::Failed => self.alarm(),
            AgentState::Starting | AgentState::Saving => self.in_colour(Color::Cyan),
            AgentState::Idle | AgentState::Stopped | AgentState::Unknown => self.faint(),
        }
    }

    /// Returns the style of a line of the pager.
    #[must_use]
    pub fn tone(self, tone: Tone) -> Style {
        match tone {
            Tone::Plain => Style::new(),
            Tone::User => self.in_colour(Color::Cyan).add_modifier(Modifier::BOLD),
            Tone::Tool => self.in_colour(Color::Blue),
            Tone::Faint => self.faint(),
            Tone::Added => self.in_colour(Color::Green),
            Tone::Removed => self.in_colour(Color::Red),
        }
    }

    /// Returns the style of important text.
    #[must_use]
    pub fn strong(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    /// Returns the style of less important text.
    #[must_use]
    pub fn faint(self) -> Style {
        match self.colour {
            true => Style::new().fg(Color::DarkGray),
            false => Style::new().add_modifier(Modifier::DIM),
        }
    }

    /// Returns the style of errors.
    #[must_use]
    pub fn alarm(self) -> Style {
        self.in_colour(Color::Red).add_modifier(Modifier::BOLD)
    }

    /// Returns the style of text that needs a person.
    #[must_use]
    pub fn attention(self) -> Style {
        self.in_colour(Color::Yellow).add_modifier(Modifier::BOLD)
    }

    /// Returns the style of success.
    #[must_use]
    pub fn good(self) -> Style {
        self.in_colour(Color::Green)
    }

    /// Returns the style of the chosen row.
    #[must_use]
    pub fn chosen(self) -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }
}
