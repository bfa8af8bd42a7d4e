//! Feed of `spotkeep top`: a background thread that collects the status of the fleet.
//!
//! It sleeps until a file changes, and polls only values that no file watch reports.

use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::resource_usage::ResourceUsage;
use super::snapshot::{FleetSnapshot, Machine, News};
use super::transcripts::Transcripts;
use crate::keeper::client::watched_dirs;
use crate::keeper::status::Status;
use crate::metadata::gcp::Metadata;
use state::config::Config;
use state::layout::DataDir;
use state::{AgentName, JournalEntry, Manifest};
use sys::error::{Context as _, Result};
use sys::files;
use sys::inotify::{Bell, Watch};
use sys::thread;

/// Poll interval for values that no file watch reports, like the number of dirty files.
const STATUS_EVERY: Duration = Duration::from_secs(2);

/// Pause after a change: changes come in bursts, and the keeper sees them at the same time.
const DEBOUNCE: Duration = Duration::from_millis(40);

/// Delay of the second poll after a change: the keeper may not have seen the change at the first
/// one.
const AGAIN_AFTER: Duration = Duration::from_millis(250);

/// Poll interval of CPU and memory, which needs a scan of all processes.
const LOAD_EVERY: Duration = Duration::from_secs(3);

/// Bytes at the end of the journal to read, about 200 lines.
const JOURNAL_BYTES: u64 = 48 << 10;

/// Returns the status of the fleet.
pub type Ask = Box<dyn Fn() -> Result<Status> + Send>;

/// News that the screen has not shown yet. Only the newest snapshot is kept, since the user may
/// spend hours in an agent's terminal.
#[derive(Debug, Default)]
pub struct Inbox {
    fleet: Mutex<Option<Box<FleetSnapshot>>>,
    results: Mutex<Vec<News>>,
}

impl Inbox {
    /// Takes all news.
    pub fn drain(&self) -> Vec<News> {
        let mut news =
            std::mem::take(&mut *self.results.lock().unwrap_or_else(PoisonError::into_inner));
        let fleet = self
            .fleet
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        news.extend(fleet.map(News::FleetSnapshot));
        news
    }

    /// Adds the result of a command.
    pub fn send(&self, news: News) {
        self.results
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(news);
    }

    fn publish(&self, fleet: FleetSnapshot) {
        *self.fleet.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(fleet));
    }
}

enum FeedCommand {
    /// Follow the transcript of this agent, or of none.
    Follow(Option<AgentName>),
    /// Poll now: a command has run.
    Refresh,
}

/// Handle to the background thread.
#[derive(Debug)]
pub struct Feed {
    commands: Sender<FeedCommand>,
    bell: Bell,
}

impl Feed {
    /// Takes the first snapshot, and starts the thread, which wakes `bell` when there is news in
    /// `inbox`.
    ///
    /// # Errors
    /// The status cannot be read; no thread can be started.
    pub fn spawn(
        data_dir: &DataDir,
        ask: Ask,
        inbox: &Arc<Inbox>,
        bell: Bell,
    ) -> Result<(Self, FleetSnapshot)> {
        let watch = Watch::new()?;
        let (commands, queue) = mpsc::channel();
        let feed = Self {
            commands,
            bell: watch.bell(),
        };
        let mut watcher = Watcher::open(data_dir.clone(), ask, &watch)?;
        let first = watcher.fleet();
        let inbox = Arc::clone(inbox);
        thread::spawn("feed", move || watcher.run(&watch, &queue, &inbox, &bell))
            .context("cannot start a thread")?;
        Ok((feed, first))
    }

    /// Follows the transcript of this agent from now on, or of none.
    pub fn follow(&self, name: Option<AgentName>) {
        self.send(FeedCommand::Follow(name));
    }

    /// Polls now, since a command has run.
    pub fn refresh(&self) {
        self.send(FeedCommand::Refresh);
    }

    fn send(&self, command: FeedCommand) {
        // The thread reports its own errors, so a closed channel is ignored here.
        self.commands.send(command).ok();
        self.bell.wake();
    }
}

/// Everything that the thread polls.
struct Watcher {
    data_dir: DataDir,
    ask: Ask,
    status: Status,
    stale: Option<String>,
    transcripts: Transcripts,
    loads: ResourceUsage,
    journal: Journal,
    machine: Arc<Mutex<Machine>>,
    followed: Option<AgentName>,
}

