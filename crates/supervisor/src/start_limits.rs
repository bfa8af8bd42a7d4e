//! Start limits: how many agents may start at once, so that a boot does not overload the machine.

/// What one start of Claude needs until it is up: measured at 300 MB of memory with a small
/// transcript and 500 MB with a large compacted one (2.1.197), and about one second of CPU.
const BYTES_PER_START: u64 = 400 << 20;

/// Memory that is left to the rest of the machine.
const BYTES_KEPT: u64 = 256 << 20;

/// Limits that depend on the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Starts under way at once.
    pub parallel: usize,
    /// By how much pauses after a stop of the API are shortened; more than 1 only in tests.
    pub time_scale: u32,
}

impl Limits {
    /// Returns the limits for this number of cores: one more start than cores, since a start also
    /// waits for the disk and for the API.
    #[must_use]
    pub fn for_cores(cores: usize) -> Self {
        Self {
            parallel: cores.max(1) + 1,
            time_scale: 1,
        }
    }

    /// Shortens the pauses by this factor, for tests of the whole program.
    #[must_use]
    pub fn with_time_scale(self, times: Option<String>) -> Self {
        let time_scale = times.and_then(|times| times.parse().ok());
        Self {
            time_scale: time_scale.unwrap_or(1).max(1),
            ..self
        }
    }
}

/// Returns how many more starts may begin now.
///
/// `available` is the memory that can still be allocated, in bytes; `None` where it is not known.
/// One start is always permitted when none is under way: waiting would not help.
#[must_use]
pub fn starts_allowed(limits: Limits, starting: usize, available: Option<u64>) -> usize {
    let by_cores = limits.parallel.saturating_sub(starting);
    let by_memory = available.map_or(usize::MAX, |bytes| {
        let starts = bytes.saturating_sub(BYTES_KEPT) / BYTES_PER_START;
        // A start under way has not yet allocated the memory that it needs.
        usize::try_from(starts)
            .unwrap_or(usize::MAX)
            .saturating_sub(starting)
    });
    by_cores.min(by_memory).max(usize::from(starting == 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_are_bounded_by_cores_and_by_memory_but_never_to_a_standstill() {
        let two = Limits::for_cores(2);
        assert_eq!(starts_allowed(two, 0, None), 3);
        assert_eq!(starts_allowed(two, 2, None), 1);
        assert_eq!(starts_allowed(two, 3, None), 0);
        assert_eq!(starts_allowed(two, 0, Some(1200 << 20)), 2);
        assert_eq!(starts_allowed(two, 1, Some(1200 << 20)), 1);
        assert_eq!(starts_allowed(two, 0, Some(0)), 1);
        assert_eq!(starts_allowed(two, 1, Some(0)), 0);
    }

    #[test]
    fn the_time_scale_is_one_without_a_valid_value() {
        let time_scale = |times: Option<&str>| {
            let limits = Limits::for_cores(2).with_time_scale(times.map(str::to_owned));
            (limits.parallel, limits.time_scale)
        };
        assert_eq!(time_scale(Some("60")), (3, 60));
        for nothing in [None, Some(""), Some("0"), Some("-1"), Some("soon")] {
            assert_eq!(time_scale(nothing), (3, 1), "{nothing:?}");
        }
    }
}
