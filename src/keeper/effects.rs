//! The hands of the core: each action done, each answer sent back as an event.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Message;
use super::checkpoint_worker::{Checkpoints, Made};
use super::disk_watch::Sizes;
use super::git_status::Survey;
use super::launcher::{Door, Job};
use super::metrics::Tally;
use super::prompt_input::Typist;
use super::records::Ledger;
use super::session_watch::Follower;
use crate::keeper::terminate::{GRACE, SWEEP_LIMIT, end_process, sweep};
use crate::notify::{self, Notifier};
use crate::save::{Save, Subject};
use crate::systemd::cgroup::Leaf;
use crate::tmux::{self, Tmux};
use claude::ApiStop;
use state::config::Config;
use state::layout::Root;
use state::{AgentName, AgentState, Journal, JournalEvent, Launch, Manifest};
use supervisor::notice::Notice;
use supervisor::{Action, Activity, Attempt, Core, Ending, Event, View};
use sys::command;
use sys::error::{Context as _, Result};
use sys::exit::Exit;
use sys::process::ProcessId;
use sys::thread;

/// A watcher only waits and asks tmux once.
const SMALL_STACK: usize = 256 << 10;

/// How long systemd is asked whether the machine goes down, after a save that it was said to.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(60);

/// The same after a SIGTERM: the unit is killed after 22 s, and what can be made safe until then takes
/// its time too.
const SIGTERM_PATIENCE: Duration = Duration::from_secs(10);

/// Between two questions.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// All that actions need.
pub struct Edges {
    pub(super) root: Root,
    pub(super) root_id: String,
    pub(super) epoch: u64,
    pub(super) life: String,
    pub(super) config: Arc<Config>,
    pub(super) tmux: Tmux,
    /// Held by whoever types into a pane.
    pub(super) typing: Arc<Mutex<()>>,
    pub(super) ledger: Arc<Ledger>,
    pub(super) journal: Arc<Mutex<Journal>>,
    pub(super) door: Arc<Door>,
    pub(super) starter: Sender<Job>,
    pub(super) follower: Follower,
    pub(super) survey: Survey,
    pub(super) checkpoints: Checkpoints,
    pub(super) sizes: Sizes,
    pub(super) notifier: Notifier,
    pub(super) messages: Sender<Message>,
    /// What could not be written, by what it was.
    pub(super) trouble: BTreeMap<String, String>,
    /// What has happened since this keeper began.
    pub(super) tally: Tally,
}

impl Edges {
    /// Does what the core asked for, in its order.
    pub fn perform(&mut self, core: &Core, actions: Vec<Action>) {
        for action in actions {
            self.perform_one(core, action);
        }
    }

