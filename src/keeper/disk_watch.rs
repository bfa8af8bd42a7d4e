//! The two threads that know how much room there is: one on the data directory's disk, one in each workspace. To walk through a
//! workspace takes its time, and a disk that is full is told of meanwhile. A disk that hangs hangs them and nobody else.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Message;
use super::records::AgentRecords;
use state::layout::DataDir;
use state::{AgentName, JournalEvent};
use supervisor::{DiskSpace, Event};
use sys::error::{Context as _, Result};
use sys::files::Space;
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

/// What a share of the disk means. Pure.
fn evaluate(free: u64, total: u64) -> (DiskSpace, Option<String>) {
    let percent = free.saturating_mul(100) / total.max(1);
    if percent < FULL_PERCENT && free < FULL_BYTES {
        let disk_space = DiskSpace::None(u8::try_from(percent).unwrap_or(0));
        let what = format!("the disk is full ({percent} % free): nothing is started");
        return (disk_space, Some(what));
    }
    let low = percent < LOW_PERCENT && free < LOW_BYTES;
    let what = low.then(|| format!("the disk is filling up: {percent} % free"));
    (DiskSpace::Enough, what)
}

/// Starts the threads.
///
/// # Errors
/// No thread can be had.
pub fn spawn(
    data_dir: &DataDir,
    records: Arc<AgentRecords>,
    deliver: impl Fn(Message) + Clone + Send + 'static,
) -> Result<()> {
    let of_disk = data_dir.clone();
    let space = move || files::space(of_disk.dir());
    let data_dir = data_dir.clone();
    let workspaces = move || {
        let records = records.all().into_iter();
        let workspaces = records.map(|record| (record.name, data_dir.absolute(&record.cwd)));
        workspaces.collect()
    };
    spawn_with(EVERY, space, workspaces, measure, deliver)
}

fn spawn_with(
    every: Duration,
    space: impl Fn() -> io::Result<Space> + Send + 'static,
    workspaces: impl Fn() -> Vec<(AgentName, PathBuf)> + Send + 'static,
    measure: impl Fn(&Path) -> Option<u64> + Send + 'static,
    deliver: impl Fn(Message) + Clone + Send + 'static,
) -> Result<()> {
    let sized = deliver.clone();
    thread::spawn("room", move || {
        process::set_nice();
        let mut last = (DiskSpace::Enough, None);
        loop {
            if let Ok(space) = space() {
                let now = evaluate(space.free, space.total);
                if now.0 != last.0 {
                    deliver(Message::Event(Event::DiskSpace(now.0)));
                }
                if now.1 != last.1 {
                    deliver(Message::Disk(now.1.clone()));
                }
                last = now;
            }
            std::thread::sleep(every);
        }
    })
    .context("cannot start the thread for the disk")?;
    thread::spawn("sizes", move || {
        process::set_nice();
        let mut measured: BTreeMap<AgentName, Instant> = BTreeMap::new();
        loop {
            for (name, dir) in workspaces() {
                let is_recent = |at: &Instant| at.elapsed() < MEASURE_EVERY;
                if !measured.get(&name).is_some_and(is_recent) {
                    let size = measure(&dir);
                    measured.insert(name.clone(), Instant::now());
                    sized(Message::Measured(name, size));
                }
            }
            std::thread::sleep(every);
        }
    })
    .context("cannot start the thread that measures workspaces")?;
    Ok(())
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
pub fn journal_event(trouble: Option<&str>) -> JournalEvent {
    JournalEvent::Trouble {
        what: trouble
            .unwrap_or("there is room on the disk again")
            .to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use testing::wait::FOREVER;

    const GIB: u64 = 1 << 30;

    #[test]
    fn a_disk_warns_before_it_is_full_and_a_very_large_one_later() {
        assert_eq!(evaluate(50 * GIB, 100 * GIB), (DiskSpace::Enough, None));
        let (disk_space, what) = evaluate(10 * GIB, 100 * GIB);
        assert_eq!(disk_space, DiskSpace::Enough);
        assert!(what.unwrap().contains("10 % free"));
        assert_eq!(evaluate(2 * GIB, 100 * GIB).0, DiskSpace::None(2));
        assert_eq!(evaluate(100 * GIB, 10_000 * GIB), (DiskSpace::Enough, None));
        assert_eq!(evaluate(0, 0).0, DiskSpace::None(0));
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

    #[test]
    fn a_workspace_that_takes_long_to_measure_delays_no_word_of_a_full_disk() {
        let (messages, told) = mpsc::channel();
        let (begun, walk_begins) = mpsc::channel();
        let (end_walk, walk_ends) = mpsc::channel::<()>();
        let space = move || {
            // It fills up while the walk is under way.
            walk_begins.recv_timeout(FOREVER).ok();
            Ok(Space {
                free: 0,
                total: 100 * GIB,
                free_inodes: 1,
                inodes: 1,
            })
        };
        let measure = move |_: &Path| {
            begun.send(()).unwrap();
            walk_ends.recv().ok();
            Some(7)
        };
        let name = AgentName::new("a").unwrap();
        let workspaces = move || vec![(name.clone(), PathBuf::from("/x"))];
        let deliver = move |message| {
            messages.send(message).ok();
        };
        spawn_with(FOREVER, space, workspaces, measure, deliver).unwrap();
        let next = || told.recv_timeout(FOREVER).unwrap();
        assert!(matches!(
            next(),
            Message::Event(Event::DiskSpace(DiskSpace::None(0)))
        ));
        assert!(matches!(next(), Message::Disk(Some(_))));
        drop(end_walk);
        assert!(matches!(next(), Message::Measured(name, Some(7)) if name.as_str() == "a"));
    }
}
