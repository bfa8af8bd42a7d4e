//! `spotkeep up` and `spotkeep down`: start and stop the whole fleet.

use std::fs::OpenOptions;
use std::io::IsTerminal as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use super::daemon::{instead_of_keeper, is_moving, status, wait};
use super::drop_privileges::Access;
use super::output::{complain, counted, print_line, state, table};
use crate::keeper::client;
use crate::keeper::protocol::refuse_to_end;
use crate::keeper::runtime_dir;
use crate::keeper::status::{AgentStatus, Status};
use crate::resume;
use crate::systemd::install;
use crate::systemd::units::{ALL, KEEPER};
use state::config::Config;
use state::layout::DataDir;
use state::{AgentName, AgentState, Fleet};
use sys::error::{Context as _, ErrorKind, Hint as _, Result, anyhow};
use sys::process;

/// How long systemd may take to start the keeper's unit.
const UNIT_LIMIT: Duration = Duration::from_secs(5);

/// Poll interval while waiting for a keeper to start.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// After so long, `up` prints that it waits for the keeper. It waits as long as that process runs,
/// since the machine may be busy.
const MESSAGE_AFTER: Duration = Duration::from_secs(5);

/// How long `up` waits for agents to start; they go on starting after that.
const UP_LIMIT: Duration = Duration::from_secs(90);

/// How long `down` waits for agents to stop: their term timeout, and some more.
const DOWN_LIMIT: Duration = Duration::from_secs(15);

/// Arguments of `up`.
#[derive(Debug, Default, clap::Args)]
#[command(after_help = "\
Prints the plan, then starts the keeper (the daemon that runs the agents) and the agents. Run it
again after a change of spotkeep.toml.

Examples:
  spotkeep up --dry-run
  spotkeep up")]
pub(super) struct UpArgs {
    /// Show the plan; change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Do not wait until the agents run.
    #[arg(long)]
    no_wait: bool,
    /// Stop agents removed from spotkeep.toml without asking.
    #[arg(long)]
    yes: bool,
}

impl UpArgs {
    /// Returns what the verb does on the data directory: a dry run only reads.
    pub(super) fn access(&self) -> Access {
        if self.dry_run {
            Access::Reads
        } else {
            Access::Acts
        }
    }
}

/// Arguments of `down`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
No agent starts until then, not even after a reboot. Their sessions are kept.

Example:
  spotkeep down")]
pub(super) struct DownArgs {
    /// Show what would be done; change nothing.
    #[arg(long)]
    dry_run: bool,
}

impl DownArgs {
    /// Returns what the verb does on the data directory: a dry run only reads.
    pub(super) fn access(&self) -> Access {
        if self.dry_run {
            Access::Reads
        } else {
            Access::Acts
        }
    }
}

pub(super) fn up(data_dir: &DataDir, args: &UpArgs) -> Result<ExitCode> {
    let config = Config::load(&data_dir.config())?;
    let before = status(data_dir)?;
    if let Some(notice) = &before.notice {
        return Err(anyhow!(
            "this boot has had its preemption notice ({}): no agent is started",
            notice.source
        ))
        .hint("if this VM keeps running: spotkeep restore")
        .kind(ErrorKind::NotAsDeclared);
    }
    let changed = show_plan(data_dir, &config, &before)?;
    if args.dry_run {
        return Ok(ExitCode::SUCCESS);
    }
    let ends = undeclared(&config, &before);
    if !ends.is_empty() && !args.yes {
        ask_to_end(&ends)?;
    }
    if !before.keeper.runs() {
        write_fleet(data_dir, Fleet::Up)?;
        start_keeper(data_dir)?;
    } else {
        client::reload(data_dir, ends)?;
        client::set_fleet(data_dir, Fleet::Up)?;
    }
    roll_out(data_dir, changed)?;
    if args.no_wait {
        return Ok(ExitCode::SUCCESS);
    }
    let after = wait(data_dir, UP_LIMIT, |now| !now.agents.iter().any(is_moving))?;
    Ok(conclude(&after))
}

/// Returns the running agents that are not in spotkeep.toml any more.
fn undeclared(config: &Config, now: &Status) -> Vec<AgentName> {
    now.agents
        .iter()
        .filter(|agent| agent.pid.is_some() && !config.agents.contains_key(&agent.name))
        .map(|agent| agent.name.clone())
        .collect()
}

