//! The keeper and tmux as units.
