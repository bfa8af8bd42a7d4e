//! The thread that counts uncommitted changes, so that nobody who asks has to wait for git.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::{Context as _, Result};
use crate::state::AgentName;
use crate::workspace;

/// The last counts.
#[derive(Debug, Clone, Default)]
pub struct Survey {
    counts: Arc<Mutex<BTreeMap<AgentName, u64>>>,
    jobs: Option<Sender<(AgentName, PathBuf)>>,
}

impl Survey {
    /// Starts the thread.
    ///
    /// # Errors
    /// No thread can be had.
    pub fn spawn() -> Result<Self> {
        let counts: Arc<Mutex<BTreeMap<AgentName, u64>>> = Arc::default();
        let (jobs, queue) = mpsc::channel::<(AgentName, PathBuf)>();
        let results = Arc::clone(&counts);
        std::thread::Builder::new()
            .name("survey".into())
            .spawn(move || {
                for (name, workspace) in queue {
                    if let Some(count) = count(&workspace) {
                        results
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .insert(name, count);
                    }
                }
            })
            .context("cannot start the survey thread")?;
        Ok(Self {
            counts,
            jobs: Some(jobs),
        })
    }

    /// Counts a workspace again, soon.
    pub fn look(&self, name: AgentName, workspace: PathBuf) {
        if let Some(jobs) = &self.jobs {
            jobs.send((name, workspace)).ok();
        }
    }

    /// The last count of an agent's workspace.
    #[must_use]
    pub fn dirty(&self, name: &AgentName) -> Option<u64> {
        self.counts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(name)
            .copied()
    }
}

/// Files with uncommitted changes; `None` where this is no git workspace.
fn count(workspace: &Path) -> Option<u64> {
    let changes = workspace::status(workspace, &["--porcelain", "-z", "--no-renames"])?;
    u64::try_from(changes.split_terminator('\0').count()).ok()
}
