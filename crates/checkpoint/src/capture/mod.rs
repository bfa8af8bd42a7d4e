//! Captures the state of a workspace as git objects and metadata.

pub(crate) mod index;
pub(crate) mod nested;
pub(crate) mod operation;
pub(crate) mod unstable_file;
pub(crate) mod worktree;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::context::{Capture, OwnRef};
use super::message::{self, Head, Kept, Nested, Stashed, State};
use super::{CheckpointOutcome, CheckpointTarget};
use crate::git::objects::{self, Object};
use crate::git::{Git, Repository};
use index::{Fingerprint, IndexSnapshot, MEMORY, Scan, Staged, remove};
use nested::inner;
use sys::error::{Context as _, Result};
use sys::process::current_boot_id;
use sys::thread;
use worktree::{Worktree, WorktreeScan};

/// Request to capture again without the memory of the last checkpoint.
pub(super) struct Retry;

/// State remembered of the last checkpoint, in `memory.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Memory {
    pub version: u32,
    /// The boot in which it was written. A memory of another boot is not used: objects that were
    /// not yet on the disk may be gone.
    #[serde(alias = "life")]
    pub boot_id: String,
    pub work_tree: String,
    #[serde(alias = "base")]
    pub snapshot: Option<Fingerprint>,
    /// The settings on conversions outside of the workspace, as text.
    pub rules: String,
    pub staged: Staged,
    /// Whether the index could not be read.
    pub lost: bool,
    /// Object name of the tree of the files.
    pub worktree: String,
    pub gitlinks: Vec<String>,
}

/// Everything from which a checkpoint's commit is made.
pub(super) struct Captured {
    pub memory: Memory,
    pub state: State,
    pub newest: Option<Kept>,
    pub newest_id: Option<String>,
    pub head_tree: Option<String>,
    pub files: BTreeMap<String, Vec<u8>>,
    /// Names of those objects of the refs that are commits.
    pub commits: BTreeSet<String>,
    /// The tree of git's `AUTO_MERGE`, which nothing else holds.
    pub auto_merge: Option<String>,
}

