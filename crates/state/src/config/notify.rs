//! `[notify]`: who is told of what.

use serde::Deserialize;

/// Who is told of what happens to the fleet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Notify {
    /// A URL that is sent a POST with a JSON body.
    pub webhook: Option<String>,
    /// A shell command that gets the same JSON on its standard input.
    pub command: Option<String>,
    /// What is told; everything that can be, where this is not set.
    pub on: Option<Vec<NotifyKind>>,
    /// The form of the webhook's body.
    pub format: Format,
}

/// What can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NotifyKind {
    /// The machine is about to be taken away.
    Notice,
    /// Everything is on the disk.
    Safe,
    /// The next boot begins, or this one goes on.
    Back,
    /// An agent was given up.
    Failed,
    /// The API has ended an agent's turn.
    Stalled,
    /// An agent waits for a human.
    Waiting,
    /// The fleet waits for a login.
    Login,
}

impl NotifyKind {
    /// Its word in the file.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Notice => "notice",
            Self::Safe => "safe",
            Self::Back => "back",
            Self::Failed => "failed",
            Self::Stalled => "stalled",
            Self::Waiting => "waiting",
            Self::Login => "login",
        }
    }
}

/// The form of a webhook's body.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// All fields.
    #[default]
    Generic,
    /// `{"text": ...}`, as Slack and those like it take it.
    Slack,
}

impl Notify {
    /// Whether anybody is told of this.
    #[must_use]
    pub fn wants(&self, kind: NotifyKind) -> bool {
        (self.webhook.is_some() || self.command.is_some())
            && self.on.as_ref().is_none_or(|on| on.contains(&kind))
    }
}
