//! Mount watch: detects that the data directory's disk is missing, replaced or read-only.
//!
//! A disk can be unmounted, replaced or turned read-only under a running keeper. The keeper then
//! starts nothing and writes nothing, and goes on automatically once the same data directory is
//! back.

use std::path::Path;
use std::time::{Duration, Instant};

use super::runtime_dir::Holder;
use super::{End, Keeper, Message};
use state::layout::DataDir;
use state::{Journal, JournalEvent};
use supervisor::{Event, Permit};
use sys::error::{Context as _, Result, ensure};
use sys::files::LockFile;
use sys::mounts::{self, Changes};
use sys::thread;

/// How often the mount is checked without an event from the kernel, which does not report that a
/// filesystem became read-only after an error.
const EVERY: Duration = Duration::from_secs(1);

/// The state of the data directory's mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountState {
    /// The data directory is there and can be written.
    Ok,
    /// The same filesystem is there and cannot be written; with the reason.
    ReadOnly(String),
    /// Something else is there, or nothing; with a description.
    Missing(String),
}

/// What a probe of the data directory's path found.
#[derive(Debug)]
struct MountFacts {
    /// Whether the directory is the one that the keeper opened.
    same_place: bool,
    /// The id in the `root.json` there.
    data_dir_id: Option<String>,
    /// Why the mount that holds it cannot be written.
    read_only: Option<&'static str>,
}

/// Evaluates a probe for the data directory with the id `ours` at the path `at`. Pure.
fn evaluate(facts: &MountFacts, ours: &str, at: &Path) -> MountState {
    let at = at.display();
    let is_ours = facts.same_place || facts.data_dir_id.as_deref() == Some(ours);
    match (is_ours, &facts.data_dir_id, facts.read_only) {
        (false, None, _) => MountState::Missing(format!(
            "the data directory {at} is gone: it was unmounted, or its disk was taken away. \
             Nothing is started or written until it is back: sudo mount {at}"
        )),
        (false, Some(other), _) => MountState::Missing(format!(
            "another data directory ({other}) is at {at} now. Nothing is started or written until \
             ours ({ours}) is back: sudo umount {at}"
        )),
        (true, _, Some(why)) => MountState::ReadOnly(format!(
            "the data directory {at} cannot be written: {why}. Nothing is started until that is \
             over; see dmesg, then: sudo mount -o remount,rw {at}"
        )),
        (true, _, None) => MountState::Ok,
    }
}

/// Probes the data directory's path; `None`: the probe itself failed, for example because no file
/// can be opened any more, which says nothing about the data directory.
fn probe(data_dir: &DataDir) -> Option<MountFacts> {
    let same_place = data_dir.ensure_there().is_ok();
    let data_dir_id = match same_place {
        true => None, // It is the same directory, whatever state the file is in.
        false => data_dir
            .identity()
            .ok()
            .map(|identity| identity.data_dir_id),
    };
    let mounts = mounts::now().ok()?;
    let read_only = mounts::holding(&mounts, data_dir.dir()).and_then(mounts::Mount::read_only);
    Some(MountFacts {
        same_place,
        data_dir_id,
        read_only,
    })
}

/// Starts the thread, which delivers each change of the mount state. The first state is `Ok`.
fn watch(
    data_dir: DataDir,
    ours: String,
    deliver: impl Fn(MountState) + Send + 'static,
) -> Result<()> {
    let changes = Changes::new()?;
    thread::spawn("mount", move || {
        let mut last = MountState::Ok;
        loop {
            if let Some(facts) = probe(&data_dir) {
                let now = evaluate(&facts, &ours, data_dir.dir());
                if now != last {
                    last = now.clone();
                    deliver(now);
                }
            }
            changes.wait(EVERY);
        }
    })
    .context("cannot start the mount watch thread")?;
    Ok(())
}

/// A time in which the data directory is missing or cannot be written.
#[derive(Debug)]
pub(super) struct Outage {
    since: Instant,
    pub(super) why: String,
}

/// The progress of acquiring a data directory again after an outage.
#[derive(Debug, Default)]
pub(super) struct RecoveryState {
    /// Whether the mount was in order when it was last checked.
    is_ok: bool,
    /// Whether the writer is acquiring the data directory.
    is_under_way: bool,
    /// How often the data directory was missing.
    outages: u64,
}

/// Takes the lock again and reopens the journal, unless another keeper had the data directory
/// meanwhile.
fn reacquire(
    journal: &mut Journal,
    data_dir: &DataDir,
    (data_dir_id, epoch): (&str, u64),
    holder: &Holder,
) -> Result<LockFile> {
    let mut lock = LockFile::try_take(&data_dir.lock())?
        .context("another keeper has taken the data directory while it was away")?;
    let identity = data_dir.identity()?;
    ensure!(
        identity.data_dir_id == data_dir_id && identity.epoch == epoch,
        "another keeper had the data directory while it was away from this one"
    );
    lock.describe(&serde_json::to_string(holder)?)?;
    data_dir.settle()?;
    journal.reopen()?;
    Ok(lock)
}

