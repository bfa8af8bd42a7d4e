//! The keeper: the daemon that starts agents, follows them, and saves them at a preemption notice.
//!
//! It consists of threads that send messages to one loop. Every event becomes a `Message`. The loop
//! passes it to the [`supervisor`], which decides, and the `effects` carry out the actions that it
//! returns. The only state that threads share is the [`AgentRecords`]. The loop syncs no file: the
//! `writer` does, and reports each result as a message.
//!
//! ```text
//! signals ─┐
//! metadata ┤                                ┌▶ launcher (behind the launch gate)
//! socket  ─┼▶ messages ▶ supervisor ▶ effects ▶ save (at a notice)
//! follower ┤                                └▶ writer (records, journal) ▶ held actions
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
use mount_watch::{MountState, Outage, RecoveryState};
use protocol::Request;
use requests::Waiting;
use socket::ReplyTo;
use startup::AcquiredDataDir;
use supervisor::activity_log::ActivityLog;
use supervisor::{Event, Supervisor};
use writer::Writer;

pub use records::{AgentRecords, canonical_cwd};

/// How often the supervisor gets a tick (time, memory) when nothing else happens.
const TICK: Duration = Duration::from_secs(1);

/// How long the keeper waits, after a save, for its notifications to be sent.
const NOTIFY_FLUSH_LIMIT: Duration = Duration::from_secs(1);

/// The tick while no agent is starting: memory need not be checked then.
const IDLE_TICK: Duration = Duration::from_secs(30);

/// How the keeper is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// SIGTERM is a notice, rather than a request to stop and leave the agents running.
    pub sigterm_saves: bool,
    /// Started by `up`, in the background: the keeper ends when the fleet is put down.
    pub in_background: bool,
    /// Started by its systemd unit: the tmux server is another unit, and a SIGTERM while the
    /// machine shuts down is a notice.
    pub by_unit: bool,
}

/// How long a keeper that ends waits for pending writes, at most. systemd kills it after 22 s.
const WRITING_LIMIT: Duration = Duration::from_secs(5);

/// A continuation that the loop runs after another thread has done its part.
type Then = Box<dyn FnOnce(&mut Keeper) + Send>;

/// A message to the main loop.
enum Message {
    Event(Event),
    /// A write that the loop has ordered is durable, or was refused.
    Written(Written),
    Then(Then),
    /// An agent's transcript is durable up to this mark.
    Durable {
        name: AgentName,
        mark: TranscriptMark,
    },
    /// A request from the control socket, with the uid of the user who asks.
    Request(Request, u32, ReplyTo),
    Signal(Ask),
    Metadata(WatchEvent),
    /// The length of the notice, from this VM's metadata.
    NoticeLength(Duration),
    SaveEnded(Box<Manifest>),
    /// After a SIGTERM from systemd: whether the machine is shutting down, where that is known.
    GoingDown(Option<bool>),
    MountState(MountState),
    Checkpointed(checkpoint_worker::CheckpointResult),
    /// The result of a notification; `None`: it was sent.
    Notified(Option<Error>),
    /// A warning about free disk space; `None`: there is enough.
    Disk(Option<String>),
    /// The size of a workspace on the disk, in bytes.
    Measured(AgentName, Option<u64>),
    /// An event for the journal, from a watcher thread.
    Journal(JournalEvent),
    /// Only wakes the loop.
    Nothing,
}

/// Why the loop ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    LetGo,
    Saved,
    Down,
    /// Another keeper has the data directory.
    Replaced,
}

