//! Fleet status: from the keeper's memory where it runs, otherwise from the files.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::backup_timer::BackupView;
use crate::backup::BackupState;
use checkpoint::workspace;
use state::config::Config;
use state::layout::DataDir;
use state::{
    self, AgentName, AgentRecord, AgentState, Cause, Desired, Fleet, JournalEvent, Manifest,
    VERSION, latest_manifest,
};
use supervisor::{Supervisor, View};
use sys::error::Result;
use sys::process;
use sys::time::{Timestamp, moment};

/// Whether a keeper runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeeperState {
    /// A keeper runs and answers.
    Running,
    /// No keeper runs, or none that answers.
    Stopped,
}

impl KeeperState {
    /// Returns whether a keeper runs.
    #[must_use]
    pub fn runs(self) -> bool {
        self == Self::Running
    }
}

impl fmt::Display for KeeperState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Running => "running",
            Self::Stopped => "stopped",
        })
    }
}

/// The status of the fleet, as `status --json` prints it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The version of this format.
    pub version: u32,
    /// The data directory's path.
    #[serde(alias = "root")]
    pub data_dir: PathBuf,
    /// The data directory's id.
    #[serde(alias = "root_id")]
    pub data_dir_id: String,
    /// The keeper's epoch.
    pub epoch: u64,
    /// The boot's id.
    #[serde(alias = "life")]
    pub boot_id: String,
    /// Whether a keeper runs.
    pub keeper: KeeperState,
    /// The version of the keeper that runs; null where none runs, or where it does not report one.
    #[serde(default)]
    pub keeper_version: Option<String>,
    /// Whether the fleet is set to be up or down.
    pub fleet: Fleet,
    /// Why the whole fleet is paused: `login`.
    #[serde(default)]
    pub paused: Option<String>,
    /// The notice that this boot has had, if any.
    pub notice: Option<NoticeSeen>,
    /// The last save at the end of a boot.
    pub last_save: Option<LastSave>,
    /// The state of the backups; null where none was ever tried.
    #[serde(default)]
    pub backup: Option<BackupSeen>,
    /// Problems that hold up the keeper, for example a full disk.
    pub trouble: Vec<String>,
    /// The agents by name.
    pub agents: Vec<AgentStatus>,
}

/// Returns a line on the fleet for `systemctl status`.
#[must_use]
pub fn summary(supervisor: &Supervisor) -> String {
    let views = supervisor.views();
    let running = views.iter().filter(|view| view.process.is_some()).count();
    let all = views.len();
    let agents = if all == 1 { "agent runs" } else { "agents run" };
    let failed = views
        .iter()
        .filter(|view| view.state == AgentState::Failed)
        .count();
    let failed = match failed {
        0 => String::new(),
        number => format!(", {number} failed"),
    };
    let phase = match (
        supervisor.notice(),
        supervisor.is_closed(),
        supervisor.fleet(),
    ) {
        (Some(_), ..) => "; a save is under way",
        (None, true, _) => "; this boot has had its preemption notice",
        (None, false, Fleet::Down) => "; the fleet is down",
        (None, false, Fleet::Up) => "",
    };
    format!("{running} of {all} {agents}{failed}{phase}")
}

/// A preemption notice.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NoticeSeen {
    /// When it came.
    pub at: Timestamp,
    /// When the machine was expected to end.
    pub deadline: Option<Timestamp>,
    /// Where it came from: `metadata`, `signal`, `command` or `unit`.
    pub source: String,
}

/// The last save at the end of a boot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LastSave {
    /// Its id.
    pub id: String,
    /// When it began.
    pub at: Timestamp,
    /// Whether everything was durable in time.
    pub clean: bool,
    /// Milliseconds from the notice until every transcript was durable.
    #[serde(alias = "words_safe_ms")]
    pub transcripts_safe_ms: Option<u64>,
    /// Milliseconds from the notice until everything was durable.
    pub notice_to_safe_ms: Option<u64>,
}

/// The state of the backups.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BackupSeen {
    /// The newest backup; null where none has succeeded.
    pub id: Option<String>,
    /// When it was begun.
    pub at: Option<Timestamp>,
    /// Where backups are copied to; null where they are not copied.
    pub copy_to: Option<String>,
    /// When the newest copy was done.
    pub copied_at: Option<Timestamp>,
    /// When the repository was last checked.
    pub checked_at: Option<Timestamp>,
}

impl BackupSeen {
    /// Converts the stored state.
    #[must_use]
    pub fn from_state(state: &BackupState) -> Self {
        let copy = state.copy.as_ref();
        Self {
            id: state.last.as_ref().map(|made| made.id.clone()),
            at: state.last.as_ref().map(|made| made.at),
            copy_to: copy.map(|copy| copy.to.clone()),
            copied_at: copy.and_then(|copy| copy.at),
            checked_at: state.check.as_ref().map(|check| check.at),
        }
    }
}

