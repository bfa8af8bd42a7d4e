//! The thread that makes decisions durable: the records of agents, and the journal.
//!
//! There is one queue, so the order on the disk is the order in which the orders were given. Each order has an [`Answer`], which
//! is given once: when the disk has taken it, when it refused, when the queue is full, or when this thread is gone. The main loop
//! takes an answer as a message and holds back what must not be done before (`order.rs`). A disk that hangs stops this thread, and
//! the launch that waits for it; it does not stop the loop.
//!
//! # A save beside a writer that hangs
//!
//! A save has threads of its own and does not wait for this one, but for a moment: until the line of the notice is durable. A
//! writer that hangs already is not waited for at all. The two meet in no file:
//!
//! * Records are written by this thread alone. A save reads them from the memory of the records, which is ahead of the disk and not
//!   locked while the disk is at work; it changes none. What the loop changes meanwhile, such as what became durable of a
//!   transcript, is written here as ever. How an agent ended in a save is in no record, only in the manifest.
//! * The journal is written by this thread alone. A save gives its lines to this queue and waits no longer than its own limit. A
//!   line that comes late is written behind those before it, with the time at which it was given.
//! * Manifests are written by the save alone.
//! * `syncfs` of the save makes durable what this thread has written so far. What is still in the queue syncs itself.
//!
//! A launch that was waiting here when the notice came looks at the launch gate again before it asks tmux.
//!
//! # The end
//!
//! A keeper that ends lets the queue run empty, for so long. After that the rest is given up, and the lock on the data directory is not
//! released but by the end of the process: no other keeper begins while a call of this one may still change a file.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use state::{AgentName, Journal, JournalEvent};
use sys::deadline::Deadline;
use sys::error::{Context as _, Result, anyhow};
use sys::thread;
use sys::time::{Timestamp, short};

/// Orders that may wait. One is some kilobytes at most.
const LIMIT: usize = 1024;

/// A disk that takes longer for one write is told of.
const TOLD_AFTER: Duration = Duration::from_secs(5);

/// Of these there are few, and a later keeper decides by them: a queue that is full takes them too.
fn is_vital(what: &JournalEvent) -> bool {
    matches!(
        what,
        JournalEvent::Notice { .. }
            | JournalEvent::Safe { .. }
            | JournalEvent::Saved { .. }
            | JournalEvent::Survived { .. }
    )
}

/// Where the outcome of an order goes. Dropped, it tells that nothing was written.
pub struct Answer(Option<Box<dyn FnOnce(Result<()>) + Send>>);

impl Answer {
    /// An answer that is handed to `told`, in the thread of the writer.
    pub fn to(told: impl FnOnce(Result<()>) + Send + 'static) -> Self {
        Self(Some(Box::new(told)))
    }

    /// An answer that is waited for.
    pub fn awaited() -> (Self, Awaited) {
        let (sender, receiver) = mpsc::channel();
        let told = move |result| {
            sender.send(result).ok();
        };
        (Self::to(told), Awaited(receiver))
    }

    /// Gives it.
    pub fn send(mut self, result: Result<()>) {
        if let Some(told) = self.0.take() {
            told(result);
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let Some(told) = self.0.take() {
            told(Err(anyhow!(
                "not written: the keeper ends, or its writer has ended"
            )));
        }
    }
}

/// An answer to come.
#[derive(Debug)]
pub struct Awaited(Receiver<Result<()>>);

impl Awaited {
    /// Waits for it, however long the disk takes.
    ///
    /// # Errors
    /// The order was not carried out.
    pub fn wait(self) -> Result<()> {
        self.0.recv().context("the writer has ended")?
    }

    /// Waits for it until then; `None` where it has not come.
    pub fn wait_until(&self, until: Deadline) -> Option<Result<()>> {
        self.0.recv_timeout(until.remaining()).ok()
    }
}

type WriteTask = Box<dyn FnOnce(&mut Journal) + Send>;

/// The way to the thread.
#[derive(Debug, Clone)]
pub struct Writer {
    orders: Sender<WriteTask>,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Orders that were given and not begun.
    waiting: AtomicUsize,
    /// When the order at work was begun.
    at_work: Mutex<Option<Instant>>,
    given_up: AtomicBool,
    /// Vital lines that the disk has refused: they are written before the next line.
    refused: Mutex<VecDeque<Line>>,
}

/// When, to whom, and what.
type Line = (Timestamp, Option<AgentName>, JournalEvent);

impl State {
    fn write(&self, journal: &mut Journal, line: Line, is_vital: bool) -> Result<()> {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let mut write = |(at, agent, what): &Line| journal.write_at(*at, agent.as_ref(), what);
        let mut written = Ok(());
        while written.is_ok()
            && let Some(first) = refused.front()
        {
            written = write(first);
            if written.is_ok() {
                refused.pop_front();
            }
        }
        let written = written.and_then(|()| write(&line));
        if written.is_err() && is_vital {
            refused.push_back(line);
        }
        written
    }

