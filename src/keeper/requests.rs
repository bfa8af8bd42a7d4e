//! Handling of control socket requests: checks each request, carries it out, and replies.

use std::sync::{Arc, PoisonError};
use std::time::Instant;

use serde_json::Value;

use super::backup_timer::BackupView;
use super::metrics::{self, Sample};
use super::prompt_input::Typist;
use super::protocol::{Reply, Request};
use super::socket::ReplyTo;
use super::status::{
    AgentStatus, BackupSeen, KeeperState, LastSave, Status, notice_of, report_backups,
};
use super::{End, Keeper};
use state::{AgentName, AgentState, Fleet, JournalEvent, Manifest, VERSION};
use supervisor::Event;
use supervisor::notice::{Notice, Source};
use sys::error::{Error, ErrorKind, Hint as _, Result, anyhow};
use sys::process::ProcessId;
use sys::thread;
use sys::{files, user};

/// The clients that wait for the save under way.
#[derive(Debug, Default)]
pub(super) struct Waiting(Vec<ReplyTo>);

impl Waiting {
    /// Sends the manifest to all of them; a client that is gone is ignored.
    pub(super) fn answer(&mut self, manifest: &Manifest) {
        for reply in self.0.drain(..) {
            reply.send(manifest_reply(manifest)).ok();
        }
    }
}

fn manifest_reply(manifest: &Manifest) -> Reply {
    Reply::from(serde_json::to_value(manifest).map_err(Error::from))
}

impl Keeper {
    pub(super) fn answer(&mut self, request: Request, user: u32, reply: ReplyTo) {
        match request {
            Request::Save {
                is_final: true,
                unit,
            } => self.answer_final_save(unit, reply),
            Request::Save {
                is_final: false, ..
            } => {
                let notice = Notice::new(Source::Command, Instant::now(), None);
                self.effects
                    .save_in_passing(&self.supervisor, notice, move |saved| {
                        reply.send(manifest_reply(&saved)).ok();
                    });
            }
            Request::Send {
                name,
                text,
                when_idle,
            } => self.answer_send(name, text, when_idle, reply),
            // Status and metrics change nothing, and do not wait for the disk.
            Request::Status => {
                let status = self
                    .status()
                    .and_then(|status| Ok(serde_json::to_value(status)?));
                reply.send(Reply::from(status)).ok();
            }
            Request::Metrics => {
                let metrics = self.metrics().map(Value::String);
                reply.send(Reply::from(metrics)).ok();
            }
            Request::Fleet { desired } => self.answer_fleet(desired, reply),
            Request::Reload { ends } => self.answer_reload(&ends, reply),
            other => {
                let answer = self.answer_when_durable(other, user);
                self.effects.reply(reply, Reply::from(answer));
            }
        }
    }

    /// Starts a final save, or waits for the one under way: only the first notice of a boot counts.
    fn answer_final_save(&mut self, unit: bool, reply: ReplyTo) {
        if self.supervisor.is_closed() && self.supervisor.notice().is_none() {
            let of_this_boot = |save: &&Manifest| save.boot_id == self.effects.boot_id;
            let answer = match self.last_save.as_ref().filter(of_this_boot) {
                Some(manifest) => manifest_reply(manifest),
                None => Reply::from(Err(anyhow!(
                    "this boot has had its preemption notice, and its save left no manifest"
                ))),
            };
            reply.send(answer).ok();
            return;
        }
        self.waiting.0.push(reply);
        let source = if unit { Source::Unit } else { Source::Command };
        self.handle(Event::Notice(Notice::new(source, Instant::now(), None)));
    }

