//! Planning of the disk: format, grow and mount a named disk, or refuse it.

use std::fs;
use std::path::{Path, PathBuf};

use super::Ask;
use super::packages;
use super::steps::Step;
use crate::storage::blank_check::{self, Content};
use crate::storage::device::{self, Device, size};
use crate::storage::filesystem::{self, Filesystem, FilesystemKind, Inside, Peek, SMALLEST};
use crate::storage::mount::Mount;
use sys::block::Number;
use sys::error::{Context as _, Hint as _, Result, anyhow};
use sys::files;
use sys::prefix::Prefix;
use sys::secure_dir::{Dir, Entry};

/// The facts from which the steps are planned.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The device.
    pub device: Device,
    /// What is on it.
    pub content: Content,
    /// What its file system holds; `None` without a file system.
    pub inside: Option<Inside>,
    /// The mount point.
    pub point: Point,
    /// The mount unit as it should be: files, and links that enable it.
    pub unit: Unit,
    /// The id of a new file system.
    pub uuid: String,
    /// Packages that are missing.
    pub missing: Vec<&'static str>,
}

/// The state of a mount point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Point {
    /// There is no such directory.
    Absent,
    /// It is empty.
    Empty,
    /// It holds files, which a mount would hide.
    Full(Vec<String>),
    /// A device is mounted on it.
    Mounted(Number),
}

/// The differences between the mount unit as requested and as installed.
#[derive(Debug, Clone, Default)]
pub struct Unit {
    /// Its name, if systemd can start it.
    pub start: Option<String>,
    /// Files that are missing or differ.
    pub files: Vec<(PathBuf, String)>,
    /// Links that are missing.
    pub links: Vec<(PathBuf, PathBuf)>,
}

/// Gathers the facts. Changes nothing.
///
/// # Errors
/// The disk does not appear, or cannot be read.
pub fn gather_facts(ask: &Ask, disk: &str) -> Result<Facts> {
    let place = &ask.place;
    let at = place.join(&ask.data_dir);
    let device = device::wait_for(place, disk, ask.wait)?;
    let point = point(&at)?;
    let is_here = point == Point::Mounted(device.number);
    let (content, inside) = if is_here {
        (
            Content::Filesystem(mounted(&device, &at)?),
            Some(Inside::inspect(&at)?),
        )
    } else if let Some(why) = device.in_use() {
        return Err(anyhow!("{} cannot be used: {why}", device.name.display()))
            .hint("name another disk; to list them: lsblk -o NAME,SIZE,FSTYPE,MOUNTPOINTS");
    } else {
        match blank_check::scan(&device)? {
            Content::Filesystem(filesystem) => {
                let peek = Peek::mount(&device.path, filesystem.kind, &place.join("/run"))?;
                let inside = Inside::inspect(peek.path())?;
                (Content::Filesystem(filesystem), Some(inside))
            }
            other => (other, None),
        }
    };
    let uuid = sys::uuid::new_uuid();
    let (kind, id) = match &content {
        Content::Filesystem(filesystem) => (filesystem.kind, filesystem.uuid.clone()),
        _ => (FilesystemKind::Ext4, uuid.clone()),
    };
    let what = if place.has_udev() {
        PathBuf::from("/dev/disk/by-uuid").join(id)
    } else {
        device.name.clone()
    };
    let unit = unit(place, &Mount { what, at, kind });
    let missing = match ask.packages && place.is_real() {
        true => packages::missing(kind, packages::has),
        false => Vec::new(),
    };
    Ok(Facts {
        device,
        content,
        inside,
        point,
        unit,
        uuid,
        missing,
    })
}

/// The mounted file system. The superblock of a mounted XFS lags behind, so `xfs_growfs` reports
/// its size.
fn mounted(device: &Device, at: &Path) -> Result<Filesystem> {
    let on_disk = Filesystem::on(&device.path)?;
    match on_disk.kind {
        FilesystemKind::Ext4 => Ok(on_disk),
        FilesystemKind::Xfs => Ok(Filesystem {
            // Without the tool it cannot be grown either.
            bytes: filesystem::xfs_size(at).unwrap_or(on_disk.bytes),
            ..on_disk
        }),
    }
}