    fn at_work(&self) -> MutexGuard<'_, Option<Instant>> {
        self.at_work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Writer {
    /// Starts the thread, which has the journal from now on.
    ///
    /// # Errors
    /// No thread can be had.
    pub fn start(mut journal: Journal) -> Result<Self> {
        let (orders, queue) = mpsc::channel::<WriteTask>();
        let state = Arc::new(State::default());
        let of_thread = Arc::clone(&state);
        thread::spawn("writer", move || {
            for order in queue {
                of_thread.waiting.fetch_sub(1, Ordering::SeqCst);
                if of_thread.given_up.load(Ordering::SeqCst) {
                    continue;
                }
                *of_thread.at_work() = Some(Instant::now());
                order(&mut journal);
                *of_thread.at_work() = None;
            }
        })
        .context("cannot start the thread that writes")?;
        Ok(Self { orders, state })
    }

    /// Has something done behind all orders so far. Its answer is given at once where the queue is full.
    pub fn order(
        &self,
        work: impl FnOnce(&mut Journal) -> Result<()> + Send + 'static,
        answer: Answer,
    ) {
        if self.state.waiting.load(Ordering::SeqCst) >= LIMIT {
            let why = "the disk does not answer, and too much waits for it";
            return answer.send(Err(anyhow!(why)));
        }
        self.order_anyhow(move |journal| answer.send(work(journal)));
    }

    /// As [`Writer::order`], also where the queue is full: for what is asked one at a time. Where it is never done, `work` is
    /// dropped.
    pub fn order_anyhow(&self, work: impl FnOnce(&mut Journal) + Send + 'static) {
        self.state.waiting.fetch_add(1, Ordering::SeqCst);
        // Where the thread is gone, the order is dropped, and says so.
        self.orders.send(Box::new(work)).ok();
    }

    /// Has a line written into the journal, with the time of now.
    pub fn line(&self, agent: Option<&AgentName>, what: &JournalEvent, answer: Answer) {
        let line = (Timestamp::now(), agent.cloned(), what.clone());
        let is_vital = is_vital(what);
        let state = Arc::clone(&self.state);
        let write = move |journal: &mut Journal| state.write(journal, line, is_vital);
        match is_vital {
            true => self.order_anyhow(move |journal| answer.send(write(journal))),
            false => self.order(write, answer),
        }
    }

    /// As [`Writer::line`], and waits until it is durable.
    ///
    /// # Errors
    /// The disk is full or gone.
    pub fn line_and_wait(&self, agent: Option<&AgentName>, what: &JournalEvent) -> Result<()> {
        let (answer, awaited) = Answer::awaited();
        self.line(agent, what, answer);
        awaited.wait()
    }

    /// Comes when all orders so far are done.
    pub fn all_so_far(&self) -> Awaited {
        let (answer, awaited) = Answer::awaited();
        self.order_anyhow(move |_| answer.send(Ok(())));
        awaited
    }

    /// How long the order at work has taken so far.
    #[must_use]
    pub fn at_work_for(&self) -> Option<Duration> {
        self.state.at_work().map(|since| since.elapsed())
    }

    /// What people are told of a disk that hangs.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        let span = self.at_work_for().filter(|span| *span >= TOLD_AFTER)?;
        Some(format!(
            "the disk has not answered for {}; nothing is started until it does",
            short(span)
        ))
    }

