//! Real systemd in a container: real units, real ordering, real timeouts. In place of the cloud its
//! metadata server's fake answers at the true address, in a network that holds nothing else.
//!
//! A test runs itself once more in namespaces of its own: network (nothing but loopback) and mounts.
//! Without these namespaces nothing is started. All of it goes with the test (`scripts/contain`).

mod disk;
mod journal;
mod machine;

use std::fs::{self, File};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use drill::fake_api::Model;
use drill::fake_metadata::Metadata;

use crate::loopback::ensure_only_loopback;
use crate::namespaces::{self, name_of};
use crate::support::{is_root, said, skip};

pub use disk::Disk;
pub use machine::{Machine, agent};

/// Set where a test runs once more, in namespaces of its own; holds the room's directory.
const INSIDE: &str = "SPOTKEEP_TEST_BOOTS_IN";
/// The address of the metadata server on Compute Engine.
const METADATA: &str = "169.254.169.254";
/// The hierarchies in which the containers have a place of their own.
const HIERARCHIES: [&str; 4] = [
    "/sys/fs/cgroup",
    "/sys/fs/cgroup/unified",
    "/sys/fs/cgroup/systemd",
    "/sys/fs/cgroup/name=systemd",
];

/// How our cgroups' names begin.
const GROUP: &str = "sk-boot-";

/// Where machines are: their common root file system, and the fakes that they can reach.
pub struct Site {
    pub dir: PathBuf,
    pub model: Model,
    pub metadata: Metadata,
}

/// Plays where machines can be booted. `play` is a closure of the test itself, whose name it tells.
pub fn with_a_site<Play: Fn(&Site)>(play: Play) {
    let test = name_of::<Play>();
    if let Some(dir) = namespaces::inside(INSIDE) {
        play(&Site::new(&dir));
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

/// Runs a test once more in namespaces of its own.
fn again_apart(test: &str, image: &Path) {
    let groups = Groups::new();
    namespaces::again(test, INSIDE, |dir| {
        let mut enter = Command::new("unshare");
        enter
            .args(["--net", "--mount", "--propagation", "private", "sh", "-ec"])
            .arg(include_str!("room.sh"))
            .arg(dir)
            .arg(image)
            .arg(groups.words());
        enter
    });
}

/// A cgroup of our own in each hierarchy that there is: two containers in one would be mixed up. Nothing
/// removes one by itself, so each is locked by its test, and one without a lock by the next test.
struct Groups(Vec<(PathBuf, File)>);

impl Groups {
    fn new() -> Self {
        let places = HIERARCHIES.iter().map(Path::new);
        let places: Vec<_> = places
            .filter(|dir| dir.join("cgroup.procs").exists())
            .collect();
        for place in &places {
            remove_forsaken(place);
        }
        let name = format!("{GROUP}{}", &sys::uuid::new_uuid()[..8]);
        let made = places.iter().map(|place| group(&place.join(&name)));
        Self(made.collect())
    }

    fn words(&self) -> String {
        let words = self.0.iter().map(|(path, _)| path.display().to_string());
        words.collect::<Vec<_>>().join(" ")
    }
}

/// Makes a group and locks it; another test may have taken it for a forsaken one in between.
fn group(path: &Path) -> (PathBuf, File) {
    loop {
        fs::create_dir(path).unwrap();
        if let Ok(locked) = File::open(path)
            && locked.lock().is_ok()
            && path.exists()
        {
            return (path.to_owned(), locked);
        }
    }
}

fn remove_forsaken(place: &Path) {
    for entry in fs::read_dir(place).into_iter().flatten().flatten() {
        let is_ours = entry.file_name().to_string_lossy().starts_with(GROUP);
        if is_ours
            && let Ok(group) = File::open(entry.path())
            && group.try_lock().is_ok()
        {
            remove(&entry.path());
        }
    }
}

fn remove(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path());
        }
    }
    fs::remove_dir(dir).ok();
}

impl Drop for Groups {
    fn drop(&mut self) {
        self.0.iter().for_each(|(path, _)| remove(path));
    }
}

impl Site {
    fn new(dir: &Path) -> Self {
        ensure_only_loopback();
        let site = Self {
            dir: dir.to_path_buf(),
            model: Model::start().unwrap(),
            metadata: Metadata::start().unwrap(),
        };
        answer_at_the_true_address(&site.metadata.address());
        site
    }
}

/// Hands what reaches the metadata server's own address to its fake, which listens on loopback only.
fn answer_at_the_true_address(fake: &str) {
    let listener = TcpListener::bind((METADATA, 80)).unwrap();
    let fake = fake.to_owned();
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let Ok(server) = TcpStream::connect(&fake) else {
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
