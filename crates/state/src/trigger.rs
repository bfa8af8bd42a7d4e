//! What a checkpoint is made for.

use serde::{Deserialize, Serialize};

/// What a checkpoint was made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Trigger {
    /// A turn has ended.
    TurnEnded,
    /// The agent is at work, and time has passed.
    Time,
    /// A save.
    Save,
    /// A human asked.
    Command,
    /// Something of ours is about to change the workspace.
    Before,
}

impl Trigger {
    /// For people.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TurnEnded => "a turn has ended",
            Self::Time => "the agent is at work",
            Self::Save => "a save",
            Self::Command => "asked for",
            Self::Before => "before a change",
        }
    }
}

impl std::fmt::Display for Trigger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}
