//! The persistent disk: finding, formatting if provably blank, growing, mounting, links to it.

pub mod blank_check;
pub mod device;
pub mod filesystem;
pub mod links;
pub mod merge_tree;
pub mod mount;
