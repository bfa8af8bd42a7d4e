//! The environment of the measurements: namespace, sandboxes and Claude versions.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use drill::claude_program;
use drill::sandbox::Sandbox;
use sys::error::{Context as _, Result, ensure};
use sys::{command, process, signal};

use super::options::Options;

/// Set in the environment of the run inside the namespace.
const INSIDE: &str = "SPOTKEEP_BENCH_INSIDE";

/// The sandboxes to remove when the bench is interrupted.
static OPEN: Mutex<Vec<Weak<Sandbox>>> = Mutex::new(Vec::new());

/// Runs this program again in a network namespace with only loopback, and waits for it. `None` if
/// it already runs there, or is not root.
pub fn isolate() -> Result<Option<ExitCode>> {
    if std::env::var_os(INSIDE).is_some() || !claude_program::can_isolate() {
        return Ok(None);
    }
    let mut command = claude_program::isolated(
        // If this process ends, the one inside gets SIGTERM, and cleans up.
        "ip link set lo up && exec setpriv --pdeathsig TERM \"$0\" \"$@\"",
    );
    let keys = ["PATH", "HOME", "TMPDIR", "TERM", "SPOTKEEP_CLAUDE"];
    let kept = keys
        .into_iter()
        .filter_map(|key| Some((key, std::env::var_os(key)?)));
    let status = command
        .arg(std::env::current_exe().context("cannot find the program itself")?)
        .args(std::env::args_os().skip(1))
        .env_clear()
        .envs(kept)
        .env("SPOTKEEP_LOOPBACK_ONLY", "1")
        .env(INSIDE, "1")
        .status()
        .context("cannot run unshare")?;
    Ok(Some(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }))
}

/// The environment in which all figures are measured.
#[derive(Debug)]
pub struct Environment {
    /// The `spotkeep` that is measured.
    pub spotkeep: PathBuf,
    /// The real Claude programs, newest last; if empty, the fake is used.
    pub claudes: Vec<PathBuf>,
    versions: Vec<String>,
    isolated: bool,
}

impl Environment {
    /// Finds Claude as the drill does, and installs a signal handler that removes the sandboxes.
    pub fn find(options: &Options) -> Result<Self> {
        let isolated = std::env::var_os(INSIDE).is_some();
        if isolated {
            drill::ensure_only_loopback()?;
        }
        signal::listen(|_| {
            for sandbox in OPEN.lock().unwrap_or_else(PoisonError::into_inner).iter() {
                if let Some(sandbox) = sandbox.upgrade() {
                    sandbox.clear();
                }
            }
            std::process::exit(130);
        })?;
        let mut place = Self {
            spotkeep: env!("CARGO_BIN_EXE_spotkeep").into(),
            claudes: Vec::new(),
            versions: Vec::new(),
            isolated,
        };
        // A real Claude is started only in the namespace: elsewhere it could reach other hosts.
        if isolated && !options.fake {
            place.claudes = claudes(&options.claude)?;
        }
        let sandbox = place.sandbox(false)?;
        for claude in &place.claudes {
            let version = claude_program::version(claude, sandbox.command(claude))?;
            place.versions.push(version);
        }
        Ok(place)
    }

    /// Makes an empty sandbox. As root, its data directory can be a separate file system, as on a
    /// VM, so that a sync does not include what other processes write.
    pub fn sandbox(&self, own_filesystem: bool) -> Result<Arc<Sandbox>> {
        let sandbox = Sandbox::create(false, own_filesystem && self.isolated)?;
        let sandbox = Arc::new(sandbox.with_program(self.spotkeep.clone()));
        OPEN.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Arc::downgrade(&sandbox));
        Ok(sandbox)
    }

    /// The Claude for figures that use one version only; `None` for the fake.
    pub fn claude(&self) -> Option<&Path> {
        self.claudes.last().map(PathBuf::as_path)
    }

    /// The versions and the machine of the measurement, in two lines.
    pub fn headline(&self) -> String {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let memory = process::available_memory().unwrap_or(0) >> 30;
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let load = load.split(' ').next().unwrap_or("?");
        let claude = match self.versions.as_slice() {
            [] => "the FAKE Claude Code: its times are not Claude's".to_owned(),
            versions => format!("Claude Code {}", versions.join(" and ")),
        };
        let network = match self.isolated {
            true => "in a network namespace with only loopback",
            false => "not root: no network namespace, so the real Claude Code is not used",
        };
        format!(
            "spotkeep {}, {claude}; {network}\n{cores} cores, {memory} GB of memory available, \
             Linux {}, {}, load {load} before the start",
            env!("CARGO_PKG_VERSION"),
            read_line("/proc/sys/kernel/osrelease"),
            distribution(),
        )
    }
}

/// The named programs, or the one that a drill would find and the older ones in `.claude-bin`.
fn claudes(named: &[PathBuf]) -> Result<Vec<PathBuf>> {
    if !named.is_empty() {
        for path in named {
            ensure!(path.is_file(), "there is no claude at {}", path.display());
        }
        return named.iter().map(|path| Ok(path.canonicalize()?)).collect();
    }
    let Some(found) = claude_program::find(None)? else {
        return Ok(Vec::new());
    };
    let fetched = fs::read_dir(".claude-bin").into_iter().flatten();
    let mut all: Vec<PathBuf> = fetched
        .filter_map(|entry| entry.ok()?.path().join("claude").canonicalize().ok())
        .filter(|path| *path != found)
        .collect();
    all.sort();
    all.push(found);
    Ok(all)
}

fn read_line(path: &str) -> String {
    fs::read_to_string(path)
        .unwrap_or_default()
        .trim()
        .to_owned()
}

fn distribution() -> String {
    let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = text
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.unwrap_or("an unknown distribution")
        .trim_matches('"')
        .to_owned()
}

/// Runs a program to its end and returns what it printed.
pub fn run(command: &mut Command, limit: Duration) -> Result<String> {
    let output = command::run(command, limit)?;
    ensure!(output.status.success(), "{command:?}: {}", output.stderr);
    Ok(output.stdout)
}

/// Prints progress on standard error.
pub fn progress(text: &str) {
    // A closed standard error is not a reason to stop.
    writeln!(std::io::stderr(), "bench: {text}").ok();
}
