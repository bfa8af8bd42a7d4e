//! Checkpoint worker: a thread that has checkpoints made, pruned, packed and pushed in the
//! background.
//!
//! The [`schedule`](supervisor::checkpoint_schedule) decides when an agent's checkpoint is due; the
//! thread sleeps until then.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use checkpoint::{CheckpointOutcome, CheckpointTarget};
use state::AgentName;
use state::Trigger;
use state::config::{self, Config};
use state::layout::DataDir;
use supervisor::Activity;
use supervisor::checkpoint_schedule::Schedule;
use sys::deadline::Deadline;
use sys::error::{Context as _, Error, Result};
use sys::files;
use sys::process::{self, ProcessId};
use sys::thread;

/// The timeout of one checkpoint: a large workspace on a cold disk, read for the first time.
const LIMIT: Duration = Duration::from_secs(300);

/// How often an agent's checkpoints are pruned.
const PRUNE_EVERY: Duration = Duration::from_secs(3_600);

/// How often an agent's checkpoints are pushed, where a push is set up.
const PUSH_EVERY: Duration = Duration::from_secs(900);

/// How long after a failed checkpoint the next one is tried, even if the agent is idle.
const AGAIN: Duration = Duration::from_secs(300);

/// The timeout of a push; what it did not push is left to the next one.
const PUSH_LIMIT: Duration = Duration::from_secs(600);

/// The result of one checkpoint, for the main loop.
#[derive(Debug)]
pub struct CheckpointResult {
    /// The agent.
    pub name: AgentName,
    /// Whether the checkpoint was made.
    pub checkpoint: Result<()>,
    /// The result of the push; `None`: nothing was pushed.
    pub push: Option<Result<()>>,
}

impl CheckpointResult {
    /// Returns whether the checkpoint or the push failed.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.checkpoint.is_err() || self.push.as_ref().is_some_and(Result::is_err)
    }
}

enum WorkerCommand {
    Seen {
        name: AgentName,
        job: CheckpointJob,
        busy: bool,
    },
    Finished {
        name: AgentName,
        failed: bool,
        /// Make another checkpoint after so long, even if the agent is idle.
        again: Option<Duration>,
    },
    Pause,
    Resume,
}

/// What the worker needs to make a checkpoint of one agent.
#[derive(Debug, Clone)]
struct CheckpointJob {
    place: CheckpointTarget,
    settings: config::Checkpoint,
    every: Duration,
    process: Option<ProcessId>,
}

/// A handle to the checkpoint worker.
#[derive(Debug, Clone)]
pub struct Checkpoints {
    data_dir: DataDir,
    orders: Sender<WorkerCommand>,
}

impl Checkpoints {
    /// Starts the thread; `deliver` gets the result of each checkpoint.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn spawn(
        data_dir: DataDir,
        deliver: impl Fn(CheckpointResult) + Send + Sync + 'static,
    ) -> Result<Self> {
        let (orders, queue) = mpsc::channel();
        let worker = Worker {
            data_dir: data_dir.clone(),
            orders: orders.clone(),
            deliver: Arc::new(deliver),
            upkeep: Arc::default(),
        };
        thread::spawn("checkpoints", move || worker.run(&queue))
            .context("cannot start the checkpoint thread")?;
        Ok(Self { data_dir, orders })
    }

    /// Reports that an agent was seen busy or idle, or (without a process) has ended.
    pub fn observe(
        &self,
        config: &Config,
        record: &state::AgentRecord,
        activity: &Activity,
        process: Option<ProcessId>,
    ) {
        let every = config.agents.get(&record.name).map_or_else(
            || config::CHECKPOINT_EVERY.0,
            |agent| config.checkpoint_every(agent),
        );
        let job = CheckpointJob {
            place: CheckpointTarget::from_record(&self.data_dir, &config.checkpoint, record),
            settings: config.checkpoint.clone(),
            every,
            process,
        };
        self.order(WorkerCommand::Seen {
            name: record.name.clone(),
            job,
            busy: *activity == Activity::Busy,
        });
    }

    /// Pauses the worker: a save begins, or the data directory is missing.
    pub fn pause(&self) {
        self.order(WorkerCommand::Pause);
    }

    /// Resumes the worker: the save has ended, or the data directory is back.
    pub fn resume(&self) {
        self.order(WorkerCommand::Resume);
    }

    fn order(&self, order: WorkerCommand) {
        // The thread ends only with the process.
        self.orders.send(order).ok();
    }
}

/// When an agent's checkpoints were last pruned and pushed.
#[derive(Debug, Default, Clone, Copy)]
struct Upkeep {
    pruned: Option<Instant>,
    pushed: Option<Instant>,
    /// Whether there are new checkpoints since the last push.
    unpushed: bool,
}

#[derive(Clone)]
struct Worker {
    data_dir: DataDir,
    orders: Sender<WorkerCommand>,
    deliver: Arc<dyn Fn(CheckpointResult) + Send + Sync>,
    upkeep: Arc<Mutex<BTreeMap<AgentName, Upkeep>>>,
}

