//! The disk that survives: found by its name, formatted only where it is provably blank, grown, mounted, linked to.

pub mod blank;
pub mod copy;
pub mod device;
pub mod filesystem;
pub mod links;
pub mod mount;
