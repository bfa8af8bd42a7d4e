//! Reads and watches the list of mounts (`/proc/self/mountinfo`).

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::error::{Context as _, Result};

/// One line of mountinfo, as far as it is used.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mount {
    /// Mount point.
    pub point: PathBuf,
    /// Type of the filesystem, like `ext4`.
    pub kind: String,
    /// Source, like `/dev/sdb`.
    pub source: String,
    /// Options of this mount, then those of the filesystem: `errors=remount-ro` is one of the
    /// latter, and so is the `ro` that follows from it.
    pub options: Vec<String>,
}

impl Mount {
    /// Whether it has exactly this option.
    #[must_use]
    pub fn has(&self, option: &str) -> bool {
        self.options.iter().any(|have| have == option)
    }

    /// Returns why it is not writable; `None` where it is writable. Newer kernels leave a
    /// filesystem that met an error `rw` and add `emergency_ro` or `shutdown` (seen with ext4 on
    /// Linux 6.18).
    #[must_use]
    pub fn read_only(&self) -> Option<&'static str> {
        let reasons = [
            ("shutdown", "its filesystem was shut down after an error"),
            ("emergency_ro", "its filesystem met an error"),
            ("ro", "it is mounted read-only"),
        ];
        reasons
            .into_iter()
            .find(|(option, _)| self.has(option))
            .map(|(_, why)| why)
    }
}

/// Reads mountinfo, oldest mount first. Lines that cannot be read are skipped.
#[must_use]
pub fn parse(text: &str) -> Vec<Mount> {
    text.lines().filter_map(parse_line).collect()
}

/// `36 35 98:0 /sub /mnt rw,noatime shared:1 - ext4 /dev/sdb rw,errors=remount-ro`
fn parse_line(line: &str) -> Option<Mount> {
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ').skip(4);
    let mut right = right.split(' ');
    let point = unescape(left.next()?).into();
    let of_mount = left.next()?;
    let kind = right.next()?.to_owned();
    let source = unescape(right.next()?);
    let of_filesystem = right.next().unwrap_or_default();
    let options = of_mount.split(',').chain(of_filesystem.split(','));
    Some(Mount {
        point,
        kind,
        source,
        options: options.map(str::to_owned).collect(),
    })
}

/// Blanks and backslashes are written in octal there.
fn unescape(text: &str) -> String {
    [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ]
    .iter()
    .fold(text.to_owned(), |text, (code, plain)| {
        text.replace(code, plain)
    })
}

/// Returns the mount that holds `path`, which has no links in it: the longest mount point, and of
/// several on the same mount point the last, which hides the others.
#[must_use]
pub fn holding<'a>(mounts: &'a [Mount], path: &Path) -> Option<&'a Mount> {
    mounts
        .iter()
        .filter(|mount| path.starts_with(&mount.point))
        .max_by_key(|mount| mount.point.components().count())
}

/// Returns the mounts of this process.
///
/// # Errors
/// `/proc` is not mounted.
pub fn now() -> Result<Vec<Mount>> {
    let text = std::fs::read_to_string(MOUNTINFO).context("cannot read the list of mounts")?;
    Ok(parse(&text))
}

const MOUNTINFO: &str = "/proc/self/mountinfo";

/// Waits until something is mounted, unmounted or remounted.
#[derive(Debug)]
pub struct Changes(File);

impl Changes {
    /// Starts to watch for changes.
    ///
    /// # Errors
    /// `/proc` is not mounted.
    pub fn new() -> Result<Self> {
        let file = File::open(MOUNTINFO).context("cannot watch the list of mounts")?;
        Ok(Self(file))
    }

    /// Waits for a change, at most for `limit`. A filesystem that goes read-only after an error is
    /// not a change.
    pub fn wait(&self, limit: Duration) {
        let timeout = Timespec::try_from(limit).unwrap_or(Timespec {
            tv_sec: 1,
            tv_nsec: 0,
        });
        let mut fds = [PollFd::new(&self.0, PollFlags::PRI)];
        // An interrupted wait is a short one, and each caller checks again anyway.
        poll(&mut fds, Some(&timeout)).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard
36 22 8:16 / /mnt/per\\040sist rw,noatime shared:2 - ext4 /dev/sdb rw,errors=remount-ro
nonsense
40 36 7:0 / /mnt/per\\040sist rw,noatime - xfs /dev/loop0 ro,attr2
41 22 7:1 / /mnt/person rw - ext4 /dev/loop1 rw,emergency_ro,errors=remount-ro
";

    #[test]
    fn the_last_of_the_longest_mount_points_holds_a_path() {
        let mounts = parse(TEXT);
        assert_eq!(mounts.len(), 4);
        let of = |path: &str| holding(&mounts, Path::new(path)).unwrap().source.as_str();
        assert_eq!(of("/mnt/per sist/a"), "/dev/loop0");
        assert_eq!(of("/mnt/per sister"), "/dev/vda");
        assert_eq!(of("/"), "/dev/vda");
    }

    #[test]
    fn a_read_only_mount_says_why() {
        let mounts = parse(TEXT);
        let why = |at: usize| mounts[at].read_only();
        assert_eq!((why(0), why(1)), (None, None));
        assert_eq!(why(2), Some("it is mounted read-only"));
        assert_eq!(why(3), Some("its filesystem met an error"));
    }

    #[test]
    fn our_own_mounts_can_be_read() {
        let mounts = now().unwrap();
        assert!(holding(&mounts, Path::new("/")).is_some());
        Changes::new().unwrap().wait(Duration::ZERO);
    }
}
