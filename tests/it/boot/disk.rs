//! The data disk of a machine: an image file behind a loop device.

use std::fs::File;
use std::path::Path;

use crate::loop_device::LoopDevice;

/// The persistent data disk of a machine, which is kept across boots and machines.
pub struct Disk(LoopDevice);

impl Disk {
    /// Creates a blank disk in `dir`.
    pub fn blank(dir: &Path, megabytes: u64) -> Self {
        let image = dir.join(format!("disk-{}.img", &sys::uuid::new_uuid()[..8]));
        let file = File::create(&image).unwrap();
        file.set_len(megabytes << 20).unwrap();
        Self(LoopDevice::attach(&image, &[]))
    }

    pub fn device(&self) -> &Path {
        &self.0.path
    }
}