impl Capture<'_> {
    /// Captures everything that a checkpoint holds; `create_inner` creates a checkpoint of a
    /// repository inside of this one.
    pub fn scan(
        &self,
        snapshot: IndexSnapshot,
        again: Option<Retry>,
        create_inner: impl Fn(&CheckpointTarget) -> Result<CheckpointOutcome>,
    ) -> Result<Captured> {
        // Reading the files takes the time; the refs are read meanwhile.
        let files = || self.files(snapshot, again.is_some());
        let (known, files) = thread::both("refs", || self.known(), files);
        let known = known.context("reading the refs failed")??;
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
            left_out.push("staged content: the index is damaged".to_owned());
        }
        let branch = branch(self.repository, &self.refs)?;
        if head.is_none() {
            left_out.extend(broken_branch(self.repository, branch.as_deref()));
        }
        let nested = self.nested(&memory, seen.nested, &mut left_out, create_inner);
        left_out.sort();
        let stash = match oid("refs/stash") {
            Some(_) => stash(self.repository, &self.refs)?,
            None => Vec::new(),
        };
        let auto_merge = known
            .objects
            .get("AUTO_MERGE")
            .filter(|object| object.kind == "tree");
        Ok(Captured {
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
            commits: known
                .objects
                .into_values()
                .filter(|object| object.kind == "commit")
                .map(|object| object.oid)
                .collect(),
            newest: known.newest,
            newest_id: known.newest_id,
            files: operation::read(&self.repository.git_dir)?,
        })
    }

    /// Reads the refs.
    pub fn known(&self) -> Result<Known> {
        let (ours, of_the_worktree) = self.own_and_worktree_refs()?;
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

    /// Writes the staged content and the files on the disk as objects. With `without_memory` the
    /// memory of the last checkpoint is not used.
    pub fn files(
        &self,
        snapshot: IndexSnapshot,
        without_memory: bool,
    ) -> Result<(Memory, WorktreeScan)> {
        let worktree = Worktree::new(
            self.repository,
            self.shadow,
            &self.files,
            self.place.largest_file,
        );
        let oid_length = self.repository.settings.oid_length;
        let boot_id = current_boot_id()?;
        let rules = self.rules();
        let remembered = self.remembered().filter(|memory| {
            !without_memory
                && memory.boot_id == boot_id
                && memory.snapshot == snapshot.fingerprint
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
        // Compared with HEAD, the output of git is short.
        let head = objects::look_up(&self.refs, &["HEAD"])?.remove("HEAD");
        let head = head
            .filter(|object| object.kind == "commit")
            .map(|object| object.oid);
        self.shadow.set_head(head.as_deref())?;
        // Until the new memory is written there is none.
        remove(&self.shadow.file(MEMORY))?;
        let fingerprint = snapshot.fingerprint.clone();
        let snapshot = if without_memory || snapshot.fingerprint.is_some() {
            IndexSnapshot::open(self.repository)?
        } else {
            snapshot
        };
        let scan = Scan::run(
            snapshot,
            self.shadow,
            self.repository,
            head.as_deref(),
            &self.files,
        )?;
        let staged = Staged::write(&scan, self.shadow, &self.files, oid_length)?;
        worktree.settle(&scan)?;
        let seen = worktree.capture(Some(&scan))?;
        let text = |path: &Vec<u8>| String::from_utf8(path.clone()).ok();
        Ok((
            Memory {
                version: 1,
                boot_id,
                work_tree: self.repository.work_tree.to_string_lossy().into_owned(),
                snapshot: fingerprint,
                rules,
                staged,
                lost: scan.lost,
                worktree: seen.tree.clone().context("no tree was written")?,
                gitlinks: scan.gitlinks.iter().filter_map(text).collect(),
            },
            seen,
        ))
    }

    pub fn remembered(&self) -> Option<Memory> {
        let bytes = fs::read(self.shadow.file(MEMORY)).ok()?;
        let memory: Memory = serde_json::from_slice(&bytes).ok()?;
        let is_here = Path::new(&memory.work_tree) == self.repository.work_tree;
        (is_here && memory.version == 1).then_some(memory)
    }

    /// Returns, as text, the settings outside of the workspace that may change conversions.
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

    /// Creates checkpoints of the repositories inside of this one.
    fn nested(
        &self,
        memory: &Memory,
        untracked: Vec<Vec<u8>>,
        left_out: &mut Vec<String>,
        create_inner: impl Fn(&CheckpointTarget) -> Result<CheckpointOutcome>,
    ) -> Vec<Nested> {
        let mut paths: BTreeSet<String> = memory.gitlinks.iter().cloned().collect();
        for path in untracked {
            match String::from_utf8(path) {
                Ok(path) => _ = paths.insert(path),
                Err(error) => left_out.push(format!(
                    "{}: a repository whose name is not UTF-8",
                    String::from_utf8_lossy(error.as_bytes())
                )),
            }
        }
        let mut nested = Vec::new();
        for path in paths {
            let outcome = inner(self.place, &self.repository.work_tree, &path).and_then(|place| {
                let outcome = create_inner(&place)?;
                Ok((place, outcome))
            });
            let (place, id) = match outcome {
                Ok((place, CheckpointOutcome::Taken(checkpoint))) => (place, Some(checkpoint.id)),
                Ok((place, CheckpointOutcome::Unchanged(id))) => (place, id),
                // A submodule that is not checked out.
                Ok((_, CheckpointOutcome::NotGit)) => continue,
                Err(error) => {
                    left_out.push(format!("{path}: nested repository: {error:#}"));
                    continue;
                }
            };
            let git_dir = Repository::find(&place.workspace, self.files.until())
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

    /// Returns spotkeep's checkpoints (id and commit, oldest first), and the refs of this worktree
    /// alone.
    fn own_and_worktree_refs(&self) -> Result<(Vec<OwnRef>, BTreeMap<String, String>)> {
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

/// The state of the refs.
pub(super) struct Known {
    pub objects: HashMap<String, Object>,
    pub newest: Option<Kept>,
    pub newest_id: Option<String>,
    pub of_the_worktree: BTreeMap<String, String>,
}

/// Returns the full name of the branch that HEAD is on; `None` where HEAD is detached.
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

/// Returns a message on a branch file that exists and cannot be read, which git takes for a branch
/// without commits.
fn broken_branch(repository: &Repository, branch: Option<&str>) -> Option<String> {
    let branch = branch?;
    repository
        .common_dir
        .join(branch)
        .is_file()
        .then(|| format!("HEAD: {branch} is damaged"))
}

/// Returns all entries of the stash, newest first.
pub(super) fn stash(repository: &Repository, git: &Git) -> Result<Vec<Stashed>> {
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
    // This reads a reflog in a reftable as well. Signatures are not needed. Empty output: the last
    // entry was removed just now.
    let show = [
        "reflog",
        "show",
        "--no-show-signature",
        "--format=%H %gs",
        "refs/stash",
        "--",
    ];
    let answer = git.ask(&show, Vec::new())?.stdout;
    for line in String::from_utf8_lossy(&answer).lines() {
        if let Some((commit, message)) = line.split_once(' ') {
            entries.push(Stashed {
                commit: commit.to_owned(),
                message: message.to_owned(),
            });
        }
    }
    Ok(entries)
}