fn point(at: &Path) -> Result<Point> {
    let (Some(parent), Some(name)) = (at.parent(), at.file_name()) else {
        return Err(anyhow!("{} cannot be a mount point", at.display()));
    };
    let mut existing = parent;
    while !existing.exists() {
        existing = existing.parent().unwrap_or(Path::new("/"));
    }
    let dir = Dir::open(existing).context("the path to the mount point")?;
    if existing != parent {
        return Ok(Point::Absent);
    }
    match dir.entry(name)? {
        Entry::Absent => Ok(Point::Absent),
        Entry::Link | Entry::Other(_) => {
            Err(anyhow!("{} is a link or not a directory", at.display()))
                .hint(format!("sudo mv {0} {0}.old", at.display()))
        }
        Entry::Directory(_) if files::is_mount_point(at)? => {
            Ok(Point::Mounted(sys::block::number_under(at)?))
        }
        Entry::Directory(_) => match dir.child(name)?.names()? {
            names if names.is_empty() => Ok(Point::Empty),
            names => Ok(Point::Full(names)),
        },
    }
}

/// The mount unit of this machine; empty without systemd.
fn unit(place: &Prefix, mount: &Mount) -> Unit {
    let dir = place.join("/etc/systemd/system");
    if !dir.is_dir() {
        return Unit::default();
    }
    let name = mount.unit_name();
    let requested = mount
        .units()
        .into_iter()
        .map(|(name, text)| (dir.join(name), text));
    let files = requested
        .filter(|(path, text)| fs::read_to_string(path).ok().as_deref() != Some(text))
        .collect();
    let target = Path::new("/etc/systemd/system").join(&name);
    let links = mount.links().map(|link| dir.join(link));
    Unit {
        start: place.has_systemd().then_some(name),
        files,
        links: links
            .into_iter()
            .filter(|link| fs::read_link(link).ok().as_ref() != Some(&target))
            .map(|link| (link, target.clone()))
            .collect(),
    }
}

