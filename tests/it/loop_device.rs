//! A loop device, which goes when nobody holds it any more, also when its test is killed.

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
    /// Attaches an image, with these options of losetup's.
    pub fn attach(image: &Path, options: &[&str]) -> Self {
        let mut losetup = Command::new("losetup");
        losetup.args(["--find", "--show"]).args(options).arg(image);
        let path = PathBuf::from(said(&mut losetup).ok().out.trim());
        let held = File::open(&path).unwrap();
        // As long as the device is open this only says: when it is closed for the last time.
        let detach = [OsStr::new("--detach"), path.as_os_str()];
        said(Command::new("losetup").args(detach)).ok();
        Self { path, _held: held }
    }
}
