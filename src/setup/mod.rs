//! The journey of a VM from new to ready: disk, mount, layout, links, programs, units. As root.
//!
//! In three parts, since each rests on what the one before has made: the disk, the account, the rest.
//! In each, facts are gathered without changing anything; a pure function makes a list of steps of
//! them, or refuses; the steps are done one by one. So a second run finds nothing to do, a run that was
//! cut off is continued by the next, and a dry run shows the same list.
//!
//! Root executes and follows nothing that the user can write: what is the user's is done by a process
//! of the user ([`user_helper`]), what root makes on the disk it makes through open directories
//! ([`sys::secure_dir`]), and whose disk it is stands where only root can write ([`account`]).

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
use account::{Account, Verdict};
use steps::Step;
use sys::error::{Context as _, ErrorKind, Hint as _, Result, anyhow};
use sys::failpoint::{Point, point};
use sys::files::{self, LockFile};
use sys::prefix::Prefix;

/// How long a disk is waited for that is just being attached.
pub const WAIT: Duration = Duration::from_secs(30);

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Ask {
    /// The machine.
    pub place: Prefix,
    /// The data directory, as the machine sees it.
    pub data_dir: PathBuf,
    /// The disk, by name or path; `None` where somebody else mounts it.
    pub disk: Option<String>,
    /// How long it is waited for.
    pub wait: Duration,
    /// Whose agents these shall be.
    pub user: Option<String>,
    /// A claude to keep on the disk.
    pub claude: Option<PathBuf>,
    /// Whether a data directory may be made beside files that are not ours.
    pub beside: bool,
    /// Whether a new `spotkeep.toml` lets agents run every command without asking.
    pub unattended: bool,
    /// Whether missing packages are installed.
    pub packages: bool,
    /// Whether transcripts shall be kept longer.
    pub retain: bool,
    /// Whether the keeper is started.
    pub start: bool,
}

impl Ask {
    /// The usual.
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

/// What is told while it goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// This would be done.
    Would(String),
    /// This is being done.
    Doing(String),
    /// A detail of what was done.
    Did(String),
    /// This could not be done, and the rest went on.
    Problem(String),
}

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SetupSummary {
    /// Steps that were done, or would be.
    pub steps: usize,
    /// Things that are not as they should be.
    pub problems: usize,
    /// Whether transcripts are deleted sooner than is good.
    pub short_retention: bool,
    /// The disk, under the name that stays.
    pub device: Option<PathBuf>,
    /// The program on the disk, which is to do the rest: it has to be run with the same arguments.
    pub handover: Option<PathBuf>,
}

/// Sets the machine up.
///
/// # Errors
/// Something is in the way, with what to do about it; or a step failed, and the next run goes on there.
pub fn run(ask: &Ask, tell: &mut dyn FnMut(Told)) -> Result<SetupSummary> {
    system_plan::ensure_root()?;
    let _lock = lock(&ask.place)?;
    let mut outcome = SetupSummary::default();
    let data_dir = ask.place.join(&ask.data_dir);
    if let Some(disk) = &ask.disk {
        let facts = disk_plan::gather_facts(ask, disk)?;
        let steps = disk_plan::plan(&facts, ask)?;
        let was_full = matches!(facts.inside, Some(Inside::Other(_)));
        perform(&steps, ask, None, &mut outcome, tell)?;
        // A journal that was replayed may have brought to light what a look could not see.
        if !was_full && !ask.beside && matches!(Inside::inspect(&data_dir)?, Inside::Other(_)) {
            return Err(anyhow!(
                "{} holds files that are not a data directory's",
                data_dir.display()
            ))
            .hint("to make the data directory beside them, and change none of them: --beside-other-files");
        }
        outcome.device = Some(facts.device.name.clone());
        if let Some(note) = disk_plan::partition_note(&facts.device) {
            tell(Told::Did(note));
        }
    }
    ensure_mounted(ask, &data_dir)?;
    outcome.handover = reexec::to(&data_dir)?;
    if outcome.handover.is_some() {
        return Ok(outcome);
    }
    let account = match system_plan::account(ask, Some(&data_dir))? {
        Verdict::There(account) => account,
        Verdict::Make(requested) => {
            perform(
                &[Step::Account(requested.clone())],
                ask,
                None,
                &mut outcome,
                tell,
            )?;
            account::find(&ask.place, &requested.name)?.context("the account is not there")?
        }
    };
    let facts = system_plan::gather_facts(ask, Some(&data_dir), &account)?;
    let (steps, problems) = system_plan::plan(&facts, ask)?;
    perform(&steps, ask, Some(&account), &mut outcome, tell)?;
    outcome.short_retention = !ask.retain && !claude::retention::is_enough(facts.report.retention);
    for problem in problems {
        outcome.problems += 1;
        tell(Told::Problem(problem));
    }
    Ok(outcome)
}