/// The status of one agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AgentStatus {
    /// Its name.
    pub name: AgentName,
    /// Its id.
    pub agent_id: String,
    /// What it is doing.
    pub state: AgentState,
    /// Since when it is in this state, as this keeper has seen it; null where no keeper runs.
    #[serde(default)]
    pub since: Option<Timestamp>,
    /// The state that the user has asked for.
    #[serde(alias = "wanted")]
    pub desired: Desired,
    /// The id of its session.
    pub session_id: String,
    /// Its process id, if it runs.
    pub pid: Option<i32>,
    /// The cgroup of the agent and the processes that it started; null where it has none.
    #[serde(default)]
    pub cgroup: Option<PathBuf>,
    /// Its workspace.
    pub workspace: PathBuf,
    /// The branch that is checked out there; null where there is none.
    pub branch: Option<String>,
    /// How many files have uncommitted changes; null where they were not counted.
    pub dirty: Option<u64>,
    /// The size of its workspace on the disk, in bytes; null where it was not measured.
    #[serde(default)]
    pub size_bytes: Option<u64>,
    /// When its newest checkpoint was made.
    pub last_checkpoint: Option<Timestamp>,
    /// When the newest backup that contains it was begun.
    pub last_backup: Option<Timestamp>,
    /// How often it was restarted.
    pub restarts: u32,
    /// Why it does not go on, for people; null where it does.
    pub why: Option<String>,
    /// The same reason, for programs.
    #[serde(default)]
    pub cause: Option<Cause>,
    /// A command to paste, where there is something to do.
    #[serde(default)]
    pub hint: Option<String>,
    /// When it is started or nudged again, at the earliest.
    #[serde(default)]
    pub next_try: Option<Timestamp>,
}

impl LastSave {
    /// Converts a manifest.
    #[must_use]
    pub fn from_manifest(manifest: &Manifest) -> Self {
        Self {
            id: manifest.id.clone(),
            at: manifest.at,
            clean: manifest.clean,
            transcripts_safe_ms: manifest.stages.transcripts_safe_ms,
            notice_to_safe_ms: manifest.stages.notice_to_safe_ms,
        }
    }
}

impl AgentStatus {
    /// Combines the supervisor's view of an agent with its record.
    #[must_use]
    pub fn from_view(
        data_dir: &DataDir,
        view: View,
        record: Option<&AgentRecord>,
        dirty: Option<u64>,
    ) -> Self {
        let workspace = record
            .map(|record| data_dir.absolute(&record.cwd))
            .unwrap_or_default();
        Self {
            agent_id: record
                .map(|record| record.agent_id.clone())
                .unwrap_or_default(),
            state: view.state,
            since: view.since.map(moment),
            cgroup: record
                .filter(|_| view.process.is_some())
                .and_then(|record| record.launch.as_ref()?.cgroup.clone()),
            desired: view.desired,
            session_id: view.session_id,
            pid: view.process.map(|process| process.pid),
            branch: workspace::branch(&workspace),
            workspace,
            dirty,
            last_checkpoint: record
                .and_then(|record| checkpoint::last(&data_dir.checkpoints(&record.agent_id)))
                .map(|last| last.at),
            size_bytes: None,
            last_backup: None,
            restarts: view.restarts,
            next_try: view
                .next_try
                .map(|at| Timestamp::now().after(at.saturating_duration_since(Instant::now()))),
            hint: view
                .cause
                .as_ref()
                .filter(|_| view.desired == Desired::Running || view.state == AgentState::Failed)
                .and_then(|cause| cause.hint(view.name.as_str(), view.process.is_some())),
            cause: view.cause,
            why: view.why,
            name: view.name,
        }
    }

    /// Builds the status from the record alone, where no keeper runs.
    fn of_record(data_dir: &DataDir, record: &AgentRecord, boot_id: &str) -> Self {
        let process = record.live_process(boot_id);
        let was_up = !matches!(record.state, AgentState::Stopped | AgentState::Failed);
        let cause = match (process, record.desired) {
            (None, Desired::Running) if was_up => None,
            (Some(_), _) => None,
            _ => record.cause.clone(),
        };
        let (state, why) = match (process, record.desired) {
            (Some(_), _) => (AgentState::Running, Some("no keeper runs".into())),
            (None, Desired::Stopped) => (AgentState::Stopped, record.why.clone()),
            (None, Desired::Running) if was_up => {
                (AgentState::Stopped, Some("no keeper runs".into()))
            }
            (None, Desired::Running) => (record.state, record.why.clone()),
        };
        let view = View {
            name: record.name.clone(),
            state,
            since: None,
            why,
            cause,
            desired: record.desired,
            restarts: record.restarts,
            process,
            session_id: record.session_id.clone(),
            next_try: None,
        };
        Self::from_view(data_dir, view, Some(record), None)
    }
}

