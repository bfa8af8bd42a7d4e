//! Writes a captured state as a commit and a ref that holds it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use super::capture::index::{INDEX_INFO, MEMORY, SCRATCH, line, remove};
use super::capture::operation;
use super::capture::{Captured, Memory};
use super::context::Capture;
use super::message::{self, State};
use super::{Checkpoint, CheckpointOutcome, id};
use crate::git::FLUSH;
use crate::git::objects::{self, Object};
use sys::error::{Context as _, Result, bail, ensure};
use sys::failpoint::{Point, point};
use sys::files::{sync_dir, sync_file, sync_filesystem};
use sys::time::Timestamp;

/// Time after which the kernel has written a file to the disk: 30 s by default, and as much again
/// to spare.
const WRITTEN_BACK: Duration = Duration::from_secs(60);
/// Largest number of files that are synced one by one; above it, the whole file system is synced.
const SYNCED_ONE_BY_ONE: usize = 32;

impl Capture<'_> {
    /// Writes the captured state as a commit and a ref, unless the newest checkpoint has the same
    /// content.
    pub fn keep(&self, found: Captured) -> Result<CheckpointOutcome> {
        let Captured {
            memory,
            state,
            newest,
            newest_id,
            head_tree,
            files,
            commits,
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
            return Ok(CheckpointOutcome::Unchanged(None));
        }
        let tree = self.top(&memory, &files, auto_merge.as_deref())?;
        if let Some(newest) = &newest
            && newest.tree == tree
            && newest.state == state
        {
            self.remember(&memory)?;
            return Ok(CheckpointOutcome::Unchanged(Some(
                newest.checkpoint.id.clone(),
            )));
        }
        self.verify(&memory, &tree, head_tree.as_deref())?;
        point(Point::CheckpointLooked);
        let parents = self.parents(&state, &files, &commits)?;
        self.settle_history(&parents)?;
        let at = Timestamp::now();
        let id = id::after(newest_id.as_deref(), at);
        let text = message::write(&id, at, self.trigger, &state)?;
        let mut arguments = FLUSH.to_vec();
        arguments.extend(["commit-tree", &tree]);
        for parent in &parents {
            arguments.extend(["-p", parent]);
        }
        let commit = self.files.line(&arguments, text.into_bytes())?;
        point(Point::CheckpointCommitted);
        let name = format!("{}{id}", message::prefix(&self.place.agent_id));
        let create = [
            "update-ref",
            "--no-deref",
            &name,
            &commit,
            &objects::none(oid_length),
        ];
        self.refs.run(&create, Vec::new())?;
        point(Point::CheckpointNamed);
        let is_there =
            self.repository.settings.reftable || self.repository.common_dir.join(&name).is_file();
        ensure!(is_there, "git wrote {name} to another directory");
        self.sync_refs(newest_id.is_none())?;
        self.remember(&memory)?;
        Ok(CheckpointOutcome::Taken(Checkpoint {
            id,
            commit,
            at,
            trigger: self.trigger,
            left_out: state.left_out,
            head: state.head,
            nested: state.nested,
        }))
    }

    /// Makes the new ref durable. git syncs the ref's file, but not the directory that names it: a
    /// power cut within the next seconds would remove the checkpoint again. (measured on ext4)
    fn sync_refs(&self, is_first: bool) -> Result<()> {
        let common = &self.repository.common_dir;
        let ours = message::prefix(&self.place.agent_id);
        let mut names = vec!["reftable", ours.as_str()];
        if is_first {
            names.extend(["refs/spotkeep", "refs"]);
        }
        for path in names
            .iter()
            .map(|name| common.join(name))
            .filter(|path| path.is_dir())
        {
            sync_dir(&path).with_context(|| format!("cannot sync {}", path.display()))?;
        }
        Ok(())
    }

    /// Writes the commit's tree.
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
            .into_iter()
            .filter_map(|(name, tree)| Some((name, tree?)));
        objects::write_tree(&self.files, &entries.collect::<Vec<_>>())
    }

    fn meta(&self, memory: &Memory, files: &BTreeMap<String, Vec<u8>>) -> Result<Option<String>> {
        let mut lines = Vec::new();
        if let Some(blob) = &memory.staged.entries {
            lines.extend(line(0o100_644, blob, 0, b"entries"));
        }
        if !files.is_empty() {
            let contents: Vec<&[u8]> = files.values().map(Vec::as_slice).collect();
            let blobs = objects::write(&self.files, &self.shadow.file("blobs"), &contents)?;
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
        remove(&self.shadow.file(SCRATCH))?;
        let scratch = self.files.on_index(&self.shadow.file(SCRATCH));
        scratch.run(&INDEX_INFO, lines)?;
        scratch.line(&["write-tree"], Vec::new()).map(Some)
    }

    /// Checks every object that HEAD does not hold: one that is missing, or was emptied by a power
    /// cut and is taken for present, would make the checkpoint impossible to restore.
    fn verify(&self, memory: &Memory, tree: &str, head_tree: Option<&str>) -> Result<()> {
        let from =
            head_tree.unwrap_or_else(|| objects::empty_tree(self.repository.settings.oid_length));
        let staged = self.new_in(from, &memory.staged.tree)?;
        let mut names = self.new_in(from, &memory.worktree)?;
        names.extend(staged.iter().cloned());
        names.insert(tree.to_owned());
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
            // An empty file is not an object, and git takes it for one that exists.
            for name in &bad {
                let path = self.shadow.objects.join(&name[..2]).join(&name[2..]);
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
        self.settle(&staged)
    }

    /// Returns the objects that the tree `to` has and `from` has not.
    fn new_in(&self, from: &str, to: &str) -> Result<BTreeSet<String>> {
        if from == to {
            return Ok(BTreeSet::new());
        }
        let raw = [
            "diff-tree",
            "-r",
            "-t",
            "-z",
            "--raw",
            "--no-renames",
            from,
            to,
        ];
        let answer = self.files.run(&raw, Vec::new())?;
        let mut names = BTreeSet::from([to.to_owned()]);
        // `:100644 100755 <old> <new> M`, and the path in the next field.
        for head in answer.split(|byte| *byte == 0).step_by(2) {
            let head = String::from_utf8_lossy(head);
            let words: Vec<&str> = head.split(' ').collect();
            if let [_, mode, _, new, _] = words[..]
                && !matches!(mode, "000000" | "160000")
            {
                names.insert(new.to_owned());
            }
        }
        Ok(names)
    }

    /// Makes durable what the agent's own git has staged just now: by default git syncs no loose
    /// object, and spotkeep's git does not write an existing object again. Older objects have been
    /// written back by the kernel already.
    fn settle(&self, names: &BTreeSet<String>) -> Result<()> {
        let path = |name: &String| self.shadow.objects.join(&name[..2]).join(&name[2..]);
        let is_new = |path: &PathBuf| {
            let modified = fs::metadata(path).and_then(|found| found.modified());
            // An object in a pack is as durable as the pack.
            modified.is_ok_and(|modified| modified.elapsed().map_or(true, |age| age < WRITTEN_BACK))
        };
        let paths: Vec<PathBuf> = names.iter().map(path).filter(is_new).collect();
        if paths.len() > SYNCED_ONE_BY_ONE {
            return sync_filesystem(&self.shadow.objects).context("cannot sync the objects");
        }
        for path in paths {
            sync_file(&path).with_context(|| format!("cannot sync {}", path.display()))?;
        }
        Ok(())
    }

    /// Makes the agent's own newest commits durable, and everything that they hold: git does not
    /// sync these either, and a checkpoint whose parent a power cut has removed is incomplete.
    fn settle_history(&self, parents: &[String]) -> Result<()> {
        let is_new = |name: &String| {
            let path = self.shadow.objects.join(&name[..2]).join(&name[2..]);
            let modified = fs::metadata(path).and_then(|found| found.modified());
            modified.is_ok_and(|modified| modified.elapsed().map_or(true, |age| age < WRITTEN_BACK))
        };
        if parents.iter().any(is_new) {
            sync_filesystem(&self.shadow.objects).context("cannot sync the objects")?;
        }
        Ok(())
    }

    /// Returns HEAD and all other commits that must not be collected as garbage while the
    /// checkpoint exists.
    fn parents(
        &self,
        state: &State,
        files: &BTreeMap<String, Vec<u8>>,
        commits: &BTreeSet<String>,
    ) -> Result<Vec<String>> {
        let mut names: Vec<String> = state.head.commit.iter().cloned().collect();
        names.extend(state.refs.values().cloned());
        names.extend(operation::mentioned(files));
        names.extend(state.stash.iter().map(|stashed| stashed.commit.clone()));
        let unknown: Vec<&String> = names
            .iter()
            .filter(|name| !commits.contains(*name))
            .collect();
        let known = objects::look_up(&self.files, &unknown)?;
        let mut seen = BTreeSet::new();
        names.retain(|name| {
            let is_commit = known
                .get(name)
                .is_some_and(|object| object.kind == "commit");
            (is_commit || commits.contains(name)) && seen.insert(name.clone())
        });
        Ok(names)
    }

    fn remember(&self, memory: &Memory) -> Result<()> {
        if self.remembered().as_ref() == Some(memory) {
            return Ok(());
        }
        let bytes = serde_json::to_vec(memory).context("cannot write JSON")?;
        // Atomic is enough, durable is not needed: after a power cut the memory is not used.
        let path = self.shadow.file(MEMORY);
        let temporary = self.shadow.file("memory.tmp");
        let write = fs::write(&temporary, bytes).and_then(|()| fs::rename(&temporary, &path));
        write.with_context(|| format!("cannot write {}", path.display()))
    }
}
