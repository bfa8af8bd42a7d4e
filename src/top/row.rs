//! Row of one agent in `spotkeep top`: the values that the table shows. Pure.

use std::time::Duration;

use super::snapshot::{FleetSnapshot, Glance, Load};
use crate::keeper::status::AgentStatus;
use state::{AgentSaved, AgentState};
use sys::time::{Timestamp, short};

/// One agent.
#[derive(Debug, Clone)]
pub struct Row<'a> {
    /// The status that the keeper reports.
    pub agent: &'a AgentStatus,
    /// The summary of its transcript.
    pub glance: Option<&'a Glance>,
    /// Its CPU and memory.
    pub load: Option<Load>,
    /// What the save of this boot has saved of it.
    pub saved: Option<&'a AgentSaved>,
    now: Timestamp,
}

impl<'a> Row<'a> {
    /// Returns the row of an agent of this snapshot.
    #[must_use]
    pub fn new(fleet: &'a FleetSnapshot, agent: &'a AgentStatus, now: Timestamp) -> Self {
        Self {
            agent,
            glance: fleet.glances.get(&agent.name),
            load: fleet.loads.get(&agent.name).copied(),
            saved: fleet
                .save
                .as_ref()
                .and_then(|save| save.agents.iter().find(|row| row.name == agent.name)),
            now,
        }
    }

    /// Returns how long it has been in its state.
    #[must_use]
    pub fn since(&self) -> Option<Duration> {
        self.agent.since.map(|since| self.now.since(since))
    }

    /// Returns the age of a time.
    #[must_use]
    pub fn age(&self, at: Option<Timestamp>) -> Option<Duration> {
        at.map(|at| self.now.since(at))
    }

    /// Returns whether it needs a person.
    #[must_use]
    pub fn needs_attention(&self) -> bool {
        matches!(
            self.agent.state,
            AgentState::Waiting | AgentState::Failed | AgentState::Stalled
        )
    }

    /// Returns why it does not work, and when it is tried again.
    #[must_use]
    pub fn why(&self) -> Option<String> {
        let why = self.agent.why.as_deref()?;
        Some(match self.agent.next_try {
            Some(at) if at > self.now => {
                format!("{why}; next try in {}", short(at.since(self.now)))
            }
            _ => why.to_owned(),
        })
    }

    /// Returns what it is doing, in one line: how far it is saved, why it does not work, or what it
    /// works on.
    #[must_use]
    pub fn doing(&self) -> String {
        if let Some(saved) = self.saved {
            return progress(saved);
        }
        if self.agent.state == AgentState::Saving {
            return "stopping".to_owned();
        }
        let at_work = matches!(self.agent.state, AgentState::Running | AgentState::Idle);
        let doing = self.glance.and_then(|glance| glance.doing.clone());
        match self.why() {
            // An agent that asks for a permission shows what for.
            Some(why) if self.agent.state == AgentState::Waiting => match doing {
                Some(doing) => format!("{why}: {doing}"),
                None => why,
            },
            Some(why) => why,
            None if at_work => doing.unwrap_or_default(),
            None => String::new(),
        }
    }
}

/// Returns how far an agent is saved.
fn progress(saved: &AgentSaved) -> String {
    let mut parts = vec![saved.end.clone()];
    if let Some(trouble) = &saved.trouble {
        parts.push(trouble.clone());
    } else if saved.transcript_safe {
        parts.push("transcript saved".to_owned());
    }
    if saved.workspace.checkpoint.is_some() {
        parts.push("workspace saved".to_owned());
    }
    parts.join(", ")
}
