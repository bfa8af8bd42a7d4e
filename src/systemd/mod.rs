//! systemd: our units, the word to the service manager, the cgroup of each agent.
