//! Notification messages: which journal events become one, and the body of a webhook. Pure.

use serde::Serialize;
use serde_json::json;

use state::config::{Format, NotifyKind};
use state::{AgentName, JournalEvent, Manifest, StallReason, VERSION};
use sys::time::{Timestamp, short};

/// A notification.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Message {
    /// The version of this format.
    pub version: u32,
    /// The kind of event.
    #[serde(rename = "event", serialize_with = "serialize_kind")]
    pub kind: NotifyKind,
    /// When it happened.
    pub at: Timestamp,
    /// The data directory's path.
    pub data_dir: String,
    /// The agent, if it is about one.
    pub agent: Option<String>,
    /// A sentence for people.
    pub text: String,
}

fn serialize_kind<S: serde::Serializer>(kind: &NotifyKind, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(kind.as_str())
}

impl Message {
    /// Returns the message for an event of the journal; `None`: the event is not notified.
    #[must_use]
    pub fn from_event(
        data_dir: &str,
        agent: Option<&AgentName>,
        what: &JournalEvent,
    ) -> Option<Self> {
        use JournalEvent::{Failed, Notice, Paused, Restore, Stalled, Survived, Waiting};
        let name = agent.map(ToString::to_string);
        let who = name.clone().unwrap_or_default();
        let (kind, text) = match what {
            Notice { source, .. } => (
                NotifyKind::Notice,
                format!("this machine is about to end ({source}); saving"),
            ),
            Survived { reason } => (NotifyKind::Back, format!("this boot goes on: {reason}")),
            Restore { agents, .. } => (
                NotifyKind::Back,
                format!("the machine has booted: {} to resume", counted(*agents)),
            ),
            Failed { why, .. } => (NotifyKind::Failed, format!("{who} was given up: {why}")),
            // Only the first stop in a row, and none where one message covers the whole fleet.
            Stalled {
                reason,
                why,
                in_a_row: 1,
                ..
            } if *reason != StallReason::Login => {
                (NotifyKind::Stalled, format!("{who} was stopped: {why}"))
            }
            Waiting { why } => (NotifyKind::Waiting, format!("{who} waits for you: {why}")),
            Paused { why } => (
                NotifyKind::Login,
                format!("the fleet waits: {why}; run /login in any agent, all go on automatically"),
            ),
            _ => return None,
        };
        Some(Self::new(data_dir, kind, name, text))
    }

    /// Returns the message for a save that has ended.
    #[must_use]
    pub fn from_save(data_dir: &str, manifest: &Manifest) -> Self {
        let text = match manifest.stages.notice_to_safe_ms {
            Some(ms) => {
                let after = short(std::time::Duration::from_millis(ms));
                let agents = counted(manifest.agents.len());
                format!("{agents} saved {after} after the notice")
            }
            None => "the save never became safe".into(),
        };
        Self::new(data_dir, NotifyKind::Safe, None, text)
    }

    fn new(data_dir: &str, kind: NotifyKind, agent: Option<String>, text: String) -> Self {
        Self {
            version: VERSION,
            kind,
            at: Timestamp::now(),
            data_dir: data_dir.into(),
            agent,
            text,
        }
    }

    /// Returns the body of a webhook.
    #[must_use]
    pub fn body(&self, format: Format) -> String {
        match format {
            Format::Generic => serde_json::to_string(self).unwrap_or_default(),
            Format::Slack => json!({"text": format!("spotkeep: {}", self.text)}).to_string(),
        }
    }
}

fn counted(agents: usize) -> String {
    match agents {
        1 => "1 agent".to_owned(),
        count => format!("{count} agents"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stalled(reason: StallReason, in_a_row: u32) -> JournalEvent {
        JournalEvent::Stalled {
            reason,
            why: "API Error: 529".into(),
            until: None,
            in_a_row,
        }
    }

    #[test]
    fn stops_in_a_row_give_one_message_and_a_lost_login_one_for_the_whole_fleet() {
        let name = AgentName::new("a").unwrap();
        let told = |what: &JournalEvent| Message::from_event("/r", Some(&name), what);
        assert!(told(&stalled(StallReason::Overloaded, 1)).is_some());
        assert_eq!(told(&stalled(StallReason::Overloaded, 2)), None);
        assert_eq!(told(&stalled(StallReason::Login, 1)), None);
        let login = Message::from_event(
            "/r",
            None,
            &JournalEvent::Paused {
                why: "login".into(),
            },
        )
        .unwrap();
        assert_eq!(login.kind, NotifyKind::Login);
    }

    #[test]
    fn each_webhook_format_is_one_json_value() {
        let name = AgentName::new("a").unwrap();
        let message =
            Message::from_event("/r", Some(&name), &stalled(StallReason::Overloaded, 1)).unwrap();
        let generic: serde_json::Value =
            serde_json::from_str(&message.body(Format::Generic)).unwrap();
        assert_eq!(generic["event"], "stalled");
        assert_eq!(generic["agent"], "a");
        let slack: serde_json::Value = serde_json::from_str(&message.body(Format::Slack)).unwrap();
        assert_eq!(slack["text"], "spotkeep: a was stopped: API Error: 529");
    }
}
