//! Checks of the machine: memory, unwritten (dirty) pages, `/tmp`.

use super::facts::{Facts, Machine};
use super::{Check, count, size};
use sys::files;

/// Memory of an agent at its start; 500 MB with a large transcript (measured).
const PER_AGENT: u64 = 400 << 20;

/// Memory of the rest of a small system.
const REST: u64 = 512 << 20;

/// Write rate of a cloud's network disk of some hundred GB, or a little less. It cannot be measured
/// without writing.
const DISK_PER_SECOND: u64 = 100 << 20;

/// How long writing the unwritten pages may take without slowing down a save much.
const FLUSH_SECONDS: u64 = 5;

/// Least free space in `/tmp`, where the output of background commands goes.
const LEAST_TMP: u64 = 512 << 20;

pub(super) fn checks(facts: &Facts) -> Vec<Check> {
    let mut checks = Vec::new();
    let memory = facts.machine.read("proc/meminfo").unwrap_or_default();
    if let Some(total) = field(&memory, "MemTotal:") {
        checks.push(check_memory(total, facts.config.agents.len()));
    }
    if facts.is_vm() {
        let available = field(&memory, "MemAvailable:").unwrap_or_default();
        checks.extend(check_dirty(&facts.machine, available));
    }
    if let Ok(space) = files::space(&facts.machine.path("tmp")) {
        checks.push(check_tmp(space.free));
    }
    checks
}

/// The value of a line of `/proc/meminfo`, in bytes.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

fn check_memory(total: u64, agents: usize) -> Check {
    let needed = REST + PER_AGENT * u64::try_from(agents).unwrap_or(0);
    match needed > total {
        true => Check::warn(
            "memory",
            format!(
                "{}, and {} need about {}: the kernel may kill one when memory runs out",
                size(total),
                count(agents, "agent"),
                size(needed)
            ),
            "declare fewer agents, or use a larger machine",
        ),
        false => Check::good(
            "memory",
            format!("{} for {}", size(total), count(agents, "agent")),
        ),
    }
}

/// The limit of unwritten pages: the kernel lets writers go on until this much waits for the disk,
/// and a sync then waits for all of it.
fn check_dirty(machine: &Machine, available: u64) -> Option<Check> {
    let bytes = machine.number("proc/sys/vm/dirty_bytes").unwrap_or(0);
    let ratio = machine.number("proc/sys/vm/dirty_ratio")?;
    let limit = match bytes {
        0 => available / 100 * ratio,
        bytes => bytes,
    };
    let seconds = limit / DISK_PER_SECOND;
    let detail = format!("up to {} may wait to be written", size(limit));
    Some(match seconds > FLUSH_SECONDS {
        true => Check::warn(
            "unwritten",
            format!("{detail}: {seconds} s of the notice at 100 MB a second"),
            "printf 'vm.dirty_bytes = 268435456\\nvm.dirty_background_bytes = 67108864\\n' | sudo \
             tee /etc/sysctl.d/90-spotkeep.conf && sudo sysctl --system",
        ),
        false => Check::good("unwritten", detail),
    })
}

fn check_tmp(free: u64) -> Check {
    let detail = format!("{} free in /tmp", size(free));
    match free < LEAST_TMP {
        true => Check::warn(
            "tmp",
            format!("{detail}, where the output of background commands goes"),
            "du -xsh /tmp/* | sort -h | tail",
        ),
        false => Check::good("tmp", detail),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_is_too_small_has_a_warning() {
        assert_eq!(field("MemTotal:  2048 kB\n", "MemTotal:"), Some(2 << 20));
        assert!(!check_memory(8 << 30, 10).warning);
        assert!(check_memory(4 << 30, 10).warning);
        assert!(check_tmp(1 << 20).warning);
    }
}
