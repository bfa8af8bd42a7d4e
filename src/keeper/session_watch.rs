//! The thread that follows running agents: what Claude says of itself, and what it writes down.
//!
//! Transcripts that grew are made durable each second, so that a machine that is taken without a
//! notice loses at most the last two seconds of a transcript.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};

use claude::session_file::{self, SessionFile, Status};
use claude::{ApiStop, Reader, Tail, TailState, TranscriptLookup};
use state::layout::DataDir;
use state::{AgentName, TranscriptMark};
use supervisor::{Activity, Event, Stall};
use sys::error::{Context as _, Result};
use sys::files;
use sys::inotify::{Bell, Watch};
use sys::process::ProcessId;
use sys::thread;
use sys::time::Timestamp;

/// How often transcripts are looked at and synced.
const EVERY: Duration = Duration::from_secs(1);

/// How often a whole filesystem of our own is synced: workspaces lose at most what was written
/// since.
const SYNC_EVERY: Duration = Duration::from_secs(5);

/// That an agent is answered is told as often as this.
const ANSWERS_EVERY: Duration = Duration::from_secs(10);

/// What the follower tells.
#[derive(Debug)]
pub enum News {
    /// For the supervisor.
    Event(Event),
    /// A transcript was seen for the first time, or a turn ended: this much of it is durable.
    Durable {
        /// Whose.
        name: AgentName,
        /// How much.
        mark: TranscriptMark,
    },
}

enum WatchCommand {
    Follow {
        name: AgentName,
        process: ProcessId,
    },
    Leave(AgentName),
    /// The data directory is there again: its directories are others to the kernel.
    WatchAgain,
}

/// Gives orders to the thread.
#[derive(Debug, Clone)]
pub struct Follower {
    orders: Sender<WatchCommand>,
    bell: Bell,
}

impl Follower {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system has no thread or no notices of changes left.
    pub fn spawn(data_dir: DataDir, deliver: impl Fn(News) + Send + 'static) -> Result<Self> {
        let watch = Watch::new()?;
        let sessions = session_file::sessions_dir(&data_dir.claude());
        files::create_private_dir(&sessions)?;
        watch.add(&sessions)?;
        let (orders, queue) = mpsc::channel();
        let bell = watch.bell();
        thread::spawn("follow", move || run(&data_dir, &watch, &queue, &deliver))
            .context("cannot start the follower thread")?;
        Ok(Self { orders, bell })
    }

    /// Follows an agent's process from now on.
    pub fn follow(&self, name: AgentName, process: ProcessId) {
        self.order(WatchCommand::Follow { name, process });
    }

    /// Follows it no longer.
    pub fn leave(&self, name: AgentName) {
        self.order(WatchCommand::Leave(name));
    }

    /// Watches the directory of session files anew, after the data directory was away.
    pub fn watch_again(&self) {
        self.order(WatchCommand::WatchAgain);
    }

    fn order(&self, order: WatchCommand) {
        // A follower that has ended has nobody left to follow either.
        self.orders.send(order).ok();
        self.bell.retention();
    }
}

fn run(data_dir: &DataDir, watch: &Watch, orders: &Receiver<WatchCommand>, deliver: &dyn Fn(News)) {
    let mut followed: BTreeMap<AgentName, Followed> = BTreeMap::new();
    let mut transcripts_at = Instant::now();
    loop {
        loop {
            match orders.try_recv() {
                Ok(WatchCommand::Follow { name, process }) => {
                    followed.insert(name, Followed::new(process));
                }
                Ok(WatchCommand::Leave(name)) => {
                    followed.remove(&name);
                }
                Ok(WatchCommand::WatchAgain) => {
                    // Without the watch it is looked each second all the same.
                    watch
                        .add(&session_file::sessions_dir(&data_dir.claude()))
                        .ok();
                }
                Err(mpsc::TryRecvError::Empty) => break,
                Err(mpsc::TryRecvError::Disconnected) => return,
            }
        }
        let now = Instant::now();
        let transcripts_due = now >= transcripts_at;
        if transcripts_due {
            transcripts_at = now + EVERY;
        }
        for (name, agent) in &mut followed {
            agent.poll(data_dir, name, transcripts_due, deliver);
        }
        let pause = if followed.is_empty() {
            SYNC_EVERY
        } else {
            transcripts_at - now.min(transcripts_at)
        };
        watch.wait(pause);
    }
}

/// Syncs a data directory that is a filesystem of its own, for as long as the process lives. In a thread of
/// its own, since a slow disk takes its time.
///
/// # Errors
/// No thread can be had.
pub fn sync_forever(data_dir: &DataDir) -> Result<()> {
    let data_dir = data_dir.clone();
    thread::spawn("sync", move || {
        // At once: agents may have written for as long as there was no keeper.
        loop {
            // What is there instead is not ours to sync.
            if data_dir.ensure_there().is_ok()
                && let Err(error) = files::sync_filesystem(data_dir.dir())
            {
                tracing::error!("cannot sync {}: {error}", data_dir.dir().display());
            }
            std::thread::sleep(SYNC_EVERY);
        }
    })
    .context("cannot start the sync thread")?;
    Ok(())
}

/// One agent that is followed.
struct Followed {
    process: ProcessId,
    last: Option<(String, Activity)>,
    transcript: Option<Transcript>,
    /// The stop that the transcript ended with at the first look.
    inherited: Option<String>,
    /// When it was last told that it is answered.
    answered_at: Option<Instant>,
}

struct Transcript {
    /// Messages of the model that were told of.
    answers: u64,
    session_id: String,
    reader: Reader,
    tail: TailState,
    synced: u64,
    told: bool,
}

