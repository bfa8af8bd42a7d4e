//! The keeper: the daemon that starts agents, follows them, and saves them when the notice comes.
//!
//! Threads and one channel. Everything that happens becomes a `Message`; one loop hands events
//! to the [`supervisor`], which decides, and the `edges` do what it says. No thread shares state with
//! another but for the records of records. The loop syncs no file: the `writer` does, and its answers are messages too.
//!
//! ```text
//! signals ─┐
//! metadata ┤                       ┌▶ starter (launches, behind the launch gate)
//! socket  ─┼▶ messages ▶ core ▶ edges ▶ save (when the notice comes)
//! follower ┤                       └▶ writer (records, journal) ▶ what was held back until then
//! watchers ┘
//! ```

mod api_probe;
pub mod backup_timer;
mod checkpoint_worker;
pub mod client;
mod config_reload;
mod disk_watch;
mod effects;
mod git_status;
mod held_actions;
mod launcher;
mod login_watch;
pub mod metrics;
mod mount_watch;
mod poweroff;
mod prompt_input;
pub mod protocol;
mod records;
mod requests;
pub mod runtime_dir;
mod saving;
mod session_watch;
mod socket;
mod startup;
pub mod status;
mod writer;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use crate::metadata::gcp::WatchEvent;
use crate::notify;
use crate::resume::History;
use crate::systemd::sd_notify::Manager;
use crate::tmux;
use state::config::Config;
use state::layout::DataDir;
use state::{AgentName, Journal, JournalEvent, Manifest, TranscriptMark};
use supervisor::notice::{Notice, Source};
use sys::deadline::Deadline;
use sys::error::{Error, Result, anyhow};
use sys::files::LockFile;
use sys::process;
use sys::signal::Ask;
use sys::thread;
use sys::time::Timestamp;

use effects::{Effects, Written};
use mount_watch::{MountState, Outage, Retaking};
use protocol::Request;
use requests::Waiting;
use socket::ReplyTo;
use startup::Taken;
use supervisor::activity_log::ActivityLog;
use supervisor::{Event, Supervisor};
use writer::Writer;

pub use records::{AgentRecords, canonical_cwd};

/// How often the supervisor is told of time and memory when nothing else happens.
const TICK: Duration = Duration::from_secs(1);

/// How long the news of a save may take after it.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// While nothing starts, memory need not be looked at.
const IDLE_TICK: Duration = Duration::from_secs(30);

/// How the keeper is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// SIGTERM is the notice, rather than the word to let go of the agents.
    pub sigterm_saves: bool,
    /// Started by `up`, in the background: it ends when the fleet is put down.
    pub in_background: bool,
    /// Started by its systemd unit: the tmux server is another unit, and a SIGTERM while the machine
    /// goes down is the notice.
    pub by_unit: bool,
}

/// The longest that a keeper that ends waits for what it has still to write. systemd kills it after 22 s.
const WRITING_LIMIT: Duration = Duration::from_secs(5);

/// What is to be done in the loop after something was done elsewhere.
type Then = Box<dyn FnOnce(&mut Keeper) + Send>;

/// Everything that reaches the main loop.
enum Message {
    Event(Event),
    /// What the loop has ordered is durable, or was refused.
    Written(Written),
    Then(Then),
    /// So much of an agent's transcript is durable.
    Durable {
        name: AgentName,
        mark: TranscriptMark,
    },
    /// With the user who asks.
    Request(Request, u32, ReplyTo),
    Signal(Ask),
    Metadata(WatchEvent),
    /// The length of the notice, as this VM's metadata have it.
    NoticeLength(Duration),
    SaveEnded(Box<Manifest>),
    /// After a SIGTERM of systemd: whether the machine goes down, where that is known.
    GoingDown(Option<bool>),
    MountState(MountState),
    Checkpointed(checkpoint_worker::CheckpointResult),
    /// How telling somebody went.
    Notified(Option<Error>),
    /// What the room on the disk comes to, where it is little.
    Disk(Option<String>),
    /// What a workspace takes on the disk, in bytes.
    Measured(AgentName, Option<u64>),
    /// For the journal, from a thread that watches over something.
    Journal(JournalEvent),
    /// Wakes the loop, no more.
    Nothing,
}

/// Why the loop ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    LetGo,
    Saved,
    Down,
    /// Somebody else has the data directory.
    Replaced,
}

