//! Effects: carries out the supervisor's actions, and sends the results back as events.

use std::collections::BTreeMap;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};

use super::checkpoint_worker::{CheckpointResult, Checkpoints};
use super::git_status::DirtyCounts;
use super::held_actions::{Held, Ticket, WriteOrder};
use super::launcher::{LaunchGate, LaunchJob};
use super::metrics::Counters;
use super::prompt_input::Typist;
use super::protocol::Reply;
use super::records::AgentRecords;
use super::session_watch::Follower;
use super::socket::ReplyTo;
use super::writer::{Answer, Writer};
use super::{Keeper, Message};
use crate::agent::terminate::{SWEEP_LIMIT, TERM_TIMEOUT, end_process, sweep};
use crate::notify::{self, Notifier};
use crate::systemd::cgroup::Leaf;
use crate::tmux::{self, Tmux};
use claude::ApiStop;
use state::config::Config;
use state::layout::DataDir;
use state::{AgentName, AgentRecord, AgentState, Journal, JournalEvent, Launch};
use supervisor::{Action, Activity, Attempt, Ending, Event, Refusal, Supervisor, View};
use sys::deadline::Deadline;
use sys::error::{Context as _, Result};
use sys::exit::Exit;
use sys::process::ProcessId;
use sys::thread;

/// The stack of a watcher thread, which only waits and asks tmux once.
const SMALL_STACK: usize = 256 << 10;

/// The result of a write.
#[derive(Debug)]
pub struct Written {
    ticket: Ticket,
    what: String,
    result: Result<()>,
}

/// What the actions need.
pub struct Effects {
    pub(super) data_dir: DataDir,
    pub(super) data_dir_id: String,
    pub(super) epoch: u64,
    pub(super) boot_id: String,
    pub(super) config: Arc<Config>,
    pub(super) tmux: Tmux,
    /// Held by a thread while it types into a pane.
    pub(super) typing: Arc<Mutex<()>>,
    pub(super) records: Arc<AgentRecords>,
    pub(super) writer: Writer,
    pub(super) order: WriteOrder,
    pub(super) gate: Arc<LaunchGate>,
    pub(super) launcher: Sender<LaunchJob>,
    pub(super) follower: Follower,
    pub(super) scan: DirtyCounts,
    pub(super) checkpoints: Checkpoints,
    /// The size of each workspace in bytes, as last measured; `None` where measuring takes too
    /// long.
    pub(super) sizes: BTreeMap<AgentName, Option<u64>>,
    pub(super) notifier: Notifier,
    pub(super) messages: Sender<Message>,
    /// Failures that last, by what failed.
    pub(super) trouble: BTreeMap<String, String>,
    /// Counters since this keeper started.
    pub(super) counters: Counters,
}

