//! Integration tests of the whole program: real processes, real tmux, real files.
//!
//! Claude is replaced by the fake Claude, and the cloud and the API by fakes on loopback.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::allow_attributes,
    reason = "a failed unwrap is a failed test"
)]

mod boot;
mod command_output;
mod gcp;
mod keeper;
mod loop_device;
mod loopback;
mod namespaces;
mod old_program;
mod pane;
mod real_claude;
mod s3;
mod support;
mod terminal;

mod adopt;
mod api_errors;
mod arrows;
mod backup;
mod backup_guard;
mod backup_restore;
mod boot_claude;
mod boot_deb;
mod boot_gcp;
mod boot_keeper;
mod boot_setup;
mod boot_shutdown;
mod boot_upgrade;
mod checkpoint;
mod checkpoints;
mod cli;
mod config;
mod contained;
mod crash;
mod damage;
mod disk;
mod docs;
mod doctor;
mod faults;
mod fleet;
mod fuzz;
mod many_agents;
mod matrix;
mod mount_loss;
mod notice;
mod notice_and_boot;
mod notify;
mod outputs;
mod policy;
mod privileges;
mod real_claude_adopt;
mod real_claude_api_errors;
mod real_claude_drill;
mod real_claude_note;
mod real_claude_session;
mod real_claude_start;
mod real_claude_typing;
mod report;
mod save;
mod security;
mod send;
mod session;
mod setup_disk;
mod setup_machine;
mod setup_vm;
mod soak;
mod top;
mod upgrade;
mod vm;
mod words;