impl Keeper {
    /// Starts the mount watch.
    pub(super) fn watch_mount(&self) -> Result<()> {
        let messages = self.effects.messages.clone();
        let (data_dir, ours) = (
            self.effects.data_dir.clone(),
            self.effects.data_dir_id.clone(),
        );
        watch(data_dir, ours, move |mount_state| {
            messages.send(Message::MountState(mount_state)).ok();
        })
    }

    pub(super) fn mount_state(&mut self, mount_state: MountState) {
        match mount_state {
            MountState::Ok => self.recover(),
            MountState::ReadOnly(why) => self.begin_outage(why),
            MountState::Missing(why) => {
                // Open files would keep the old filesystem from being unmounted. The lock is
                // released last, because then another keeper may read what this one still writes.
                let lock = self.lock.take();
                self.effects.writer.order_anyhow(move |journal| {
                    journal.release();
                    drop(lock);
                });
                self.recovery.outages += 1;
                self.begin_outage(why);
            }
        }
    }

    fn begin_outage(&mut self, why: String) {
        tracing::error!("{why}");
        if self.lost.is_none() {
            self.effects.checkpoints.pause();
        }
        let since = self
            .lost
            .take()
            .map_or_else(Instant::now, |lost| lost.since);
        self.lost = Some(Outage { since, why });
        self.recovery.is_ok = false;
        self.handle(Event::Permit(None));
    }

    /// Acquires the same data directory again, unless another keeper took it meanwhile.
    ///
    /// The writer's thread does it, after the order to release the journal.
    fn recover(&mut self) {
        self.recovery.is_ok = true;
        if self.lost.is_none() || self.recovery.is_under_way {
            return;
        }
        if self.lock.is_some() {
            return self.end_outage();
        }
        self.recovery.is_under_way = true;
        let (data_dir, data_dir_id, epoch) = (
            self.effects.data_dir.clone(),
            self.effects.data_dir_id.clone(),
            self.effects.epoch,
        );
        let holder = Holder::this(&self.effects.boot_id, &self.runtime);
        let outages = self.recovery.outages;
        self.effects.beyond(
            move |journal| reacquire(journal, &data_dir, (&data_dir_id, epoch), &holder),
            move |keeper, acquired| keeper.reacquired(outages, acquired),
        );
    }

    fn reacquired(&mut self, outages: u64, acquired: Result<LockFile>) {
        self.recovery.is_under_way = false;
        match acquired {
            // Another outage began meanwhile, so this result says nothing about the mount now.
            _ if outages != self.recovery.outages => {
                drop(acquired);
                if self.recovery.is_ok {
                    self.recover();
                }
            }
            Ok(lock) => {
                self.lock = Some(lock);
                if self.recovery.is_ok {
                    self.end_outage();
                }
            }
            // The data directory is missing or cannot be written again by now.
            Err(error) if !self.recovery.is_ok => tracing::warn!("{error:#}"),
            Err(error) => {
                tracing::error!("{error:#}");
                self.end = Some(End::Replaced);
            }
        }
    }

    fn end_outage(&mut self) {
        let Some(lost) = self.lost.take() else {
            return;
        };
        let back = JournalEvent::DataDirBack {
            away_ms: u64::try_from(lost.since.elapsed().as_millis()).unwrap_or(u64::MAX),
            why: lost.why,
        };
        self.effects.write(None, &back);
        self.effects.write_what_is_left();
        self.effects.checkpoints.resume();
        self.effects.follower.watch_again();
        let permit = self.permit();
        self.handle(Event::Permit(Some(permit)));
    }

    /// Returns the permit that the lock gives, without an end.
    pub(super) fn permit(&self) -> Permit {
        Permit {
            epoch: self.effects.epoch,
            until: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_is_ok_only_where_our_data_directory_can_be_written() {
        let table = [
            (true, None, None, "ok"),
            (false, Some("ours"), None, "ok"),
            (true, None, Some("x"), "read-only"),
            (false, Some("ours"), Some("x"), "read-only"),
            (false, None, None, "missing"),
            (false, None, Some("x"), "missing"),
            (false, Some("theirs"), None, "missing"),
        ];
        for (same_place, data_dir_id, read_only, expected) in table {
            let facts = MountFacts {
                same_place,
                data_dir_id: data_dir_id.map(str::to_owned),
                read_only,
            };
            let state = match evaluate(&facts, "ours", Path::new("/mnt/persist")) {
                MountState::Ok => "ok",
                MountState::ReadOnly(why) => {
                    assert!(why.contains("remount,rw /mnt/persist"), "{why}");
                    "read-only"
                }
                MountState::Missing(why) => {
                    assert!(why.contains("sudo "), "{why}");
                    "missing"
                }
            };
            assert_eq!(state, expected, "{facts:?}");
        }
    }
}
