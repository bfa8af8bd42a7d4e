//! `spotkeep setup`

use std::io::{self, BufRead as _, IsTerminal as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use super::output::{complain, print_line};
use crate::setup::upgrade::upgrade;
use crate::setup::{self, Ask, SetupSummary, Told, startup, undo, user_helper};
use state::layout::DataDir;
use sys::error::{Context as _, ErrorKind, Result};
use sys::prefix::Prefix;
use sys::time::parse_duration;

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  sudo spotkeep setup --disk claude-persist --user ann --dry-run
  sudo spotkeep setup --disk claude-persist --user ann
  sudo spotkeep setup --disk /dev/disk/by-id/nvme-... --yes

A disk that holds anything is never formatted. Run again, it changes nothing. The data directory is at --data-dir.")]
pub(super) struct Args {
    /// The disk: the name that it was attached under, or a path. Not needed where the data directory is mounted
    /// by other means.
    #[arg(long, value_name = "NAME|PATH")]
    disk: Option<String>,
    /// Whose agents these are; made where there is no such account. The disk remembers it.
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Where the disk is mounted; --data-dir does the same.
    #[arg(long, value_name = "DIR")]
    mount: Option<PathBuf>,
    /// A Claude Code (native build) to keep on the disk; otherwise the user's own.
    #[arg(long, value_name = "FILE")]
    claude: Option<PathBuf>,
    /// Make the data directory beside files of yours that are on the disk.
    #[arg(long)]
    beside_other_files: bool,
    /// As of `init`: where there is no spotkeep.toml yet, make one that lets agents run every command
    /// without asking.
    #[arg(long)]
    unattended: bool,
    /// Install no packages.
    #[arg(long)]
    no_packages: bool,
    /// Do not start the keeper.
    #[arg(long)]
    no_start: bool,
    /// How long to wait for the disk.
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "30s")]
    wait: std::time::Duration,
    /// Put another spotkeep in the place of the one on the disk, and restart the keeper with it; agents
    /// go on, and the old one comes back if the new one is not ready in time.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["undo", "dry_run", "disk"])]
    upgrade: Option<PathBuf>,
    /// Take out links, units and the mount; the data stay.
    #[arg(long)]
    undo: bool,
    /// Say what would be done, and do nothing.
    #[arg(long)]
    dry_run: bool,
    /// Answer the one question, whether Claude shall keep transcripts for longer, with yes.
    #[arg(long)]
    yes: bool,
    /// A directory that plays the system, for tests.
    #[arg(long, hide = true, value_name = "DIR")]
    prefix: Option<PathBuf>,
}

pub(super) fn run(at: &Path, args: Args) -> Result<ExitCode> {
    if let Some(file) = &args.upgrade {
        print_line(&upgrade(&DataDir::open_of_anybody(at)?, file)?.to_string());
        return Ok(ExitCode::SUCCESS);
    }
    let mut ask = Ask {
        disk: args.disk.clone(),
        wait: args.wait,
        user: args.user,
        claude: args.claude,
        beside: args.beside_other_files,
        unattended: args.unattended,
        packages: !args.no_packages,
        retain: args.yes,
        start: !args.no_start,
        ..Ask::new(
            args.mount.unwrap_or_else(|| at.to_path_buf()),
            Prefix::new(args.prefix.as_deref()),
        )
    };
    let mut tell = |told: Told| match told {
        Told::Would(what) => print_line(&format!("would {what}")),
        Told::Doing(what) => print_line(&what),
        Told::Did(what) => print_line(&format!("  {what}")),
        Told::Problem(what) => complain(&format!("problem: {what}")),
    };
    if args.undo {
        let outcome = undo::run(&ask, args.dry_run, &mut tell)?;
        return Ok(ended(&outcome, "there is nothing of ours to take out"));
    }
    if args.dry_run {
        let outcome = setup::rehearse(&ask, &mut tell)?;
        hand_over(&outcome)?;
        return Ok(ended(
            &outcome,
            "nothing would be changed: this machine is set up",
        ));
    }
    let mut outcome = setup::run(&ask, &mut tell)?;
    hand_over(&outcome)?;
    if outcome.short_retention {
        if agrees(
            "Claude deletes transcripts after some time (30 days if nothing is set). Keep them for ten years?",
        ) {
            ask.retain = true;
            outcome.steps += setup::run(&ask, &mut tell)?.steps;
        } else {
            print_line(
                "Claude deletes transcripts after some time; --yes has it keep them (cleanupPeriodDays)",
            );
        }
    }
    if outcome.steps > 0
        && let (Some(disk), Some(device)) = (&args.disk, &outcome.device)
    {
        print_line(
            "\nthe start-up script that brings everything back on a new machine with this disk:\n",
        );
        print_line(&startup::script(disk, device, &ask.data_dir));
    }
    Ok(ended(&outcome, "nothing to do: this machine is set up"))
}

/// Becomes the program that is on the disk, where that one is to do the rest.
fn hand_over(outcome: &SetupSummary) -> Result<()> {
    let Some(program) = &outcome.handover else {
        return Ok(());
    };
    print_line(&format!(
        "{} is on the disk already, and goes on from here; to replace it: sudo spotkeep setup --upgrade /usr/bin/spotkeep",
        program.display()
    ));
    let error = Command::new(program)
        .args(std::env::args_os().skip(1))
        .exec();
    Err(error).with_context(|| format!("cannot run {}", program.display()))
}

fn ended(outcome: &SetupSummary, nothing: &str) -> ExitCode {
    if outcome.steps == 0 && outcome.problems == 0 {
        print_line(nothing);
    }
    ExitCode::from(if outcome.problems > 0 {
        ErrorKind::NotAsDeclared as u8
    } else {
        0
    })
}

/// Asks a human, if one is there.
fn agrees(question: &str) -> bool {
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        return false;
    }
    print_line(&format!("{question} [y/N]"));
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).is_ok() && matches!(answer.trim(), "y" | "Y" | "yes")
}

/// The part that runs as the user.
pub(super) fn as_user(request: &str) -> Result<ExitCode> {
    if let Some(answer) = user_helper::answer(request)? {
        print_line(&answer);
    }
    Ok(ExitCode::SUCCESS)
}
