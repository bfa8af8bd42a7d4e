//! The command line: arguments in, text out, no decisions. One file per verb. The only room that
//! names `clap`, `tracing_subscriber` and `tracing_journald`.

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

/// Keeps Claude Code agents alive across spot VM preemptions.
#[derive(Debug, Parser)]
#[command(name = "spotkeep", version, max_term_width = 100, disable_help_subcommand = true, after_help = AFTER_HELP)]
struct Cli {
    /// The directory that survives preemptions.
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
Exit codes: 0 as declared, 1 error, 2 wrong usage, 3 something is not as declared.

Examples:
  spotkeep --data-dir ~/fleet init --unattended
  spotkeep --data-dir ~/fleet add agent-1 --workspace workspaces/agent-1 --prompt 'Fix issue 123.'
  spotkeep --data-dir ~/fleet up
  spotkeep --data-dir ~/fleet attach agent-1";

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make a data directory: its directories and a commented spotkeep.toml.
    Init(init::Args),
    /// Declare an agent.
    Add(add::Args),
    /// Find the sessions that exist already, and take them in; shows the plan first.
    Adopt(adopt::Args),
    /// Stop an agent and take it out of spotkeep.toml; its session and its work stay.
    Rm(rm::Args),
    /// Show what spotkeep.toml asks for, then make it so.
    Up(up_down::UpArgs),
    /// End all agents; nothing runs until `up`, not even after a reboot.
    Down(up_down::DownArgs),
    /// Let agents run (all, where none is named).
    Start(start_stop::Args),
    /// Stop agents; they stay stopped over a reboot.
    Stop(start_stop::Args),
    /// End agents and resume them, so that changed settings are applied.
    Restart(start_stop::RestartArgs),
    /// The keeper itself, in the foreground.
    Run(run::Args),
    /// The agents, a line each.
    Ls(ls::Args),
    /// How everything stands.
    Status(status::Args),
    /// The fleet at a glance, live; keys act on it.
    Top(top::Args),
    /// Go to an agent's terminal; leave it with ctrl-b d.
    Attach(attach::Args),
    /// What an agent said and did.
    Logs(logs::Args),
    /// Type a text into an agent.
    Send(send::Args),
    /// What happened.
    Events(events::Args),
    /// What became of the fleet: preemptions, what was lost, what each agent did with its time.
    Report(report::Args),
    /// How everything stands, for Prometheus.
    Metrics(metrics::Args),
    /// Make everything durable now.
    Save(save::Args),
    /// Uncommitted work as it was: made now, listed, compared, given back.
    Checkpoint(checkpoint::Args),
    /// Do by hand what the next boot does.
    Restore(restore::Args),
    /// History: make backups, look into them, bring files back.
    Backup(backup::Args),
    /// Is this VM preemptible, how long a notice, has it come.
    Notice(notice::Args),
    /// Look everything over, change nothing, and say what would repair it.
    Doctor(doctor::Args),
    /// Rehearse a preemption and report.
    Drill(drill::Args),
    /// As root, on a VM: disk, mount, links, programs, units.
    Setup(setup::Args),
    /// The user's part of it.
    #[command(hide = true)]
    SetupUser {
        /// What to do, as JSON.
        request: String,
    },
    /// The VM on Google Cloud, from outside.
    Gcp(Box<gcp::Args>),
    /// What a shell needs to complete verbs, options and the names of agents.
    Completions(help::completions::Args),
    /// What may stand where the cursor is, for the scripts of `completions`.
    #[command(hide = true)]
    Complete {
        /// The words of the line up to the cursor, without the program's.
        #[arg(last = true)]
        words: Vec<String>,
    },
    /// Writes the man pages, one for each verb.
    #[command(hide = true)]
    Man(help::man::Args),
    /// Becomes an agent's claude, in its pane.
    #[command(hide = true)]
    AgentExec(agent_exec::Args),
    /// Becomes the tmux server, in its unit.
    #[command(hide = true)]
    TmuxServer,
    /// Puts this version's units onto the machine.
    #[command(hide = true)]
    Units(units::Args),
    /// the fake Claude, for drills where there is none.
    #[command(hide = true, disable_help_flag = true)]
    FakeClaude {
        /// As Claude's own.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

impl Verb {
    /// What it does on a data directory, which decides what root may do on another user's.
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

/// Runs the command that this process was called with.
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
    // The line at a login is for the owner; root's shell waits for no process of theirs.
    if matches!(&cli.verb, Verb::Status(args) if args.is_login_line())
        && drop_privileges::is_anothers(&at)
    {
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(code) = drop_privileges::act_as_owner(&at, cli.verb.access())? {
        return Ok(code);
    }
    let data_dir = || DataDir::open(&at);
    // They guard themselves.
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

/// What, where, and what to do.
fn print_error(error: &Error) -> ExitCode {
    output::complain(&format!("error: {error:#}"));
    if let Some(hint) = hint_of(error) {
        output::complain(&format!("hint: {hint}"));
    }
    ExitCode::from(kind_of(error) as u8)
}
