//! Agent records in memory: a change counts at once, and is durable when its answer comes.
//!
//! Changes reach the writer's queue in the order in which they are made. No thread holds the lock
//! on the records while it waits for the disk, so reading a record never waits for the disk.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::writer::{Answer, Writer};
use state::config::{Agent, Config, Restart};
use state::layout::DataDir;
use state::{AgentName, AgentRecord, Desired};
use supervisor::Declared;
use sys::error::Result;

/// The records of the agents that are declared.
#[derive(Debug)]
pub struct AgentRecords {
    data_dir: DataDir,
    writer: Writer,
    records: Mutex<BTreeMap<AgentName, AgentRecord>>,
    /// Agents whose last change the disk refused.
    unwritten: Arc<Mutex<BTreeSet<AgentName>>>,
    /// Records that were lost and were rebuilt, each with a sentence for the journal.
    recalled: Mutex<Vec<(AgentName, String)>>,
}

impl AgentRecords {
    /// Returns the records of a data directory, without any agent yet.
    #[must_use]
    pub fn new(data_dir: DataDir, writer: Writer) -> Self {
        Self {
            data_dir,
            writer,
            records: Mutex::new(BTreeMap::new()),
            unwritten: Arc::default(),
            recalled: Mutex::default(),
        }
    }

    /// Loads the declared agents: reads the records that exist and creates the missing ones. A
    /// damaged record is left as it is, and its agent is declared broken.
    ///
    /// This reads and writes the disk itself, so call it on the writer's thread, or while the
    /// writer is idle.
    #[must_use]
    pub fn declare(&self, config: &Config, boot_id: &str) -> Vec<Declared> {
        // An agent that runs stays known until it has ended, so that a save includes it.
        self.lock().retain(|name, record| {
            config.agents.contains_key(name) || record.live_process(boot_id).is_some()
        });
        let load = |(name, agent)| match self.load(name, agent, boot_id) {
            Ok(record) => declared(config, agent, &record, boot_id),
            Err(error) => broken(config, name, agent, &format!("{error:#}")),
        };
        config.agents.iter().map(load).collect()
    }

    /// Returns the agents that still run and are not declared any more, because they were taken out
    /// of the file while no keeper ran. Their records are loaded.
    #[must_use]
    pub fn left_over(&self, boot_id: &str) -> Vec<Declared> {
        let mut records = self.lock();
        let on_disk = self.data_dir.all_records().unwrap_or_default();
        let mut left = Vec::new();
        for (name, record) in on_disk {
            let Ok(record) = record else { continue };
            if !records.contains_key(&name) && record.live_process(boot_id).is_some() {
                left.push(Declared {
                    restart: Restart::Never,
                    process: record.live_process(boot_id),
                    ..declared_of(&record)
                });
                records.insert(name, record);
            }
        }
        left
    }

    fn load(&self, name: &AgentName, agent: &Agent, boot_id: &str) -> Result<AgentRecord> {
        let cwd = canonical_cwd(&self.data_dir, &agent.workspace);
        // A workspace that was moved in the file counts from the next start.
        let move_in = |record: &mut AgentRecord| {
            let moved = record.cwd != cwd && record.live_process(boot_id).is_none();
            if moved {
                record.cwd.clone_from(&cwd);
            }
            moved
        };
        if self.get(name).is_some_and(|mut known| move_in(&mut known)) {
            let move_in = |record: &mut AgentRecord| {
                move_in(record);
            };
            self.update(name, move_in, Answer::to(drop));
        }
        if let Some(known) = self.get(name) {
            return Ok(known);
        }
        let stored = self.data_dir.load_record(name)?;
        let is_new = stored.is_none();
        let mut record = stored.unwrap_or_else(|| AgentRecord::new(name.clone(), cwd.clone()));
        if is_new {
            self.recall(&mut record)?;
        }
        if move_in(&mut record) || is_new {
            self.data_dir.store_record(&record)?;
        }
        self.lock().insert(name.clone(), record.clone());
        Ok(record)
    }

    /// Rebuilds a record from the journal and the last save. A lost record does not make a new
    /// agent.
    fn recall(&self, record: &mut AgentRecord) -> Result<()> {
        let (lines, _) = state::lines(&self.data_dir.journal())?;
        let save = state::latest_manifest(&self.data_dir.saves())?;
        if state::rebuild::agent(record, &lines, save.as_ref()) {
            let path = self.data_dir.relative(&self.data_dir.record(&record.name));
            let what = format!(
                "{} was gone, and was made again from the journal, with the session {}",
                path.display(),
                record.session_id
            );
            lock(&self.recalled).push((record.name.clone(), what));
        }
        Ok(())
    }

    /// Returns the records that were rebuilt since the last call, each with a sentence.
    #[must_use]
    pub fn recalled(&self) -> Vec<(AgentName, String)> {
        std::mem::take(&mut *lock(&self.recalled))
    }

    /// Returns one record.
    #[must_use]
    pub fn get(&self, name: &AgentName) -> Option<AgentRecord> {
        self.lock().get(name).cloned()
    }

    /// Returns all records, by name.
    #[must_use]
    pub fn all(&self) -> Vec<AgentRecord> {
        self.lock().values().cloned().collect()
    }

