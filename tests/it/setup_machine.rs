//! A fake machine for tests of `spotkeep setup`: a directory with accounts, homes, units and disks.
//!
//! The disks are loop devices. It needs root; at the end everything is unmounted and detached.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use sys::files::is_mount_point;

use crate::loop_device::LoopDevice;
use crate::support::{CommandOutput, SPOTKEEP, is_root, said, skip};

/// A user id that no account of the machine that runs the test has.
pub const UID: u32 = 48_211;

pub struct Vm {
    _dir: tempfile::TempDir,
    pub prefix: PathBuf,
    loops: Vec<LoopDevice>,
    mounts: Vec<PathBuf>,
}

impl Vm {
    /// `None`, with a message, where the machine cannot be simulated.
    pub fn new(test: &str) -> Option<Self> {
        if !is_root() {
            skip(test, "loop devices and mounts need root");
            return None;
        }
        let dir = tempfile::Builder::new().prefix("sk-vm-").tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let vm = Self {
            prefix: fs::canonicalize(dir.path()).unwrap().join("system"),
            _dir: dir,
            loops: Vec::new(),
            mounts: Vec::new(),
        };
        vm.boot_disk();
        vm.account("ann");
        Some(vm)
    }

    /// Makes a new boot disk, whose only account is root.
    pub fn boot_disk(&self) {
        fs::remove_dir_all(&self.prefix).ok();
        for dir in [
            "etc/systemd/system",
            "dev/disk/by-id",
            "run",
            "usr/local/bin",
            "home",
        ] {
            fs::create_dir_all(self.prefix.join(dir)).unwrap();
        }
        self.write("etc/passwd", "root:x:0:0::/root:/bin/sh\n");
        self.write("etc/group", "root:x:0:\nsudo:x:27:\n");
        self.write("etc/shadow", "root:*:1:0:99999:7:::\n");
        self.write("etc/gshadow", "root:*::\nsudo:*::\n");
        self.write(
            "etc/login.defs",
            "UID_MIN 1000\nUID_MAX 60000\nGID_MIN 1000\nGID_MAX 60000\n",
        );
    }

    /// Adds an account with a home.
    pub fn account(&self, name: &str) {
        let passwd = fs::read_to_string(self.path("etc/passwd")).unwrap();
        self.write(
            "etc/passwd",
            &format!("{passwd}{name}:x:{UID}:{UID}::/home/{name}:/bin/bash\n"),
        );
        let group = fs::read_to_string(self.path("etc/group")).unwrap();
        self.write(
            "etc/group",
            &format!("{group}{name}:x:{UID}:\n").replace("27:", &format!("27:{name}")),
        );
        let home = self.path("home").join(name);
        fs::create_dir_all(&home).unwrap();
        chown(home, Some(UID), Some(UID)).unwrap();
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.prefix.join(path)
    }

    pub fn data_dir(&self) -> PathBuf {
        self.path("mnt/persist")
    }

    fn write(&self, path: &str, text: &str) {
        fs::write(self.path(path), text).unwrap();
    }

    /// Writes a file below ann's home, owned by ann.
    pub fn anns(&self, path: &str, text: &str) -> PathBuf {
        let file = self.path("home/ann").join(path);
        self.give_to_ann(&file, text);
        file
    }

    /// Writes a file, and makes ann the owner of it and of the directories that it needed.
    pub fn give_to_ann(&self, file: &Path, text: &str) {
        let mut made = vec![file.to_path_buf()];
        let mut dir = file.parent().unwrap();
        while !dir.exists() {
            made.push(dir.to_path_buf());
            dir = dir.parent().unwrap();
        }
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
        for path in made {
            chown(path, Some(UID), Some(UID)).unwrap();
        }
    }

    /// Where the image of a disk is.
    pub fn image(&self, name: &str) -> PathBuf {
        self.prefix.with_file_name(format!("{name}.img"))
    }

    /// Adds a disk that reads as zeros, like a cloud's. Returns its device.
    pub fn disk(&mut self, name: &str, bytes: u64) -> String {
        let image = self.image(name);
        fs::File::create(&image).unwrap().set_len(bytes).unwrap();
        self.attach(name, &[])
    }

    /// Attaches the image of that name, under the name that the cloud's udev rule gives it.
    pub fn attach(&mut self, name: &str, options: &[&str]) -> String {
        let attached = LoopDevice::attach(&self.image(name), options);
        let device = attached.path.to_str().unwrap().to_owned();
        self.loops.push(attached);
        self.name(name, &device);
        device
    }

    pub fn name(&self, name: &str, device: &str) {
        let link = self.path("dev/disk/by-id").join(format!("google-{name}"));
        fs::remove_file(&link).ok();
        std::os::unix::fs::symlink(device, link).unwrap();
    }

    /// `spotkeep setup` on this machine.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(SPOTKEEP);
        command
            .env_clear()
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            )
            .env("SPOTKEEP_LOOPBACK_ONLY", "1")
            .args(["--data-dir", "/mnt/persist", "setup", "--prefix"])
            .arg(&self.prefix)
            .args(args);
        if !args.contains(&"--wait") {
            command.args(["--wait", "100ms"]);
        }
        command
    }

    pub fn setup(&self, args: &[&str]) -> CommandOutput {
        said(&mut self.command(args)).sound()
    }

    /// Runs setup with a claude and `--yes`, so that setup asks no question.
    pub fn ready(&self, disk: &str) -> CommandOutput {
        let claude = self.claude();
        let claude = claude.to_str().unwrap();
        self.setup(&["--disk", disk, "--user", "ann", "--yes", "--claude", claude])
    }

    /// A fake claude that prints its version.
    pub fn claude(&self) -> PathBuf {
        let path = self.prefix.with_file_name("claude");
        let draft = path.with_extension("draft");
        fs::write(&draft, "#!/bin/sh\necho '2.1.330 (Claude Code)'\n").unwrap();
        fs::set_permissions(&draft, fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(&draft, &path).unwrap();
        path
    }

    /// Mounts a device somewhere, until the end.
    pub fn mount(&mut self, device: &str, at: &Path) {
        fs::create_dir_all(at).unwrap();
        tool("mount", &[device, at.to_str().unwrap()]);
        self.mounts.push(at.to_path_buf());
    }

    pub fn unmount(&self) {
        tool("umount", &[self.data_dir().to_str().unwrap()]);
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        let mut mounts = std::mem::take(&mut self.mounts);
        mounts.push(self.data_dir());
        for mount in mounts {
            while is_mount_point(&mount).unwrap_or(false) {
                if said(Command::new("umount").arg(&mount)).code != 0 {
                    said(Command::new("umount").arg("-l").arg(&mount));
                    break;
                }
            }
        }
        for device in &self.loops {
            // The kernel does not remove partitions that `partx` added.
            said(Command::new("partx").arg("--delete").arg(&device.path));
        }
    }
}

/// Runs a system tool, which has to succeed; returns its output.
pub fn tool(name: &str, args: &[&str]) -> String {
    said(Command::new(name).args(args)).ok().out
}

/// Owner, group and mode.
pub fn owned(path: &Path) -> (u32, u32, u32) {
    let meta = fs::symlink_metadata(path).unwrap();
    (meta.uid(), meta.gid(), meta.mode() & 0o7777)
}
