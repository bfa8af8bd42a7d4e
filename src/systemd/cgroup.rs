//! A cgroup (version 2) for each launch of an agent, below the unit of the tmux server.
//!
//! ```text
//! spotkeep-tmux.service          delegated to the user (Delegate=yes)
//! ├─ server                      tmux itself: processes may only be in leaves
//! └─ agents
//!    └─ NAME.1a2b3c4d            one launch: claude, and all that it ever started
//! ```
//!
//! A launch has a leaf of its own, as it has a marker of its own: killing what is in it never meets
//! the next launch. Without version 2, or outside of the unit, there are none, and what outlives
//! claude is found by its marker alone.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use state::AgentName;
use sys::error::{Context as _, Result};
use sys::proc_usage::Usage;

/// The leaf of the tmux server.
const SERVER: &str = "server";
/// Below this lie the agents' leaves.
const AGENTS: &str = "agents";
/// So much of a marker tells launches apart.
const MARKER_LENGTH: usize = 8;

/// The delegated cgroup of the tmux unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delegated(PathBuf);

impl Delegated {
    /// The one that a running tmux server is in; `None` where it has none.
    #[must_use]
    pub fn of_server(pid: i32) -> Option<Self> {
        let dir = of_process(pid)?;
        let unit = dir.parent()?;
        let is_ours = dir.file_name()? == SERVER && unit.join(AGENTS).is_dir();
        is_ours.then(|| Self(unit.to_path_buf()))
    }

    /// Arranges the cgroup of the unit that this process was started by, and moves this process,
    /// which is about to become the tmux server, into its leaf. Where there are no cgroups of
    /// version 2, no unit, or none that is ours to write, nothing is done.
    pub fn arrange() {
        let this = i32::try_from(std::process::id()).ok();
        let unit = this.and_then(of_process);
        let is_unit = |dir: &PathBuf| dir.extension().is_some_and(|kind| kind == "service");
        if let Some(dir) = unit.filter(is_unit)
            && let Err(error) = arrange(&dir)
        {
            tracing::debug!("agents share a cgroup: {error}");
        }
    }

    /// Where a launch will be.
    #[must_use]
    pub fn leaf(&self, name: &AgentName, marker: &str) -> Leaf {
        let short = marker.get(..MARKER_LENGTH).unwrap_or(marker);
        Leaf(self.0.join(AGENTS).join(format!("{name}.{short}")))
    }
}

fn arrange(unit: &Path) -> io::Result<()> {
    let (server, agents) = (unit.join(SERVER), unit.join(AGENTS));
    make_dir(&server)?;
    make_dir(&agents)?;
    fs::write(server.join("cgroup.procs"), "0")?;
    // Only now: a cgroup that holds processes cannot hand controllers down. Where the memory
    // controller is not to be had, leaves are still good for ending all that is in them.
    for dir in [unit, &agents] {
        let handed = fs::write(dir.join("cgroup.subtree_control"), "+memory");
        if let Err(error) = handed {
            tracing::debug!("no limits of memory: {error}");
        }
    }
    Ok(())
}

/// How a launch came to the end of its memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutOfMemory {
    /// Its own limit, in bytes; `None`: the whole machine had no more.
    pub limit: Option<u64>,
}

/// The cgroup of one launch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf(PathBuf);

