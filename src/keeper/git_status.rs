//! Git status thread: counts uncommitted changes, so that a status request need not wait for git.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, PoisonError};

use checkpoint::workspace;
use state::layout::DataDir;
use state::{AgentName, AgentRecord};
use sys::error::{Context as _, Result};
use sys::thread;

/// The last counts of uncommitted changes, and a handle to the thread.
#[derive(Debug, Clone, Default)]
pub struct DirtyCounts {
    counts: Arc<Mutex<BTreeMap<AgentName, u64>>>,
    jobs: Option<Sender<StatusJob>>,
}

/// A workspace to count.
#[derive(Debug)]
struct StatusJob {
    name: AgentName,
    workspace: PathBuf,
    shadow_dir: PathBuf,
}

impl DirtyCounts {
    /// Starts the thread.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn spawn() -> Result<Self> {
        let counts: Arc<Mutex<BTreeMap<AgentName, u64>>> = Arc::default();
        let (jobs, queue) = mpsc::channel::<StatusJob>();
        let results = Arc::clone(&counts);
        thread::spawn("git-status", move || {
            for job in queue {
                if let Some(count) = count(&job) {
                    results
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .insert(job.name, count);
                }
            }
        })
        .context("cannot start the git status thread")?;
        Ok(Self {
            counts,
            jobs: Some(jobs),
        })
    }

    /// Queues another count of an agent's workspace.
    pub fn count(&self, data_dir: &DataDir, record: &AgentRecord) {
        if let Some(jobs) = &self.jobs {
            let job = StatusJob {
                name: record.name.clone(),
                workspace: data_dir.absolute(&record.cwd),
                shadow_dir: data_dir.checkpoints(&record.agent_id).join("survey"),
            };
            jobs.send(job).ok();
        }
    }

    /// Returns the last count of an agent's workspace.
    #[must_use]
    pub fn dirty(&self, name: &AgentName) -> Option<u64> {
        self.counts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(name)
            .copied()
    }
}

/// Counts the files with uncommitted changes; `None` where the workspace is not in a git
/// repository.
fn count(job: &StatusJob) -> Option<u64> {
    let arguments = ["--porcelain", "-z", "--no-renames"];
    let changes = workspace::status(&job.workspace, &job.shadow_dir, &arguments)?;
    u64::try_from(changes.split_terminator('\0').count()).ok()
}
