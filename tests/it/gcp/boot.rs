//! Tests of the VM's start-up script with a real shell and block device.
//!
//! The script runs in its own mount namespace.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use gcp::scripts::startup;
use sys::command::Output;

use crate::loop_device::LoopDevice;
use crate::support::{is_root, run, skip};

/// A simulated VM: a disk, and the directories that the script writes to.
struct Vm {
    dir: PathBuf,
    disk: LoopDevice,
}

fn sh(line: &str) -> Output {
    let output = run(Command::new("sh").args(["-c", line])).unwrap();
    assert!(output.status.success(), "{line}: {}", output.stderr);
    output
}

impl Vm {
    fn new() -> Self {
        let id = sys::uuid::new_uuid();
        let dir = std::env::temp_dir().join(format!("sk-boot-{}", &id[..8]));
        for name in ["by-id", "run", "lib", "mnt"] {
            fs::create_dir_all(dir.join(name)).unwrap();
        }
        let image = dir.join("disk.img");
        fs::File::create(&image).unwrap().set_len(32 << 20).unwrap();
        let disk = LoopDevice::attach(&image, &[]);
        Self { dir, disk }
    }

    fn device(&self) -> &str {
        self.disk.path.to_str().unwrap()
    }

    fn attach(&self) {
        symlink(self.device(), self.dir.join("by-id/google-data")).unwrap();
    }

    /// Mounts the disk, changes its files, and unmounts it.
    fn with_disk(&self, change: impl FnOnce(&Path)) {
        let at = self.dir.join("mnt");
        sh(&format!("mount {} '{}'", self.device(), at.display()));
        change(&at);
        sh(&format!("umount '{}'", at.display()));
    }

    /// Runs the start-up script, after the shell command `before` in the same mount namespace.
    /// Returns the last status of the script.
    fn boot(&self, before: &str) -> String {
        let place = |name: &str| format!("{}/{name}", self.dir.display());
        let script = startup("data")
            .replace("/dev/disk/by-id/", &place("by-id/"))
            .replace("/run/", &place("run/"))
            .replace("/usr/local/lib/", &place("lib/"))
            .replace("-lt 120", "-lt 1");
        assert_eq!(
            script.matches(&*self.dir.to_string_lossy()).count(),
            3,
            "{script}"
        );
        let file = self.dir.join("startup.sh");
        fs::write(&file, script).unwrap();
        let line = format!(
            "{before}\nsh '{}'; umount -q '{}' || true",
            file.display(),
            place("mnt")
        );
        let mut inside = Command::new("unshare");
        inside.args(["-m", "--propagation", "private", "sh", "-c", &line]);
        let output = run(&mut inside).unwrap();
        let said = |line: &str| line.starts_with("problem: ") || line.starts_with("error: ");
        assert!(output.stderr.lines().all(said), "{output:?}");
        fs::read_to_string(self.dir.join("run/spotkeep-startup"))
            .unwrap()
            .trim()
            .to_owned()
    }

    fn put_spotkeep(&self, end: &str) {
        let log = self.dir.join("log");
        let text = format!(
            "#!/bin/sh\n# A fake for spotkeep.\necho \"$@\" >'{}'\nfindmnt -n {} >>'{}'\n{end}\n",
            log.display(),
            self.device(),
            log.display()
        );
        self.with_disk(|data_dir| {
            fs::create_dir_all(data_dir.join("bin")).unwrap();
            let program = data_dir.join("bin/spotkeep");
            fs::remove_file(&program).ok();
            fs::write(&program, &text).unwrap();
            fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        });
    }

    /// Returns the arguments of the fake, and whether the disk was mounted when it ran.
    fn log(&self) -> String {
        let path = self.dir.join("log");
        let text = fs::read_to_string(&path).unwrap_or_default();
        fs::remove_file(path).ok();
        text
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.dir).ok();
    }
}

#[test]
fn gcp_at_boot_the_spotkeep_on_the_disk_is_run_and_nothing_else_is() {
    let test = "gcp_at_boot_the_spotkeep_on_the_disk_is_run_and_nothing_else_is";
    if !is_root() {
        return skip(test, "loop devices need root");
    }
    let vm = Vm::new();
    assert_eq!(
        vm.boot(""),
        "failed: the disk data did not appear within 120 s"
    );
    vm.attach();
    assert_eq!(vm.boot(""), "new: the disk holds no filesystem yet");
    sh(&format!("mkfs.ext4 -q {}", vm.device()));
    assert_eq!(vm.boot(""), "new: there is no spotkeep on the disk yet");
    vm.put_spotkeep("exit 0");
    assert_eq!(vm.boot(""), "ready");
    // The disk was unmounted before the program ran.
    assert_eq!(vm.log(), "setup --disk data --yes\n");
    // A reboot: systemd has mounted the disk before the script runs.
    let mounted = format!("mount {} '{}'", vm.device(), vm.dir.join("mnt").display());
    assert_eq!(vm.boot(&mounted), "ready");
    assert!(vm.log().starts_with("setup --disk data --yes\n/"));
    // A problem is reported, and does not prevent the use of the VM.
    vm.put_spotkeep("echo 'problem: no claude\nproblem: no more' >&2; exit 3");
    assert_eq!(vm.boot(""), "ready, but no claude");
    vm.put_spotkeep("echo 'error: no disk' >&2; exit 1");
    assert_eq!(vm.boot(""), "failed: spotkeep setup ended with 1: no disk");
    vm.log();
    // A program that a user other than root may have written is not run.
    let unsafe_ones: [&dyn Fn(&Path); 4] = [
        &|data_dir| {
            fs::set_permissions(
                data_dir.join("bin/spotkeep"),
                fs::Permissions::from_mode(0o775),
            )
            .unwrap();
        },
        &|data_dir| chown(data_dir.join("bin/spotkeep"), Some(1000), None).unwrap(),
        &|data_dir| {
            fs::set_permissions(data_dir.join("bin"), fs::Permissions::from_mode(0o777)).unwrap();
        },
        &|data_dir| {
            fs::rename(data_dir.join("bin"), data_dir.join("moved")).unwrap();
            symlink("moved", data_dir.join("bin")).unwrap();
        },
    ];
    for change in unsafe_ones {
        sh(&format!("mkfs.ext4 -q -F {}", vm.device()));
        vm.put_spotkeep("exit 0");
        vm.with_disk(change);
        assert_eq!(
            vm.boot(""),
            "failed: bin/spotkeep on the disk can be written by others than root"
        );
        assert_eq!(vm.log(), "");
    }
}
