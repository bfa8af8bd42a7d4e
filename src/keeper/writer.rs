//! Writer: a thread that writes agent records and the journal, and makes them durable.
//!
//! There is one queue, so writes reach the disk in the order in which they were ordered. Each order
//! has an [`Answer`], which is given once: when the write is durable, when the disk refused it,
//! when the queue is full, or when this thread has ended. The main loop gets an answer as a
//! message, and holds back the actions that must not happen before it (`held_actions.rs`). A disk
//! that hangs stops this thread, and a launch that waits for it; it does not stop the loop.
//!
//! # A save beside a writer that hangs
//!
//! A save has its own threads. It waits only a moment for this one, until the line of the notice is
//! durable, and not at all for a writer that hangs already. The two never write the same file:
//!
//! * Only this thread writes records. A save reads them from memory, which is ahead of the disk and
//!   not locked during a write, and changes none. Changes that the loop makes meanwhile, for
//!   example a transcript's mark, are written here as usual. How a save ended an agent is not in
//!   the record, only in the manifest.
//! * Only this thread writes the journal. A save adds its lines to this queue and waits no longer
//!   than its own limit. A late line is written after the earlier ones, with the time at which it
//!   was added.
//! * Only the save writes manifests.
//! * `syncfs` of the save makes durable what this thread has written so far. Writes that are still
//!   in the queue are synced one by one.
//!
//! A launch that waited here when the notice came checks the launch gate again before it asks tmux.
//!
//! # End of the keeper
//!
//! A keeper that ends waits for the queue, up to a limit, and then gives up the rest. In that case
//! the lock on the data directory is released only by the end of the process, so that no other
//! keeper starts while a call of this one may still change a file.

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

/// How many orders may wait. One has some kilobytes at most.
const LIMIT: usize = 1024;

/// A disk that takes longer than this for one write is reported.
const REPORT_AFTER: Duration = Duration::from_secs(5);

/// Returns whether a full queue takes this line too: there are few of these, and a later keeper
/// decides by them.
fn is_vital(what: &JournalEvent) -> bool {
    matches!(
        what,
        JournalEvent::Notice { .. }
            | JournalEvent::Safe { .. }
            | JournalEvent::Saved { .. }
            | JournalEvent::Survived { .. }
    )
}

/// The receiver of an order's result. If it is dropped, the result is an error: nothing was
/// written.
pub struct Answer(Option<Box<dyn FnOnce(Result<()>) + Send>>);

impl Answer {
    /// Returns an answer whose result is passed to `receive`, on the writer's thread.
    pub fn to(receive: impl FnOnce(Result<()>) + Send + 'static) -> Self {
        Self(Some(Box::new(receive)))
    }

    /// Returns an answer, and the other end, which waits for it.
    pub fn awaited() -> (Self, Awaited) {
        let (sender, receiver) = mpsc::channel();
        let receive = move |result| {
            sender.send(result).ok();
        };
        (Self::to(receive), Awaited(receiver))
    }

    /// Gives the result.
    pub fn send(mut self, result: Result<()>) {
        if let Some(receive) = self.0.take() {
            receive(result);
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let Some(receive) = self.0.take() {
            receive(Err(anyhow!(
                "not written: the keeper ends, or its writer has ended"
            )));
        }
    }
}

/// A result to wait for.
#[derive(Debug)]
pub struct Awaited(Receiver<Result<()>>);

impl Awaited {
    /// Waits for the result, however long the disk takes.
    ///
    /// # Errors
    /// The order was not carried out.
    pub fn wait(self) -> Result<()> {
        self.0.recv().context("the writer has ended")?
    }

