//! What a report needs of the journal: its events, life by life.

use state::{JournalEntry, JournalEvent};
use sys::time::Timestamp;

/// One event.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Fact {
    pub(super) at: Timestamp,
    pub(super) agent: Option<String>,
    pub(super) event: JournalEvent,
}

/// One life of the machine, as the journal has it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Life {
    pub(super) id: String,
    pub(super) first_at: Timestamp,
    pub(super) last_at: Timestamp,
    pub(super) facts: Vec<Fact>,
}

impl Life {
    /// When the machine began, where its keeper could tell; else the first word of this life.
    pub(super) fn began(&self) -> Timestamp {
        let boot = self.facts.iter().find_map(|fact| match fact.event {
            JournalEvent::KeeperStarted { since_boot_ms, .. } => Some((fact.at, since_boot_ms?)),
            _ => None,
        });
        match boot {
            Some((at, ms)) => at.before(std::time::Duration::from_millis(ms)),
            None => self.first_at,
        }
    }
}

/// Takes the next line, in the journal's order, into the lives.
pub(super) fn take(lives: &mut Vec<Life>, line: JournalEntry) {
    let is_same = lives.last().is_some_and(|life| life.id == line.life);
    if !is_same {
        lives.push(Life {
            id: line.life,
            first_at: line.at,
            last_at: line.at,
            facts: Vec::new(),
        });
    }
    let Some(life) = lives.last_mut() else { return };
    life.last_at = line.at;
    life.facts.push(Fact {
        at: line.at,
        agent: line.agent,
        event: line.event,
    });
}
