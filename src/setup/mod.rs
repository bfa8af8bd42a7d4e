//! `spotkeep setup`: prepares a VM as root: disk, mount, layout, links, programs, units.
//!
//! Setup has three parts, each of which needs what the one before has made: the disk, the account,
//! the rest. Each part gathers facts without changing anything; a pure function plans a list of
//! steps from them, or refuses; then the steps are done one by one. So a second run finds nothing
//! to do, the next run continues one that was cut off, and a dry run shows the same list.
//!
//! Root executes and follows nothing that the user can write: a process of the user acts on the
//! user's files ([`user_helper`]), root creates files on the disk through open directories
//! ([`sys::secure_dir`]), and the owner of the disk is recorded where only root can write
//! ([`account`]).

pub mod account;
mod apply;
pub mod disk_plan;
pub mod first_boot_script;
pub mod layout;
pub mod login_line;
pub mod packages;
pub mod reexec;
pub mod startup;
pub mod steps;
pub mod system_plan;
pub mod undo;
pub mod upgrade;
pub mod user_helper;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::storage::blank_check::Content;
use crate::storage::filesystem::{Inside, Peek};
use account::{Account, AccountDecision};
use steps::Step;
use sys::error::{Context as _, ErrorKind, Hint as _, Result, anyhow};
use sys::failpoint::{Point, point};
use sys::files::{self, LockFile};
use sys::prefix::Prefix;

/// How long setup waits for a disk that is being attached.
pub const WAIT: Duration = Duration::from_secs(30);

/// The options of a set-up.
#[derive(Debug, Clone)]
pub struct Ask {
    /// The machine: `/`, or a prefix in tests.
    pub place: Prefix,
    /// The data directory, as the machine sees it.
    pub data_dir: PathBuf,
    /// The disk, by name or path; `None` if spotkeep does not mount it.
    pub disk: Option<String>,
    /// How long to wait for the disk.
    pub wait: Duration,
    /// The user who will own the agents.
    pub user: Option<String>,
    /// A Claude Code program to keep on the disk.
    pub claude: Option<PathBuf>,
    /// Whether a data directory may be made beside other files.
    pub beside: bool,
    /// Whether a new `spotkeep.toml` lets agents run every command without asking.
    pub unattended: bool,
    /// Whether missing packages are installed.
    pub packages: bool,
    /// Whether to raise the retention of transcripts.
    pub retain: bool,
    /// Whether the keeper is started.
    pub start: bool,
}

impl Ask {
    /// The default options.
    #[must_use]
    pub fn new(data_dir: PathBuf, place: Prefix) -> Self {
        Self {
            place,
            data_dir,
            disk: None,
            wait: WAIT,
            user: None,
            claude: None,
            beside: false,
            unattended: false,
            packages: true,
            retain: false,
            start: true,
        }
    }
}

/// Progress of a set-up, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// A step that would be done.
    Would(String),
    /// A step that begins.
    Doing(String),
    /// A detail of what was done.
    Did(String),
    /// A step that failed; the others go on.
    Problem(String),
}

/// The result of a set-up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SetupSummary {
    /// Number of steps that were done, or would be.
    pub steps: usize,
    /// Number of problems.
    pub problems: usize,
    /// Whether Claude deletes transcripts too soon.
    pub short_retention: bool,
    /// The disk, under its stable name.
    pub device: Option<PathBuf>,
    /// The program on the disk that has to do the rest, run with the same arguments.
    pub handover: Option<PathBuf>,
}

/// Sets up the machine.
///
/// # Errors
/// Something is in the way, with a hint; or a step failed, and the next run continues there.
pub fn run(ask: &Ask, progress: &mut dyn FnMut(Progress)) -> Result<SetupSummary> {
    system_plan::ensure_is_root()?;
    let _lock = lock(&ask.place)?;
    let mut outcome = SetupSummary::default();
    let data_dir = ask.place.join(&ask.data_dir);
    if let Some(disk) = &ask.disk {
        let facts = disk_plan::gather_facts(ask, disk)?;
        let steps = disk_plan::plan(&facts, ask)?;
        let was_full = matches!(facts.inside, Some(Inside::Other(_)));
        perform(&steps, ask, None, &mut outcome, progress)?;
        // Replaying the journal may have restored files that the read-only mount did not show.
        if !was_full && !ask.beside && matches!(Inside::inspect(&data_dir)?, Inside::Other(_)) {
            return Err(anyhow!(
                "{} holds files that do not belong to a data directory",
                data_dir.display()
            ))
            .hint("to keep them and make the data directory beside them: --beside-other-files");
        }
        outcome.device = Some(facts.device.name.clone());
        if let Some(note) = disk_plan::partition_note(&facts.device) {
            progress(Progress::Did(note));
        }
    }
    ensure_mounted(ask, &data_dir)?;
    outcome.handover = reexec::successor(&data_dir)?;
    if outcome.handover.is_some() {
        return Ok(outcome);
    }
    let account = match system_plan::account(ask, Some(&data_dir))? {
        AccountDecision::There(account) => account,
        AccountDecision::Make(requested) => {
            perform(
                &[Step::Account(requested.clone())],
                ask,
                None,
                &mut outcome,
                progress,
            )?;
            account::find(&ask.place, &requested.name)?.context("the account is not there")?
        }
    };
    let facts = system_plan::gather_facts(ask, Some(&data_dir), &account)?;
    let (steps, problems) = system_plan::plan(&facts, ask)?;
    perform(&steps, ask, Some(&account), &mut outcome, progress)?;
    outcome.short_retention = !ask.retain && !claude::retention::is_enough(facts.report.retention);
    for problem in problems {
        outcome.problems += 1;
        progress(Progress::Problem(problem));
    }
    Ok(outcome)
}

