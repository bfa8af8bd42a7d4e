//! Start-up of the keeper: locks the data directory, logs the start, loads agents, starts sources.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Instant;

use super::checkpoint_worker::Checkpoints;
use super::config_reload::seed_all;
use super::disk_watch;
use super::effects::Effects;
use super::git_status::DirtyCounts;
use super::held_actions::WriteOrder;
use super::launcher::{LaunchGate, Launcher};
use super::login_watch;
use super::metrics::Counters;
use super::mount_watch::RecoveryState;
use super::records::AgentRecords;
use super::requests::Waiting;
use super::runtime_dir::{self, Holder};
use super::session_watch::{self, Follower, WatchReport};
use super::socket::{self, Listening};
use super::writer::Writer;
use super::{Keeper, Message, Options};
use crate::backup;
use crate::metadata::gcp::{self, Metadata, Watcher};
use crate::notify::Notifier;
use crate::resume::{self, History};
use crate::tmux::Tmux;
use state::config::Config;
use state::layout::DataDir;
use state::{AgentName, AgentRecord, Desired, Fleet, Identity, JournalEntry, JournalEvent};
use supervisor::activity_log::ActivityLog;
use supervisor::notice::{Notice, Source};
use supervisor::start_limits::Limits;
use supervisor::{Event, Supervisor};
use sys::error::{Context as _, Hint as _, Result, anyhow};
use sys::failpoint::{Point, point};
use sys::files::LockFile;
use sys::process::{self, ProcessId};
use sys::signal;
use sys::thread;
use sys::time::Timestamp;
use sys::user;

/// A data directory that this keeper has locked.
pub(super) struct AcquiredDataDir {
    pub(super) lock: LockFile,
    pub(super) identity: Identity,
    /// The directory with the sockets.
    pub(super) runtime: PathBuf,
    pub(super) history: History,
    /// Whether this is the first keeper in this boot.
    pub(super) is_new_boot: bool,
    /// Lines of the journal that cannot be read.
    pub(super) damaged_lines: usize,
}

/// Acquires the data directory: takes the lock, reads the journal, raises the epoch, and makes the
/// directory for the sockets.
pub(super) fn acquire(data_dir: &DataDir, boot_id: &str) -> Result<AcquiredDataDir> {
    let mut identity = data_dir.identity()?;
    let runtime = runtime_dir::directory(data_dir, &identity.data_dir_id, boot_id)?;
    let holder = Holder::read(data_dir);
    let has_ended = || holder.as_ref().is_some_and(Holder::has_ended);
    let Some(mut lock) = LockFile::take_after(&data_dir.lock(), has_ended)? else {
        let pid = Holder::read(data_dir)
            .map_or_else(|| "unknown".into(), |holder| holder.pid.to_string());
        return Err(anyhow!(
            "another keeper (pid {pid}) holds {}",
            data_dir.dir().display()
        ))
        .hint(format!(
            "spotkeep --data-dir {} status",
            data_dir.dir().display()
        ));
    };
    let (lines, damaged_lines) = state::lines(&data_dir.journal())?;
    // The epoch counts keepers, and does not count this one yet.
    let history = match lines.is_empty() && identity.epoch > 0 {
        true => History::lost(state::latest_manifest(&data_dir.saves())?.as_ref(), boot_id),
        false => History::read(&lines, boot_id),
    };
    let is_new_boot = is_new(&lines, boot_id);
    identity.epoch += 1;
    if is_new_boot {
        identity.boots += 1;
        let was_preempted = history.noticed_by.as_deref() == Some("metadata");
        identity.preemptions += u64::from(was_preempted);
    }
    state::store(&data_dir.identity_file(), &identity)?;
    point(Point::RestoreEpoch);
    lock.describe(&serde_json::to_string(&Holder::this(boot_id, &runtime))?)?;
    if let Err(error) = backup::privileged_write::remove_leftovers(data_dir) {
        tracing::error!("{error:#}");
    }
    Ok(AcquiredDataDir {
        lock,
        identity,
        runtime,
        history,
        is_new_boot,
        damaged_lines,
    })
}

