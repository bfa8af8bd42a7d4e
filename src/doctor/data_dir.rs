//! Checks of the data directory: existence, mount, filesystem type, free space and inodes.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use super::facts::Facts;
use super::{Check, size};
use sys::files::{self, Space};
use sys::mounts::{self, Mount};

/// Time limit of measuring what takes the space.
const COUNT_LIMIT: Duration = Duration::from_secs(1);

/// Free space below this is wrong: transcripts, builds and git's objects all grow.
const LEAST_BYTES: u64 = 256 << 20;

/// Free space below this is a warning.
const FEW_BYTES: u64 = 2 << 30;

pub(super) fn checks(facts: &Facts) -> Vec<Check> {
    let data_dir = match &facts.data_dir {
        Ok(data_dir) => data_dir,
        Err(error) => return vec![Check::failed("data-dir", error, &facts.spotkeep("init"))],
    };
    let mut checks = vec![match data_dir.identity() {
        Ok(identity) => Check::good(
            "data-dir",
            format!(
                "{}, {}, of {}",
                data_dir.dir().display(),
                identity.data_dir_id.get(..8).unwrap_or_default(),
                identity.user
            ),
        ),
        Err(error) => Check::failed("data-dir", &error, &facts.spotkeep("init")),
    }];
    let text = facts
        .machine
        .read("proc/self/mountinfo")
        .unwrap_or_default();
    let all = mounts::parse(&text);
    if let Some(mount) = mounts::holding(&all, data_dir.dir()) {
        let own = mount.point == data_dir.dir();
        checks.extend(check_mount(mount, own, facts, data_dir.dir()));
        checks.push(check_filesystem(mount, data_dir.dir(), facts.is_vm()));
    }
    if let Ok(space) = files::space(data_dir.dir()) {
        let largest = || largest(&data_dir.dir().join("workspaces"));
        checks.push(check_space(space, largest));
        checks.extend(check_inodes(space, data_dir.dir()));
    }
    checks
}

fn check_mount(mount: &Mount, own: bool, facts: &Facts, dir: &Path) -> Option<Check> {
    let shown = dir.display();
    match (own, facts.expects_mount(), facts.is_vm()) {
        (true, _, _) => Some(Check::good(
            "mount",
            format!("its own filesystem ({})", mount.source),
        )),
        (false, true, _) => Some(Check::wrong(
            "mount",
            format!("{shown} should be a mount point and nothing is mounted there"),
            format!("sudo mount {shown}"),
        )),
        (false, false, true) => Some(Check::warn(
            "mount",
            format!(
                "on the disk of {}: a VM that is created again does not have it",
                mount.point.display()
            ),
            "sudo spotkeep setup --disk NAME",
        )),
        (false, false, false) => None,
    }
}

fn check_filesystem(mount: &Mount, dir: &Path, vm: bool) -> Check {
    let shown = dir.display();
    let kind = mount.kind.as_str();
    if let Some(why) = mount.read_only() {
        let detail = format!("{kind} is read-only: {why}");
        return Check::wrong(
            "filesystem",
            detail,
            format!("sudo mount -o remount,rw {shown}"),
        );
    }
    let bind = format!("docker run -v fleet:{shown} ...");
    let (warn, wrong) = (Check::warn, Check::wrong);
    match kind {
        "tmpfs" | "ramfs" => wrong(
            "filesystem",
            format!("{kind}: it is in memory and is lost at the end of the boot"),
            "spotkeep --data-dir DIR init    # DIR is on a disk".to_owned(),
        ),
        "overlay" | "aufs" => warn(
            "filesystem",
            format!("{kind}: it is lost with the container, unless the data directory is a volume"),
            bind,
        ),
        "vfat" | "exfat" | "ntfs" | "ntfs3" | "fuseblk" => wrong(
            "filesystem",
            format!("{kind} stores neither owners nor links"),
            "move the data directory to a disk with ext4, xfs or btrfs".to_owned(),
        ),
        "nfs" | "nfs4" | "cifs" | "9p" | "virtiofs" | "ceph" => warn(
            "filesystem",
            format!(
                "{kind}: locks and syncs depend on the server, and two machines may mount it at \
                 once"
            ),
            "run the keeper on one machine only".to_owned(),
        ),
        _ if mount.has("noexec") && vm => wrong(
            "filesystem",
            format!("{kind} with noexec: spotkeep and claude cannot run from {shown}/bin"),
            format!("sudo mount -o remount,exec {shown}"),
        ),
        _ if mount.has("nobarrier") || mount.has("barrier=0") => wrong(
            "filesystem",
            format!("{kind} without barriers: synced data may be lost after a power cut"),
            format!("sudo mount -o remount,barrier=1 {shown}"),
        ),
        _ => Check::good("filesystem", format!("{kind}, writable")),
    }
}

