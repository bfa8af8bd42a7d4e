//! Attaches a loop device for a test.
//!
//! The kernel detaches it when its last user closes it, also when the test is killed.

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::said;

pub struct LoopDevice {
    pub path: PathBuf,
    _held: File,
}

impl LoopDevice {
    /// Attaches an image with `losetup`, given these options.
    pub fn attach(image: &Path, options: &[&str]) -> Self {
        let mut losetup = Command::new("losetup");
        losetup.args(["--find", "--show"]).args(options).arg(image);
        let path = PathBuf::from(said(&mut losetup).ok().out.trim());
        let held = File::open(&path).unwrap();
        // While the device is open, this makes the kernel detach it when it is closed for the last
        // time.
        let detach = [OsStr::new("--detach"), path.as_os_str()];
        said(Command::new("losetup").args(detach)).ok();
        Self { path, _held: held }
    }
}
