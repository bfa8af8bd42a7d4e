//! Wall-clock timestamps and durations, as people read and write them.
//!
//! The only module that uses `jiff`. No decision compares wall clocks of two boots.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::error::{Context as _, Result, ensure};

/// A time on the wall clock, written as RFC 3339 in UTC with milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(jiff::Timestamp);

impl Timestamp {
    /// Returns the present time, to the millisecond.
    #[must_use]
    pub fn now() -> Self {
        let now = jiff::Timestamp::now();
        Self(now.round(jiff::Unit::Millisecond).unwrap_or(now))
    }

    /// Returns the time of a file, to the millisecond; 1970 where it is out of range.
    #[must_use]
    pub fn from_system_time(time: std::time::SystemTime) -> Self {
        let time = jiff::Timestamp::try_from(time).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        Self(time.round(jiff::Unit::Millisecond).unwrap_or(time))
    }

    /// Reads an RFC 3339 time.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        text.parse().ok().map(Self)
    }

    /// Returns the time that is so many milliseconds after 1970.
    #[must_use]
    pub fn from_millis(millis: i64) -> Option<Self> {
        jiff::Timestamp::from_millisecond(millis).ok().map(Self)
    }

    /// Returns the milliseconds since 1970.
    #[must_use]
    pub fn as_millis(self) -> i64 {
        self.0.as_millisecond()
    }

    /// Returns the duration since `earlier`; zero where a clock was set back.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::try_from(self.0.duration_since(earlier.0)).unwrap_or_default()
    }

    /// Returns this time plus `duration`.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.checked_add(duration).unwrap_or(self.0))
    }

    /// Returns this time minus `duration`.
    #[must_use]
    pub fn before(self, duration: Duration) -> Self {
        Self(self.0.checked_sub(duration).unwrap_or(self.0))
    }

    /// Returns the next time after this one at which a calendar in `zone` (that of the machine
    /// where it is not given) shows this hour and minute, on this month and day where they are
    /// given. A time up to two minutes ago counts too: a text to the minute may mean the present
    /// one. `None` where there is no such zone or day.
    #[must_use]
    pub fn next(
        self,
        zone: Option<&str>,
        date: Option<(i8, i8)>,
        hour: i8,
        minute: i8,
    ) -> Option<Self> {
        let zone = match zone {
            Some(name) => jiff::tz::TimeZone::get(name).ok()?,
            None => jiff::tz::TimeZone::system(),
        };
        let from = self
            .0
            .checked_sub(jiff::SignedDuration::from_mins(2))
            .ok()?;
        let today = from.to_zoned(zone.clone()).date();
        let clock = jiff::civil::Time::new(hour, minute, 0, 0).ok()?;
        let days = match date {
            Some((month, day)) => {
                let of = |year| jiff::civil::Date::new(year, month, day).ok();
                [of(today.year()), of(today.year() + 1)]
            }
            None => [Some(today), today.tomorrow().ok()],
        };
        days.into_iter()
            .flatten()
            .filter_map(|day| {
                Some(
                    day.to_datetime(clock)
                        .to_zoned(zone.clone())
                        .ok()?
                        .timestamp(),
                )
            })
            .find(|moment| *moment >= from)
            .map(Self)
    }

    /// Returns it as `2026-11-22 03:12:07 UTC`.
    #[must_use]
    pub fn for_people(self) -> String {
        self.0.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
    }

    /// Returns it as `2026-11-22`, in UTC.
    #[must_use]
    pub fn day(self) -> String {
        self.0.strftime("%Y-%m-%d").to_string()
    }

    /// Returns it as `Sun 22 Nov`, in UTC.
    #[must_use]
    pub fn calendar_day(self) -> String {
        self.0.strftime("%a %-d %b").to_string()
    }

    /// Returns it as `03:12`, in UTC.
    #[must_use]
    pub fn minute(self) -> String {
        self.0.strftime("%H:%M").to_string()
    }

    /// Returns it as `20261122T031207123`, in UTC: names that contain it sort by time.
    #[must_use]
    pub fn digits(self) -> String {
        self.0.strftime("%Y%m%dT%H%M%S%3f").to_string()
    }

    /// Reads what [`Self::digits`] returned.
    #[must_use]
    pub fn from_digits(text: &str) -> Option<Self> {
        let part = |range: std::ops::Range<usize>| text.get(range);
        Self::parse(&format!(
            "{}-{}-{}T{}:{}:{}.{}Z",
            part(0..4)?,
            part(4..6)?,
            part(6..8)?,
            part(9..11)?,
            part(11..13)?,
            part(13..15)?,
            part(15..18)?
        ))
    }

    /// Returns it as `03:12:07`, in UTC.
    #[must_use]
    pub fn clock(self) -> String {
        self.0.strftime("%H:%M:%S").to_string()
    }
}

impl std::fmt::Display for Timestamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.3}", self.0)
    }
}

/// A change of the clock by more than this counts as another clock.
const CLOCK_STEP: Duration = Duration::from_secs(2);

