//! Launch of one agent: repairs, gathers facts, decides, prepares, and runs it once its record is
//! durable.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::launch_facts::LaunchFacts;
use super::launch_plan::{self, LaunchPlan, Refused};
use super::previous_boot::History;
use super::recover::{self, Recovery};
use super::workspace;
use crate::agent::exec;
use crate::systemd::cgroup::Delegated;
use crate::tmux::Tmux;
use claude::transcript::{locate, tail};
use claude::{TailState, TranscriptLookup};
use state::config::{Agent, Config};
use state::layout::DataDir;
use state::{AgentName, AgentRecord, JournalEvent};
use sys::error::{Context as _, Result};
use sys::files;
use sys::process::ProcessId;
use sys::time::Timestamp;
use sys::uuid::new_uuid;

/// What all launches of a keeper have in common.
#[derive(Debug)]
pub struct LaunchContext<'a> {
    /// The data directory.
    pub data_dir: &'a DataDir,
    /// The configuration.
    pub config: &'a Config,
    /// The boot's id.
    pub boot_id: &'a str,
    /// How the boot before ended.
    pub history: &'a History,
    /// The tmux server.
    pub tmux: &'a Tmux,
    /// The path of this program, which the pane runs first.
    pub program: &'a Path,
}

/// A launch that is prepared and not yet in the agent's record.
#[derive(Debug)]
pub struct ReadyLaunch {
    /// The plan, which has to be durable before [`run`].
    pub plan: LaunchPlan,
    /// Changes to Claude Code's configuration, and what was recovered, as sentences.
    pub seeded: Vec<String>,
    /// Events about its workspace.
    pub readied: Vec<JournalEvent>,
}

/// Decides how an agent starts and prepares everything for it.
///
/// # Errors
/// [`Refused`]: a start would lose data, run a session twice, or cannot work.
pub fn prepare(
    context: &LaunchContext<'_>,
    record: &AgentRecord,
    agent: &Agent,
) -> Result<ReadyLaunch, Refused> {
    // A process that holds the session has its file open, so this check comes before any repair.
    refuse_second_holder(&context.data_dir.claude(), record)?;
    let readied = workspace::ready(context, record)?;
    let brought = recover::bring_back(context.data_dir, context.boot_id, record);
    let brought_back = brought.back.clone();
    let planned = plan(context, record, agent, readied.note.clone(), brought);
    let (plan, mut seeded) = planned.inspect_err(|_| {
        // The repair is done, so the next start would find nothing to report to the agent.
        let unreported = readied.note.iter().chain(&brought_back);
        recover::report_later(context.data_dir, &record.name, unreported);
    })?;
    seeded.extend(brought_back);
    Ok(ReadyLaunch {
        plan,
        seeded,
        readied: readied.what,
    })
}

/// Decides and prepares a launch; returns the plan and the changes to Claude Code's configuration.
fn plan(
    context: &LaunchContext<'_>,
    record: &AgentRecord,
    agent: &Agent,
    workspace: Option<String>,
    brought: Recovery,
) -> Result<(LaunchPlan, Vec<String>), Refused> {
    let facts = gather(context, record, agent, workspace, brought).map_err(Refused::Unfit)?;
    let mut plan = launch_plan::decide(facts)?;
    let seeded = make_ready(context, &record.name, &mut plan)?;
    Ok((plan, seeded))
}

/// Gathers the facts for the decision, without changing anything. An error needs a human.
fn gather<'a>(
    context: &'a LaunchContext<'_>,
    record: &'a AgentRecord,
    agent: &'a Agent,
    workspace: Option<String>,
    brought: Recovery,
) -> Result<LaunchFacts<'a>> {
    let LaunchContext {
        data_dir, config, ..
    } = context;
    let environment = exec::environment(data_dir, config, agent)?;
    let program = find_claude(data_dir, config)?;
    let cwd = data_dir.absolute(&record.cwd);
    let session = claude::locate(&data_dir.claude(), &record.session_id);
    let (tail, is_found_from_cwd) = match &session {
        TranscriptLookup::Present(path) => (
            tail::read(path).map(|(state, _)| state),
            locate::found_from(path, &cwd),
        ),
        _ => (Ok(TailState::default()), false),
    };
    Ok(LaunchFacts {
        record,
        prompt: agent.prompt.as_deref(),
        boot_id: context.boot_id,
        history: context.history,
        cwd,
        program,
        extra: config.arguments_of(agent),
        environment,
        session,
        tail,
        is_found_from_cwd,
        workspace,
        brought,
        note_file: data_dir.note(&record.name),
        marker: new_uuid(),
        now: Timestamp::now(),
    })
}

