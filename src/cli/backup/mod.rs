//! `spotkeep backup`: creates, lists and restores backups.

mod output;
mod recover;
mod restore;

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Subcommand;

use super::output::{complain, json, print_line};
use crate::backup::lock::{BackupLock, remove_stale, this_worker};
use crate::backup::privileged_write::WriteRequest;
use crate::backup::restic::{Repository, SHORT};
use crate::backup::run::{RunOptions, RunResult};
use crate::backup::settings::Key;
use crate::backup::{
    BackupState, Settings, Stop, check, copy, maintain, privileged_write, retention, run,
};
use state::VERSION;
use state::layout::DataDir;
use sys::error::{Context as _, ErrorKind, Hint as _, Result, anyhow};
use sys::{process, signal};

pub(super) use output::Bar;

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Backups are stored by restic (a backup program), which can read them without spotkeep:
  RESTIC_PASSWORD_FILE=DATA_DIR/backups.key restic -r DATA_DIR/backups snapshots

Examples:
  spotkeep backup now
  spotkeep backup ls --session 0b6c1f7e-97a3-4f7c-8d92-7d0f6f0b9a55
  spotkeep backup restore latest workspaces/agent-1/src --dry-run
  spotkeep backup restore 1a2b3c4d --to /tmp/then
  spotkeep backup check --all")]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Create a backup if anything has changed.
    #[command(after_help = "\
It is copied to `copy_to` of spotkeep.toml, if that is set.

