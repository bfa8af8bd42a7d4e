//! A checkpoint is taken.

use std::fs;
use std::time::Instant;

use super::capture::Retry;
use super::capture::index::IndexSnapshot;
use super::context::{Capture, lock};
use super::{CheckpointOutcome, CheckpointTarget, ensure_names};
use crate::git::{Repository, ShadowGitDir};
use state::Trigger;
use sys::deadline::Deadline;
use sys::error::{Result, bail, ensure};

/// Where earlier versions kept what they remembered of repositories inside of the workspace, under names that another
/// compiler may have made otherwise.
const INNER_BEFORE: &str = "nested";

/// Repositories in repositories in repositories: so deep.
const DEPTH: usize = 8;

/// How often a checkpoint is begun anew since the index changed under it.
const ROUNDS: usize = 3;

pub(super) fn create(
    place: &CheckpointTarget,
    trigger: Trigger,
    deadline: Deadline,
) -> Result<CheckpointOutcome> {
    take_at(place, trigger, deadline.instant(), 0)
}

fn take_at(
    place: &CheckpointTarget,
    trigger: Trigger,
    until: Instant,
    depth: usize,
) -> Result<CheckpointOutcome> {
    ensure_names(place)?;
    let Some(repository) = Repository::find(&place.workspace, until)? else {
        return Ok(CheckpointOutcome::NotGit);
    };
    let _lock = lock(place, until)?;
    // All of it can be made anew, by a checkpoint that reads the files once.
    fs::remove_dir_all(place.private.join(INNER_BEFORE)).ok();
    let shadow = ShadowGitDir::open(&place.private.join("git"), &repository)?;
    let taking = Capture::new(place, trigger, &repository, &shadow, until);
    let take_inner = |inner: &CheckpointTarget| {
        ensure!(depth < DEPTH, "too many repositories inside of each other");
        take_at(inner, trigger, until, depth + 1)
    };
    let mut again = None;
    for round in 1.. {
        let snapshot = IndexSnapshot::open(&repository)?;
        let fingerprint = snapshot.fingerprint.clone();
        let taken = taking
            .scan(snapshot, again.take(), take_inner)
            .and_then(|found| {
                // Somebody worked on the index meanwhile: HEAD and it may not belong together.
                if round < ROUNDS && IndexSnapshot::open(&repository)?.fingerprint != fingerprint {
                    return Ok(None);
                }
                taking.keep(found).map(Some)
            });
        match taken {
            Ok(Some(outcome)) => return Ok(outcome),
            Ok(None) => {}
            // What we remember may be wrong: objects that are gone, an index of ours that was torn.
            Err(error) if round < ROUNDS && until > Instant::now() => {
                tracing::debug!("a checkpoint is begun anew: {error:#}");
                again = Some(Retry);
            }
            Err(error) => return Err(error),
        }
    }
    bail!("the index changes all the time")
}
