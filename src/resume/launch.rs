//! Launching one agent: decide, prepare, remember, and only then run. Readable top to bottom.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::decision::{Verdict, decide};
use super::previous_boot::History;
use super::recover::{self, Brought};
use super::workspace;
use crate::systemd::cgroup::Delegated;
use crate::tmux::Tmux;
use claude::command_line::{Start, arguments};
use claude::resume_note::{self, Cause, Cut};
use claude::transcript::tail;
use claude::{ApiStop, Status, Tail};
use state::config::{Agent, Config};
use state::layout::Root;
use state::{AgentRecord, AgentState, How, Launch, What};
use sys::error::{Context as _, Error, Result, anyhow};
use sys::files;
use sys::process::ProcessId;
use sys::time::Timestamp;
use sys::uuid::new_uuid;

/// What launches have in common.
#[derive(Debug)]
pub struct Ground<'a> {
    /// The root.
    pub root: &'a Root,
    /// What is declared.
    pub config: &'a Config,
    /// The life of the machine.
    pub life: &'a str,
    /// The life before.
    pub history: &'a History,
    /// Our tmux server.
    pub tmux: &'a Tmux,
    /// This very program, which the pane runs first.
    pub program: &'a Path,
}

/// Why an agent was not launched.
#[derive(Debug)]
pub struct Refused {
    /// The reason.
    pub why: Error,
    /// Whether trying again may help.
    pub retry: bool,
}

impl<E: Into<Error>> From<E> for Refused {
    /// What merely failed may work later.
    fn from(error: E) -> Self {
        Self {
            why: error.into(),
            retry: true,
        }
    }
}

impl Refused {
    /// Trying again will not help.
    pub(super) fn never(why: impl Into<String>) -> Self {
        Self {
            why: anyhow!(why.into()),
            retry: false,
        }
    }
}

/// A reason, and why nothing could be brought back.
fn with_failures(why: String, brought: &Brought) -> String {
    match brought.failures.join("; ") {
        failures if failures.is_empty() => why,
        failures => format!("{why}; {failures}"),
    }
}

/// A launch that is prepared and remembered nowhere yet.
#[derive(Debug)]
pub struct Prepared {
    /// The record as it has to be made durable before [`run`].
    pub record: AgentRecord,
    /// How its session begins.
    pub how: How,
    /// What was done to Claude's configuration, and what was brought back.
    pub seeded: Vec<String>,
    /// What was done to its workspace, and found there.
    pub readied: Vec<What>,
}

/// Decides how an agent starts and prepares everything for it.
///
/// # Errors
/// [`Refused`]: a start would lose something, run a session twice, or cannot work.
pub fn prepare(
    ground: &Ground<'_>,
    mut record: AgentRecord,
    agent: &Agent,
) -> Result<Prepared, Refused> {
    let root = ground.root;
    let config_dir = root.claude();
    let cwd = root.absolute(&record.cwd);
    // Whoever holds the session has its file open, so that comes first.
    refuse_second_holder(&config_dir, &record)?;
    let readied = workspace::ready(ground, &record)?;
    let brought = recover::bring_back(root, ground.life, &record);
    let environment = crate::keeper::agent_exec::environment(root, ground.config, agent)
        .map_err(|why| Refused { why, retry: false })?;
    let program = find_claude(root, ground.config)?;

    let session_id = record.session_id.clone();
    let name = record.name.clone();
    let extra = ground.config.arguments_of(agent);
    claude::command_line::check_extra(&extra).map_err(|why| Refused { why, retry: false })?;
    let (how, arguments) = match decide(&record, &claude::locate(&config_dir, &session_id)) {
        Verdict::Refuse { why, retry } => {
            return Err(Refused {
                why: anyhow!(with_failures(why, &brought)),
                retry,
            });
        }
        Verdict::First { set_aside } => {
            if let Some(path) = set_aside {
                claude::transcript::locate::set_aside(&path)?;
            }
            // After `/clear` it was given already, to the session before.
            let is_first = record.past_sessions.is_empty() && !record.prompt_delivered;
            let start = Start::First {
                session_id: &session_id,
                prompt: agent.prompt.as_deref().filter(|_| is_first),
            };
            (How::First, arguments(&start, &name, &extra))
        }
        Verdict::Resume { transcript } => {
            let told = (readied.told.as_deref(), brought.back.as_slice());
            let note = write_note(ground, &record, &transcript, told)?;
            let by_file = (!claude::transcript::locate::found_from(&transcript, &cwd))
                .then_some(transcript.as_path());
            let start = Start::Resume {
                session_id: &session_id,
                by_file,
                note: note.as_deref(),
            };
            (
                if note.is_some() {
                    How::Continue
                } else {
                    How::Resume
                },
                arguments(&start, &name, &extra),
            )
        }
    };
    let mut seeded = seed(root, &[&cwd], &environment, &extra)?;
    seeded.extend(brought.back);
    ground.tmux.ensure_server()?;
    let marker = new_uuid();
    let unit = ground.tmux.server_pid().and_then(Delegated::of_server);
    record.launch = Some(Launch {
        program,
        arguments,
        cgroup: unit.map(|unit| unit.leaf(&name, &marker).path().to_path_buf()),
        marker,
    });
    record.life = Some(ground.life.to_owned());
    record.process = None;
    Ok(Prepared {
        record,
        how,
        seeded,
        readied: readied.what,
    })
}

