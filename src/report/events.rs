//! Journal events grouped by boot, for reports.

use state::{JournalEntry, JournalEvent};
use sys::time::Timestamp;

/// One event.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Fact {
    pub(super) at: Timestamp,
    pub(super) agent: Option<String>,
    pub(super) event: JournalEvent,
}

/// One boot with its events.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Boot {
    pub(super) id: String,
    pub(super) first_at: Timestamp,
    pub(super) last_at: Timestamp,
    pub(super) facts: Vec<Fact>,
}

impl Boot {
    /// Returns when the machine was started, if the keeper recorded it; otherwise the time of the
    /// first line of this boot.
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

/// Adds the next line of the journal to its boot.
pub(super) fn add_line(boots: &mut Vec<Boot>, line: JournalEntry) {
    let is_same = boots.last().is_some_and(|boot| boot.id == line.boot_id);
    if !is_same {
        boots.push(Boot {
            id: line.boot_id,
            first_at: line.at,
            last_at: line.at,
            facts: Vec::new(),
        });
    }
    let Some(boot) = boots.last_mut() else { return };
    boot.last_at = line.at;
    boot.facts.push(Fact {
        at: line.at,
        agent: line.agent,
        event: line.event,
    });
}
