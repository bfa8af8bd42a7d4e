//! Wall-clock times for people, and durations as people write them. The only module that names
//! `jiff`. Nothing is ever decided by comparing wall clocks of two lives.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{Context as _, Result, ensure};

/// A moment on the wall clock, written as RFC 3339 in UTC with milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(jiff::Timestamp);

impl Timestamp {
    /// Now, to the millisecond.
    #[must_use]
    pub fn now() -> Self {
        let now = jiff::Timestamp::now();
        Self(now.round(jiff::Unit::Millisecond).unwrap_or(now))
    }

    /// The time of a file, to the millisecond; 1970 where it is beyond all that can be written down.
    #[must_use]
    pub fn of(time: std::time::SystemTime) -> Self {
        let time = jiff::Timestamp::try_from(time).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        Self(time.round(jiff::Unit::Millisecond).unwrap_or(time))
    }

    /// Reads an RFC 3339 time.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        text.parse().ok().map(Self)
    }

    /// A moment given in milliseconds since 1970.
    #[must_use]
    pub fn from_millis(millis: i64) -> Option<Self> {
        jiff::Timestamp::from_millisecond(millis).ok().map(Self)
    }

    /// Milliseconds since 1970.
    #[must_use]
    pub fn as_millis(self) -> i64 {
        self.0.as_millisecond()
    }

    /// How long after `earlier` this is; zero where a clock was set back.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::try_from(self.0.duration_since(earlier.0)).unwrap_or_default()
    }

    /// This moment plus `duration`.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.checked_add(duration).unwrap_or(self.0))
    }

    /// The next moment after this one at which a calendar in `zone` (that of the machine where there
    /// is none) shows this hour and minute, on this month and day where they are given. One that was
    /// two minutes ago counts too: whoever spoke to the minute meant it. `None` where there is no
    /// such zone or day.
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

    /// As `2026-11-22 03:12:07 UTC`.
    #[must_use]
    pub fn for_people(self) -> String {
        self.0.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
    }

    /// As `2026-11-22`, in UTC.
    #[must_use]
    pub fn day(self) -> String {
        self.0.strftime("%Y-%m-%d").to_string()
    }

    /// As `03:12`, in UTC.
    #[must_use]
    pub fn minute(self) -> String {
        self.0.strftime("%H:%M").to_string()
    }

    /// As `20261122T031207123`, in UTC: names made of it sort by time.
    #[must_use]
    pub fn digits(self) -> String {
        self.0.strftime("%Y%m%dT%H%M%S%3f").to_string()
    }

    /// Reads what [`Self::digits`] wrote.
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

    /// As `03:12:07`, in UTC.
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

/// Reads a duration as people write it: `30s`, `1m30s`, `2 hours`.
///
/// # Errors
/// It is none, or it is negative.
pub fn parse_duration(text: &str) -> Result<Duration> {
    let signed: jiff::SignedDuration = text
        .parse()
        .ok()
        .with_context(|| format!("\"{text}\" is not a duration; write it as 30s, 5m or 1h30m"))?;
    ensure!(
        !signed.is_negative(),
        "\"{text}\" is negative; a duration counts forwards"
    );
    Duration::try_from(signed).context("the duration is too long")
}

/// A duration in its two largest units: `350 ms`, `4.2 s`, `3m 10s`, `2d 4h`.
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
    fn durations_are_shown_in_two_units_at_most() {
        assert_eq!(short(Duration::from_millis(350)), "350 ms");
        assert_eq!(short(Duration::from_secs(190)), "3m 10s");
        assert_eq!(short(Duration::from_secs(2 * 86_400 + 4 * 3_600)), "2d 4h");
    }

    #[test]
    fn a_timestamp_survives_json() {
        let now = Timestamp::now();
        let text = serde_json::to_string(&now).unwrap();
        assert_eq!(serde_json::from_str::<Timestamp>(&text).unwrap(), now);
        assert!(text.ends_with("Z\""), "{text}");
    }
}
