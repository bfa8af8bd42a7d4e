//! API errors: classifies why the API stopped a turn. Pure.
//!
//! The source is the record that Claude Code writes in place of an answer.
//!
//! Measured on 2.1.197 and 2.1.330 with a fake API that refused in each of these ways, with a key
//! and with a subscription's login. 2.1.330 records when a limit ends as a number, 2.1.197 only in
//! its text (`resets 2:38am (UTC)`). How long a 429 asks to wait is recorded by neither.

use std::fmt;
use std::time::Duration;

use sys::time::Timestamp;

/// The longest limit is that of a week. A later time was misread and is ignored.
const FURTHEST: Duration = Duration::from_secs(8 * 24 * 3_600);

/// Why the API stopped a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApiStop {
    /// A usage limit.
    Limit {
        /// When it ends, where that could be read.
        until: Option<Timestamp>,
    },
    /// No login, or it is refused.
    Login,
    /// The API has no capacity (529).
    Overloaded,
    /// The API limits the request rate (429), without a usage limit.
    RateLimited,
    /// The API fails.
    Server {
        /// HTTP status, 500 and above.
        status: u16,
    },
    /// The API was not reached, or its answer was cut off.
    Network,
    /// The API refuses this very request, or the account has no credit: asking again does not help.
    Refused {
        /// HTTP status.
        status: Option<u16>,
    },
    /// An unknown error.
    Unknown,
}

/// The record of an API error.
#[derive(Debug, Clone, Copy, Default)]
pub struct Recorded<'a> {
    /// `rate_limit`, `authentication_failed`, `server_error`, `billing_error`, `unknown` ...
    pub error: Option<&'a str>,
    /// HTTP status.
    pub status: Option<u16>,
    /// The message as it is shown.
    pub text: &'a str,
    /// When a limit ends, as a number; 2.1.330 only.
    pub resets_at: Option<Timestamp>,
    /// When it was recorded.
    pub at: Option<Timestamp>,
}

impl ApiStop {
    /// Classifies a record.
    #[must_use]
    pub fn from_record(recorded: &Recorded<'_>) -> Self {
        let Recorded { error, status, .. } = *recorded;
        let text = recorded.text.to_lowercase();
        if error == Some("authentication_failed")
            || matches!(status, Some(401 | 403))
            || text.contains("please run /login")
        {
            return Self::Login;
        }
        if error == Some("billing_error") {
            return Self::Refused { status };
        }
        if recorded.resets_at.is_some() || speaks_of_a_limit(&text) {
            return Self::Limit {
                until: ends(recorded),
            };
        }
        match status {
            Some(529) => Self::Overloaded,
            Some(429) => Self::RateLimited,
            Some(408) => Self::Network,
            Some(status @ 500..) => Self::Server { status },
            Some(400..=499) => Self::Refused { status },
            _ if error == Some("invalid_request") => Self::Refused { status },
            _ => in_the_midst(&text)
                .or_else(|| on_the_way(error, &text).then_some(Self::Network))
                .unwrap_or(Self::Unknown),
        }
    }

    /// Whether it is trouble of the API as such, so that other agents slow down too.
    #[must_use]
    pub fn is_api_trouble(self) -> bool {
        matches!(
            self,
            Self::Overloaded | Self::RateLimited | Self::Server { .. } | Self::Network
        )
    }
}

impl fmt::Display for ApiStop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Limit { until: Some(until) } => {
                write!(f, "a usage limit until {}", until.for_people())
            }
            Self::Limit { until: None } => f.write_str("a usage limit"),
            Self::Login => f.write_str("no valid login"),
            Self::Overloaded => f.write_str("the API is overloaded"),
            Self::RateLimited => f.write_str("the API asks to go slower"),
            Self::Server { status } => write!(f, "the API fails ({status})"),
            Self::Network => f.write_str("the API was not reached"),
            Self::Refused { .. } => f.write_str("the API refuses the request"),
            Self::Unknown => f.write_str("an API error"),
        }
    }
}

fn speaks_of_a_limit(text: &str) -> bool {
    let signs = ["reached", "hit your", "resets"];
    text.contains("limit")
        && signs.iter().any(|sign| text.contains(sign))
        && !text.starts_with("api error")
}

/// Classifies an error in the middle of an answer. It has no status; all that is shown is the API's
/// message.
fn in_the_midst(text: &str) -> Option<ApiStop> {
    let signs = [
        ("overloaded", ApiStop::Overloaded),
        ("rate limit", ApiStop::RateLimited),
        ("internal server error", ApiStop::Server { status: 500 }),
        ("invalid x-api-key", ApiStop::Login),
        ("oauth token", ApiStop::Login),
    ];
    let found = signs.into_iter().find(|(sign, _)| text.contains(sign));
    found.map(|(_, stop)| stop)
}

/// Whether the answer did not arrive, or not completely; the texts are of both versions.
fn on_the_way(error: Option<&str>, text: &str) -> bool {
    let signs = [
        "unable to connect",
        "connection",
        "econn",
        "timed out",
        "timeout",
        "malformed response",
        "stream",
        "network",
    ];
    error == Some("server_error") || signs.iter().any(|sign| text.contains(sign))
}

/// Returns when a limit ends: the recorded number, else the time in the text, which is accurate to
/// the minute.
fn ends(recorded: &Recorded<'_>) -> Option<Timestamp> {
    let spoken = || match recorded.text.split_once("resets ") {
        Some((_, words)) => parse_reset_time(words, recorded.at?),
        None => {
            let seconds: i64 = recorded.text.rsplit_once('|')?.1.trim().parse().ok()?;
            Timestamp::from_millis(seconds.checked_mul(1_000)?)
        }
    };
    let until = recorded.resets_at.or_else(spoken)?;
    let sane = recorded.at.is_none_or(|at| until.since(at) <= FURTHEST);
    sane.then_some(until)
}

