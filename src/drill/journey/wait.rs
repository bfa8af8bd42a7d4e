//! Waiting for the fleet, by events and never for long.

use std::time::{Duration, Instant};

use super::Rehearsal;
use crate::error::{Result, bail};
use crate::os::watch::Watch;

/// How long anything may take, and how much more each agent adds.
const LIMIT: Duration = Duration::from_secs(30);
const LIMIT_PER_AGENT: Duration = Duration::from_secs(3);
/// Files may change without a word; then this often is looked again.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

impl Rehearsal {
    /// Waits until `look` names nobody to wait for. Whatever changes in the sandbox wakes it.
    pub(super) fn until(
        &mut self,
        what: &str,
        mut look: impl FnMut(&Self) -> Result<Vec<String>>,
    ) -> Result<()> {
        let watch = Watch::new()?;
        let deadline = Instant::now() + self.limit();
        loop {
            let waiting = look(self)?;
            if waiting.is_empty() {
                return Ok(());
            }
            if let Some((keeper, _)) = &mut self.keeper
                && let Some(status) = keeper.try_wait()?
            {
                bail!("the keeper ended by itself ({status}) before {what}");
            }
            if Instant::now() >= deadline {
                let limit = self.limit().as_secs();
                bail!("{what}: not within {limit} s; {}", waiting.join("; "));
            }
            // Directories appear as the life goes on.
            for dir in ["root/.claude/sessions", "root/session-state/saves"] {
                watch.add(&self.sandbox.dir().join(dir)).ok();
            }
            watch.wait(LOOK_AGAIN);
        }
    }

    /// How long this fleet may take for one thing.
    pub(super) fn limit(&self) -> Duration {
        LIMIT + LIMIT_PER_AGENT * u32::try_from(self.players.len()).unwrap_or(u32::MAX)
    }
}
