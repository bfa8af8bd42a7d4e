//! A question to the metadata server, and how its answer is read. Pure.

use std::time::Duration;

use super::metadata::parse_flag;
use sys::http::{Failure, Reply};

/// The key that turns TRUE when the preemption begins.
const KEY: &str = "instance/preempted";

/// How long a plain read may take.
const READ_LIMIT: Duration = Duration::from_secs(2);

/// A question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Answer when the value is not the one of this ETag, or after these seconds.
    Wait {
        /// Of the last answer; `0` where there was none.
        etag: String,
        /// At most 60.
        seconds: u64,
    },
    /// Answer now.
    Read,
}

impl Request {
    /// What comes after `/computeMetadata/v1/`.
    #[must_use]
    pub fn path_and_query(&self) -> String {
        match self {
            Self::Wait { etag, seconds } => format!(
                "{KEY}?wait_for_change=true&last_etag={}&timeout_sec={seconds}",
                escape(etag)
            ),
            Self::Read => KEY.to_owned(),
        }
    }

    /// How long the answer may take: 70 s where the server waits for 60.
    #[must_use]
    pub fn limit(&self) -> Duration {
        match self {
            Self::Wait { seconds, .. } => Duration::from_secs(seconds + (seconds / 6).max(2)),
            Self::Read => READ_LIMIT,
        }
    }
}

/// An ETag may be any bytes; in a query it may not end its parameter.
fn escape(etag: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    etag.bytes()
        .map(|byte| match byte {
            byte if plain(byte) => char::from(byte).to_string(),
            byte => format!("%{byte:02X}"),
        })
        .collect()
}

/// An answer, or the lack of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The value now.
    Value {
        /// Whether the preemption has begun.
        preempted: bool,
        /// Names this value; `None` from a server that names none.
        etag: Option<String>,
    },
    /// Nobody listens, or somebody who knows no such key; with the reason.
    Nobody(String),
    /// Anything else, with the reason.
    Trouble(String),
}

impl Answer {
    /// Reads an HTTP answer.
    #[must_use]
    pub fn from_reply(answer: Result<Reply, Failure>) -> Self {
        match answer {
            Ok(reply) if reply.status == 200 => match parse_flag(&reply.text()) {
                Some(preempted) => Self::Value {
                    preempted,
                    etag: reply.etag().map(str::to_owned),
                },
                None => Self::Trouble("it answers neither TRUE nor FALSE".into()),
            },
            Ok(reply) if reply.status == 404 => Self::Nobody("it answers 404".into()),
            Ok(reply) => Self::Trouble(format!("it answers {}", reply.status)),
            Err(failure @ Failure::Connect(_)) => Self::Nobody(failure.to_string()),
            Err(failure) => Self::Trouble(failure.to_string()),
        }
    }
}
