//! Helpers for the tests of all crates: waiting, and a fake HTTP server on loopback.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::allow_attributes,
    reason = "a failed unwrap is a failed test"
)]

pub mod http;
pub mod wait;

/// Whether the test runs as root, as `test` needs. If not, prints that it is skipped; in CI, fails.
pub fn is_root(test: &str) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let is_root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
    assert!(
        is_root || std::env::var_os("SPOTKEEP_CI").is_none(),
        "{test} needs root"
    );
    if !is_root {
        eprintln!("skipped: {test} needs root");
    }
    is_root
}