/// Asks before agents are stopped: a truncated spotkeep.toml looks like one from which agents were
/// removed.
fn ask_to_end(names: &[AgentName]) -> Result<()> {
    let names: Vec<&str> = names.iter().map(AgentName::as_str).collect();
    if !std::io::stdin().is_terminal() {
        return refuse_to_end(&names);
    }
    complain(&format!(
        "this stops {}; type yes to continue:",
        names.join(", ")
    ));
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    match line.trim() {
        "yes" => Ok(()),
        _ => refuse_to_end(&names),
    }
}

/// Restarts agents with changed settings when they are idle, so that no turn is interrupted.
fn roll_out(data_dir: &DataDir, changed: Vec<AgentName>) -> Result<()> {
    if changed.is_empty() {
        return Ok(());
    }
    let names = changed.iter().map(AgentName::as_str).collect::<Vec<_>>();
    let first = match names.len() {
        1 => "",
        _ => ", one first, the others when it runs",
    };
    let names = names.join(", ");
    client::restart(data_dir, &changed, true, true)?;
    print_line(&format!("{names} will restart when idle{first}"));
    Ok(())
}

/// Prints the result. Returns the exit code: 3 if an agent does not run.
fn conclude(after: &Status) -> ExitCode {
    let is_up = |agent: &&AgentStatus| {
        agent.pid.is_some() && !matches!(agent.state, AgentState::Starting | AgentState::Failed)
    };
    let up = after.agents.iter().filter(is_up).count();
    print_line(&format!(
        "{up} of {} agents are running",
        after.agents.len()
    ));
    for agent in &after.agents {
        if agent.branch.is_none() && agent.workspace.is_dir() {
            complain(&format!(
                "note: the workspace of {} is not a git repository, so it gets no checkpoints",
                agent.name
            ));
        }
    }
    let mut code = ExitCode::SUCCESS;
    for agent in &after.agents {
        let reason = match agent.state {
            AgentState::Failed | AgentState::Backoff | AgentState::Starting => {
                "the reason is unknown"
            }
            AgentState::Waiting => "waits for a human",
            _ => continue,
        };
        let why = agent.why.as_deref().unwrap_or(reason);
        complain(&format!("{} {}: {why}", state(agent.state), agent.name));
        complain(&match agent.state {
            AgentState::Waiting => format!("hint: spotkeep attach {}", agent.name),
            AgentState::Starting => "hint: spotkeep ls".to_owned(),
            _ => format!(
                "hint: spotkeep logs --raw {0}; then: spotkeep start {0}",
                agent.name
            ),
        });
        if agent.state != AgentState::Waiting {
            code = ExitCode::from(ErrorKind::NotAsDeclared as u8);
        }
    }
    code
}

/// Prints the plan for each agent. Returns the agents whose settings have changed while they run.
fn show_plan(data_dir: &DataDir, config: &Config, now: &Status) -> Result<Vec<AgentName>> {
    let records: Vec<_> = data_dir
        .all_records()?
        .into_iter()
        .filter_map(|(name, record)| Some((name, record.ok()?)))
        .collect();
    let boot_id = process::current_boot_id()?;
    let (mut rows, mut changed) = (Vec::new(), Vec::new());
    for name in config.agents.keys() {
        let known = records.iter().find(|(known, _)| known == name);
        let step =
            known.map(|(_, record)| resume::plan(data_dir, std::slice::from_ref(record), &boot_id));
        let what = step
            .and_then(|mut steps| steps.pop())
            .map_or_else(|| "starts for the first time".to_owned(), |step| step.what);
        let changes = known.map_or_else(Vec::new, |(_, record)| {
            resume::changes(data_dir, config, record, &boot_id)
        });
        let what = match changes.as_slice() {
            [] => what,
            changes => {
                changed.push(name.clone());
                format!(
                    "{what}; changed: {}; restarts when idle",
                    changes.join(", ")
                )
            }
        };
        rows.push([name.to_string(), what]);
    }
    for name in undeclared(config, now) {
        rows.push([
            name.to_string(),
            "stops: it is not in spotkeep.toml any more".into(),
        ]);
    }
    if rows.is_empty() {
        print_line("there are no agents in spotkeep.toml");
        complain("hint: spotkeep add agent-1 --prompt 'Fix issue 123.'");
        return Ok(changed);
    }
    for line in table(["AGENT", "PLAN"], &rows) {
        print_line(&line);
    }
    Ok(changed)
}