/// Whether no keeper has run in this boot. A save without a keeper writes to the journal too, so
/// lines alone do not tell. If so much was written in this boot that its first lines are no longer
/// read, a keeper wrote them.
fn is_new(lines: &[JournalEntry], boot_id: &str) -> bool {
    let is_cut = lines
        .first()
        .is_some_and(|line| line.seq > 1 && line.boot_id == boot_id);
    let mut of_boot = lines.iter().filter(|line| line.boot_id == boot_id);
    !is_cut && !of_boot.any(|line| matches!(line.event, JournalEvent::KeeperStarted { .. }))
}

impl Keeper {
    #[expect(
        clippy::too_many_arguments,
        reason = "called once, right above, with what was just made"
    )]
    pub(super) fn new(
        data_dir: &DataDir,
        options: Options,
        config: Config,
        identity: Identity,
        boot_id: String,
        runtime: &Path,
        writer: Writer,
        history: History,
        messages: Sender<Message>,
    ) -> Result<Self> {
        let tmux = match options.by_unit {
            true => Tmux::new(runtime).kept_by_its_unit(),
            false => Tmux::new(runtime),
        };
        let records = Arc::new(AgentRecords::new(data_dir.clone(), writer.clone()));
        let gate = Arc::new(LaunchGate::default());
        let deliver = messages.clone();
        let launcher = Launcher {
            data_dir: data_dir.clone(),
            boot_id: boot_id.clone(),
            history: history.clone(),
            tmux: tmux.clone(),
            program: std::env::current_exe().context("cannot find the path of this program")?,
            records: Arc::clone(&records),
            writer: writer.clone(),
            gate: Arc::clone(&gate),
        }
        .spawn(move |event| {
            deliver.send(Message::Event(event)).ok();
        })?;
        let deliver = messages.clone();
        let follower = Follower::spawn(data_dir.clone(), move |report| {
            let message = match report {
                WatchReport::Event(event) => Message::Event(event),
                WatchReport::Durable { name, mark } => Message::Durable { name, mark },
            };
            deliver.send(message).ok();
        })?;
        let deliver = messages.clone();
        let checkpoints = Checkpoints::spawn(data_dir.clone(), move |made| {
            deliver.send(Message::Checkpointed(made)).ok();
        })?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let supervisor = Supervisor::new(
            Limits::for_cores(cores).with_time_scale(std::env::var("SPOTKEEP_TIME_SCALE").ok()),
            identity.fleet,
            history.noticed_in_this_boot && !history.save_unfinished,
        );
        let deliver = messages.clone();
        disk_watch::spawn(data_dir, Arc::clone(&records), move |message| {
            deliver.send(message).ok();
        })?;
        let deliver = messages.clone();
        let notifier = Notifier::spawn(move |failed| {
            deliver.send(Message::Notified(failed)).ok();
        })?;
        let effects = Effects {
            notifier,
            sizes: BTreeMap::new(),
            data_dir: data_dir.clone(),
            data_dir_id: identity.data_dir_id,
            epoch: identity.epoch,
            boot_id,
            config: Arc::new(config),
            tmux,
            typing: Arc::default(),
            records,
            writer,
            order: WriteOrder::default(),
            gate,
            launcher,
            follower,
            scan: DirtyCounts::spawn()?,
            checkpoints,
            messages,
            trouble: BTreeMap::new(),
            counters: Counters::default(),
        };
        let last_save = state::latest_manifest(&data_dir.saves())?;
        Ok(Self {
            supervisor,
            effects,
            options,
            history,
            waiting: Waiting::default(),
            activity_log: ActivityLog::default(),
            began: Timestamp::now(),
            boots: (identity.boots, identity.preemptions),
            last_save,
            notice_length: None,
            runtime: runtime.to_path_buf(),
            lock: None,
            lost: None,
            recovery: RecoveryState::default(),
            end: None,
        })
    }

    /// Logs the start: how the last boot ended, and damage to the journal.
    pub(super) fn log_start(&mut self, is_new_boot: bool, damaged_lines: usize) {
        let last_end = match &self.history {
            _ if !is_new_boot => "the same boot",
            history if !history.had_boot => "the first boot",
            history if history.safe => "safe",
            history if history.noticed_at.is_some() => "cut during its save",
            _ => "without a notice",
        };
        let pid = i32::try_from(std::process::id()).unwrap_or(0);
        self.effects.write(
            None,
            &JournalEvent::KeeperStarted {
                pid,
                new_boot: is_new_boot,
                last_end: last_end.to_owned(),
                since_boot_ms: process::since_boot()
                    .and_then(|up| u64::try_from(up.as_millis()).ok()),
            },
        );
        self.until_written();
        point(Point::RestoreLogged);
        if self.history.is_lost {
            let what = "journal.jsonl is gone or has no line that can be read: how the last boot \
                        ended is not known, so it counts as one without a notice"
                .to_owned();
            self.effects.write(None, &JournalEvent::Trouble { what });
        }
        if damaged_lines > 0 {
            let what =
                format!("{damaged_lines} lines of the journal cannot be read and are passed over");
            self.effects.write(None, &JournalEvent::Trouble { what });
        }
    }

    /// Waits for all pending writes. The loop has not begun yet, and the next steps need the disk.
    fn until_written(&self) {
        if let Err(error) = self.effects.writer.all_so_far().wait() {
            tracing::error!("{error:#}");
        }
    }

    /// Loads the declared agents: finds the ones that still run, and declares all of them to the
    /// supervisor, which decides when the others are resumed.
    pub(super) fn load_agents(&mut self) {
        self.until_written();
        let declared = self
            .effects
            .records
            .declare(&self.effects.config, &self.effects.boot_id);
        for (name, what) in self.effects.records.recalled() {
            let event = JournalEvent::Repaired { what };
            self.effects.write(Some(&name), &event);
        }
        self.recall_saved_transcripts();
        let found: Vec<(AgentName, ProcessId)> = declared
            .iter()
            .filter_map(|d| Some((d.name.clone(), d.process?)))
            .collect();
        let desired = declared
            .iter()
            .filter(|d| d.process.is_none() && d.desired == Desired::Running)
            .count();
        let undesired: Vec<AgentName> = declared
            .iter()
            .filter(|d| d.process.is_some() && d.desired == Desired::Stopped)
            .map(|d| d.name.clone())
            .collect();
        if self.history.had_boot && found.is_empty() && !self.supervisor.is_closed() {
            self.report_restore();
        }
        if found.is_empty() {
            match login_watch::check_once(&self.effects.data_dir) {
                Ok(Some(what)) => self.effects.write(None, &what),
                Ok(None) => {}
                Err(error) => tracing::error!("cannot check the login: {error:#}"),
            }
        }
        if desired > 0 && !self.supervisor.is_closed() {
            let seeded = seed_all(
                &self.effects.data_dir,
                &self.effects.records,
                &self.effects.config,
            );
            self.report_seeds(seeded);
            point(Point::RestoreSeeded);
        }
        for (name, process) in found {
            self.effects.watch(&name, process);
        }
        // There is no permit yet, so nothing is launched before an unfinished save is run again.
        // Agents that run and are not in the file any more are declared too, so that the supervisor
        // ends them.
        let left_over = self.effects.records.left_over(&self.effects.boot_id);
        for (name, process) in left_over.iter().filter_map(|d| Some((&d.name, d.process?))) {
            self.effects.watch(name, process);
        }
        if !left_over.is_empty() {
            let all = declared.iter().cloned().chain(left_over).collect();
            self.handle(Event::Declare(all));
        }
        self.handle(Event::Declare(declared));
        // A stop that was requested while no keeper ran.
        for name in undesired {
            let by = user::name(user::id());
            self.handle(Event::Want {
                name,
                desired: Desired::Stopped,
                by,
            });
        }
        self.report_policies();
        if self.supervisor.fleet() == Fleet::Down {
            self.handle(Event::Fleet(Fleet::Down));
        }
        if self.history.save_unfinished {
            let notice = Notice::new(Source::Command, Instant::now(), None);
            self.handle(Event::Notice(notice));
        }
        let permit = self.permit();
        self.handle(Event::Permit(Some(permit)));
        self.handle(Event::Tick {
            available_memory: process::available_memory(),
        });
    }

    /// Takes transcript marks from the last save. The boot may have ended in the second before the
    /// follower saw a transcript, which the save did see.
    fn recall_saved_transcripts(&mut self) {
        let Some(save) = &self.last_save else {
            return;
        };
        let data_dir = &self.effects.data_dir;
        let unseen = |record: AgentRecord| {
            let mark = resume::saved_unseen(save, &record, &data_dir.absolute(&record.cwd))?;
            Some((record.name, mark))
        };
        let unseen: Vec<_> = self
            .effects
            .records
            .all()
            .into_iter()
            .filter_map(unseen)
            .collect();
        for (name, mark) in unseen {
            self.record_transcript(&name, mark);
        }
    }

    /// Logs which agents come back and what is left of their transcripts, before any agent adds to
    /// them.
    fn report_restore(&mut self) {
        let mut records = self.effects.records.all();
        records.retain(|record| record.desired == Desired::Running);
        let last = self.last_save.as_ref();
        let save = last.filter(|save| self.history.safe && save.boot_id != self.effects.boot_id);
        let check = resume::check_transcripts(&self.effects.data_dir, &records, save);
        let what = JournalEvent::Restore {
            agents: records.len(),
            unclean: !self.history.safe,
            names: records
                .iter()
                .map(|record| record.name.to_string())
                .collect(),
            short: check.short,
            torn: check.damaged,
        };
        self.effects.write(None, &what);
        self.until_written();
        point(Point::RestoreTold);
    }

    /// Passes the settings for the whole machine to the supervisor.
    pub(super) fn report_policies(&mut self) {
        let span = self.effects.config.machine.stop_when_idle;
        self.handle(Event::StopWhenIdle(span.map(|span| span.0)));
    }

    /// Starts the event sources: signals, the socket, the login watch, the mount watch, the sync
    /// and the metadata server.
    pub(super) fn start_sources(&mut self, runtime: &Path) -> Result<(Listening, Option<Watcher>)> {
        let messages = self.effects.messages.clone();
        signal::listen(move |ask| {
            messages.send(Message::Signal(ask)).ok();
        })?;
        let messages = self.effects.messages.clone();
        let listening = socket::listen(
            &runtime_dir::socket(runtime),
            move |request, user, reply| {
                messages.send(Message::Request(request, user, reply)).ok();
            },
        )?;
        let messages = self.effects.messages.clone();
        login_watch::spawn(&self.effects.data_dir, move |message| {
            messages.send(message).ok();
        })?;
        self.watch_mount()?;
        if self.effects.data_dir.is_own_filesystem() {
            session_watch::sync_forever(&self.effects.data_dir)?;
        }
        let cloud = &self.effects.config.cloud;
        let Some(metadata) = Metadata::find(cloud.provider, cloud.metadata.as_deref())? else {
            return Ok((listening, None));
        };
        if cloud.notice.is_none() {
            // In the background: the watch must not wait for it.
            let (metadata, messages) = (metadata.clone(), self.effects.messages.clone());
            thread::spawn("notice-length", move || {
                if let Ok(Some(length)) = metadata.notice_length() {
                    messages.send(Message::NoticeLength(length)).ok();
                }
            })
            .context("cannot start the thread that asks how long the notice is")?;
        }
        let messages = self.effects.messages.clone();
        let watcher = gcp::watch(&metadata, move |seen| {
            messages.send(Message::Metadata(seen)).ok();
        })?;
        Ok((listening, Some(watcher)))
    }
}
