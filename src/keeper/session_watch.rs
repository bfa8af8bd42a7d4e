//! Session watch: a thread that follows the session files and transcripts of running agents.
//!
//! Transcripts that grew are made durable each second, so that a machine that ends without a notice
//! loses at most the last two seconds of a transcript.

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

/// How often transcripts are read and synced.
const EVERY: Duration = Duration::from_secs(1);

/// How often a data directory with its own filesystem is synced as a whole: workspaces lose at most
/// what was written since.
const SYNC_EVERY: Duration = Duration::from_secs(5);

/// How often, at most, the thread reports that the model answered an agent.
const ANSWERS_EVERY: Duration = Duration::from_secs(10);

/// A report of the follower.
#[derive(Debug)]
pub enum WatchReport {
    /// An event for the supervisor.
    Event(Event),
    /// A transcript was seen for the first time, or a turn ended: it is durable up to the mark.
    Durable {
        /// The agent.
        name: AgentName,
        /// How much of the transcript is durable.
        mark: TranscriptMark,
    },
}

enum WatchCommand {
    Follow {
        name: AgentName,
        process: ProcessId,
    },
    Leave(AgentName),
    /// The data directory is back: the kernel needs new watches on its directories.
    WatchAgain,
}

/// A handle to the session watch.
#[derive(Debug, Clone)]
pub struct Follower {
    orders: Sender<WatchCommand>,
    bell: Bell,
}

impl Follower {
    /// Starts the thread.
    ///
    /// # Errors
    /// The thread or the inotify watch cannot be started.
    pub fn spawn(
        data_dir: DataDir,
        deliver: impl Fn(WatchReport) + Send + 'static,
    ) -> Result<Self> {
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

    /// Stops following an agent.
    pub fn leave(&self, name: AgentName) {
        self.order(WatchCommand::Leave(name));
    }

    /// Watches the directory of session files again, after an outage of the data directory.
    pub fn watch_again(&self) {
        self.order(WatchCommand::WatchAgain);
    }

    fn order(&self, order: WatchCommand) {
        // The thread ends only with the keeper.
        self.orders.send(order).ok();
        self.bell.wake();
    }
}

fn run(
    data_dir: &DataDir,
    watch: &Watch,
    orders: &Receiver<WatchCommand>,
    deliver: &dyn Fn(WatchReport),
) {
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
                    // Without the watch, the sessions are still polled each second.
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

/// Syncs a data directory with its own filesystem for as long as the process lives. A separate
/// thread does it, so that a slow disk delays nothing else.
///
/// # Errors
/// The thread cannot be started.
pub fn sync_forever(data_dir: &DataDir) -> Result<()> {
    let data_dir = data_dir.clone();
    thread::spawn("sync", move || {
        // Begin at once: agents may have written while no keeper ran.
        loop {
            // Sync only if the path still is this data directory.
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
    /// The API error that the transcript ended with when it was first read.
    inherited: Option<String>,
    /// When an answer of the model was last reported.
    answered_at: Option<Instant>,
}

struct Transcript {
    /// Messages of the model that were reported.
    answers: u64,
    session_id: String,
    reader: Reader,
    tail: TailState,
    synced: u64,
    reported: bool,
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
        deliver: &dyn Fn(WatchReport),
    ) {
        let Some(file) = session_file::read(&data_dir.claude(), self.process.pid) else {
            return;
        };
        // Without a status Claude Code is not up yet: it may show a dialog.
        let Some(status) = file.status.clone().filter(|_| file.process == self.process) else {
            return;
        };
        let turn_ended = matches!(status, Status::Idle)
            && matches!(self.last, Some((_, Activity::Busy | Activity::Waiting(_))));
        // The first report of a process needs to know how an earlier process ended.
        if transcripts_due || turn_ended || self.last.is_none() {
            self.read_transcript(data_dir, name, &file, turn_ended, deliver);
        }
        if self.last.is_none() {
            let stop = |transcript: &Transcript| transcript.tail.last_stop().map(str::to_owned);
            self.inherited = self.transcript.as_ref().and_then(stop);
        }
        let activity = self.activity(status);
        let is_reported = self.last.as_ref().is_some_and(|(session_id, last)| {
            *session_id == file.session_id && last.says_the_same(&activity)
        });
        if !is_reported {
            self.last = Some((file.session_id.clone(), activity.clone()));
            deliver(WatchReport::Event(Event::Session {
                name: name.clone(),
                process: self.process,
                session_id: file.session_id,
                activity,
            }));
        }
        self.report_answers(name, deliver);
    }

    /// Reports answers of the model, after the report of the activity: an answer that came before
    /// an API error must not count as newer than the error.
    fn report_answers(&mut self, name: &AgentName, deliver: &dyn Fn(WatchReport)) {
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
        deliver(WatchReport::Event(Event::Answered {
            name: name.clone(),
            process: self.process,
        }));
    }

    fn activity(&self, status: Status) -> Activity {
        match status {
            // At a limit Claude Code asks what to do; its first answer is to wait for the limit's
            // end.
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

    /// Returns the API error that the transcript ends with.
    fn stall(&self) -> Option<Stall> {
        let tail = &self.transcript.as_ref()?.tail;
        let Tail::StoppedByApi { reason, text } = tail.tail() else {
            return None;
        };
        let ends_in = match reason {
            // The API gives a moment; it is compared with this machine's clock once, here.
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

    /// Reads what was added to the transcript and makes it durable.
    fn read_transcript(
        &mut self,
        data_dir: &DataDir,
        name: &AgentName,
        file: &SessionFile,
        turn_ended: bool,
        deliver: &dyn Fn(WatchReport),
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
        let is_new = !transcript.reported;
        if is_new && let Some(dir) = path.parent() {
            files::sync_dir(dir).ok();
        }
        if is_new || turn_ended {
            transcript.reported = true;
            let mark = TranscriptMark {
                session_id: file.session_id.clone(),
                path: relative(&path, &data_dir.claude()),
                generation: mark.generation,
                length: mark.offset,
            };
            deliver(WatchReport::Durable {
                name: name.clone(),
                mark,
            });
        }
    }
}

/// Opens the transcript of a session, once it is on the disk and not empty.
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
        reported: false,
    })
}

fn relative(path: &Path, dir: &Path) -> PathBuf {
    path.strip_prefix(dir).unwrap_or(path).to_path_buf()
}