/// Plans the steps.
///
/// # Errors
/// The disk holds other data, is too small, or something is in the way. With a hint.
pub fn plan(facts: &Facts, ask: &Ask) -> Result<Vec<Step>> {
    let Facts {
        device,
        content,
        point,
        unit,
        ..
    } = facts;
    let at = ask.place.join(&ask.data_dir);
    let name = device.name.display();
    let mut steps = Vec::new();
    if !facts.missing.is_empty() {
        steps.push(Step::Install(facts.missing.clone()));
    }
    let is_here = *point == Point::Mounted(device.number);
    if !is_here {
        refuse_point(point, &at)?;
    }
    let (kind, bytes) = match content {
        Content::Blank => {
            if device.bytes < SMALLEST {
                return Err(anyhow!(
                    "{name} has {}; a data directory needs at least {}",
                    size(device.bytes),
                    size(SMALLEST)
                ))
                .hint("check that it is the right disk: lsblk");
            }
            if device.read_only {
                return Err(anyhow!("{name} is attached read-only")).hint("attach it with mode rw");
            }
            steps.push(Step::Format {
                device: Box::new(device.clone()),
                uuid: facts.uuid.clone(),
            });
            (FilesystemKind::Ext4, device.bytes)
        }
        Content::Filesystem(filesystem) => {
            refuse_other_files(facts, ask)?;
            (filesystem.kind, filesystem.bytes)
        }
        Content::Known(found) => {
            let parts: Vec<String> = device
                .partitions
                .iter()
                .map(|path| path.display().to_string())
                .collect();
            let hint = match &parts[..] {
                [] => format!(
                    "to see what is on it: sudo wipefs {name}; to erase all of it: \
                     sudo wipefs --all {name} && sudo blkdiscard -z {name}"
                ),
                parts => format!(
                    "name a partition that holds ext4 or xfs: --disk {}",
                    parts.join(" or --disk ")
                ),
            };
            return Err(anyhow!(
                "{name} ({}) is not blank and was not changed: {}",
                size(device.bytes),
                blank_check::in_words(found)
            ))
            .hint(hint);
        }
        Content::Unknown(byte) => {
            return Err(anyhow!(
                "{name} ({}) is not blank and was not changed: \
                 no known signature, but byte {byte} is not zero",
                size(device.bytes)
            ))
            .hint(format!("to erase all of it: sudo blkdiscard -z {name}"));
        }
    };
    let filesystem = Filesystem {
        kind,
        uuid: String::new(),
        bytes,
    };
    // XFS grows only while it is mounted, ext4 either way; unmounted, ext4 needs no kernel support.
    let grows_mounted = is_here || kind == FilesystemKind::Xfs;
    let grow = (filesystem.can_grow(device.bytes) && !device.read_only).then(|| Step::Grow {
        device: device.path.clone(),
        kind,
        at: at.clone(),
        is_mounted: grows_mounted,
        from: bytes,
        to: device.bytes,
    });
    if !grows_mounted {
        steps.extend(grow.clone());
    }
    if *point == Point::Absent {
        steps.push(Step::MountPoint(at.clone()));
    }
    if !unit.files.is_empty() || !unit.links.is_empty() {
        steps.push(Step::MountUnit {
            files: unit.files.clone(),
            links: unit.links.clone(),
        });
    }
    if !is_here {
        steps.push(Step::Mount {
            device: device.path.clone(),
            kind,
            at,
            unit: unit.start.clone(),
        });
    }
    steps.extend(grow.filter(|_| grows_mounted));
    Ok(steps)
}

fn refuse_point(point: &Point, at: &Path) -> Result<()> {
    let display = at.display();
    match point {
        Point::Absent | Point::Empty => Ok(()),
        Point::Mounted(_) => Err(anyhow!("another file system is mounted at {display}")).hint(
            format!("use another directory: --data-dir DIR; or: sudo umount {display}"),
        ),
        Point::Full(names) => Err(anyhow!(
            "{display} is a directory with content ({}), which the disk would hide",
            list_names(names)
        ))
        .hint(format!(
            "sudo mv {display} {display}.old    # then set up, and move what you need onto the disk"
        )),
    }
}

fn refuse_other_files(facts: &Facts, ask: &Ask) -> Result<()> {
    match &facts.inside {
        Some(Inside::Other(names)) if !ask.beside => Err(anyhow!(
            "{} holds files that do not belong to a data directory: {}",
            facts.device.name.display(),
            list_names(names)
        ))
        .hint("to keep them and make the data directory beside them: --beside-other-files"),
        _ => Ok(()),
    }
}

fn list_names(names: &[String]) -> String {
    let mut list = names.iter().take(5).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > 5 {
        list.push_str(&format!(" and {} more", names.len() - 5));
    }
    list
}