    /// Carries out a request whose reply is sent when its effects are durable.
    fn answer_when_durable(&mut self, request: Request, user: u32) -> Result<Value> {
        match request {
            Request::Want { names, desired } => {
                self.check(&names)?;
                if desired == state::Desired::Running {
                    self.check_open()?;
                }
                let by = user::name(user);
                for name in names {
                    self.handle(Event::Want {
                        name,
                        desired,
                        by: by.clone(),
                    });
                }
                Ok(Value::Null)
            }
            Request::Restart {
                names,
                when_idle,
                canary,
            } => {
                self.check(&names)?;
                self.check_open()?;
                if canary {
                    self.handle(Event::RollOut(names));
                    return Ok(Value::Null);
                }
                for name in names {
                    self.handle(Event::Restart { name, when_idle });
                }
                Ok(Value::Null)
            }
            Request::Survived => {
                if self.supervisor.notice().is_some() {
                    return Err(anyhow!("the save is still under way")).hint("spotkeep status");
                }
                self.handle(Event::Survived);
                Ok(Value::Null)
            }
            Request::RolledBack { name, to, undo } => {
                self.effects
                    .write(Some(&name), &JournalEvent::RolledBack { to, undo });
                if let Some(record) = self.effects.records.get(&name) {
                    self.effects.scan.count(&self.effects.data_dir, &record);
                }
                Ok(Value::Null)
            }
            _ => Ok(Value::Null), // `answer` handles the others.
        }
    }

    fn answer_fleet(&mut self, desired: Fleet, reply: ReplyTo) {
        let may = match desired {
            Fleet::Up => self.check_open(),
            Fleet::Down => Ok(()),
        };
        if let Err(error) = may.and_then(|()| self.check_mount()) {
            return self.effects.reply(reply, Reply::from(Err(error)));
        }
        // Durable first, so that `down` holds even if the machine ends right after it.
        let data_dir = self.effects.data_dir.clone();
        let store = move || -> Result<()> {
            let mut identity = data_dir.identity()?;
            if identity.fleet != desired {
                identity.fleet = desired;
                state::store(&data_dir.identity_file(), &identity)?;
            }
            Ok(())
        };
        self.effects.beyond(
            move |journal| journal.ensure_there().and_then(|()| store()),
            move |keeper, stored| {
                if stored.is_ok() {
                    keeper.handle(Event::Fleet(desired));
                }
                let answer = stored.map(|()| Value::Null);
                keeper.effects.reply(reply, Reply::from(answer));
            },
        );
    }

    fn check(&self, names: &[AgentName]) -> Result<()> {
        match names
            .iter()
            .find(|name| self.supervisor.view(name).is_none())
        {
            None => Ok(()),
            Some(name) => Err(anyhow!("there is no agent {name}"))
                .hint("spotkeep ls")
                .kind(ErrorKind::Usage),
        }
    }

    /// Fails during an outage of the data directory. A missing `spotkeep.toml` declares no agent,
    /// so reading it would end all of them.
    pub(super) fn check_mount(&self) -> Result<()> {
        match &self.lost {
            None => self.effects.data_dir.ensure_there(),
            Some(lost) => Err(anyhow!("{}", lost.why))
                .hint("spotkeep doctor")
                .kind(ErrorKind::NotAsDeclared),
        }
    }

    fn check_open(&self) -> Result<()> {
        self.check_mount()?;
        if !self.supervisor.is_closed() {
            return Ok(());
        }
        Err(anyhow!(
            "this boot has had its preemption notice: no agent is started"
        ))
        .hint("if this VM keeps running: spotkeep restore")
        .kind(ErrorKind::NotAsDeclared)
    }

    /// Types a text on a separate thread, since typing is slow; never into a dialog or a question,
    /// which the text would answer.
    fn answer_send(&self, name: AgentName, text: String, when_idle: bool, reply: ReplyTo) {
        let process = match self.check_can_type(&name, when_idle) {
            Ok(process) => process,
            Err(error) => {
                reply.send(Reply::from(Err(error))).ok();
                return;
            }
        };
        let (tmux, config) = (self.effects.tmux.clone(), self.effects.data_dir.claude());
        let typing = Arc::clone(&self.effects.typing);
        thread::spawn_or_do("send", move || {
            // Two texts at once would become one.
            let _typing = typing.lock().unwrap_or_else(PoisonError::into_inner);
            let typist = Typist {
                tmux: &tmux,
                name: &name,
                process,
                config: &config,
            };
            let typed = typist.submit(&text);
            reply.send(Reply::from(typed.map(|()| Value::Null))).ok();
        });
    }

