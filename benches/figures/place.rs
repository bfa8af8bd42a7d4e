//! Where and with which Claude it is measured.

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

/// Tells the program that it runs inside the namespace.
const INSIDE: &str = "SPOTKEEP_BENCH_INSIDE";

/// Sandboxes to be ended when the bench itself is interrupted.
static OPEN: Mutex<Vec<Weak<Sandbox>>> = Mutex::new(Vec::new());

/// Starts this program again where there is no network but loopback, and waits for it. `None`:
/// we are there already, or are not root and cannot go there.
pub fn isolate() -> Result<Option<ExitCode>> {
    if std::env::var_os(INSIDE).is_some() || !claude_program::can_isolate() {
        return Ok(None);
    }
    let mut command = claude_program::isolated(
        // Should this process end, the one inside is told, and clears up.
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

/// Where all figures are measured.
#[derive(Debug)]
pub struct Place {
    /// The `spotkeep` that is measured.
    pub spotkeep: PathBuf,
    /// The Claudes that play, newest last; none: the fake does.
    pub claudes: Vec<PathBuf>,
    versions: Vec<String>,
    isolated: bool,
}

impl Place {
    /// Finds Claude as the drill does, and sees to it that an interruption leaves nothing running.
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
        // Out of a namespace of our own a real Claude is never started: it might reach somebody.
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

    /// An empty sandbox. As root, its data directory is a filesystem of its own, as on a VM: what others
    /// write on this machine is then not synced with it.
    pub fn sandbox(&self, own_filesystem: bool) -> Result<Arc<Sandbox>> {
        let sandbox = Sandbox::create(false, own_filesystem && self.isolated)?;
        let sandbox = Arc::new(sandbox.with_program(self.spotkeep.clone()));
        OPEN.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Arc::downgrade(&sandbox));
        Ok(sandbox)
    }

    /// The Claude of the figures that use one only; `None`: the fake.
    pub fn claude(&self) -> Option<&Path> {
        self.claudes.last().map(PathBuf::as_path)
    }

    /// What it was measured with, in a line or two.
    pub fn headline(&self) -> String {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let memory = process::available_memory().unwrap_or(0) >> 30;
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let load = load.split(' ').next().unwrap_or("?");
        let claude = match self.versions.as_slice() {
            [] => "the STAND-IN for Claude Code: its times are not Claude's".to_owned(),
            versions => format!("Claude Code {}", versions.join(" and ")),
        };
        let network = match self.isolated {
            true => "in a network namespace with only loopback",
            false => "not root: no namespace of our own, so no real Claude is started",
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

/// The named ones, or the one that a drill would find, with the older ones that were fetched
/// beside it.
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

/// Says on standard error how far it is.
pub fn say(text: &str) {
    // Nobody reading along is no reason to stop.
    writeln!(std::io::stderr(), "bench: {text}").ok();
}
