//! spotkeep keeps Claude Code agents alive across spot VM preemptions.

// Tests may take the short way: a failed unwrap is a failed test.
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::allow_attributes
    )
)]

pub mod agent;
pub mod claude;
pub mod cli;
pub mod config;
pub mod drill;
pub mod error;
pub mod http;
pub mod keeper;
pub mod notice;
pub mod os;
pub mod restore;
pub mod root;
pub mod save;
pub mod state;
pub mod time;
pub mod tmux;
pub mod workspace;