/// Runs the keeper of a data directory until it is told to end.
///
/// # Errors
/// Another keeper holds the data directory, the file of declarations is wrong, tmux is missing.
pub fn run(data_dir: &DataDir, options: Options) -> Result<()> {
    let (config, wrong) = Config::load_or_last_good(&data_dir.config(), &data_dir.config_copy())?;
    tmux::ensure_installed()?;
    let boot_id = process::current_boot_id()?;
    let Taken {
        lock,
        identity,
        runtime,
        history,
        is_new_boot,
        torn,
    } = startup::acquire(data_dir, &boot_id)?;
    let journal = Journal::open(
        &data_dir.journal(),
        &identity.data_dir_id,
        identity.epoch,
        &boot_id,
    )?;
    let writer = Writer::start(journal)?;

    let (messages, queue) = mpsc::channel();
    let mut keeper = Keeper::new(
        data_dir, options, config, identity, boot_id, &runtime, writer, history, messages,
    )?;
    keeper.lock = Some(lock);
    keeper.log_start(is_new_boot, torn);
    keeper.begin_with_config(wrong);
    keeper.load_agents();
    let (listening, _watcher) = keeper.start_sources(&runtime)?;
    let mut manager = Manager::of_this_process();
    manager.ready();
    let gate = Arc::clone(&keeper.effects.gate);
    let _clock = backup_timer::start(data_dir, move || !gate.is_closed())?;
    let end = keeper.serve(&queue, &mut manager);
    manager.stopping();
    let all_written = keeper.log_stop(end);
    // Whoever still waits for an answer is told that there is none.
    drop(queue);
    listening.close();
    let replaced = keeper.lost.take().filter(|_| end == End::Replaced);
    let lock = keeper.lock.take();
    if !all_written {
        // What hangs in the kernel may still write; the lock is free once that is over and the process is gone.
        std::mem::forget(lock);
    }
    match replaced {
        Some(lost) => Err(anyhow!(
            "another keeper has the data directory now ({})",
            lost.why
        )),
        None => Ok(()),
    }
}

struct Keeper {
    supervisor: Supervisor,
    effects: Effects,
    options: Options,
    history: History,
    waiting: Waiting,
    last_save: Option<Manifest>,
    activity_log: ActivityLog,
    began: Timestamp,
    /// Of the machine so far, and those of them that a cloud ended.
    boots: (u64, u64),
    /// The length of the notice, where the VM's metadata have it and `spotkeep.toml` has not.
    notice_length: Option<Duration>,
    /// Where our sockets are.
    runtime: PathBuf,
    /// Held from the beginning to the end, but for the time that the data directory is away.
    lock: Option<LockFile>,
    /// The data directory is away, or cannot be written.
    lost: Option<Outage>,
    retaking: Retaking,
    end: Option<End>,
}

impl Keeper {
    /// The loop. It waits in one place only, and never for longer than the next thing that is due.
    ///
    /// systemd's watchdog is fed here and nowhere else, so that a loop that hangs is found out.
    fn serve(&mut self, queue: &Receiver<Message>, manager: &mut Manager) -> End {
        let silence = manager.longest_silence().unwrap_or(IDLE_TICK);
        loop {
            if let Some(end) = self.end {
                return end;
            }
            manager.alive(Instant::now());
            manager.status(|| status::summary(&self.supervisor));
            let busy = self.supervisor.next_wakeup();
            let longest = if busy.is_some() { TICK } else { IDLE_TICK };
            let longest = longest.min(silence);
            let due = busy.into_iter().chain(self.activity_log.due()).min();
            let wait = due.map_or(longest, |at| {
                at.saturating_duration_since(Instant::now()).min(longest)
            });
            match queue.recv_timeout(wait) {
                Ok(message) => self.handle_message(message),
                Err(RecvTimeoutError::Timeout) => {
                    if self.lost.is_none() {
                        self.effects.write_what_is_left();
                    }
                    self.handle(Event::Tick {
                        available_memory: process::available_memory(),
                    });
                }
                Err(RecvTimeoutError::Disconnected) => return End::LetGo,
            }
            if self
                .activity_log
                .due()
                .is_some_and(|at| at <= Instant::now())
            {
                self.write_activity();
            }
        }
    }

    /// Writes down what the agents were doing; later, where the journal is away with the data directory.
    fn write_activity(&mut self) {
        if self.lost.is_some() {
            return;
        }
        let changes = self.activity_log.drain();
        if !changes.is_empty() {
            self.effects
                .write(None, &JournalEvent::Activity { changes });
        }
    }

    /// That something was said in a session; its prompt has been taken then.
    fn know_words(&mut self, name: &AgentName, mark: TranscriptMark) {
        self.effects.update(name, |record| {
            record.prompt_delivered = true;
            record.transcript = Some(mark);
        });
    }

