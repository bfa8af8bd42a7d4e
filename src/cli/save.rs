//! `spotkeep save`: flushes everything to disk and makes checkpoints.

use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::daemon::instead_of_keeper;
use super::output::{complain, json, print_line, table};
use crate::agent::terminate;
use crate::keeper::client;
use crate::keeper::runtime_dir::Holder;
use crate::save::{Note, Save, Subject};
use state::config::Config;
use state::layout::DataDir;
use state::{Journal, JournalEvent, Manifest};
use supervisor::notice::{Notice, Source};
use sys::error::{ErrorKind, Result};
use sys::files::LockFile;
use sys::process::{self, ProcessId, Signal};
use sys::time::short;

/// A keeper that does not answer a status request for so long hangs.
const STUCK_AFTER: Duration = Duration::from_secs(2);

/// How long to wait for a keeper that is starting or stopping.
const LOCK_LIMIT: Duration = Duration::from_secs(5);

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Agents keep running. With --final they stop, and resume at the next boot.

Examples:
  spotkeep save
  spotkeep save --final --json"
)]
pub(super) struct Args {
    /// Stop the agents until the next boot.
    #[arg(long = "final")]
    is_final: bool,
    /// Called at shutdown by systemd.
    #[arg(long, hide = true, requires = "is_final")]
    unit: bool,
    /// Print JSON: what was saved, and when.
    #[arg(long)]
    json: bool,
    /// Show what would be done; change nothing.
    #[arg(long)]
    dry_run: bool,
}

pub(super) fn run(data_dir: &DataDir, args: &Args) -> Result<ExitCode> {
    if args.dry_run {
        print_line(if args.is_final {
            "would stop all agents and save everything; agents resume at the next boot"
        } else {
            "would save everything; agents keep running"
        });
        return Ok(ExitCode::SUCCESS);
    }
    if args.unit {
        end_a_stuck_keeper(data_dir);
    }
    let manifest = match client::save(data_dir, args.is_final, args.unit)? {
        Some(manifest) => manifest,
        None => save_without_keeper(data_dir, args)?,
    };
    if args.json {
        json(&manifest)?;
    } else {
        show(&manifest);
    }
    // A save with problems is not reported as a success.
    let good = manifest.clean && manifest.trouble.is_empty();
    Ok(ExitCode::from(if good {
        0
    } else {
        ErrorKind::NotAsDeclared as u8
    }))
}

/// Kills a keeper that hangs, since the shutdown would wait for it in vain. It holds the lock;
/// after that, the save is done without it.
fn end_a_stuck_keeper(data_dir: &DataDir) {
    if client::status(data_dir, STUCK_AFTER).is_ok() {
        return; // The keeper answers, or none runs.
    }
    let keeper = Holder::read(data_dir)
        .filter(|holder| process::current_boot_id().is_ok_and(|boot_id| boot_id == holder.boot_id))
        .and_then(|holder| ProcessId::from_pid(i32::try_from(holder.pid).ok()?)?.open());
    let still_holds = !matches!(LockFile::try_take(&data_dir.lock()), Ok(Some(_)));
    if let Some(keeper) = keeper.filter(|_| still_holds) {
        complain("warning: the keeper does not answer; saving without it");
        keeper.signal(Signal::Kill);
        let _ended = keeper.wait(Some(Instant::now() + STUCK_AFTER));
    }
}

