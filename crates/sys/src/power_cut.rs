//! Simulates a power cut of one filesystem: unsynced data is lost, and every later write fails.
//!
//! For the power-cut drill, on a separate loop filesystem.

use std::fs::File;
use std::path::Path;

use rustix::ioctl::{self, Opcode, Setter};

use crate::error::{Context as _, Result, ensure};
use crate::files::is_mount_point;

/// `EXT4_IOC_SHUTDOWN`, `_IOR('X', 125, __u32)`; XFS and others support it as well.
const SHUTDOWN: Opcode = ioctl::opcode::read::<u32>(b'X', 125);
/// `EXT4_GOING_FLAGS_NOLOGFLUSH`: the journal is not written out first, as in a power cut.
const NO_LOG_FLUSH: u32 = 2;

/// Cuts the power of the filesystem that is mounted at `mount`. Needs root.
///
/// # Errors
/// Nothing is mounted exactly there (so that a wrong path cannot cut the machine's own disk), the
/// filesystem does not support it, or there is no permission.
pub fn cut_power(mount: &Path) -> Result<()> {
    ensure!(
        mount.is_absolute() && mount.parent().is_some() && is_mount_point(mount)?,
        "{} is not a mount point",
        mount.display()
    );
    let dir = File::open(mount).with_context(|| format!("cannot open {}", mount.display()))?;
    shutdown(&dir).with_context(|| format!("cannot shut down {}", mount.display()))
}

#[expect(
    unsafe_code,
    reason = "the kernel reads one u32 behind this opcode, which is what is passed; \
              it keeps no pointer"
)]
fn shutdown(dir: &File) -> rustix::io::Result<()> {
    unsafe { ioctl::ioctl(dir, Setter::<SHUTDOWN, u32>::new(NO_LOG_FLUSH)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_is_not_a_mount_point_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let error = cut_power(dir.path()).unwrap_err();
        assert!(error.to_string().contains("not a mount point"), "{error}");
        assert!(cut_power(Path::new("/")).is_err());
    }

    #[test]
    fn the_opcode_is_the_one_of_the_kernel() {
        assert_eq!(SHUTDOWN, 0x8004_587d);
    }
}