Examples:
  spotkeep backup now
  spotkeep backup now --always")]
    Now {
        /// Create a backup even without changes.
        #[arg(long)]
        always: bool,
        /// Started by a timer: quiet, and does not wait for another backup.
        #[arg(long, hide = true)]
        scheduled: bool,
        /// Show what would be done; change nothing.
        #[arg(long)]
        dry_run: bool,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// List backups, newest first.
    #[command(after_help = "\
Examples:
  spotkeep backup ls
  spotkeep backup ls --session 0b6c1f7e-97a3-4f7c-8d92-7d0f6f0b9a55")]
    Ls {
        /// List the versions of this session's transcript.
        #[arg(long, value_name = "UUID")]
        session: Option<String>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Restore files from a backup.
    #[command(after_help = "Examples:
  spotkeep backup restore latest workspaces/agent-1/src --dry-run
  spotkeep backup restore latest workspaces/agent-1/notes.md --overwrite
  spotkeep backup restore 1a2b3c4d --to /tmp/then")]
    Restore {
        /// The backup: an ID, its beginning, or `latest`.
        id: String,
        /// Paths to restore (default: all). Relative to the data directory.
        paths: Vec<PathBuf>,
        /// Restore into this new or empty directory instead.
        #[arg(long, value_name = "DIR")]
        to: Option<PathBuf>,
        /// Replace files that differ. The existing files are renamed and kept.
        #[arg(long)]
        overwrite: bool,
        /// Show what would be done; change nothing.
        #[arg(long)]
        dry_run: bool,
        /// Print JSON; never ask.
        #[arg(long)]
        json: bool,
    },
    /// Restore lost transcripts and workspaces from backups.
    #[command(
        alias = "mend",
        after_help = "\
The keeper does this automatically before it starts agents.

Examples:
  spotkeep backup recover --dry-run
  spotkeep backup recover --workspaces"
    )]
    Recover {
        /// Restore workspaces that still have checkpoints too. Without this, the keeper recreates
        /// those from their newest checkpoint.
        #[arg(long)]
        workspaces: bool,
        /// Show what would be done; change nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Check the backups for damage.
    #[command(after_help = "\
Examples:
  spotkeep backup check
  spotkeep backup check --all
  spotkeep backup check --copy")]
    Check {
        /// Read all data, not only the structure.
        #[arg(long)]
        all: bool,
        /// Check the copy at `copy_to` instead.
        #[arg(long)]
        copy: bool,
        /// Then remove expired backups, if nothing is damaged.
        #[arg(long, conflicts_with = "copy")]
        prune: bool,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show how to read the backups with restic.
    #[command(after_help = "Example:\n  spotkeep backup key")]
    Key {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Approve the backup settings for root's backups.
    #[command(after_help = "\
Run it as root. Root's backups use `copy_to`, `copy_keeps_all`, `key_command`, `env_file` and
`keep` of spotkeep.toml only as approved, since agents can change that file.

Examples:
  sudo spotkeep backup approve --dry-run
  sudo spotkeep backup approve")]
    Approve {
        /// Show the settings; approve nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Write files for root as the user who owns them.
    #[command(hide = true)]
    CarryOut {
        /// The request, as JSON.
        order: String,
    },
}

pub(super) fn run(data_dir: &DataDir, args: Args) -> Result<ExitCode> {
    if let Verb::CarryOut { order } = &args.verb {
        let order: WriteRequest = serde_json::from_str(order).context("cannot read the request")?;
        privileged_write::carry_out(data_dir, &order, &mut std::io::stdin().lock())?;
        return Ok(ExitCode::SUCCESS);
    }
    let settings = Settings::load(data_dir)?;
    match args.verb {
        Verb::Now {
            always,
            scheduled,
            dry_run,
            json,
        } => {
            if dry_run {
                print_line(&run::plan(&settings, always)?);
                return Ok(ExitCode::SUCCESS);
            }
            let watched = !scheduled && !json && std::io::stderr().is_terminal();
            let how = RunOptions {
                scheduled,
                always,
                watched,
            };
            make(&settings, how, json)
        }
        Verb::Ls { session, json } => output::list(&settings, session.as_deref(), json),
        Verb::Restore {
            id,
            paths,
            to,
            overwrite,
            dry_run,
            json,
        } => {
            let request = restore::RestoreRequest {
                id,
                paths: paths
                    .iter()
                    .map(|path| restore::within(data_dir, path))
                    .collect::<Result<_>>()?,
                overwrite,
                dry_run,
                json,
            };
            restore::restore_files(&settings, &request, to.as_deref())
        }
        Verb::Recover {
            workspaces,
            dry_run,
        } => recover::repair(&settings, workspaces, dry_run),
        Verb::Check {
            all,
            copy,
            prune,
            json,
        } => check(&settings, all, copy, prune, json),
        Verb::Key { json } => key(&settings, json),
        Verb::Approve { dry_run } => approve(&settings, dry_run),
        Verb::CarryOut { .. } => Ok(ExitCode::SUCCESS),
    }
}

/// Returns a stop condition that is set by SIGINT or SIGTERM.
pub(super) fn until_signalled() -> Result<Stop> {
    let asked = Arc::new(AtomicBool::new(false));
    let set = Arc::clone(&asked);
    signal::listen(move |_| set.store(true, Ordering::SeqCst))?;
    Ok(Stop::when(asked))
}

fn make(settings: &Settings, how: RunOptions, as_json: bool) -> Result<ExitCode> {
    // A scheduled backup is not urgent, so it has low priority.
    if how.scheduled {
        if settings.table.every().is_none() {
            return Ok(ExitCode::SUCCESS); // Backups are turned off; the timer may still run.
        }
        process::leave_terminal();
        process::lower_priority();
    }
    let boot_id = process::current_boot_id()?;
    let stop = until_signalled()?.or_at_the_notice(&settings.data_dir, &boot_id);
    let mut bar = Bar::new(!how.watched);
    let report = run::run(
        settings,
        how,
        &stop,
        &mut || complain("another backup is running; waiting for it to end"),
        &mut |at| bar.show(at),
    );
    bar.clear();
    let report = report?;
    if as_json {
        json(&report)?;
    } else if !how.scheduled || report.outcome == RunResult::Made {
        output::print_report(&report);
    }
    if !as_json {
        for trouble in &report.trouble {
            complain(&format!("warning: {trouble}"));
        }
    }
    Ok(code(report.trouble.is_empty()))
}

fn code(is_as_declared: bool) -> ExitCode {
    ExitCode::from(if is_as_declared {
        0
    } else {
        ErrorKind::NotAsDeclared as u8
    })
}

fn check(
    settings: &Settings,
    all: bool,
    of_copy: bool,
    prune: bool,
    as_json: bool,
) -> Result<ExitCode> {
    let stop = until_signalled()?;
    let depth = if all {
        check::Depth::All
    } else {
        check::Depth::Structure
    };
    let found = if of_copy {
        let url = settings
            .table
            .copy_to
            .as_deref()
            .context("copy_to is not set in [backup]")
            .kind(ErrorKind::Usage)?;
        crate::backup::restic::ensure_allowed(url)?;
        check::run(&crate::backup::copy::remote(settings, url)?, depth, &stop)?
    } else {
        // A missing password is reported here, since users run a check first.
        let repository = Repository::open(settings)?;
        let _lock = BackupLock::acquire(settings, SHORT.total, &stop, &mut || {
            complain("a backup is running; waiting for it to end");
        })?;
        let mut state = BackupState::load(settings)?;
        let worker = this_worker()?;
        // With a damaged key no lock can be read; the check below reports that.
        remove_stale(&repository, state.worker.as_ref(), &worker.boot_id, &stop).ok();
        let found = check::run(&repository, depth, &stop)?;
        if !found.locked {
            maintain::note(&mut state, found.damage.clone());
            state.store(settings)?;
        }
        if prune && found.damage.is_empty() && !found.locked {
            retention::forget(&repository, settings, &stop)?;
            copy::prune(settings, &mut state, &stop)?;
            for trouble in state.troubles() {
                complain(&format!("warning: {trouble}"));
            }
        }
        found
    };
    if found.locked {
        return Err(anyhow!("another restic process has locked the backups"))
            .hint("try again when that process has ended")
            .kind(ErrorKind::NotAsDeclared);
    }
    if as_json {
        json(&serde_json::json!({
            "version": VERSION, "ok": found.damage.is_empty(), "damage": found.damage,
            "read_all_data": all,
        }))?;
    } else if found.damage.is_empty() {
        print_line(if all {
            "no damage found (all data read)"
        } else {
            "no damage found (structure only; --all reads all data)"
        });
    } else {
        for file in &found.damage {
            print_line(&format!("damaged: {file}"));
        }
    }
    Ok(code(found.damage.is_empty()))
}

fn key(settings: &Settings, as_json: bool) -> Result<ExitCode> {
    let key = settings.key();
    if as_json {
        let mut object = serde_json::json!({
            "version": VERSION, "repository": settings.repository(),
        });
        match &key {
            Key::File(path) => object["password_file"] = serde_json::to_value(path)?,
            Key::Command(command) => object["password_command"] = command.as_str().into(),
        }
        json(&object)?;
        return Ok(ExitCode::SUCCESS);
    }
    let variable = match &key {
        Key::File(path) => format!("RESTIC_PASSWORD_FILE={}", path.display()),
        Key::Command(command) => format!("RESTIC_PASSWORD_COMMAND='{command}'"),
    };
    print_line(&format!(
        "{variable} restic -r {} snapshots",
        settings.repository().display()
    ));
    if settings.table.copy_to.is_some() && matches!(key, Key::File(_)) {
        complain("keep a copy of this file elsewhere too: the copy cannot be read without it");
    }
    Ok(ExitCode::SUCCESS)
}

fn approve(settings: &Settings, dry_run: bool) -> Result<ExitCode> {
    let table = &settings.config.backup;
    let shown = |what: &str, value: Option<String>| {
        print_line(&format!("{what:<14} {}", value.as_deref().unwrap_or("-")));
    };
    shown("copy_to", table.copy_to.clone());
    shown("key_command", table.key_command.clone());
    shown(
        "env_file",
        table
            .env_file
            .as_ref()
            .map(|path| path.display().to_string()),
    );
    let keep = table.keep;
    shown(
        "keep",
        Some(format!(
            "last {}, hourly {}, daily {}, weekly {}",
            keep.last, keep.hourly, keep.daily, keep.weekly
        )),
    );
    shown("copy_keeps_all", Some(table.copy_keeps_all.to_string()));
    if !dry_run {
        settings.take_over()?;
        settings.approve()?;
        print_line("approved: root's backups use these settings");
    }
    Ok(ExitCode::SUCCESS)
}
