//! A short run of the soak test; `make soak N=500` is a long one.
//!
//! `scripts/soak/check` counts the losses, and shares no code with spotkeep.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::support::{SPOTKEEP, is_root, run, skip};

#[test]
fn a_fleet_that_is_preempted_at_random_moments_loses_nothing() {
    let test = "a_fleet_that_is_preempted_at_random_moments_loses_nothing";
    if !is_root() {
        return skip(test, "cutting the power of a disk needs root");
    }
    if run(Command::new("python3").arg("--version")).is_err() {
        return skip(test, "the checker is written in Python");
    }
    let mut soak = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/soak/run"));
    soak.args(["-n", "4", "--spotkeep", SPOTKEEP]);
    let ran = run(&mut soak).unwrap();
    assert!(ran.status.success(), "{}{}", ran.stderr, ran.stdout);
    let report: Value = serde_json::from_str(&ran.stdout).unwrap();
    let count = |name: &str| report[name].as_u64().unwrap();
    assert!(
        count("preemptions") >= 3 && count("starts") >= 3,
        "{report}"
    );
    assert!(
        report["acknowledged"]["word"].as_u64().unwrap() > 0,
        "{report}"
    );
}
