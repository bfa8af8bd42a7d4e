//! `spotkeep drill`: rehearses a preemption and reports what survives.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::ValueEnum;

use super::drop_privileges::Access;
use super::output::{complain, counted, json, print_line};
use drill::{LossKind, Options, Report};
use state::layout::DataDir;
use sys::error::{ErrorKind as Failure, Hint as _, Result, anyhow};

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Without --live it runs in a temporary sandbox, with a fake model on this machine, and touches no
existing data directory. As root, it runs everything as an unprivileged user, and looks for claude
on root's PATH only.

Examples:
  spotkeep drill
  spotkeep drill --kind kill --agents 8
  sudo spotkeep drill --kind power-cut --json
  spotkeep --data-dir ~/fleet drill --live")]
pub(super) struct Args {
    /// Choose how the machine is lost.
    #[arg(long, value_enum, default_value = "notice")]
    kind: LossArg,
    /// Rehearse on your own fleet; asks first. Its agents are stopped and resumed.
    #[arg(long, conflicts_with_all = ["agents", "claude", "fake", "keep"])]
    live: bool,
    /// Do not ask for confirmation (with --live).
    #[arg(long, requires = "live")]
    yes: bool,
    /// Run this many agents.
    #[arg(long, default_value_t = 3, value_name = "COUNT",
    value_parser = clap::value_parser!(u16).range(1..=200))]
    agents: u16,
    /// Use this claude program (default: search for it).
    #[arg(long, value_name = "PATH")]
    claude: Option<PathBuf>,
    /// Use the built-in fake Claude.
    #[arg(long, alias = "stand-in", conflicts_with = "claude")]
    fake: bool,
    /// Let one agent write without a pause, for measurements.
    #[arg(long, hide = true)]
    writing: bool,
    /// Keep the sandbox for inspection.
    #[arg(long)]
    keep: bool,
    /// Print each step.
    #[arg(short, long)]
    verbose: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Args {
    /// Returns what the verb does on the data directory: a sandbox has its own, `--live` uses the
    /// user's.
    pub(super) fn access(&self) -> Access {
        if self.live { Access::Acts } else { Access::Own }
    }
}

/// How the machine is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LossArg {
    /// The cloud gives a preemption notice first.
    Notice,
    /// All processes are killed at once.
    Kill,
    /// All processes are killed; unsynced data is lost. Needs root.
    PowerCut,
}

pub(super) fn run(at: &Path, args: Args) -> Result<ExitCode> {
    if args.live {
        return live(at, &args);
    }
    let kind = match args.kind {
        LossArg::Notice => LossKind::Notice,
        LossArg::Kill => LossKind::Kill,
        LossArg::PowerCut => LossKind::PowerCut,
    };
    let report = drill::run(&Options {
        kind,
        agents: usize::from(args.agents),
        claude: args.claude,
        fake: args.fake,
        writing: args.writing,
        keep: args.keep,
        verbose: args.verbose,
    })?;
    show(&report, args.json)?;
    if let Some(kept) = &report.kept {
        complain(&format!("the sandbox is kept at {kept}"));
    }
    Ok(verdict(&report))
}

fn show(report: &Report, as_json: bool) -> Result<()> {
    if as_json {
        return json(report);
    }
    print_line(report.text().trim_end());
    Ok(())
}

fn verdict(report: &Report) -> ExitCode {
    ExitCode::from(if report.passed() {
        0
    } else {
        Failure::NotAsDeclared as u8
    })
}

/// Runs the drill on the user's fleet. It needs the option and a typed confirmation.
fn live(at: &Path, args: &Args) -> Result<ExitCode> {
    if args.kind != LossArg::Notice {
        return Err(anyhow!(
            "--live works with --kind notice only; the other kinds would lose work"
        ))
        .kind(Failure::Usage);
    }
    let data_dir = DataDir::open(at)?;
    let running = crate::cli::drill_live::running(&data_dir)?;
    let names: Vec<&str> = running.iter().map(|agent| agent.name.as_str()).collect();
    complain(&format!(
        "this stops and resumes {} of {}: {}",
        counted(names.len(), "agent"),
        data_dir.dir().display(),
        names.join(", ")
    ));
    if !args.yes {
        complain("type drill to continue:");
        let mut line = String::new();
        std::io::stdin().read_line(&mut line)?;
        if line.trim() != "drill" {
            return Err(anyhow!("nothing was done"))
                .hint("without a terminal: spotkeep drill --live --yes");
        }
    }
    let report = crate::cli::drill_live::run(&data_dir)?;
    show(&report, args.json)?;
    Ok(verdict(&report))
}
