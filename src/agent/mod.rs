//! One agent: how a process becomes its claude, and how it ends.

pub mod exec;
pub mod terminate;