impl Followed {
    fn new(process: ProcessId) -> Self {
        Self {
            process,
            last: None,
            transcript: None,
            inherited: None,
            answered_at: None,
        }
    }

    fn poll(
        &mut self,
        data_dir: &DataDir,
        name: &AgentName,
        transcripts_due: bool,
        deliver: &dyn Fn(News),
    ) {
        let Some(file) = session_file::read(&data_dir.claude(), self.process.pid) else {
            return;
        };
        // Without a status Claude is not up yet: a dialog may be in front of it.
        let Some(status) = file.status.clone().filter(|_| file.process == self.process) else {
            return;
        };
        let turn_ended = matches!(status, Status::Idle)
            && matches!(self.last, Some((_, Activity::Busy | Activity::Waiting(_))));
        // The first news of a process tells what an earlier one came to.
        if transcripts_due || turn_ended || self.last.is_none() {
            self.read_words(data_dir, name, &file, turn_ended, deliver);
        }
        if self.last.is_none() {
            let stop = |transcript: &Transcript| transcript.tail.last_stop().map(str::to_owned);
            self.inherited = self.transcript.as_ref().and_then(stop);
        }
        let activity = self.activity(status);
        let told = self.last.as_ref().is_some_and(|(session_id, last)| {
            *session_id == file.session_id && last.says_the_same(&activity)
        });
        if !told {
            self.last = Some((file.session_id.clone(), activity.clone()));
            deliver(News::Event(Event::Session {
                name: name.clone(),
                process: self.process,
                session_id: file.session_id,
                activity,
            }));
        }
        self.report_answers(name, deliver);
    }

    /// After the news of what it is doing: an answer before a stop is older than the stop.
    fn report_answers(&mut self, name: &AgentName, deliver: &dyn Fn(News)) {
        let Some(transcript) = &mut self.transcript else {
            return;
        };
        let answers = transcript.tail.answers();
        let recently = self
            .answered_at
            .is_some_and(|at| at.elapsed() < ANSWERS_EVERY);
        if answers == transcript.answers || recently {
            return;
        }
        transcript.answers = answers;
        self.answered_at = Some(Instant::now());
        deliver(News::Event(Event::Answered {
            name: name.clone(),
            process: self.process,
        }));
    }

    fn activity(&self, status: Status) -> Activity {
        match status {
            // At a limit Claude asks what to do; that it waits for it is the first answer.
            Status::Waiting { for_what } => match self.stall() {
                Some(stall) if matches!(stall.stop, ApiStop::Limit { .. }) => {
                    Activity::Stalled(Stall {
                        dialog: true,
                        ..stall
                    })
                }
                _ => Activity::Waiting(for_what),
            },
            Status::Idle => self.stall().map_or(Activity::Idle, Activity::Stalled),
            _ => Activity::Busy,
        }
    }

    /// The stop that the transcript ends with.
    fn stall(&self) -> Option<Stall> {
        let tail = &self.transcript.as_ref()?.tail;
        let Tail::StoppedByApi { reason, text } = tail.tail() else {
            return None;
        };
        let ends_in = match reason {
            // The moment is the API's, and this machine's clock is asked once how far off it is.
            ApiStop::Limit { until } => until.map(|until| until.since(Timestamp::now())),
            _ => None,
        };
        Some(Stall {
            stop: reason,
            text,
            id: tail.last_stop().unwrap_or_default().to_owned(),
            in_a_row: tail.stops_in_a_row(),
            ends_in,
            dialog: false,
            inherited: tail.last_stop() == self.inherited.as_deref(),
        })
    }

    /// Reads what was added to the transcript, and makes it durable.
    fn read_words(
        &mut self,
        data_dir: &DataDir,
        name: &AgentName,
        file: &SessionFile,
        turn_ended: bool,
        deliver: &dyn Fn(News),
    ) {
        if self
            .transcript
            .as_ref()
            .is_none_or(|transcript| transcript.session_id != file.session_id)
        {
            self.transcript = open(&data_dir.claude(), &file.session_id);
        }
        let Some(transcript) = &mut self.transcript else {
            return;
        };
        let records = match transcript.reader.poll() {
            Ok(records) => records,
            Err(error) => {
                tracing::warn!("cannot read the transcript of {name}: {error}");
                return;
            }
        };
        for record in &records {
            transcript.tail.push(record);
        }
        let path = transcript.reader.path().to_path_buf();
        let mark = transcript.reader.mark();
        if !records.is_empty() || mark.offset != transcript.synced {
            match files::sync_file(&path) {
                Ok(_) => transcript.synced = mark.offset,
                Err(error) => tracing::error!("cannot sync {}: {error}", path.display()),
            }
        }
        let is_new = !transcript.told;
        if is_new && let Some(dir) = path.parent() {
            files::sync_dir(dir).ok();
        }
        if is_new || turn_ended {
            transcript.told = true;
            let mark = TranscriptMark {
                session_id: file.session_id.clone(),
                path: relative(&path, &data_dir.claude()),
                generation: mark.generation,
                length: mark.offset,
            };
            deliver(News::Durable {
                name: name.clone(),
                mark,
            });
        }
    }
}

/// Opens the transcript of a session once a word of it is on the disk.
fn open(config_dir: &Path, session_id: &str) -> Option<Transcript> {
    let TranscriptLookup::Present(path) = claude::locate(config_dir, session_id) else {
        return None;
    };
    let (tail, reader) = claude::transcript::tail::read(&path).ok()?;
    Some(Transcript {
        answers: tail.answers(),
        session_id: session_id.to_owned(),
        reader,
        tail,
        synced: u64::MAX,
        told: false,
    })
}

fn relative(path: &Path, dir: &Path) -> PathBuf {
    path.strip_prefix(dir).unwrap_or(path).to_path_buf()
}
