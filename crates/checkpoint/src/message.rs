//! What a checkpoint's commit says in its message: a line for people, then JSON for us. And which
//! checkpoints there are.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Checkpoint;
use crate::git::Git;
use state::Trigger;
use sys::error::{Context as _, Result, ensure};
use sys::time::Timestamp;

/// The version of the JSON.
const VERSION: u32 = 1;

/// Where HEAD was.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The full name of the branch; null where it was detached.
    pub branch: Option<String>,
    /// The commit; null where there was none yet.
    pub commit: Option<String>,
}

impl Head {
    /// For people: the branch and the commit.
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

/// The beginning of an object's name, for people.
pub(super) fn short(oid: &str) -> &str {
    oid.get(..10).unwrap_or(oid)
}

/// An entry of the stash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stashed {
    /// The commit; a parent of the checkpoint, so that it stays.
    pub commit: String,
    /// What the stash calls it.
    pub message: String,
}

/// A repository inside of the workspace, with a checkpoint of its own, in its own repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nested {
    /// Where it is inside of the workspace.
    pub path: String,
    /// The id of its checkpoint; null where it holds nothing at all.
    pub id: Option<String>,
    /// Its git directory, relative to that of the workspace, where it lies in there: a submodule's.
    pub git_dir: Option<String>,
}

/// All that a checkpoint keeps beside its trees.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// What could not be kept, in words.
    pub left_out: Vec<String>,
    /// HEAD.
    pub head: Head,
    /// Refs that belong to this worktree alone: `ORIG_HEAD`, `CHERRY_PICK_HEAD`, `refs/bisect/bad`, ...
    pub refs: BTreeMap<String, String>,
    /// The stash, newest first.
    pub stash: Vec<Stashed>,
    /// Repositories inside of it.
    pub nested: Vec<Nested>,
    /// Whether it was a linked worktree.
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

/// A checkpoint as it was read, with all that it keeps.
#[derive(Debug, Clone)]
pub struct Kept {
    /// What everybody may know.
    pub checkpoint: Checkpoint,
    /// Its tree: `index`, `worktree`, and where there is something to say `meta` and `stages`.
    pub tree: String,
    /// The rest.
    pub state: State,
}

/// The message of a commit.
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

/// Reads a commit object.
pub fn read(commit: &str, object: &[u8]) -> Result<Kept> {
    let text = String::from_utf8_lossy(object);
    let (head, body) = text.split_once("\n\n").context("a commit without a body")?;
    let tree = head
        .lines()
        .find_map(|line| line.strip_prefix("tree "))
        .context("a commit without a tree")?;
    let json = body.lines().find(|line| line.starts_with('{'));
    let message: Message = serde_json::from_str(json.context("no JSON in it")?)
        .with_context(|| format!("{commit} is no checkpoint that this spotkeep can read"))?;
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

/// Reads the commits of refs or object names, all at once; those that are none of ours, or damaged, are
/// left out.
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

/// The prefix of an agent's refs.
pub fn prefix(agent_id: &str) -> String {
    format!("refs/spotkeep/{agent_id}/")
}
