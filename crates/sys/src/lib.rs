//! Operating system interface: durable files, processes, mounts, inotify, signals, commands, HTTP.
//!
//! Processes are handled by pidfd, and peers of a socket by their credentials. The only crate that
//! uses `rustix`, `tempfile` and `signal-hook`.

pub mod block;
pub mod cloud_provider;
pub mod command;
pub mod deadline;
pub mod error;
pub mod exit;
pub mod failpoint;
pub mod files;
pub mod hash;
pub mod http;
pub mod inotify;
pub mod mounts;
pub mod power_cut;
pub mod prefix;
pub mod proc_usage;
pub mod proc_usage_others;
pub mod process;
pub mod run_as;
pub mod secure_dir;
pub mod signal;
pub mod size;
pub mod socket;
pub mod terminal;
pub mod thread;
pub mod time;
pub mod time_limit;
pub mod trusted_path;
pub mod user;
pub mod uuid;
