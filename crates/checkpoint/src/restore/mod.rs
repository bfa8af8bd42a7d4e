//! A checkpoint is given back: the files, what was staged, and if asked for HEAD.
//!
//! The order is such that whatever fails leaves what the checkpoint before it holds: first everything is looked at that
//! may be refused, then files are written, then refs, and last the index, whose lock is held all the while.

pub(crate) mod conflicts;
pub(crate) mod head;
pub(crate) mod index;
pub(crate) mod worktree;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path};
use std::time::Instant;

use super::capture::index::{Base, INDEX_INFO, Special, WORKTREE, line, read_entries};
use super::capture::nested::inner;
use super::capture::worktree::Worktree;
use super::capture::{self, operation};
use super::context::{Taking, lock};
use super::message::{self, Head, Kept, Nested};
use super::{Place, ensure_names};
use crate::git::objects;
use crate::git::{Git, Repository, Side};
use conflicts::Way;
use index::{IndexLock, prepare};
use state::Trigger;
use sys::error::{Context as _, Hint as _, Result, anyhow, bail, ensure};
use sys::failpoint::{Point, point};

/// The index that files are written through.
const DISK: &str = "disk.index";

pub(super) fn rollback(
    place: &Place,
    id: &str,
    with_head: bool,
    until: Instant,
) -> Result<Vec<String>> {
    ensure_names(place)?;
    let repository = Repository::of(&place.workspace, until)?
        .with_context(|| format!("{} is no git workspace", place.workspace.display()))?;
    let kept = find(&Git::refs(&repository, until), place, id)?;
    give_back(
        place,
        &repository,
        &kept,
        if with_head { Heads::Move } else { Heads::Stay },
        until,
    )
}

/// What becomes of HEAD.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heads {
    /// It stays where it is.
    Stay,
    /// It goes to where it was, and its branch with it.
    Move,
}

