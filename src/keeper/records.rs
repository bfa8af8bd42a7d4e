//! The records of all agents, in memory and on the disk at once: a change is durable before it
//! is used.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use state::config::{Agent, Config, Restart};
use state::layout::Root;
use state::{AgentName, AgentRecord, Wanted};
use supervisor::Declared;
use sys::error::Result;

/// The records of the agents that are declared.
#[derive(Debug)]
pub struct Ledger {
    root: Root,
    records: Mutex<BTreeMap<AgentName, AgentRecord>>,
    /// Those whose last change the disk did not take.
    unwritten: Mutex<BTreeSet<AgentName>>,
    /// Records that were gone and were made again, in words; for the journal.
    recalled: Mutex<Vec<(AgentName, String)>>,
}

impl Ledger {
    /// An empty ledger of a root.
    #[must_use]
    pub fn new(root: Root) -> Self {
        Self {
            root,
            records: Mutex::new(BTreeMap::new()),
            unwritten: Mutex::default(),
            recalled: Mutex::default(),
        }
    }

    /// Takes in what is declared: reads the records that are there and mints those that are not.
    /// A record that is damaged is left as it is, and its agent said to be broken.
    #[must_use]
    pub fn declare(&self, config: &Config, life: &str) -> Vec<Declared> {
        let mut records = self.lock();
        // One that runs stays known until it has ended: a save must not pass it over.
        records.retain(|name, record| {
            config.agents.contains_key(name) || record.live_process(life).is_some()
        });
        let mut all = Vec::new();
        for (name, agent) in &config.agents {
            let known = records.get(name).cloned();
            all.push(match self.take_in(name, agent, known, life) {
                Ok(record) => {
                    let declared = declared(config, agent, &record, life);
                    records.insert(name.clone(), record);
                    declared
                }
                Err(error) => broken(config, name, agent, &format!("{error:#}")),
            });
        }
        all
    }

    /// Agents that are not declared any more and still run, such as one that was taken out of the
    /// file while no keeper was there. They are known from now on.
    #[must_use]
    pub fn left_over(&self, life: &str) -> Vec<Declared> {
        let mut records = self.lock();
        let on_disk = self.root.all_records().unwrap_or_default();
        let mut left = Vec::new();
        for (name, record) in on_disk {
            let Ok(record) = record else { continue };
            if !records.contains_key(&name) && record.live_process(life).is_some() {
                left.push(Declared {
                    restart: Restart::Never,
                    process: record.live_process(life),
                    ..declared_of(&record)
                });
                records.insert(name, record);
            }
        }
        left
    }

    fn take_in(
        &self,
        name: &AgentName,
        agent: &Agent,
        known: Option<AgentRecord>,
        life: &str,
    ) -> Result<AgentRecord> {
        let cwd = canonical_cwd(&self.root, &agent.workspace);
        let stored = match known {
            Some(record) => Some(record),
            None => self.root.load_record(name)?,
        };
        let is_new = stored.is_none();
        let mut record = stored.unwrap_or_else(|| AgentRecord::new(name.clone(), cwd.clone()));
        if is_new {
            self.recall(&mut record)?;
        }
        // A workspace that was moved in the file counts from the next start.
        let moved = record.cwd != cwd && record.live_process(life).is_none();
        if moved {
            record.cwd = cwd;
        }
        if is_new || moved {
            self.root.store_record(&record)?;
        }
        Ok(record)
    }

    /// A record that was lost is no new agent: its session is known from what it did.
    fn recall(&self, record: &mut AgentRecord) -> Result<()> {
        let (lines, _) = state::lines(&self.root.journal())?;
        let save = state::latest_manifest(&self.root.saves())?;
        if state::rebuild::agent(record, &lines, save.as_ref()) {
            let path = self.root.relative(&self.root.record(&record.name));
            let what = format!(
                "{} was gone, and was made again from the journal, with the session {}",
                path.display(),
                record.session_id
            );
            let mut recalled = self.recalled.lock().unwrap_or_else(PoisonError::into_inner);
            recalled.push((record.name.clone(), what));
        }
        Ok(())
    }

    /// What was made again since this was last asked, in words.
    #[must_use]
    pub fn recalled(&self) -> Vec<(AgentName, String)> {
        let mut recalled = self.recalled.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *recalled)
    }

    /// One record.
    #[must_use]
    pub fn get(&self, name: &AgentName) -> Option<AgentRecord> {
        self.lock().get(name).cloned()
    }

    /// All records, by name.
    #[must_use]
    pub fn all(&self) -> Vec<AgentRecord> {
        self.lock().values().cloned().collect()
    }

    /// Changes a record and makes it durable; nothing is written where nothing changed.
    ///
    /// # Errors
    /// The disk is full or gone. The change is remembered, and written by the next call.
    pub fn update(&self, name: &AgentName, change: impl FnOnce(&mut AgentRecord)) -> Result<()> {
        let mut records = self.lock();
        let Some(record) = records.get_mut(name) else {
            return Ok(());
        };
        let before = record.clone();
        change(record);
        let mut unwritten = self
            .unwritten
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if *record == before && !unwritten.contains(name) {
            return Ok(());
        }
        let stored = self.root.store_record(record);
        match stored {
            Ok(()) => unwritten.remove(name),
            Err(_) => unwritten.insert(name.clone()),
        };
        stored
    }

    /// Whose last change the disk did not take.
    #[must_use]
    pub fn unwritten(&self) -> Vec<AgentName> {
        let unwritten = self
            .unwritten
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        unwritten.iter().cloned().collect()
    }

    /// A panic while the lock was held leaves the records as they were before or after a change,
    /// and both are good.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<AgentName, AgentRecord>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The one directory that an agent is always started in, as it is stored: Claude names the folder
/// of its sessions after the real path.
#[must_use]
pub fn canonical_cwd(root: &Root, workspace: &Path) -> PathBuf {
    let path = root.absolute(workspace);
    root.relative(&fs::canonicalize(&path).unwrap_or(path))
}

fn declared(config: &Config, agent: &Agent, record: &AgentRecord, life: &str) -> Declared {
    Declared {
        restart: config.restart_of(agent),
        process: record.live_process(life),
        ..declared_of(record)
    }
}

fn declared_of(record: &AgentRecord) -> Declared {
    Declared {
        name: record.name.clone(),
        session_id: record.session_id.clone(),
        restart: Restart::default(),
        wanted: record.wanted,
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
        wanted: Wanted::Running,
        restarts: 0,
        process: None,
        why: None,
        cause: None,
        broken: Some(why.to_owned()),
    }
}
