//! The thread that launches agents, one after the other, and the launch gate that a notice closes.

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

/// Whether launches may still happen. A notice closes it, and its save waits for the launch under way, so
/// that none slips through between the notice and the save.
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
    /// Closes it: no launch begins from now on.
    pub fn close(&self) {
        self.lock().closed = true;
    }

    /// Returns when no launch is under way, or after `limit` all the same.
    pub fn wait_until_empty(&self, limit: Duration) {
        let wait = self
            .changed
            .wait_timeout_while(self.lock(), limit, |state| state.launching);
        drop(wait.unwrap_or_else(PoisonError::into_inner));
    }

    /// Whether a save has closed it.
    pub fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Opens it again, after a boot that was said to end went on.
    pub fn open(&self) {
        self.lock().closed = false;
    }

    /// Runs `launch`, unless the launch gate is closed.
    fn pass<T>(&self, launch: impl FnOnce() -> T) -> Option<T> {
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

/// A launch to be done.
#[derive(Debug)]
pub struct LaunchJob {
    /// Which agent.
    pub name: AgentName,
    /// Its launch number.
    pub attempt: Attempt,
    /// What is declared now.
    pub config: Arc<Config>,
}

/// What all launches have in common.
#[derive(Debug, Clone)]
pub struct Starter {
    /// The data directory.
    pub data_dir: DataDir,
    /// The boot.
    pub boot_id: String,
    /// The boot before.
    pub history: History,
    /// Our tmux server.
    pub tmux: Tmux,
    /// This very program.
    pub program: PathBuf,
    /// The records.
    pub records: Arc<AgentRecords>,
    /// Where lines of the journal go.
    pub writer: Writer,
    /// the launch gate.
    pub gate: Arc<LaunchGate>,
}

impl Starter {
    /// Starts the thread; `deliver` is told how each launch went.
    ///
    /// # Errors
    /// No thread can be had.
    pub fn spawn(self, deliver: impl Fn(Event) + Send + 'static) -> Result<Sender<LaunchJob>> {
        let (jobs, queue): (_, Receiver<LaunchJob>) = mpsc::channel();
        thread::spawn("starter", move || {
            for job in queue {
                let closed = || Refusal {
                    why: NOTICED.to_owned(),
                    retry: true,
                };
                let launched = self.gate.pass(|| self.launch_on_data_dir(&job));
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
        .context("cannot start the starter thread")?;
        Ok(jobs)
    }

    /// A data directory that goes away meanwhile makes everything look missing, and nothing is, for good.
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
            // It runs already, and no keeper knew of it.
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
                "memory_max = \"{limit}\" has no effect: it takes spotkeep-tmux.service and cgroups of version 2"
            );
            self.write(Some(&job.name), &JournalEvent::Trouble { what });
        }
        point(Point::RestorePrepared);
        // Persisted before it is used: a keeper that dies here knows what it began.
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
        // The disk may have taken its time, and a save that began meanwhile did not wait for it.
        if self.gate.is_closed() {
            return Err(anyhow!(NOTICED).into());
        }
        let process = resume::run(&context, &job.name, &plan)?;
        point(Point::RestoreLaunched);
        // It runs, whatever the disk says: it has to be followed, and what was refused is written again.
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

const NOTICED: &str = "this boot has had its notice";

#[cfg(test)]
mod tests {
    use super::*;
    use testing::wait::FOREVER;

    #[test]
    fn nothing_passes_a_closed_door_and_closing_waits_for_who_is_inside() {
        let gate = Arc::new(LaunchGate::default());
        let (inside, entered) = mpsc::channel();
        let (leave, may_leave) = mpsc::channel::<()>();
        let passing = Arc::clone(&gate);
        let launch = std::thread::spawn(move || {
            passing.pass(|| {
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
        assert!(gate.pass(|| ()).is_none());
        gate.open();
        assert!(gate.pass(|| ()).is_some());
    }
}
