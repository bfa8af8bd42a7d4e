//! Retention policy of backups, applied with `restic forget --prune`.

use super::restic::{LONG, Trouble};
use super::{Repository, Settings, Stop, snapshots};
use state::config::KeepBackups;
use sys::error::Result;

/// Forgets expired backups, and prunes data that no backup uses.
///
/// # Errors
/// restic failed, except for a lock: then the next run prunes.
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
    fn a_count_of_zero_is_left_out_of_the_policy() {
        let keep = KeepBackups {
            last: 0,
            weekly: 0,
            ..KeepBackups::default()
        };
        assert_eq!(policy(keep), ["--keep-hourly=24", "--keep-daily=14"]);
    }
}