    /// Changes a record and orders its write; `answer` gets the result. If nothing changed, nothing
    /// is written, and the answer still comes after all earlier orders. What the disk refuses is
    /// written by the next call.
    pub fn update(&self, name: &AgentName, change: impl FnOnce(&mut AgentRecord), answer: Answer) {
        let mut records = self.lock();
        let Some(record) = records.get_mut(name) else {
            return self.writer.order(|_| Ok(()), answer);
        };
        let before = record.clone();
        change(record);
        let was_refused = lock(&self.unwritten).remove(name);
        if *record == before && !was_refused {
            return self.writer.order(|_| Ok(()), answer);
        }
        let (name, unwritten) = (name.clone(), Arc::clone(&self.unwritten));
        let answer = Answer::to(move |stored| {
            if stored.is_err() {
                lock(&unwritten).insert(name);
            }
            answer.send(stored);
        });
        let (data_dir, record) = (self.data_dir.clone(), record.clone());
        // Ordered while the lock is held, so that the last change is the last in the queue.
        self.writer.order(
            move |journal| {
                journal.ensure_there()?;
                data_dir.store_record(&record)
            },
            answer,
        );
    }

    /// Does the same as [`AgentRecords::update`], and waits until the change is durable.
    ///
    /// # Errors
    /// The disk is full or missing.
    pub fn update_and_wait(
        &self,
        name: &AgentName,
        change: impl FnOnce(&mut AgentRecord),
    ) -> Result<()> {
        let (answer, awaited) = Answer::awaited();
        self.update(name, change, answer);
        awaited.wait()
    }

    /// Returns the agents whose last change the disk refused.
    #[must_use]
    pub fn unwritten(&self) -> Vec<AgentName> {
        lock(&self.unwritten).iter().cloned().collect()
    }

    /// Locks the records. A panic while the lock was held leaves them as they were before or after
    /// a change, and both are valid.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<AgentName, AgentRecord>> {
        lock(&self.records)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns the directory that an agent is always started in, as it is stored, with links resolved:
/// Claude Code names the folder of its sessions after the real path.
#[must_use]
pub fn canonical_cwd(data_dir: &DataDir, workspace: &Path) -> PathBuf {
    let path = data_dir.absolute(workspace);
    data_dir.relative(&fs::canonicalize(&path).unwrap_or(path))
}

fn declared(config: &Config, agent: &Agent, record: &AgentRecord, boot_id: &str) -> Declared {
    Declared {
        restart: config.restart_of(agent),
        process: record.live_process(boot_id),
        ..declared_of(record)
    }
}

fn declared_of(record: &AgentRecord) -> Declared {
    Declared {
        name: record.name.clone(),
        session_id: record.session_id.clone(),
        restart: Restart::default(),
        desired: record.desired,
        restarts: record.restarts,
        process: None,
        why: record.why.clone(),
        cause: record.cause.clone(),
        broken: None,
    }
}

fn broken(config: &Config, name: &AgentName, agent: &Agent, why: &str) -> Declared {
    Declared {
        name: name.clone(),
        session_id: String::new(),
        restart: config.restart_of(agent),
        desired: Desired::Running,
        restarts: 0,
        process: None,
        why: None,
        cause: None,
        broken: Some(why.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keeper::writer;

    #[test]
    fn a_record_is_read_as_it_was_changed_last_while_the_disk_hangs_and_is_written_once_it_answers()
    {
        let dir = tempfile::tempdir().unwrap();
        let data_dir = DataDir::init(&dir.path().join("root")).unwrap().0;
        let name: AgentName = AgentName::new("a").unwrap();
        let record = AgentRecord::new(name.clone(), "work".into());
        let (writer, thaw) = writer::tests::hanging(&data_dir.journal());
        let records = AgentRecords::new(data_dir.clone(), writer.clone());
        records.lock().insert(name.clone(), record);
        let mut answers = Vec::new();
        for restarts in 1..=3 {
            let (answer, awaited) = Answer::awaited();
            records.update(&name, |record| record.restarts = restarts, answer);
            answers.push(awaited);
        }
        assert_eq!(records.get(&name).unwrap().restarts, 3);
        assert!(data_dir.load_record(&name).unwrap().is_none());
        drop(thaw);
        answers
            .into_iter()
            .for_each(|answer| answer.wait().unwrap());
        assert_eq!(data_dir.load_record(&name).unwrap().unwrap().restarts, 3);
    }

    #[test]
    fn a_change_that_the_disk_refused_is_written_by_the_next_call() {
        let dir = tempfile::tempdir().unwrap();
        let data_dir = DataDir::init(&dir.path().join("root")).unwrap().0;
        let name: AgentName = AgentName::new("a").unwrap();
        let (writer, thaw) = writer::tests::hanging(&data_dir.journal());
        drop(thaw);
        let records = AgentRecords::new(data_dir.clone(), writer.clone());
        let record = AgentRecord::new(name.clone(), "work".into());
        records.lock().insert(name.clone(), record);
        writer.order_anyhow(state::Journal::release);
        let refused = records.update_and_wait(&name, |record| record.restarts = 7);
        assert!(refused.is_err());
        assert_eq!(records.unwritten(), std::slice::from_ref(&name));
        writer.order_anyhow(|journal| journal.reopen().unwrap());
        records.update_and_wait(&name, |_| {}).unwrap();
        assert!(records.unwritten().is_empty());
        assert_eq!(data_dir.load_record(&name).unwrap().unwrap().restarts, 7);
    }
}