/// Runs the keeper of a data directory until a signal, the fleet going down or a save ends it.
///
/// # Errors
/// Another keeper holds the data directory, `spotkeep.toml` is not valid, or tmux is missing.
pub fn run(data_dir: &DataDir, options: Options) -> Result<()> {
    let (config, wrong) = Config::load_or_last_good(&data_dir.config(), &data_dir.config_copy())?;
    tmux::ensure_installed()?;
    let boot_id = process::current_boot_id()?;
    let AcquiredDataDir {
        lock,
        identity,
        runtime,
        history,
        is_new_boot,
        damaged_lines,
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
    keeper.log_start(is_new_boot, damaged_lines);
    keeper.begin_with_config(wrong);
    keeper.load_agents();
    let (listening, _watcher) = keeper.start_sources(&runtime)?;
    let mut manager = Manager::from_environment();
    manager.ready();
    let gate = Arc::clone(&keeper.effects.gate);
    let _clock = backup_timer::start(data_dir, move || !gate.is_closed())?;
    let end = keeper.serve(&queue, &mut manager);
    manager.stopping();
    let all_written = keeper.log_stop(end);
    // A client that still waits for an answer gets an error.
    drop(queue);
    listening.close();
    let replaced = keeper.lost.take().filter(|_| end == End::Replaced);
    let lock = keeper.lock.take();
    if !all_written {
        // A call that hangs in the kernel may still write; the lock is released when the process is
        // gone.
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
    /// Boots of the machine so far, and how many of them a preemption ended.
    boots: (u64, u64),
    /// The length of the notice from the VM's metadata, for when `spotkeep.toml` does not set it.
    notice_length: Option<Duration>,
    /// The directory with the keeper's sockets.
    runtime: PathBuf,
    /// The lock on the data directory; `None` while the data directory is missing.
    lock: Option<LockFile>,
    /// The outage under way: the data directory is missing, or cannot be written.
    lost: Option<Outage>,
    recovery: RecoveryState,
    end: Option<End>,
}

impl Keeper {
    /// Runs the main loop. It waits in one place only, and never longer than until the next
    /// deadline.
    ///
    /// systemd's watchdog is fed only here, so that systemd notices a loop that hangs.
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

    /// Writes the activity log to the journal; later, while the data directory is missing.
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

    /// Records a session's transcript mark. Claude Code has then taken the session's prompt.
    fn record_transcript(&mut self, name: &AgentName, mark: TranscriptMark) {
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
            Message::Durable { name, mark } => self.record_transcript(&name, mark),
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
                let sent = failed.map_or(Ok(()), Err);
                self.effects.note_trouble("notify", sent);
            }
            Message::Disk(trouble) => {
                self.effects
                    .write(None, &disk_watch::journal_event(trouble.as_deref()));
                let state = trouble.map_or(Ok(()), |what| Err(anyhow!(what)));
                self.effects.note_trouble("the disk", state);
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
            // A failure while the data directory is missing is expected; the checkpoint is made
            // again later.
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
        // The manifest of a save records how the save ended the agents.
        if !self.supervisor.is_closed() {
            let views = self.supervisor.views();
            self.activity_log
                .observe(Instant::now(), Timestamp::now(), &views);
        }
        if let Some(name) = ended
            && self.supervisor.view(&name).is_none()
        {
            // The agent is not declared any more, so its last screen is not needed.
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
            // If the save has already ended, there is nothing to wait for.
            if self.supervisor.notice().is_none() {
                self.end = Some(End::Saved);
            }
        } else if self.options.by_unit && ask == Ask::Terminate && !self.supervisor.is_closed() {
            // At a shutdown the save unit runs first and closes this boot. If the boot is not
            // closed, that unit did not run, for example because the machine goes down while it
            // still boots.
            self.effects.ask_whether_going_down();
        } else if self.supervisor.notice().is_none() {
            self.end = Some(End::LetGo);
        } // A second signal does not end a save that is under way.
    }

    /// Saves without ending any agent, which is right whether or not the machine shuts down.
    fn save_and_let_go(&mut self) {
        let what = "systemd does not report whether the machine shuts down; \
                    saving while the agents go on";
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
            .send(safe, &self.effects.config.notify);
        self.waiting.answer(&manifest);
        self.last_save = Some(manifest);
        self.write_activity();
        if source == Some(Source::Signal) {
            self.end = Some(End::Saved);
        }
    }

    /// Logs the stop, and returns whether all pending writes are done.
    fn log_stop(&mut self, end: End) -> bool {
        let reason = match end {
            End::LetGo => Some("asked to stop; the agents go on"),
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
            self.effects.notifier.flush(NOTIFY_FLUSH_LIMIT);
        }
        if end == End::Down {
            self.effects.tmux.end_server();
        }
        all_written
    }
}
