//! The `[notify]` table: receivers of notifications, and which events are sent.

use serde::Deserialize;

/// Receivers of notifications on the fleet's events.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Notify {
    /// A URL that receives a POST with a JSON body.
    pub webhook: Option<String>,
    /// A shell command that gets the same JSON on its standard input.
    pub command: Option<String>,
    /// The events to send; all of them where this is not set.
    pub on: Option<Vec<NotifyKind>>,
    /// The form of the webhook's body.
    pub format: Format,
}

/// An event that can be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NotifyKind {
    /// The machine is about to be preempted.
    Notice,
    /// Everything is on the disk.
    Safe,
    /// The next boot begins, or this one continues.
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
    /// Returns its name in the file.
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
    /// `{"text": ...}`, the format of Slack and compatible services.
    Slack,
}

impl Notify {
    /// Whether an event of this kind is sent.
    #[must_use]
    pub fn wants(&self, kind: NotifyKind) -> bool {
        (self.webhook.is_some() || self.command.is_some())
            && self.on.as_ref().is_none_or(|on| on.contains(&kind))
    }
}
