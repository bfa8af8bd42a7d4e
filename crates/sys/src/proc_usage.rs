//! CPU time and memory of a process and its descendants, from `/proc`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

/// Linux counts CPU time for user space in hundredths of a second, whatever its own clock does.
const TICK_MS: u64 = 10;

/// CPU time and memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time so far. It can shrink, since it is the sum over processes, some of which end.
    pub cpu: Duration,
    /// Memory now, in bytes, without what is shared with other processes.
    pub memory: u64,
}

/// All processes of the machine, from one scan of `/proc`.
#[derive(Debug, Default)]
pub struct Processes(BTreeMap<i32, Process>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Process {
    parent: i32,
    /// Its own CPU time, and that of its children that have ended and were waited for.
    ticks: u64,
}

impl Processes {
    /// Scans `/proc`.
    #[must_use]
    pub fn scan() -> Self {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let found = entries.filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
            Some((pid, parse(&String::from_utf8_lossy(&stat))?))
        });
        Self(found.collect())
    }

    /// Returns the usage of a process and its descendants; `None` if it has ended. Descendants
    /// whose parent has ended have another parent now, and are not counted.
    #[must_use]
    pub fn tree(&self, pid: i32) -> Option<Usage> {
        let mut usage = Usage::default();
        for pid in self.members(pid)? {
            let ticks = self.0.get(&pid).map_or(0, |process| process.ticks);
            usage.cpu += Duration::from_millis(ticks * TICK_MS);
            usage.memory += memory(pid).unwrap_or(0);
        }
        Some(usage)
    }

    fn members(&self, pid: i32) -> Option<BTreeSet<i32>> {
        self.0.get(&pid)?;
        let mut members = BTreeSet::from([pid]);
        let mut parents = vec![pid];
        while let Some(parent) = parents.pop() {
            let children = self
                .0
                .iter()
                .filter(|(_, process)| process.parent == parent);
            for (child, _) in children {
                // A pid may be reused during the scan; each counts once.
                if members.insert(*child) {
                    parents.push(*child);
                }
            }
        }
        Some(members)
    }
}

/// Reads parent and times from `/proc/PID/stat`, whose second field may hold any character.
fn parse(stat: &str) -> Option<Process> {
    let rest = stat.get(stat.rfind(')')? + 2..)?;
    // These begin with field 3; the parent is 4, and 14 to 17 are the times.
    let fields: Vec<&str> = rest.split(' ').collect();
    let times = fields
        .get(11..15)?
        .iter()
        .map(|time| time.parse::<u64>().ok());
    Some(Process {
        parent: fields.get(1)?.parse().ok()?,
        ticks: times.sum::<Option<u64>>()?,
    })
}

/// Returns the memory that is resident and not shared with another process, in bytes.
fn memory(pid: i32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let mut pages = text.split(' ').skip(1).map(|field| field.parse().ok());
    let (resident, shared): (u64, u64) = (pages.next()??, pages.next()??);
    Some(resident.saturating_sub(shared) * rustix::param::page_size() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_process_and_of_its_ended_children_is_read_past_any_name() {
        let stat = "7 (a) b) c) S 3 7 7 0 -1 4194560 1 2 3 4 100 20 3 4 20 0 1 0 99 1 2 3";
        let process = Process {
            parent: 3,
            ticks: 127,
        };
        assert_eq!(parse(stat), Some(process));
        assert_eq!(parse("7 (a) S 3"), None);
    }

    #[test]
    fn a_tree_is_a_process_with_its_children_and_theirs() {
        let process = |parent| Process { parent, ticks: 1 };
        let all = [(1, 0), (10, 1), (11, 10), (12, 11), (20, 1)];
        let all = Processes(
            all.into_iter()
                .map(|(pid, parent)| (pid, process(parent)))
                .collect(),
        );
        assert_eq!(all.members(10), Some(BTreeSet::from([10, 11, 12])));
        assert_eq!(all.members(99), None);
        let own = i32::try_from(std::process::id()).unwrap();
        let usage = Processes::scan().tree(own).unwrap();
        assert!(usage.memory > 0, "{usage:?}");
    }
}
