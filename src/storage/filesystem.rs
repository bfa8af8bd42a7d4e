//! ext4 and XFS: superblocks, mkfs, mount, growing, read-only inspection.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::device::Device;
use sys::command;
use sys::command::Output;
use sys::error::{Context as _, Hint as _, Result, bail, ensure};
use sys::secure_dir::{Dir, Entry};

/// Making the tables of a large disk on a slow one takes minutes; so does growing it.
const MAKE_LIMIT: Duration = Duration::from_secs(900);
/// Mounting may have to replay a journal first.
const MOUNT_LIMIT: Duration = Duration::from_secs(120);
/// Smallest difference between device and file system that is used; less comes from rounding.
const GROW_FROM: u64 = 16 << 20;
/// A smaller disk is refused: too small for agents, and probably the wrong one.
pub const SMALLEST: u64 = 512 << 20;

/// A kind of file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FilesystemKind {
    /// The one that setup makes.
    Ext4,
    /// The one that setup also accepts.
    Xfs,
}

impl FilesystemKind {
    /// Its name for `mount` and `blkid`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
        }
    }

    /// The mount options of a data directory.
    ///
    /// `noatime`: reading a transcript should not write. `nodev`, `nosuid`: agents write here, and
    /// a disk moves between machines. `discard`: a cloud's disk is thinly provisioned, and its
    /// snapshots are as large as what was ever written. `nofail`: a machine without its disk boots,
    /// and can be inspected. After an error ext4 becomes read-only, which keeps it consistent; XFS
    /// shuts itself down.
    #[must_use]
    pub fn options(self) -> &'static str {
        match self {
            Self::Ext4 => "noatime,nodev,nosuid,discard,nofail,errors=remount-ro",
            Self::Xfs => "noatime,nodev,nosuid,discard,nofail",
        }
    }
}

/// A file system on a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filesystem {
    /// Its kind.
    pub kind: FilesystemKind,
    /// Its id.
    pub uuid: String,
    /// Its size, in bytes.
    pub bytes: u64,
}

/// The superblock in the first sectors of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Superblock {
    /// The file system that they describe.
    pub filesystem: Filesystem,
}

impl Superblock {
    /// Reads the superblock; `None` if it is of neither kind.
    ///
    /// # Errors
    /// The device cannot be read.
    pub fn read(device: &mut File) -> Result<Option<Self>> {
        let mut head = [0; 4096];
        device
            .read_exact_at(&mut head, 0)
            .context("cannot read the superblock")?;
        Ok(Self::parse(&head))
    }

    fn parse(head: &[u8]) -> Option<Self> {
        let filesystem = Self::ext4(head.get(1024..2048)?).or_else(|| Self::xfs(head))?;
        Some(Self { filesystem })
    }

    /// The layout is the kernel's `struct ext4_super_block`, little-endian.
    fn ext4(block: &[u8]) -> Option<Filesystem> {
        let word = |at: usize| Some(u32::from_le_bytes(block.get(at..at + 4)?.try_into().ok()?));
        (block.get(0x38..0x3a)? == [0x53, 0xef]).then_some(())?;
        let has_64_bit = word(0x60)? & 0x80 != 0;
        let high = if has_64_bit { word(0x150)? } else { 0 };
        let blocks = u64::from(high) << 32 | u64::from(word(0x4)?);
        Some(Filesystem {
            kind: FilesystemKind::Ext4,
            uuid: uuid(block.get(0x68..0x78)?),
            bytes: blocks.checked_mul(1024_u64.checked_shl(word(0x18)?)?)?,
        })
    }

    /// The layout is the kernel's `struct xfs_dsb`, big-endian.
    fn xfs(block: &[u8]) -> Option<Filesystem> {
        (block.get(..4)? == b"XFSB").then_some(())?;
        let size = u32::from_be_bytes(block.get(4..8)?.try_into().ok()?);
        let blocks = u64::from_be_bytes(block.get(8..16)?.try_into().ok()?);
        Some(Filesystem {
            kind: FilesystemKind::Xfs,
            uuid: uuid(block.get(32..48)?),
            bytes: blocks.checked_mul(u64::from(size))?,
        })
    }
}

fn uuid(bytes: &[u8]) -> String {
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let part = |from: usize, to: usize| hex.get(from..to).unwrap_or_default();
    format!(
        "{}-{}-{}-{}-{}",
        part(0, 8),
        part(8, 12),
        part(12, 16),
        part(16, 20),
        part(20, 32)
    )
}

impl Filesystem {
    /// Whether the device is larger than the file system.
    #[must_use]
    pub fn can_grow(&self, device_bytes: u64) -> bool {
        device_bytes > self.bytes.saturating_add(GROW_FROM)
    }

