//! Block devices by their stable names, and their properties from `/sys` and `/proc`.
//!
//! The user names the disk or partition; setup never takes "the first one", since `/dev/sdb` can be
//! another disk at the next boot.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sys::block::{self, Number};
use sys::error::{Context as _, ErrorKind, Hint as _, Result, anyhow};
use sys::prefix::Prefix;

/// Size of a sector in `/sys`, independent of the disk's own sectors.
const SECTOR: u64 = 512;

/// How often to check for a disk that is missing.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// A block device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Its stable name: under `/dev/disk/by-id`, or as it was given.
    pub name: PathBuf,
    /// The device node of that name now.
    pub path: PathBuf,
    /// Its device number.
    pub number: Number,
    /// Its size, in bytes.
    pub bytes: u64,
    /// Whether it is attached read-only.
    pub read_only: bool,
    /// The disk of which it is a partition.
    pub partition_of: Option<PathBuf>,
    /// Its partitions.
    pub partitions: Vec<PathBuf>,
    /// What uses it or a partition of it: volumes, arrays, mappings.
    pub holders: Vec<String>,
    /// Where it or a partition of it is mounted, in any mount namespace.
    pub mounts: Vec<Mounted>,
    /// Whether it or a partition of it is swap space.
    pub is_swap: bool,
    /// The directory of the running system that lies on the same disk.
    pub holds_system: Option<PathBuf>,
}

/// A mount.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mounted {
    /// Its device number.
    pub number: Number,
    /// The mount point.
    pub at: PathBuf,
    /// Whether it is in this process's mount namespace.
    pub is_ours: bool,
    /// Whether it can be written to.
    pub is_writable: bool,
}

/// The names under which the clouds' udev rules show a disk that the user named `name`.
fn names(name: &str) -> Vec<String> {
    vec![
        format!("google-{name}"),
        format!("scsi-0Google_PersistentDisk_{name}"),
        format!("virtio-{name}"),
        // EBS: vol-0123 is shown without its hyphen.
        format!(
            "nvme-Amazon_Elastic_Block_Store_{}",
            name.replacen("vol-", "vol", 1)
        ),
        name.to_owned(),
    ]
}

