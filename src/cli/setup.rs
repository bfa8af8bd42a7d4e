//! `spotkeep setup`: sets up a VM: disk, mount, links, programs, systemd units.

use std::io::{self, BufRead as _, IsTerminal as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use super::drop_privileges::without_data_dir;
use super::output::{complain, print_line};
use crate::setup::upgrade::upgrade;
use crate::setup::{self, Ask, Progress, SetupSummary, startup, undo, user_helper};
use state::layout::DataDir;
use sys::error::{Context as _, ErrorKind, Result};
use sys::prefix::Prefix;
use sys::time::parse_duration;

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sudo spotkeep setup --disk claude-persist --user ann --dry-run
  sudo spotkeep setup --disk claude-persist --user ann
  sudo spotkeep setup --disk /dev/disk/by-id/nvme-... --yes

Run it as root on the VM. A disk that holds any data is never formatted. Run again, it changes
nothing. The data directory is at --data-dir.")]
pub(super) struct Args {
    /// Use this disk. Its name in the cloud, or a path; not needed if the data directory is mounted
    /// already.
    #[arg(long, value_name = "NAME|PATH")]
    disk: Option<String>,
    /// Run agents as this user. The account is created if missing, and its name is stored on the
    /// disk.
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Mount the disk here (same as --data-dir).
    #[arg(long, value_name = "DIR")]
    mount: Option<PathBuf>,
    /// Copy this Claude Code program to the disk. It must be the native build, not the npm package.
    /// [default: the user's]
    #[arg(long, value_name = "FILE")]
    claude: Option<PathBuf>,
    /// Allow a disk that holds other files.
    #[arg(long)]
    beside_other_files: bool,
    /// Let agents run every command without asking. Like `init --unattended`; used only if there is
    /// no spotkeep.toml yet.
    #[arg(long)]
    unattended: bool,
    /// Do not install packages.
    #[arg(long)]
    no_packages: bool,
    /// Do not start the keeper.
    #[arg(long)]
    no_start: bool,
    /// Wait at most this long for the disk.
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "30s")]
    wait: std::time::Duration,
    /// Replace the spotkeep program on the disk. The keeper restarts, agents keep running, and the
    /// old program is restored if the new one is not ready in time.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["undo", "dry_run", "disk"])]
    upgrade: Option<PathBuf>,
    /// Remove links, units and the mount; keep data.
    #[arg(long)]
    undo: bool,
    /// Show what would be done; change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Let Claude keep transcripts longer, without asking.
    #[arg(long)]
    yes: bool,
    /// A directory in place of `/`, for tests.
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
    let mut tell = |told: Progress| match told {
        Progress::Would(what) => print_line(&format!("would {what}")),
        Progress::Doing(what) => print_line(&what),
        Progress::Did(what) => print_line(&format!("  {what}")),
        Progress::Problem(what) => complain(&format!("problem: {what}")),
    };
    if args.undo {
        let outcome = undo::run(&ask, args.dry_run, &mut tell)?;
        return Ok(ended(&outcome, "nothing to remove"));
    }
    if args.dry_run {
        let outcome = setup::rehearse(&ask, &mut tell)?;
        hand_over(&outcome, at)?;
        return Ok(ended(
            &outcome,
            "nothing would change: this machine is set up",
        ));
    }
    let mut outcome = setup::run(&ask, &mut tell)?;
    hand_over(&outcome, at)?;
    if outcome.short_retention {
        if agrees(
            "Claude deletes old transcripts (by default after 30 days). Keep them for ten years?",
        ) {
            ask.retain = true;
            outcome.steps += setup::run(&ask, &mut tell)?.steps;
        } else {
            print_line(
                "Claude deletes old transcripts; --yes lets it keep them (cleanupPeriodDays)",
            );
        }
    }
    if outcome.steps > 0
        && let (Some(disk), Some(device)) = (&args.disk, &outcome.device)
    {
        print_line("\nuse this start-up script to set up a new machine with this disk:\n");
        print_line(&startup::script(disk, device, &ask.data_dir));
    }
    Ok(ended(&outcome, "nothing to do: this machine is set up"))
}

/// Replaces this process with the program on the disk, if that one is to do the rest. It may be of
/// a version that knows the option for the data directory by its former name only.
fn hand_over(outcome: &SetupSummary, data_dir: &Path) -> Result<()> {
    let Some(program) = &outcome.handover else {
        return Ok(());
    };
    print_line(&format!(
        "continuing with {}, which is on the disk already; to replace it: \
         sudo spotkeep setup --upgrade /usr/bin/spotkeep",
        program.display()
    ));
    let error = Command::new(program)
        .arg("--root")
        .arg(data_dir)
        .args(without_data_dir(std::env::args_os().skip(1)))
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

/// Asks the user; without a terminal the answer is no.
fn agrees(question: &str) -> bool {
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        return false;
    }
    print_line(&format!("{question} [y/N]"));
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).is_ok() && matches!(answer.trim(), "y" | "Y" | "yes")
}

/// Does the part of the setup that runs as the user.
pub(super) fn as_user(request: &str) -> Result<ExitCode> {
    if let Some(answer) = user_helper::answer(request)? {
        print_line(&answer);
    }
    Ok(ExitCode::SUCCESS)
}