impl Leaf {
    /// The one at this path, as it was remembered.
    #[must_use]
    pub fn open(path: &Path) -> Self {
        Self(path.to_path_buf())
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Whether memory can be limited in it: the controller was handed down to where it is.
    #[must_use]
    pub fn can_limit_memory(&self) -> bool {
        let handed = self
            .0
            .parent()
            .map(|agents| agents.join("cgroup.subtree_control"));
        handed
            .and_then(|file| fs::read_to_string(file).ok())
            .is_some_and(|controllers| controllers.split_whitespace().any(|name| name == "memory"))
    }

    /// Makes it, sets the limit in bytes where that can be, and moves this process into it.
    ///
    /// # Errors
    /// It cannot be made, or the limit is refused.
    pub fn enter(&self, memory_max: Option<u64>) -> Result<()> {
        let dir = self.0.display();
        make_dir(&self.0).with_context(|| format!("cannot make the cgroup {dir}"))?;
        if let Some(limit) = memory_max.filter(|_| self.can_limit_memory()) {
            fs::write(self.0.join("memory.max"), limit.to_string())
                .with_context(|| format!("cannot limit the memory of {dir}"))?;
        }
        // Half an agent is none: out of memory, all of it is ended, and then it is resumed.
        fs::write(self.0.join("memory.oom.group"), "1").ok();
        fs::write(self.0.join("cgroup.procs"), "0")
            .with_context(|| format!("cannot move into the cgroup {dir}"))
    }

    /// Whether a process in it was killed for want of memory, and whose want that was. To be asked
    /// before [`Leaf::remove`].
    #[must_use]
    pub fn out_of_memory(&self) -> Option<OutOfMemory> {
        let events = fs::read_to_string(self.0.join("memory.events")).ok()?;
        let count = |name: &str| -> u64 {
            let of_line = |line: &str| line.strip_prefix(name)?.trim().parse().ok();
            events.lines().find_map(of_line).unwrap_or(0)
        };
        if count("oom_kill ") == 0 {
            return None;
        }
        let limit = fs::read_to_string(self.0.join("memory.max")).ok();
        let limit = limit.and_then(|limit| limit.trim().parse().ok());
        // `oom` counts how often this cgroup's own limit was hit.
        Some(OutOfMemory {
            limit: limit.filter(|_| count("oom ") > 0),
        })
    }

    /// What all that is in it takes, files in the page cache left out; `None` where the kernel does not
    /// tell both.
    #[must_use]
    pub fn usage(&self) -> Option<Usage> {
        let number = |file: &str, name: &str| -> Option<u64> {
            let text = fs::read_to_string(self.0.join(file)).ok()?;
            let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
            rest.trim().parse().ok()
        };
        Some(Usage {
            cpu: Duration::from_micros(number("cpu.stat", "usage_usec ")?),
            memory: number("memory.stat", "anon ")?,
        })
    }

    /// Kills all that is in it. Returns how many processes there were.
    pub fn kill(&self) -> usize {
        let mut found = Vec::new();
        processes(&self.0, &mut found);
        if !found.is_empty() {
            // Atomic, recursive, and no fork slips by. Kernels before 5.14 do not have it; there the
            // marker finds them.
            fs::write(self.0.join("cgroup.kill"), "1").ok();
        }
        found.len()
    }

    /// Waits until nothing is in it any more, at most until `until`, and removes it.
    pub fn remove(&self, until: Instant) {
        while self.is_populated() && Instant::now() < until {
            // What was killed is gone within a millisecond or two; there is no need to be told.
            std::thread::sleep(Duration::from_millis(2));
        }
        remove(&self.0);
    }

    /// Removes it, if nothing lives in it.
    pub fn remove_if_empty(&self) {
        remove(&self.0);
    }

    fn is_populated(&self) -> bool {
        fs::read_to_string(self.0.join("cgroup.events"))
            .is_ok_and(|events| events.lines().any(|line| line == "populated 1"))
    }
}

/// What is in a cgroup and below it.
fn processes(dir: &Path, found: &mut Vec<i32>) {
    if let Ok(text) = fs::read_to_string(dir.join("cgroup.procs")) {
        found.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
    }
    for below in below(dir) {
        processes(&below, found);
    }
}

/// Removes a cgroup with what is below it, as far as nothing lives there.
fn remove(dir: &Path) {
    for below in below(dir) {
        remove(&below);
    }
    // One that something still lives in stays, and that is right.
    fs::remove_dir(dir).ok();
}

fn below(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

fn make_dir(dir: &Path) -> io::Result<()> {
    match fs::create_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

/// The cgroup of a process, as a directory.
fn of_process(pid: i32) -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let dir = place(&mounts, &groups)?;
    dir.is_dir().then_some(dir)
}

/// Puts together where version 2 is mounted (`mountinfo`) and the group's name below it
/// (`/proc/PID/cgroup`). On a machine with both versions, the line of version 2 begins with `0::`.
fn place(mounts: &str, groups: &str) -> Option<PathBuf> {
    let mount = mounts.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        kind.starts_with("cgroup2 ")
            .then(|| mount.split(' ').nth(4))?
    })?;
    let group = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    Some(Path::new(mount).join(group))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 22 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate
";

