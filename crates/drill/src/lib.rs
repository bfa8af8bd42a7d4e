//! The drill: a rehearsed preemption in a sandbox, measured.
//!
//! The way: [`run`] goes into a namespace with nothing but loopback, `journey` plays two boots of
//! a fleet in a [`sandbox`], between the fakes [`fake_metadata`] and [`fake_api`]; [`verify::records`] and
//! [`verify::workspace_digest`] evaluate, [`report`] tells. The fakes serve the tests of other rooms too.

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

/// Tells the program inside the namespace what to play.
const INSIDE: &str = "SPOTKEEP_DRILL_INSIDE";

/// How the machine is lost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LossKind {
    /// The cloud says so first.
    #[default]
    Notice,
    /// Every process ends at once, without a word.
    Kill,
    /// The same, and the disk holds only what was synced.
    PowerCut,
}

impl LossKind {
    /// As the command line and the report say it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Notice => "notice",
            Self::Kill => "kill",
            Self::PowerCut => "power-cut",
        }
    }

    /// How old a record may be at the most to be lost with an excuse.
    #[must_use]
    pub fn window(self) -> Duration {
        match self {
            Self::Notice => Duration::ZERO,
            Self::Kill => Duration::from_millis(200),
            Self::PowerCut => Duration::from_secs(2),
        }
    }
}

/// What to rehearse.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    /// How the machine is lost.
    pub kind: LossKind,
    /// How many agents.
    pub agents: usize,
    /// Which claude; otherwise the one that is found, or the fake.
    pub claude: Option<PathBuf>,
    /// Play with the fake, whatever is installed.
    pub fake: bool,
    /// One agent writes without a pause, so that a cut meets it in the middle of a record.
    pub writing: bool,
    /// Leave the sandbox for a look.
    pub keep: bool,
    /// Say on standard error what happens.
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

/// Rehearses a preemption. As root it runs where there is no network but loopback: the program
/// starts itself again there, as `spotkeep drill --json`.
///
/// # Errors
/// The drill could not be played at all. What went wrong in it is in the report.
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
            "a power cut needs root: it is rehearsed on a filesystem of its own"
        ));
        return refused.hint("sudo spotkeep drill --kind power-cut");
    }
    let place = "on this machine's loopback";
    scenario::rehearse(&options, place)
}

/// Only root can, and then nothing that is started can reach beyond this machine.
fn inside_a_namespace(options: &Options) -> Result<Report> {
    let exe = std::env::current_exe().context("cannot find the program itself")?;
    process::keep_descriptors_to_ourselves();
    // Should this process end, the one inside is told, and clears up.
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
    let (said, mut report) = (child.stderr.take(), Vec::new());
    let read = || {
        child
            .stdout
            .take()
            .map(|mut out| out.read_to_end(&mut report))
    };
    let show = |line: &str| drop(write!(std::io::stderr(), "{line}"));
    thread::both("said", || pass_on(said, show), read);
    child.wait().context("cannot wait for the drill")?;
    serde_json::from_slice(&report).context("the drill ended without a report")
}

/// That this process can reach nothing but this machine: the variable alone proves nothing.
///
/// # Errors
/// There is a network beside loopback.
pub fn ensure_only_loopback() -> Result<()> {
    let devices = std::fs::read_to_string("/proc/net/dev").context("cannot see the network")?;
    let others = devices
        .lines()
        .filter_map(|line| Some(line.split_once(':')?.0.trim()))
        .find(|name| *name != "lo");
    ensure!(
        others.is_none(),
        "this is meant to run with loopback alone, but there is a network beside loopback ({})",
        others.unwrap_or_default()
    );
    Ok(())
}

pub mod verify;
