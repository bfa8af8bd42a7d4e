//! CPU and memory usage of each agent: of its cgroup if it has one, otherwise of its process tree.

use std::collections::BTreeMap;
use std::time::Instant;

use super::snapshot::Load;
use crate::keeper::status::AgentStatus;
use crate::systemd::cgroup::Leaf;
use state::AgentName;
use sys::proc_usage::{Processes, Usage};

/// The last sample of each agent, and the usage computed from it.
#[derive(Debug, Default)]
pub struct ResourceUsage {
    last: BTreeMap<AgentName, (i32, Usage, Instant)>,
    loads: BTreeMap<AgentName, Load>,
}

impl ResourceUsage {
    /// Samples the running agents.
    pub fn sample(&mut self, agents: &[AgentStatus]) {
        let mut processes = None;
        let (mut samples, mut loads) = (BTreeMap::new(), BTreeMap::new());
        for agent in agents {
            let Some(pid) = agent.pid else { continue };
            let of_cgroup = agent
                .cgroup
                .as_ref()
                .and_then(|dir| Leaf::open(dir).usage());
            let usage = of_cgroup.or_else(|| {
                let processes = processes.get_or_insert_with(Processes::scan);
                processes.tree(pid)
            });
            let Some(usage) = usage else { continue };
            let now = Instant::now();
            let before = self
                .last
                .get(&agent.name)
                .filter(|(known, ..)| *known == pid);
            let cpu = before.map(|(_, before, at)| percent(*before, usage, now - *at));
            loads.insert(
                agent.name.clone(),
                Load {
                    cpu,
                    memory: usage.memory,
                },
            );
            samples.insert(agent.name.clone(), (pid, usage, now));
        }
        (self.last, self.loads) = (samples, loads);
    }

    /// Returns the usage of each agent.
    #[must_use]
    pub fn all(&self) -> BTreeMap<AgentName, Load> {
        self.loads.clone()
    }
}

/// Returns the CPU time between two samples, in percent of one core.
fn percent(before: Usage, after: Usage, between: std::time::Duration) -> u32 {
    let spent = after.cpu.saturating_sub(before.cpu).as_millis();
    let share = spent * 100 / between.as_millis().max(1);
    u32::try_from(share).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn cpu_usage_is_never_negative_after_a_process_has_ended() {
        let usage = |ms| Usage {
            cpu: Duration::from_millis(ms),
            memory: 0,
        };
        let second = Duration::from_secs(1);
        assert_eq!(percent(usage(0), usage(1_500), second), 150);
        assert_eq!(percent(usage(9_000), usage(1_500), second), 0);
    }
}
