//! `spotkeep save`

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

/// A keeper that has not said how it stands for so long does nothing else either.
const STUCK_AFTER: Duration = Duration::from_secs(2);

/// How long a keeper may be about to start or to end.
const TURN_LIMIT: Duration = Duration::from_secs(5);

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Without --final agents go on. With it they end, and nothing is started in this boot of
the machine any more; the next boot resumes them.

Examples:
  spotkeep save
  spotkeep save --final --json"
)]
pub(super) struct Args {
    /// End the agents too: this is the end of this boot.
    #[arg(long = "final")]
    is_final: bool,
    /// The machine's shutdown asks.
    #[arg(long, hide = true, requires = "is_final")]
    unit: bool,
    /// Print the manifest.
    #[arg(long)]
    json: bool,
    /// Say what would be done, and do nothing.
    #[arg(long)]
    dry_run: bool,
}

pub(super) fn run(data_dir: &DataDir, args: &Args) -> Result<ExitCode> {
    if args.dry_run {
        print_line(if args.is_final {
            "would end all agents and make everything durable; nothing is started in this boot after that"
        } else {
            "would make everything durable; agents go on"
        });
        return Ok(ExitCode::SUCCESS);
    }
    if args.unit {
        end_a_stuck_keeper(data_dir);
    }
    let manifest = match client::save(data_dir, args.is_final, args.unit)? {
        Some(manifest) => manifest,
        None => alone(data_dir, args)?,
    };
    if args.json {
        json(&manifest)?;
    } else {
        show(&manifest);
    }
    // What could not be written down is not called safe.
    let good = manifest.clean && manifest.trouble.is_empty();
    Ok(ExitCode::from(if good {
        0
    } else {
        ErrorKind::NotAsDeclared as u8
    }))
}

/// A keeper that hangs would have the shutdown wait in vain. It holds the lock, so it is ended, and
/// the save is done without it.
fn end_a_stuck_keeper(data_dir: &DataDir) {
    if client::status(data_dir, STUCK_AFTER).is_ok() {
        return; // It answers, or there is none.
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

/// The keeper is dead: its lock is free, and the save is done here.
fn alone(data_dir: &DataDir, args: &Args) -> Result<Manifest> {
    let came = Instant::now();
    let _lock = match args.unit {
        false => instead_of_keeper(data_dir)?,
        true => match lock_or_keeper(data_dir, args, came)? {
            Turn::Mine(lock) => lock,
            Turn::Keepers(manifest) => return Ok(*manifest),
        },
    };
    let identity = data_dir.identity()?;
    let boot_id = process::current_boot_id()?;
    // A disk that is full or worse must not keep anything from being saved.
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
    // Whatever is wrong with the file, what can be kept is kept.
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

/// Who saves after all.
enum Turn {
    Mine(LockFile),
    Keepers(Box<Manifest>),
}

/// A keeper that is just starting holds the lock and does not listen yet; at a shutdown nobody tries
/// again by hand.
fn lock_or_keeper(data_dir: &DataDir, args: &Args, came: Instant) -> Result<Turn> {
    loop {
        if let Some(lock) = LockFile::try_take(&data_dir.lock())? {
            return Ok(Turn::Mine(lock));
        }
        if let Some(manifest) = client::save(data_dir, args.is_final, args.unit)? {
            return Ok(Turn::Keepers(Box::new(manifest)));
        }
        if came.elapsed() > TURN_LIMIT {
            return instead_of_keeper(data_dir).map(Turn::Mine);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn show(manifest: &Manifest) {
    let rows: Vec<[String; 4]> = manifest
        .agents
        .iter()
        .map(|agent| {
            let words = match (agent.transcript_safe, agent.transcript_bytes) {
                (true, Some(bytes)) => format!("{} KiB safe", bytes.div_ceil(1024)),
                (true, None) => "nothing said".into(),
                (false, _) => agent.trouble.clone().unwrap_or_else(|| "not safe".into()),
            };
            [
                agent.name.to_string(),
                agent.end.clone(),
                agent.open.clone(),
                words,
            ]
        })
        .collect();
    for line in table(["AGENT", "END", "OPEN", "WORDS"], &rows) {
        print_line(&line);
    }
    for trouble in &manifest.trouble {
        complain(&format!("warning: {trouble}"));
    }
    let after = |ms: Option<u64>| ms.map_or("not".into(), |ms| short(Duration::from_millis(ms)));
    print_line(&format!(
        "transcripts safe after {}, everything safe after {}{}",
        after(manifest.stages.transcripts_safe_ms),
        after(manifest.stages.notice_to_safe_ms),
        if manifest.clean { "" } else { "; NOT CLEAN" }
    ));
    if manifest.is_final {
        print_line("nothing is started in this boot any more; a new one resumes the agents");
    }
}