    fn perform_one(&mut self, core: &Core, action: Action) {
        match action {
            Action::Persist(name) => self.persist(core, &name),
            Action::Journal(name, what) => self.write(name.as_ref(), &what),
            Action::Rebind { name, session_id } => {
                let bound = self.ledger.update(&name, |record| {
                    let old = std::mem::replace(&mut record.session_id, session_id);
                    record.past_sessions.push(old);
                    record.transcript = None;
                });
                self.note_trouble(&format!("the record of {name}"), bound);
            }
            Action::ProbeApi => self.probe_api(),
            Action::Launch { name, attempt } => {
                let job = Job {
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
            Action::LookAtScreen { name, attempt } => self.look_at_screen(name, attempt),
            Action::Save(notice) => self.save(core, notice),
            Action::LookForWork => self.look_for_work(core),
            Action::PowerOff => self.power_off(),
            Action::AskShutdown => self.aside("ask-shutdown", || {
                Some(Event::ShuttingDown(is_shutting_down(SHUTDOWN_PATIENCE)))
            }),
        }
    }

    /// Before the core hears of a new process: it is watched from its first moment.
    pub fn watch(&self, name: &AgentName, process: ProcessId) {
        let launch = self.ledger.get(name).and_then(|record| record.launch);
        self.follower.follow(name.clone(), process);
        let (name, tmux, messages) = (name.clone(), self.tmux.clone(), self.messages.clone());
        let door = Arc::clone(&self.door);
        let watcher = thread::spawn_with_stack(&format!("agent-{name}"), SMALL_STACK, move || {
            if let Some(pidfd) = process.open() {
                let _ended = pidfd.wait(None);
            }
            // A save ends the whole fleet at once, and sweeps once for all of it.
            let exit = match door.is_closed() {
                true => Exit::Unseen,
                // tmux has to notice in any case, or it keeps the pane for alive.
                false => {
                    let seen = tmux.exit_of(&name, process, || door.is_closed());
                    out_of_memory(launch.as_ref()).unwrap_or(seen)
                }
            };
            let mut last_words = None;
            if !exit.is_clean() && !door.is_closed() {
                sweep(launch.as_slice(), SWEEP_LIMIT);
                last_words = tmux.last_words(&name);
            } else if let Some(dir) = launch.and_then(|launch| launch.cgroup) {
                // What an agent that is done left running goes on; an empty one only lies about.
                Leaf::at(&dir).remove_if_empty();
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

    /// After the core has heard of an end.
    pub fn unwatch(&self, name: &AgentName) {
        self.follower.leave(name.clone());
    }

    fn persist(&mut self, core: &Core, name: &AgentName) {
        let Some(View {
            state,
            why,
            cause,
            wanted,
            restarts,
            process,
            ..
        }) = core.view(name)
        else {
            return;
        };
        let written = self.ledger.update(name, |record| {
            record.state = state;
            if matches!(
                state,
                AgentState::Running | AgentState::Waiting | AgentState::Idle
            ) {
                record.last_seen = Some(state);
            }
            record.why = why;
            record.cause = cause;
            record.wanted = wanted;
            record.restarts = restarts;
            if process.is_some() {
                record.process = process;
                record.life = Some(self.life.clone());
            }
        });
        self.note_trouble(&format!("the record of {name}"), written);
    }

    /// Tries again to write what the disk did not take.
    pub fn write_what_is_left(&mut self) {
        for name in self.ledger.unwritten() {
            let written = self.ledger.update(&name, |_| {});
            self.note_trouble(&format!("the record of {name}"), written);
        }
    }

    /// Writes a line into the journal.
    pub fn write(&mut self, name: Option<&AgentName>, what: &JournalEvent) {
        what.log(name);
        if let JournalEvent::Stalled { reason, .. } = what {
            *self.tally.stalls.entry(reason.name()).or_default() += 1;
        }
        *self.tally.events.entry(what.name()).or_default() += 1;
        let written = self.journal().write(name, what);
        self.note_trouble("the journal", written);
        let root = self.root.dir().display().to_string();
        if let Some(message) = notify::Message::of(&root, name, what) {
            self.notifier.tell(message, &self.config.notify);
        }
    }

    pub(super) fn journal(&self) -> MutexGuard<'_, Journal> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
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

    pub(super) fn ask_whether_going_down(&self) {
        let messages = self.messages.clone();
        let ask = move || {
            let answer = is_shutting_down(SIGTERM_PATIENCE);
            messages.send(Message::GoingDown(answer)).ok();
        };
        thread::spawn_or_do("ask-shutdown", ask);
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
        let (config, door) = (self.root.claude(), Arc::clone(&self.door));
        self.aside("nudge", move || {
            let _turn = typing.lock().unwrap_or_else(PoisonError::into_inner);
            let typist = Typist {
                tmux: &tmux,
                name: &name,
                process,
                config: &config,
            };
            let typed = typist.nudge(&claude::resume_note::nudge(stop), || !door.is_closed());
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
        let ending = // Its watcher tells the core, and sweeps up what it leaves behind.
            thread::spawn_with_stack(&format!("end-{name}"), SMALL_STACK, 
                move || tracing::info!(agent = %name, "ended: {:?}", end_process(process, GRACE)),
            );
        if let Err(error) = ending {
            tracing::error!("cannot end an agent: {error}");
        }
    }

    fn save(&self, core: &Core, notice: Notice) {
        self.door.close();
        let agents = self.subjects(core);
        self.spawn_save(
            agents,
            move |save| save.run_final(&notice),
            |manifest| Message::SaveEnded(Box::new(manifest)),
        );
    }

    /// Saves while the agents go on; the answer goes to `done`.
    pub fn save_in_passing(
        &self,
        core: &Core,
        notice: Notice,
        done: impl FnOnce(Manifest) + Send + 'static,
    ) {
        let agents = self.subjects(core);
        self.spawn_save(
            agents,
            move |save| save.run_in_passing(notice.deadline),
            move |manifest| {
                done(manifest);
                Message::Nothing
            },
        );
    }

    fn spawn_save(
        &self,
        agents: Vec<Subject>,
        run: impl FnOnce(Save<'_>) -> Manifest + Send + 'static,
        done: impl FnOnce(Manifest) -> Message + Send + 'static,
    ) {
        let (root, root_id, life) = (self.root.clone(), self.root_id.clone(), self.life.clone());
        let (epoch, journal, messages) =
            (self.epoch, Arc::clone(&self.journal), self.messages.clone());
        let checkpoints = self.checkpoints.clone();
        let settings = self.config.checkpoint.clone();
        checkpoints.pause();
        let work = move || {
            let manifest = run(Save {
                root: &root,
                settings: &settings,
                root_id: &root_id,
                epoch,
                life: &life,
                journal: Some(journal),
                agents,
            });
            checkpoints.resume();
            messages.send(done(manifest)).ok();
        };
        // Without a thread it is the loop itself that saves: nothing is more urgent.
        thread::spawn_or_do("save", work);
    }

    /// Every agent as a save needs it. What the core knows of a process is newer than the record.
    fn subjects(&self, core: &Core) -> Vec<Subject> {
        core.views()
            .into_iter()
            .filter_map(|view| {
                let record = self.ledger.get(&view.name)?;
                let process = view.process.or(record.live_process(&self.life));
                let process =
                    process.or_else(|| crate::keeper::terminate::launched(&record, &self.life));
                Some(Subject { record, process })
            })
            .collect()
    }

    /// Counts the uncommitted changes again when an agent may have made some.
    pub fn survey_after(&self, event: &Event) {
        if let Event::Session {
            name,
            activity: Activity::Idle | Activity::Waiting(_),
            ..
        } = event
            && let Some(record) = self.ledger.get(name)
        {
            self.survey.look(&self.root, &record);
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
        if let Some(record) = self.ledger.get(name) {
            self.checkpoints
                .seen(&self.config, &record, activity, process);
        }
    }

    /// What did not work is told once, and shown until it works again.
    pub fn note_checkpoint(&mut self, made: Made) {
        let Made {
            name,
            checkpoint,
            push,
        } = made;
        let tell = |edges: &mut Self,
                    key: String,
                    result: Result<()>,
                    what: fn(String) -> JournalEvent| {
            let result = result.with_context(|| key.clone());
            if let Err(error) = &result
                && !edges.trouble.contains_key(&key)
            {
                edges.write(Some(&name), &what(format!("{error:#}")));
            }
            edges.note_trouble(&key, result);
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
    let leaf = Leaf::at(launch?.cgroup.as_deref()?);
    Some(Exit::OutOfMemory(leaf.out_of_memory()?.limit))
}

/// Whether systemd is taking the machine down; asked until it says so, at most for `patience`. `None`:
/// it did not say, and both may be so.
pub(super) fn is_shutting_down(patience: Duration) -> Option<bool> {
    let until = Instant::now() + patience;
    loop {
        if !Path::new("/run/systemd/system").exists() {
            return Some(false);
        }
        let mut ask = std::process::Command::new("systemctl");
        ask.arg("is-system-running");
        let left = until.saturating_duration_since(Instant::now());
        let said = command::run(&mut ask, left.max(ASK_AGAIN));
        if let Some(answer) = said.ok().and_then(|said| going_down(&said.stdout)) {
            return Some(answer);
        }
        if Instant::now() >= until {
            return None;
        }
        std::thread::sleep(ASK_AGAIN);
    }
}

/// What the states of systemctl(1) say of that; `unknown` is its word for not having been told.
fn going_down(state: &str) -> Option<bool> {
    match state.trim() {
        "stopping" => Some(true),
        "initializing" | "starting" | "running" | "degraded" | "maintenance" | "offline" => {
            Some(false)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_systemd_that_says_nothing_is_not_taken_for_one_that_says_no() {
        assert_eq!(going_down("stopping\n"), Some(true));
        assert_eq!(going_down("degraded\n"), Some(false));
        assert_eq!((going_down(""), going_down("unknown\n")), (None, None));
    }
}