    /// Reads the file system on a device that may be in use.
    ///
    /// # Errors
    /// It cannot be read, or holds neither ext4 nor XFS.
    pub fn on(device: &Path) -> Result<Self> {
        let mut file =
            File::open(device).with_context(|| format!("cannot open {}", device.display()))?;
        Superblock::read(&mut file)?
            .map(|superblock| superblock.filesystem)
            .with_context(|| format!("{} holds neither ext4 nor xfs", device.display()))
    }
}

/// Makes an ext4 file system with that id. The caller has just checked that the device is blank.
///
/// `mkfs.ext4` writes all tables now (`lazy_*=0`), so that no background work competes with the
/// first saves, and reserves 1 % instead of 5 % for root, which is enough to act on a full disk.
/// Without `-F` it also checks that the device is not mounted.
///
/// # Errors
/// `mkfs.ext4` is missing or fails.
pub fn make(device: &Device, uuid: &str) -> Result<()> {
    let mut command = Command::new("mkfs.ext4");
    command
        .args([
            "-q",
            "-L",
            "spotkeep",
            "-m",
            "1",
            "-e",
            "remount-ro",
            "-U",
            uuid,
        ])
        .args(["-E", "lazy_itable_init=0,lazy_journal_init=0,discard"])
        .arg(&device.path);
    done(command::run(&mut command, MAKE_LIMIT)?, "mkfs.ext4")
}

/// Mounts a file system.
///
/// # Errors
/// The kernel refused.
pub fn mount(device: &Path, kind: FilesystemKind, options: &str, at: &Path) -> Result<()> {
    let mut command = Command::new("mount");
    command
        .args(["-t", kind.name(), "-o", options])
        .arg(device)
        .arg(at);
    done(command::run(&mut command, MOUNT_LIMIT)?, "mount")
}

/// Unmounts a file system.
///
/// # Errors
/// A process still uses it.
pub fn unmount(at: &Path) -> Result<()> {
    let mut command = Command::new("umount");
    command.arg(at);
    done(command::run(&mut command, MOUNT_LIMIT)?, "umount")
}

/// Grows a file system to the size of its device, mounted or not.
///
/// # Errors
/// The tool is missing or fails; nothing is lost by that.
pub fn grow(kind: FilesystemKind, device: &Path, mounted: Option<&PathBuf>) -> Result<()> {
    let mut command = match (kind, mounted) {
        (FilesystemKind::Xfs, Some(at)) => with("xfs_growfs", at),
        (FilesystemKind::Xfs, None) => bail!("XFS grows only while it is mounted"),
        (FilesystemKind::Ext4, Some(_)) => with("resize2fs", device),
        (FilesystemKind::Ext4, None) => {
            // An unmounted ext4 must be checked before it can grow. Exit status 1: something was
            // repaired.
            let checked = command::run(with("e2fsck", device).args(["-f", "-p"]), MAKE_LIMIT)?;
            if checked.status.code().is_none_or(|code| code > 1) {
                bail!("e2fsck failed: {}{}", checked.stdout, checked.stderr);
            }
            with("resize2fs", device)
        }
    };
    let tool = command.get_program().to_string_lossy().into_owned();
    done(command::run(&mut command, MAKE_LIMIT)?, &tool).hint(match kind {
        FilesystemKind::Ext4 => format!(
            "sudo umount {0}; sudo e2fsck -f {0} && sudo resize2fs {0}",
            device.display()
        ),
        FilesystemKind::Xfs => format!("sudo xfs_growfs {}", device.display()),
    })
}

fn with(tool: &str, argument: &Path) -> Command {
    let mut command = Command::new(tool);
    command.arg(argument);
    command
}

/// The size of a mounted XFS, in bytes.
///
/// # Errors
/// `xfs_growfs` is missing, or its output is unknown.
pub fn xfs_size(mounted: &Path) -> Result<u64> {
    let mut command = Command::new("xfs_growfs");
    command.arg("-n").arg(mounted).env("LC_ALL", "C");
    let output = command::run(&mut command, MOUNT_LIMIT)?;
    let size = xfs_data(&output.stdout);
    done(output, "xfs_growfs -n")?;
    size.context("no size in the output of xfs_growfs")
}

/// Parses the line `data     =                       bsize=4096   blocks=131072, imaxpct=25`.
fn xfs_data(text: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.starts_with("data"))?;
    let value = |key: &str| {
        let (_, rest) = line.split_once(key)?;
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits.parse::<u64>().ok()
    };
    value("bsize=")?.checked_mul(value("blocks=")?)
}

fn done(output: Output, tool: &str) -> Result<()> {
    if !output.status.success() {
        bail!("{tool} failed: {}", output.stderr.replace('\n', "; "));
    }
    Ok(())
}

