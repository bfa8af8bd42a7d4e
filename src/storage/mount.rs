//! systemd mount unit of the data directory.
//!
//! A unit instead of a line in `/etc/fstab`: it is spotkeep's own file, which can be compared,
//! replaced and removed as a whole.

use std::path::{Path, PathBuf};

use super::filesystem::FilesystemKind;
use crate::systemd::units::mount_unit;

/// How long a boot waits for the disk. The machine boots without it in any case.
const DEVICE_TIMEOUT: &str = "90s";

/// A mount: a device, a mount point, a file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// The device, under a stable name.
    pub what: PathBuf,
    /// The mount point.
    pub at: PathBuf,
    /// The file system.
    pub kind: FilesystemKind,
}

impl Mount {
    /// The name that systemd requires for the unit of this mount point.
    #[must_use]
    pub fn unit_name(&self) -> String {
        mount_unit(&self.at)
    }

    /// Links to the unit, below `/etc/systemd/system`, by which it starts: at boot, and whenever
    /// the disk appears, even long after the boot's timeout.
    #[must_use]
    pub fn links(&self) -> [PathBuf; 2] {
        let name = self.unit_name();
        let device = escape(&self.what);
        [
            Path::new("multi-user.target.wants").join(&name),
            Path::new(&format!("{device}.device.wants")).join(name),
        ]
    }

    /// Names and texts of the files for `/etc/systemd/system`.
    #[must_use]
    pub fn units(&self) -> Vec<(String, String)> {
        let (what, at) = (self.what.display(), self.at.display());
        let device = escape(&self.what);
        let mount = format!(
            "# Written by spotkeep setup; changes go into a drop-in (systemctl edit).\n\
             [Unit]\n\
             Description=The data directory of spotkeep, on a disk that outlives this machine\n\
             # fsck runs before the mount, in case of a power cut.\n\
             Wants=systemd-fsck@{device}.service\n\
             After=systemd-fsck@{device}.service\n\
             \n\
             [Mount]\n\
             What={what}\n\
             Where={at}\n\
             Type={kind}\n\
             Options={options}\n\
             \n\
             [Install]\n\
             WantedBy=multi-user.target\n",
            kind = self.kind.name(),
            options = self.kind.options(),
        );
        let wait = format!(
            "# Written by spotkeep setup: how long a boot waits for the disk of the data \
             directory.\n\
             [Unit]\n\
             JobRunningTimeoutSec={DEVICE_TIMEOUT}\n"
        );
        vec![
            (self.unit_name(), mount),
            (format!("{device}.device.d/spotkeep.conf"), wait),
        ]
    }
}

/// A path as systemd writes it in the names of units.
fn escape(path: &Path) -> String {
    let unit = mount_unit(path);
    unit.strip_suffix(".mount").unwrap_or(&unit).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boot_does_not_fail_without_the_disk_and_waits_for_it_within_bounds() {
        let mount = Mount {
            what: "/dev/disk/by-uuid/0a".into(),
            at: "/mnt/persist".into(),
            kind: FilesystemKind::Ext4,
        };
        let units = mount.units();
        assert_eq!(units[0].0, "mnt-persist.mount");
        assert!(units[0].1.contains("nofail") && units[0].1.contains("WantedBy=multi-user.target"));
        assert_eq!(units[1].0, "dev-disk-by\\x2duuid-0a.device.d/spotkeep.conf");
        assert!(units[1].1.contains("JobRunningTimeoutSec=90s"));
        let late = Path::new("dev-disk-by\\x2duuid-0a.device.wants/mnt-persist.mount");
        assert_eq!(mount.links()[1], late);
    }
}
