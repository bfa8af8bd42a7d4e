//! Waiting for the fleet, by events. A slow machine is no loss: what ends a wait in vain is a fleet in
//! which nothing happens any more, or an agent that its keeper has given up.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::Rehearsal;
use sys::error::{Result, bail};
use sys::inotify::Watch;

/// How long nothing may happen at all. A Claude on a machine with a load of 50 takes a minute to start,
/// and is not heard of meanwhile.
const STILL: Duration = Duration::from_secs(180);
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
        let mut last = None;
        let mut still_since = Instant::now();
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
            if let Some(why) = self.given_up() {
                bail!("{what}: {why}");
            }
            let now = Some((self.happened(), waiting.clone()));
            if now != last {
                last = now;
                still_since = Instant::now();
            } else if still_since.elapsed() >= STILL {
                let limit = STILL.as_secs();
                bail!(
                    "{what}: nothing happens for {limit} s; {}",
                    waiting.join("; ")
                );
            }
            // Directories appear as the boot goes on.
            for dir in ["root/.claude/sessions", "root/session-state/saves"] {
                watch.add(&self.sandbox.dir().join(dir)).ok();
            }
            watch.wait(LOOK_AGAIN);
        }
    }

    /// What the model was asked and the keeper has written so far.
    fn happened(&self) -> (usize, u64) {
        let request_log = self.model.request_log();
        let records = request_log.agents.values().map(|agent| agent.records.len());
        let journal = self.sandbox.data_dir().join("session-state/journal.jsonl");
        let length = std::fs::metadata(journal).map_or(0, |meta| meta.len());
        (records.sum(), length)
    }

    /// An agent that is started no more, as its record says, and why.
    fn given_up(&self) -> Option<String> {
        let records = self.sandbox.data_dir().join("session-state/agents");
        self.agents.iter().find_map(|agent| {
            let text = std::fs::read(records.join(format!("{}.json", agent.name))).ok()?;
            let record: Value = serde_json::from_slice(&text).ok()?;
            let why = record["why"].as_str().unwrap_or("no reason is known");
            (record["state"] == "failed").then(|| format!("{} has failed: {why}", agent.name))
        })
    }
}
