//! Reasons for creating a checkpoint.

use serde::{Deserialize, Serialize};

/// Reason for which a checkpoint was created.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Trigger {
    /// A turn has ended.
    TurnEnded,
    /// The agent works, and the interval has passed.
    Time,
    /// A save.
    Save,
    /// A user's command.
    Command,
    /// spotkeep is about to change the workspace.
    Before,
}

impl Trigger {
    /// Returns a text for people.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TurnEnded => "a turn has ended",
            Self::Time => "the agent is at work",
            Self::Save => "a save",
            Self::Command => "on request",
            Self::Before => "before a change",
        }
    }
}

impl std::fmt::Display for Trigger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}
