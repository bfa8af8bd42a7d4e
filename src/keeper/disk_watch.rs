//! The thread that knows how much room there is: on the root's disk, and in each workspace. A disk
//! that hangs hangs this thread and nobody else.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Message;
use super::records::Ledger;
use state::layout::Root;
use state::{AgentName, JournalEvent};
use supervisor::{Event, Room};
use sys::error::{Context as _, Result};
use sys::thread;
use sys::{files, process};

/// How often the disk is asked.
const EVERY: Duration = Duration::from_secs(10);

/// How often a workspace is measured.
const MEASURE_EVERY: Duration = Duration::from_secs(900);

/// How long measuring one may take, and how many files it may look at.
const MEASURE_LIMIT: Duration = Duration::from_secs(20);
const FILES_LIMIT: usize = 500_000;

/// With less than this, people are warned ...
const LOW_PERCENT: u64 = 15;

/// ... unless it is more than this, as on a very large disk.
const LOW_BYTES: u64 = 50 << 30;

/// With less than this, nothing is started.
const FULL_PERCENT: u64 = 3;
const FULL_BYTES: u64 = 5 << 30;

/// The sizes of workspaces, as last measured.
#[derive(Debug, Clone, Default)]
pub struct Sizes(Arc<Mutex<BTreeMap<AgentName, Measured>>>);

/// When, and what came of it.
type Measured = (Instant, Option<u64>);

impl Sizes {
    /// Bytes that an agent's workspace takes on the disk; `None` where it was not measured, or is too
    /// large to be measured in passing.
    #[must_use]
    pub fn of(&self, name: &AgentName) -> Option<u64> {
        let sizes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sizes.get(name).and_then(|(_, size)| *size)
    }

    fn is_due(&self, name: &AgentName) -> bool {
        let sizes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sizes
            .get(name)
            .is_none_or(|(at, _)| at.elapsed() >= MEASURE_EVERY)
    }

    fn put(&self, name: AgentName, size: Option<u64>) {
        let mut sizes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sizes.insert(name, (Instant::now(), size));
    }
}

/// What a share of the disk means. Pure.
fn judge(free: u64, total: u64) -> (Room, Option<String>) {
    let percent = free.saturating_mul(100) / total.max(1);
    if percent < FULL_PERCENT && free < FULL_BYTES {
        let room = Room::None(u8::try_from(percent).unwrap_or(0));
        let what = format!("the disk is full ({percent} % free): nothing is started");
        return (room, Some(what));
    }
    let low = percent < LOW_PERCENT && free < LOW_BYTES;
    let what = low.then(|| format!("the disk is filling up: {percent} % free"));
    (Room::Enough, what)
}

/// Starts the thread.
///
/// # Errors
/// No thread can be had.
pub fn spawn(
    root: &Root,
    ledger: Arc<Ledger>,
    deliver: impl Fn(Message) + Send + 'static,
) -> Result<Sizes> {
    let sizes = Sizes::default();
    let (root, measured) = (root.clone(), sizes.clone());
    thread::spawn("room", move || {
        process::be_nice();
        let mut last = (Room::Enough, None);
        loop {
            if let Ok(space) = files::space(root.dir()) {
                let now = judge(space.free, space.total);
                if now.0 != last.0 {
                    deliver(Message::Event(Event::Room(now.0)));
                }
                if now.1 != last.1 {
                    deliver(Message::Disk(now.1.clone()));
                }
                last = now;
            }
            for record in ledger.all() {
                if measured.is_due(&record.name) {
                    let size = measure(&root.absolute(&record.cwd));
                    measured.put(record.name, size);
                }
            }
            std::thread::sleep(EVERY);
        }
    })
    .context("cannot start the thread for the disk")?;
    Ok(sizes)
}

/// What a directory takes on its filesystem, links not followed; `None` where that takes too long.
fn measure(dir: &Path) -> Option<u64> {
    let device = fs::symlink_metadata(dir).ok()?.dev();
    let until = Instant::now() + MEASURE_LIMIT;
    let (mut bytes, mut seen) = (0u64, 0usize);
    let mut left: Vec<PathBuf> = vec![dir.to_path_buf()];
    while let Some(dir) = left.pop() {
        // What is removed or closed to us meanwhile takes no room that we can tell of.
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            seen += 1;
            if seen > FILES_LIMIT || Instant::now() >= until {
                return None;
            }
            let Ok(meta) = entry.metadata() else { continue };
            bytes = bytes.saturating_add(meta.blocks().saturating_mul(512));
            if meta.is_dir() && meta.dev() == device {
                left.push(entry.path());
            }
        }
    }
    Some(bytes)
}

/// The line of the journal for a change of it.
pub fn words(trouble: Option<&str>) -> JournalEvent {
    JournalEvent::Trouble {
        what: trouble
            .unwrap_or("there is room on the disk again")
            .to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn a_disk_warns_before_it_is_full_and_a_very_large_one_later() {
        assert_eq!(judge(50 * GIB, 100 * GIB), (Room::Enough, None));
        let (room, what) = judge(10 * GIB, 100 * GIB);
        assert_eq!(room, Room::Enough);
        assert!(what.unwrap().contains("10 % free"));
        assert_eq!(judge(2 * GIB, 100 * GIB).0, Room::None(2));
        assert_eq!(judge(100 * GIB, 10_000 * GIB), (Room::Enough, None));
        assert_eq!(judge(0, 0).0, Room::None(0));
    }

    #[test]
    fn a_workspace_is_measured_without_what_its_links_lead_to() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("in")).unwrap();
        fs::write(dir.path().join("in/file"), vec![1; 100_000]).unwrap();
        std::os::unix::fs::symlink("/usr", dir.path().join("link")).unwrap();
        let size = measure(dir.path()).unwrap();
        assert!((100_000..1_000_000).contains(&size), "{size}");
        assert_eq!(measure(&dir.path().join("absent")), None);
    }
}
