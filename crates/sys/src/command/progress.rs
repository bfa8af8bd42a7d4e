//! Detects whether a silent command makes progress, from what it reads and computes (`/proc`).

use std::fs;
use std::time::{Duration, Instant};

/// Bytes read within [`Limits::stalled`](super::Limits) below which a command makes no progress,
/// unless it computes.
const IS_ALIVE_AFTER: u64 = 64 << 10;

/// CPU time within the same time from which a command makes progress although it reads nothing, in
/// hundredths of a second: restic derives a key from a password, which takes a machine with a load
/// of 40 more than a minute, and reads nothing meanwhile (measured).
const A_SIGN_OF_WORK: u64 = 20;

/// What a process has read and computed so far.
pub(super) struct Progress {
    dir: String,
    read: u64,
    computed: u64,
    at: Instant,
}

impl Progress {
    pub(super) fn new(pid: u32) -> Self {
        Self {
            dir: format!("/proc/{pid}"),
            read: 0,
            computed: 0,
            at: Instant::now(),
        }
    }

    /// Returns for how long it has done neither.
    pub(super) fn stalled_for(&mut self) -> Duration {
        let read = fs::read_to_string(format!("{}/io", self.dir))
            .ok()
            .and_then(|text| bytes_read(&text));
        let computed = fs::read_to_string(format!("{}/stat", self.dir))
            .ok()
            .and_then(|text| ticks(&text));
        let is_still = |now: Option<u64>, before: u64, sign: u64| {
            now.is_some_and(|now| now < before.saturating_add(sign))
        };
        // A value that cannot be read is not evaluated.
        if !is_still(read, self.read, IS_ALIVE_AFTER)
            || !is_still(computed, self.computed, A_SIGN_OF_WORK)
        {
            self.read = read.unwrap_or(self.read);
            self.computed = computed.unwrap_or(self.computed);
            self.at = Instant::now();
        }
        self.at.elapsed()
    }
}

fn bytes_read(io: &str) -> Option<u64> {
    let line = io.lines().find_map(|line| line.strip_prefix("rchar: "))?;
    line.trim().parse().ok()
}

/// Returns the CPU time, in user mode and in the kernel: fields 14 and 15 of `stat`, in hundredths
/// of a second (proc(5)). The process name before them may hold any character.
fn ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ').skip(11);
    let (own, kernels) = (fields.next()?, fields.next()?);
    Some(own.parse::<u64>().ok()? + kernels.parse::<u64>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_computes_and_reads_nothing_makes_progress() {
        let mut progress = Progress::new(std::process::id());
        let look = |progress: &mut Progress| {
            // This amount is never reached.
            progress.read = u64::MAX / 2;
            progress.stalled_for();
        };
        look(&mut progress);
        let (at, computed) = (progress.at, progress.computed);
        while progress.at == at {
            look(&mut progress);
        }
        assert!(progress.computed >= computed + A_SIGN_OF_WORK);
        let stat = "7 (a) b) S 1 7 7 0 -1 0 0 0 0 0 12 30 0 0 20 0 1";
        assert_eq!(ticks(stat), Some(42));
    }
}