/// Reads a checkpoint.
///
/// # Errors
/// There is none of that name.
pub(super) fn find(refs: &Git, place: &Place, id: &str) -> Result<Kept> {
    let good = |c: char| c.is_ascii_alphanumeric() || c == '-';
    ensure!(
        id.chars().all(good) && !id.is_empty(),
        "\"{id}\" is no checkpoint's id"
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

pub(super) fn give_back(
    place: &Place,
    repository: &Repository,
    kept: &Kept,
    heads: Heads,
    until: Instant,
) -> Result<Vec<String>> {
    let _lock = lock(place, until)?;
    let side = Side::open(&place.private.join("git"), repository)?;
    let taking = Taking::new(place, Trigger::Before, repository, &side, until);
    let index = IndexLock::take(repository)?;
    let Looked {
        then,
        known,
        spared,
    } = look_ahead(&taking, kept, heads)?;

    let disk = side.file(DISK);
    point(Point::RollbackLocked);
    copy(&side.file(WORKTREE), &disk)?;
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
        .context("some files may have been written, others not; the checkpoint before this one has them all")?;
    let oid_length = repository.settings.oid_length;
    let prepared = prepare(
        &taking.files,
        &side,
        &disk,
        &then.index,
        &then.specials,
        oid_length,
    )?;

    point(Point::RollbackFiles);
    let mut told = Vec::new();
    let was = capture::branch(repository, &taking.refs)?;
    let commit = known.objects.get("HEAD").map(|object| object.oid.clone());
    let mut is_there = was == kept.state.head.branch && commit == kept.state.head.commit;
    if heads == Heads::Move && !is_there {
        let why = format!("spotkeep: rollback to {}", kept.checkpoint.id);
        told.extend(head::set(&taking.refs, &kept.state.head, &why)?);
        is_there = true;
    }
    if is_there {
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
        told.push("the merge, rebase or bisection that was under way: HEAD is elsewhere now (--with-head)".to_owned());
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
    index.replace(&prepared)?;
    for nested in &kept.state.nested {
        let given = give_back_nested(place, repository, nested, heads == Heads::Move, until);
        match given {
            Ok(more) => told.extend(
                more.into_iter()
                    .map(|what| format!("{}: {what}", nested.path)),
            ),
            Err(error) => told.push(format!("{}: {error:#}", nested.path)),
        }
    }
    Ok(told)
}

/// What would become of HEAD, in words; nothing is changed.
///
/// # Errors
/// What giving it back would refuse as well.
pub(super) fn plan(
    place: &Place,
    id: &str,
    with_head: bool,
    until: Instant,
) -> Result<Vec<String>> {
    let repository = Repository::of(&place.workspace, until)?
        .with_context(|| format!("{} is no git workspace", place.workspace.display()))?;
    let kept = find(&Git::refs(&repository, until), place, id)?;
    let heads = if with_head { Heads::Move } else { Heads::Stay };
    let _lock = lock(place, until)?;
    let side = Side::open(&place.private.join("git"), &repository)?;
    let taking = Taking::new(place, Trigger::Before, &repository, &side, until);
    let Looked { known, .. } = look_ahead(&taking, &kept, heads)?;
    let now = Head {
        branch: capture::branch(&repository, &taking.refs)?,
        commit: known.objects.get("HEAD").map(|object| object.oid.clone()),
    };
    let then = &kept.state.head;
    if now == *then {
        return Ok(Vec::new());
    }
    if heads == Heads::Stay {
        return Ok(vec![format!(
            "HEAD would stay on {}; it was on {} (--with-head)",
            now.words(),
            then.words()
        )]);
    }
    let mut told = vec![format!(
        "HEAD would go from {} to {}",
        now.words(),
        then.words()
    )];
    if let (Some(branch), Some(commit)) = (&then.branch, &then.commit) {
        let is = objects::look_up(&taking.refs, std::slice::from_ref(branch))?;
        match is.get(branch) {
            Some(is) if is.oid == *commit => {}
            Some(is) => told.push(format!(
                "{branch} would go from {} to {}, and its reflog would say so",
                message::short(&is.oid),
                message::short(commit)
            )),
            None => told.push(format!("{branch} would be made again")),
        }
    }
    Ok(told)
}

/// What there is to know before anything is written.
struct Looked {
    then: Then,
    known: capture::Known,
    /// Files that are there only because ignore patterns have gone since.
    spared: Vec<Vec<u8>>,
}

/// Looks at everything that may be refused.
fn look_ahead(taking: &Taking<'_>, kept: &Kept, heads: Heads) -> Result<Looked> {
    let (side, repository, until) = (taking.side, taking.repository, taking.files.until());
    let then = Then::read(&taking.files, kept)?;
    if heads == Heads::Move {
        head::refuse_shared(repository, &kept.state.head, until)?;
    }
    let known = taking.known()?;
    // The same eyes as a checkpoint's: our index is then up to what is on the disk.
    let (now, _) = taking.files(Base::open(repository)?, false)?;
    let mut way = Way::between(&taking.files, &now.worktree, &then.worktree)?;
    let largest_file = taking.place.largest_file;
    let untracked = Worktree::new(repository, side, &taking.files, largest_file).extras()?;
    let spared = way.spare_ignored(
        &taking.files,
        &side.file("patterns"),
        &then.worktree,
        &untracked,
    )?;
    way.refuse_losses(&taking.files, &repository.work_tree)?;
    Ok(Looked {
        then,
        known,
        spared,
    })
}

/// The trees and files of a checkpoint.
struct Then {
    worktree: String,
    index: String,
    specials: Vec<Special>,
    files: BTreeMap<String, Vec<u8>>,
}

impl Then {
    fn read(git: &Git, kept: &Kept) -> Result<Self> {
        let name = |path: &str| format!("{}:{path}", kept.tree);
        let names = [
            name("worktree"),
            name("index"),
            name("meta/entries"),
            name("meta/state"),
        ];
        let known = objects::look_up(git, &names)?;
        let oid = |at: usize| known.get(&names[at]).map(|object| object.oid.clone());
        let [worktree, index] =
            [oid(0), oid(1)].map(|oid| oid.context("the checkpoint is damaged: it lacks a tree"));
        let specials = match oid(2) {
            Some(blob) => read_entries(&git.run(&["cat-file", "blob", &blob], Vec::new())?),
            None => Vec::new(),
        };
        let mut files = BTreeMap::new();
        if let Some(tree) = oid(3) {
            let list = git.run(&["ls-tree", "-r", "-z", "--full-tree", &tree], Vec::new())?;
            for line in String::from_utf8_lossy(&list).split('\0') {
                let Some((head, path)) = line.split_once('\t') else {
                    continue;
                };
                if operation::is_known(path)
                    && let Some(blob) = head.split(' ').nth(2)
                {
                    files.insert(
                        path.to_owned(),
                        git.run(&["cat-file", "blob", blob], Vec::new())?,
                    );
                }
            }
        }
        Ok(Self {
            worktree: worktree?,
            index: index?,
            specials,
            files,
        })
    }
}

fn give_back_nested(
    place: &Place,
    outer: &Repository,
    nested: &Nested,
    with_head: bool,
    until: Instant,
) -> Result<Vec<String>> {
    let Some(id) = &nested.id else {
        return Ok(Vec::new());
    };
    let place = inner(place, &outer.work_tree, &nested.path)?;
    if Repository::of(&place.workspace, until)?.is_none() {
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

/// A copy that is as old as the original.
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