    fn handle_message(&mut self, message: Message) {
        match message {
            Message::Event(event) => self.handle(event),
            Message::Written(written) => self.effects.written(&self.supervisor, written),
            Message::Then(then) => then(self),
            Message::Durable { name, mark } => self.know_words(&name, mark),
            Message::Request(request, user, reply) => self.answer(request, user, reply),
            Message::Signal(ask) => self.signal(ask),
            Message::Metadata(WatchEvent::Preempted) => {
                let declared = self.effects.config.cloud.notice.map(|span| span.0);
                let length = declared.or(self.notice_length);
                self.handle(Event::Notice(Notice::new(
                    Source::Metadata,
                    Instant::now(),
                    length,
                )));
            }
            Message::Metadata(WatchEvent::Health(health)) => {
                self.effects.write(
                    None,
                    &JournalEvent::MetadataHealth {
                        health: health.to_string(),
                    },
                );
            }
            Message::Notified(failed) => {
                let told = failed.map_or(Ok(()), Err);
                self.effects.note_trouble("notify", told);
            }
            Message::Disk(trouble) => {
                self.effects
                    .write(None, &disk_watch::journal_event(trouble.as_deref()));
                let told = trouble.map_or(Ok(()), |what| Err(anyhow!(what)));
                self.effects.note_trouble("the disk", told);
            }
            Message::Measured(name, size) => {
                self.effects.sizes.insert(name, size);
            }
            Message::Journal(what) => self.effects.write(None, &what),
            Message::NoticeLength(length) => self.notice_length = Some(length),
            Message::SaveEnded(manifest) => self.save_ended(*manifest),
            Message::GoingDown(Some(true)) => self.handle(Event::Notice(Notice::new(
                Source::Signal,
                Instant::now(),
                None,
            ))),
            Message::GoingDown(Some(false)) => self.end = Some(End::LetGo),
            Message::GoingDown(None) => self.save_and_let_go(),
            Message::MountState(mount_state) => self.mount_state(mount_state),
            // What fails while the data directory is away is no news, and is tried again when it is back.
            Message::Checkpointed(made) if self.lost.is_some() && made.has_failed() => {}
            Message::Checkpointed(made) => self.effects.note_checkpoint(made),
            Message::Nothing => {}
        }
    }

    fn handle(&mut self, event: Event) {
        match &event {
            Event::Launched { name, process, .. } => self.effects.watch(name, *process),
            Event::Exited { name, .. } => self.effects.unwatch(name),
            _ => {}
        }
        self.effects.count_after(&event);
        self.effects.checkpoint_after(&event);
        let was_closed = self.supervisor.is_closed();
        let ended = match &event {
            Event::Exited { name, .. } => Some(name.clone()),
            _ => None,
        };
        let actions = self.supervisor.step(Instant::now(), event);
        if was_closed && !self.supervisor.is_closed() {
            self.effects.gate.open();
        }
        self.effects.perform(&self.supervisor, actions);
        // How a save ends the agents is told by its manifest.
        if !self.supervisor.is_closed() {
            let views = self.supervisor.views();
            self.activity_log
                .observe(Instant::now(), Timestamp::now(), &views);
        }
        if let Some(name) = ended
            && self.supervisor.view(&name).is_none()
        {
            // It is not declared any more: nobody wants to see its last screen.
            let tmux = self.effects.tmux.clone();
            thread::spawn_or_do("close-pane", move || tmux.close(&name));
        }
        self.end_if_down();
    }

    fn signal(&mut self, ask: Ask) {
        if self.options.sigterm_saves && ask == Ask::Terminate {
            self.handle(Event::Notice(Notice::new(
                Source::Signal,
                Instant::now(),
                None,
            )));
            // A save that has ended already leaves nothing to wait for.
            if self.supervisor.notice().is_none() {
                self.end = Some(End::Saved);
            }
        } else if self.options.by_unit && ask == Ask::Terminate && !self.supervisor.is_closed() {
            // At a shutdown the save unit was here before, and this boot is closed. If it is not, that
            // unit did not run, such as when the machine goes while it is still booting.
            self.effects.ask_whether_going_down();
        } else if self.supervisor.notice().is_none() {
            self.end = Some(End::LetGo);
        } // Nobody ends a save by asking twice.
    }

    /// All is made safe and nothing is ended, which is right whether the machine goes or stays.
    fn save_and_let_go(&mut self) {
        let what = "systemd does not say whether the machine goes down; saved, and agents go on";
        let what = what.to_owned();
        self.effects.write(None, &JournalEvent::Trouble { what });
        let notice = Notice::new(Source::Signal, Instant::now(), None);
        let messages = self.effects.messages.clone();
        self.effects
            .save_in_passing(&self.supervisor, notice, move |_| {
                messages.send(Message::GoingDown(Some(false))).ok();
            });
    }

    fn save_ended(&mut self, manifest: Manifest) {
        let source = self.supervisor.notice().map(|notice| notice.source);
        self.handle(Event::SaveEnded);
        let data_dir = self.effects.data_dir.dir().display().to_string();
        let safe = notify::Message::from_save(&data_dir, &manifest);
        self.effects
            .notifier
            .tell(safe, &self.effects.config.notify);
        self.waiting.answer(&manifest);
        self.last_save = Some(manifest);
        self.write_activity();
        if source == Some(Source::Signal) {
            self.end = Some(End::Saved);
        }
    }

    /// Returns whether all that was decided is written.
    fn log_stop(&mut self, end: End) -> bool {
        let reason = match end {
            End::LetGo => Some("let go of the agents; they go on"),
            End::Saved => Some("the save has ended"),
            End::Down => Some("the fleet is down"),
            End::Replaced => None, // The journal is another keeper's now.
        };
        if let Some(reason) = reason {
            self.write_activity();
            self.effects.write(
                None,
                &JournalEvent::KeeperStopped {
                    reason: reason.into(),
                },
            );
        }
        let all_written = self.effects.end_writing(Deadline::after(WRITING_LIMIT));
        if end == End::Saved {
            // Everything is safe by now, and the machine is about to go.
            self.effects.notifier.flush(LAST_WORDS);
        }
        if end == End::Down {
            self.effects.tmux.end_server();
        }
        all_written
    }
}
