//! Finds out how everything stands, in a thread of its own: it sleeps until a file changes, and looks
//! by itself only for what shows in no file.

use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::resource_usage::ResourceUsage;
use super::snapshot::{FleetSnapshot, Machine, News};
use super::transcripts::Transcripts;
use crate::keeper::client::places_of_change;
use crate::keeper::status::Status;
use crate::metadata::gcp::Metadata;
use state::config::Config;
use state::layout::DataDir;
use state::{AgentName, JournalEntry, Manifest};
use sys::error::{Context as _, Result};
use sys::files;
use sys::inotify::{Bell, Watch};
use sys::thread;

/// What shows in no file, such as a count of dirty files, is asked for this often.
const STATUS_EVERY: Duration = Duration::from_secs(2);

/// Between a change and the look at it: changes come in bursts, and the keeper sees them when we do.
const DEBOUNCE: Duration = Duration::from_millis(40);

/// The keeper may have been behind at the first look, so there is a second one.
const AGAIN_AFTER: Duration = Duration::from_millis(250);

/// CPU and memory are looked at this often; it takes a walk over all processes.
const LOAD_EVERY: Duration = Duration::from_secs(3);

/// The end of the journal that is shown, in bytes: some two hundred lines.
const JOURNAL_BYTES: u64 = 48 << 10;

/// Asks how everything stands.
pub type Ask = Box<dyn Fn() -> Result<Status> + Send>;

/// What has been found out and not yet been taken. Of the world only the newest counts: who is away
/// in an agent's terminal for hours finds no pile of old ones.
#[derive(Debug, Default)]
pub struct Inbox {
    fleet: Mutex<Option<Box<FleetSnapshot>>>,
    said: Mutex<Vec<News>>,
}

impl Inbox {
    /// Takes all of it.
    pub fn drain(&self) -> Vec<News> {
        let mut news =
            std::mem::take(&mut *self.said.lock().unwrap_or_else(PoisonError::into_inner));
        let fleet = self
            .fleet
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        news.extend(fleet.map(News::FleetSnapshot));
        news
    }

    /// Adds what a command said.
    pub fn send(&self, news: News) {
        self.said
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(news);
    }

    fn publish(&self, fleet: FleetSnapshot) {
        *self.fleet.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(fleet));
    }
}

enum FeedCommand {
    /// Whose words are wanted.
    Listen(Option<AgentName>),
    /// Something was done: look.
    Theme,
}

/// Gives orders to the thread.
#[derive(Debug)]
pub struct Feed {
    orders: Sender<FeedCommand>,
    bell: Bell,
}

impl Feed {
    /// Takes a first look, and starts the thread, which rings `bell` when there is news in `inbox`.
    ///
    /// # Errors
    /// How things stand cannot be told at all; the system has no thread left.
    pub fn spawn(
        data_dir: &DataDir,
        ask: Ask,
        inbox: &Arc<Inbox>,
        bell: Bell,
    ) -> Result<(Self, FleetSnapshot)> {
        let watch = Watch::new()?;
        let (orders, queue) = mpsc::channel();
        let feed = Self {
            orders,
            bell: watch.bell(),
        };
        let mut eyes = Watcher::open(data_dir.clone(), ask, &watch)?;
        let first = eyes.fleet();
        let inbox = Arc::clone(inbox);
        thread::spawn("feed", move || eyes.run(&watch, &queue, &inbox, &bell))
            .context("cannot start a thread")?;
        Ok((feed, first))
    }

    /// Tells from now on what this agent says.
    pub fn listen(&self, name: Option<AgentName>) {
        self.order(FeedCommand::Listen(name));
    }

    /// Looks now, since something was done.
    pub fn refresh(&self) {
        self.order(FeedCommand::Theme);
    }

    fn order(&self, order: FeedCommand) {
        // A feed that has ended is noticed where its thread is.
        self.orders.send(order).ok();
        self.bell.retention();
    }
}

/// All that is looked at.
struct Watcher {
    data_dir: DataDir,
    ask: Ask,
    status: Status,
    stale: Option<String>,
    transcripts: Transcripts,
    loads: ResourceUsage,
    journal: Journal,
    machine: Arc<Mutex<Machine>>,
    listens_to: Option<AgentName>,
}

impl Watcher {
    fn open(data_dir: DataDir, ask: Ask, watch: &Watch) -> Result<Self> {
        let status = ask()?;
        let projects = data_dir.claude().join("projects");
        for dir in places_of_change(&data_dir).iter().chain([&projects]) {
            // One that is not there yet is looked into every few seconds all the same.
            watch.add(dir).ok();
        }
        let mut eyes = Self {
            transcripts: Transcripts::new(data_dir.claude(), watch.bell()),
            loads: ResourceUsage::default(),
            journal: Journal::default(),
            machine: ask_machine(&data_dir, watch.bell()),
            listens_to: None,
            stale: None,
            data_dir,
            ask,
            status,
        };
        eyes.transcripts.refresh(&eyes.status.agents, watch);
        eyes.loads.sample(&eyes.status.agents);
        eyes.journal.read_new(&eyes.data_dir);
        Ok(eyes)
    }

    fn run(&mut self, watch: &Watch, orders: &Receiver<FeedCommand>, inbox: &Inbox, bell: &Bell) {
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
                match orders.try_recv() {
                    Ok(FeedCommand::Listen(name)) => self.listens_to = name,
                    Ok(FeedCommand::Theme) => {}
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
                bell.retention();
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
        let name = self.listens_to.clone();
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
            words: name.map(|name| {
                let words = self.transcripts.lines_of(&name);
                (name, words)
            }),
        }
    }

    /// The save that this boot's notice led to, once it has written something down.
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
    /// Reads it again where it has grown: the end of it only.
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

/// Asks once what kind of machine this is; nobody waits for the answer.
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
        bell.retention();
        Some(())
    });
    if let Err(error) = asked {
        tracing::debug!("the machine is not asked: {error}");
    }
    machine
}