/// Waits until the disk of that name, or path, exists.
///
/// # Errors
/// It does not appear, or the name matches several disks. The error lists the disks that exist.
pub fn wait_for(place: &Prefix, name: &str, limit: Duration) -> Result<Device> {
    let until = Instant::now() + limit;
    loop {
        if let Some(path) = find_by_name(place, name)? {
            return Device::open(&path);
        }
        if Instant::now() >= until {
            let found = candidates(place);
            let list = if found.is_empty() {
                "there is no other disk".to_owned()
            } else {
                format!("there are: {}", found.join("; "))
            };
            return Err(anyhow!(
                "there is no disk {name} after {} s; {list}",
                limit.as_secs()
            ))
            .hint(
                "attach it under that name (on Google Cloud: gcloud compute instances \
                       attach-disk VM --disk DISK --device-name NAME), or give its path: --disk \
                       /dev/disk/by-id/...",
            )
            .kind(ErrorKind::Failed);
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}

fn find_by_name(place: &Prefix, name: &str) -> Result<Option<PathBuf>> {
    if name.contains('/') {
        return Ok(Path::new(name).exists().then(|| PathBuf::from(name)));
    }
    let by_id = place.join("/dev/disk/by-id");
    let found: Vec<PathBuf> = names(name)
        .into_iter()
        .map(|name| by_id.join(name))
        .filter(|path| path.exists())
        .collect();
    let targets: BTreeSet<PathBuf> = found
        .iter()
        .filter_map(|path| fs::canonicalize(path).ok())
        .collect();
    if targets.len() > 1 {
        let list: Vec<String> = found.iter().map(|p| p.display().to_string()).collect();
        return Err(anyhow!(
            "the name {name} matches several disks: {}",
            list.join(", ")
        ))
        .hint(format!(
            "--disk {}",
            list.first().cloned().unwrap_or_default()
        ));
    }
    Ok(found.into_iter().next())
}

impl Device {
    /// Reads the properties of the device at a path.
    ///
    /// # Errors
    /// It is not a block device.
    pub fn open(name: &Path) -> Result<Self> {
        let path = fs::canonicalize(name).with_context(|| format!("no {}", name.display()))?;
        let Some(number) = block::number(&path)? else {
            return Err(anyhow!("{} is not a block device", path.display())).hint("lsblk");
        };
        let sys = sys(number)?;
        let partition_of = sys
            .join("partition")
            .exists()
            .then(|| sys.parent().map(device_node))
            .flatten();
        let parts = parts(&sys);
        let mut numbers = vec![number];
        numbers.extend(parts.iter().filter_map(|part| sys_number(part)));
        let mut holders = names_in(&sys.join("holders"));
        for part in &parts {
            holders.extend(names_in(&part.join("holders")));
        }
        let mounts: Vec<Mounted> = all_mounts()
            .into_iter()
            .filter(|mount| numbers.contains(&mount.number))
            .collect();
        let swaps = fs::read_to_string("/proc/swaps").unwrap_or_default();
        let is_swap = swaps
            .lines()
            .filter_map(|line| block::number(Path::new(line.split_whitespace().next()?)).ok()?)
            .any(|swap| numbers.contains(&swap));
        Ok(Self {
            name: name.to_path_buf(),
            number,
            bytes: sectors(&sys.join("size")) * SECTOR,
            read_only: sectors(&sys.join("ro")) != 0,
            partition_of,
            partitions: parts.iter().map(|part| device_node(part)).collect(),
            holders,
            mounts,
            is_swap,
            holds_system: system_on(&sys),
            path,
        })
    }

    /// Why nothing may be changed on it; `None` if it is not in use.
    #[must_use]
    pub fn in_use(&self) -> Option<String> {
        if let Some(dir) = &self.holds_system {
            return Some(format!(
                "it is the disk that this machine runs from, or a partition of it (with {})",
                dir.display()
            ));
        }
        if let Some(mount) = self.mounts.first() {
            let namespace = if mount.is_ours {
                ""
            } else {
                " in another mount namespace"
            };
            return Some(format!(
                "it is mounted at {}{namespace}",
                mount.at.display()
            ));
        }
        if self.is_swap {
            return Some("it is in use as swap space".to_owned());
        }
        (!self.holders.is_empty()).then(|| format!("{} uses it", self.holders.join(", ")))
    }
}

/// Formats a size for people, in GiB, in which disks are made.
#[must_use]
pub fn size(bytes: u64) -> String {
    let units = [(1_u64 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB")];
    match units.into_iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, name)) => {
            let tenths = bytes.saturating_mul(10) / unit;
            if tenths.is_multiple_of(10) {
                format!("{} {name}", tenths / 10)
            } else {
                format!("{}.{} {name}", tenths / 10, tenths % 10)
            }
        }
        None => format!("{bytes} bytes"),
    }
}

/// Describes the disks of this machine: name, size, use.
fn candidates(place: &Prefix) -> Vec<String> {
    let by_id = place.join("/dev/disk/by-id");
    names_in(Path::new("/sys/block"))
        .into_iter()
        .filter(|name| !name.starts_with("ram") && !name.starts_with("zram"))
        .filter_map(|name| {
            let node = PathBuf::from("/dev").join(name.replace('!', "/"));
            let device = Device::open(&node).ok().filter(|device| device.bytes > 0)?;
            let stable = names_in(&by_id)
                .into_iter()
                .find(|id| fs::canonicalize(by_id.join(id)).is_ok_and(|path| path == device.path));
            let stable = stable.map_or_else(String::new, |id| format!(" ({id})"));
            let used = device.in_use().unwrap_or_else(|| {
                match super::blank_check::signatures(&device.path).as_deref() {
                    Ok([]) => "no known signature on it".to_owned(),
                    Ok(found) => super::blank_check::in_words(found),
                    Err(_) => "cannot be read".to_owned(),
                }
            });
            let node = node.display();
            Some(format!("{node}{stable}, {}: {used}", size(device.bytes)))
        })
        .collect()
}

/// Every mount of every mount namespace.
fn all_mounts() -> Vec<Mounted> {
    let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
    let ours = namespace("self");
    let mut seen = BTreeSet::new();
    let mut all = BTreeSet::new();
    let pids = names_in(Path::new("/proc"));
    let pids = pids
        .iter()
        .filter(|name| name.bytes().all(|b| b.is_ascii_digit()));
    for pid in std::iter::once("self").chain(pids.map(String::as_str)) {
        let its = namespace(pid);
        if !seen.insert(its.clone()) {
            continue;
        }
        let text = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
        let is_ours = its == ours;
        all.extend(parse_mounts(&text).map(|mount| Mounted { is_ours, ..mount }));
    }
    let mut all: Vec<Mounted> = all.into_iter().collect();
    all.sort_by_key(|mount| !mount.is_ours);
    all
}

/// Parses `mountinfo`: field 3 is the device, field 5 the mount point (octal escapes), field 6 the
/// options of the mount, and the last field those of the file system.
fn parse_mounts(text: &str) -> impl Iterator<Item = Mounted> {
    text.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split(' ').collect();
        let (major, minor) = fields.get(2)?.split_once(':')?;
        let options = [*fields.get(5)?, *fields.last()?];
        let is_writable = !options
            .iter()
            .any(|options| options.split(',').any(|option| option == "ro"));
        Some(Mounted {
            number: (major.parse().ok()?, minor.parse().ok()?),
            at: PathBuf::from(unescape(fields.get(4)?)),
            is_ours: true,
            is_writable,
        })
    })
}

