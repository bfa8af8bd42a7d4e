//! The operating system, as narrow as we need it: durable files, processes by pidfd, peer
//! credentials, mounts, change notices, signals. The only room that names `rustix`, `tempfile` and
//! `signal-hook`.

pub mod block;
pub mod command;
pub mod crash;
pub mod cut;
pub mod dirs;
pub mod files;
pub mod mounts;
pub mod others;
pub mod owner;
pub mod place;
pub mod process;
pub mod signal;
pub mod socket;
pub mod terminal;
pub mod thread;
pub mod usage;
pub mod user;
pub mod uuid;
pub mod watch;
pub mod watched;
