//! Creates a checkpoint of a workspace and of the repositories inside of it.

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

/// Name of the directory in which earlier versions kept private files about repositories inside of
/// the workspace. The names in there depend on the compiler.
const INNER_BEFORE: &str = "nested";

/// Maximum depth of repositories inside of each other.
const DEPTH: usize = 8;

/// Maximum number of attempts while the index changes during the capture.
const ROUNDS: usize = 3;

pub(super) fn create(
    place: &CheckpointTarget,
    trigger: Trigger,
    deadline: Deadline,
) -> Result<CheckpointOutcome> {
    create_at(place, trigger, deadline.instant(), 0)
}

fn create_at(
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
    // All of it can be recreated by a checkpoint that reads the files once.
    fs::remove_dir_all(place.private.join(INNER_BEFORE)).ok();
    let shadow = ShadowGitDir::open(&place.private.join("git"), &repository)?;
    let taking = Capture::new(place, trigger, &repository, &shadow, until);
    let create_inner = |inner: &CheckpointTarget| {
        ensure!(depth < DEPTH, "too many repositories inside of each other");
        create_at(inner, trigger, until, depth + 1)
    };
    let mut again = None;
    for round in 1.. {
        let snapshot = IndexSnapshot::open(&repository)?;
        let fingerprint = snapshot.fingerprint.clone();
        let taken = taking
            .scan(snapshot, again.take(), create_inner)
            .and_then(|found| {
                // Another process changed the index meanwhile: HEAD and the index may not belong
                // together.
                if round < ROUNDS && IndexSnapshot::open(&repository)?.fingerprint != fingerprint {
                    return Ok(None);
                }
                taking.keep(found).map(Some)
            });
        match taken {
            Ok(Some(outcome)) => return Ok(outcome),
            Ok(None) => {}
            // The memory may be wrong: objects are gone, or spotkeep's index is damaged.
            Err(error) if round < ROUNDS && until > Instant::now() => {
                tracing::debug!("checkpoint restarted: {error:#}");
                again = Some(Retry);
            }
            Err(error) => return Err(error),
        }
    }
    bail!("the index kept changing during the capture")
}