fn check_space(space: Space, largest: impl FnOnce() -> Option<(String, u64, bool)>) -> Check {
    let percent = space.free.saturating_mul(100) / space.total.max(1);
    let free = format!("{} of {} free", size(space.free), size(space.total));
    let few = space.free < FEW_BYTES.min(space.total / 10).max(LEAST_BYTES);
    if !few && percent >= 5 {
        return Check::good("space", free);
    }
    let (detail, fix) = match largest() {
        Some((name, bytes, whole)) => {
            let at_least = if whole { "" } else { "at least " };
            let detail = format!("{free}; most is in {name} ({at_least}{})", size(bytes));
            (detail, format!("du -xsh {name}/* | sort -h | tail"))
        }
        None => (free, "df -h".to_owned()),
    };
    match space.free < LEAST_BYTES {
        true => Check::wrong("space", detail, fix),
        false => Check::warn("space", detail, fix),
    }
}

/// Checks the free inodes. A filesystem that has no limit of them reports 0.
fn check_inodes(space: Space, dir: &Path) -> Option<Check> {
    let percent = space
        .free_inodes
        .saturating_mul(100)
        .checked_div(space.inodes)?;
    let detail = format!("{} of {} free", space.free_inodes, space.inodes);
    let fix = format!(
        "find {} -xdev -printf '%h\\n' | sort | uniq -c | sort -n | tail",
        dir.display()
    );
    Some(match percent {
        0..=1 => Check::wrong("inodes", detail, fix),
        2..=9 => Check::warn("inodes", detail, fix),
        _ => Check::good("inodes", detail),
    })
}

/// The largest directory in `dir`, with its size, and whether it was measured to the end.
fn largest(dir: &Path) -> Option<(String, u64, bool)> {
    let until = Instant::now() + COUNT_LIMIT;
    let entries = fs::read_dir(dir).ok()?;
    let (bytes, path) = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .map(|path| (used(&path, until), path))
        .max()?;
    Some((path.display().to_string(), bytes, Instant::now() < until))
}

/// Bytes on disk of everything below `path`, as far as there is time; links are not followed.
fn used(path: &Path, until: Instant) -> u64 {
    let mut total = 0;
    let mut left = vec![path.to_path_buf()];
    while let Some(path) = left.pop() {
        if Instant::now() >= until {
            break;
        }
        let Ok(meta) = fs::symlink_metadata(&path) else {
            continue;
        };
        total += meta.blocks() * 512;
        if meta.is_dir()
            && let Ok(entries) = fs::read_dir(&path)
        {
            left.extend(entries.filter_map(|entry| Some(entry.ok()?.path())));
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(kind: &str, options: &str) -> Mount {
        Mount {
            kind: kind.into(),
            options: options.split(',').map(str::to_owned).collect(),
            ..Mount::default()
        }
    }

    #[test]
    fn a_filesystem_that_can_lose_files_is_not_good() {
        let table = [
            ("ext4", "rw,relatime", true, false),
            ("xfs", "rw", true, false),
            ("ext4", "ro", false, false),
            ("ext4", "rw,emergency_ro", false, false),
            ("ext4", "rw,nobarrier", false, false),
            ("ext4", "rw,noexec", false, false),
            ("tmpfs", "rw", false, false),
            ("exfat", "rw", false, false),
            ("overlay", "rw", true, true),
            ("nfs4", "rw", true, true),
        ];
        for (kind, options, ok, warning) in table {
            let check = check_filesystem(&mount(kind, options), Path::new("/r"), true);
            assert_eq!((check.ok, check.warning), (ok, warning), "{check:?}");
            assert_eq!(check.fix.is_some(), !ok || warning, "{check:?}");
        }
        assert!(check_filesystem(&mount("ext4", "noexec"), Path::new("/r"), false).ok);
    }

    #[test]
    fn little_free_space_names_the_largest_workspace() {
        let space = |free: u64, total: u64| Space {
            free,
            total,
            free_inodes: 1,
            inodes: 100,
        };
        let largest = || Some(("/r/workspaces/api".to_owned(), 7 << 30, false));
        assert_eq!(check_space(space(50 << 30, 100 << 30), || None).fix, None);
        assert_eq!(check_space(space(900 << 20, 1 << 30), || None).fix, None);
        let few = check_space(space(1 << 30, 100 << 30), largest);
        assert!(
            few.ok && few.warning && few.detail.contains("at least 7.0 GiB"),
            "{few:?}"
        );
        let none = check_space(space(1 << 20, 100 << 30), largest);
        assert!(
            !none.ok && none.detail.contains("workspaces/api"),
            "{none:?}"
        );
        assert!(!check_inodes(space(1, 1), Path::new("/r")).unwrap().ok);
    }

    #[test]
    fn the_largest_workspace_is_found() {
        let dir = tempfile::tempdir().unwrap();
        for (name, bytes) in [("small", 10), ("large", 100_000)] {
            fs::create_dir(dir.path().join(name)).unwrap();
            fs::write(dir.path().join(name).join("file"), vec![1; bytes]).unwrap();
        }
        let (name, bytes, whole) = largest(dir.path()).unwrap();
        assert!(name.ends_with("/large") && bytes >= 100_000 && whole);
    }
}
