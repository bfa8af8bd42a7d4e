//! Pure: how things look, with colour and without. Without, weight and signs carry it all.

use ratatui::style::{Color, Modifier, Style};

use crate::top::pager::Tone;
use state::AgentState;

/// Whether colours are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Theme {
    /// They are.
    pub colour: bool,
}

impl Theme {
    fn in_colour(self, colour: Color) -> Style {
        match self.colour {
            true => Style::new().fg(colour),
            false => Style::new(),
        }
    }

    /// A state, as `ls` shows it.
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

    /// A line of something that is read.
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

    /// What matters most.
    #[must_use]
    pub fn strong(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    /// What is there to be found, and not to be seen.
    #[must_use]
    pub fn faint(self) -> Style {
        match self.colour {
            true => Style::new().fg(Color::DarkGray),
            false => Style::new().add_modifier(Modifier::DIM),
        }
    }

    /// What is wrong.
    #[must_use]
    pub fn alarm(self) -> Style {
        self.in_colour(Color::Red).add_modifier(Modifier::BOLD)
    }

    /// What asks for a person.
    #[must_use]
    pub fn call(self) -> Style {
        self.in_colour(Color::Yellow).add_modifier(Modifier::BOLD)
    }

    /// What went well.
    #[must_use]
    pub fn good(self) -> Style {
        self.in_colour(Color::Green)
    }

    /// The chosen row.
    #[must_use]
    pub fn chosen(self) -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }
}
