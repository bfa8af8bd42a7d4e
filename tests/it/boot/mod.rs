//! Boots containers with real systemd for tests: real units, real ordering, real timeouts.
//!
//! A fake metadata server answers at the real address, in a network that contains nothing else. The
//! test runs itself again in its own network namespace (loopback only) and mount namespace. Without
//! these namespaces nothing is started. Everything is removed when the test ends
//! (`scripts/contain`).

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
pub use machine::{DATA_DIR, Machine, agent};

/// Environment variable of the second run in namespaces: the directory of the site.
const INSIDE: &str = "SPOTKEEP_TEST_BOOTS_IN";
/// The address of the metadata server on Compute Engine.
const METADATA: &str = "169.254.169.254";
/// The cgroup hierarchies in which each test has its own group.
const HIERARCHIES: [&str; 4] = [
    "/sys/fs/cgroup",
    "/sys/fs/cgroup/unified",
    "/sys/fs/cgroup/systemd",
    "/sys/fs/cgroup/name=systemd",
];

/// The prefix of the cgroups' names.
const GROUP: &str = "sk-boot-";

/// What the machines of a test share: the root file system, and the fakes that they can reach.
pub struct Site {
    pub dir: PathBuf,
    pub model: Model,
    pub metadata: Metadata,
}

/// Runs `body` where machines can be booted. The name of the test is taken from the type of `body`,
/// which must be a closure of the test function itself.
pub fn with_a_site<Body: Fn(&Site)>(body: Body) {
    let test = name_of::<Body>();
    if let Some(dir) = namespaces::inside(INSIDE) {
        body(&Site::new(&dir));
    } else if let Some(image) = image(&test) {
        again_apart(&test, &image);
    }
}

/// Returns the image of the root file system; where something is missing, skips the test and
/// returns `None`.
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

/// Runs a test again in its own namespaces.
fn again_apart(test: &str, image: &Path) {
    let groups = Groups::new();
    namespaces::again(test, INSIDE, |dir| {
        let mut enter = Command::new("unshare");
        enter
            .args(["--net", "--mount", "--propagation", "private", "sh", "-ec"])
            .arg(include_str!("room.sh"))
            .arg(dir)
            .arg(image)
            .arg(groups.paths());
        enter
    });
}

/// One cgroup of the test in each hierarchy: systemd confuses two containers in one group.
///
/// The kernel never removes a cgroup, so each is locked by its test, and the next test removes
/// unlocked ones.
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

    fn paths(&self) -> String {
        let paths = self.0.iter().map(|(path, _)| path.display().to_string());
        paths.collect::<Vec<_>>().join(" ")
    }
}

/// Creates a group and locks it; retries if another test removed it as abandoned in between.
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

/// Redirects connections to the metadata server's address to the fake, which listens on loopback
/// only.
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
