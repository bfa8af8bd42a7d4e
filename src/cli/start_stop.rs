//! `spotkeep start`, `spotkeep stop` and `spotkeep restart`: start, stop and restart agents.

use std::process::ExitCode;
use std::time::Duration;

use super::daemon::{instead_of_keeper, is_moving, named, names_or_all, status, wait};
use super::output::{complain, print_line, state};
use crate::keeper::client;
use state::layout::DataDir;
use state::{AgentName, AgentState, Desired};
use sys::error::{Context as _, ErrorKind, Hint as _, Result, anyhow};

/// How long to wait until the agents have reached the requested state.
const LIMIT: Duration = Duration::from_secs(30);

/// Arguments of `start` and `stop`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  spotkeep stop agent-1\n  spotkeep start")]
pub(super) struct Args {
    /// The agents; all if none is named.
    names: Vec<AgentName>,
    /// Show what would be done; change nothing.
    #[arg(long)]
    dry_run: bool,
}

/// Arguments of `restart`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  spotkeep restart agent-1\n  spotkeep restart --when-idle --canary"
)]
pub(super) struct RestartArgs {
    #[command(flatten)]
    common: Args,
    /// Wait until each agent is idle. No turn (a prompt and all work on it) is interrupted.
    #[arg(long)]
    when_idle: bool,
    /// Restart one agent first. The others follow when it has run for a minute; if it fails, they
    /// are left alone.
    #[arg(long, requires = "when_idle")]
    canary: bool,
}

pub(super) fn start(data_dir: &DataDir, args: Args) -> Result<ExitCode> {
    want(data_dir, args, Desired::Running)
}

pub(super) fn stop(data_dir: &DataDir, args: Args) -> Result<ExitCode> {
    want(data_dir, args, Desired::Stopped)
}

fn want(data_dir: &DataDir, args: Args, desired: Desired) -> Result<ExitCode> {
    let names = names_or_all(data_dir, args.names)?;
    named(&status(data_dir)?, &names)?;
    let verb = if desired == Desired::Running {
        "start"
    } else {
        "stop"
    };
    if args.dry_run {
        let names: Vec<&str> = names.iter().map(AgentName::as_str).collect();
        print_line(&format!("would {verb} {}", names.join(", ")));
        return Ok(ExitCode::SUCCESS);
    }
    if client::want(data_dir, &names, desired)?.is_none() {
        return remember(data_dir, &names, desired);
    }
    let there = move |state: AgentState, pid: Option<i32>| match desired {
        Desired::Running => !matches!(state, AgentState::Starting),
        Desired::Stopped => pid.is_none(),
    };
    let after = wait(data_dir, LIMIT, |now| {
        let mut agents = now
            .agents
            .iter()
            .filter(|agent| names.contains(&agent.name));
        agents.all(|agent| there(agent.state, agent.pid))
    })?;
    let mut code = ExitCode::SUCCESS;
    for agent in named(&after, &names)? {
        let why = agent
            .why
            .as_ref()
            .map(|why| format!(": {why}"))
            .unwrap_or_default();
        print_line(&format!("{}  {}{why}", state(agent.state), agent.name));
        let failed = matches!(agent.state, AgentState::Failed | AgentState::Backoff);
        if failed || !there(agent.state, agent.pid) {
            code = ExitCode::from(ErrorKind::NotAsDeclared as u8);
        }
    }
    Ok(code)
}

/// Writes the request into the records, for the next keeper; used when no keeper runs.
fn remember(data_dir: &DataDir, names: &[AgentName], desired: Desired) -> Result<ExitCode> {
    let _lock = instead_of_keeper(data_dir)?;
    let mut left = Vec::new();
    for name in names {
        let mut record = data_dir
            .load_record(name)?
            .with_context(|| format!("no keeper has loaded {name} yet"))
            .hint("spotkeep up")?;
        record.desired = desired;
        if desired == Desired::Stopped {
            record.why = Some("stopped by you".into());
        }
        data_dir.store_record(&record)?;
        if desired == Desired::Stopped
            && record
                .process
                .is_some_and(sys::process::ProcessId::is_alive)
        {
            left.push(name.to_string());
        }
    }
    if !left.is_empty() {
        return Err(anyhow!("cannot stop {}: no keeper runs", left.join(", ")))
            .hint(format!(
                "spotkeep --data-dir {} up",
                data_dir.dir().display()
            ))
            .kind(ErrorKind::NotAsDeclared);
    }
    complain("no keeper runs; the next one applies this");
    complain(&format!(
        "hint: spotkeep --data-dir {} up",
        data_dir.dir().display()
    ));
    Ok(ExitCode::SUCCESS)
}

pub(super) fn restart(data_dir: &DataDir, args: RestartArgs) -> Result<ExitCode> {
    let names = names_or_all(data_dir, args.common.names)?;
    let before = status(data_dir)?;
    let pids: Vec<_> = named(&before, &names)?
        .iter()
        .map(|agent| (agent.name.clone(), agent.pid))
        .collect();
    if args.common.dry_run {
        for (name, pid) in &pids {
            let now = pid.map_or_else(
                || "is not running".into(),
                |pid| format!("runs (pid {pid})"),
            );
            print_line(&format!("would restart {name}, which {now}"));
        }
        return Ok(ExitCode::SUCCESS);
    }
    client::restart(data_dir, &names, args.when_idle, args.canary)?
        .context("no keeper runs")
        .hint(format!(
            "spotkeep --data-dir {} up",
            data_dir.dir().display()
        ))?;
    if args.when_idle {
        print_line(match args.canary {
            true => "one agent restarts when it is idle, the others when that one is up",
            false => "each agent restarts when it is idle",
        });
        return Ok(ExitCode::SUCCESS);
    }
    let after = wait(data_dir, LIMIT, |now| {
        let mut agents = now
            .agents
            .iter()
            .filter(|agent| names.contains(&agent.name));
        agents.all(|agent| {
            let is_old = pids
                .iter()
                .any(|(name, pid)| *name == agent.name && pid.is_some() && *pid == agent.pid);
            !is_old && !is_moving(agent)
        })
    })?;
    let mut code = ExitCode::SUCCESS;
    for agent in named(&after, &names)? {
        let why = agent.why.as_ref().map(|why| format!(": {why}"));
        print_line(&format!(
            "{}  {}{}",
            state(agent.state),
            agent.name,
            why.unwrap_or_default()
        ));
        if agent.pid.is_none() || is_moving(agent) {
            code = ExitCode::from(ErrorKind::NotAsDeclared as u8);
        }
    }
    Ok(code)
}
