//! The checks of the fuzz targets: each passes its input to the program's own parsers.
//!
//! A check fails where a parser breaks an invariant. `targets/` passes these functions to
//! libFuzzer, and `tests/it/fuzz.rs` runs them with every committed seed and former crash.

pub mod config;
pub mod metadata;
pub mod session_file;
pub mod state;
pub mod tmux;
pub mod transcript;

/// A number below `below`, taken from the last bytes of the input. So a seed can be a real file.
fn choice(bytes: &[u8], below: usize) -> usize {
    let end = bytes.len().saturating_sub(2);
    let chosen = bytes[end..]
        .iter()
        .fold(0, |sum, byte| sum * 256 + usize::from(*byte));
    chosen % below.max(1)
}
