//! Requests to the metadata server, and parsing of its answers. Pure.

use std::time::Duration;

use super::metadata::parse_flag;
use sys::http::{Failure, Reply};

/// The key that turns TRUE when the preemption begins.
const KEY: &str = "instance/preempted";

/// Time limit of a plain read.
const READ_LIMIT: Duration = Duration::from_secs(2);

/// A request for the value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Answer when the value differs from the one of this ETag, or after these seconds.
    Wait {
        /// The ETag of the last answer; `0` if there was none.
        etag: String,
        /// At most 60.
        seconds: u64,
    },
    /// Answer now.
    Read,
}

impl Request {
    /// The path and query after `/computeMetadata/v1/`.
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

    /// Time limit of the answer: 70 s if the server waits for 60 s.
    #[must_use]
    pub fn limit(&self) -> Duration {
        match self {
            Self::Wait { seconds, .. } => Duration::from_secs(seconds + (seconds / 6).max(2)),
            Self::Read => READ_LIMIT,
        }
    }
}

/// Percent-encodes an ETag, which may be any bytes, for a query.
fn escape(etag: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    etag.bytes()
        .map(|byte| match byte {
            byte if plain(byte) => char::from(byte).to_string(),
            byte => format!("%{byte:02X}"),
        })
        .collect()
}

/// The answer to a request, or its failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The value now.
    Value {
        /// Whether the preemption has begun.
        preempted: bool,
        /// Identifies this value; `None` from a server without ETags.
        etag: Option<String>,
    },
    /// Nothing listens at the address, or a server without this key; with the reason.
    NoServer(String),
    /// Anything else, with the reason.
    Trouble(String),
}

impl Answer {
    /// Parses an HTTP answer.
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
            Ok(reply) if reply.status == 404 => Self::NoServer("it answers 404".into()),
            Ok(reply) => Self::Trouble(format!("it answers {}", reply.status)),
            Err(failure @ Failure::Connect(_)) => Self::NoServer(failure.to_string()),
            Err(failure) => Self::Trouble(failure.to_string()),
        }
    }
}
