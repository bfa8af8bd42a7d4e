//! A data disk: an image behind a loop device.

use std::fs::File;
use std::path::Path;

use crate::loop_device::LoopDevice;

/// The persistent disk of a machine; it outlives the machine's boots.
pub struct Disk(LoopDevice);

impl Disk {
    /// A blank disk in the room at `dir`.
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
