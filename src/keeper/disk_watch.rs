//! Disk watch: two threads that measure free disk space and the size of each workspace.
//!
//! Measuring a workspace takes long, and a full disk has to be reported meanwhile, so each has its
//! own thread. A disk that hangs stops these two threads and nothing else.

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

/// How often free space is read.
const EVERY: Duration = Duration::from_secs(10);

/// How often a workspace is measured.
const MEASURE_EVERY: Duration = Duration::from_secs(900);

/// The timeout of measuring one workspace, and the number of files after which it gives up.
const MEASURE_LIMIT: Duration = Duration::from_secs(20);
const FILES_LIMIT: usize = 500_000;

/// With less than this share free, the keeper warns ...
const LOW_PERCENT: u64 = 15;

/// ... unless more bytes than this are free, as on a very large disk.
const LOW_BYTES: u64 = 50 << 30;

/// With less than both of these free, no agent is started.
const FULL_PERCENT: u64 = 3;
const FULL_BYTES: u64 = 5 << 30;

/// Returns the state for this much free space, and the warning if it is low. Pure.
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

/// Starts both threads.
///
/// # Errors
/// A thread cannot be started.
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
    thread::spawn("disk-space", move || {
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
    .context("cannot start the disk watch thread")?;
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

/// Returns the bytes that a directory takes on its filesystem, links not followed; `None` where
/// measuring takes too long.
fn measure(dir: &Path) -> Option<u64> {
    let device = fs::symlink_metadata(dir).ok()?.dev();
    let until = Instant::now() + MEASURE_LIMIT;
    let (mut bytes, mut seen) = (0u64, 0usize);
    let mut left: Vec<PathBuf> = vec![dir.to_path_buf()];
    while let Some(dir) = left.pop() {
        // An entry that was removed meanwhile, or that may not be read, counts as empty.
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

/// Returns the journal's event for a change of the warning.
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
    fn measuring_a_workspace_does_not_follow_links() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("in")).unwrap();
        fs::write(dir.path().join("in/file"), vec![1; 100_000]).unwrap();
        std::os::unix::fs::symlink("/usr", dir.path().join("link")).unwrap();
        let size = measure(dir.path()).unwrap();
        assert!((100_000..1_000_000).contains(&size), "{size}");
        assert_eq!(measure(&dir.path().join("absent")), None);
    }

    #[test]
    fn a_workspace_that_takes_long_to_measure_does_not_delay_the_report_of_a_full_disk() {
        let (messages, received) = mpsc::channel();
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
        let next = || received.recv_timeout(FOREVER).unwrap();
        assert!(matches!(
            next(),
            Message::Event(Event::DiskSpace(DiskSpace::None(0)))
        ));
        assert!(matches!(next(), Message::Disk(Some(_))));
        drop(end_walk);
        assert!(matches!(next(), Message::Measured(name, Some(7)) if name.as_str() == "a"));
    }
}