/// Parses `2:38am (UTC)`, `Nov 26, 12:08am (Europe/Berlin)` or `4pm`: the next such time.
fn parse_reset_time(words: &str, said_at: Timestamp) -> Option<Timestamp> {
    let end = words.find(['\n', '·', '∙']).unwrap_or(words.len());
    let words = words[..end].trim();
    let (words, zone) = match words.split_once('(') {
        Some((words, zone)) => (words, Some(zone.split(')').next()?.trim())),
        None => (words, None),
    };
    let mut clock = None;
    let (mut month, mut day) = (None, None);
    for word in words
        .split([' ', ','])
        .filter(|word| !word.is_empty() && *word != "at")
    {
        if let Some(number) = month_of(word) {
            month = Some(number);
        } else if let Some(read) = clock_of(word) {
            clock = Some(read);
        } else if let Ok(number) = word.parse::<i8>() {
            day = Some(number);
        } else {
            word.parse::<i16>().ok()?; // A year adds nothing to the next such day.
        }
    }
    let date = match (month, day) {
        (Some(month), Some(day)) => Some((month, day)),
        (None, None) => None,
        _ => return None,
    };
    let (hour, minute) = clock?;
    said_at.next(zone, date, hour, minute)
}

/// Parses `2am`, `2:38pm`, `14:05`.
fn clock_of(word: &str) -> Option<(i8, i8)> {
    let lower = word.to_lowercase();
    let (digits, half) = match (lower.strip_suffix("am"), lower.strip_suffix("pm")) {
        (Some(digits), _) => (digits, Some(0)),
        (_, Some(digits)) => (digits, Some(12)),
        _ => (lower.as_str(), None),
    };
    let (hour, minute) = match digits.split_once(':') {
        Some((hour, minute)) => (hour.parse().ok()?, minute.parse().ok()?),
        // A number alone is a day or a year.
        None => (digits.parse().ok().filter(|_| half.is_some())?, 0),
    };
    let hour: i8 = hour;
    match half {
        Some(_) if !(1..=12).contains(&hour) => None,
        Some(half) => Some((hour % 12 + half, minute)),
        None => Some((hour, minute)),
    }
}

fn month_of(word: &str) -> Option<i8> {
    const MONTHS: [&str; 12] = [
        "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
    ];
    let lower = word.to_lowercase();
    let index = MONTHS.iter().position(|month| lower.starts_with(month))?;
    i8::try_from(index + 1).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(text: &str) -> Timestamp {
        Timestamp::parse(text).unwrap()
    }

    fn limit(text: &str) -> ApiStop {
        ApiStop::from_record(&Recorded {
            error: Some("rate_limit"),
            status: Some(429),
            text,
            at: Some(time("2026-11-22T23:38:47Z")),
            ..Recorded::default()
        })
    }

    #[test]
    fn an_error_in_the_middle_of_an_answer_is_recognized_by_the_message_of_the_api() {
        let server = ApiStop::Server { status: 500 };
        for (text, expected) in [
            ("API Error: Overloaded", ApiStop::Overloaded),
            (
                "API Error: This request would exceed your account's rate limit. Please try again \
                 later.",
                ApiStop::RateLimited,
            ),
            ("API Error: Internal server error", server),
            ("API Error: invalid x-api-key", ApiStop::Login),
            ("API Error: a drill", ApiStop::Unknown),
        ] {
            let stop = ApiStop::from_record(&Recorded {
                error: Some("unknown"),
                text,
                ..Recorded::default()
            });
            assert_eq!(stop, expected, "{text}");
        }
    }

    #[test]
    fn a_usage_limit_says_until_when() {
        for (text, until) in [
            (
                "You've hit your session limit · resets 2:38am (UTC)",
                Some("2026-11-23T02:38:00Z"),
            ),
            (
                "You've hit your session limit · resets 2am (UTC)\nmore",
                Some("2026-11-23T02:00:00Z"),
            ),
            (
                "You've hit your session limit · resets 11:38pm (UTC)",
                Some("2026-11-22T23:38:00Z"),
            ),
            (
                "You've hit your weekly limit · resets Nov 26, 12:08am (UTC)",
                Some("2026-11-26T00:08:00Z"),
            ),
            (
                "5-hour limit reached ∙ resets at 23:59 (UTC)",
                Some("2026-11-22T23:59:00Z"),
            ),
            (
                "Claude AI usage limit reached|1795399200",
                Some("2026-11-23T02:00:00Z"),
            ),
            ("Weekly limit reached", None),
            ("You've hit your session limit · resets soon", None),
            (
                "You've hit your session limit · resets 2am (Nowhere/Land)",
                None,
            ),
            (
                "You've hit your weekly limit · resets Feb 30, 1am (UTC)",
                None,
            ),
            ("Claude AI usage limit reached|1895399200", None),
            ("You've hit your monthly spend limit", None),
        ] {
            let until = until.map(time);
            assert_eq!(limit(text), ApiStop::Limit { until }, "{text}");
        }
    }

    #[test]
    fn a_time_without_a_zone_is_read_in_the_zone_of_the_machine() {
        assert!(matches!(
            limit("5-hour limit reached ∙ resets 4pm"),
            ApiStop::Limit { until: Some(_) }
        ));
    }

    #[test]
    fn a_limit_in_another_zone_is_read_where_its_name_is_known() {
        let stop = limit("You've hit your session limit · resets 8:38pm (America/New_York)");
        let ApiStop::Limit { until } = stop else {
            panic!("{stop:?}")
        };
        // A machine without time zone data cannot tell, and backs off.
        assert!(until.is_none_or(|until| until == time("2026-11-23T01:38:00Z")));
    }
}
