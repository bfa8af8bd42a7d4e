//! A test that runs once more, in namespaces of its own: as a new process, which alone can enter them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use testing::wait::during;

/// What it keeps of its environment.
const KEPT: [&str; 6] = [
    "PATH",
    "SPOTKEEP_CI",
    "RUST_BACKTRACE",
    "CUTS",
    "SPOTKEEP_VM_PROGRAM",
    "SPOTKEEP_RECORD_REFUSALS",
];

/// `module::test`, as the test runner takes it, of the test that this closure is in.
pub fn name_of<Play>() -> String {
    let name = std::any::type_name::<Play>();
    let name = name.strip_suffix("::{{closure}}").unwrap_or(name);
    name.split_once("::")
        .map_or(name, |(_, path)| path)
        .to_owned()
}

/// Where this is the second run of a test, for which `variable` was set: its directory.
pub fn inside(variable: &str) -> Option<PathBuf> {
    let dir = PathBuf::from(std::env::var_os(variable)?);
    std::fs::write(ran(&dir), "").unwrap();
    Some(dir)
}

/// Runs a test once more by what `enter` makes of an empty directory: a command that runs the one in
/// its last arguments apart.
pub fn again(test: &str, variable: &str, enter: impl FnOnce(&Path) -> Command) {
    let dir = tempfile::Builder::new().prefix("sk-").tempdir().unwrap();
    let kept = KEPT
        .iter()
        .filter_map(|name| Some((name, std::env::var_os(name)?)));
    let mut enter = enter(dir.path());
    enter
        .arg(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture"])
        .env_clear()
        .envs(kept)
        .env("HOME", "/nonexistent")
        .env(variable, dir.path())
        .stdin(Stdio::null());
    // What it says is seen at once, also when it does not come to its end.
    let status = during(&format!("{test}, which runs apart"), || enter.status()).unwrap();
    // A name that no test has would end well too.
    let passed = status.success() && ran(dir.path()).exists();
    assert!(passed, "{test} failed apart: {status}");
}

fn ran(dir: &Path) -> PathBuf {
    dir.join("it-ran")
}
