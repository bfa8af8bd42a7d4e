//! What each fuzz target does with its bytes: it gives them to the readers that the program uses, and fails where
//! one breaks what it promises. `targets/` hands these functions to libFuzzer, and `tests/it/fuzz.rs` runs them over
//! every committed seed and former crash.

pub mod config;
pub mod metadata;
pub mod session_file;
pub mod state;
pub mod tmux;
pub mod transcript;

/// A number that the input itself chooses: its last bytes. So a seed is a file as it is found, and not one in a format
/// of ours.
fn choice(bytes: &[u8], below: usize) -> usize {
    let end = bytes.len().saturating_sub(2);
    let chosen = bytes[end..]
        .iter()
        .fold(0, |sum, byte| sum * 256 + usize::from(*byte));
    chosen % below.max(1)
}