fn unescape(text: &str) -> String {
    let mut plain = text.to_owned();
    for (escape, character) in [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ] {
        plain = plain.replace(escape, character);
    }
    plain
}

/// The directory of the running system that is on the same disk as the device at `sys`.
fn system_on(sys: &Path) -> Option<PathBuf> {
    let mut disks = BTreeSet::new();
    base_disks(sys, &mut disks, 0);
    let of_system = ["/", "/boot", "/boot/efi", "/usr", "/var", "/home", "/etc"];
    of_system.iter().map(Path::new).find_map(|dir| {
        let mut its = BTreeSet::new();
        for number in numbers_under(dir) {
            if let Ok(sys) = self::sys(number) {
                base_disks(&sys, &mut its, 0);
            }
        }
        (!its.is_disjoint(&disks)).then(|| dir.to_path_buf())
    })
}

/// The devices of a directory: the one that the kernel reports, and the source of its mount, since
/// some file systems (btrfs, overlay) report a number that no device has.
fn numbers_under(dir: &Path) -> Vec<Number> {
    let mut numbers: Vec<Number> = block::number_under(dir).into_iter().collect();
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let sources = text.lines().filter_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let at = before.split(' ').nth(4)?;
        (Path::new(&unescape(at)) == dir).then(|| after.split(' ').nth(1))?
    });
    numbers.extend(sources.filter_map(|source| block::number(Path::new(source)).ok()?));
    numbers
}

/// Collects the whole disks below a device: the disk of a partition, the disks of a mapping.
fn base_disks(sys: &Path, found: &mut BTreeSet<PathBuf>, depth: usize) {
    let disk = if sys.join("partition").exists() {
        sys.parent().unwrap_or(sys)
    } else {
        sys
    };
    let mut below: Vec<PathBuf> = Vec::new();
    for dir in [sys, disk] {
        let slaves = dir.join("slaves");
        below.extend(
            names_in(&slaves)
                .iter()
                .filter_map(|name| fs::canonicalize(slaves.join(name)).ok()),
        );
    }
    found.insert(disk.to_path_buf());
    // A limit, in case of a loop in /sys.
    if depth < 16 {
        for next in below {
            base_disks(&next, found, depth + 1);
        }
    }
}

fn sys((major, minor): Number) -> Result<PathBuf> {
    let link = format!("/sys/dev/block/{major}:{minor}");
    fs::canonicalize(&link).with_context(|| format!("no {link}"))
}

fn parts(sys: &Path) -> Vec<PathBuf> {
    let mut parts: Vec<PathBuf> = names_in(sys)
        .into_iter()
        .map(|name| sys.join(name))
        .filter(|path| path.join("partition").exists())
        .collect();
    parts.sort();
    parts
}

