//! Block devices: kernel device numbers, sizes, and whether a device is in use.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::{OFlags, major, minor};

/// Number of a block device: major and minor.
pub type Number = (u32, u32);

/// Returns the number of the block device at `path`; `None` where that is another type of file.
///
/// # Errors
/// `path` does not exist.
pub fn number(path: &Path) -> io::Result<Option<Number>> {
    let meta = fs::metadata(path)?;
    let is_block = meta.file_type().is_block_device();
    Ok(is_block.then(|| split(meta.rdev())))
}

/// Returns the number of the device that holds a file.
///
/// # Errors
/// `path` does not exist.
pub fn number_under(path: &Path) -> io::Result<Number> {
    Ok(split(fs::metadata(path)?.dev()))
}

fn split(dev: u64) -> Number {
    (major(dev), minor(dev))
}

/// Opens a device for reading if it is not in use: by no mount, swap, array, volume or mapping in
/// any namespace. `None` if it is in use.
///
/// # Errors
/// It cannot be opened at all.
pub fn open_unused(path: &Path) -> io::Result<Option<File>> {
    let exclusive = i32::try_from(OFlags::EXCL.bits()).unwrap_or_default();
    match OpenOptions::new()
        .read(true)
        .custom_flags(exclusive)
        .open(path)
    {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => Ok(None),
        Err(error) => Err(error),
    }
}
