//! A checkpoint is taken.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::base::{Base, INDEX_INFO, Print, SCRATCH, Staged, Survey, line, remove};
use super::message::{self, Head, Kept, Nested, Stashed, State};
use super::operation;
use super::worktree::{Seen, Worktree};
use super::{Checkpoint, Outcome, Place, Trigger, ensure_names, id};
use crate::error::{Context as _, Result, anyhow, bail};
use crate::git::objects::{self, Object};
use crate::git::{Git, Repository, Side};
use crate::notice::Deadline;
use crate::os::files::{LockFile, create_private_dir, write_atomic};
use crate::os::process::current_life;
use crate::time::Timestamp;

/// Repositories in repositories in repositories: so deep.
const DEPTH: usize = 8;

/// How often a checkpoint is begun anew since the index changed under it.
const ROUNDS: usize = 3;

pub(super) fn take(place: &Place, trigger: Trigger, deadline: Deadline) -> Result<Outcome> {
    take_at(place, trigger, deadline.at(), 0)
}

fn take_at(place: &Place, trigger: Trigger, until: Instant, depth: usize) -> Result<Outcome> {
    ensure_names(place)?;
    let Some(repository) = Repository::of(&place.workspace, until)? else {
        return Ok(Outcome::NotGit);
    };
    create_private_dir(&place.private)?;
    let _lock = lock(&place.private.join("lock"), until)?;
    let side = Side::open(&place.private.join("git"), &repository)?;
    let taking = Taking {
        place,
        trigger,
        files: Git::files(&side, until),
        refs: Git::refs(&repository, until),
        repository: &repository,
        side: &side,
        depth,
    };
    let mut again = None;
    for round in 1.. {
        let base = Base::open(&repository)?;
        let print = base.print.clone();
        let found = match taking.look(base, again.take()) {
            Ok(found) => found,
            // What we remember may be wrong: objects that are gone, an index of ours that was torn.
            Err(error) if round == 1 && until > Instant::now() => {
                tracing::debug!("a checkpoint is begun anew: {error:#}");
                again = Some(Again);
                continue;
            }
            Err(error) => return Err(error),
        };
        // Somebody worked on the index meanwhile: HEAD and it may not belong together.
        if round < ROUNDS && Base::open(&repository)?.print != print {
            continue;
        }
        return taking.keep(found);
    }
    bail!("the index changes all the time")
}

/// What we remember is not to be used.
struct Again;

/// What we remember of the last checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Memory {
    version: u32,
    /// Of another life nothing is believed: objects that were not yet on the disk may be gone.
    life: String,
    work_tree: String,
    base: Option<Print>,
    /// What was asked for about conversions.
    rules: String,
    staged: Staged,
    /// The index could not be read.
    lost: bool,
    /// The tree of the files.
    worktree: String,
    gitlinks: Vec<String>,
}

/// All that a checkpoint is made of.
struct Found {
    memory: Memory,
    state: State,
    newest: Option<Kept>,
    newest_id: Option<String>,
    head_tree: Option<String>,
    files: BTreeMap<String, Vec<u8>>,
    /// A tree of git's own that nothing else holds.
    auto_merge: Option<String>,
}

struct Taking<'a> {
    place: &'a Place,
    trigger: Trigger,
    repository: &'a Repository,
    side: &'a Side,
    files: Git,
    refs: Git,
    depth: usize,
}

