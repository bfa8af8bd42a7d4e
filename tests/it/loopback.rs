//! Runs a test again in its own network namespace with only a loopback device.
//!
//! Nothing that such a test starts can connect to another machine.

use std::fs;
use std::process::Command;

use crate::namespaces;
pub use crate::namespaces::name_of;

/// Environment variable of the second run.
const INSIDE: &str = "SPOTKEEP_TEST_ON_LOOPBACK";

/// Whether this is the second run. The network devices are checked too: the variable alone proves
/// nothing.
pub fn is_on_loopback() -> bool {
    let inside = namespaces::inside(INSIDE).is_some();
    if inside {
        ensure_only_loopback();
    }
    inside
}

/// Runs a test again where nothing that it starts can connect to another machine.
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
        "there is a network device other than loopback:\n{devices}"
    );
}
