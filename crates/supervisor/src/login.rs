//! Login pause: stops all starts and nudges of the fleet until there is a login again.
//!
//! It begins once, with the first agent whose login is refused.

use std::time::{Duration, Instant};

use super::stalls::{Next, can_be_nudged};
use super::{Action, Supervisor};
use claude::ApiStop;
use state::{AgentName, JournalEvent};

/// During the pause one agent asks the API after this time, and again after twice as much ...
const FIRST_PROBE: Duration = Duration::from_secs(15 * 60);

/// ... up to this.
const LONGEST_PROBE: Duration = Duration::from_secs(60 * 60);

/// An answer this soon after the pause began may belong to a request from before it.
const UNDER_WAY: Duration = Duration::from_secs(120);

/// A pause of the fleet that waits for a login.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Pause {
    since: Instant,
    pub(super) probe_at: Instant,
    probe_every: Duration,
    /// One start is permitted as a probe, since no agent runs that could be asked.
    pub(super) may_start: bool,
}

impl Pause {
    /// Whether the pause is so old that an answer now was requested during it.
    pub(super) fn is_old(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) >= UNDER_WAY
    }

    pub(super) fn probed(&mut self, now: Instant) {
        self.probe_every = (self.probe_every * 2).min(LONGEST_PROBE);
        self.probe_at = now + self.probe_every;
        self.may_start = false;
    }
}

impl Supervisor {
    pub(super) fn begin_pause(&mut self, now: Instant, out: &mut Vec<Action>) {
        if self.login.is_some() {
            return; // The pause for this login runs already.
        }
        self.login = Some(Pause {
            since: now,
            probe_at: now + FIRST_PROBE,
            probe_every: FIRST_PROBE,
            may_start: false,
        });
        let why = "login".into();
        out.push(Action::Journal(None, JournalEvent::Paused { why }));
    }

    /// Ends the pause. `theirs`: an agent that had a login all the time has shown that there is
    /// one.
    pub(super) fn end_pause(
        &mut self,
        now: Instant,
        why: String,
        theirs: bool,
        out: &mut Vec<Action>,
    ) {
        if self.login.take().is_some() {
            out.push(Action::Journal(None, JournalEvent::Unpaused { why }));
        }
        self.ask_again(now, theirs);
    }

    /// Returns the agent that asks the API whether there is a login: one that was refused, or else
    /// any that would be nudged now.
    pub(super) fn probing_agent(&mut self, now: Instant) -> Option<AgentName> {
        self.login.filter(|pause| pause.probe_at <= now)?;
        let of_login = self.agents.iter().filter_map(|(name, agent)| {
            let wait = agent.wait.as_ref()?;
            let refused = wait.stop == ApiStop::Login && wait.next == Next::Login;
            (refused && can_be_nudged(agent)).then_some((wait.futile, wait.in_a_row, name))
        });
        let refused = of_login.min().map(|(_, _, name)| name.clone());
        let found = refused.or_else(|| self.due(now));
        if let Some(pause) = self.login.as_mut().filter(|_| found.is_none()) {
            pause.probed(now);
            pause.may_start = true;
        }
        found
    }
}
