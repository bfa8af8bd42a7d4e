//! Waits for the fleet of a drill, without a fixed time limit.
//!
//! A wait fails only when nothing has happened in the fleet for three minutes, or when an agent has
//! failed for good, so that a slow machine does not fail a drill.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::Rehearsal;
use sys::error::{Result, bail};
use sys::inotify::Watch;

/// How long nothing may happen. On a machine with a load of 50, Claude takes a minute to start,
/// without any sign meanwhile.
const QUIET_LIMIT: Duration = Duration::from_secs(180);
/// How often to poll for changes that inotify does not report.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

impl Rehearsal {
    /// Waits until `look` returns no reason to wait. Changes in the sandbox wake it.
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
                bail!("the keeper exited ({status}) before: {what}");
            }
            if let Some(why) = self.failed_agent() {
                bail!("{what}: {why}");
            }
            let now = Some((self.progress(), waiting.clone()));
            if now != last {
                last = now;
                still_since = Instant::now();
            } else if still_since.elapsed() >= QUIET_LIMIT {
                let limit = QUIET_LIMIT.as_secs();
                bail!("{what}: no change for {limit} s; {}", waiting.join("; "));
            }
            // The directories are made during the boot.
            for dir in ["root/.claude/sessions", "root/session-state/saves"] {
                watch.add(&self.sandbox.dir().join(dir)).ok();
            }
            watch.wait(POLL_INTERVAL);
        }
    }

    /// The number of records of the fake API and the length of the journal.
    fn progress(&self) -> (usize, u64) {
        let request_log = self.model.request_log();
        let records = request_log.agents.values().map(|agent| agent.records.len());
        let journal = self.sandbox.data_dir().join("session-state/journal.jsonl");
        let length = std::fs::metadata(journal).map_or(0, |meta| meta.len());
        (records.sum(), length)
    }

    /// Returns an agent whose record says that it has failed, and the reason.
    fn failed_agent(&self) -> Option<String> {
        let records = self.sandbox.data_dir().join("session-state/agents");
        self.agents.iter().find_map(|agent| {
            let text = std::fs::read(records.join(format!("{}.json", agent.name))).ok()?;
            let record: Value = serde_json::from_slice(&text).ok()?;
            let why = record["why"].as_str().unwrap_or("unknown reason");
            (record["state"] == "failed").then(|| format!("{} has failed: {why}", agent.name))
        })
    }
}
