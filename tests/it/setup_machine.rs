//! A directory that plays a machine: its accounts, its homes, its units; and disks in it, which are
//! loop devices. As root; everything that was mounted or attached is gone at the end.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use sys::files::is_mount_point;

use crate::loop_device::LoopDevice;
use crate::support::{SPOTKEEP, Said, is_root, said, skip};

/// A user id that no account of the machine under the test has.
pub const UID: u32 = 48_211;

pub struct Vm {
    _dir: tempfile::TempDir,
    pub prefix: PathBuf,
    loops: Vec<LoopDevice>,
    mounts: Vec<PathBuf>,
}

impl Vm {
    /// `None` where this cannot be played, which is said.
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

    /// A new boot disk, with nobody on it but root.
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

    /// An account with a home.
    pub fn account(&self, name: &str) {
        let passwd = fs::read_to_string(self.at("etc/passwd")).unwrap();
        self.write(
            "etc/passwd",
            &format!("{passwd}{name}:x:{UID}:{UID}::/home/{name}:/bin/bash\n"),
        );
        let group = fs::read_to_string(self.at("etc/group")).unwrap();
        self.write(
            "etc/group",
            &format!("{group}{name}:x:{UID}:\n").replace("27:", &format!("27:{name}")),
        );
        let home = self.at("home").join(name);
        fs::create_dir_all(&home).unwrap();
        chown(home, Some(UID), Some(UID)).unwrap();
    }

    pub fn at(&self, path: &str) -> PathBuf {
        self.prefix.join(path)
    }

    pub fn data_dir(&self) -> PathBuf {
        self.at("mnt/persist")
    }

    fn write(&self, path: &str, text: &str) {
        fs::write(self.at(path), text).unwrap();
    }

    /// A file of ann's.
    pub fn anns(&self, path: &str, text: &str) -> PathBuf {
        let file = self.at("home/ann").join(path);
        self.give_to_ann(&file, text);
        file
    }

    /// Writes a file, and gives it and the directories that it needed to ann.
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

    /// A disk as a cloud makes them: it reads as zeros. Returns its device.
    pub fn disk(&mut self, name: &str, bytes: u64) -> String {
        let image = self.image(name);
        fs::File::create(&image).unwrap().set_len(bytes).unwrap();
        self.attach(name, &[])
    }

    /// Attaches the image of that name, under the name that the cloud's rule gives it.
    pub fn attach(&mut self, name: &str, options: &[&str]) -> String {
        let attached = LoopDevice::attach(&self.image(name), options);
        let device = attached.path.to_str().unwrap().to_owned();
        self.loops.push(attached);
        self.name(name, &device);
        device
    }

    pub fn name(&self, name: &str, device: &str) {
        let link = self.at("dev/disk/by-id").join(format!("google-{name}"));
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

    pub fn setup(&self, args: &[&str]) -> Said {
        said(&mut self.command(args)).sound()
    }

    /// With a claude and the answer that nobody asks for again.
    pub fn ready(&self, disk: &str) -> Said {
        let claude = self.claude();
        let claude = claude.to_str().unwrap();
        self.setup(&["--disk", disk, "--user", "ann", "--yes", "--claude", claude])
    }

    /// A claude that knows its version.
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
            // Those that the kernel has not found by itself it does not forget by itself.
            said(Command::new("partx").arg("--delete").arg(&device.path));
        }
    }
}

/// Runs a tool of the system, which has to succeed.
pub fn tool(name: &str, args: &[&str]) -> String {
    said(Command::new(name).args(args)).ok().out
}

/// Owner, group and mode.
pub fn owned(path: &Path) -> (u32, u32, u32) {
    let meta = fs::symlink_metadata(path).unwrap();
    (meta.uid(), meta.gid(), meta.mode() & 0o7777)
}
