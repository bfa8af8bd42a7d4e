//! Agent processes: executing `claude` in a pane, and ending it with everything that it started.

pub mod exec;
pub mod terminate;
