//! The repository is checked, and old backups are removed, but only after a check that found nothing: what is damaged
//! is not tidied.

use super::check;
use super::state::Checked;
use super::{BackupState, Repository, Settings, Stop, lock, retention};
use sys::error::Result;
use sys::time::Timestamp;

/// Backups between two checks: a day of one each quarter of an hour. Counted and not timed, since the clocks
/// of two boots are not compared.
const EVERY: u32 = 96;

/// A check reads this part of the data: all of it in a month.
const PARTS: u32 = 30;

/// Whether it is time.
#[must_use]
pub fn is_due(state: &BackupState) -> bool {
    state.since_check >= EVERY
}

/// Checks the repository, then removes what need not be kept. Returns whether both were done.
///
/// # Errors
/// restic cannot be used; the disk does not take the state.
pub fn run(settings: &Settings, state: &mut BackupState, stop: &Stop) -> Result<bool> {
    let repository = Repository::open(settings)?;
    let worker = lock::this_worker()?;
    lock::remove_stale(&repository, state.worker.as_ref(), &worker.boot_id, stop)?;
    state.remember_worker(settings, worker)?;
    let part = format!("{}/{PARTS}", day_of(state) % PARTS + 1);
    let found = check::run(&repository, check::Depth::Part(&part), stop)?;
    let good = found.damage.is_empty() && !found.locked;
    if !found.locked {
        note(state, found.damage);
        state.store(settings)?;
    }
    if good {
        retention::forget(&repository, settings, stop)?;
    }
    Ok(good)
}

/// Writes down what a check found.
pub fn note(state: &mut BackupState, damage: Vec<String>) {
    state.since_check = 0;
    state.check = Some(Checked {
        at: Timestamp::now(),
        damage,
    });
}

/// Which part comes next need not be exact: it walks through them over the days.
fn day_of(state: &BackupState) -> u32 {
    let days = Timestamp::now().as_millis() / 86_400_000;
    u32::try_from(days).unwrap_or(state.since_check)
}
