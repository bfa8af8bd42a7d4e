//! Pure: what there is to say of one agent, out of the world.

use std::time::Duration;

use super::snapshot::{FleetSnapshot, Glance, Load};
use crate::keeper::status::AgentStatus;
use state::{AgentSaved, AgentState};
use sys::time::{Timestamp, short};

/// One agent.
#[derive(Debug, Clone)]
pub struct Row<'a> {
    /// What the keeper says.
    pub agent: &'a AgentStatus,
    /// What its transcript tells.
    pub glance: Option<&'a Glance>,
    /// What it takes.
    pub load: Option<Load>,
    /// What the save under way, or the one of this boot, did for it.
    pub saved: Option<&'a AgentSaved>,
    now: Timestamp,
}

impl<'a> Row<'a> {
    /// The row of an agent of this world.
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

    /// For how long it is in its state.
    #[must_use]
    pub fn since(&self) -> Option<Duration> {
        self.agent.since.map(|since| self.now.since(since))
    }

    /// How old something is.
    #[must_use]
    pub fn age(&self, at: Option<Timestamp>) -> Option<Duration> {
        at.map(|at| self.now.since(at))
    }

    /// Whether a person should look at it.
    #[must_use]
    pub fn calls(&self) -> bool {
        matches!(
            self.agent.state,
            AgentState::Waiting | AgentState::Failed | AgentState::Stalled
        )
    }

    /// Why it stands still, with how long yet.
    #[must_use]
    pub fn why(&self) -> Option<String> {
        let why = self.agent.why.as_deref()?;
        Some(match self.agent.next_try {
            Some(at) if at > self.now => format!("{why}; again in {}", short(at.since(self.now))),
            _ => why.to_owned(),
        })
    }

    /// What it is doing, in a line: how far it is saved, why it stands still, or what it is at.
    #[must_use]
    pub fn doing(&self) -> String {
        if let Some(saved) = self.saved {
            return progress(saved);
        }
        if self.agent.state == AgentState::Saving {
            return "is being ended".to_owned();
        }
        let at_work = matches!(self.agent.state, AgentState::Running | AgentState::Idle);
        let doing = self.glance.and_then(|glance| glance.doing.clone());
        match self.why() {
            // A permission is asked for something: both are worth knowing.
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

/// How far an agent is saved.
fn progress(saved: &AgentSaved) -> String {
    let mut said = vec![saved.end.clone()];
    if let Some(trouble) = &saved.trouble {
        said.push(trouble.clone());
    } else if saved.transcript_safe {
        said.push("transcripts safe".to_owned());
    }
    if saved.workspace.checkpoint.is_some() {
        said.push("work safe".to_owned());
    }
    said.join(", ")
}