/// Returns a note if the disk of the partition has space that no partition uses.
#[must_use]
pub fn partition_note(device: &Device) -> Option<String> {
    let disk = Device::open(device.partition_of.as_deref()?).ok()?;
    let number: String = {
        let name = device.path.to_string_lossy();
        let digits = name.chars().rev().take_while(char::is_ascii_digit).count();
        name.chars().skip(name.chars().count() - digits).collect()
    };
    let others: u64 = disk
        .partitions
        .iter()
        .filter_map(|part| Device::open(part).ok())
        .map(|part| part.bytes)
        .sum();
    let unused = disk.bytes.saturating_sub(others);
    (unused > 256 << 20).then(|| {
        format!(
            "{} is a partition, and its disk has {} that no partition uses; to use it: \
             sudo growpart {} {number}, then run this command again",
            device.path.display(),
            size(unused),
            disk.path.display()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::blank_check::Signature;
    use sys::error::hint_of;

    fn ask() -> Ask {
        Ask::new("/mnt/persist".into(), Prefix::new(None))
    }

    fn facts(content: Content) -> Facts {
        Facts {
            device: Device {
                name: "/dev/disk/by-id/google-d".into(),
                path: "/dev/sdb".into(),
                number: (8, 16),
                bytes: 50 << 30,
                read_only: false,
                partition_of: None,
                partitions: vec![],
                holders: vec![],
                mounts: vec![],
                is_swap: false,
                holds_system: None,
            },
            content,
            inside: None,
            point: Point::Absent,
            unit: Unit {
                start: Some("mnt-persist.mount".into()),
                files: vec![(
                    "/etc/systemd/system/mnt-persist.mount".into(),
                    String::new(),
                )],
                links: vec![],
            },
            uuid: "u".into(),
            missing: vec!["tmux"],
        }
    }

    fn ext4(bytes: u64) -> Content {
        Content::Filesystem(Filesystem {
            kind: FilesystemKind::Ext4,
            uuid: "u".into(),
            bytes,
        })
    }

    fn descriptions(facts: &Facts) -> Vec<String> {
        plan(facts, &ask())
            .unwrap()
            .iter()
            .map(Step::describe)
            .collect()
    }

    #[test]
    fn a_blank_disk_is_formatted_and_mounted() {
        assert_eq!(
            descriptions(&facts(Content::Blank)),
            [
                "install tmux",
                "format /dev/disk/by-id/google-d (/dev/sdb, 50 GiB, blank) as ext4",
                "make the directory /mnt/persist",
                "write and enable /etc/systemd/system/mnt-persist.mount",
                "mount /dev/sdb (ext4) at /mnt/persist",
            ]
        );
    }

    #[test]
    fn a_disk_that_is_as_it_should_be_needs_nothing() {
        let mut ready = facts(ext4(50 << 30));
        ready.inside = Some(Inside::DataDir);
        ready.point = Point::Mounted((8, 16));
        ready.unit = Unit::default();
        ready.missing = vec![];
        assert_eq!(plan(&ready, &ask()).unwrap(), []);
        ready.device.bytes = 60 << 30;
        assert_eq!(
            descriptions(&ready),
            ["grow the file system at /mnt/persist from 50 GiB to 60 GiB"]
        );
    }

    #[test]
    fn a_disk_that_holds_anything_is_never_formatted() {
        let known = Content::Known(vec![Signature {
            offset: 510,
            kind: "dos".into(),
        }]);
        for content in [known, Content::Unknown(7)] {
            let error = plan(&facts(content), &ask()).unwrap_err();
            assert!(error.to_string().contains("not changed"), "{error}");
            assert!(hint_of(&error).is_some());
        }
        let mut other = facts(ext4(50 << 30));
        other.inside = Some(Inside::Other(vec!["photos".into()]));
        let error = plan(&other, &ask()).unwrap_err();
        assert!(error.to_string().contains("photos"));
        let mut beside = ask();
        beside.beside = true;
        let steps = plan(&other, &beside).unwrap();
        assert!(!steps.iter().any(|step| matches!(step, Step::Format { .. })));
    }

    #[test]
    fn a_small_disk_a_read_only_one_and_an_occupied_mount_point_are_refused() {
        let mut small = facts(Content::Blank);
        small.device.bytes = 100 << 20;
        assert!(
            plan(&small, &ask())
                .unwrap_err()
                .to_string()
                .contains("100 MiB")
        );
        let mut read_only = facts(Content::Blank);
        read_only.device.read_only = true;
        assert!(plan(&read_only, &ask()).is_err());
        for point in [Point::Full(vec!["x".into()]), Point::Mounted((9, 9))] {
            let mut facts = facts(Content::Blank);
            facts.point = point;
            assert!(plan(&facts, &ask()).is_err());
        }
    }
}
