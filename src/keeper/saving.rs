//! Start of a save: immediately, on a separate thread, even if the disk or the writer hangs.
//!
//! `writer.rs` explains why a save and the writer do not conflict.

use std::sync::Arc;
use std::time::Duration;

use super::Message;
use super::effects::Effects;
use super::records::AgentRecords;
use crate::agent::terminate;
use crate::save::{Note, Save, Subject};
use state::{AgentName, JournalEvent, Manifest};
use supervisor::Supervisor;
use supervisor::notice::Notice;
use sys::deadline::Deadline;
use sys::process::ProcessId;
use sys::thread;

/// How long a save waits for a launch under way, and for the journal line of its notice. A launch
/// takes about 50 ms, a line a few. A launch that hangs must not hold up the save; the sweep at the
/// end of the save finds the processes that it still starts.
const HOLD_UP_LIMIT: Duration = Duration::from_millis(500);

/// A writer that has been in one call for so long hangs; the save does not wait for it.
const HANGS_AFTER: Duration = Duration::from_millis(200);

/// The agents and their processes, as the supervisor knows them.
type Running = Vec<(AgentName, Option<ProcessId>)>;

impl Effects {
    pub(super) fn save(&self, supervisor: &Supervisor, notice: Notice) {
        self.gate.close();
        let noticed = self.writer.all_so_far();
        let hold_up = hold_up(self.writer.at_work_for());
        let gate = Arc::clone(&self.gate);
        self.spawn_save(
            supervisor,
            move || {
                let until = Deadline::after(hold_up);
                gate.wait_until_empty(until.remaining());
                if noticed.wait_until(until).is_none() {
                    tracing::warn!(
                        "the disk does not answer: saving, and the notice is not in the journal yet"
                    );
                }
            },
            move |save| save.run_final(&notice),
            |manifest| Message::SaveEnded(Box::new(manifest)),
        );
    }

    /// Saves while the agents go on; `done` gets the manifest.
    pub(super) fn save_in_passing(
        &self,
        supervisor: &Supervisor,
        notice: Notice,
        done: impl FnOnce(Manifest) + Send + 'static,
    ) {
        self.spawn_save(
            supervisor,
            || (),
            move |save| save.run_in_passing(notice.deadline),
            move |manifest| {
                done(manifest);
                Message::Nothing
            },
        );
    }

    fn spawn_save(
        &self,
        supervisor: &Supervisor,
        hold_up: impl FnOnce() + Send + 'static,
        run: impl FnOnce(Save<'_>) -> Manifest + Send + 'static,
        done: impl FnOnce(Manifest) -> Message + Send + 'static,
    ) {
        let (data_dir, data_dir_id, boot_id) = (
            self.data_dir.clone(),
            self.data_dir_id.clone(),
            self.boot_id.clone(),
        );
        let (epoch, messages) = (self.epoch, self.messages.clone());
        let writer = self.writer.clone();
        let note: Note = Arc::new(move |what: &JournalEvent| writer.line_and_wait(None, what));
        let checkpoints = self.checkpoints.clone();
        let settings = self.config.checkpoint.clone();
        let records = Arc::clone(&self.records);
        let views = supervisor.views().into_iter();
        let running: Running = views.map(|view| (view.name, view.process)).collect();
        checkpoints.pause();
        let work = move || {
            hold_up();
            let agents = subjects(running, &records, &boot_id);
            let manifest = run(Save {
                data_dir: &data_dir,
                settings: &settings,
                data_dir_id: &data_dir_id,
                epoch,
                boot_id: &boot_id,
                journal: Some(note),
                agents,
            });
            checkpoints.resume();
            messages.send(done(manifest)).ok();
        };
        // If no thread can be started, the loop itself saves: nothing is more urgent.
        thread::spawn_or_do("save", work);
    }
}

/// Returns how long a save waits for a writer that has been in one call for `in_one_call`.
fn hold_up(in_one_call: Option<Duration>) -> Duration {
    match in_one_call.is_some_and(|span| span >= HANGS_AFTER) {
        true => Duration::ZERO,
        false => HOLD_UP_LIMIT,
    }
}

/// Returns every agent as a save needs it. The supervisor's process is newer than the record's.
fn subjects(running: Running, records: &AgentRecords, boot_id: &str) -> Vec<Subject> {
    let subject = |(name, process): (AgentName, Option<ProcessId>)| {
        let record = records.get(&name)?;
        let process = process.or(record.live_process(boot_id));
        let process = process.or_else(|| terminate::launched(&record, boot_id));
        Some(Subject { record, process })
    };
    running.into_iter().filter_map(subject).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_save_waits_a_moment_for_a_disk_that_works_and_not_at_all_for_one_that_hangs() {
        assert_eq!(hold_up(None), HOLD_UP_LIMIT);
        assert_eq!(hold_up(Some(Duration::from_millis(20))), HOLD_UP_LIMIT);
        assert_eq!(hold_up(Some(Duration::from_secs(9))), Duration::ZERO);
    }
}
