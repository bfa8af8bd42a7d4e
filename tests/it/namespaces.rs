//! Runs a test a second time as a new process in its own namespaces.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use testing::wait::during;

/// The environment variables that the second run keeps.
const KEPT: [&str; 8] = [
    "PATH",
    "CARGO_TARGET_DIR",
    "SPOTKEEP_CI",
    "SPOTKEEP_WITHOUT_OLD_PROGRAM",
    "RUST_BACKTRACE",
    "CUTS",
    "SPOTKEEP_VM_PROGRAM",
    "SPOTKEEP_RECORD_REFUSALS",
];

/// The name, as the test runner takes it (`module::test`), of the test that a closure is in.
pub fn name_of<Closure>() -> String {
    let name = std::any::type_name::<Closure>();
    let name = name.strip_suffix("::{{closure}}").unwrap_or(name);
    name.split_once("::")
        .map_or(name, |(_, path)| path)
        .to_owned()
}

/// The directory of a second run, for which `variable` is set; `None` in the first run.
pub fn inside(variable: &str) -> Option<PathBuf> {
    let dir = PathBuf::from(std::env::var_os(variable)?);
    std::fs::write(ran(&dir), "").unwrap();
    Some(dir)
}

/// Runs a test again. `enter` gets an empty directory and returns a command that runs the program
/// in its last arguments in namespaces.
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
    // Its output is inherited, so that it is seen also when the test hangs.
    let status = during(&format!("the second run of {test}"), || enter.status()).unwrap();
    // A name that no test has would succeed too.
    let passed = status.success() && ran(dir.path()).exists();
    assert!(passed, "{test} failed in its namespaces: {status}");
}

fn ran(dir: &Path) -> PathBuf {
    dir.join("it-ran")
}