impl Watcher {
    fn open(data_dir: DataDir, ask: Ask, watch: &Watch) -> Result<Self> {
        let status = ask()?;
        let projects = data_dir.claude().join("projects");
        for dir in watched_dirs(&data_dir).iter().chain([&projects]) {
            // A directory that does not exist yet is covered by the poll interval.
            watch.add(dir).ok();
        }
        let mut watcher = Self {
            transcripts: Transcripts::new(data_dir.claude(), watch.bell()),
            loads: ResourceUsage::default(),
            journal: Journal::default(),
            machine: ask_machine(&data_dir, watch.bell()),
            followed: None,
            stale: None,
            data_dir,
            ask,
            status,
        };
        watcher.transcripts.refresh(&watcher.status.agents, watch);
        watcher.loads.sample(&watcher.status.agents);
        watcher.journal.read_new(&watcher.data_dir);
        Ok(watcher)
    }

    fn run(&mut self, watch: &Watch, commands: &Receiver<FeedCommand>, inbox: &Inbox, bell: &Bell) {
        let mut last = None;
        let (mut status_at, mut load_at) = (Instant::now(), Instant::now() + LOAD_EVERY);
        loop {
            let pause = status_at
                .min(load_at)
                .saturating_duration_since(Instant::now());
            let changed = watch.wait(pause);
            if changed {
                std::thread::sleep(DEBOUNCE);
                watch.wait(Duration::ZERO);
            }
            loop {
                match commands.try_recv() {
                    Ok(FeedCommand::Follow(name)) => self.followed = name,
                    Ok(FeedCommand::Refresh) => {}
                    Err(mpsc::TryRecvError::Empty) => break,
                    Err(mpsc::TryRecvError::Disconnected) => return,
                }
            }
            let now = Instant::now();
            if changed || now >= status_at {
                self.poll();
                status_at = now + if changed { AGAIN_AFTER } else { STATUS_EVERY };
            }
            self.transcripts.refresh(&self.status.agents, watch);
            if now >= load_at {
                self.loads.sample(&self.status.agents);
                load_at = now + LOAD_EVERY;
            }
            let fleet = self.fleet();
            if last.as_ref() != Some(&fleet) {
                inbox.publish(fleet.clone());
                bell.wake();
                last = Some(fleet);
            }
        }
    }

    fn poll(&mut self) {
        match (self.ask)() {
            Ok(status) => {
                self.status = status;
                self.stale = None;
            }
            Err(error) => self.stale = Some(format!("{error:#}")),
        }
        self.journal.read_new(&self.data_dir);
    }

    fn fleet(&self) -> FleetSnapshot {
        let name = self.followed.clone();
        FleetSnapshot {
            status: self.status.clone(),
            stale: self.stale.clone(),
            glances: self.transcripts.glances(),
            loads: self.loads.all(),
            journal: self.journal.lines.clone(),
            save: self.save(),
            disk: files::space(self.data_dir.dir()).ok(),
            machine: self
                .machine
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone(),
            transcript: name.map(|name| {
                let lines = self.transcripts.lines_of(&name);
                (name, lines)
            }),
        }
    }

    /// Returns the manifest of this boot's save, once it has been written.
    fn save(&self) -> Option<Manifest> {
        self.status.notice.as_ref()?;
        let save = state::latest_manifest(&self.data_dir.saves()).ok()??;
        (save.boot_id == self.status.boot_id).then_some(save)
    }
}

/// The end of the journal.
#[derive(Default)]
struct Journal {
    length: u64,
    lines: Vec<JournalEntry>,
}

impl Journal {
    /// Reads the end of the journal if it has grown.
    fn read_new(&mut self, data_dir: &DataDir) {
        let path = data_dir.journal();
        let length = std::fs::metadata(&path).map_or(0, |meta| meta.len());
        if length == self.length {
            return;
        }
        if let Ok((lines, _)) = state::lines_of_tail(&path, JOURNAL_BYTES) {
            self.lines = lines;
            self.length = length;
        }
    }
}

/// Asks the cloud once what kind of machine this is, in the background.
fn ask_machine(data_dir: &DataDir, bell: Bell) -> Arc<Mutex<Machine>> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let machine = Arc::new(Mutex::new(Machine {
        name: name.trim().to_owned(),
        ..Machine::default()
    }));
    let (data_dir, shared) = (data_dir.clone(), Arc::clone(&machine));
    let asked = thread::spawn("machine", move || {
        let (config, _) =
            Config::load_or_last_good(&data_dir.config(), &data_dir.config_copy()).ok()?;
        let cloud = &config.cloud;
        let metadata = Metadata::find(cloud.provider, cloud.metadata.as_deref()).ok()??;
        let preemptible = metadata.preemptible().ok()?;
        let mut machine = shared.lock().unwrap_or_else(PoisonError::into_inner);
        machine.cloud = Some("gcp".to_owned());
        machine.preemptible = preemptible;
        drop(machine);
        bell.wake();
        Some(())
    });
    if let Err(error) = asked {
        tracing::debug!("cannot ask the cloud about this machine: {error}");
    }
    machine
}
