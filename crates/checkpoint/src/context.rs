//! Shared context of creating and restoring a checkpoint.
//!
//! It holds the checkpoint target, git run in two ways, and spotkeep's refs.

use std::time::{Duration, Instant};

use super::{CheckpointTarget, message};
use crate::git::{Git, Repository, ShadowGitDir};
use state::Trigger;
use sys::error::{Context as _, Result, bail};
use sys::files::{LockFile, create_private_dir};

/// Everything that creating a checkpoint needs.
pub(super) struct Capture<'a> {
    pub place: &'a CheckpointTarget,
    pub trigger: Trigger,
    pub repository: &'a Repository,
    pub shadow: &'a ShadowGitDir,
    /// git for files, indexes and objects.
    pub files: Git,
    /// git for refs.
    pub refs: Git,
}

impl<'a> Capture<'a> {
    pub fn new(
        place: &'a CheckpointTarget,
        trigger: Trigger,
        repository: &'a Repository,
        shadow: &'a ShadowGitDir,
        until: Instant,
    ) -> Self {
        Self {
            place,
            trigger,
            files: Git::files(shadow, until),
            refs: Git::writing(repository, &shadow.common(), until),
            repository,
            shadow,
        }
    }
}

/// A checkpoint's id and its commit.
pub(super) type OwnRef = (String, String);

/// Returns the checkpoints' ids and commits, oldest first.
pub(super) fn own_refs(git: &Git, place: &CheckpointTarget) -> Result<Vec<OwnRef>> {
    let prefix = message::prefix(&place.agent_id);
    let answer = git.run(
        &["for-each-ref", "--format=%(refname) %(objectname)", &prefix],
        Vec::new(),
    )?;
    Ok(String::from_utf8_lossy(&answer)
        .lines()
        .filter_map(|line| {
            let (name, commit) = line.split_once(' ')?;
            let id = name.strip_prefix(&prefix).filter(|id| !id.contains('/'))?;
            Some((id.to_owned(), commit.to_owned()))
        })
        .collect())
}

/// Locks a target's index files; waits until `until` where another checkpoint is being created.
pub(super) fn lock(place: &CheckpointTarget, until: Instant) -> Result<LockFile> {
    create_private_dir(&place.private)
        .context("cannot create the directory of spotkeep's index")?;
    loop {
        if let Some(lock) = LockFile::try_take(&place.private.join("lock"))? {
            return Ok(lock);
        }
        if until <= Instant::now() {
            bail!("another checkpoint of this workspace is being created");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
