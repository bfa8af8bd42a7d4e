//! The command line: parses arguments, calls the module of the verb, prints its result.
//!
//! One file per verb; decisions are made elsewhere. This is the only module that uses `clap`,
//! `tracing_subscriber` and `tracing_journald`.

mod add;
mod adopt;
mod agent_exec;
mod attach;
mod backup;
mod checkpoint;
mod daemon;
mod doctor;
mod drill;
pub mod drill_live;
mod drop_privileges;
mod events;
mod gcp;
mod help;
mod init;
mod log;
mod logs;
mod ls;
mod metrics;
mod notice;
mod output;
mod report;
mod restore;
mod rm;
mod run;
mod save;
mod send;
mod setup;
mod start_stop;
mod status;
mod tmux_server;
mod top;
mod units;
mod up_down;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use drop_privileges::Access;
use state::layout::{self, DataDir};
use sys::error::{Error, Result, hint_of, kind_of};

/// Keep Claude Code agents alive across VM preemptions.
#[derive(Debug, Parser)]
#[command(name = "spotkeep", version, max_term_width = 100, disable_help_subcommand = true,
after_help = AFTER_HELP)]
struct Cli {
    /// Use this data directory. It is on the disk that survives preemptions.
    #[arg(
        short = 'D',
        long,
        alias = "root",
        global = true,
        env = "SPOTKEEP_DATA_DIR",
        hide_env_values = true,
        default_value_os_t = layout::default_dir(),
        value_name = "DIR"
    )]
    data_dir: PathBuf,

    #[command(subcommand)]
    verb: Verb,
}

const AFTER_HELP: &str = "\
An agent is a Claude Code session in tmux. The fleet is all agents of a data directory. The
keeper is the daemon that starts, saves and resumes them.

Exit codes: 0 success, 1 error, 2 wrong usage, 3 not as desired (for example a failed agent).

Examples:
  spotkeep --data-dir ~/fleet init --unattended
  spotkeep --data-dir ~/fleet add agent-1 --workspace workspaces/agent-1 --prompt 'Fix issue 123.'
  spotkeep --data-dir ~/fleet up
  spotkeep --data-dir ~/fleet attach agent-1";

#[derive(Debug, Subcommand)]
enum Verb {
    /// Create a data directory with a spotkeep.toml.
    Init(init::Args),
    /// Add an agent to spotkeep.toml.
    Add(add::Args),
    /// Import existing sessions.
    Adopt(adopt::Args),
    /// Stop an agent and remove it from spotkeep.toml.
    Rm(rm::Args),
    /// Apply spotkeep.toml and start the fleet.
    Up(up_down::UpArgs),
    /// Stop all agents until the next `up`.
    Down(up_down::DownArgs),
    /// Start agents (all if none is named).
    Start(start_stop::Args),
    /// Stop agents; they stay stopped after a reboot.
    Stop(start_stop::Args),
    /// Restart agents to apply changed settings.
    Restart(start_stop::RestartArgs),
    /// Run the keeper (the daemon) in the foreground.
    Run(run::Args),
    /// List the agents.
    Ls(ls::Args),
    /// Show fleet status.
    Status(status::Args),
    /// Show and control the fleet, updated live.
    Top(top::Args),
    /// Open an agent's terminal (ctrl-b d leaves it).
    Attach(attach::Args),
    /// Show what agents said and did.
    Logs(logs::Args),
    /// Send a message to agents.
    Send(send::Args),
    /// Show the event log.
    Events(events::Args),
    /// Summarize preemptions, losses and each agent's time.
    Report(report::Args),
    /// Print fleet metrics for Prometheus.
    Metrics(metrics::Args),
    /// Flush everything to disk and checkpoint.
    Save(save::Args),
    /// Create, compare and restore snapshots of uncommitted work.
    Checkpoint(checkpoint::Args),
    /// Resume the fleet now.
    Restore(restore::Args),
    /// Create, list and restore backups.
    Backup(backup::Args),
    /// Show whether this VM is being preempted.
    Notice(notice::Args),
    /// Check the setup and suggest fixes.
    Doctor(doctor::Args),
    /// Rehearse a preemption and report what survives.
    Drill(drill::Args),
    /// Set up this VM: disk, programs, services (root).
    Setup(setup::Args),
    /// Do the part of `setup` that runs as the user.
    #[command(hide = true)]
    SetupUser {
        /// The request, as JSON.
        request: String,
    },
    /// Manage a VM on Google Cloud.
    Gcp(Box<gcp::Args>),
    /// Print shell completions.
    Completions(help::completions::Args),
    /// List completions at the cursor, for shell scripts.
    #[command(hide = true)]
    Complete {
        /// The words of the line up to the cursor, without the program's name.
        #[arg(last = true)]
        words: Vec<String>,
    },
    /// Write the man pages, one per verb.
    #[command(hide = true)]
    Man(help::man::Args),
    /// Become an agent's Claude process, in its pane.
    #[command(hide = true)]
    AgentExec(agent_exec::Args),
    /// Become the tmux server, in its unit.
    #[command(hide = true)]
    TmuxServer,
    /// Install the systemd units of this version.
    #[command(hide = true)]
    Units(units::Args),
    /// Run the fake Claude, for drills without Claude.
    #[command(hide = true, disable_help_flag = true)]
    FakeClaude {
        /// The arguments that Claude Code takes.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

impl Verb {
    /// Returns what the verb does on a data directory; this decides what root may do on another
    /// user's.
    fn access(&self) -> Access {
        match self {
            Self::Init(_)
            | Self::Gcp(_)
            | Self::Completions(_)
            | Self::Man(_)
            | Self::FakeClaude { .. }
            | Self::Setup(_)
            | Self::SetupUser { .. }
            | Self::Units(_)
            | Self::Backup(_) => Access::Own,
            Self::Ls(_)
            | Self::Status(_)
            | Self::Logs(_)
            | Self::Events(_)
            | Self::Report(_)
            | Self::Metrics(_)
            | Self::Notice(_)
            | Self::Doctor(_)
            | Self::Complete { .. } => Access::Reads,
            Self::Drill(args) => args.access(),
            Self::Checkpoint(args) => args.access(),
            Self::Restore(args) => args.access(),
            Self::Up(args) => args.access(),
            Self::Down(args) => args.access(),
            Self::Add(_)
            | Self::Adopt(_)
            | Self::Rm(_)
            | Self::Start(_)
            | Self::Stop(_)
            | Self::Restart(_)
            | Self::Run(_)
            | Self::Top(_)
            | Self::Attach(_)
            | Self::Send(_)
            | Self::Save(_)
            | Self::AgentExec(_)
            | Self::TmuxServer => Access::Acts,
        }
    }
}

/// Runs the verb of the command line.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match dispatch(cli) {
        Ok(code) => code,
        Err(error) => print_error(&error),
    }
}