impl Taking<'_> {
    fn look(&self, base: Base, again: Option<Again>) -> Result<Found> {
        // The files take the time; the refs are read meanwhile.
        let (known, files) = std::thread::scope(|scope| {
            let known = scope.spawn(|| self.known());
            let files = self.files(base, again.is_some());
            let known = known
                .join()
                .unwrap_or_else(|_| bail!("reading the refs failed"));
            (known, files)
        });
        let known = known?;
        let (memory, seen) = files?;
        let oid = |name: &str| known.objects.get(name).map(|object| object.oid.clone());
        let head = known
            .objects
            .get("HEAD")
            .filter(|object| object.kind == "commit");
        let head = head.map(|object| object.oid.clone());
        let mut refs: BTreeMap<String, String> = known.of_the_worktree;
        for name in operation::REFS {
            refs.extend(oid(name).map(|oid| (name.to_owned(), oid)));
        }
        let mut left_out = seen.left_out;
        if memory.lost {
            left_out.push("what was staged: the index is damaged".to_owned());
        }
        let branch = branch(self.repository, &self.refs)?;
        if head.is_none() {
            left_out.extend(broken_branch(self.repository, branch.as_deref()));
        }
        let nested = self.nested(&memory, seen.nested, &mut left_out);
        left_out.sort();
        let stash = match oid("refs/stash") {
            Some(_) => stash(self.repository, &self.refs)?,
            None => Vec::new(),
        };
        let auto_merge = known
            .objects
            .get("AUTO_MERGE")
            .filter(|object| object.kind == "tree");
        Ok(Found {
            memory,
            auto_merge: auto_merge.map(|object| object.oid.clone()),
            head_tree: oid("HEAD^{tree}"),
            state: State {
                left_out,
                head: Head {
                    branch,
                    commit: head,
                },
                refs,
                stash,
                nested,
                linked: self.repository.is_linked(),
            },
            newest: known.newest,
            newest_id: known.newest_id,
            files: operation::read(&self.repository.git_dir)?,
        })
    }

    /// What the refs say.
    fn known(&self) -> Result<Known> {
        let (ours, of_the_worktree) = self.refs_of_ours_and_of_the_worktree()?;
        let mut names: Vec<&str> = vec!["HEAD", "HEAD^{tree}", "refs/stash"];
        names.extend(operation::REFS);
        let newest = match ours.last() {
            Some((_, commit)) => message::read_all(&self.refs, std::slice::from_ref(commit))?.pop(),
            None => None,
        };
        Ok(Known {
            objects: objects::look_up(&self.refs, &names)?,
            newest,
            newest_id: ours.into_iter().next_back().map(|(id, _)| id),
            of_the_worktree,
        })
    }

    /// What is staged and what is on the disk, as objects.
    fn files(&self, base: Base, anew: bool) -> Result<(Memory, Seen)> {
        let worktree = Worktree::new(
            self.repository,
            self.side,
            &self.files,
            self.place.largest_file,
        );
        let oid_length = self.repository.settings.oid_length;
        let life = current_life()?;
        let rules = self.rules();
        let remembered = self.remembered().filter(|memory| {
            !anew
                && memory.life == life
                && memory.base == base.print
                && memory.rules == rules
                && !memory.lost
        });
        if let Some(mut memory) = remembered {
            let seen = worktree.capture(None)?;
            if !seen.rules_changed {
                memory.worktree = seen.tree.clone().unwrap_or(memory.worktree);
                return Ok((memory, seen));
            }
        }
        // Compared with HEAD, an answer of git is short.
        let head = objects::look_up(&self.refs, &["HEAD"])?.remove("HEAD");
        let head = head
            .filter(|object| object.kind == "commit")
            .map(|object| object.oid);
        self.side.set_head(head.as_deref())?;
        // Until this is done, nothing is remembered.
        remove(&self.side.file("memory.json"))?;
        let print = base.print.clone();
        let base = if anew || base.print.is_some() {
            Base::open(self.repository)?
        } else {
            base
        };
        let survey = Survey::take(
            base,
            self.side,
            self.repository,
            head.as_deref(),
            &self.files,
        )?;
        let staged = Staged::write(&survey, self.side, &self.files, oid_length)?;
        worktree.settle(&survey)?;
        let seen = worktree.capture(Some(&survey))?;
        let text = |path: &Vec<u8>| String::from_utf8(path.clone()).ok();
        Ok((
            Memory {
                version: 1,
                life,
                work_tree: self.repository.work_tree.to_string_lossy().into_owned(),
                base: print,
                rules,
                staged,
                lost: survey.lost,
                worktree: seen.tree.clone().context("no tree was written")?,
                gitlinks: survey.gitlinks.iter().filter_map(text).collect(),
            },
            seen,
        ))
    }

    fn remembered(&self) -> Option<Memory> {
        let bytes = fs::read(self.side.file("memory.json")).ok()?;
        let memory: Memory = serde_json::from_slice(&bytes).ok()?;
        let is_here = Path::new(&memory.work_tree) == self.repository.work_tree;
        (is_here && memory.version == 1).then_some(memory)
    }

    /// What may change conversions, but lies outside of the workspace.
    fn rules(&self) -> String {
        let settings = &self.repository.settings;
        let read = |path: &Path| {
            fs::symlink_metadata(path)
                .ok()
                .and_then(|found| Some((found.len(), found.modified().ok()?)))
        };
        format!(
            "{} {:?} {:?}",
            settings.converts_line_ends,
            settings.attributes_file.as_deref().and_then(read),
            read(&self.repository.common_dir.join("info/attributes"))
        )
    }

    /// Takes checkpoints of the repositories inside of this one.
    fn nested(
        &self,
        memory: &Memory,
        untracked: Vec<Vec<u8>>,
        left_out: &mut Vec<String>,
    ) -> Vec<Nested> {
        let mut paths: BTreeSet<String> = memory.gitlinks.iter().cloned().collect();
        for path in untracked {
            match String::from_utf8(path) {
                Ok(path) => _ = paths.insert(path),
                Err(error) => left_out.push(format!(
                    "{}: a repository whose name is no UTF-8",
                    String::from_utf8_lossy(error.as_bytes())
                )),
            }
        }
        let mut nested = Vec::new();
        for path in paths {
            let place = inner(self.place, &self.repository.work_tree, &path);
            let outcome = if self.depth == DEPTH {
                Err(anyhow!("too many repositories inside of each other"))
            } else {
                take_at(&place, self.trigger, self.files.until(), self.depth + 1)
            };
            let id = match outcome {
                Ok(Outcome::Taken(checkpoint)) => Some(checkpoint.id),
                Ok(Outcome::Unchanged(id)) => id,
                // A submodule that is not checked out.
                Ok(Outcome::NotGit) => continue,
                Err(error) => {
                    left_out.push(format!("{path}: a repository of its own: {error:#}"));
                    continue;
                }
            };
            let git_dir = Repository::of(&place.workspace, self.files.until())
                .ok()
                .flatten()
                .and_then(|inner| {
                    let inside = inner.git_dir.strip_prefix(&self.repository.git_dir).ok()?;
                    Some(inside.to_str()?.to_owned())
                });
            nested.push(Nested { path, id, git_dir });
        }
        nested
    }

    /// Makes a commit of what was found, and a ref that holds it, unless the newest checkpoint says the same.
    fn keep(&self, found: Found) -> Result<Outcome> {
        let Found {
            memory,
            state,
            newest,
            newest_id,
            head_tree,
            files,
            auto_merge,
        } = found;
        let oid_length = self.repository.settings.oid_length;
        let empty = objects::empty_tree(oid_length);
        let is_nothing = state.head.commit.is_none()
            && memory.staged.tree == empty
            && memory.worktree == empty
            && state.nested.is_empty()
            && state.left_out.is_empty()
            && state.stash.is_empty();
        if is_nothing && newest.is_none() {
            self.remember(&memory)?;
            return Ok(Outcome::Unchanged(None));
        }
        let tree = self.top(&memory, &files, auto_merge.as_deref())?;
        if let Some(newest) = &newest
            && newest.tree == tree
            && newest.state == state
        {
            self.remember(&memory)?;
            return Ok(Outcome::Unchanged(Some(newest.checkpoint.id.clone())));
        }
        self.verify(&memory, &tree, head_tree.as_deref())?;
        let parents = self.parents(&state, &files)?;
        let at = Timestamp::now();
        let id = id::after(newest_id.as_deref(), at);
        let text = message::write(&id, at, self.trigger, &state)?;
        let mut arguments = vec!["commit-tree", &tree];
        for parent in &parents {
            arguments.extend(["-p", parent]);
        }
        let commit = self.files.line(&arguments, text.into_bytes())?;
        let name = format!("{}{id}", message::prefix(&self.place.agent_id));
        self.refs.run(
            &[
                "update-ref",
                "--no-deref",
                &name,
                &commit,
                &objects::none(oid_length),
            ],
            Vec::new(),
        )?;
        self.remember(&memory)?;
        Ok(Outcome::Taken(Checkpoint {
            id,
            commit,
            at,
            trigger: self.trigger,
            left_out: state.left_out,
            head: state.head,
            nested: state.nested,
        }))
    }

    /// The tree of it all.
    fn top(
        &self,
        memory: &Memory,
        files: &BTreeMap<String, Vec<u8>>,
        auto_merge: Option<&str>,
    ) -> Result<String> {
        let meta = self.meta(memory, files)?;
        let trees = [
            ("auto-merge", auto_merge),
            ("index", Some(memory.staged.tree.as_str())),
            ("meta", meta.as_deref()),
            ("stages", memory.staged.stages.as_deref()),
            ("worktree", Some(memory.worktree.as_str())),
        ];
        let entries = trees
            .iter()
            .filter_map(|(name, tree)| Some(format!("040000 tree {}\t{name}\n", (*tree)?)));
        self.files.line(
            &["mktree", "--missing"],
            entries.collect::<String>().into_bytes(),
        )
    }

    fn meta(&self, memory: &Memory, files: &BTreeMap<String, Vec<u8>>) -> Result<Option<String>> {
        let mut lines = Vec::new();
        if let Some(blob) = &memory.staged.entries {
            lines.extend(line(0o100_644, blob, 0, b"entries"));
        }
        if !files.is_empty() {
            let contents: Vec<&[u8]> = files.values().map(Vec::as_slice).collect();
            let blobs = objects::write(&self.files, &self.side.file("blobs"), &contents)?;
            for (name, blob) in files.keys().zip(blobs) {
                lines.extend(line(
                    0o100_644,
                    &blob,
                    0,
                    format!("state/{name}").as_bytes(),
                ));
            }
        }
        if lines.is_empty() {
            return Ok(None);
        }
        remove(&self.side.file(SCRATCH))?;
        let scratch = self.files.on_index(&self.side.file(SCRATCH));
        scratch.run(&INDEX_INFO, lines)?;
        scratch.line(&["write-tree"], Vec::new()).map(Some)
    }

    /// Looks at every object that is not HEAD's: one that is missing, or was emptied by a power cut and is taken for
    /// present, would make this checkpoint one that cannot be given back.
    fn verify(&self, memory: &Memory, tree: &str, head_tree: Option<&str>) -> Result<()> {
        let from =
            head_tree.unwrap_or_else(|| objects::empty_tree(self.repository.settings.oid_length));
        let pairs: String = [&memory.staged.tree, &memory.worktree]
            .into_iter()
            .filter(|tree| *tree != from)
            .map(|tree| format!("{from} {tree}\n"))
            .collect();
        let mut names: BTreeSet<String> = BTreeSet::from([tree.to_owned()]);
        if !pairs.is_empty() {
            names.extend([memory.staged.tree.clone(), memory.worktree.clone()]);
            let raw = [
                "diff-tree",
                "--stdin",
                "-r",
                "-t",
                "-z",
                "--raw",
                "--no-renames",
            ];
            let answer = self.files.run(&raw, pairs.into_bytes())?;
            for field in answer.split(|byte| *byte == 0) {
                // `:100644 100755 <old> <new> M`; a pair's own line may stand before it.
                let Some(start) = field.iter().position(|byte| *byte == b':') else {
                    continue;
                };
                let text = String::from_utf8_lossy(&field[start..]);
                let words: Vec<&str> = text.split(' ').collect();
                if let [_, mode, _, new, _] = words[..]
                    && !matches!(mode, "000000" | "160000")
                    && objects::is_oid(new)
                {
                    names.insert(new.to_owned());
                }
            }
        }
        names.extend(
            memory
                .staged
                .entries
                .iter()
                .chain(&memory.staged.stages)
                .cloned(),
        );
        let names: Vec<String> = names.into_iter().collect();
        let known = objects::look_up(&self.files, &names)?;
        let is_sound = |object: &Object| matches!(object.kind.as_str(), "blob" | "tree");
        let bad: Vec<&String> = names
            .iter()
            .filter(|name| !known.get(*name).is_some_and(is_sound))
            .collect();
        if let Some(first) = bad.first() {
            // An empty file is no object, and git takes it for one that is there already.
            for name in &bad {
                let path = self.side.objects.join(&name[..2]).join(&name[2..]);
                if fs::symlink_metadata(&path)
                    .is_ok_and(|found| found.is_file() && found.len() == 0)
                {
                    remove(&path)?;
                }
            }
            bail!(
                "{} objects are missing or damaged, the first is {first}",
                bad.len()
            );
        }
        Ok(())
    }

    /// HEAD, and everything else that must not be collected as garbage while the checkpoint is there.
    fn parents(&self, state: &State, files: &BTreeMap<String, Vec<u8>>) -> Result<Vec<String>> {
        let mut names: Vec<String> = state.head.commit.iter().cloned().collect();
        names.extend(state.refs.values().cloned());
        names.extend(operation::mentioned(files));
        names.extend(state.stash.iter().map(|stashed| stashed.commit.clone()));
        let known = objects::look_up(&self.files, &names)?;
        let mut seen = BTreeSet::new();
        names.retain(|name| {
            known
                .get(name)
                .is_some_and(|object| object.kind == "commit")
                && seen.insert(name.clone())
        });
        Ok(names)
    }

    fn remember(&self, memory: &Memory) -> Result<()> {
        if self.remembered().as_ref() == Some(memory) {
            return Ok(());
        }
        let bytes = serde_json::to_vec(memory).context("cannot write JSON")?;
        write_atomic(&self.side.file("memory.json"), &bytes)
    }

    /// Our checkpoints (id and commit, oldest first), and the refs of this worktree alone.
    fn refs_of_ours_and_of_the_worktree(
        &self,
    ) -> Result<(Vec<(String, String)>, BTreeMap<String, String>)> {
        let prefix = message::prefix(&self.place.agent_id);
        let mut arguments = vec![
            "for-each-ref",
            "--format=%(refname) %(objectname)",
            prefix.as_str(),
        ];
        arguments.extend(operation::REF_DIRECTORIES);
        let answer = self.refs.run(&arguments, Vec::new())?;
        let mut ours = Vec::new();
        let mut others = BTreeMap::new();
        for text in String::from_utf8_lossy(&answer).lines() {
            let Some((name, oid)) = text.split_once(' ') else {
                continue;
            };
            match name.strip_prefix(&prefix) {
                Some(id) if !id.contains('/') => ours.push((id.to_owned(), oid.to_owned())),
                Some(_) => {}
                None => _ = others.insert(name.to_owned(), oid.to_owned()),
            }
        }
        Ok((ours, others))
    }
}

