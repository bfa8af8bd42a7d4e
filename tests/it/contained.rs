//! Tests of `scripts/contain`, which cleans up after tests.
//!
//! Processes, mounts and loop devices of a test end with it, also when it is killed.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use sys::process::with_marker;

use crate::loop_device::LoopDevice;
use crate::support::{is_root, said, skip};
use testing::wait::{during, until};

/// Environment variable of the second run of the test, which leaves things behind.
const LEAVES: &str = "SPOTKEEP_TEST_LEAVES";

/// Starts a daemon and, as root, mounts a loop device; prints its path, and waits to be killed.
#[expect(clippy::print_stdout, reason = "the test reads it")]
fn leave_things() {
    let mut daemon = Command::new("setsid");
    daemon.args(["--fork", "tail", "-f", "/dev/null"]);
    daemon.stdout(Stdio::null()).stderr(Stdio::null());
    assert!(daemon.status().unwrap().success());
    let mut device = "none".to_owned();
    if is_root() {
        let dir = tempfile::tempdir().unwrap().keep();
        let image = dir.join("image");
        let file = fs::File::create(&image).unwrap();
        file.set_len(16 << 20).unwrap();
        said(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image)).ok();
        let disk = LoopDevice::attach(&image, &[]);
        said(Command::new("mount").args([&disk.path, &dir])).ok();
        device = disk.path.display().to_string();
        std::mem::forget(disk);
    }
    println!("left: {device}");
    std::thread::park();
}

#[test]
fn nothing_is_left_of_a_test_that_is_killed_nor_of_one_whose_runner_is() {
    if std::env::var_os(LEAVES).is_some() {
        return leave_things();
    }
    let test = "contained::nothing_is_left_of_a_test_that_is_killed_nor_of_one_whose_runner_is";
    let contain = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/contain");
    let check = said(Command::new(&contain).arg("--check"));
    if check.code != 0 {
        return skip(test, &check.err);
    }
    for signal in ["-KILL", "-TERM", "none: its runner ends"] {
        let id = sys::uuid::new_uuid();
        let mut runner = Command::new(&contain)
            .arg(std::env::current_exe().unwrap())
            .args([test, "--exact", "--nocapture"])
            .env(LEAVES, &id)
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(runner.stdout.take().unwrap()).lines();
        let device = during("things are left", || {
            lines.find_map(|line| Some(line.unwrap().strip_prefix("left: ")?.to_owned()))
        });
        let device = device.unwrap();
        let backing = format!(
            "/sys/block/{}/loop/backing_file",
            device.trim_start_matches("/dev/")
        );
        let of_test = || with_marker(&format!("{LEAVES}={id}")).len();
        assert!(of_test() >= 2, "the test or its daemon does not run");
        assert_eq!(Path::new(&backing).exists(), is_root());

        if signal.starts_with('-') {
            let group = format!("-{}", runner.id());
            said(Command::new("kill").args([signal, "--", &group])).ok();
        }
        // Close the pipe.
        drop(lines);
        during("the test ends", || runner.wait()).unwrap();
        // The kernel ends processes and releases a device a moment later.
        until(&format!("{signal}: all processes have ended"), || {
            (of_test() == 0).then_some(())
        });
        until(&format!("{signal}: {device} is released"), || {
            (!Path::new(&backing).exists()).then_some(())
        });
    }
}
