//! Periodic maintenance: checks the repository, then prunes old backups if it is undamaged.

use super::check;
use super::state::Checked;
use super::{BackupState, Repository, Settings, Stop, lock, retention};
use sys::error::Result;
use sys::time::Timestamp;

/// Backups between two checks: a day at one in 15 minutes. They are counted, since the clocks of
/// two boots are not compared.
const EVERY: u32 = 96;

/// A check reads one of this many parts of the data: all of it in a month.
const PARTS: u32 = 30;

/// Whether maintenance is due.
#[must_use]
pub fn is_due(state: &BackupState) -> bool {
    state.since_check >= EVERY
}

/// Checks the repository, then prunes it. Returns whether both were done.
///
/// # Errors
/// restic cannot be used, or the state cannot be written.
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

/// Records the result of a check.
pub fn note(state: &mut BackupState, damage: Vec<String>) {
    state.since_check = 0;
    state.check = Some(Checked {
        at: Timestamp::now(),
        damage,
    });
}

/// The number of the day, which selects the part to read; it need not be exact.
fn day_of(state: &BackupState) -> u32 {
    let days = Timestamp::now().as_millis() / 86_400_000;
    u32::try_from(days).unwrap_or(state.since_check)
}