/// What the refs say.
struct Known {
    objects: HashMap<String, Object>,
    newest: Option<Kept>,
    newest_id: Option<String>,
    of_the_worktree: BTreeMap<String, String>,
}

/// The checkpoints' ids and commits, oldest first.
pub(super) fn own_refs(git: &Git, place: &Place) -> Result<Vec<(String, String)>> {
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

/// The place of a repository inside of another's workspace.
pub(super) fn inner(place: &Place, work_tree: &Path, path: &str) -> Place {
    use std::hash::{DefaultHasher, Hash as _, Hasher as _};
    // Only a name for what can be made anew; what is remembered there says which workspace it is of.
    let mut hasher = DefaultHasher::new();
    path.hash(&mut hasher);
    Place {
        workspace: work_tree.join(path),
        agent_id: place.agent_id.clone(),
        private: place
            .private
            .join("nested")
            .join(format!("{:016x}", hasher.finish())),
        largest_file: place.largest_file,
    }
}

/// One at a time in a place; another one is waited for.
pub(super) fn lock(path: &Path, until: Instant) -> Result<LockFile> {
    loop {
        if let Some(lock) = LockFile::try_take(path)? {
            return Ok(lock);
        }
        if until <= Instant::now() {
            bail!("another checkpoint of this workspace is being taken");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The full name of the branch that HEAD is on; `None` where it is detached.
pub(super) fn branch(repository: &Repository, git: &Git) -> Result<Option<String>> {
    let name = if repository.settings.reftable {
        git.ask(&["symbolic-ref", "-q", "HEAD"], Vec::new())?.stdout
    } else {
        let text = fs::read(repository.git_dir.join("HEAD")).context("cannot read HEAD")?;
        text.strip_prefix(b"ref:").unwrap_or_default().to_vec()
    };
    let name = String::from_utf8_lossy(&name).trim().to_owned();
    Ok((!name.is_empty()).then_some(name))
}

/// A branch that is there and cannot be read, which git takes for one without commits.
fn broken_branch(repository: &Repository, branch: Option<&str>) -> Option<String> {
    let branch = branch?;
    repository
        .common_dir
        .join(branch)
        .is_file()
        .then(|| format!("HEAD: {branch} is damaged"))
}

/// All entries of the stash, newest first.
fn stash(repository: &Repository, git: &Git) -> Result<Vec<Stashed>> {
    let mut entries = Vec::new();
    if let Ok(log) = fs::read(repository.common_dir.join("logs/refs/stash")) {
        for line in String::from_utf8_lossy(&log).lines() {
            let (head, message) = line.split_once('\t').unwrap_or((line, ""));
            if let Some(commit) = head.split(' ').nth(1).filter(|oid| objects::is_oid(oid)) {
                entries.push(Stashed {
                    commit: commit.to_owned(),
                    message: message.to_owned(),
                });
            }
        }
        entries.reverse();
        return Ok(entries);
    }
    let answer = git.run(
        &["rev-list", "--walk-reflogs", "--format=%gs", "refs/stash"],
        Vec::new(),
    )?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let mut lines = answer.lines();
    while let (Some(commit), Some(message)) = (lines.next(), lines.next()) {
        if let Some(commit) = commit.strip_prefix("commit ") {
            entries.push(Stashed {
                commit: commit.to_owned(),
                message: message.to_owned(),
            });
        }
    }
    Ok(entries)
}
