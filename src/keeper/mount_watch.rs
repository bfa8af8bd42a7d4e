//! the mount that a keeper stands on: whether the data directory's disk is still there, is still that disk, and
//! can be written. A disk can be unmounted, replaced or turned read-only under a running keeper, which
//! then starts nothing and writes nothing, and goes on by itself once the same data directory is back.

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

/// How often is looked without a mount having changed: a filesystem that turns read-only by itself
/// tells nobody.
const EVERY: Duration = Duration::from_secs(1);

/// How the mount is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountState {
    /// As it should be.
    Ok,
    /// The same filesystem, and nothing can be written to it; says why.
    ReadOnly(String),
    /// Something else is there, or nothing; says what.
    Missing(String),
}

/// What is to be seen at the data directory's path.
#[derive(Debug)]
struct MountFacts {
    /// The directory is the one that was opened.
    same_place: bool,
    /// The id in the `root.json` there.
    data_dir_id: Option<String>,
    /// Why the mount that holds it cannot be written.
    read_only: Option<&'static str>,
}

/// What that means for the data directory `ours` at `at`.
fn evaluate(facts: &MountFacts, ours: &str, at: &Path) -> MountState {
    let at = at.display();
    let is_ours = facts.same_place || facts.data_dir_id.as_deref() == Some(ours);
    match (is_ours, &facts.data_dir_id, facts.read_only) {
        (false, None, _) => MountState::Missing(format!(
            "the data directory {at} is gone: it was unmounted, or its disk was taken away. Nothing is started or \
             written until it is back: sudo mount {at}"
        )),
        (false, Some(other), _) => MountState::Missing(format!(
            "another data directory ({other}) is at {at} now. Nothing is started or written until ours ({ours}) is \
             back: sudo umount {at}"
        )),
        (true, _, Some(why)) => MountState::ReadOnly(format!(
            "the data directory {at} cannot be written: {why}. Nothing is started until that is over; see dmesg, then: \
             sudo mount -o remount,rw {at}"
        )),
        (true, _, None) => MountState::Ok,
    }
}

/// `None`: it could not be told, as where no file can be opened any more; that is no news of the data directory.
fn probe(data_dir: &DataDir) -> Option<MountFacts> {
    let same_place = data_dir.ensure_there().is_ok();
    let data_dir_id = match same_place {
        true => None, // It is ours, whatever state the file is in.
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

/// Looks for as long as the process lives, and delivers each change; the mount is in order at first.
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
    .context("cannot start the mount thread")?;
    Ok(())
}

/// A mount that was lost.
#[derive(Debug)]
pub(super) struct Outage {
    since: Instant,
    pub(super) why: String,
}

/// How far a data directory that was lost is taken again.
#[derive(Debug, Default)]
pub(super) struct Retaking {
    /// It is there, as far as was last seen.
    is_ok: bool,
    /// The writer is at it.
    is_under_way: bool,
    /// How often it was gone.
    falls: u64,
}

/// Takes the lock again, and the journal up, unless another keeper had the data directory meanwhile.
fn retake(
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
    journal.take_up()?;
    Ok(lock)
}

impl Keeper {
    /// Starts to look after the mount.
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
                // What is held open would keep the old filesystem from going.
                // The lock goes last: behind it another keeper may read what this one still writes.
                let lock = self.lock.take();
                self.effects.writer.order_anyhow(move |journal| {
                    journal.release();
                    drop(lock);
                });
                self.retaking.falls += 1;
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
        self.retaking.is_ok = false;
        self.handle(Event::Permit(None));
    }

    /// The same data directory is back. Whoever took it meanwhile keeps it.
    ///
    /// It is taken by the thread of the writer, behind the word to let go of the journal.
    fn recover(&mut self) {
        self.retaking.is_ok = true;
        if self.lost.is_none() || self.retaking.is_under_way {
            return;
        }
        if self.lock.is_some() {
            return self.is_recovered();
        }
        self.retaking.is_under_way = true;
        let (data_dir, data_dir_id, epoch) = (
            self.effects.data_dir.clone(),
            self.effects.data_dir_id.clone(),
            self.effects.epoch,
        );
        let holder = Holder::this(&self.effects.boot_id, &self.runtime);
        let falls = self.retaking.falls;
        self.effects.beyond(
            move |journal| retake(journal, &data_dir, (&data_dir_id, epoch), &holder),
            move |keeper, taken| keeper.retaken(falls, taken),
        );
    }

    fn retaken(&mut self, falls: u64, taken: Result<LockFile>) {
        self.retaking.is_under_way = false;
        match taken {
            // It went again meanwhile, so this is no news of what is there now.
            _ if falls != self.retaking.falls => {
                drop(taken);
                if self.retaking.is_ok {
                    self.recover();
                }
            }
            Ok(lock) => {
                self.lock = Some(lock);
                if self.retaking.is_ok {
                    self.is_recovered();
                }
            }
            // It cannot be written again by now.
            Err(error) if !self.retaking.is_ok => tracing::warn!("{error:#}"),
            Err(error) => {
                tracing::error!("{error:#}");
                self.end = Some(End::Replaced);
            }
        }
    }

    fn is_recovered(&mut self) {
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

    /// The lock gives it, without end.
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
    fn the_ground_is_firm_only_where_our_root_can_be_written() {
        let table = [
            (true, None, None, "firm"),
            (false, Some("ours"), None, "firm"),
            (true, None, Some("x"), "read-only"),
            (false, Some("ours"), Some("x"), "read-only"),
            (false, None, None, "gone"),
            (false, None, Some("x"), "gone"),
            (false, Some("theirs"), None, "gone"),
        ];
        for (same_place, data_dir_id, read_only, expected) in table {
            let facts = MountFacts {
                same_place,
                data_dir_id: data_dir_id.map(str::to_owned),
                read_only,
            };
            let word = match evaluate(&facts, "ours", Path::new("/mnt/persist")) {
                MountState::Ok => "firm",
                MountState::ReadOnly(why) => {
                    assert!(why.contains("remount,rw /mnt/persist"), "{why}");
                    "read-only"
                }
                MountState::Missing(why) => {
                    assert!(why.contains("sudo "), "{why}");
                    "gone"
                }
            };
            assert_eq!(word, expected, "{facts:?}");
        }
    }
}
