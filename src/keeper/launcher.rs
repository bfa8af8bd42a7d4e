//! Launcher: a thread that launches agents one after another, behind a gate that a notice closes.

use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::records::AgentRecords;
use super::writer::Writer;
use crate::agent::terminate;
use crate::resume::{self, History, LaunchContext, Refused};
use crate::systemd::cgroup::Leaf;
use crate::tmux::Tmux;
use state::config::Config;
use state::layout::DataDir;
use state::{AgentName, JournalEvent, StartKind};
use supervisor::{Attempt, Event, Refusal};
use sys::error::{Context as _, Result, anyhow};
use sys::failpoint::{Point, point};
use sys::process::ProcessId;
use sys::thread;

/// The launch gate: whether launches are still allowed. A notice closes it, and the save waits for
/// the launch under way, so that no launch happens between the notice and the save.
#[derive(Debug, Default)]
pub struct LaunchGate {
    state: Mutex<GateState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct GateState {
    closed: bool,
    launching: bool,
}

impl LaunchGate {
    /// Closes the gate: no launch begins from now on.
    pub fn close(&self) {
        self.lock().closed = true;
    }

    /// Returns when no launch is under way, or after `limit`.
    pub fn wait_until_empty(&self, limit: Duration) {
        let wait = self
            .changed
            .wait_timeout_while(self.lock(), limit, |state| state.launching);
        drop(wait.unwrap_or_else(PoisonError::into_inner));
    }

    /// Returns whether a save has closed the gate.
    pub fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Opens the gate again: the boot goes on after its notice.
    pub fn open(&self) {
        self.lock().closed = false;
    }

    /// Runs `launch`, unless the gate is closed.
    fn run_if_open<T>(&self, launch: impl FnOnce() -> T) -> Option<T> {
        let mut state = self.lock();
        if state.closed {
            return None;
        }
        state.launching = true;
        drop(state);
        let result = launch();
        self.lock().launching = false;
        self.changed.notify_all();
        Some(result)
    }

    fn lock(&self) -> MutexGuard<'_, GateState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A launch to do.
#[derive(Debug)]
pub struct LaunchJob {
    /// The agent.
    pub name: AgentName,
    /// The number of the launch.
    pub attempt: Attempt,
    /// The configuration now.
    pub config: Arc<Config>,
}

/// What all launches have in common.
#[derive(Debug, Clone)]
pub struct Launcher {
    /// The data directory.
    pub data_dir: DataDir,
    /// The boot's id.
    pub boot_id: String,
    /// How the boot before ended.
    pub history: History,
    /// The tmux server.
    pub tmux: Tmux,
    /// The path of this program.
    pub program: PathBuf,
    /// The records.
    pub records: Arc<AgentRecords>,
    /// The writer of the journal.
    pub writer: Writer,
    /// The launch gate.
    pub gate: Arc<LaunchGate>,
}

impl Launcher {
    /// Starts the thread; `deliver` gets the result of each launch as an event.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn spawn(self, deliver: impl Fn(Event) + Send + 'static) -> Result<Sender<LaunchJob>> {
        let (jobs, queue): (_, Receiver<LaunchJob>) = mpsc::channel();
        thread::spawn("launcher", move || {
            for job in queue {
                let closed = || Refusal {
                    why: NOTICED.to_owned(),
                    retry: true,
                };
                let launched = self.gate.run_if_open(|| self.launch_on_data_dir(&job));
                let event = match launched.unwrap_or_else(|| Err(closed())) {
                    Ok((process, how)) => Event::Launched {
                        how,
                        name: job.name,
                        attempt: job.attempt,
                        process,
                    },
                    Err(refusal) => Event::Refused {
                        name: job.name,
                        attempt: job.attempt,
                        refusal,
                    },
                };
                deliver(event);
            }
        })
        .context("cannot start the launcher thread")?;
        Ok(jobs)
    }

    /// Launches, and makes a refusal temporary while the data directory is missing: everything in
    /// it then looks lost, and is not.
    fn launch_on_data_dir(&self, job: &LaunchJob) -> Result<(ProcessId, StartKind), Refusal> {
        let there = self.data_dir.ensure_there().map_err(Refused::from);
        there
            .and_then(|()| self.launch(job))
            .map_err(|refused| Refusal {
                why: refused.to_string(),
                retry: refused.may_pass() || self.data_dir.ensure_there().is_err(),
            })
    }

