//! Copying of the backups to a second repository off the machine.
//!
//! A lost disk or zone then costs no more than 15 minutes of work.

use std::time::Duration;

use super::restic::{self, LONG, Restic, SHORT, Trouble};
use super::state::Copied;
use super::{BackupState, Repository, Settings, Stop, check, retention};
use sys::error::{Result, bail};
use sys::failpoint::{Point, point};
use sys::time::Timestamp;

/// Pauses before each retry, so that a short network failure does not cost 15 minutes.
const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(5)];

/// How often a pause checks for a reason to stop.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Whether the newest backup is not in the second repository yet.
#[must_use]
pub fn is_due(settings: &Settings, state: &BackupState) -> bool {
    let Some(url) = &settings.table.copy_to else {
        return state.copy.is_some();
    };
    let last = state.last.as_ref().map(|made| &made.id);
    let copied = state.copy.as_ref();
    last.is_some()
        && copied
            .is_none_or(|copy| copy.to != restic::without_password(url) || copy.id.as_ref() != last)
}

/// Copies new backups. A failure is recorded and shown, and the next backup tries again. Returns
/// the repository to which it was copied.
///
/// # Errors
/// The state cannot be written, or there is a reason to stop.
pub fn run(settings: &Settings, state: &mut BackupState, stop: &Stop) -> Result<Option<String>> {
    let Some(url) = settings.table.copy_to.clone() else {
        state.copy = None;
        state.store(settings)?;
        return Ok(None);
    };
    let name = restic::without_password(&url);
    let id = state.last.as_ref().map(|made| made.id.clone());
    let copied = copy(settings, &url, stop);
    point(Point::BackupCopied);
    stop.check()?;
    let earlier = state.copy.take().filter(|copy| copy.to == name);
    let (copy, to) = match copied {
        Ok(()) => {
            let copy = Copied {
                to: name.clone(),
                id,
                at: Some(Timestamp::now()),
                trouble: None,
            };
            (copy, Some(name))
        }
        Err(error) => {
            let copy = Copied {
                to: name,
                id: earlier.as_ref().and_then(|copy| copy.id.clone()),
                at: earlier.and_then(|copy| copy.at),
                trouble: Some(format!("{error:#}")),
            };
            (copy, None)
        }
    };
    state.copy = Some(copy);
    state.store(settings)?;
    Ok(to)
}

fn copy(settings: &Settings, url: &str, stop: &Stop) -> Result<()> {
    restic::ensure_allowed(url)?;
    let local = Repository::open(settings)?;
    let there = remote(settings, url)?;
    let mut pauses = PAUSES.iter();
    loop {
        let error = match once(&local, &there, stop) {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        let Some(pause) = pauses.next() else {
            return Err(error);
        };
        wait(*pause, stop)?;
    }
}

/// Prunes the second repository like the first, after a check of its structure; the data are not
/// read, since traffic may cost money. A failure is recorded and shown, and is not an error here.
///
/// # Errors
/// The state cannot be written, or there is a reason to stop.
pub fn prune(settings: &Settings, state: &mut BackupState, stop: &Stop) -> Result<()> {
    let (Some(url), Some(copy)) = (&settings.table.copy_to, &state.copy) else {
        return Ok(());
    };
    if settings.table.copy_keeps_all || copy.trouble.is_some() {
        return Ok(());
    }
    let pruned = remote(settings, url).and_then(|there| {
        let found = check::run(&there, check::Depth::Structure, stop)?;
        if let Some(first) = found.damage.first() {
            bail!("the repository is damaged: {first}");
        }
        match found.locked {
            true => Ok(()), // The next run prunes it.
            false => retention::forget(&there, settings, stop),
        }
    });
    stop.check()?;
    if let (Err(error), Some(copy)) = (pruned, &mut state.copy) {
        copy.trouble = Some(format!("old backups cannot be removed there: {error:#}"));
        state.store(settings)?;
    }
    Ok(())
}

/// The second repository, with the password of the first.
///
/// # Errors
/// restic cannot be used, or its environment cannot be read.
pub fn remote(settings: &Settings, url: &str) -> Result<Repository> {
    Ok(Repository::remote(
        Restic::find()?,
        url,
        settings.key(),
        settings.environment()?,
    ))
}

fn once(local: &Repository, there: &Repository, stop: &Stop) -> Result<()> {
    let arguments = ["copy", "--quiet"];
    for may_init in [true, false] {
        let mut command = there.command_from(local, arguments);
        let ended = there.run(&mut command, LONG, stop, &mut |_| {})?;
        if ended.status.success() {
            return Ok(());
        }
        match Trouble::from_exchange(&ended) {
            // A repository is made only if restic clearly reports that there is none, never in
            // place of one that does not answer.
            Trouble::Absent if may_init && is_clearly_absent(&ended.stderr) => {
                restic::init(there, Some(local), stop)?;
            }
            Trouble::Locked if may_init => {
                // By restic's own rule, since processes on other machines are unknown.
                there.ask(&mut there.command(["unlock"]), SHORT, stop)?;
            }
            _ => return Err(there.failure(&ended)),
        }
    }
    bail!("{} is in use by another restic", there.name())
}

fn is_clearly_absent(stderr: &str) -> bool {
    let lower = stderr.to_lowercase();
    [
        "no such file",
        "does not exist",
        "not exist",
        "not found",
        "404",
    ]
    .iter()
    .any(|text| lower.contains(text))
}

fn wait(pause: Duration, stop: &Stop) -> Result<()> {
    let until = std::time::Instant::now() + pause;
    while std::time::Instant::now() < until {
        stop.check()?;
        std::thread::sleep(POLL_INTERVAL);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_is_made_only_where_there_is_clearly_none() {
        for (said, absent) in [
            (
                "unable to open config file: Stat: The specified key does not exist.",
                true,
            ),
            (
                "unable to open config file: unexpected HTTP response (404)",
                true,
            ),
            (
                "unable to open config file: dial tcp: connection refused",
                false,
            ),
            (
                "unable to open config file: unexpected HTTP response (503)",
                false,
            ),
        ] {
            assert_eq!(is_clearly_absent(said), absent, "{said}");
        }
    }
}
