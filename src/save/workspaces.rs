//! Checkpoints of workspaces in a save, after *safe* and until the deadline.
//!
//! The files are on the disk already. Now the uncommitted work becomes checkpoints too, that of the
//! most recently active agent first.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use super::Subject;
use checkpoint::{CheckpointOutcome, CheckpointTarget};
use claude::TranscriptLookup;
use state::Trigger;
use state::config::{self, Remote};
use state::layout::DataDir;
use state::{Manifest, WorkspaceSaved};
use sys::deadline::Deadline;
use sys::thread;
use sys::time_limit::within;

/// How long the last steps may take after the deadline has passed.
const PASSED: Duration = Duration::from_millis(500);

/// Makes a checkpoint of every workspace; returns the results in the order of `agents`.
pub(super) fn keep(
    data_dir: &DataDir,
    settings: &config::Checkpoint,
    agents: &[Subject],
    deadline: Deadline,
) -> Vec<WorkspaceSaved> {
    let rows: Vec<WorkspaceSaved> = agents.iter().map(|_| late()).collect();
    let saved = Arc::new(Mutex::new(rows));
    let (data_dir, settings, agents) = (data_dir.clone(), settings.clone(), agents.to_vec());
    let done = Arc::clone(&saved);
    let work = move || {
        let order = most_recently_active_first(&data_dir.claude(), &agents);
        in_parallel(&order, |index| {
            if deadline.has_passed() {
                return;
            }
            let place = CheckpointTarget::from_record(&data_dir, &settings, &agents[index].record);
            let result = checkpoint::keep(&data_dir, &place, Trigger::Save, deadline);
            let row = describe(result);
            done.lock().unwrap_or_else(PoisonError::into_inner)[index] = row;
        });
    };
    // git gets the deadline; a thread that reads a disk that hangs is left behind a moment later.
    within(deadline.max(Deadline::after(PASSED)), work);
    let rows = saved.lock().unwrap_or_else(PoisonError::into_inner);
    rows.clone()
}

/// Pushes the checkpoints, while time is left.
pub(super) fn push(
    data_dir: &DataDir,
    settings: &config::Checkpoint,
    remote: &Remote,
    agents: &[Subject],
    deadline: Deadline,
    manifest: &mut Manifest,
) {
    let order: Vec<usize> = most_recently_active_first(&data_dir.claude(), agents)
        .into_iter()
        .filter(|index| {
            let private = data_dir.checkpoints(&agents[*index].record.agent_id);
            checkpoint::last(&private).is_some()
        })
        .collect();
    let words: Mutex<Vec<(usize, String)>> = Mutex::default();
    in_parallel(&order, |index| {
        let place = CheckpointTarget::from_record(data_dir, settings, &agents[index].record);
        let said = match checkpoint::push(&place, remote, deadline) {
            Ok(()) => "; pushed".to_owned(),
            Err(error) => format!("; not pushed: {error:#}"),
        };
        let mut words = words.lock().unwrap_or_else(PoisonError::into_inner);
        words.push((index, said));
    });
    for (index, said) in words.into_inner().unwrap_or_else(PoisonError::into_inner) {
        if let Some(row) = manifest.agents.get_mut(index) {
            row.workspace.note.push_str(&said);
        }
    }
}

/// Runs `work` on one thread per core, each taking the next index of `order`. git gets the time
/// left until the deadline, so every thread returns.
fn in_parallel(order: &[usize], work: impl Fn(usize) + Sync) {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicUsize::new(0);
    let workers = vec![(); cores.min(order.len())];
    thread::for_all("save-workspaces", &workers, |()| {
        while let Some(index) = order.get(next.fetch_add(1, Ordering::SeqCst)) {
            work(*index);
        }
    });
}

/// Returns the indices of the agents, the most recently active one first.
fn most_recently_active_first(config_dir: &Path, agents: &[Subject]) -> Vec<usize> {
    let active_at = |subject: &Subject| match claude::locate(config_dir, &subject.record.session_id)
    {
        TranscriptLookup::Present(path) => std::fs::metadata(path)
            .and_then(|meta| meta.modified())
            .ok(),
        _ => None,
    };
    let mut order: Vec<(Option<SystemTime>, usize)> = agents
        .iter()
        .enumerate()
        .map(|(index, subject)| (active_at(subject), index))
        .collect();
    order.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
    order.into_iter().map(|(_, index)| index).collect()
}

fn describe(result: sys::error::Result<CheckpointOutcome>) -> WorkspaceSaved {
    let (checkpoint, note) = match result {
        Ok(CheckpointOutcome::Taken(taken)) => {
            let note = match taken.left_out.len() {
                0 => "checkpoint made".to_owned(),
                count => format!(
                    "checkpoint made, without {count} files: {}",
                    taken.left_out.join("; ")
                ),
            };
            (Some(taken.id), note)
        }
        Ok(CheckpointOutcome::Unchanged(Some(id))) => {
            (Some(id), "unchanged since this checkpoint".into())
        }
        Ok(CheckpointOutcome::Unchanged(None)) => (None, "there is nothing to keep yet".into()),
        Ok(CheckpointOutcome::NotGit) => (
            None,
            "not in a git repository, so no checkpoint; its files are on the disk".into(),
        ),
        Err(error) => (
            None,
            format!("left as it is on the disk; no checkpoint: {error:#}"),
        ),
    };
    WorkspaceSaved { checkpoint, note }
}

/// Returns the manifest's entry of a workspace without a checkpoint so far.
pub(super) fn untouched() -> WorkspaceSaved {
    WorkspaceSaved {
        checkpoint: None,
        note: "left as it is on the disk; no checkpoint was made yet".into(),
    }
}

fn late() -> WorkspaceSaved {
    WorkspaceSaved {
        checkpoint: None,
        note: "left as it is on the disk; there was no time for a checkpoint".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use state::{AgentName, AgentRecord};

    #[test]
    fn the_most_recently_active_agent_comes_first_and_one_without_a_transcript_last() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("projects/-w");
        std::fs::create_dir_all(&folder).unwrap();
        let agents: Vec<Subject> = ["silent", "early", "late"]
            .iter()
            .map(|name| Subject {
                record: AgentRecord::new(AgentName::new(name).unwrap(), "w".into()),
                process: None,
            })
            .collect();
        for (index, age) in [(1, 100), (2, 1)] {
            let path = folder.join(format!("{}.jsonl", agents[index].record.session_id));
            let words = r#"{"type":"user","uuid":"1","message":{"role":"user","content":"hi"}}"#;
            std::fs::write(&path, format!("{words}\n")).unwrap();
            let at = SystemTime::now() - std::time::Duration::from_secs(age);
            let file = std::fs::File::options().append(true).open(&path).unwrap();
            file.set_modified(at).unwrap();
        }
        assert_eq!(most_recently_active_first(dir.path(), &agents), [2, 1, 0]);
    }
}
