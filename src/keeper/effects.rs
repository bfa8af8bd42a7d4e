//! The hands of the supervisor: each action done, each answer sent back as an event.

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

/// A watcher only waits and asks tmux once.
const SMALL_STACK: usize = 256 << 10;

/// What came of a write.
#[derive(Debug)]
pub struct Written {
    ticket: Ticket,
    what: String,
    result: Result<()>,
}

/// All that actions need.
pub struct Effects {
    pub(super) data_dir: DataDir,
    pub(super) data_dir_id: String,
    pub(super) epoch: u64,
    pub(super) boot_id: String,
    pub(super) config: Arc<Config>,
    pub(super) tmux: Tmux,
    /// Held by whoever types into a pane.
    pub(super) typing: Arc<Mutex<()>>,
    pub(super) records: Arc<AgentRecords>,
    pub(super) writer: Writer,
    pub(super) order: WriteOrder,
    pub(super) gate: Arc<LaunchGate>,
    pub(super) starter: Sender<LaunchJob>,
    pub(super) follower: Follower,
    pub(super) scan: DirtyCounts,
    pub(super) checkpoints: Checkpoints,
    /// Bytes that each workspace takes on the disk, as last measured; `None` where it is too large to be
    /// measured in passing.
    pub(super) sizes: BTreeMap<AgentName, Option<u64>>,
    pub(super) notifier: Notifier,
    pub(super) messages: Sender<Message>,
    /// What could not be written, by what it was.
    pub(super) trouble: BTreeMap<String, String>,
    /// What has happened since this keeper began.
    pub(super) counters: Counters,
}