    fn launch(&self, job: &LaunchJob) -> Result<(ProcessId, StartKind), Refused> {
        let record = self.records.get(&job.name).context("it has no record")?;
        let running = record.live_process(&self.boot_id);
        if let Some(process) = running.or_else(|| terminate::launched(&record, &self.boot_id)) {
            // It runs already, started by a keeper that ended before it recorded the process.
            self.records
                .update_and_wait(&job.name, |record| record.process = Some(process))?;
            return Ok((process, StartKind::Resume));
        }
        let agent = job
            .config
            .agents
            .get(&job.name)
            .context("it is not declared any more")?;
        let context = LaunchContext {
            data_dir: &self.data_dir,
            config: &job.config,
            boot_id: &self.boot_id,
            history: &self.history,
            tmux: &self.tmux,
            program: &self.program,
        };
        let prepared = resume::prepare(&context, &record, agent)?;
        for what in prepared.readied {
            self.write(Some(&job.name), &what);
        }
        for what in prepared.seeded {
            self.write(None, &JournalEvent::Repaired { what });
        }
        let plan = prepared.plan;
        let leaf = plan.launch.cgroup.as_deref();
        let can_limit = leaf.is_some_and(|dir| Leaf::open(dir).can_limit_memory());
        if let Some(limit) = job.config.memory_max_of(agent).filter(|_| !can_limit) {
            let what = format!(
                "memory_max = \"{limit}\" has no effect: it needs spotkeep-tmux.service and \
                 cgroups of version 2"
            );
            self.write(Some(&job.name), &JournalEvent::Trouble { what });
        }
        point(Point::RestorePlanned);
        // Durable before it is used, so that the next keeper knows of this launch if this one ends
        // here.
        self.records
            .update_and_wait(&job.name, |record| plan.remember(record))?;
        point(Point::RestorePersisted);
        self.write(
            Some(&job.name),
            &JournalEvent::Starting {
                session_id: plan.session_id.clone(),
                how: plan.how,
            },
        );
        point(Point::RestoreStarting);
        // The disk may have been slow, and a save that began meanwhile did not wait for it.
        if self.gate.is_closed() {
            return Err(anyhow!(NOTICED).into());
        }
        let process = resume::run(&context, &job.name, &plan)?;
        point(Point::RestoreLaunched);
        // The agent runs even if this write fails: it has to be followed, and the write is tried
        // again.
        let recorded = self
            .records
            .update_and_wait(&job.name, |record| record.process = Some(process));
        if let Err(error) = recorded {
            tracing::error!("{error:#}");
        }
        point(Point::RestoreRecorded);
        Ok((process, plan.how))
    }

    fn write(&self, name: Option<&AgentName>, what: &JournalEvent) {
        what.log(name);
        if let Err(error) = self.writer.line_and_wait(name, what) {
            tracing::error!("{error:#}");
        }
    }
}

const NOTICED: &str = "this boot has had its preemption notice";

#[cfg(test)]
mod tests {
    use super::*;
    use testing::wait::FOREVER;

    #[test]
    fn a_closed_gate_stops_launches_and_closing_waits_for_the_launch_under_way() {
        let gate = Arc::new(LaunchGate::default());
        let (inside, entered) = mpsc::channel();
        let (leave, may_leave) = mpsc::channel::<()>();
        let passing = Arc::clone(&gate);
        let launch = std::thread::spawn(move || {
            passing.run_if_open(|| {
                inside.send(()).unwrap();
                may_leave.recv().unwrap();
            })
        });
        entered.recv().unwrap();
        let closing = Arc::clone(&gate);
        closing.close();
        let closed = std::thread::spawn(move || closing.wait_until_empty(FOREVER));
        leave.send(()).unwrap();
        assert!(launch.join().unwrap().is_some());
        closed.join().unwrap();
        assert!(gate.run_if_open(|| ()).is_none());
        gate.open();
        assert!(gate.run_if_open(|| ()).is_some());
    }
}
