//! A data disk: an image behind a loop device, which goes when nobody holds it any more.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::lab::said;

/// The persistent disk of a machine; it outlives the machine's boots.
pub struct Disk {
    pub device: PathBuf,
    _held: File,
}

impl Disk {
    /// A blank disk in the room at `dir`.
    pub fn blank(dir: &Path, megabytes: u64) -> Self {
        let image = dir.join(format!("disk-{}.img", &spotkeep::state::new_uuid()[..8]));
        File::create(&image)
            .unwrap()
            .set_len(megabytes << 20)
            .unwrap();
        let mut losetup = Command::new("losetup");
        let device = said(losetup.args(["--find", "--show"]).arg(&image))
            .ok()
            .out;
        let device = PathBuf::from(device.trim());
        let held = fs::OpenOptions::new().read(true).open(&device).unwrap();
        // As long as the device is open this only says: when it is closed for the last time.
        said(Command::new("losetup").arg("--detach").arg(&device)).ok();
        Self {
            device,
            _held: held,
        }
    }
}