/// Runs a launch whose record is durable.
///
/// # Errors
/// tmux refused, or the process ended at once.
pub fn run(ground: &Ground<'_>, record: &AgentRecord) -> Result<ProcessId, Refused> {
    let words = [
        ground
            .program
            .to_str()
            .context("the path of spotkeep is not UTF-8")?,
        "--root",
        ground
            .root
            .dir()
            .to_str()
            .context("the root's path is not UTF-8")?,
        "agent-exec",
        record.name.as_str(),
    ];
    let cwd = ground.root.absolute(&record.cwd);
    Ok(ground
        .tmux
        .launch(&record.name, &cwd, &words.map(str::to_owned))?)
}

/// Lets Claude start unattended in these directories.
///
/// # Errors
/// Its configuration can be neither read nor written.
pub fn seed(
    root: &Root,
    cwds: &[&Path],
    environment: &BTreeMap<String, String>,
    arguments: &[String],
) -> Result<Vec<String>> {
    // One that is only in our own environment reaches Claude all the same.
    let api_key = environment
        .get("ANTHROPIC_API_KEY")
        .cloned()
        .or_else(|| std::env::var("ANTHROPIC_API_KEY").ok());
    // Directories that are added by an argument are asked about like the workspace itself.
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
    claude::onboarding::seed(&root.claude(), &seed, &root.claude_json_copy())
}

/// The `claude` that agents of this root run.
///
/// # Errors
/// There is none.
pub fn find_claude(root: &Root, config: &Config) -> Result<PathBuf, Refused> {
    let declared = config
        .defaults
        .claude
        .as_ref()
        .map(|path| root.absolute(path));
    let (variable, path) = (
        std::env::var_os("SPOTKEEP_CLAUDE"),
        std::env::var_os("PATH"),
    );
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let search = claude::binary::Search {
        explicit: declared.as_deref(),
        variable: variable.as_deref(),
        root: Some(root.dir()),
        path: path.as_deref(),
        home: home.as_deref(),
    };
    claude::binary::find(&search).map_err(|why| Refused { why, retry: false })
}

/// Two processes on one session would each forget what the other did: Claude has no lock.
fn refuse_second_holder(config_dir: &Path, record: &AgentRecord) -> Result<(), Refused> {
    let holder = claude::session_file::live(config_dir)
        .into_iter()
        .find(|file| file.session_id == record.session_id);
    match holder {
        Some(file) => Err(Refused {
            why: anyhow!(
                "its session is in use by another claude (pid {})",
                file.process.pid
            ),
            retry: true,
        }),
        None => Ok(()),
    }
}

/// Whether an agent that the API had stopped asks it again with its first word. A limit is waited
/// for where it stands; the keeper nudges it then.
fn asks_at_once(stop: ApiStop, in_a_row: u32) -> bool {
    let over = match stop {
        ApiStop::Limit { until } => until.is_some_and(|until| until <= Timestamp::now()),
        _ => true,
    };
    over && supervisor::stall_retry::after_stop(stop, in_a_row, None, 0)
        != supervisor::stall_retry::Patience::Human
}

/// Where a turn was cut: the details into a file of the agent's own, and the text to prompt with.
fn write_note(
    ground: &Ground<'_>,
    record: &AgentRecord,
    transcript: &Path,
    (workspace, brought_back): (Option<&str>, &[String]),
) -> Result<Option<String>> {
    let (state, _) = tail::read(transcript).context("cannot read its transcript")?;
    let same_life = record.life.as_deref() == Some(ground.life);
    let cause = match (&record.why, same_life) {
        (_, false) if ground.history.noticed_by.as_deref() == Some("metadata") => {
            Cause::Preempted { noticed: true }
        }
        (_, false) if ground.history.noticed_by.is_some() => Cause::ShutDown,
        (_, false) => Cause::Preempted { noticed: false },
        (Some(why), true) if record.state == AgentState::Backoff => Cause::Crashed(why.clone()),
        (_, true) => Cause::Restarted,
    };
    let noticed_at = ground.history.noticed_at.filter(|_| !same_life);
    // A turn that ended on the news that its tools were killed was cut by us.
    let what = noticed_at.map_or_else(|| state.tail(), |at| state.tail_when_stopped(at));
    let awaited = record.last_seen == Some(AgentState::Waiting);
    let last_status = (record.last_seen == Some(AgentState::Idle)).then_some(Status::Idle);
    let queued = state.queued();
    if let Tail::StoppedByApi { reason, .. } = what
        && queued.is_empty()
        && workspace.is_none()
    {
        let is_due = asks_at_once(reason, state.stops_in_a_row());
        return Ok(is_due.then(|| resume_note::again(reason)));
    }
    let is_whole = workspace.is_none() && brought_back.is_empty();
    if !what.was_cut(last_status.as_ref()) && queued.is_empty() && is_whole {
        return Ok(None);
    }
    let cut = Cut {
        what: &what,
        cause: &cause,
        awaited_permission: awaited,
        cut_at: noticed_at.or(state.last_activity()),
        back_at: Timestamp::now(),
        last_prompt: state.last_prompt(),
        queued: &queued,
        workspace,
        brought_back,
    };
    let file = ground.root.note(&record.name);
    let Some(prompt) = resume_note::prompt(&cut, &file) else {
        return Ok(None);
    };
    files::write_atomic(&file, resume_note::details(&cut).as_bytes())?;
    Ok(Some(prompt))
}