/// Starts a keeper that keeps running without this terminal, and waits until it answers or has
/// ended.
fn start_keeper(data_dir: &DataDir) -> Result<()> {
    if install::keeps(Path::new("/"), data_dir.dir()) {
        return wait_for_the_units_keeper(data_dir);
    }
    let identity = data_dir.identity()?;
    let runtime = runtime_dir::directory(
        data_dir,
        &identity.data_dir_id,
        &process::current_boot_id()?,
    )?;
    let log = runtime.join("keeper.log");
    let open = || {
        OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&log)
    };
    let program = std::env::current_exe().context("cannot find the path of this program")?;
    let mut child = Command::new(program)
        .arg("--data-dir")
        .arg(data_dir.dir())
        .args(["run", "--background"])
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(open()?)
        .stderr(open()?)
        .spawn()
        .context("cannot start a keeper")?;
    let mut say_at = Some(Instant::now() + MESSAGE_AFTER);
    loop {
        let now = status(data_dir);
        if now.as_ref().is_ok_and(|now| now.keeper.runs()) {
            return Ok(());
        }
        if let Some(status) = child.try_wait()? {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            let last = said
                .lines()
                .rfind(|line| line.starts_with("error"))
                .unwrap_or("no error was printed");
            return Err(anyhow!("the keeper ended immediately ({status}): {last}")).hint(format!(
                "spotkeep --data-dir {} run",
                data_dir.dir().display()
            ));
        }
        if say_at.is_some_and(|at| Instant::now() >= at) {
            say_at = None;
            let why = now.err().map(|error| format!(": {error:#}"));
            complain(&format!(
                "waiting for the new keeper (pid {}){}; its log: tail -f {}",
                child.id(),
                why.unwrap_or_default(),
                log.display()
            ));
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// Waits for the keeper of the systemd unit. A second keeper in a user's session would take the
/// lock of the data directory from it.
fn wait_for_the_units_keeper(data_dir: &DataDir) -> Result<()> {
    let began = Instant::now();
    loop {
        // A keeper that holds the lock may not answer yet.
        if status(data_dir).is_ok_and(|now| now.keeper.runs()) {
            return Ok(());
        }
        let is_coming = || install::is_under_way(KEEPER).unwrap_or(true);
        if began.elapsed() >= UNIT_LIMIT && !is_coming() {
            break;
        }
        std::thread::sleep(POLL_INTERVAL);
    }
    Err(anyhow!(
        "the keeper of this data directory is a systemd unit that is not running"
    ))
    .hint(format!("sudo systemctl start {}", ALL.join(" ")))
}

pub(super) fn down(data_dir: &DataDir, args: &DownArgs) -> Result<ExitCode> {
    let before = status(data_dir)?;
    let running: Vec<String> = before
        .agents
        .iter()
        .filter(|agent| agent.pid.is_some())
        .map(|agent| agent.name.to_string())
        .collect();
    if args.dry_run {
        print_line(&format!(
            "would stop {}: {}",
            counted(running.len(), "agent"),
            running.join(", ")
        ));
        return Ok(ExitCode::SUCCESS);
    }
    if !before.keeper.runs() {
        write_fleet(data_dir, Fleet::Down)?;
        print_line("no keeper runs; no agent starts until: spotkeep up");
        if !running.is_empty() {
            return Err(anyhow!(
                "cannot stop {}: no keeper runs",
                running.join(", ")
            ))
            .hint("spotkeep run")
            .kind(ErrorKind::NotAsDeclared);
        }
        return Ok(ExitCode::SUCCESS);
    }
    // A keeper without running agents may exit before it answers.
    if client::set_fleet(data_dir, Fleet::Down)?.is_none()
        && data_dir.identity()?.fleet != Fleet::Down
    {
        write_fleet(data_dir, Fleet::Down)?;
    }
    let after = wait(data_dir, DOWN_LIMIT, |now| {
        now.agents.iter().all(|agent| agent.pid.is_none())
    })?;
    let left = after
        .agents
        .iter()
        .filter(|agent| agent.pid.is_some())
        .count();
    if left > 0 {
        return Err(anyhow!("{} not stopped yet", counted(left, "agent")))
            .hint("spotkeep ls")
            .kind(ErrorKind::NotAsDeclared);
    }
    print_line(&format!(
        "stopped {}; no agent starts until: spotkeep up",
        counted(running.len(), "agent")
    ));
    Ok(ExitCode::SUCCESS)
}

fn write_fleet(data_dir: &DataDir, fleet: Fleet) -> Result<()> {
    let _lock = instead_of_keeper(data_dir)?;
    let mut identity = data_dir.identity()?;
    if identity.fleet != fleet {
        identity.fleet = fleet;
        state::store(&data_dir.identity_file(), &identity)?;
    }
    Ok(())
}
