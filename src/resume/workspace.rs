//! A workspace that is fit to be worked in, before its agent starts.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use super::launch::LaunchContext;
use super::launch_plan::Refused;
use super::recover::{self, Loss};
use checkpoint::CheckpointTarget;
use state::Trigger;
use state::{AgentRecord, JournalEvent};
use sys::deadline::Deadline;
use sys::error::{Context as _, Result, anyhow};
use sys::failpoint::{Point, point};
use sys::time::Timestamp;

/// How long looking over one repository may take; an agent that waits longer starts without.
const LIMIT: Duration = Duration::from_secs(120);

/// What was found and done, for the journal, and for the agent where it has to know.
#[derive(Debug, Default)]
pub(super) struct Readied {
    /// In the order in which it happened.
    pub what: Vec<JournalEvent>,
    /// A sentence for the agent's note.
    pub told: Option<String>,
}

/// Looks a workspace over: one that is gone is made anew from its newest checkpoint, and after a boot
/// that ended without *safe*, what the cut left torn is repaired.
///
/// # Errors
/// It is gone, and there is nothing to make it from.
pub(super) fn ready(context: &LaunchContext<'_>, record: &AgentRecord) -> Result<Readied, Refused> {
    let place = CheckpointTarget::from_record(context.data_dir, &context.config.checkpoint, record);
    let deadline = Deadline::after(LIMIT);
    match fs::read_dir(&place.workspace) {
        Ok(mut entries) => {
            // With a checkpoint that has something in it, an empty directory is none of an agent's at work.
            let is_emptied = entries.next().is_none()
                && recover::may_have_checkpoint(context.data_dir, context.config, record);
            let rebuilt = match is_emptied {
                true => from_checkpoint(context, &place, "its workspace was empty", deadline)?,
                false => None,
            };
            Ok(rebuilt.unwrap_or_else(|| after_cut(context, record, &place, deadline)))
        }
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            // A file in its place, or a link that leads nowhere.
            if fs::symlink_metadata(&place.workspace).is_ok() {
                quarantine(&place.workspace)?;
            }
            bring_back(context, &place, "its workspace was gone", deadline)
        }
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Err(Refused::Unfit(anyhow!(
            "its workspace {} may not be read: {error}",
            place.workspace.display()
        ))),
        Err(error) => {
            let why = format!("its workspace could not be read ({error}) and was moved aside");
            quarantine(&place.workspace)?;
            bring_back(context, &place, &why, deadline)
        }
    }
}

fn bring_back(
    context: &LaunchContext<'_>,
    place: &CheckpointTarget,
    why: &str,
    deadline: Deadline,
) -> Result<Readied, Refused> {
    match from_checkpoint(context, place, why, deadline)? {
        Some(readied) => Ok(readied),
        None => from_backup(context, place, why).map_err(|no_backup| {
            Refused::Unfit(anyhow!(
                "its workspace {} is missing, and no repository is left that has a checkpoint of it, {no_backup}",
                place.workspace.display()
            ))
        }),
    }
}

/// Makes a workspace anew from its newest checkpoint; `None`: there is none.
fn from_checkpoint(
    context: &LaunchContext<'_>,
    place: &CheckpointTarget,
    why: &str,
    deadline: Deadline,
) -> Result<Option<Readied>> {
    // One on a disk of its own may just not be mounted: what were put there would be hidden by it.
    if !place.workspace.starts_with(context.data_dir.dir()) {
        return Ok(None);
    }
    let brought = checkpoint::bring_back(context.data_dir, place, deadline).with_context(|| {
        let workspace = place.workspace.display();
        format!("its workspace {workspace} is missing, and cannot be made anew")
    })?;
    let Some((checkpoint, lacks)) = brought else {
        return Ok(None);
    };
    let told = format!(
        "{}{}, and was made anew from a checkpoint of {}: what was changed after that, and files that git ignores, are not there.",
        "Your",
        why.strip_prefix("its").unwrap_or(why),
        checkpoint.at.for_people()
    );
    let rebuilt = JournalEvent::Rebuilt {
        from: checkpoint.id,
        why: why.to_owned(),
    };
    let lacks = lacks.into_iter().map(|what| JournalEvent::Damaged { what });
    Ok(Some(Readied {
        what: std::iter::once(rebuilt).chain(lacks).collect(),
        told: Some(told),
    }))
}

/// Brings a workspace back from a backup; the error says why there is none.
fn from_backup(
    context: &LaunchContext<'_>,
    place: &CheckpointTarget,
    why: &str,
) -> Result<Readied, String> {
    let loss = Loss::Workspace(context.data_dir.relative(&place.workspace));
    match recover::from_backups(context.data_dir, context.boot_id, &loss) {
        Ok(Some(words)) => Ok(Readied {
            told: Some(format!(
                "Your{}; {words}: what was changed after that is not there.",
                why.strip_prefix("its").unwrap_or(why),
            )),
            what: vec![JournalEvent::Repaired { what: words }],
        }),
        Ok(None) => Err("and no backup".to_owned()),
        Err(error) => Err(format!("and {}", recover::with_hint(&error))),
    }
}

/// After a boot that ended without *safe*, a repository is looked over before the first start of the next one.
fn after_cut(
    context: &LaunchContext<'_>,
    record: &AgentRecord,
    place: &CheckpointTarget,
    deadline: Deadline,
) -> Readied {
    let is_first_of_boot = record.boot_id.as_deref() != Some(context.boot_id);
    let is_unclean = context.history.had_boot && !context.history.safe;
    match is_unclean && is_first_of_boot {
        true => repair(context, place, deadline),
        false => Readied::default(),
    }
}

/// No damage in a repository keeps an agent from its session: what cannot be repaired is said.
fn repair(context: &LaunchContext<'_>, place: &CheckpointTarget, deadline: Deadline) -> Readied {
    let mut what = Vec::new();
    let mut told = None;
    match checkpoint::repair(context.data_dir, place, deadline) {
        Ok(found) => {
            if !found.damaged.is_empty() {
                told = Some(format!(
                    "Your git repository was damaged: {}.",
                    found.damaged.join("; ")
                ));
            }
            let repaired = found
                .repaired
                .into_iter()
                .map(|what| JournalEvent::Repaired { what });
            let damaged = found
                .damaged
                .into_iter()
                .map(|what| JournalEvent::Damaged { what });
            what.extend(repaired.chain(damaged));
        }
        Err(error) => what.push(JournalEvent::Damaged {
            what: format!("its repository could not be looked over: {error:#}"),
        }),
    }
    point(Point::RestoreRepaired);
    // From what is on the disk now, in which every object is written that is not whole elsewhere.
    if let Err(error) = checkpoint::keep(context.data_dir, place, Trigger::Before, deadline) {
        what.push(JournalEvent::CheckpointFailed {
            why: format!("{error:#}"),
        });
    }
    Readied { what, told }
}

fn quarantine(workspace: &Path) -> Result<()> {
    let mut aside = workspace.as_os_str().to_owned();
    aside.push(".damaged");
    // What was moved away before stays.
    if fs::symlink_metadata(&aside).is_ok() {
        aside.push(format!("-{}", Timestamp::now().digits()));
    }
    fs::rename(workspace, &aside)
        .with_context(|| format!("cannot move {} away", workspace.display()))
}
