//! What taking a checkpoint and giving one back work with: the place under its lock, git in its two ways, our refs.

use std::time::{Duration, Instant};

use super::{CheckpointTarget, message};
use crate::git::{Git, Repository, ShadowGitDir};
use state::Trigger;
use sys::error::{Context as _, Result, bail};
use sys::files::{LockFile, create_private_dir};

/// All that taking a checkpoint works with.
pub(super) struct Capture<'a> {
    pub place: &'a CheckpointTarget,
    pub trigger: Trigger,
    pub repository: &'a Repository,
    pub shadow: &'a ShadowGitDir,
    /// For files, indexes and objects.
    pub files: Git,
    /// For refs.
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

/// A checkpoint's id, and its commit.
pub(super) type OwnRef = (String, String);

/// The checkpoints' ids and commits, oldest first.
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

/// One at a time in a place; another one is waited for.
pub(super) fn lock(place: &CheckpointTarget, until: Instant) -> Result<LockFile> {
    create_private_dir(&place.private).context("cannot make a place for our own index")?;
    loop {
        if let Some(lock) = LockFile::try_take(&place.private.join("lock"))? {
            return Ok(lock);
        }
        if until <= Instant::now() {
            bail!("another checkpoint of this workspace is being taken");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