/// Reports what [`run`] would do, and does nothing.
///
/// # Errors
/// As [`run`], as far as it can be known.
pub fn rehearse(ask: &Ask, progress: &mut dyn FnMut(Progress)) -> Result<SetupSummary> {
    system_plan::ensure_is_root()?;
    let mut outcome = SetupSummary::default();
    let data_dir = ask.place.join(&ask.data_dir);
    // A data directory that is not mounted is mounted read-only, and unmounted at the end.
    let mut peek = None;
    let mut tree = files::is_mount_point(&data_dir)
        .unwrap_or(false)
        .then(|| data_dir.clone());
    if let Some(disk) = &ask.disk {
        let facts = disk_plan::gather_facts(ask, disk)?;
        would(&disk_plan::plan(&facts, ask)?, &mut outcome, progress);
        if tree.is_none()
            && let Content::Filesystem(filesystem) = &facts.content
        {
            let at = Peek::mount(&facts.device.path, filesystem.kind, &ask.place.join("/run"))?;
            tree = Some(at.path().to_path_buf());
            peek = Some(at);
        }
    } else {
        ensure_mounted(ask, &data_dir)?;
    }
    let theirs = tree
        .as_deref()
        .map(reexec::successor)
        .transpose()?
        .flatten();
    if theirs.is_some() && peek.is_none() {
        outcome.handover = theirs;
        return Ok(outcome);
    }
    let account = match system_plan::account(ask, tree.as_deref())? {
        AccountDecision::There(account) => account,
        AccountDecision::Make(requested) => {
            would(&[Step::Account(requested.clone())], &mut outcome, progress);
            system_plan::planned_account(&requested)
        }
    };
    let mut facts = system_plan::gather_facts(ask, tree.as_deref(), &account)?;
    if theirs.is_some() {
        // This program reports what the other would do, as the disk is mounted noexec.
        progress(Progress::Would(
            "let the spotkeep on the disk do the rest".into(),
        ));
        facts.program = Some(true);
    }
    let (steps, problems) = system_plan::plan(&facts, ask)?;
    would(&steps, &mut outcome, progress);
    for problem in problems {
        outcome.problems += 1;
        progress(Progress::Problem(problem));
    }
    drop(peek);
    Ok(outcome)
}

fn would(steps: &[Step], outcome: &mut SetupSummary, progress: &mut dyn FnMut(Progress)) {
    outcome.steps += steps.len();
    for step in steps {
        progress(Progress::Would(step.describe()));
    }
}

fn perform(
    steps: &[Step],
    ask: &Ask,
    account: Option<&Account>,
    outcome: &mut SetupSummary,
    progress: &mut dyn FnMut(Progress),
) -> Result<()> {
    for step in steps {
        progress(Progress::Doing(step.describe()));
        point(Point::SetupStep);
        match apply::apply(step, ask, account) {
            Ok(said) => {
                point(Point::SetupDone);
                outcome.steps += 1;
                for line in said {
                    progress(Progress::Did(line));
                }
            }
            Err(error) if step.is_optional() => {
                outcome.problems += 1;
                let hint = sys::error::hint_of(&error).map(|hint| format!(" ({hint})"));
                progress(Progress::Problem(format!(
                    "{error:#}{}",
                    hint.unwrap_or_default()
                )));
            }
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("could not {}", step.describe()))
                    .hint("repair it and run the same command again: it continues from here");
            }
        }
    }
    Ok(())
}

/// Refuses to make a data directory on the boot disk, which a new machine does not have.
fn ensure_mounted(ask: &Ask, data_dir: &Path) -> Result<()> {
    if files::is_mount_point(data_dir).unwrap_or(false) {
        return Ok(());
    }
    let what = match ask.disk {
        None => "no disk was named for the data directory",
        Some(_) => "the disk is not mounted",
    };
    Err(anyhow!(
        "{what}: nothing is mounted at {}",
        data_dir.display()
    ))
    .hint("sudo spotkeep setup --disk NAME; on a laptop: spotkeep --data-dir DIR init")
    .kind(ErrorKind::Usage)
}

/// Locks set-up on this machine: a start-up script and a human may both begin one.
fn lock(place: &Prefix) -> Result<LockFile> {
    let run = place.join("/run");
    fs::create_dir_all(&run).with_context(|| format!("cannot create {}", run.display()))?;
    LockFile::try_take(&run.join("spotkeep-setup.lock"))?
        .context("another set-up is running on this machine")
        .hint("wait for it: journalctl -fu google-startup-scripts, or pgrep -af 'spotkeep.*setup'")
}
