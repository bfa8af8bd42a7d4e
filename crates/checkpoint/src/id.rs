//! Checkpoint ids: the time in UTC, and four random digits against collisions.

use std::time::Duration;

use sys::time::Timestamp;
use sys::uuid::new_uuid;

/// Returns an id that sorts after `newest`, also when the clock was set back since.
pub(super) fn after(newest: Option<&str>, now: Timestamp) -> String {
    let least = newest
        .and_then(Timestamp::from_digits)
        .map(|time| time.after(Duration::from_millis(1)));
    let time = least.map_or(now, |least| least.max(now));
    format!("{}-{}", time.digits(), &new_uuid()[..4])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_sort_by_creation_also_when_the_clock_is_set_back() {
        let noon = Timestamp::parse("2026-11-22T12:00:00.000Z").unwrap();
        let morning = Timestamp::parse("2026-11-22T08:00:00.000Z").unwrap();
        let first = after(None, noon);
        assert!(first.starts_with("20261122T120000000-"), "{first}");
        let second = after(Some(&first), morning);
        assert!(second > first, "{second}");
        assert!(second.starts_with("20261122T120000001-"), "{second}");
        assert!(after(Some("rubbish"), noon)[..] > first[..19]);
    }
}