    /// Returns the process to type into, or why nothing may be typed.
    fn check_can_type(&self, name: &AgentName, when_idle: bool) -> Result<ProcessId> {
        self.check(std::slice::from_ref(name))?;
        let view = self.supervisor.view(name);
        let process = view.as_ref().and_then(|view| view.process);
        match (view.map(|view| view.state), process) {
            (Some(AgentState::Running), _) if when_idle => Err(anyhow!("{name} is in a turn"))
                .hint(format!("spotkeep attach {name}"))
                .kind(ErrorKind::NotAsDeclared),
            (Some(AgentState::Running | AgentState::Idle | AgentState::Stalled), Some(process)) => {
                Ok(process)
            }
            (Some(AgentState::Waiting), _) => Err(anyhow!(
                "{name} waits for a human; a text could answer its question"
            ))
            .hint(format!("spotkeep attach {name}"))
            .kind(ErrorKind::NotAsDeclared),
            _ => Err(anyhow!("{name} does not run"))
                .hint(format!("spotkeep start {name}"))
                .kind(ErrorKind::NotAsDeclared),
        }
    }

    fn status(&self) -> Result<Status> {
        let views = self.supervisor.views();
        let mut agents: Vec<AgentStatus> = views
            .into_iter()
            .map(|view| {
                let record = self.effects.records.get(&view.name);
                let dirty = self.effects.scan.dirty(&view.name);
                let size_bytes = self.effects.sizes.get(&view.name).copied().flatten();
                AgentStatus {
                    size_bytes,
                    ..AgentStatus::from_view(&self.effects.data_dir, view, record.as_ref(), dirty)
                }
            })
            .collect();
        let notice = if self.supervisor.is_closed() {
            notice_of(&self.effects.data_dir, &self.effects.boot_id)?
        } else {
            None
        };
        let backup_view = BackupView::read(&self.effects.data_dir, &self.effects.config);
        report_backups(&mut agents, backup_view.state.as_ref());
        // A missing data directory comes first: it explains all other problems.
        let mut trouble: Vec<String> = self.lost.iter().map(|lost| lost.why.clone()).collect();
        trouble.extend(self.effects.trouble.values().cloned());
        trouble.extend(self.effects.writer.trouble());
        trouble.extend(backup_view.trouble);
        Ok(Status {
            version: VERSION,
            data_dir: self.effects.data_dir.dir().to_path_buf(),
            data_dir_id: self.effects.data_dir_id.clone(),
            epoch: self.effects.epoch,
            boot_id: self.effects.boot_id.clone(),
            keeper: KeeperState::Running,
            keeper_version: Some(env!("CARGO_PKG_VERSION").into()),
            fleet: self.supervisor.fleet(),
            paused: self.supervisor.paused().map(str::to_owned),
            notice,
            last_save: self.last_save.as_ref().map(LastSave::from_manifest),
            backup: backup_view.state.as_ref().map(BackupSeen::from_state),
            trouble,
            agents,
        })
    }

    fn metrics(&self) -> Result<String> {
        Ok(metrics::text(&Sample {
            status: &self.status()?,
            boots: self.boots,
            space: files::space(self.effects.data_dir.dir()).ok(),
            keeper: Some((self.began, &self.effects.counters)),
        }))
    }

    /// Ends a keeper that `up` started in the background, once the fleet is down.
    pub(super) fn end_if_down(&mut self) {
        let nothing_runs = self
            .supervisor
            .views()
            .iter()
            .all(|view| view.process.is_none());
        if self.options.in_background && self.supervisor.fleet() == Fleet::Down && nothing_runs {
            self.end = Some(End::Down);
        }
    }
}