fn sys_number(sys: &Path) -> Option<Number> {
    let text = fs::read_to_string(sys.join("dev")).ok()?;
    let (major, minor) = text.trim().split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn device_node(sys: &Path) -> PathBuf {
    let name = sys.file_name().unwrap_or_default().to_string_lossy();
    PathBuf::from("/dev").join(name.replace('!', "/"))
}

fn sectors(path: &Path) -> u64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.trim().parse().unwrap_or_default()
}

fn names_in(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_disk_that_this_machine_runs_from_is_in_use() {
        // If / is not on a disk (a container), there is nothing to refuse.
        let Some(number) = numbers_under(Path::new("/"))
            .into_iter()
            .find(|number| sys(*number).is_ok())
        else {
            return;
        };
        let node = device_node(&sys(number).unwrap());
        if !node.exists() {
            return;
        }
        let device = Device::open(&node).unwrap();
        assert_eq!(device.holds_system.as_deref(), Some(Path::new("/")));
        assert!(device.in_use().unwrap().contains("runs from"));
    }

    #[test]
    fn a_disk_is_found_by_the_names_of_the_clouds_and_the_name_must_match_one() {
        let dir = tempfile::tempdir().unwrap();
        let place = Prefix::new(Some(dir.path()));
        let by_id = place.join("/dev/disk/by-id");
        fs::create_dir_all(&by_id).unwrap();
        assert_eq!(find_by_name(&place, "d").unwrap(), None);
        let link = |name: &str, to: &str| std::os::unix::fs::symlink(to, by_id.join(name)).unwrap();
        link("scsi-0Google_PersistentDisk_d", "/dev/null");
        link("google-d", "/dev/null");
        link("google-d-part1", "/dev/zero");
        assert_eq!(
            find_by_name(&place, "d").unwrap(),
            Some(by_id.join("google-d"))
        );
        link("virtio-d", "/dev/zero");
        assert!(
            find_by_name(&place, "d")
                .unwrap_err()
                .to_string()
                .contains("several")
        );
        link("nvme-Amazon_Elastic_Block_Store_vol0ab", "/dev/null");
        assert!(find_by_name(&place, "vol-0ab").unwrap().is_some());
    }

    #[test]
    fn a_disk_is_in_use_if_it_or_a_partition_of_it_is() {
        let free = Device {
            name: "/dev/sdb".into(),
            path: "/dev/sdb".into(),
            number: (8, 16),
            bytes: 1 << 30,
            read_only: false,
            partition_of: None,
            partitions: vec![],
            holders: vec![],
            mounts: vec![],
            is_swap: false,
            holds_system: None,
        };
        assert_eq!(free.in_use(), None);
        let why = |change: fn(&mut Device)| {
            let mut device = free.clone();
            change(&mut device);
            device.in_use().unwrap()
        };
        assert!(why(|device| device.is_swap = true).contains("swap space"));
        assert!(why(|device| device.holders = vec!["dm-0".into()]).contains("dm-0 uses it"));
        let mounted = |device: &mut Device| {
            device.mounts = parse_mounts("36 35 8:17 / /srv rw - ext4 /dev/sdb1 rw\n").collect();
        };
        assert!(why(mounted).contains("mounted at /srv"));
        assert!(why(|device| device.holds_system = Some("/usr".into())).contains("with /usr"));
    }

    #[test]
    fn mounts_are_read_with_spaces_and_options() {
        let text = "36 35 8:1 / /mnt/a\\040b rw,noatime shared:1 - ext4 /dev/sda1 \
                    rw,errors=remount-ro\n\
                    37 35 8:2 / /x rw - ext4 /dev/sda2 ro,relatime\n";
        let mounts: Vec<Mounted> = parse_mounts(text).collect();
        assert_eq!(mounts[0].at, Path::new("/mnt/a b"));
        assert!(mounts[0].is_writable && !mounts[1].is_writable);
        assert_eq!(mounts[1].number, (8, 2));
    }

    #[test]
    fn sizes_are_formatted_for_people() {
        assert_eq!(size(50 << 30), "50 GiB");
        assert_eq!(size(1536 << 20), "1.5 GiB");
        assert_eq!(size(512), "512 bytes");
    }
}
