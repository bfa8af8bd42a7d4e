//! The disk that survives: found by its name, formatted only where it is provably blank, grown, mounted, linked to.

pub mod blank_check;
pub mod device;
pub mod filesystem;
pub mod links;
pub mod merge_tree;
pub mod mount;
