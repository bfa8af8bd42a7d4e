//! What a drill counts afterwards: records that were lost, and files that differ.

pub mod records;
pub mod workspace_digest;
