//! Plans the restore of a checkpoint before anything is written.
//!
//! `--dry-run` shows the plan, and a rollback carries it out.

use std::collections::BTreeMap;

use super::conflicts::TreeChanges;
use super::head::refuse_shared;
use crate::capture::index::{IndexSnapshot, Special, read_entries};
use crate::capture::worktree::Worktree;
use crate::capture::{self, Known, operation};
use crate::context::Capture;
use crate::git::{Git, objects};
use crate::message::{Head, Kept, short};
use sys::error::{Context as _, Result};

/// Whether HEAD is moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heads {
    /// HEAD stays where it is.
    Stay,
    /// HEAD goes to where it was, and its branch with it.
    Move,
}

impl Heads {
    /// Returns the variant for `--with-head`.
    pub fn asked(with_head: bool) -> Self {
        match with_head {
            true => Self::Move,
            false => Self::Stay,
        }
    }
}

/// Everything that restoring a checkpoint does in the present state. All checks have passed.
pub(super) struct RollbackPlan {
    /// The checkpoint's state.
    pub then: CheckpointContent,
    /// The present state of the refs.
    pub known: Known,
    /// Files that exist only because ignore patterns have been removed since: they stay.
    pub spared: Vec<Vec<u8>>,
    /// What happens to HEAD.
    pub head: HeadPlan,
}

impl RollbackPlan {
    /// Checks everything, and fails where files or commits would be lost.
    ///
    /// # Errors
    /// A file that no checkpoint holds would be overwritten, a branch is checked out in another
    /// worktree too, or git failed.
    pub fn make(taking: &Capture<'_>, kept: &Kept, heads: Heads) -> Result<Self> {
        let (shadow, repository, until) = (taking.shadow, taking.repository, taking.files.until());
        let then = CheckpointContent::read(&taking.files, kept)?;
        if heads == Heads::Move {
            refuse_shared(repository, &kept.state.head, until)?;
        }
        let known = taking.known()?;
        // The same capture as for a checkpoint: spotkeep's index then matches the files on the
        // disk.
        let (now, _) = taking.files(IndexSnapshot::open(repository)?, false)?;
        let mut way = TreeChanges::between(&taking.files, &now.worktree, &then.worktree)?;
        let largest_file = taking.place.largest_file;
        let untracked = Worktree::new(repository, shadow, &taking.files, largest_file).extras()?;
        let spared = way.spare_ignored(
            &taking.files,
            &shadow.file("patterns"),
            &then.worktree,
            &untracked,
        )?;
        way.ensure_no_losses(&taking.files, &repository.work_tree)?;
        let now = Head {
            branch: capture::branch(repository, &taking.refs)?,
            commit: known.objects.get("HEAD").map(|object| object.oid.clone()),
        };
        let head = HeadPlan::make(now, kept.state.head.clone(), heads, |branch| {
            let mut is = objects::look_up(&taking.refs, std::slice::from_ref(branch))?;
            Ok(is.remove(branch).map(|object| object.oid))
        })?;
        Ok(Self {
            then,
            known,
            spared,
            head,
        })
    }

    /// Returns messages on what would happen to HEAD; none where HEAD is where it was.
    pub fn describe(&self) -> Vec<String> {
        self.head.describe()
    }
}

/// What happens to HEAD.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum HeadPlan {
    /// It is where it was.
    There,
    /// It is elsewhere, and stays there.
    Stays {
        /// Its present state.
        now: Head,
        /// Its state in the checkpoint.
        then: Head,
    },
    /// It moves back.
    Moves {
        /// Its present state.
        now: Head,
        /// Its state in the checkpoint.
        then: Head,
        /// The present commit of its branch, if that exists.
        branch_at: Option<String>,
    },
}

impl HeadPlan {
    /// Compares the states; `commit_of` returns the present commit of a branch.
    fn make(
        now: Head,
        then: Head,
        heads: Heads,
        commit_of: impl Fn(&String) -> Result<Option<String>>,
    ) -> Result<Self> {
        if now == then {
            return Ok(Self::There);
        }
        Ok(match heads {
            Heads::Stay => Self::Stays { now, then },
            Heads::Move => Self::Moves {
                branch_at: then.branch.as_ref().map_or(Ok(None), commit_of)?,
                now,
                then,
            },
        })
    }

    /// Whether HEAD has to be moved.
    pub fn moves(&self) -> bool {
        matches!(self, Self::Moves { .. })
    }

    /// Whether HEAD is where it was in the end; only then an operation under way is restored.
    pub fn will_be_there(&self) -> bool {
        !matches!(self, Self::Stays { .. })
    }

    /// Returns messages for people.
    fn describe(&self) -> Vec<String> {
        match self {
            Self::There => Vec::new(),
            Self::Stays { now, then } => vec![format!(
                "HEAD would stay on {}; it was on {} (--with-head)",
                now.describe(),
                then.describe()
            )],
            Self::Moves {
                now,
                then,
                branch_at,
            } => {
                let mut words = vec![format!(
                    "HEAD would go from {} to {}",
                    now.describe(),
                    then.describe()
                )];
                if let (Some(branch), Some(commit)) = (&then.branch, &then.commit) {
                    match branch_at {
                        Some(at) if at == commit => {}
                        Some(at) => words.push(format!(
                            "{branch} would go from {} to {}, and its reflog would say so",
                            short(at),
                            short(commit)
                        )),
                        None => words.push(format!("{branch} would be made again")),
                    }
                }
                words
            }
        }
    }
}

/// The trees and files of a checkpoint.
pub(super) struct CheckpointContent {
    pub worktree: String,
    pub index: String,
    pub specials: Vec<Special>,
    pub files: BTreeMap<String, Vec<u8>>,
}

impl CheckpointContent {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn head(branch: Option<&str>, commit: &str) -> Head {
        Head {
            branch: branch.map(|name| format!("refs/heads/{name}")),
            commit: Some(commit.to_owned()),
        }
    }

    #[test]
    fn the_plan_names_head_where_it_differs_and_moves_it_only_on_request() {
        let (now, then) = (head(Some("main"), "bbb"), head(Some("main"), "aaa"));
        let make = |now: &Head, heads, at: Option<&str>| {
            let at = at.map(str::to_owned);
            HeadPlan::make(now.clone(), then.clone(), heads, |_| Ok(at.clone())).unwrap()
        };
        for heads in [Heads::Stay, Heads::Move] {
            let plan = make(&then, heads, Some("aaa"));
            assert!(!plan.moves() && plan.will_be_there() && plan.describe().is_empty());
        }
        let plan = make(&now, Heads::Stay, Some("bbb"));
        assert!(!plan.moves() && !plan.will_be_there());
        assert_eq!(
            plan.describe(),
            ["HEAD would stay on main (bbb); it was on main (aaa) (--with-head)"]
        );
        let goes = "HEAD would go from main (bbb) to main (aaa)";
        let table = [
            (Some("aaa"), None),
            (
                Some("bbb"),
                Some("refs/heads/main would go from bbb to aaa, and its reflog would say so"),
            ),
            (None, Some("refs/heads/main would be made again")),
        ];
        for (at, more) in table {
            let plan = make(&now, Heads::Move, at);
            assert!(plan.moves() && plan.will_be_there());
            let words: Vec<&str> = [goes].into_iter().chain(more).collect();
            assert_eq!(plan.describe(), words);
        }
    }
}
