//! Why the API stopped a turn, out of the words that Claude records in place of an answer.

use crate::time::Timestamp;

/// Why the API stopped a turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ApiStop {
    /// A usage limit.
    Limit {
        /// When it ends, in Claude's words (`3am (UTC)`) or as RFC 3339.
        until: Option<String>,
    },
    /// No login, or it is refused.
    Login,
    /// The API is overloaded, is failing, or asks to go slower.
    Overloaded {
        /// HTTP status.
        status: Option<u16>,
    },
    /// Anything else; without a status the API was not reached.
    Error {
        /// HTTP status.
        status: Option<u16>,
    },
}

impl ApiStop {
    /// Reads it from what Claude recorded. The words of limits are known from public reports, the
    /// rest is measured.
    #[must_use]
    pub fn of(error: Option<&str>, status: Option<u16>, text: &str) -> Self {
        let lower = text.to_lowercase();
        if error == Some("authentication_failed")
            || matches!(status, Some(401 | 403))
            || lower.contains("/login")
        {
            Self::Login
        } else if lower.contains("limit")
            && ["reached", "hit your", "resets"]
                .iter()
                .any(|word| lower.contains(word))
            && !lower.starts_with("api error")
        {
            Self::Limit { until: until(text) }
        } else if matches!(status, Some(429 | 500..)) {
            Self::Overloaded { status }
        } else {
            Self::Error { status }
        }
    }
}

/// `... resets 3am (UTC)` or `...|1763851200`.
fn until(text: &str) -> Option<String> {
    if let Some((_, rest)) = text.split_once("resets ") {
        let end = rest.find(['\n', '·', '∙']).unwrap_or(rest.len());
        return Some(rest[..end].trim().trim_start_matches("at ").to_owned());
    }
    let seconds: i64 = text.rsplit_once('|')?.1.trim().parse().ok()?;
    Timestamp::from_millis(seconds.checked_mul(1_000)?).map(|at| at.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_usage_limit_says_until_when() {
        for (text, until) in [
            (
                "You've hit your session limit · resets 3am (UTC)",
                Some("3am (UTC)"),
            ),
            ("5-hour limit reached ∙ resets 4pm", Some("4pm")),
            (
                "Claude AI usage limit reached|1763851200",
                Some("2025-11-22T22:40:00.000Z"),
            ),
            ("Weekly limit reached", None),
        ] {
            assert_eq!(
                ApiStop::of(Some("rate_limit"), Some(429), text),
                ApiStop::Limit {
                    until: until.map(str::to_owned)
                }
            );
        }
    }
}
