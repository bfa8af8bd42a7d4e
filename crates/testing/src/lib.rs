//! What tests of all crates share: how they wait, and a loopback HTTP server that does what it is told.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::allow_attributes,
    reason = "a failed unwrap is a failed test"
)]

pub mod http;
pub mod wait;
