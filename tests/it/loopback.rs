//! A test that runs once more in a network namespace of its own with nothing but loopback, so that
//! nothing which it starts can reach beyond this machine.

use std::fs;
use std::process::Command;

use crate::namespaces;
pub use crate::namespaces::name_of;

/// Set where a test runs once more.
const INSIDE: &str = "SPOTKEEP_TEST_ON_LOOPBACK";

/// Whether this is that second run. The variable alone proves nothing, so it is looked at.
pub fn is_on_loopback() -> bool {
    let inside = namespaces::inside(INSIDE).is_some();
    if inside {
        ensure_only_loopback();
    }
    inside
}

/// Runs a test once more where nothing that it starts can reach beyond this machine.
pub fn again_on_loopback(test: &str) {
    namespaces::again(test, INSIDE, |_| {
        let mut enter = Command::new("unshare");
        let up = "ip link set lo up && exec \"$0\" \"$@\"";
        enter.args(["--net", "sh", "-c", up]);
        enter
    });
}

pub fn ensure_only_loopback() {
    let devices = fs::read_to_string("/proc/net/dev").unwrap();
    let names = devices
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, _)| name.trim());
    assert!(
        names.into_iter().all(|name| name == "lo"),
        "there is a network beside loopback:\n{devices}"
    );
}
