//! A fleet in a sandbox with a fake API and a fake metadata server, over several boots.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::Arc;
use std::time::{Duration, Instant};

use drill::fake_api::Model;
use drill::fake_api::log::RequestLog;
use drill::fake_api::script::OPEN_FILE;
use drill::fake_metadata::Metadata;
use drill::sandbox::{Sandbox, point_at};
use drill::session_file::{Live, live};
use spotkeep::keeper::runtime_dir::Holder;
use spotkeep::tmux::Tmux;
use state::layout::DataDir;
use state::{Manifest, latest_manifest};
use sys::error::{Context as _, Result, bail, ensure};
use sys::inotify::Watch;
use sys::time::Timestamp;

use super::place::Environment;

/// The limit of any wait, and what each agent adds to it.
const LIMIT: Duration = Duration::from_secs(60);
const LIMIT_PER_AGENT: Duration = Duration::from_secs(6);
/// How often to poll for changes that inotify does not report.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// How long to wait until Claude has written what its session file shows: it writes 100 ms later.
const DEBOUNCE: Duration = Duration::from_secs(1);

/// A fleet; dropping it ends all its processes.
#[derive(Debug)]
pub struct Fleet {
    /// The sandbox of the fleet.
    pub sandbox: Arc<Sandbox>,
    /// The fake API.
    pub model: Model,
    /// The agents' names.
    pub names: Vec<String>,
    metadata: Metadata,
    boot_id: u32,
    keeper: Option<Child>,
}

/// The times of a preemption.
#[derive(Debug)]
pub struct Preempted {
    /// From the announcement to the beginning of the save.
    pub to_save_ms: u64,
    /// The manifest of the save.
    pub manifest: Manifest,
}

impl Fleet {
    /// Creates a fleet whose agents begin with one plan.
    pub fn create(place: &Environment, agents: usize, plan: &str) -> Result<Self> {
        Self::create_with(place, agents, plan, place.claude().is_none())
    }

    /// Like [`Fleet::create`], with the fake Claude if `fake` is set.
    pub fn create_with(place: &Environment, agents: usize, plan: &str, fake: bool) -> Result<Self> {
        let claude = place.claude().filter(|_| !fake);
        Self::create_in(place.sandbox(true)?, agents, plan, claude)
    }

    /// Creates a fleet in a sandbox, with the given Claude or the fake.
    pub fn create_in(
        sandbox: Arc<Sandbox>,
        agents: usize,
        plan: &str,
        claude: Option<&Path>,
    ) -> Result<Self> {
        let (model, metadata) = (Model::start()?, Metadata::start()?);
        sandbox.declare(&metadata.address(), &model.url(), claude)?;
        let names: Vec<String> = (1..=agents)
            .map(|number| format!("agent-{number:02}"))
            .collect();
        for name in &names {
            sandbox.make_workspace(name)?;
            let workspace = format!("workspaces/{name}");
            let prompt = format!("DRILL agent={name} plan={plan} [[{name}:p:1]]");
            let args = ["add", name, "--workspace", &workspace, "--prompt", &prompt];
            sandbox.verb(1, &metadata.address(), &args)?;
        }
        Ok(Self {
            sandbox,
            model,
            names,
            metadata,
            boot_id: 0,
            keeper: None,
        })
    }

    /// Begins the next boot and starts a keeper. Returns the time of its start.
    pub fn boot(&mut self) -> Result<Instant> {
        self.next_boot()?;
        let started = Instant::now();
        self.keeper = Some(
            self.sandbox
                .keeper(self.boot_id, &self.metadata.address())?,
        );
        Ok(started)
    }

    /// Ends everything and begins the next boot, without a keeper.
    pub fn next_boot(&mut self) -> Result<()> {
        self.end()?;
        self.boot_id += 1;
        self.metadata = Metadata::start()?;
        let path = self.sandbox.data_dir().join("spotkeep.toml");
        let text = fs::read_to_string(&path)?;
        fs::write(&path, point_at(&text, &self.metadata.address()))?;
        for name in &self.names {
            fs::remove_file(self.sandbox.workspace(name).join(OPEN_FILE)).ok();
        }
        self.model.next_boot();
        Ok(())
    }

    /// Kills all processes, as the end of a machine does.
    pub fn end(&mut self) -> Result<()> {
        self.sandbox.end_everything()?;
        if let Some(mut keeper) = self.keeper.take() {
            keeper.wait().context("cannot wait for the keeper")?;
        }
        Ok(())
    }

    /// The pid of the keeper.
    pub fn keeper(&self) -> Result<u32> {
        Ok(self.keeper.as_ref().context("no keeper runs")?.id())
    }

    /// The socket of the agents' tmux server.
    pub fn tmux_socket(&self) -> Result<PathBuf> {
        Ok(self.tmux()?.socket().to_path_buf())
    }

    /// The pid of the agents' tmux server.
    pub fn tmux_server(&self) -> Result<u32> {
        let pid = self.tmux()?.server_pid().context("no tmux server runs")?;
        Ok(u32::try_from(pid)?)
    }

    fn tmux(&self) -> Result<Tmux> {
        let data_dir = DataDir::open(&self.sandbox.data_dir())?;
        let keeper = Holder::read(&data_dir).context("no keeper has ever run")?;
        Ok(Tmux::new(&keeper.runtime))
    }

