//! A checkpoint is taken.

use std::fs;
use std::path::{Component, Path};
use std::time::{Duration, Instant};

use super::capture::Again;
use super::capture::index::Base;
use super::message;
use super::{Outcome, Place, ensure_names};
use crate::git::{Git, Repository, Side};
use state::Trigger;
use sys::deadline::Deadline;
use sys::error::{Context as _, Result, bail, ensure};
use sys::files::{LockFile, create_private_dir};
use sys::hash::fnv1a;

/// What we keep of repositories inside of the workspace.
const INNER: &str = "inner";

/// The same as earlier versions kept it, under names that another compiler may have made otherwise.
const INNER_BEFORE: &str = "nested";

/// How often a checkpoint is begun anew since the index changed under it.
const ROUNDS: usize = 3;

pub(super) fn take(place: &Place, trigger: Trigger, deadline: Deadline) -> Result<Outcome> {
    take_at(place, trigger, deadline.at(), 0)
}

pub(super) fn take_at(
    place: &Place,
    trigger: Trigger,
    until: Instant,
    depth: usize,
) -> Result<Outcome> {
    ensure_names(place)?;
    let Some(repository) = Repository::of(&place.workspace, until)? else {
        return Ok(Outcome::NotGit);
    };
    let _lock = lock(place, until)?;
    // All of it can be made anew, by a checkpoint that reads the files once.
    fs::remove_dir_all(place.private.join(INNER_BEFORE)).ok();
    let side = Side::open(&place.private.join("git"), &repository)?;
    let taking = Taking::new(place, trigger, &repository, &side, until, depth);
    let mut again = None;
    for round in 1.. {
        let base = Base::open(&repository)?;
        let print = base.print.clone();
        let taken = taking.look(base, again.take()).and_then(|found| {
            // Somebody worked on the index meanwhile: HEAD and it may not belong together.
            if round < ROUNDS && Base::open(&repository)?.print != print {
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
                again = Some(Again);
            }
            Err(error) => return Err(error),
        }
    }
    bail!("the index changes all the time")
}

/// All that taking a checkpoint works with.
pub(super) struct Taking<'a> {
    pub place: &'a Place,
    pub trigger: Trigger,
    pub repository: &'a Repository,
    pub side: &'a Side,
    /// For files, indexes and objects.
    pub files: Git,
    /// For refs.
    pub refs: Git,
    pub depth: usize,
}

impl<'a> Taking<'a> {
    pub fn new(
        place: &'a Place,
        trigger: Trigger,
        repository: &'a Repository,
        side: &'a Side,
        until: Instant,
        depth: usize,
    ) -> Self {
        Self {
            place,
            trigger,
            files: Git::files(side, until),
            refs: Git::writing(repository, &side.common(), until),
            repository,
            side,
            depth,
        }
    }
}

/// A checkpoint's id, and its commit.
pub(super) type OwnRef = (String, String);

/// The checkpoints' ids and commits, oldest first.
pub(super) fn own_refs(git: &Git, place: &Place) -> Result<Vec<OwnRef>> {
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

/// The place of a repository inside of another's workspace. An index, or a message, that an agent has forged may
/// name any path.
pub(super) fn inner(place: &Place, work_tree: &Path, path: &str) -> Result<Place> {
    let is_plain = Path::new(path).components().all(|part| match part {
        Component::Normal(name) => !name.eq_ignore_ascii_case(".git"),
        _ => false,
    });
    ensure!(
        is_plain && !path.is_empty(),
        "\"{path}\" is no path inside of a workspace"
    );
    let workspace = work_tree.join(path);
    // Through a link it would be somewhere else.
    let parent = workspace.parent().unwrap_or(work_tree);
    if let Ok(found) = fs::canonicalize(&workspace).or_else(|_| fs::canonicalize(parent)) {
        ensure!(
            workspace.starts_with(&found),
            "{} is behind a link",
            workspace.display()
        );
    }
    // Only a name for what can be made anew; what is remembered there says which workspace it is of.
    let name = format!("{:016x}", fnv1a(path.as_bytes()));
    Ok(Place {
        workspace,
        agent_id: place.agent_id.clone(),
        private: place.private.join(INNER).join(name),
        largest_file: place.largest_file,
    })
}

/// One at a time in a place; another one is waited for.
pub(super) fn lock(place: &Place, until: Instant) -> Result<LockFile> {
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