    /// Does what is left, until `until` at most, and gives up the rest. Returns whether all of it was done.
    pub fn finish(&self, until: Deadline) -> bool {
        let (answer, awaited) = Answer::awaited();
        let state = Arc::clone(&self.state);
        // By the thread itself, so that it begins nothing else behind this.
        self.order_anyhow(move |_| {
            state.given_up.store(true, Ordering::SeqCst);
            answer.send(Ok(()));
        });
        let is_done = matches!(awaited.wait_until(until), Some(Ok(())));
        self.state.given_up.store(true, Ordering::SeqCst);
        is_done
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use state::lines;
    use testing::wait::FOREVER;

    /// A writer whose disk hangs until the sender is used or dropped.
    pub(in crate::keeper) fn hanging(path: &std::path::Path) -> (Writer, Sender<()>) {
        let writer = Writer::start(Journal::open(path, "r", 1, "l").unwrap()).unwrap();
        let thaw = hang(&writer);
        (writer, thaw)
    }

    fn hang(writer: &Writer) -> Sender<()> {
        let (thaw, frozen) = mpsc::channel::<()>();
        let (begun, begins) = mpsc::channel();
        writer.order_anyhow(move |_| {
            begun.send(()).unwrap();
            frozen.recv().ok();
        });
        begins.recv().unwrap();
        thaw
    }

    fn reason(number: usize) -> JournalEvent {
        JournalEvent::Stopped {
            by: number.to_string(),
        }
    }

    #[test]
    fn what_is_ordered_while_the_disk_hangs_is_written_in_its_order_once_it_answers() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.jsonl");
        let (writer, thaw) = hanging(&path);
        let (told, answers) = mpsc::channel();
        for number in 0..5 {
            let told = told.clone();
            let answer = Answer::to(move |result| told.send((number, result.is_ok())).unwrap());
            writer.line(None, &reason(number), answer);
        }
        assert!(answers.try_recv().is_err());
        assert!(writer.at_work_for().is_some());
        drop((thaw, told));
        let answers: Vec<_> = answers.iter().collect();
        assert_eq!(answers, (0..5).map(|n| (n, true)).collect::<Vec<_>>());
        let (lines, torn) = lines(&path).unwrap();
        let by: Vec<_> = lines.iter().map(|line| line.data()["by"].clone()).collect();
        assert_eq!(
            (by, torn),
            (
                vec!["0", "1", "2", "3", "4"]
                    .into_iter()
                    .map(Into::into)
                    .collect(),
                0
            )
        );
    }

    #[test]
    fn a_queue_that_is_full_refuses_at_once_and_still_takes_the_line_of_a_notice() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.jsonl");
        let (writer, thaw) = hanging(&path);
        for number in 0..LIMIT {
            writer.line(None, &reason(number), Answer::to(drop));
        }
        assert!(writer.line_and_wait(None, &reason(LIMIT)).is_err());
        let (answer, notice) = Answer::awaited();
        let what = JournalEvent::Notice {
            source: "metadata".into(),
            deadline_ms: None,
        };
        writer.line(None, &what, answer);
        drop(thaw);
        notice.wait().unwrap();
        let (lines, _) = lines(&path).unwrap();
        assert_eq!(lines.len(), LIMIT + 1);
        assert!(matches!(lines[LIMIT].event, JournalEvent::Notice { .. }));
    }

    #[test]
    fn the_line_of_a_notice_that_was_refused_is_written_before_the_next_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.jsonl");
        let mut journal = Journal::open(&path, "r", 1, "l").unwrap();
        // Away with its disk, it refuses every line.
        journal.release();
        let writer = Writer::start(journal).unwrap();
        let notice = JournalEvent::Notice {
            source: "metadata".into(),
            deadline_ms: None,
        };
        assert!(writer.line_and_wait(None, &notice).is_err());
        assert!(writer.line_and_wait(None, &reason(0)).is_err());
        writer.order_anyhow(|journal| journal.take_up().unwrap());
        writer.line_and_wait(None, &reason(1)).unwrap();
        let (lines, _) = lines(&path).unwrap();
        assert!(matches!(lines[0].event, JournalEvent::Notice { .. }));
        assert_eq!(lines.len(), 2, "what is not vital is told and not kept");
    }

    #[test]
    fn a_keeper_that_ends_waits_for_the_disk_only_so_long_and_gives_up_the_rest() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.jsonl");
        let (writer, thaw) = hanging(&path);
        let (answer, late) = Answer::awaited();
        writer.line(None, &reason(1), answer);
        assert!(!writer.finish(Deadline::after(Duration::from_millis(1))));
        drop(thaw);
        assert!(late.wait().is_err());
        assert!(lines(&path).unwrap().0.is_empty());
        // One whose disk answers has written all of it.
        let writer = Writer::start(Journal::open(&path, "r", 1, "l").unwrap()).unwrap();
        writer.line(None, &reason(1), Answer::to(drop));
        assert!(writer.finish(Deadline::after(FOREVER)));
        assert_eq!(lines(&path).unwrap().0.len(), 1);
    }

    #[test]
    fn an_order_that_panics_is_answered_and_so_are_all_behind_it() {
        let dir = tempfile::tempdir().unwrap();
        let (writer, thaw) = hanging(&dir.path().join("journal.jsonl"));
        let (first, of_first) = Answer::awaited();
        writer.order(|_| panic!("on purpose"), first);
        let (second, of_second) = Answer::awaited();
        writer.line(None, &reason(1), second);
        drop(thaw);
        assert!(of_first.wait().is_err());
        assert!(of_second.wait().is_err());
        assert!(writer.line_and_wait(None, &reason(2)).is_err());
    }
}