    /// The address of the fake metadata server.
    pub fn metadata_address(&self) -> String {
        self.metadata.address()
    }

    /// A spotkeep command on this data directory.
    pub fn spotkeep(&self) -> Result<std::process::Command> {
        self.sandbox
            .spotkeep(self.boot_id, &self.metadata.address())
    }

    /// Sends these agents a prompt for a tool that never ends.
    pub fn set_to_work(&self, names: &[String]) -> Result<()> {
        for name in names {
            let prompt = format!("DRILL agent={name} plan=hold turn=2 [[{name}:p:2]]");
            let metadata = self.metadata.address();
            self.sandbox
                .verb(self.boot_id, &metadata, &["send", name, &prompt])?;
        }
        Ok(())
    }

    /// Announces a preemption, and waits for the end of the save.
    pub fn preempt(&self) -> Result<Preempted> {
        ensure!(
            self.metadata.wait_for_pollers(1, LIMIT),
            "the keeper asks no metadata server"
        );
        let saves = self.sandbox.data_dir().join("session-state/saves");
        let before = latest_manifest(&saves)?.map(|save| save.id);
        let announced = Timestamp::now();
        self.metadata.preempt();
        let mut found = None;
        self.wait("the save has ended", |_, _| {
            found = latest_manifest(&saves).ok().flatten();
            found.as_ref().is_some_and(|save| {
                Some(&save.id) != before.as_ref() && save.stages.workspaces_ms.is_some()
            })
        })?;
        let manifest = found.context("no save is there")?;
        let to_save = manifest.at.since(announced);
        let to_save_ms = u64::try_from(to_save.as_millis()).context("a long time")?;
        Ok(Preempted {
            to_save_ms,
            manifest,
        })
    }

    /// Waits until every agent is idle.
    pub fn wait_until_idle(&self) -> Result<()> {
        self.wait("every agent is idle", |_, running| {
            self.names
                .iter()
                .all(|name| has_status(running, name, "idle"))
        })?;
        std::thread::sleep(DEBOUNCE);
        Ok(())
    }

    /// Waits until these agents are in a tool that never ends, and the others are up.
    pub fn wait_until_at_work(&self, workers: &[String]) -> Result<()> {
        self.wait("every agent is at work", |request_log, running| {
            self.names
                .iter()
                .all(|name| running.iter().any(|at| at.name == *name))
                && workers.iter().all(|name| {
                    let is_open = request_log
                        .agents
                        .get(name)
                        .is_some_and(|agent| agent.open.is_some());
                    is_open && self.sandbox.workspace(name).join(OPEN_FILE).exists()
                })
        })?;
        std::thread::sleep(DEBOUNCE);
        Ok(())
    }

    /// Waits until every agent has sent a request in this boot; returns the time of the last one's
    /// first.
    pub fn wait_for_first_requests(&self) -> Result<Instant> {
        let firsts = |request_log: &RequestLog| {
            let all = self.names.iter();
            all.map(|name| Some(request_log.agents.get(name)?.first.as_ref()?.at))
                .collect()
        };
        let mut found: Option<Vec<Instant>> = None;
        self.wait("every agent has sent a request", |request_log, _| {
            found = firsts(request_log);
            found.is_some()
        })?;
        found
            .and_then(|all| all.into_iter().max())
            .context("there are no agents")
    }

    /// Waits until `is_done` returns true for the request log and the live sessions.
    pub fn wait(
        &self,
        what: &str,
        mut is_done: impl FnMut(&RequestLog, &[Live]) -> bool,
    ) -> Result<()> {
        let config = self.sandbox.data_dir().join(".claude");
        let watch = Watch::new()?;
        let agents = u32::try_from(self.names.len()).unwrap_or(u32::MAX);
        let deadline = Instant::now() + LIMIT + LIMIT_PER_AGENT * agents;
        loop {
            let (request_log, running) = (self.model.request_log(), live(&config));
            if is_done(&request_log, &running) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                bail!(
                    "{what}: not in time\n     {}",
                    self.explain(&request_log, &running)
                );
            }
            for dir in [
                config.join("sessions"),
                self.sandbox.data_dir().join("session-state/saves"),
            ] {
                watch.add(&dir).ok();
            }
            watch.wait(POLL_INTERVAL);
        }
    }

    /// The state of each agent, and the keeper's last log lines.
    fn explain(&self, request_log: &RequestLog, running: &[Live]) -> String {
        let agents = self.names.iter().map(|name| {
            let status = running.iter().find(|at| at.name == *name);
            let status = status.map_or("not up", |at| at.status.as_str());
            let account = request_log.agents.get(name);
            let requests = account.map_or(0, |account| account.requests);
            let ended = account.map_or(0, |account| account.turns_ended);
            format!("{name} {status}, {requests} requests, {ended} turns ended")
        });
        let log = fs::read_to_string(self.sandbox.log(self.boot_id)).unwrap_or_default();
        let last = log.lines().rev().take(3).map(str::to_owned);
        agents.chain(last).collect::<Vec<_>>().join("\n     ")
    }
}

fn has_status(running: &[Live], name: &str, status: &str) -> bool {
    running
        .iter()
        .any(|at| at.name == name && at.status == status)
}

impl Drop for Fleet {
    fn drop(&mut self) {
        // The sandbox ends what is left.
        self.end().ok();
    }
}