    /// Waits for the result until `until`; `None` where it has not come.
    pub fn wait_until(&self, until: Deadline) -> Option<Result<()>> {
        self.0.recv_timeout(until.remaining()).ok()
    }
}

type WriteTask = Box<dyn FnOnce(&mut Journal) + Send>;

/// A handle to the writer's thread.
#[derive(Debug, Clone)]
pub struct Writer {
    orders: Sender<WriteTask>,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Orders that were given and not begun.
    waiting: AtomicUsize,
    /// When the order under way was begun.
    at_work: Mutex<Option<Instant>>,
    given_up: AtomicBool,
    /// Vital lines that the disk has refused: they are written before the next line.
    refused: Mutex<VecDeque<PendingLine>>,
}

/// A journal line before it is written: its time, its agent, and its event.
type PendingLine = (Timestamp, Option<AgentName>, JournalEvent);

impl State {
    fn write(&self, journal: &mut Journal, line: PendingLine, is_vital: bool) -> Result<()> {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let mut write =
            |(at, agent, what): &PendingLine| journal.write_at(*at, agent.as_ref(), what);
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
    /// Starts the thread, which owns the journal from now on.
    ///
    /// # Errors
    /// The thread cannot be started.
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
        .context("cannot start the writer thread")?;
        Ok(Self { orders, state })
    }

    /// Queues `work` behind all earlier orders. If the queue is full, `answer` gets an error at
    /// once.
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

    /// Queues `work` as [`Writer::order`] does, even if the queue is full; for work of which there
    /// is one at a time. If it is never done, `work` is dropped.
    pub fn order_anyhow(&self, work: impl FnOnce(&mut Journal) + Send + 'static) {
        self.state.waiting.fetch_add(1, Ordering::SeqCst);
        // If the thread has ended, the order is dropped, and its answer says so.
        self.orders.send(Box::new(work)).ok();
    }

    /// Queues a line for the journal, with the current time.
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

    /// Queues a line as [`Writer::line`] does, and waits until it is durable.
    ///
    /// # Errors
    /// The disk is full or missing.
    pub fn line_and_wait(&self, agent: Option<&AgentName>, what: &JournalEvent) -> Result<()> {
        let (answer, awaited) = Answer::awaited();
        self.line(agent, what, answer);
        awaited.wait()
    }

    /// Returns a result that comes when all earlier orders are done.
    pub fn all_so_far(&self) -> Awaited {
        let (answer, awaited) = Answer::awaited();
        self.order_anyhow(move |_| answer.send(Ok(())));
        awaited
    }

    /// Returns how long the order under way has taken so far.
    #[must_use]
    pub fn at_work_for(&self) -> Option<Duration> {
        self.state.at_work().map(|since| since.elapsed())
    }

    /// Returns the status line for a disk that hangs.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        let span = self.at_work_for().filter(|span| *span >= REPORT_AFTER)?;
        Some(format!(
            "the disk has not answered for {}; nothing is started until it does",
            short(span)
        ))
    }

    /// Waits for the pending orders, until `until` at most, and gives up the rest. Returns whether
    /// all of them were done.
    pub fn finish(&self, until: Deadline) -> bool {
        let (answer, awaited) = Answer::awaited();
        let state = Arc::clone(&self.state);
        // The thread itself sets this, so that it begins no order after it.
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
        let (results, answers) = mpsc::channel();
        for number in 0..5 {
            let results = results.clone();
            let answer = Answer::to(move |result| results.send((number, result.is_ok())).unwrap());
            writer.line(None, &reason(number), answer);
        }
        assert!(answers.try_recv().is_err());
        assert!(writer.at_work_for().is_some());
        drop((thaw, results));
        let answers: Vec<_> = answers.iter().collect();
        assert_eq!(answers, (0..5).map(|n| (n, true)).collect::<Vec<_>>());
        let (lines, damaged) = lines(&path).unwrap();
        let by: Vec<_> = lines.iter().map(|line| line.data()["by"].clone()).collect();
        assert_eq!(
            (by, damaged),
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
        // A journal that is released refuses every line.
        journal.release();
        let writer = Writer::start(journal).unwrap();
        let notice = JournalEvent::Notice {
            source: "metadata".into(),
            deadline_ms: None,
        };
        assert!(writer.line_and_wait(None, &notice).is_err());
        assert!(writer.line_and_wait(None, &reason(0)).is_err());
        writer.order_anyhow(|journal| journal.reopen().unwrap());
        writer.line_and_wait(None, &reason(1)).unwrap();
        let (lines, _) = lines(&path).unwrap();
        assert!(matches!(lines[0].event, JournalEvent::Notice { .. }));
        assert_eq!(
            lines.len(),
            2,
            "a refused line that is not vital is not kept"
        );
    }

    #[test]
    fn a_keeper_that_ends_waits_for_the_disk_up_to_a_limit_and_gives_up_the_rest() {
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
