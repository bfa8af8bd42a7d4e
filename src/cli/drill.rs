//! `spotkeep drill`

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::ValueEnum;

use super::drop_privileges::Access;
use super::output::{complain, json, print_line};
use drill::{LossKind, Options, Report};
use state::layout::DataDir;
use sys::error::{ErrorKind as Failure, Hint as _, Result, anyhow};

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "It plays in a sandbox of its own, with a loopback model, and touches no existing data directory.
As root, everything that it starts runs as an unprivileged user, and a claude is looked for on root's PATH only.

Examples:
  spotkeep drill
  spotkeep drill --kind kill --agents 8
  sudo spotkeep drill --kind power-cut --json
  spotkeep --data-dir ~/fleet drill --live"
)]
pub(super) struct Args {
    /// How the machine is lost.
    #[arg(long, value_enum, default_value = "notice")]
    kind: LossArg,
    /// On your own fleet: its agents are ended and resumed. Asks first.
    #[arg(long, conflicts_with_all = ["agents", "claude", "stand_in", "keep"])]
    live: bool,
    /// With --live: do not ask.
    #[arg(long, requires = "live")]
    yes: bool,
    /// How many agents.
    #[arg(long, default_value_t = 3, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=200))]
    agents: u16,
    /// Which claude; otherwise the one that is found.
    #[arg(long, value_name = "PATH")]
    claude: Option<PathBuf>,
    /// Play with the fake, whatever is installed.
    #[arg(long, conflicts_with = "claude")]
    fake: bool,
    /// One agent writes without a pause (for the figures).
    #[arg(long, hide = true)]
    writing: bool,
    /// Leave the sandbox for a look.
    #[arg(long)]
    keep: bool,
    /// Say what happens while it happens.
    #[arg(short, long)]
    verbose: bool,
    /// The report as JSON.
    #[arg(long)]
    json: bool,
}

impl Args {
    /// A sandbox is nobody's; a live fleet is its owner's.
    pub(super) fn access(&self) -> Access {
        if self.live { Access::Acts } else { Access::Own }
    }
}

/// How the machine is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LossArg {
    /// The cloud says so first.
    Notice,
    /// Every process ends at once, without a word.
    Kill,
    /// The same, and the disk holds only what was synced (as root).
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
        complain(&format!("the sandbox was left at {kept}"));
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

/// Twice asked for: by the option, and by a word that is typed.
fn live(at: &Path, args: &Args) -> Result<ExitCode> {
    if args.kind != LossArg::Notice {
        return Err(anyhow!(
            "a live drill has a notice; the other kinds would lose work"
        ))
        .kind(Failure::Usage);
    }
    let data_dir = DataDir::open(at)?;
    let running = crate::cli::drill_live::running(&data_dir)?;
    let names: Vec<&str> = running.iter().map(|agent| agent.name.as_str()).collect();
    complain(&format!(
        "this ends {} agents of {} and resumes them: {}",
        names.len(),
        data_dir.dir().display(),
        names.join(", ")
    ));
    if !args.yes {
        complain("type the word drill to go on:");
        let mut line = String::new();
        std::io::stdin().read_line(&mut line)?;
        if line.trim() != "drill" {
            return Err(anyhow!("nothing was done"))
                .hint("spotkeep drill --live --yes, where nobody can type");
        }
    }
    let report = crate::cli::drill_live::run(&data_dir)?;
    show(&report, args.json)?;
    Ok(verdict(&report))
}
