//! Real systemd in a container: real units, real ordering, real timeouts. In place of the cloud its
//! metadata server's double answers at the true address, in a network that holds nothing else.
//!
//! A test runs itself once more in namespaces of its own: network (nothing but loopback), mounts and
//! processes. Whatever happens to it, all of that goes when its first process does: containers,
//! mounts, loop devices. Without these namespaces nothing is started.

mod disk;
mod journal;
mod machine;

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use spotkeep::drill::metadata::Metadata;
use spotkeep::drill::model::Model;
use spotkeep::os::process::ProcessId;

use crate::lab::{is_root, said, skip};
use crate::loopback::{ensure_only_loopback, name_of};

pub use disk::Disk;
pub use machine::{Machine, agent};

/// Set where a test runs once more, in namespaces of its own; holds the room's directory.
const INSIDE: &str = "SPOTKEEP_TEST_BOOTS_IN";
/// How a test ends that has run in namespaces of its own, and passed.
const PASSED: i32 = 42;
/// The address of the metadata server on Compute Engine.
const METADATA: &str = "169.254.169.254";
/// For a whole test; the runner's own limit comes later.
const TEST_LIMIT: Duration = Duration::from_secs(170);
/// The hierarchies in which the containers have a place of their own.
const HIERARCHIES: [&str; 4] = [
    "/sys/fs/cgroup",
    "/sys/fs/cgroup/unified",
    "/sys/fs/cgroup/systemd",
    "/sys/fs/cgroup/name=systemd",
];

/// Where machines are: their common root file system, and the doubles that they can reach.
pub struct Room {
    pub dir: PathBuf,
    pub model: Model,
    pub metadata: Metadata,
}

/// Plays where machines can be booted. `play` is a closure of the test itself, whose name it tells.
pub fn with_a_room<Play: Fn(&Room)>(play: Play) {
    let test = name_of::<Play>();
    if let Some(dir) = std::env::var_os(INSIDE) {
        play(&Room::new(Path::new(&dir)));
        std::process::exit(PASSED);
    } else if let Some(image) = image(&test) {
        again_apart(&test, &image);
    }
}

/// The image of the root file system; `None`, and said by name, where a thing is missing.
fn image(test: &str) -> Option<PathBuf> {
    if !is_root() {
        skip(test, "booting a container needs root");
        return None;
    }
    for tool in [
        "systemd-nspawn",
        "journalctl",
        "unshare",
        "nsenter",
        "ip",
        "losetup",
        "mkfs.ext4",
    ] {
        let path = std::env::var_os("PATH").unwrap();
        if !std::env::split_paths(&path).any(|dir| dir.join(tool).is_file()) {
            skip(
                test,
                &format!("{tool} is not installed (scripts/need test)"),
            );
            return None;
        }
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/boot-root");
    let image = PathBuf::from(said(Command::new(script).arg("--path")).ok().out.trim());
    if !image.is_file() {
        skip(
            test,
            "there is no root file system to boot (scripts/boot-root makes it)",
        );
        return None;
    }
    Some(image)
}

/// Runs a test once more in namespaces of its own, and takes away what is outside of them.
fn again_apart(test: &str, image: &Path) {
    let id = &spotkeep::state::new_uuid()[..8];
    let dir = PathBuf::from(format!("/tmp/sk-boot-{id}"));
    fs::create_dir(&dir).unwrap();
    let groups = Groups::new(id);
    let mut inside = Command::new("unshare");
    inside
        .args(["-n", "-m", "-p", "-f", "--kill-child", "--mount-proc"])
        .args(["--propagation", "private", "sh", "-ec"])
        .arg(include_str!("room.sh"))
        .arg(&dir)
        .arg(image)
        .arg(
            groups
                .0
                .iter()
                .map(|path| path.display().to_string())
                .collect::<Vec<_>>()
                .join(" "),
        )
        .arg(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture"])
        .env_clear()
        .envs(
            ["PATH", "SPOTKEEP_CI", "RUST_BACKTRACE"]
                .iter()
                .filter_map(|name| Some((name, std::env::var_os(name)?))),
        )
        .env("HOME", "/nonexistent")
        .env(INSIDE, &dir);
    // What it says is seen at once, also when it does not come to its end.
    let mut child = inside.spawn().unwrap();
    let process = ProcessId::of(i32::try_from(child.id()).unwrap()).and_then(ProcessId::open);
    let ended = process.is_none_or(|process| process.wait(Some(Instant::now() + TEST_LIMIT)));
    if !ended {
        child.kill().ok();
    }
    let status = child.wait().unwrap();
    drop(groups);
    fs::remove_dir(&dir).ok();
    assert!(ended, "{test} did not end within {TEST_LIMIT:?}");
    // A name that no test has would end well too.
    assert_eq!(status.code(), Some(PASSED), "{test} failed: {status}");
}

/// A cgroup of our own in each hierarchy that there is: two containers in one would be mixed up.
struct Groups(Vec<PathBuf>);

impl Groups {
    fn new(id: &str) -> Self {
        let places = HIERARCHIES
            .iter()
            .filter(|dir| Path::new(dir).join("cgroup.procs").exists());
        let made = places.map(|dir| Path::new(dir).join(format!("sk-boot-{id}")));
        Self(made.filter(|dir| fs::create_dir(dir).is_ok()).collect())
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        fn remove(dir: &Path) {
            for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    remove(&entry.path());
                }
            }
            fs::remove_dir(dir).ok();
        }
        self.0.iter().for_each(|dir| remove(dir));
    }
}

impl Room {
    fn new(dir: &Path) -> Self {
        ensure_apart();
        let room = Self {
            dir: dir.to_path_buf(),
            model: Model::start().unwrap(),
            metadata: Metadata::start().unwrap(),
        };
        answer_at_the_true_address(&room.metadata.address());
        room
    }
}

/// The variable alone proves nothing.
fn ensure_apart() {
    ensure_only_loopback();
    let first = fs::read_to_string("/proc/1/cmdline").unwrap();
    assert!(first.contains("--exact"), "not apart: {first}");
}

/// Hands what reaches the metadata server's own address to its double, which listens on loopback only.
fn answer_at_the_true_address(double: &str) {
    let listener = TcpListener::bind((METADATA, 80)).unwrap();
    let double = double.to_owned();
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let Ok(server) = TcpStream::connect(&double) else {
                continue;
            };
            for (from, to) in [(&client, &server), (&server, &client)] {
                let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                std::thread::spawn(move || {
                    std::io::copy(&mut from, &mut to).ok();
                    to.shutdown(std::net::Shutdown::Write).ok();
                });
            }
        }
    });
}