impl Effects {
    /// Carries out the supervisor's actions, in their order.
    ///
    /// Writes are ordered at once. An action behind a write is held back until the write is
    /// durable. The exception is a save: it begins at once, whatever state the disk is in.
    pub fn perform(&mut self, supervisor: &Supervisor, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Persist(name) => self.persist(supervisor, &name),
                Action::Journal(name, what) => self.write(name.as_ref(), &what),
                Action::Rebind { name, session_id } => self.update(&name, |record| {
                    let old = std::mem::replace(&mut record.session_id, session_id);
                    record.past_sessions.push(old);
                    // The new session's transcript may have been recorded before this action.
                    let session_id = &record.session_id;
                    record
                        .transcript
                        .take_if(|mark| mark.session_id != *session_id);
                }),
                Action::Save(notice) => self.save(supervisor, notice),
                other => {
                    if let Some(next) = self.order.pass(Held::Action(other)) {
                        self.go_on(supervisor, next);
                    }
                }
            }
        }
    }

    /// Takes the result of a write, and carries out what was held back only by it.
    pub fn written(&mut self, supervisor: &Supervisor, written: Written) {
        self.note_trouble(&written.what, written.result);
        self.order.end(written.ticket);
        while let Some(next) = self.order.next() {
            self.go_on(supervisor, next);
        }
    }

    /// Answers a request once everything ordered before is durable.
    pub fn reply(&mut self, to: ReplyTo, reply: Reply) {
        if let Some(Held::Reply(to, reply)) = self.order.pass(Held::Reply(to, reply)) {
            to.send(reply).ok();
        }
    }

    fn go_on(&self, supervisor: &Supervisor, next: Held) {
        match next {
            Held::Action(action) if supervisor.still_wants(&action) => self.act(supervisor, action),
            // The user who stopped it meanwhile waits for the result.
            Held::Action(Action::Launch { name, attempt }) => {
                let refusal = Refusal {
                    why: "it was asked to stop before it started".to_owned(),
                    retry: true,
                };
                let refused = Event::Refused {
                    name,
                    attempt,
                    refusal,
                };
                self.messages.send(Message::Event(refused)).ok();
            }
            Held::Action(_) => {}
            Held::Reply(to, reply) => {
                to.send(reply).ok();
            }
        }
    }

    fn act(&self, supervisor: &Supervisor, action: Action) {
        match action {
            // `perform` does these itself; they are never held back.
            Action::Persist(_) | Action::Journal(..) | Action::Rebind { .. } | Action::Save(_) => {}
            Action::ProbeApi => self.probe_api(),
            Action::Launch { name, attempt } => {
                let job = LaunchJob {
                    name,
                    attempt,
                    config: Arc::clone(&self.config),
                };
                if self.launcher.send(job).is_err() {
                    tracing::error!("the launcher thread has ended");
                }
            }
            Action::End { name, process } => self.end(&name, process),
            Action::Nudge {
                name,
                process,
                stop,
                in_a_row,
            } => self.nudge(name, process, stop, in_a_row),
            Action::ScanScreen { name, attempt } => self.scan_screen(name, attempt),
            Action::CheckForWork => self.check_for_work(supervisor),
            Action::PowerOff => self.power_off(),
            Action::AskShutdown => self.ask_shutdown(),
        }
    }

    /// Watches a new process, before the supervisor gets the event.
    pub fn watch(&self, name: &AgentName, process: ProcessId) {
        let launch = self.records.get(name).and_then(|record| record.launch);
        self.follower.follow(name.clone(), process);
        let (name, tmux, messages) = (name.clone(), self.tmux.clone(), self.messages.clone());
        let gate = Arc::clone(&self.gate);
        let watcher = thread::spawn_with_stack(&format!("agent-{name}"), SMALL_STACK, move || {
            if let Some(pidfd) = process.open() {
                let _ended = pidfd.wait(None);
            }
            // A save ends the whole fleet at once, and sweeps once for all agents.
            let exit = match gate.is_closed() {
                true => Exit::Unseen,
                // tmux has to notice the end in any case, or it takes the pane for alive.
                false => {
                    let seen = tmux.exit_of(&name, process, || gate.is_closed());
                    out_of_memory(launch.as_ref()).unwrap_or(seen)
                }
            };
            let mut last_output = None;
            if !exit.is_clean() && !gate.is_closed() {
                sweep(launch.as_slice(), SWEEP_LIMIT);
                last_output = tmux.last_output(&name);
            } else if let Some(dir) = launch.and_then(|launch| launch.cgroup) {
                // Processes that a finished agent left running go on; an empty cgroup is removed.
                Leaf::open(&dir).remove_if_empty();
            }
            messages
                .send(Message::Event(Event::Exited {
                    name,
                    process,
                    end: Ending { exit, last_output },
                }))
                .ok();
        });
        if let Err(error) = watcher {
            tracing::error!("cannot watch an agent: {error}");
        }
    }

    /// Stops following an agent, after the supervisor got the event of its end.
    pub fn unwatch(&self, name: &AgentName) {
        self.follower.leave(name.clone());
    }

    fn persist(&mut self, supervisor: &Supervisor, name: &AgentName) {
        let Some(View {
            state,
            why,
            cause,
            desired,
            restarts,
            process,
            ..
        }) = supervisor.view(name)
        else {
            return;
        };
        let boot_id = self.boot_id.clone();
        self.update(name, |record| {
            record.state = state;
            if matches!(
                state,
                AgentState::Running | AgentState::Waiting | AgentState::Idle
            ) {
                record.last_seen = Some(state);
            }
            record.why = why;
            record.cause = cause;
            record.desired = desired;
            record.restarts = restarts;
            if process.is_some() {
                record.process = process;
                record.boot_id = Some(boot_id);
            }
        });
    }

    /// Waits for pending writes and sends the held answers. Returns whether everything was written.
    pub fn end_writing(&mut self, until: Deadline) -> bool {
        let all_written = self.writer.finish(until);
        if all_written {
            self.order.answers().for_each(|(to, reply)| {
                to.send(reply).ok();
            });
        }
        all_written
    }

    /// Changes a record; later actions are held back until the change is durable.
    pub fn update(&mut self, name: &AgentName, change: impl FnOnce(&mut AgentRecord)) {
        let answer = self.begin(format!("the record of {name}"));
        self.records.update(name, change, answer);
    }

    fn begin(&mut self, what: String) -> Answer {
        let (ticket, messages) = (self.order.begin(), self.messages.clone());
        Answer::to(move |result| {
            let written = Written {
                ticket,
                what,
                result,
            };
            messages.send(Message::Written(written)).ok();
        })
    }

    /// Runs `work` on the writer's thread, after all earlier orders, and then `then` in the loop
    /// with its result.
    pub fn beyond<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Journal) -> T + Send + 'static,
        then: impl FnOnce(&mut Keeper, T) + Send + 'static,
    ) {
        let messages = self.messages.clone();
        self.writer.order_anyhow(move |journal| {
            let done = work(journal);
            let then = Message::Then(Box::new(move |keeper| then(keeper, done)));
            messages.send(then).ok();
        });
    }

    /// Tries again to write what the disk refused.
    pub fn write_what_is_left(&mut self) {
        for name in self.records.unwritten() {
            self.update(&name, |_| {});
        }
    }

    /// Writes a line into the journal.
    pub fn write(&mut self, name: Option<&AgentName>, what: &JournalEvent) {
        what.log(name);
        if let JournalEvent::Stalled { reason, .. } = what {
            *self.counters.stalls.entry(reason.name()).or_default() += 1;
        }
        *self.counters.events.entry(what.name()).or_default() += 1;
        let answer = self.begin("the journal".into());
        self.writer.line(name, what, answer);
        let data_dir = self.data_dir.dir().display().to_string();
        if let Some(message) = notify::Message::from_event(&data_dir, name, what) {
            self.notifier.send(message, &self.config.notify);
        }
    }

    /// Shows a failure in the status until the same work succeeds. Nothing else stops because of
    /// it.
    pub fn note_trouble(&mut self, what: &str, result: Result<()>) {
        match result {
            Ok(()) => {
                self.trouble.remove(what);
            }
            Err(error) => {
                tracing::error!("{error:#}");
                self.trouble.insert(what.to_owned(), format!("{error:#}"));
            }
        }
    }

    /// Runs slow work on a background thread: a tmux that hangs must not delay a notice. The event
    /// that the work returns, if any, goes to the loop.
    pub(super) fn in_background(
        &self,
        what: &str,
        work: impl FnOnce() -> Option<Event> + Send + 'static,
    ) {
        let messages = self.messages.clone();
        thread::spawn_or_do(what, move || {
            if let Some(event) = work() {
                messages.send(Message::Event(event)).ok();
            }
        });
    }

    fn scan_screen(&self, name: AgentName, attempt: Attempt) {
        let tmux = self.tmux.clone();
        self.in_background("scan-screen", move || {
            // A pane that cannot be read does not tell whether a dialog is shown.
            let screen = tmux.screen(&name).ok()?;
            let blocker = claude::screen::blocker(&screen).map(|blocker| {
                let shown = tmux::output::last_lines(&screen, 4);
                format!("{blocker}; {} ({shown})", blocker.remedy())
            });
            Some(Event::Screen {
                name,
                attempt,
                blocker,
            })
        });
    }

    fn nudge(&self, name: AgentName, process: ProcessId, stop: ApiStop, in_a_row: u32) {
        let (tmux, typing) = (self.tmux.clone(), Arc::clone(&self.typing));
        let (config, gate) = (self.data_dir.claude(), Arc::clone(&self.gate));
        self.in_background("nudge", move || {
            let _typing = typing.lock().unwrap_or_else(PoisonError::into_inner);
            let typist = Typist {
                tmux: &tmux,
                name: &name,
                process,
                config: &config,
            };
            let typed = typist.nudge(&claude::resume_note::nudge(stop), || !gate.is_closed());
            let refused = typed.err().map(|error| format!("{error:#}"));
            Some(Event::Nudged {
                name,
                process,
                in_a_row,
                refused,
            })
        });
    }

    fn end(&self, name: &AgentName, process: ProcessId) {
        let name = name.clone();
        // The agent's watcher reports the end to the supervisor, and sweeps up what is left.
        let ending = thread::spawn_with_stack(&format!("end-{name}"), SMALL_STACK, move || {
            let ended = end_process(process, TERM_TIMEOUT);
            tracing::info!(agent = %name, "ended: {ended:?}");
        });
        if let Err(error) = ending {
            tracing::error!("cannot end an agent: {error}");
        }
    }

    /// Counts the uncommitted changes again after an event with which an agent may have made some.
    pub fn count_after(&self, event: &Event) {
        if let Event::Session {
            name,
            activity: Activity::Idle | Activity::Waiting(_),
            ..
        } = event
            && let Some(record) = self.records.get(name)
        {
            self.scan.count(&self.data_dir, &record);
        }
    }

    /// Orders checkpoints: when a turn or an agent has ended, and from time to time while it works.
    pub fn checkpoint_after(&self, event: &Event) {
        let (name, activity, process) = match event {
            Event::Session {
                name,
                activity,
                process,
                ..
            } => (name, activity, Some(*process)),
            Event::Exited { name, .. } => (name, &Activity::Idle, None),
            _ => return,
        };
        if let Some(record) = self.records.get(name) {
            self.checkpoints
                .observe(&self.config, &record, activity, process);
        }
    }

    /// Logs a failed checkpoint or push once, and shows it until it works again.
    pub fn note_checkpoint(&mut self, made: CheckpointResult) {
        let CheckpointResult {
            name,
            checkpoint,
            push,
        } = made;
        let tell = |effects: &mut Self,
                    key: String,
                    result: Result<()>,
                    what: fn(String) -> JournalEvent| {
            let result = result.with_context(|| key.clone());
            if let Err(error) = &result
                && !effects.trouble.contains_key(&key)
            {
                effects.write(Some(&name), &what(format!("{error:#}")));
            }
            effects.note_trouble(&key, result);
        };
        let checkpointed = format!("cannot make a checkpoint of {name}");
        tell(self, checkpointed, checkpoint, |why| {
            JournalEvent::CheckpointFailed { why }
        });
        if let Some(push) = push {
            let pushed = format!("cannot push the checkpoints of {name}");
            tell(self, pushed, push, |why| JournalEvent::PushFailed { why });
        }
    }

    pub(super) fn send(&self, event: Event) {
        // The main loop ends only with the process.
        self.messages.send(Message::Event(event)).ok();
    }
}

/// Returns whether a launch was ended by the out-of-memory killer; its cgroup tells while it
/// exists.
fn out_of_memory(launch: Option<&Launch>) -> Option<Exit> {
    let leaf = Leaf::open(launch?.cgroup.as_deref()?);
    Some(Exit::OutOfMemory(leaf.out_of_memory()?.limit))
}
