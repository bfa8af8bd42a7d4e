//! The model's own account of what was said: the truth that a drill counts against.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::conversation::{Asked, Conversation};
use super::marker::{Marker, MarkerKind};
use super::script::{self, Answer};

/// All agents, by name.
#[derive(Debug, Clone, Default)]
pub struct RequestLog {
    /// What each agent's conversation holds.
    pub agents: BTreeMap<String, Account>,
    /// Requests that belonged to no agent.
    pub side_requests: u64,
}

/// One agent.
#[derive(Debug, Clone, Default)]
pub struct Account {
    /// What the model said completely and what it was told, oldest first, each once.
    pub records: Vec<Record>,
    /// What it is at and will not finish.
    pub open: Option<Open>,
    /// Turns that the model ended.
    pub turns_ended: u32,
    /// Cut turns that went on: the step after the note was done.
    pub continued: u32,
    /// Requests so far.
    pub requests: u64,
    /// The first request after [`AgentRecords::new_life`].
    pub first: Option<LoggedRequest>,
    next_serial: u64,
    known: BTreeSet<Marker>,
}

/// One message block that was said completely, or one prompt or tool output that arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its mark.
    pub marker: Marker,
    /// When the last byte was sent, or when it came.
    pub at: Instant,
}

/// Where an agent stands open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open {
    /// The mark of the call or of the text.
    pub marker: Marker,
    /// When the model had said all that it will say (a call), or its first part (a text).
    pub at: Instant,
}

/// One request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggedRequest {
    /// When it came.
    pub at: Instant,
    /// Every mark in it, except in a note.
    pub markers: BTreeSet<Marker>,
    /// The note, if that was asked last.
    pub note: Option<String>,
}

impl RequestLog {
    /// Forgets which request was the first, so that the next one is.
    pub fn next_boot(&mut self) {
        for account in self.agents.values_mut() {
            account.first = None;
            account.open = None;
        }
    }

    /// Takes in a request and decides its answer.
    pub fn request(&mut self, conversation: &Conversation, at: Instant) -> Answer {
        let account = self.agents.entry(conversation.agent.clone()).or_default();
        account.requests += 1;
        for marker in &conversation.markers {
            // What the model said itself is taken down when it has been said.
            if matches!(marker.kind, MarkerKind::Prompt | MarkerKind::Output) {
                account.record(marker, at);
            }
            account.next_serial = account.next_serial.max(marker.serial + 1);
        }
        if account.first.is_none() {
            account.first = Some(LoggedRequest {
                at,
                markers: conversation.markers.clone(),
                note: match &conversation.asked {
                    Asked::Note(note) => Some(note.clone()),
                    Asked::Prompt(_) | Asked::Other => None,
                },
            });
        }
        if script::has_continued(conversation) {
            account.continued += 1;
        }
        let answer = script::next(conversation, account.next_serial);
        account.next_serial += 3;
        answer
    }

    /// A block was sent to its last byte.
    pub fn record(&mut self, marker: &Marker, at: Instant) {
        let account = self.agents.entry(marker.agent.clone()).or_default();
        account.record(marker, at);
    }

    /// An answer was sent to its end, or as far as it will ever go.
    pub fn answered(&mut self, agent: &str, answer: &Answer, at: Instant) {
        let account = self.agents.entry(agent.to_owned()).or_default();
        match answer {
            Answer::Call {
                call, open: true, ..
            } => {
                account.open.get_or_insert(Open {
                    marker: call.clone(),
                    at,
                });
            }
            Answer::Endless { text } => {
                account.open.get_or_insert(Open {
                    marker: text.clone(),
                    at,
                });
            }
            Answer::End { text: Some(_), .. } => account.turns_ended += 1,
            Answer::Call { .. } | Answer::End { text: None, .. } => {}
        }
    }
}

impl Account {
    fn record(&mut self, marker: &Marker, at: Instant) {
        if self.known.insert(marker.clone()) {
            self.records.push(Record {
                marker: marker.clone(),
                at,
            });
        }
    }
}