/// Returns the wall-clock time of an instant of this process: the same result each time, unless the
/// clock is set.
#[must_use]
pub fn moment(at: Instant) -> Timestamp {
    static ANCHOR: Mutex<Option<(Instant, Timestamp)>> = Mutex::new(None);
    let mut anchor = ANCHOR.lock().unwrap_or_else(PoisonError::into_inner);
    let now = (Instant::now(), Timestamp::now());
    let (instant, moment) = *anchor.get_or_insert(now);
    let expected = moment.after(now.0.saturating_duration_since(instant));
    let off = expected.since(now.1).max(now.1.since(expected));
    let (instant, moment) = match off > CLOCK_STEP {
        true => *anchor.insert(now),
        false => (instant, moment),
    };
    match at.checked_duration_since(instant) {
        Some(later) => moment.after(later),
        None => moment.before(instant.saturating_duration_since(at)),
    }
}

/// Reads a duration as people write it: `30s`, `1m30s`, `2 hours`.
///
/// # Errors
/// It is not a duration, or it is negative.
pub fn parse_duration(text: &str) -> Result<Duration> {
    let signed: jiff::SignedDuration = text
        .parse()
        .ok()
        .with_context(|| format!("\"{text}\" is not a duration; write it as 30s, 5m or 1h30m"))?;
    ensure!(
        !signed.is_negative(),
        "\"{text}\" is negative; a duration must be positive"
    );
    Duration::try_from(signed).context("the duration is too long")
}

/// Reads how long ago something was: a duration, or whole days or weeks, `7d`, `2w`.
///
/// # Errors
/// It is neither.
pub fn parse_age(text: &str) -> Result<Duration> {
    const DAY: u64 = 86_400;
    let of = |unit: char, seconds: u64| {
        let count: u64 = text.trim().strip_suffix(unit)?.trim_end().parse().ok()?;
        count.checked_mul(seconds).map(Duration::from_secs)
    };
    match of('d', DAY).or_else(|| of('w', 7 * DAY)) {
        Some(age) => Ok(age),
        None => parse_duration(text).ok().with_context(|| {
            format!("\"{text}\" is not a span of time; write it as 12h, 7d or 2w")
        }),
    }
}

/// Returns a duration in its two largest units: `350 ms`, `4.2 s`, `3m 10s`, `2d 4h`.
#[must_use]
pub fn short(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 => format!("{} ms", duration.as_millis()),
        1..=9 => format!("{:.1} s", duration.as_secs_f32()),
        10..=59 => format!("{seconds} s"),
        60..=3_599 => format!("{}m {}s", seconds / 60, seconds % 60),
        3_600..=86_399 => format!("{}h {}m", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

/// Returns a duration in its largest unit, in four characters at most: `42s`, `3m`, `5h`, `12d`.
/// For a column that is redrawn all the time, and must not flicker.
#[must_use]
pub fn brief(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..=59 => format!("{seconds}s"),
        60..=3_599 => format!("{}m", seconds / 60),
        3_600..=172_799 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", (seconds / 86_400).min(999)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        assert_eq!(parse_duration("60s").unwrap(), Duration::from_secs(60));
        assert_eq!(parse_duration("1h30m").unwrap(), Duration::from_secs(5_400));
        assert!(
            parse_duration("soon")
                .unwrap_err()
                .to_string()
                .contains("30s")
        );
        assert!(parse_duration("-5s").is_err());
    }

    #[test]
    fn an_age_may_be_in_days_and_weeks() {
        let days = |text| parse_age(text).unwrap().as_secs() / 86_400;
        assert_eq!((days("7d"), days("2w"), days("48h")), (7, 14, 2));
        let refused = parse_age("last week").unwrap_err().to_string();
        assert!(refused.contains("7d"), "{refused}");
    }

    #[test]
    fn durations_are_shown_in_two_units_at_most() {
        assert_eq!(short(Duration::from_millis(350)), "350 ms");
        assert_eq!(short(Duration::from_secs(190)), "3m 10s");
        assert_eq!(short(Duration::from_secs(2 * 86_400 + 4 * 3_600)), "2d 4h");
    }

    #[test]
    fn an_instant_is_the_same_moment_each_time() {
        let instant = Instant::now();
        let first = moment(instant);
        assert!(Timestamp::now().since(first) < Duration::from_secs(60));
        let next = moment(instant + Duration::from_millis(1_500));
        assert_eq!(next.since(first), Duration::from_millis(1_500));
        assert_eq!(moment(instant), first);
    }

    #[test]
    fn a_duration_in_a_column_has_one_unit() {
        for (seconds, text) in [
            (0, "0s"),
            (59, "59s"),
            (60, "1m"),
            (7_199, "1h"),
            (172_799, "47h"),
            (172_800, "2d"),
            (1 << 40, "999d"),
        ] {
            assert_eq!(brief(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn a_timestamp_survives_json() {
        let now = Timestamp::now();
        let text = serde_json::to_string(&now).unwrap();
        assert_eq!(serde_json::from_str::<Timestamp>(&text).unwrap(), now);
        assert!(text.ends_with("Z\""), "{text}");
    }
}
