//! Drills: simulated preemptions of a fleet in a sandbox, with measurements.
//!
//! [`run`] enters a network namespace with only loopback. `scenario` runs two boots of a fleet in a
//! [`sandbox`], with the fakes [`fake_metadata`] and [`fake_api`]. [`verify::records`] and
//! [`verify::workspace_digest`] count the losses, and [`report`] prints them. Tests of other crates
//! use the fakes too.

pub mod claude_program;
pub mod fake_api;
pub mod fake_claude;
pub mod fake_metadata;
pub mod http;
pub mod report;
pub mod sandbox;
mod scenario;
pub mod session_file;

use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use report::Report;

use sys::error::{Context as _, Hint as _, Result, ensure};
use sys::terminal::pass_on;
use sys::{process, thread, user};

/// The environment variable with the options of a drill inside the namespace, as JSON.
const INSIDE: &str = "SPOTKEEP_DRILL_INSIDE";

/// How the simulated machine ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LossKind {
    /// A preemption notice comes first.
    #[default]
    Notice,
    /// Every process is killed at once, without a notice.
    Kill,
    /// Like `Kill`, and the disk loses what was not synced.
    PowerCut,
}

impl LossKind {
    /// Returns the name on the command line and in the report.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Notice => "notice",
            Self::Kill => "kill",
            Self::PowerCut => "power-cut",
        }
    }

    /// Returns the maximum age of a record whose loss is excused.
    #[must_use]
    pub fn window(self) -> Duration {
        match self {
            Self::Notice => Duration::ZERO,
            Self::Kill => Duration::from_millis(200),
            Self::PowerCut => Duration::from_secs(2),
        }
    }
}

/// The options of a drill.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    /// How the machine ends.
    pub kind: LossKind,
    /// The number of agents.
    pub agents: usize,
    /// The claude to use; `None` for the one on the `PATH`, or else the fake.
    pub claude: Option<PathBuf>,
    /// Use the fake Claude, even if a real one is installed.
    pub fake: bool,
    /// One agent writes without a pause, so that the cut can come in the middle of a record.
    pub writing: bool,
    /// Keep the sandbox.
    pub keep: bool,
    /// Print progress on standard error.
    pub verbose: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            kind: LossKind::Notice,
            agents: 3,
            claude: None,
            fake: false,
            writing: false,
            keep: false,
            verbose: false,
        }
    }
}

/// Runs a drill. As root, it runs in a network namespace with only loopback: the program starts
/// itself again there, as `spotkeep drill --json`.
///
/// # Errors
/// The drill could not be run. Failures during the drill are in the report.
pub fn run(options: &Options) -> Result<Report> {
    if let Some(inside) = std::env::var_os(INSIDE) {
        ensure_only_loopback()?;
        let options = serde_json::from_str(&inside.to_string_lossy()).context(INSIDE)?;
        return scenario::rehearse(&options, "in a network namespace with only loopback");
    }
    ensure!(options.agents > 0, "a drill needs an agent");
    let mut options = options.clone();
    options.claude = match options.fake {
        true => None,
        false => claude_program::find(options.claude.as_deref())?,
    };
    if claude_program::can_isolate() {
        return inside_a_namespace(&options);
    }
    if options.kind == LossKind::PowerCut {
        let refused: Result<Report> = Err(sys::error::anyhow!(
            "a power-cut drill needs root: it uses a separate loop file system"
        ));
        return refused.hint("sudo spotkeep drill --kind power-cut");
    }
    let place = "on this machine's loopback";
    scenario::rehearse(&options, place)
}

/// Runs the drill in the namespace, from where no process can reach another host. Needs root.
fn inside_a_namespace(options: &Options) -> Result<Report> {
    let exe = std::env::current_exe().context("cannot find the program itself")?;
    process::close_descriptors_on_exec();
    // If this process ends, the one inside gets SIGTERM, and cleans up.
    let mut command = claude_program::confined("ip link set lo up && exec \"$0\" drill --json");
    let mut child = command
        .arg(exe)
        .env_clear()
        .envs(
            ["HOME", "TMPDIR", "TERM"]
                .into_iter()
                .filter_map(|key| Some((key, std::env::var_os(key)?))),
        )
        .env("PATH", user::absolute_path())
        .env(INSIDE, serde_json::to_string(options)?)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run unshare")?;
    let (stderr, mut report) = (child.stderr.take(), Vec::new());
    let read = || {
        child
            .stdout
            .take()
            .map(|mut out| out.read_to_end(&mut report))
    };
    let show = |line: &str| drop(write!(std::io::stderr(), "{line}"));
    thread::both("stderr", || pass_on(stderr, show), read);
    child.wait().context("cannot wait for the drill")?;
    serde_json::from_slice(&report).context("the drill ended without a report")
}

/// Checks that there is no network device but loopback, as the environment variable alone proves
/// nothing.
///
/// # Errors
/// There is another network device.
pub fn ensure_only_loopback() -> Result<()> {
    let devices = std::fs::read_to_string("/proc/net/dev").context("cannot see the network")?;
    let others = devices
        .lines()
        .filter_map(|line| Some(line.split_once(':')?.0.trim()))
        .find(|name| *name != "lo");
    ensure!(
        others.is_none(),
        "a drill in a namespace runs with loopback only, but there is another network device ({})",
        others.unwrap_or_default()
    );
    Ok(())
}

pub mod verify;