    /// A tree of plain files that is laid out as the kernel does.
    fn fake(dir: &Path) {
        for file in ["cgroup.procs", "cgroup.subtree_control"] {
            fs::write(dir.join(file), "").unwrap();
        }
    }

    #[test]
    fn a_processs_group_is_found_where_version_two_is_mounted() {
        let unified = "0::/system.slice/spotkeep-tmux.service/server\n";
        let dir = Path::new("/sys/fs/cgroup/system.slice/spotkeep-tmux.service/server");
        assert_eq!(place(MOUNTS, unified).as_deref(), Some(dir));
        let hybrid = "4:memory:/x\n1:name=systemd:/y\n0::/system.slice/a.service\n";
        let dir = Path::new("/sys/fs/cgroup/system.slice/a.service");
        assert_eq!(place(MOUNTS, hybrid).as_deref(), Some(dir));
        assert_eq!(place(MOUNTS, "4:memory:/x\n"), None);
        assert_eq!(
            place("22 1 254:0 / / rw - ext4 /dev/vda rw\n", unified),
            None
        );
    }

    #[test]
    fn the_server_moves_into_a_leaf_before_controllers_are_handed_down() {
        let dir = tempfile::tempdir().unwrap();
        let unit = dir.path();
        fake(unit);
        for leaf in ["server", "agents"] {
            fs::create_dir(unit.join(leaf)).unwrap();
            fake(&unit.join(leaf));
        }
        arrange(unit).unwrap();
        let read = |path: &str| fs::read_to_string(unit.join(path)).unwrap();
        assert_eq!(read("server/cgroup.procs"), "0");
        assert_eq!(read("cgroup.subtree_control"), "+memory");
        assert_eq!(read("agents/cgroup.subtree_control"), "+memory");
    }

    #[test]
    fn a_launch_has_a_leaf_of_its_own() {
        let unit = Delegated("/c/spotkeep-tmux.service".into());
        let name = AgentName::new("agent-1").unwrap();
        let leaf = unit.leaf(&name, "1a2b3c4d-5e6f-7081-92a3-b4c5d6e7f809");
        let path = Path::new("/c/spotkeep-tmux.service/agents/agent-1.1a2b3c4d");
        assert_eq!(leaf.path(), path);
    }

    #[test]
    fn what_a_launch_takes_is_told_by_its_cgroup() {
        let dir = tempfile::tempdir().unwrap();
        let leaf = Leaf::open(dir.path());
        assert_eq!(leaf.usage(), None);
        fs::write(dir.path().join("memory.stat"), "anon 4096\nfile 9\n").unwrap();
        fs::write(
            dir.path().join("cpu.stat"),
            "usage_usec 1500000\nuser_usec 1\n",
        )
        .unwrap();
        let cpu = Duration::from_millis(1_500);
        assert_eq!(leaf.usage(), Some(Usage { cpu, memory: 4_096 }));
    }

    #[test]
    fn the_end_of_memory_is_told_with_the_limit_that_was_hit() {
        let dir = tempfile::tempdir().unwrap();
        let leaf = Leaf::open(dir.path());
        assert_eq!(leaf.out_of_memory(), None);
        let write = |file: &str, text: &str| fs::write(dir.path().join(file), text).unwrap();
        write("memory.max", "6442450944\n");
        write(
            "memory.events",
            "low 0\nhigh 0\nmax 12\noom 0\noom_kill 0\noom_group_kill 0\n",
        );
        assert_eq!(leaf.out_of_memory(), None);
        write(
            "memory.events",
            "low 0\nhigh 0\nmax 12\noom 1\noom_kill 3\noom_group_kill 1\n",
        );
        let limit = Some(6 << 30);
        assert_eq!(leaf.out_of_memory(), Some(OutOfMemory { limit }));
        write(
            "memory.events",
            "low 0\nhigh 0\nmax 0\noom 0\noom_kill 3\noom_group_kill 0\n",
        );
        assert_eq!(leaf.out_of_memory(), Some(OutOfMemory { limit: None }));
    }
}