impl Worker {
    fn run(self, queue: &Receiver<WorkerCommand>) {
        let mut schedule = Schedule::default();
        let mut jobs: BTreeMap<AgentName, CheckpointJob> = BTreeMap::new();
        loop {
            let order = match schedule.wakeup() {
                None => queue.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(at) => queue.recv_timeout(at.saturating_duration_since(Instant::now())),
            };
            let now = Instant::now();
            match order {
                Ok(WorkerCommand::Seen { name, job, busy }) => {
                    if busy {
                        schedule.busy(now, &name, job.every);
                    } else {
                        schedule.rests(now, &name, job.every);
                    }
                    jobs.insert(name, job);
                }
                Ok(WorkerCommand::Finished {
                    name,
                    failed,
                    again,
                }) => schedule.done(now, &name, failed, again),
                Ok(WorkerCommand::Pause) => schedule.pause(),
                Ok(WorkerCommand::Resume) => schedule.resume(now),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            while let Some((name, trigger)) = schedule.next(now) {
                if let Some(job) = jobs.get(&name).cloned() {
                    self.start(name, job, trigger);
                }
            }
        }
    }

    fn start(&self, name: AgentName, job: CheckpointJob, trigger: Trigger) {
        let (worker, of) = (self.clone(), name.clone());
        let spawned = thread::spawn("checkpoint", move || {
            let made = worker.make(&of, &job, trigger);
            let again = worker.again(&job, &made);
            let finished = WorkerCommand::Finished {
                name: of,
                failed: made.checkpoint.is_err(),
                again,
            };
            (worker.deliver)(made);
            worker.orders.send(finished).ok();
        });
        if let Err(error) = spawned {
            tracing::error!("cannot start a checkpoint: {error}");
            self.orders
                .send(WorkerCommand::Finished {
                    name,
                    failed: true,
                    again: Some(AGAIN),
                })
                .ok();
        }
    }

    fn make(&self, name: &AgentName, job: &CheckpointJob, trigger: Trigger) -> CheckpointResult {
        let deadline = Deadline::after(LIMIT);
        let kept = checkpoint::keep(&self.data_dir, &job.place, trigger, deadline);
        let mut upkeep = self.upkeep_of(name);
        let is_new = matches!(kept, Ok(CheckpointOutcome::Taken(_)));
        upkeep.unpushed |= is_new;
        let now = Instant::now();
        let is_due = |last: Option<Instant>, every| {
            last.is_none_or(|last| now.saturating_duration_since(last) >= every)
        };
        let mut checkpoint = kept.map(|_| ());
        if is_new && is_due(upkeep.pruned, PRUNE_EVERY) {
            upkeep.pruned = Some(now);
            let at_rest = trigger == Trigger::TurnEnded;
            let pruned = checkpoint::prune(&job.place, &job.settings.keep, at_rest, deadline);
            let pruned = pruned.map(|_| ()).context("cannot prune checkpoints");
            checkpoint = checkpoint.and(pruned);
        }
        let mut push = None;
        if let Some(remote) = &job.settings.push
            && upkeep.unpushed
            && is_due(upkeep.pushed, PUSH_EVERY)
        {
            upkeep.pushed = Some(now);
            let pushed = checkpoint::push(&job.place, remote, Deadline::after(PUSH_LIMIT));
            upkeep.unpushed = pushed.is_err();
            push = Some(pushed);
        }
        self.upkeep().insert(name.clone(), upkeep);
        CheckpointResult {
            name: name.clone(),
            checkpoint: checkpoint.map_err(|error| name_a_full_disk(error, &job.place.workspace)),
            push,
        }
    }

    fn again(&self, job: &CheckpointJob, made: &CheckpointResult) -> Option<Duration> {
        let upkeep = self.upkeep_of(&made.name);
        let since = upkeep.pushed.map_or(PUSH_EVERY, |pushed| pushed.elapsed());
        let push = (job.settings.push.is_some() && upkeep.unpushed)
            .then(|| PUSH_EVERY.saturating_sub(since));
        let shells = job.process.is_some_and(has_shells).then_some(job.every);
        let failed = made.checkpoint.is_err().then_some(AGAIN);
        [push, shells, failed].into_iter().flatten().min()
    }

    fn upkeep_of(&self, name: &AgentName) -> Upkeep {
        self.upkeep().get(name).copied().unwrap_or_default()
    }

    fn upkeep(&self) -> std::sync::MutexGuard<'_, BTreeMap<AgentName, Upkeep>> {
        self.upkeep.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns whether Claude Code runs a shell in the background. Its Bash tools run in separate
/// sessions; its tool servers share its own session.
fn has_shells(claude: ProcessId) -> bool {
    let Some(own) = process::session_of(claude.pid) else {
        return false;
    };
    let Ok(threads) = fs::read_dir(format!("/proc/{}/task", claude.pid)) else {
        return false;
    };
    let children = threads.filter_map(|thread| {
        let path = thread.ok()?.path().join("children");
        fs::read_to_string(path).ok()
    });
    let mut pids = children.flat_map(|text| {
        let pids = text.split_whitespace().filter_map(|pid| pid.parse().ok());
        pids.collect::<Vec<i32>>()
    });
    pids.any(|pid| process::session_of(pid).is_some_and(|session| session != own))
}

/// Free bytes below which git cannot write a checkpoint.
const FULL: u64 = 128 << 10;

/// Adds the cause to an error when the disk is full. git does not always name the cause: for a ref
/// it says only that it could not write it.
fn name_a_full_disk(error: Error, workspace: &Path) -> Error {
    let is_full = files::free_bytes(workspace).is_ok_and(|free| free < FULL);
    match is_full && !format!("{error:#}").contains("No space left") {
        true => error.context("No space left on the disk"),
        false => error,
    }
}
