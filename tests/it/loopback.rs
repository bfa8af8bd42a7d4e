//! A test that runs once more in a network namespace of its own with nothing but loopback, so that
//! nothing which it starts can reach beyond this machine.

use std::fs;
use std::process::Command;
use std::time::Duration;

use spotkeep::os::command::run;

/// Set where a test runs once more.
const INSIDE: &str = "SPOTKEEP_TEST_ON_LOOPBACK";

/// `module::test`, as the test runner takes it.
pub fn name_of<Play>() -> String {
    let name = std::any::type_name::<Play>();
    let name = name.strip_suffix("::{{closure}}").unwrap_or(name);
    name.split_once("::")
        .map_or(name, |(_, path)| path)
        .to_owned()
}

/// Whether this is that second run. The variable alone proves nothing, so it is looked at.
pub fn is_on_loopback() -> bool {
    let inside = std::env::var_os(INSIDE).is_some();
    if inside {
        ensure_only_loopback();
    }
    inside
}

/// Runs a test once more where nothing that it starts can reach beyond this machine.
pub fn again_on_loopback(test: &str, limit: Duration) {
    let mut inside = Command::new("unshare");
    inside
        .args([
            "-n",
            "-m",
            "--propagation",
            "private",
            "sh",
            "-c",
            "ip link set lo up && exec \"$0\" \"$@\"",
        ])
        .arg(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture"])
        .env_clear()
        .envs(
            [
                "PATH",
                "SPOTKEEP_CI",
                "RUST_BACKTRACE",
                "CUTS",
                "SPOTKEEP_VM_PROGRAM",
                "SPOTKEEP_RECORD_REFUSALS",
            ]
            .iter()
            .filter_map(|name| Some((name, std::env::var_os(name)?))),
        )
        .env("HOME", "/nonexistent")
        .env(INSIDE, "1");
    let output = run(&mut inside, limit).unwrap();
    eprintln!("{}{}", output.stdout, output.stderr);
    assert!(
        output.status.success(),
        "{test} failed on loopback: {}",
        output.status
    );
    assert!(
        output.stdout.contains("1 passed"),
        "{test} did not run on loopback"
    );
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
