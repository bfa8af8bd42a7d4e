//! Counts the losses of a drill: records that are missing, and files that differ.

pub mod records;
pub mod workspace_digest;
