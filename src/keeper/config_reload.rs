//! Loading of `spotkeep.toml`: when the keeper starts, and again when the user has changed the
//! file.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use super::Keeper;
use super::protocol::{Reply, refuse_to_end};
use super::records::AgentRecords;
use super::socket::ReplyTo;
use crate::resume;
use state::config::Config;
use state::layout::DataDir;
use state::{AgentName, Journal, JournalEvent};
use supervisor::{Event, View};
use sys::error::{Error, Result};

/// Stores the file as the last good one; returns the configuration before it.
fn remember_as_good(data_dir: &DataDir) -> (Config, Result<()>) {
    let before = Config::last_good(&data_dir.config_copy()).unwrap_or_default();
    let kept = Config::remember_as_good(&data_dir.config(), &data_dir.config_copy());
    (before, kept)
}

/// Answers Claude Code's start-up questions for all agents, before the first of them starts. A
/// Claude that starts reads its file and writes it back, so an answer that is merged in between is
/// lost (seen with eight agents: one of them stopped at the question whether to trust its folder).
pub(super) fn seed_all(
    data_dir: &DataDir,
    records: &AgentRecords,
    config: &Config,
) -> Result<Vec<String>> {
    let records = records.all();
    let cwds: Vec<PathBuf> = records
        .iter()
        .map(|record| data_dir.absolute(&record.cwd))
        .collect();
    let cwds: Vec<&Path> = cwds.iter().map(PathBuf::as_path).collect();
    let defaults = &config.defaults;
    resume::seed(data_dir, &cwds, &defaults.env, &defaults.args)
}

impl Keeper {
    /// Stores a valid file as the last good one; reports an invalid one until it is repaired.
    pub(super) fn begin_with_config(&mut self, wrong: Option<Error>) {
        match wrong {
            None => {
                let (before, kept) = remember_as_good(&self.effects.data_dir);
                self.report_config(&before, kept);
            }
            Some(error) => {
                let error = error.context("the last good spotkeep.toml is used");
                let what = format!("{error:#}");
                self.effects.write(None, &JournalEvent::Trouble { what });
                self.effects.note_trouble("spotkeep.toml", Err(error));
            }
        }
    }

    /// Reports whether the file was stored, and which agents it does not declare any more.
    fn report_config(&mut self, before: &Config, kept: Result<()>) {
        self.report_undeclared(before);
        self.effects.note_trouble("spotkeep.toml", kept);
    }

    /// Reports agents that are not declared any more. A file that was cut off looks like an edited
    /// one, and nothing else would show that they are missing.
    fn report_undeclared(&mut self, before: &Config) {
        let now = &self.effects.config.agents;
        let gone = before.agents.keys().filter(|name| !now.contains_key(*name));
        let gone: Vec<&str> = gone.map(|name| name.as_str()).collect();
        if !gone.is_empty() {
            let what = format!(
                "spotkeep.toml does not declare {} any more; sessions and work stay where they are",
                gone.join(", ")
            );
            self.effects.write(None, &JournalEvent::Trouble { what });
        }
    }

    pub(super) fn report_seeds(&mut self, seeded: Result<Vec<String>>) {
        let lines = match seeded {
            Ok(done) => done
                .into_iter()
                .map(|what| JournalEvent::Repaired { what })
                .collect(),
            Err(error) => vec![JournalEvent::Trouble {
                what: format!("{error:#}"),
            }],
        };
        for what in lines {
            self.effects.write(None, &what);
        }
    }

    pub(super) fn answer_reload(&mut self, ends: &[AgentName], reply: ReplyTo) {
        let config = match self.reread(ends) {
            Ok(config) => Arc::new(config),
            Err(error) => return self.effects.reply(reply, Reply::from(Err(error))),
        };
        let (data_dir, records) = (
            self.effects.data_dir.clone(),
            Arc::clone(&self.effects.records),
        );
        let (boot_id, declares) = (self.effects.boot_id.clone(), Arc::clone(&config));
        let seeds = !self.supervisor.is_closed();
        let load = move |_: &mut Journal| {
            let remembered = remember_as_good(&data_dir);
            let declared = records.declare(&declares, &boot_id);
            let seeded = seeds.then(|| seed_all(&data_dir, &records, &declares));
            (remembered, declared, seeded)
        };
        self.effects
            .beyond(load, move |keeper, ((before, kept), declared, seeded)| {
                keeper.effects.config = config;
                keeper.report_config(&before, kept);
                if let Some(seeded) = seeded {
                    keeper.report_seeds(seeded);
                }
                keeper.handle(Event::Declare(declared));
                keeper.report_policies();
                keeper.effects.reply(reply, Reply::from(Ok(Value::Null)));
            });
    }

    fn reread(&self, ends: &[AgentName]) -> Result<Config> {
        self.check_mount()?;
        let config = Config::load(&self.effects.data_dir.config())?;
        self.check_ends(&config, ends)?;
        Ok(config)
    }

    /// Refuses a file that would end running agents which the user did not name. A file that was
    /// cut off looks like one that agents were taken out of.
    fn check_ends(&self, config: &Config, ends: &[AgentName]) -> Result<()> {
        let views = self.supervisor.views();
        let is_lost = |view: &&View| {
            view.process.is_some()
                && self.effects.config.agents.contains_key(&view.name)
                && !config.agents.contains_key(&view.name)
                && !ends.contains(&view.name)
        };
        let lost: Vec<&str> = views
            .iter()
            .filter(is_lost)
            .map(|view| view.name.as_str())
            .collect();
        match lost.as_slice() {
            [] => Ok(()),
            lost => refuse_to_end(lost),
        }
    }
}
