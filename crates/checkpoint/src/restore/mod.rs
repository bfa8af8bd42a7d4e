//! Restores a checkpoint: the files, the staged content, and if asked for HEAD.
//!
//! In whatever step it fails, the checkpoint created before it still holds everything: first
//! everything is checked that may be refused, then files are written, then refs, and last the
//! index, whose lock is held all the while.

pub(crate) mod conflicts;
pub(crate) mod head;
pub(crate) mod index;
mod plan;
pub(crate) mod worktree;

use std::fs;
use std::path::{Component, Path};
use std::time::Instant;

use super::capture::index::{INDEX_INFO, WORKTREE, line};
use super::capture::nested::inner;
use super::capture::{self, operation};
use super::context::{Capture, lock};
use super::message::{self, Kept, Nested};
use super::{CheckpointTarget, ensure_names};
use crate::git::objects;
use crate::git::{Git, Repository, ShadowGitDir};
use index::{IndexLock, prepare};
use plan::{Heads, RollbackPlan};
use state::Trigger;
use sys::error::{Context as _, Hint as _, Result, anyhow, bail, ensure};
use sys::failpoint::{Point, point};

/// File name of the index through which files are written.
const DISK: &str = "disk.index";

pub(super) fn rollback(
    place: &CheckpointTarget,
    id: &str,
    with_head: bool,
    until: Instant,
) -> Result<Vec<String>> {
    let (repository, kept) = open(place, id, until)?;
    restore_checkpoint(place, &repository, &kept, Heads::asked(with_head), until)
}

/// Opens the repository of a workspace, and reads one of its checkpoints.
fn open(place: &CheckpointTarget, id: &str, until: Instant) -> Result<(Repository, Kept)> {
    ensure_names(place)?;
    let repository = Repository::find(&place.workspace, until)?
        .with_context(|| format!("{} is not a git repository", place.workspace.display()))?;
    let kept = find(&Git::refs(&repository, until), place, id)?;
    Ok((repository, kept))
}

/// Reads a checkpoint.
///
/// # Errors
/// There is no checkpoint of that id.
pub(super) fn find(refs: &Git, place: &CheckpointTarget, id: &str) -> Result<Kept> {
    let good = |c: char| c.is_ascii_alphanumeric() || c == '-';
    ensure!(
        id.chars().all(good) && !id.is_empty(),
        "\"{id}\" is not a checkpoint id"
    );
    let name = format!("{}{id}", message::prefix(&place.agent_id));
    message::read_all(refs, &[name])?
        .pop()
        .ok_or_else(|| {
            anyhow!(
                "there is no checkpoint {id} of {}",
                place.workspace.display()
            )
        })
        .hint("spotkeep checkpoint ls")
}