/// Saves without a keeper: its lock is free.
fn save_without_keeper(data_dir: &DataDir, args: &Args) -> Result<Manifest> {
    let came = Instant::now();
    let _lock = match args.unit {
        false => instead_of_keeper(data_dir)?,
        true => match lock_or_keeper(data_dir, args, came)? {
            LockHolder::This(lock) => lock,
            LockHolder::Keeper(manifest) => return Ok(*manifest),
        },
    };
    let identity = data_dir.identity()?;
    let boot_id = process::current_boot_id()?;
    // A full or damaged disk must not prevent the rest from being saved.
    let mut journal = match Journal::open(
        &data_dir.journal(),
        &identity.data_dir_id,
        identity.epoch,
        &boot_id,
    ) {
        Ok(journal) => Some(journal),
        Err(error) => {
            complain(&format!("warning: {error:#}"));
            None
        }
    };
    let source = if args.unit {
        Source::Unit
    } else {
        Source::Command
    };
    let notice = Notice::new(source, came, None);
    if args.is_final
        && let Some(journal) = &mut journal
    {
        let deadline_ms = u64::try_from(notice.deadline.remaining().as_millis()).ok();
        let what = JournalEvent::Notice {
            source: source.to_string(),
            deadline_ms,
        };
        if let Err(error) = journal.write(None, &what) {
            complain(&format!("warning: {error:#}"));
        }
    }
    let agents = data_dir
        .all_records()?
        .into_iter()
        .filter_map(|(_, record)| record.ok())
        .map(|record| Subject {
            process: record
                .live_process(&boot_id)
                .or_else(|| terminate::launched(&record, &boot_id)),
            record,
        })
        .collect();
    let journal = journal.map(|journal| -> Note {
        let journal = Mutex::new(journal);
        Arc::new(move |what| {
            let mut journal = journal.lock().unwrap_or_else(PoisonError::into_inner);
            journal.write(None, what)
        })
    });
    let (data_dir_id, epoch) = (identity.data_dir_id.as_str(), identity.epoch);
    // An invalid spotkeep.toml must not prevent the save.
    let settings = Config::load_or_last_good(&data_dir.config(), &data_dir.config_copy())
        .map(|(config, _)| config.checkpoint)
        .unwrap_or_default();
    let save = Save {
        data_dir,
        settings: &settings,
        data_dir_id,
        epoch,
        boot_id: &boot_id,
        journal,
        agents,
    };
    Ok(match args.is_final {
        true => save.run_final(&notice),
        false => save.run_in_passing(notice.deadline),
    })
}

/// Who has saved: this process with the lock, or a keeper.
enum LockHolder {
    This(LockFile),
    Keeper(Box<Manifest>),
}

/// Takes the lock, or has the keeper save. A keeper that is just starting holds the lock and does
/// not listen yet, so this retries until [`LOCK_LIMIT`]: at a shutdown no user can try again.
fn lock_or_keeper(data_dir: &DataDir, args: &Args, came: Instant) -> Result<LockHolder> {
    loop {
        if let Some(lock) = LockFile::try_take(&data_dir.lock())? {
            return Ok(LockHolder::This(lock));
        }
        if let Some(manifest) = client::save(data_dir, args.is_final, args.unit)? {
            return Ok(LockHolder::Keeper(Box::new(manifest)));
        }
        if came.elapsed() > LOCK_LIMIT {
            return instead_of_keeper(data_dir).map(LockHolder::This);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn show(manifest: &Manifest) {
    let rows: Vec<[String; 4]> = manifest
        .agents
        .iter()
        .map(|agent| {
            let transcript = match (agent.transcript_safe, agent.transcript_bytes) {
                (true, Some(bytes)) => format!("{} KiB saved", bytes.div_ceil(1024)),
                (true, None) => "empty".into(),
                (false, _) => agent.trouble.clone().unwrap_or_else(|| "not saved".into()),
            };
            [
                agent.name.to_string(),
                agent.end.clone(),
                agent.open.clone(),
                transcript,
            ]
        })
        .collect();
    for line in table(["AGENT", "END", "LAST TURN", "TRANSCRIPT"], &rows) {
        print_line(&line);
    }
    for trouble in &manifest.trouble {
        complain(&format!("warning: {trouble}"));
    }
    let after = |what: &str, ms: Option<u64>| match ms {
        Some(ms) => format!("{what} after {}", short(Duration::from_millis(ms))),
        None => format!("{what}: no"),
    };
    print_line(&format!(
        "{}, {}{}",
        after("transcripts saved", manifest.stages.transcripts_safe_ms),
        after("everything safe", manifest.stages.notice_to_safe_ms),
        if manifest.clean { "" } else { "; NOT CLEAN" }
    ));
    if manifest.is_final {
        print_line("the fleet is saved; agents resume at the next boot (or now: spotkeep restore)");
    }
}
