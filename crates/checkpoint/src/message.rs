//! The message of a checkpoint's commit: a line for people, then JSON.
//!
//! Reads and writes the messages, and lists the checkpoints of a repository.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Checkpoint;
use crate::git::Git;
use state::Trigger;
use sys::error::{Context as _, Result, ensure};
use sys::time::Timestamp;

/// Version of the JSON.
const VERSION: u32 = 1;

/// State of HEAD.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The full name of the branch; null where HEAD was detached.
    pub branch: Option<String>,
    /// The commit; null where there was none yet.
    pub commit: Option<String>,
}

impl Head {
    /// Returns the branch and the commit, for people.
    #[must_use]
    pub fn describe(&self) -> String {
        let commit = self.commit.as_deref().map_or("no commit", short);
        match &self.branch {
            Some(branch) => {
                let branch = branch.strip_prefix("refs/heads/").unwrap_or(branch);
                format!("{branch} ({commit})")
            }
            None => format!("{commit} (detached)"),
        }
    }
}

/// Returns the beginning of an object's name, for people.
pub(super) fn short(oid: &str) -> &str {
    oid.get(..10).unwrap_or(oid)
}

/// An entry of the stash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stashed {
    /// The commit; a parent of the checkpoint, so that it stays.
    pub commit: String,
    /// Its message in the stash.
    pub message: String,
}

/// A repository inside of the workspace, with its checkpoint in its own repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nested {
    /// Its path in the workspace.
    pub path: String,
    /// The id of its checkpoint; null where it is empty.
    pub id: Option<String>,
    /// Its git directory, relative to that of the workspace, where it is inside of that one: a
    /// submodule's.
    pub git_dir: Option<String>,
}

/// The state that a checkpoint holds beside its trees.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Messages on what could not be saved.
    pub left_out: Vec<String>,
    /// State of HEAD.
    pub head: Head,
    /// Refs that belong to this worktree alone: `ORIG_HEAD`, `CHERRY_PICK_HEAD`, `refs/bisect/bad`,
    /// ...
    pub refs: BTreeMap<String, String>,
    /// The stash, newest first.
    pub stash: Vec<Stashed>,
    /// Repositories inside of the workspace.
    pub nested: Vec<Nested>,
    /// Whether the workspace was a linked worktree.
    pub linked: bool,
}

#[derive(Serialize, Deserialize)]
struct Message {
    version: u32,
    id: String,
    at: Timestamp,
    trigger: Trigger,
    state: State,
}

/// A checkpoint as read, with its whole state.
#[derive(Debug, Clone)]
pub struct Kept {
    /// The public part.
    pub checkpoint: Checkpoint,
    /// Object name of its tree: `index`, `worktree`, and where needed `meta` and `stages`.
    pub tree: String,
    /// The rest of its state.
    pub state: State,
}

/// Returns the message of a checkpoint's commit.
pub fn write(id: &str, at: Timestamp, trigger: Trigger, state: &State) -> Result<String> {
    let message = Message {
        version: VERSION,
        id: id.to_owned(),
        at,
        trigger,
        state: state.clone(),
    };
    let json = serde_json::to_string(&message).context("cannot write JSON")?;
    Ok(format!(
        "spotkeep: checkpoint of {} ({})\n\n{json}\n",
        at.for_people(),
        trigger.as_str()
    ))
}

/// Reads a checkpoint from a commit object.
pub fn read(commit: &str, object: &[u8]) -> Result<Kept> {
    let text = String::from_utf8_lossy(object);
    let (head, body) = text.split_once("\n\n").context("a commit without a body")?;
    let tree = head
        .lines()
        .find_map(|line| line.strip_prefix("tree "))
        .context("a commit without a tree")?;
    let json = body.lines().find(|line| line.starts_with('{'));
    let message: Message = serde_json::from_str(json.context("no JSON in it")?)
        .with_context(|| format!("{commit} is not a checkpoint that this spotkeep can read"))?;
    ensure!(
        message.version <= VERSION,
        "{commit} was written by a newer spotkeep"
    );
    Ok(Kept {
        checkpoint: Checkpoint {
            id: message.id,
            commit: commit.to_owned(),
            at: message.at,
            trigger: message.trigger,
            left_out: message.state.left_out.clone(),
            head: message.state.head.clone(),
            nested: message.state.nested.clone(),
        },
        tree: tree.to_owned(),
        state: message.state,
    })
}

/// Reads the commits of refs or object names, all at once; those that are damaged, or are not
/// checkpoints, are left out.
pub fn read_all(git: &Git, names: &[String]) -> Result<Vec<Kept>> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let input = names
        .iter()
        .flat_map(|name| [name.as_str(), "\n"])
        .collect::<String>();
    let answer = git.run(&["cat-file", "--batch"], input.into_bytes())?;
    let mut rest = &answer[..];
    let mut kept = Vec::new();
    while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
        let line = String::from_utf8_lossy(&rest[..end]).into_owned();
        rest = &rest[end + 1..];
        let words: Vec<&str> = line.split(' ').collect();
        // `<name> missing` has no content.
        let [oid, kind, size] = words[..] else {
            continue;
        };
        let Ok(size) = size.parse::<usize>() else {
            continue;
        };
        let Some(object) = rest.get(..size) else {
            break;
        };
        rest = rest.get(size + 1..).unwrap_or_default();
        if kind == "commit"
            && let Ok(found) = read(oid, object)
        {
            kept.push(found);
        }
    }
    Ok(kept)
}

/// Returns the prefix of an agent's refs.
pub fn prefix(agent_id: &str) -> String {
    format!("refs/spotkeep/{agent_id}/")
}
