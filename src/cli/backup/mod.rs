//! `spotkeep backup`

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
#[command(
    after_help = "Backups are a repository of restic's, and restic reads it without us:
  RESTIC_PASSWORD_FILE=DATA_DIR/backups.key restic -r DATA_DIR/backups snapshots

Examples:
  spotkeep backup now
  spotkeep backup ls --session 0b6c1f7e-97a3-4f7c-8d92-7d0f6f0b9a55
  spotkeep backup restore latest workspaces/agent-1/src --dry-run
  spotkeep backup restore 1a2b3c4d --to /tmp/then
  spotkeep backup check --all"
)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make one, if anything has changed, and copy it where `copy_to` says.
    #[command(after_help = "Examples:\n  spotkeep backup now\n  spotkeep backup now --always")]
    Now {
        /// Also where nothing has changed.
        #[arg(long)]
        always: bool,
        /// By the clock: quiet, and waits for nobody.
        #[arg(long, hide = true)]
        scheduled: bool,
        /// Say what would be done, and do nothing.
        #[arg(long)]
        dry_run: bool,
        /// What came of it, as JSON.
        #[arg(long)]
        json: bool,
    },
    /// The backups, newest first; or every version of one session's transcript.
    #[command(
        after_help = "Examples:\n  spotkeep backup ls\n  spotkeep backup ls --session 0b6c1f7e-97a3-4f7c-8d92-7d0f6f0b9a55"
    )]
    Ls {
        /// A session's id.
        #[arg(long, value_name = "UUID")]
        session: Option<String>,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Bring files back: into the data directory, or beside it.
    #[command(after_help = "Examples:
  spotkeep backup restore latest workspaces/agent-1/src --dry-run
  spotkeep backup restore latest workspaces/agent-1/notes.md --overwrite
  spotkeep backup restore 1a2b3c4d --to /tmp/then")]
    Restore {
        /// Which backup: an id, the beginning of one, or `latest`.
        id: String,
        /// What of it, relative to the data directory; all of it where nothing is named.
        paths: Vec<PathBuf>,
        /// Into this directory, new or empty, and not into the data directory.
        #[arg(long, value_name = "DIR")]
        to: Option<PathBuf>,
        /// Replace files that are there and differ; they are renamed, not lost.
        #[arg(long)]
        overwrite: bool,
        /// Say what would be done, and do nothing.
        #[arg(long)]
        dry_run: bool,
        /// As JSON; never asks.
        #[arg(long)]
        json: bool,
    },
    /// Bring back transcripts and workspaces of agents that are lost, as a keeper does before it starts them.
    #[command(
        alias = "mend",
        after_help = "Examples:\n  spotkeep backup recover --dry-run\n  spotkeep backup recover --workspaces"
    )]
    Recover {
        /// Workspaces too of which a checkpoint may be left, from which the keeper would make them anew.
        #[arg(long)]
        workspaces: bool,
        /// Say what would be done, and do nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Look whether the backups are whole; names each damaged file.
    #[command(
        after_help = "Examples:\n  spotkeep backup check\n  spotkeep backup check --all\n  spotkeep backup check --copy"
    )]
    Check {
        /// Read all data, and not the structure alone.
        #[arg(long)]
        all: bool,
        /// The copy elsewhere, and not `backups/`.
        #[arg(long)]
        copy: bool,
        /// Then remove what need not be kept, if nothing is damaged.
        #[arg(long, conflicts_with = "copy")]
        prune: bool,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// What restic needs to read the backups by hand.
    #[command(after_help = "Example:\n  spotkeep backup key")]
    Key {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// As root: let `copy_to`, `copy_keeps_all`, `key_command`, `env_file` and `keep` count as they stand in spotkeep.toml now.
    #[command(
        after_help = "Examples:\n  sudo spotkeep backup approve --dry-run\n  sudo spotkeep backup approve"
    )]
    Approve {
        /// Show them, and approve nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Writes for root what belongs to the user.
    #[command(hide = true)]
    CarryOut {
        /// The order.
        order: String,
    },
}

pub(super) fn run(data_dir: &DataDir, args: Args) -> Result<ExitCode> {
    if let Verb::CarryOut { order } = &args.verb {
        let order: WriteRequest = serde_json::from_str(order).context("cannot read the order")?;
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
            let request = restore::VmRequest {
                id,
                paths: paths
                    .iter()
                    .map(|path| restore::within(data_dir, path))
                    .collect::<Result<_>>()?,
                overwrite,
                dry_run,
                json,
            };
            restore::give(&settings, &request, to.as_deref())
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

/// Ended by a signal, as a unit or a person sends it.
pub(super) fn until_signalled() -> Result<Stop> {
    let asked = Arc::new(AtomicBool::new(false));
    let set = Arc::clone(&asked);
    signal::listen(move |_| set.store(true, Ordering::SeqCst))?;
    Ok(Stop::when(asked))
}

fn make(settings: &Settings, how: RunOptions, as_json: bool) -> Result<ExitCode> {
    // A person who waits for it is in a hurry, the clock never.
    if how.scheduled {
        if settings.table.every().is_none() {
            return Ok(ExitCode::SUCCESS); // Turned off; a timer may run all the same.
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
        &mut || complain("another backup is under way; waiting for it to end"),
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
            .context("no copy_to is declared in [backup]")
            .kind(ErrorKind::Usage)?;
        crate::backup::restic::ensure_allowed(url)?;
        check::run(&crate::backup::copy::remote(settings, url)?, depth, &stop)?
    } else {
        // Without the password nothing can be read, and a check is where a person looks first.
        let repository = Repository::open(settings)?;
        let _turn = BackupLock::acquire(settings, SHORT.total, &stop, &mut || {
            complain("a backup is under way; waiting for it to end");
        })?;
        let mut state = BackupState::load(settings)?;
        let worker = this_worker()?;
        // A damaged key is what is looked for: then no lock can be read either.
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
        return Err(anyhow!("another restic is at work on the backups"))
            .hint("try again when it has ended")
            .kind(ErrorKind::NotAsDeclared);
    }
    if as_json {
        json(&serde_json::json!({
            "version": VERSION, "ok": found.damage.is_empty(), "damage": found.damage, "read_all_data": all,
        }))?;
    } else if found.damage.is_empty() {
        print_line(if all {
            "the backups are whole: all data were read"
        } else {
            "the backups are whole; --all reads all data too"
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
        complain("keep a copy of this file elsewhere too: without it the copy cannot be read");
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
        print_line("approved: they count for backups that root makes");
    }
    Ok(ExitCode::SUCCESS)
}
