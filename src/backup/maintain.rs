//! Old backups are removed, and their data, but only after a check that found nothing: what is damaged is not
//! tidied.

use super::check;
use super::restic::{LONG, Trouble, trouble};
use super::state::Checked;
use super::{BackupState, Repository, Settings, Stop, copy, lock, run, snapshots};
use state::config::KeepBackups;
use sys::error::Result;
use sys::time::Timestamp;

/// Backups between two checks: a day of one each quarter of an hour. Counted and not timed, since the clocks
/// of two lives are not compared.
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
    lock::remove_stale(&repository, state.worker.as_ref(), &worker.life, stop)?;
    run::remember_worker(settings, state, worker)?;
    let part = format!("{}/{PARTS}", day_of(state) % PARTS + 1);
    let found = check::run(&repository, check::Depth::Part(&part), stop)?;
    let good = found.damage.is_empty() && !found.locked;
    if !found.locked {
        note(state, found.damage);
        state.store(settings)?;
    }
    if good {
        forget(&repository, settings, stop)?;
        copy::thin(settings, state, stop)?;
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

/// Forgets what the policy does not keep, and removes the data that nothing needs any more.
///
/// # Errors
/// restic failed, other than for a lock: then the next time will do.
pub fn forget(repository: &Repository, settings: &Settings, stop: &Stop) -> Result<()> {
    let mut command = repository.command(["forget", "--prune", "--quiet", "--group-by", ""]);
    command
        .arg("--tag")
        .arg(snapshots::tag(&settings.root_id))
        .args(policy(settings.table.keep));
    let ended = repository.run(&mut command, LONG, stop, &mut |_| {})?;
    if trouble(&ended.stderr) == Trouble::Locked {
        return Ok(());
    }
    repository.ensure_success(&ended)
}

fn policy(keep: KeepBackups) -> Vec<String> {
    [
        ("last", keep.last),
        ("hourly", keep.hourly),
        ("daily", keep.daily),
        ("weekly", keep.weekly),
    ]
    .iter()
    .filter(|(_, count)| *count > 0)
    .map(|(what, count)| format!("--keep-{what}={count}"))
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_kept_by_count_is_not_asked_for() {
        let keep = KeepBackups {
            last: 0,
            weekly: 0,
            ..KeepBackups::default()
        };
        assert_eq!(policy(keep), ["--keep-hourly=24", "--keep-daily=14"]);
    }
}