/// The content of a file system: nothing, a data directory, or other files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Inside {
    /// Nothing.
    Empty,
    /// A data directory.
    DataDir,
    /// Other files, with these names.
    Other(Vec<String>),
}

impl Inside {
    /// Reads the content of a mounted file system.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn inspect(mounted: &Path) -> Result<Self> {
        let dir = Dir::open(mounted)?;
        let is_data_dir = matches!(dir.entry("session-state")?, Entry::Directory(_))
            && matches!(
                dir.child("session-state")?.entry("root.json")?,
                Entry::Other(_)
            );
        let mut names = dir.names()?;
        names.retain(|name| name != "lost+found");
        Ok(match names {
            _ if is_data_dir => Self::DataDir,
            names if names.is_empty() => Self::Empty,
            // A set-up that was cut off before the data directory had its identity.
            names if names.iter().all(|name| OURS.contains(&name.as_str())) => Self::Empty,
            names => Self::Other(names),
        })
    }
}

/// What a set-up makes first, before `root.json` identifies the data directory.
const OURS: [&str; 6] = [
    "bin",
    "backups",
    ".claude",
    "home",
    "workspaces",
    "session-state",
];

/// A temporary read-only mount, which is unmounted when dropped. Nothing on the disk is changed:
/// the journal is not replayed either.
#[derive(Debug)]
pub struct Peek {
    at: PathBuf,
}

impl Peek {
    /// Mounts a device, in a new directory below `dir`.
    ///
    /// # Errors
    /// It cannot be mounted.
    pub fn mount(device: &Path, kind: FilesystemKind, dir: &Path) -> Result<Self> {
        let at = dir.join(format!("spotkeep-look-{}", std::process::id()));
        fs::create_dir(&at).with_context(|| format!("cannot create {}", at.display()))?;
        let replay = match kind {
            FilesystemKind::Ext4 => "noload",
            FilesystemKind::Xfs => "norecovery",
        };
        let options = format!("ro,nodev,nosuid,noexec,{replay}");
        let peek = Self { at };
        mount(device, kind, &options, &peek.at)?;
        ensure!(
            sys::files::is_mount_point(&peek.at)?,
            "nothing is mounted at {}",
            peek.at.display()
        );
        Ok(peek)
    }

    /// The mount point.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.at
    }
}

impl Drop for Peek {
    fn drop(&mut self) {
        if sys::files::is_mount_point(&self.at).unwrap_or(false)
            && let Err(error) = unmount(&self.at)
        {
            tracing::warn!("{error:#}");
        }
        fs::remove_dir(&self.at).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn id_and_size_are_read_from_superblocks_of_both_kinds() {
        let mut head = vec![0; 4096];
        head[1024 + 4..1024 + 8].copy_from_slice(&1000_u32.to_le_bytes());
        head[1024 + 0x18] = 2;
        head[1024 + 0x38..1024 + 0x3a].copy_from_slice(&[0x53, 0xef]);
        head[1024 + 0x60] = 0x80;
        head[1024 + 0x150] = 1;
        head[1024 + 0x68] = 0xab;
        let found = Superblock::parse(&head).unwrap().filesystem;
        assert_eq!(found.bytes, ((1 << 32) + 1000) * 4096);
        assert_eq!(found.uuid, "ab000000-0000-0000-0000-000000000000");

        let mut head = vec![0; 4096];
        head[..4].copy_from_slice(b"XFSB");
        head[4..8].copy_from_slice(&4096_u32.to_be_bytes());
        head[8..16].copy_from_slice(&25_u64.to_be_bytes());
        let found = Superblock::parse(&head).unwrap().filesystem;
        assert_eq!((found.kind, found.bytes), (FilesystemKind::Xfs, 25 * 4096));
        assert!(Superblock::parse(&[0; 4096]).is_none());
    }

    #[test]
    fn the_size_of_a_mounted_xfs_is_read() {
        let text = "meta-data=/dev/loop0 isize=512 agcount=4, agsize=32768 blks\n\
                    data     =                       bsize=4096   blocks=131072, imaxpct=25\n";
        assert_eq!(xfs_data(text), Some(512 << 20));
    }

    #[test]
    fn a_file_system_grows_only_by_more_than_rounding() {
        let filesystem = Filesystem {
            kind: FilesystemKind::Ext4,
            uuid: String::new(),
            bytes: 10 << 30,
        };
        assert!(!filesystem.can_grow(10 << 30));
        assert!(!filesystem.can_grow((10 << 30) + (16 << 20)));
        assert!(!filesystem.can_grow(5 << 30));
        assert!(filesystem.can_grow(11 << 30));
    }
}
