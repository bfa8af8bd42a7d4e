//! A version 2 cgroup for each launch of an agent, below the unit of the tmux server.
//!
//! ```text
//! spotkeep-tmux.service          delegated to the user (Delegate=yes)
//! ├─ server                      tmux itself: processes may only be in leaves
//! └─ agents
//!    └─ NAME.1a2b3c4d            one launch: claude, and every process that it started
//! ```
//!
//! Each launch has its own leaf, like its own marker: killing the processes in it never kills those
//! of the next launch. Without version 2, or outside of the unit, there are no leaves, and
//! processes that outlive claude are found by their marker alone.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use state::AgentName;
use sys::error::{Context as _, Result};
use sys::proc_usage::Usage;

/// The leaf of the tmux server.
const SERVER: &str = "server";
/// The parent of the agents' leaves.
const AGENTS: &str = "agents";
/// Length of the part of a marker that distinguishes launches.
const MARKER_LENGTH: usize = 8;

/// The delegated cgroup of the tmux unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delegated(PathBuf);

impl Delegated {
    /// The one of a running tmux server; `None` if it has none.
    #[must_use]
    pub fn from_server(pid: i32) -> Option<Self> {
        let dir = of_process(pid)?;
        let unit = dir.parent()?;
        let is_ours = dir.file_name()? == SERVER && unit.join(AGENTS).is_dir();
        is_ours.then(|| Self(unit.to_path_buf()))
    }

    /// Arranges the cgroup of the unit that started this process, and moves this process, which is
    /// about to become the tmux server, into its leaf. Without cgroups of version 2, without a
    /// unit, or if the cgroup is not writable, nothing is done.
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

    /// The leaf of a launch.
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
    // Only now: a cgroup that holds processes cannot enable controllers for its children. Without
    // the memory controller, leaves still serve to end all processes in them.
    for dir in [unit, &agents] {
        let enabled = fs::write(dir.join("cgroup.subtree_control"), "+memory");
        if let Err(error) = enabled {
            tracing::debug!("no memory limits: {error}");
        }
    }
    Ok(())
}

/// Why a launch ran out of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutOfMemory {
    /// Its own limit, in bytes; `None` if the whole machine ran out.
    pub limit: Option<u64>,
}

/// The cgroup of one launch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf(PathBuf);

impl Leaf {
    /// The leaf at a recorded path.
    #[must_use]
    pub fn open(path: &Path) -> Self {
        Self(path.to_path_buf())
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Whether its memory can be limited: its parent has enabled the memory controller.
    #[must_use]
    pub fn can_limit_memory(&self) -> bool {
        let control = self
            .0
            .parent()
            .map(|agents| agents.join("cgroup.subtree_control"));
        control
            .and_then(|file| fs::read_to_string(file).ok())
            .is_some_and(|controllers| controllers.split_whitespace().any(|name| name == "memory"))
    }

    /// Makes the cgroup, sets the limit in bytes if possible, and moves this process into it.
    ///
    /// # Errors
    /// The cgroup cannot be made, or the limit is refused.
    pub fn enter(&self, memory_max: Option<u64>) -> Result<()> {
        let dir = self.0.display();
        make_dir(&self.0).with_context(|| format!("cannot make the cgroup {dir}"))?;
        if let Some(limit) = memory_max.filter(|_| self.can_limit_memory()) {
            fs::write(self.0.join("memory.max"), limit.to_string())
                .with_context(|| format!("cannot limit the memory of {dir}"))?;
        }
        // Out of memory, the kernel kills all of the agent's processes; then the agent is resumed.
        fs::write(self.0.join("memory.oom.group"), "1").ok();
        fs::write(self.0.join("cgroup.procs"), "0")
            .with_context(|| format!("cannot move into the cgroup {dir}"))
    }

    /// Whether the kernel killed a process in it for lack of memory, and by which limit. Call it
    /// before [`Leaf::remove`].
    #[must_use]
    pub fn out_of_memory(&self) -> Option<OutOfMemory> {
        let events = fs::read_to_string(self.0.join("memory.events")).ok()?;
        let count = |name: &str| -> u64 {
            let value = |line: &str| line.strip_prefix(name)?.trim().parse().ok();
            events.lines().find_map(value).unwrap_or(0)
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

    /// CPU time and memory of all its processes, without files in the page cache; `None` if the
    /// kernel does not report both.
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

    /// Kills all its processes. Returns their number.
    pub fn kill(&self) -> usize {
        let mut found = Vec::new();
        processes(&self.0, &mut found);
        if !found.is_empty() {
            // Atomic and recursive, and a fork cannot escape. Kernels before 5.14 do not have it;
            // there the processes are found by their marker.
            fs::write(self.0.join("cgroup.kill"), "1").ok();
        }
        found.len()
    }

    /// Waits until its processes have ended, at most until `until`, and removes it.
    pub fn remove(&self, until: Instant) {
        while self.is_populated() && Instant::now() < until {
            // Killed processes end within a millisecond or two, so polling is enough.
            std::thread::sleep(Duration::from_millis(2));
        }
        remove(&self.0);
    }

    /// Removes the cgroup if it has no processes.
    pub fn remove_if_empty(&self) {
        remove(&self.0);
    }

    fn is_populated(&self) -> bool {
        fs::read_to_string(self.0.join("cgroup.events"))
            .is_ok_and(|events| events.lines().any(|line| line == "populated 1"))
    }
}

/// Collects the processes of a cgroup and of those below it.
fn processes(dir: &Path, found: &mut Vec<i32>) {
    if let Ok(text) = fs::read_to_string(dir.join("cgroup.procs")) {
        found.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
    }
    for below in below(dir) {
        processes(&below, found);
    }
}

/// Removes a cgroup and those below it, except for those with processes.
fn remove(dir: &Path) {
    for below in below(dir) {
        remove(&below);
    }
    // The kernel refuses to remove a cgroup that has processes.
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

/// The directory of a process's cgroup.
fn of_process(pid: i32) -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let dir = place(&mounts, &groups)?;
    dir.is_dir().then_some(dir)
}

/// Joins the mount point of version 2 (`mountinfo`) and the group's name below it
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

    /// Makes the files of a cgroup directory as plain files.
    fn fake(dir: &Path) {
        for file in ["cgroup.procs", "cgroup.subtree_control"] {
            fs::write(dir.join(file), "").unwrap();
        }
    }

    #[test]
    fn the_cgroup_of_a_process_is_found_below_the_mount_of_version_two() {
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
    fn the_server_moves_into_a_leaf_before_controllers_are_enabled() {
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
    fn each_launch_has_its_own_leaf() {
        let unit = Delegated("/c/spotkeep-tmux.service".into());
        let name = AgentName::new("agent-1").unwrap();
        let leaf = unit.leaf(&name, "1a2b3c4d-5e6f-7081-92a3-b4c5d6e7f809");
        let path = Path::new("/c/spotkeep-tmux.service/agents/agent-1.1a2b3c4d");
        assert_eq!(leaf.path(), path);
    }

    #[test]
    fn the_usage_of_a_launch_is_read_from_its_cgroup() {
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
    fn running_out_of_memory_is_reported_with_the_limit_that_was_hit() {
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
