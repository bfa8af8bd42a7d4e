//! Which backups stay: the others are removed, and their data.

use super::restic::{LONG, Trouble};
use super::{Repository, Settings, Stop, snapshots};
use state::config::KeepBackups;
use sys::error::Result;

/// Forgets what the policy does not keep, and removes the data that nothing needs any more.
///
/// # Errors
/// restic failed, other than for a lock: then the next time will do.
pub fn forget(repository: &Repository, settings: &Settings, stop: &Stop) -> Result<()> {
    let mut command = repository.command(["forget", "--prune", "--quiet", "--group-by", ""]);
    command
        .arg("--tag")
        .arg(snapshots::tag(&settings.data_dir_id))
        .args(policy(settings.table.keep));
    let ended = repository.run(&mut command, LONG, stop, &mut |_| {})?;
    if Trouble::from_exchange(&ended) == Trouble::Locked {
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
