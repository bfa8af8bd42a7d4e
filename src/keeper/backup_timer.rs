//! Backup timer: runs scheduled backups where no systemd unit of root does.
//!
//! Each backup is a separate process, so that it never holds up the keeper. That process ends
//! automatically at a notice.

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

/// The first backup after the keeper's start: early, so that a machine that is often preempted has
/// backups too, and after the agents have started.
const FIRST: Duration = Duration::from_secs(60);

/// How often the interval is read from the file again.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// The timeout of one backup, enough for the first one of a large data directory and its copy. A
/// scheduled backup does not wait for another one.
const LIMIT: Duration = Duration::from_secs(48 * 3600);

/// The state of the backups, for `status`.
#[derive(Debug, Clone, Default)]
pub struct BackupView {
    /// The stored state.
    pub state: Option<BackupState>,
    /// Why no backup can be made, or why its state cannot be read.
    pub trouble: Vec<String>,
}

impl BackupView {
    /// Reads the state from the disk. If backups are turned off, their absence is not reported.
    #[must_use]
    pub fn read(data_dir: &DataDir, config: &Config) -> Self {
        match BackupState::load_copy(data_dir) {
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

/// The running timer; it stops when this is dropped.
#[derive(Debug)]
pub struct Clock {
    _alive: Sender<()>,
}

/// Starts the timer. `may` returns whether a backup may be begun now.
///
/// # Errors
/// The thread cannot be started, or the path of this program cannot be found.
pub fn start(data_dir: &DataDir, may: impl Fn() -> bool + Send + 'static) -> Result<Clock> {
    let (alive, gone) = mpsc::channel::<()>();
    let data_dir = data_dir.clone();
    // Found now, because a program that is replaced later has no path any more.
    let program = std::env::current_exe().context("cannot find the path of this program")?;
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
    thread::spawn("backups", run).context("cannot start the backup timer")?;
    Ok(Clock { _alive: alive })
}

/// Returns the delay of the first backup; tests set a shorter one.
fn first() -> Duration {
    std::env::var("SPOTKEEP_FIRST_BACKUP")
        .ok()
        .and_then(|text| sys::time::parse_duration(&text).ok())
        .unwrap_or(FIRST)
}

/// Returns how often this keeper makes backups; `None`: never, because backups are turned off or
/// because root makes them.
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
