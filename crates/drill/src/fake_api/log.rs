//! The fake API's log of all records, against which a drill counts losses.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::conversation::{Asked, Conversation};
use super::marker::{Marker, MarkerKind};
use super::script::{self, Answer};

/// The log of all agents.
#[derive(Debug, Clone, Default)]
pub struct RequestLog {
    /// The conversations, by agent name.
    pub agents: BTreeMap<String, Account>,
    /// The number of requests that belonged to no agent.
    pub side_requests: u64,
}

/// The log of one agent.
#[derive(Debug, Clone, Default)]
pub struct Account {
    /// The records that the API has sent completely or received, oldest first, each once.
    pub records: Vec<Record>,
    /// The call or text that never ends, if the agent is in one.
    pub open: Option<Open>,
    /// The number of turns that have ended.
    pub turns_ended: u32,
    /// The number of cut turns that went on: the step after the note was done.
    pub continued: u32,
    /// The number of requests so far.
    pub requests: u64,
    /// The first request after [`RequestLog::next_boot`].
    pub first: Option<LoggedRequest>,
    next_serial: u64,
    known: BTreeSet<Marker>,
}

/// A message block that was sent completely, or a prompt or tool output that was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The mark of the record.
    pub marker: Marker,
    /// When its last byte was sent, or when it was received.
    pub at: Instant,
}

/// A call or a text that never ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open {
    /// The mark of the call or of the text.
    pub marker: Marker,
    /// When the call was sent, or the first part of the text.
    pub at: Instant,
}

/// A request to the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggedRequest {
    /// When it was received.
    pub at: Instant,
    /// Every mark in it, except in a note.
    pub markers: BTreeSet<Marker>,
    /// The note, if it is the last user message.
    pub note: Option<String>,
}

impl RequestLog {
    /// Begins the next boot: each agent's next request is its first.
    pub fn next_boot(&mut self) {
        for account in self.agents.values_mut() {
            account.first = None;
            account.open = None;
        }
    }

    /// Logs a request and returns its answer.
    pub fn request(&mut self, conversation: &Conversation, at: Instant) -> Answer {
        let account = self.agents.entry(conversation.agent.clone()).or_default();
        account.requests += 1;
        for marker in &conversation.markers {
            // What the API sends is logged when it has been sent.
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

    /// Logs a block that was sent completely.
    pub fn record(&mut self, marker: &Marker, at: Instant) {
        let account = self.agents.entry(marker.agent.clone()).or_default();
        account.record(marker, at);
    }

    /// Logs an answer that was sent to its end, or to the point where it stops for good.
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
