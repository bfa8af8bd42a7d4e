//! Runs the fuzz targets over their committed seeds and former crashes.
//!
//! A crash that was found once is tested for ever, and a target that no longer matches the program
//! fails here and not only at the next `make fuzz`.

#[path = "../../fuzz/src/lib.rs"]
mod targets;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// Returns the files in one of a target's directories, or none where it does not exist.
fn inputs(kind: &str, target: &str) -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let entries = fs::read_dir(dir.join(kind).join(target));
    entries
        .into_iter()
        .flatten()
        .map(|entry| entry.unwrap().path())
        .collect()
}

fn run(target: &str, check: fn(&[u8])) {
    let seeds = inputs("seeds", target);
    assert!(seeds.len() >= 3, "{target} has no seeds");
    let mut failed = Vec::new();
    for input in seeds.into_iter().chain(inputs("crashes", target)) {
        let bytes = fs::read(&input).unwrap();
        if catch_unwind(AssertUnwindSafe(|| check(&bytes))).is_err() {
            failed.push(input);
        }
    }
    assert!(failed.is_empty(), "{failed:?}");
}

#[test]
fn each_seed_of_a_transcript_is_read_as_promised() {
    run("transcript", targets::transcript::check);
}

#[test]
fn each_seed_of_a_session_file_is_read_as_promised() {
    run("session_file", targets::session_file::check);
}

#[test]
fn each_seed_of_a_state_file_is_read_as_promised() {
    run("state", targets::state::check);
}

#[test]
fn each_seed_of_a_configuration_is_read_and_edited_as_promised() {
    run("config", targets::config::check);
}

#[test]
fn each_seed_of_a_metadata_server_is_understood_as_promised() {
    run("metadata", targets::metadata::check);
}

#[test]
fn each_seed_of_tmux_is_read_as_promised() {
    run("tmux", targets::tmux::check);
}