/// Tells what [`run`] would do, and does nothing.
///
/// # Errors
/// As [`run`], as far as it can be known.
pub fn rehearse(ask: &Ask, tell: &mut dyn FnMut(Told)) -> Result<SetupSummary> {
    system_plan::ensure_root()?;
    let mut outcome = SetupSummary::default();
    let data_dir = ask.place.join(&ask.data_dir);
    // A data directory that is not mounted is mounted for a look, and unmounted at the end.
    let mut peek = None;
    let mut tree = files::is_mount_point(&data_dir)
        .unwrap_or(false)
        .then(|| data_dir.clone());
    if let Some(disk) = &ask.disk {
        let facts = disk_plan::gather_facts(ask, disk)?;
        would(&disk_plan::plan(&facts, ask)?, &mut outcome, tell);
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
    let theirs = tree.as_deref().map(reexec::to).transpose()?.flatten();
    if theirs.is_some() && peek.is_none() {
        outcome.handover = theirs;
        return Ok(outcome);
    }
    let account = match system_plan::account(ask, tree.as_deref())? {
        Verdict::There(account) => account,
        Verdict::Make(requested) => {
            would(&[Step::Account(requested.clone())], &mut outcome, tell);
            system_plan::imagined(&requested)
        }
    };
    let mut facts = system_plan::gather_facts(ask, tree.as_deref(), &account)?;
    if theirs.is_some() {
        // What it would do is told by this one, as it is mounted for a look only.
        tell(Told::Would(
            "let the spotkeep that is on the disk do the rest".into(),
        ));
        facts.program = Some(true);
    }
    let (steps, problems) = system_plan::plan(&facts, ask)?;
    would(&steps, &mut outcome, tell);
    for problem in problems {
        outcome.problems += 1;
        tell(Told::Problem(problem));
    }
    drop(peek);
    Ok(outcome)
}

fn would(steps: &[Step], outcome: &mut SetupSummary, tell: &mut dyn FnMut(Told)) {
    outcome.steps += steps.len();
    for step in steps {
        tell(Told::Would(step.describe()));
    }
}

fn perform(
    steps: &[Step],
    ask: &Ask,
    account: Option<&Account>,
    outcome: &mut SetupSummary,
    tell: &mut dyn FnMut(Told),
) -> Result<()> {
    for step in steps {
        tell(Told::Doing(step.describe()));
        point(Point::SetupStep);
        match apply::apply(step, ask, account) {
            Ok(said) => {
                point(Point::SetupDone);
                outcome.steps += 1;
                for line in said {
                    tell(Told::Did(line));
                }
            }
            Err(error) if step.is_optional() => {
                outcome.problems += 1;
                let hint = sys::error::hint_of(&error).map(|hint| format!(" ({hint})"));
                tell(Told::Problem(format!(
                    "{error:#}{}",
                    hint.unwrap_or_default()
                )));
            }
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("could not {}", step.describe()))
                    .hint("when it is repaired, run the same again: it goes on from here");
            }
        }
    }
    Ok(())
}

/// Refuses to make a data directory on the boot disk, which a new machine would not have.
fn ensure_mounted(ask: &Ask, data_dir: &Path) -> Result<()> {
    if files::is_mount_point(data_dir).unwrap_or(false) {
        return Ok(());
    }
    let what = match ask.disk {
        None => "which disk shall hold the data directory?",
        Some(_) => "the disk is not mounted",
    };
    Err(anyhow!(
        "{what} Nothing is mounted at {}",
        data_dir.display()
    ))
    .hint("sudo spotkeep setup --disk NAME; a laptop needs no set-up: spotkeep --data-dir DIR init")
    .kind(ErrorKind::Usage)
}

/// One set-up at a time: a start-up script and a human may both begin one.
fn lock(place: &Prefix) -> Result<LockFile> {
    let run = place.join("/run");
    fs::create_dir_all(&run).with_context(|| format!("cannot create {}", run.display()))?;
    LockFile::try_take(&run.join("spotkeep-setup.lock"))?
        .context("another set-up is at work on this machine")
        .hint("wait for it: journalctl -fu google-startup-scripts, or look for it with ps")
}
