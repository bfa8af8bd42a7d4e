//! systemd: spotkeep's units, their installation, sd_notify, the cgroup of each agent.

pub mod cgroup;
pub mod install;
pub mod sd_notify;
pub mod units;
