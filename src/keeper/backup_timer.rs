//! Backups by the clock, where no unit of root's makes them: a process of its own each time, so that nothing
//! of it is ever in the way of the fleet. That process ends by itself at the notice.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use crate::backup::{BackupState, Settings};
use state::config::Config;
use state::layout::DataDir;
use sys::command;
use sys::error::{Context as _, Result};
use sys::thread;

/// After a start, so that a machine that is often preempted has backups too, and the agents' own start is
/// over.
const FIRST: Duration = Duration::from_secs(60);

/// How soon an interval that was set anew in the file counts, at the latest.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// A backup by the clock waits for no other, so this is for a first one of a large data directory and its copy.
const LIMIT: Duration = Duration::from_secs(48 * 3600);

/// How backups stand, for `status`.
#[derive(Debug, Clone, Default)]
pub struct Stand {
    /// What is remembered.
    pub state: Option<BackupState>,
    /// Why nothing can be made or told.
    pub trouble: Vec<String>,
}

impl Stand {
    /// As it is on the disk. Where backups are turned off, nobody is told that there are none.
    #[must_use]
    pub fn read(data_dir: &DataDir, config: &Config) -> Self {
        match BackupState::shown(data_dir) {
            Ok(mut state) => {
                if let Some(state) = &mut state
                    && config.backup.every().is_none()
                {
                    state.trouble = None;
                }
                Self {
                    trouble: state.iter().flat_map(BackupState::troubles).collect(),
                    state,
                }
            }
            Err(error) => Self {
                state: None,
                trouble: vec![format!("{error:#}")],
            },
        }
    }
}

/// The clock; it stops when this is dropped.
#[derive(Debug)]
pub struct Clock {
    _alive: Sender<()>,
}

/// Starts the clock. `may` says whether a backup may be begun now.
///
/// # Errors
/// No thread can be had, or the program cannot be found.
pub fn start(data_dir: &DataDir, may: impl Fn() -> bool + Send + 'static) -> Result<Clock> {
    let (alive, gone) = mpsc::channel::<()>();
    let data_dir = data_dir.clone();
    // Now, and not when it is needed: a program that was replaced since then has no path any more.
    let program = std::env::current_exe().context("cannot tell where this program is")?;
    let run = move || {
        let mut next = Instant::now() + first();
        loop {
            let wait = next.saturating_duration_since(Instant::now());
            match gone.recv_timeout(wait.min(LOOK_AGAIN)) {
                Err(RecvTimeoutError::Timeout) => {}
                _ => return,
            }
            // The file may have been edited since.
            let every = interval(&data_dir);
            if Instant::now() < next {
                continue;
            }
            match every {
                Some(every) => {
                    if may() {
                        make(&data_dir, &program);
                    }
                    next = Instant::now() + every;
                }
                None => next = Instant::now() + LOOK_AGAIN,
            }
        }
    };
    thread::spawn("backups", run).context("cannot start the clock of the backups")?;
    Ok(Clock { _alive: alive })
}

/// Tests do not wait a minute.
fn first() -> Duration {
    std::env::var("SPOTKEEP_FIRST_BACKUP")
        .ok()
        .and_then(|text| sys::time::parse_duration(&text).ok())
        .unwrap_or(FIRST)
}

/// How often this keeper makes backups; `None`: it does not, since it is turned off or since they are root's.
fn interval(data_dir: &DataDir) -> Option<Duration> {
    let settings = Settings::load(data_dir).ok()?;
    settings.ensure_mine().ok()?;
    settings.table.every()
}

fn make(data_dir: &DataDir, program: &Path) {
    let mut command = Command::new(program);
    command
        .arg("--data-dir")
        .arg(data_dir.dir())
        .args(["backup", "now", "--scheduled"])
        .stdin(Stdio::null());
    match command::run(&mut command, LIMIT) {
        Ok(output) if output.status.success() => {
            tracing::debug!("backup: {}", output.stdout.trim());
        }
        Ok(output) => tracing::warn!("backup: {}", output.stderr),
        Err(error) => tracing::error!("{error:#}"),
    }
}
