//! Pure: what is told, and in which form.

use serde::Serialize;
use serde_json::json;

use state::config::{Format, NotifyKind};
use state::{AgentName, JournalEvent, Manifest, StallReason, VERSION};
use sys::time::{Timestamp, short};

/// One thing to tell.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Message {
    /// Version of this form.
    pub version: u32,
    /// What happened.
    #[serde(rename = "event", serialize_with = "serialize_kind")]
    pub kind: NotifyKind,
    /// When.
    pub at: Timestamp,
    /// The data directory's path.
    pub data_dir: String,
    /// To which agent, where it is about one.
    pub agent: Option<String>,
    /// In a sentence, for people.
    pub text: String,
}

fn serialize_kind<S: serde::Serializer>(kind: &NotifyKind, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(kind.as_str())
}

impl Message {
    /// What a line of the journal is to others; `None`: nothing.
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
                format!("this machine is about to go ({source}); saving"),
            ),
            Survived { reason } => (NotifyKind::Back, format!("this boot goes on: {reason}")),
            Restore { agents, .. } => (
                NotifyKind::Back,
                format!("the next boot: {agents} agents come back"),
            ),
            Failed { why, .. } => (NotifyKind::Failed, format!("{who} was given up: {why}")),
            // One for a row of them, and none for what the whole fleet is told of.
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
                format!("the fleet waits: {why}; run /login in any agent, all go on by themselves"),
            ),
            _ => return None,
        };
        Some(Self::new(data_dir, kind, name, text))
    }

    /// That a save has ended.
    #[must_use]
    pub fn from_save(data_dir: &str, manifest: &Manifest) -> Self {
        let text = match manifest.stages.notice_to_safe_ms {
            Some(ms) => {
                let after = short(std::time::Duration::from_millis(ms));
                let agents = manifest.agents.len();
                format!("{agents} agents are safe after {after}")
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

    /// The body of a webhook.
    #[must_use]
    pub fn body(&self, format: Format) -> String {
        match format {
            Format::Generic => serde_json::to_string(self).unwrap_or_default(),
            Format::Slack => json!({"text": format!("spotkeep: {}", self.text)}).to_string(),
        }
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
    fn a_row_of_stops_is_told_once_and_a_lost_login_for_the_whole_fleet() {
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
    fn each_form_of_a_body_is_one_json() {
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