/// Builds the status from files alone, where no keeper runs.
///
/// # Errors
/// The data directory's identity or `spotkeep.toml` is damaged.
pub fn from_files(data_dir: &DataDir) -> Result<Status> {
    let identity = data_dir.identity()?;
    let (config, wrong) = Config::load_or_last_good(&data_dir.config(), &data_dir.config_copy())?;
    let boot_id = process::current_boot_id()?;
    let mut trouble: Vec<String> = wrong.iter().map(|error| format!("{error:#}")).collect();
    let mut agents: Vec<AgentStatus> = Vec::new();
    for (name, record) in data_dir.all_records()? {
        match record {
            Ok(record)
                if config.agents.contains_key(&name) || record.live_process(&boot_id).is_some() =>
            {
                agents.push(AgentStatus::of_record(data_dir, &record, &boot_id));
            }
            Ok(_) => {}
            Err(error) => trouble.push(format!("{error:#}")),
        }
    }
    for (name, agent) in &config.agents {
        if !agents.iter().any(|known| known.name == *name) {
            agents.push(undeclared_yet(data_dir, name, &agent.workspace));
        }
    }
    agents.sort_by(|a, b| a.name.cmp(&b.name));
    let backup_view = BackupView::read(data_dir, &config);
    trouble.extend(backup_view.trouble);
    report_backups(&mut agents, backup_view.state.as_ref());
    Ok(Status {
        version: VERSION,
        data_dir: data_dir.dir().to_path_buf(),
        data_dir_id: identity.data_dir_id,
        epoch: identity.epoch,
        notice: notice_of(data_dir, &boot_id)?,
        boot_id,
        keeper: KeeperState::Stopped,
        keeper_version: None,
        fleet: identity.fleet,
        paused: None,
        last_save: latest_manifest(&data_dir.saves())?
            .as_ref()
            .map(LastSave::from_manifest),
        backup: backup_view.state.as_ref().map(BackupSeen::from_state),
        trouble,
        agents,
    })
}

/// Fills in each agent's newest backup.
pub(super) fn report_backups(agents: &mut [AgentStatus], state: Option<&BackupState>) {
    for agent in agents {
        agent.last_backup = state.and_then(|state| state.agents.get(&agent.agent_id).copied());
    }
}

/// Returns the status of an agent that no keeper has loaded yet, or whose record is damaged.
fn undeclared_yet(data_dir: &DataDir, name: &AgentName, workspace: &Path) -> AgentStatus {
    let view = View {
        name: name.clone(),
        state: AgentState::Unknown,
        since: None,
        why: Some("no keeper has loaded it yet".into()),
        cause: None,
        desired: Desired::Running,
        restarts: 0,
        process: None,
        session_id: String::new(),
        next_try: None,
    };
    let mut status = AgentStatus::from_view(data_dir, view, None, None);
    status.workspace = data_dir.absolute(workspace);
    status.branch = workspace::branch(&status.workspace);
    status
}

/// Returns the notice of this boot, from the journal.
///
/// # Errors
/// The journal cannot be read.
pub fn notice_of(data_dir: &DataDir, boot_id: &str) -> Result<Option<NoticeSeen>> {
    let (lines, _) = state::lines(&data_dir.journal())?;
    let notice = state::since_notice(&lines, boot_id).first();
    Ok(notice.and_then(|line| match &line.event {
        JournalEvent::Notice {
            source,
            deadline_ms,
        } => Some(NoticeSeen {
            at: line.at,
            deadline: deadline_ms.map(|ms| line.at.after(Duration::from_millis(ms))),
            source: source.clone(),
        }),
        _ => None,
    }))
}

/// Returns the status of an idle agent without problems, for tests.
#[cfg(test)]
#[must_use]
pub(crate) fn sample(name: &str, session_id: &str) -> AgentStatus {
    AgentStatus {
        name: AgentName::new(name).unwrap(),
        agent_id: name.into(),
        state: AgentState::Idle,
        since: None,
        desired: Desired::Running,
        session_id: session_id.into(),
        pid: None,
        cgroup: None,
        workspace: PathBuf::new(),
        branch: Some("main".into()),
        dirty: Some(0),
        size_bytes: None,
        last_checkpoint: None,
        last_backup: None,
        restarts: 0,
        why: None,
        cause: None,
        hint: None,
        next_try: None,
    }
}