fn dispatch(cli: Cli) -> Result<ExitCode> {
    let at = cli.data_dir;
    // The login line is for the owner: root's shell must not wait for a process of another user.
    if matches!(&cli.verb, Verb::Status(args) if args.is_login_line())
        && drop_privileges::is_anothers(&at)
    {
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(code) = drop_privileges::act_as_owner(&at, cli.verb.access())? {
        return Ok(code);
    }
    let data_dir = || DataDir::open(&at);
    // These verbs check the owner themselves.
    let anybodys = || DataDir::open_of_anybody(&at);
    match cli.verb {
        Verb::Init(args) => init::run(&at, &args),
        Verb::Add(args) => add::run(&data_dir()?, args),
        Verb::Adopt(args) => adopt::run(&data_dir()?, args),
        Verb::Rm(args) => rm::run(&data_dir()?, &args),
        Verb::Up(args) => up_down::up(&data_dir()?, &args),
        Verb::Down(args) => up_down::down(&data_dir()?, &args),
        Verb::Start(args) => start_stop::start(&data_dir()?, args),
        Verb::Stop(args) => start_stop::stop(&data_dir()?, args),
        Verb::Restart(args) => start_stop::restart(&data_dir()?, args),
        Verb::Run(args) => run::run(&data_dir()?, &args),
        Verb::Ls(args) => ls::run(&at, &args),
        Verb::Status(args) => status::run(&at, &args),
        Verb::Top(args) => top::run(&data_dir()?, &args),
        Verb::Attach(args) => attach::run(&data_dir()?, &args),
        Verb::Logs(args) => logs::run(&data_dir()?, &args),
        Verb::Send(args) => send::run(&data_dir()?, args),
        Verb::Events(args) => events::run(&data_dir()?, &args),
        Verb::Report(args) => report::run(&data_dir()?, &args),
        Verb::Metrics(args) => metrics::run(&data_dir()?, &args),
        Verb::Save(args) => save::run(&data_dir()?, &args),
        Verb::Checkpoint(args) => checkpoint::run(&data_dir()?, args),
        Verb::Restore(args) if args.is_from_elsewhere() => restore::from(&at, args),
        Verb::Restore(args) => restore::run(&data_dir()?, &args),
        Verb::Backup(args) => backup::run(&anybodys()?, args),
        Verb::Notice(args) => notice::run(&at, &args),
        Verb::Doctor(args) => doctor::run(&at, args),
        Verb::Drill(args) => drill::run(&at, args),
        Verb::Setup(args) => setup::run(&at, args),
        Verb::SetupUser { request } => setup::as_user(&request),
        Verb::Gcp(args) => gcp::run(&args),
        Verb::Completions(args) => Ok(help::completions::run(&args)),
        Verb::Complete { words } => Ok(help::complete::run(&words)),
        Verb::Man(args) => help::man::run(&args),
        Verb::AgentExec(args) => agent_exec::run(&data_dir()?, &args),
        Verb::TmuxServer => tmux_server::run(&data_dir()?),
        Verb::Units(args) => units::run(&anybodys()?, &args),
        Verb::FakeClaude { arguments } => Ok(::drill::fake_claude::main(&arguments)),
    }
}

/// Prints an error with its hint; returns its exit code.
fn print_error(error: &Error) -> ExitCode {
    output::complain(&format!("error: {error:#}"));
    if let Some(hint) = hint_of(error) {
        output::complain(&format!("hint: {hint}"));
    }
    ExitCode::from(kind_of(error) as u8)
}
