//! What was found becomes a commit, and a ref that holds it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use super::base::{INDEX_INFO, SCRATCH, line, remove};
use super::look::{Found, Memory};
use super::message::{self, State};
use super::operation;
use super::take::Taking;
use super::{Checkpoint, Outcome, id};
use crate::error::{Context as _, Result, bail};
use crate::git::FLUSH;
use crate::git::objects::{self, Object};
use crate::time::Timestamp;

impl Taking<'_> {
    /// Makes a commit of what was found, and a ref that holds it, unless the newest checkpoint says the same.
    pub fn keep(&self, found: Found) -> Result<Outcome> {
        let Found {
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
        let parents = self.parents(&state, &files, &commits)?;
        let at = Timestamp::now();
        let id = id::after(newest_id.as_deref(), at);
        let text = message::write(&id, at, self.trigger, &state)?;
        let mut arguments = FLUSH.to_vec();
        arguments.extend(["commit-tree", &tree]);
        for parent in &parents {
            arguments.extend(["-p", parent]);
        }
        let commit = self.files.line(&arguments, text.into_bytes())?;
        let name = format!("{}{id}", message::prefix(&self.place.agent_id));
        self.refs.run(
            &[
                FLUSH[0],
                FLUSH[1],
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
        // Whole or absent is enough: after a power cut it is not believed anyway.
        let path = self.side.file("memory.json");
        let aside = self.side.file("memory.tmp");
        let write = fs::write(&aside, bytes).and_then(|()| fs::rename(&aside, &path));
        write.with_context(|| format!("cannot write {}", path.display()))
    }
}