/// Prepares the disk and the tmux server for a plan; returns the changes to Claude Code's
/// configuration, as sentences.
fn make_ready(
    context: &LaunchContext<'_>,
    name: &AgentName,
    plan: &mut LaunchPlan,
) -> Result<Vec<String>> {
    if let Some(blank) = &plan.quarantine {
        locate::quarantine(blank)?;
    }
    if let Some((file, text)) = &plan.note {
        files::write_atomic(file, text.as_bytes())?;
    }
    let seeded = seed(
        context.data_dir,
        &[&plan.cwd],
        &plan.environment,
        &plan.extra,
    )?;
    context.tmux.ensure_server()?;
    let unit = context.tmux.server_pid().and_then(Delegated::from_server);
    plan.launch.cgroup = unit.map(|unit| unit.leaf(name, &plan.launch.marker).path().to_path_buf());
    Ok(seeded)
}

/// Runs a launch whose record is durable.
///
/// # Errors
/// tmux refused, or the process ended at once.
pub fn run(context: &LaunchContext<'_>, name: &AgentName, plan: &LaunchPlan) -> Result<ProcessId> {
    let words = [
        context
            .program
            .to_str()
            .context("the path of spotkeep is not UTF-8")?,
        "--data-dir",
        context
            .data_dir
            .dir()
            .to_str()
            .context("the data directory's path is not UTF-8")?,
        "agent-exec",
        name.as_str(),
    ];
    context
        .tmux
        .launch(name, &plan.cwd, &words.map(str::to_owned))
}

/// Changes Claude Code's configuration so that it starts unattended in these directories.
///
/// # Errors
/// The configuration cannot be read or written.
pub fn seed(
    data_dir: &DataDir,
    cwds: &[&Path],
    environment: &BTreeMap<String, String>,
    arguments: &[String],
) -> Result<Vec<String>> {
    // A key that is only in the keeper's environment reaches Claude Code too.
    let api_key = environment
        .get("ANTHROPIC_API_KEY")
        .cloned()
        .or_else(|| std::env::var("ANTHROPIC_API_KEY").ok());
    // Claude Code asks about directories that an argument adds, as it does about the workspace.
    let trusted: Vec<&Path> = cwds
        .iter()
        .copied()
        .chain(claude::command_line::added_dirs(arguments))
        .collect();
    let seed = claude::onboarding::Seed {
        cwds: &trusted,
        api_key: api_key.as_deref(),
        skip_permissions: arguments
            .iter()
            .any(|argument| argument == "--dangerously-skip-permissions"),
    };
    claude::onboarding::seed(&data_dir.claude(), &seed, &data_dir.claude_json_copy())
}

/// Finds the `claude` program that agents of this data directory run.
///
/// # Errors
/// There is none.
pub fn find_claude(data_dir: &DataDir, config: &Config) -> Result<PathBuf> {
    let declared = config
        .defaults
        .claude
        .as_ref()
        .map(|path| data_dir.absolute(path));
    let (variable, path) = (
        std::env::var_os("SPOTKEEP_CLAUDE"),
        std::env::var_os("PATH"),
    );
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let search = claude::binary::Search {
        explicit: declared.as_deref(),
        variable: variable.as_deref(),
        data_dir: Some(data_dir.dir()),
        path: path.as_deref(),
        home: home.as_deref(),
    };
    claude::binary::find(&search)
}

/// Refuses a session that another Claude has open: Claude Code has no lock, so each of two
/// processes would lose the other's work.
fn refuse_second_holder(config_dir: &Path, record: &AgentRecord) -> Result<(), Refused> {
    let holder = claude::session_file::live(config_dir)
        .into_iter()
        .find(|file| file.session_id == record.session_id);
    match holder {
        Some(file) => Err(Refused::InUse {
            pid: file.process.pid,
        }),
        None => Ok(()),
    }
}