impl Effects {
    /// Does what the supervisor asked for, in its order.
    ///
    /// What has to be durable is ordered at once. What is behind it is held back until it is, but for a
    /// save: that begins at once, whatever the disk does.
    pub fn perform(&mut self, supervisor: &Supervisor, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Persist(name) => self.persist(supervisor, &name),
                Action::Journal(name, what) => self.write(name.as_ref(), &what),
                Action::Rebind { name, session_id } => self.update(&name, |record| {
                    let old = std::mem::replace(&mut record.session_id, session_id);
                    record.past_sessions.push(old);
                    // What is known of the transcript of the new one may have come first.
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

    /// A write was answered: what need not be held back any longer is done.
    pub fn written(&mut self, supervisor: &Supervisor, written: Written) {
        self.note_trouble(&written.what, written.result);
        self.order.end(written.ticket);
        while let Some(next) = self.order.next() {
            self.go_on(supervisor, next);
        }
    }

    /// Answers a request once all that came of it is durable.
    pub fn reply(&mut self, to: ReplyTo, reply: Reply) {
        if let Some(Held::Reply(to, reply)) = self.order.pass(Held::Reply(to, reply)) {
            to.send(reply).ok();
        }
    }

    fn go_on(&self, supervisor: &Supervisor, next: Held) {
        match next {
            Held::Action(action) if supervisor.still_wants(&action) => self.act(supervisor, action),
            // Whoever stopped it meanwhile waits for what comes of it.
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
            // These are not held back.
            Action::Persist(_) | Action::Journal(..) | Action::Rebind { .. } | Action::Save(_) => {}
            Action::ProbeApi => self.probe_api(),
            Action::Launch { name, attempt } => {
                let job = LaunchJob {
                    name,
                    attempt,
                    config: Arc::clone(&self.config),
                };
                if self.starter.send(job).is_err() {
                    tracing::error!("the starter thread has ended");
                }
            }
            Action::End { name, process } => self.end(&name, process),
            Action::Nudge {
                name,
                process,
                stop,
                in_a_row,
            } => self.nudge(name, process, stop, in_a_row),
            Action::ScanScreen { name, attempt } => self.look_at_screen(name, attempt),
            Action::CheckForWork => self.look_for_work(supervisor),
            Action::PowerOff => self.power_off(),
            Action::AskShutdown => self.ask_shutdown(),
        }
    }

    /// Before the supervisor hears of a new process: it is watched from its first moment.
    pub fn watch(&self, name: &AgentName, process: ProcessId) {
        let launch = self.records.get(name).and_then(|record| record.launch);
        self.follower.follow(name.clone(), process);
        let (name, tmux, messages) = (name.clone(), self.tmux.clone(), self.messages.clone());
        let gate = Arc::clone(&self.gate);
        let watcher = thread::spawn_with_stack(&format!("agent-{name}"), SMALL_STACK, move || {
            if let Some(pidfd) = process.open() {
                let _ended = pidfd.wait(None);
            }
            // A save ends the whole fleet at once, and sweeps once for all of it.
            let exit = match gate.is_closed() {
                true => Exit::Unseen,
                // tmux has to notice in any case, or it keeps the pane for alive.
                false => {
                    let seen = tmux.exit_of(&name, process, || gate.is_closed());
                    out_of_memory(launch.as_ref()).unwrap_or(seen)
                }
            };
            let mut last_words = None;
            if !exit.is_clean() && !gate.is_closed() {
                sweep(launch.as_slice(), SWEEP_LIMIT);
                last_words = tmux.last_words(&name);
            } else if let Some(dir) = launch.and_then(|launch| launch.cgroup) {
                // What an agent that is done left running goes on; an empty one only lies about.
                Leaf::open(&dir).remove_if_empty();
            }
            messages
                .send(Message::Event(Event::Exited {
                    name,
                    process,
                    end: Ending { exit, last_words },
                }))
                .ok();
        });
        if let Err(error) = watcher {
            tracing::error!("cannot watch an agent: {error}");
        }
    }

    /// After the supervisor has heard of an end.
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

    /// Waits for what is still to be written; answers those who wait for it. Returns whether all of it is.
    pub fn end_writing(&mut self, until: Deadline) -> bool {
        let all_written = self.writer.finish(until);
        if all_written {
            self.order.answers().for_each(|(to, reply)| {
                to.send(reply).ok();
            });
        }
        all_written
    }

    /// Changes a record; what is behind it is held back until that is durable.
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

    /// Has something done by the thread of the writer, behind all that was ordered so far, and goes on
    /// with what came of it here.
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

    /// Tries again to write what the disk did not take.
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
            self.notifier.tell(message, &self.config.notify);
        }
    }

    /// A disk that refuses stops nothing that can go on without it; it is shown until it is over.
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

    /// Whatever may take its time is done aside: a tmux that hangs must not keep a notice waiting. Work
    /// that found nothing out is no event.
    pub(super) fn aside(&self, what: &str, work: impl FnOnce() -> Option<Event> + Send + 'static) {
        let messages = self.messages.clone();
        thread::spawn_or_do(what, move || {
            if let Some(event) = work() {
                messages.send(Message::Event(event)).ok();
            }
        });
    }

    fn look_at_screen(&self, name: AgentName, attempt: Attempt) {
        let tmux = self.tmux.clone();
        self.aside("look-at-screen", move || {
            // A pane that could not be looked at shows no dialog, and does not show that there is none.
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
        self.aside("nudge", move || {
            let _turn = typing.lock().unwrap_or_else(PoisonError::into_inner);
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
        let ending = // Its watcher tells the supervisor, and sweeps up what it leaves behind.
            thread::spawn_with_stack(&format!("end-{name}"), SMALL_STACK, 
                move || tracing::info!(agent = %name, "ended: {:?}", end_process(process, TERM_TIMEOUT)),
            );
        if let Err(error) = ending {
            tracing::error!("cannot end an agent: {error}");
        }
    }

    /// Counts the uncommitted changes again when an agent may have made some.
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

    /// Has a checkpoint made when a turn or an agent has ended, and from time to time while one works.
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

    /// What did not work is told once, and shown until it works again.
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
        let checkpointed = format!("no checkpoint of {name} could be made");
        tell(self, checkpointed, checkpoint, |why| {
            JournalEvent::CheckpointFailed { why }
        });
        if let Some(push) = push {
            let pushed = format!("the checkpoints of {name} could not be pushed");
            tell(self, pushed, push, |why| JournalEvent::PushFailed { why });
        }
    }

    pub(super) fn send(&self, event: Event) {
        // The main loop ends only with the process.
        self.messages.send(Message::Event(event)).ok();
    }
}

/// Whether a launch ended for want of memory: its cgroup knows, while it is there.
fn out_of_memory(launch: Option<&Launch>) -> Option<Exit> {
    let leaf = Leaf::open(launch?.cgroup.as_deref()?);
    Some(Exit::OutOfMemory(leaf.out_of_memory()?.limit))
}