fn restore_checkpoint(
    place: &CheckpointTarget,
    repository: &Repository,
    kept: &Kept,
    heads: Heads,
    until: Instant,
) -> Result<Vec<String>> {
    let _lock = lock(place, until)?;
    let shadow = ShadowGitDir::open(&place.private.join("git"), repository)?;
    let taking = Capture::new(place, Trigger::Before, repository, &shadow, until);
    let index = IndexLock::acquire(repository)?;
    let plan = RollbackPlan::make(&taking, kept, heads)?;
    let RollbackPlan {
        then,
        known,
        spared,
        head,
    } = plan;

    let disk = shadow.file(DISK);
    point(Point::RollbackLocked);
    copy(&shadow.file(WORKTREE), &disk)?;
    let on_disk = taking.files.on_index(&disk);
    if !spared.is_empty() {
        let none = objects::none(repository.settings.oid_length);
        on_disk.run(
            &INDEX_INFO,
            spared
                .iter()
                .flat_map(|path| line(0, &none, 0, path))
                .collect(),
        )?;
    }
    on_disk
        .run(&["read-tree", "--reset", "-u", &then.worktree], Vec::new())
        .context(
            "some files may have been written, others not; \
             the checkpoint before this one has them all",
        )?;
    let oid_length = repository.settings.oid_length;
    let staged = prepare(
        &taking.files,
        &shadow,
        &disk,
        &then.index,
        &then.specials,
        oid_length,
    )?;

    point(Point::RollbackFiles);
    let mut messages = Vec::new();
    if head.moves() {
        let why = format!("spotkeep: rollback to {}", kept.checkpoint.id);
        messages.extend(head::set(&taking.refs, &kept.state.head, &why)?);
    }
    if head.will_be_there() {
        let mut now = known.of_the_worktree;
        for name in operation::REFS {
            now.extend(
                known
                    .objects
                    .get(name)
                    .map(|object| (name.to_owned(), object.oid.clone())),
            );
        }
        head::set_files(repository, &then.files)?;
        head::set_refs(&taking.refs, &now, &kept.state.refs)?;
    } else if then
        .files
        .keys()
        .any(|name| !operation::SPARSE.contains(&name.as_str()))
    {
        messages.push(
            "the merge, rebase or bisection that was under way: \
             HEAD is elsewhere now (--with-head)"
                .to_owned(),
        );
    }
    head::set_sparse(repository, &then.files)?;
    if !kept.state.stash.is_empty() {
        let now = match known.objects.get("refs/stash") {
            Some(_) => capture::stash(repository, &taking.refs)?,
            None => Vec::new(),
        };
        head::restash(&taking.refs, &now, &kept.state)?;
    }
    point(Point::RollbackHeads);
    index.replace(&staged)?;
    for nested in &kept.state.nested {
        let given = restore_nested(place, repository, nested, heads == Heads::Move, until);
        match given {
            Ok(more) => messages.extend(
                more.into_iter()
                    .map(|what| format!("{}: {what}", nested.path)),
            ),
            Err(error) => messages.push(format!("{}: {error:#}", nested.path)),
        }
    }
    Ok(messages)
}

/// Returns messages on what would happen to HEAD; nothing is changed.
///
/// # Errors
/// Restoring would fail as well.
pub(super) fn plan(
    place: &CheckpointTarget,
    id: &str,
    with_head: bool,
    until: Instant,
) -> Result<Vec<String>> {
    let (repository, kept) = open(place, id, until)?;
    let _lock = lock(place, until)?;
    let shadow = ShadowGitDir::open(&place.private.join("git"), &repository)?;
    let taking = Capture::new(place, Trigger::Before, &repository, &shadow, until);
    Ok(RollbackPlan::make(&taking, &kept, Heads::asked(with_head))?.describe())
}

fn restore_nested(
    place: &CheckpointTarget,
    outer: &Repository,
    nested: &Nested,
    with_head: bool,
    until: Instant,
) -> Result<Vec<String>> {
    let Some(id) = &nested.id else {
        return Ok(Vec::new());
    };
    let place = inner(place, &outer.work_tree, &nested.path)?;
    if Repository::find(&place.workspace, until)?.is_none() {
        let Some(inside) = &nested.git_dir else {
            bail!("it had its checkpoints in its own repository, which is gone");
        };
        let is_plain = Path::new(inside)
            .components()
            .all(|part| matches!(part, Component::Normal(_)));
        let git_dir = outer.git_dir.join(inside);
        ensure!(
            is_plain && git_dir.join("HEAD").is_file(),
            "its repository is gone"
        );
        fs::create_dir_all(&place.workspace).context("cannot create its directory")?;
        fs::write(
            place.workspace.join(".git"),
            format!("gitdir: {}\n", git_dir.display()),
        )
        .context("cannot write its .git")?;
    }
    rollback(&place, id, with_head, until)
}

/// Writes a copy with the modification time of the original.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let copy = || {
        fs::copy(from, to)?;
        fs::File::options()
            .write(true)
            .open(to)?
            .set_modified(fs::metadata(from)?.modified()?)
    };
    copy().with_context(|| format!("cannot copy {}", from.display()))
}
