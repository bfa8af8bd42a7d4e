//! systemd: our units, the word to the service manager, the cgroup of each agent.

pub mod cgroup;
pub mod install;
pub mod sd_notify;
pub mod units;
