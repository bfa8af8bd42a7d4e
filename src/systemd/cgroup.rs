//! A cgroup (version 2) for each launch of an agent, below the unit of the tmux server.
