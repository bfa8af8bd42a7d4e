//! Workspace check before an agent's start: recreates a lost workspace and repairs its repository.

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

/// The timeout of checking one repository; after it the agent starts without the check.
const LIMIT: Duration = Duration::from_secs(120);

/// What the check found and did.
#[derive(Debug, Default)]
pub(super) struct Readied {
    /// The events for the journal, in their order.
    pub what: Vec<JournalEvent>,
    /// A sentence for the agent's note.
    pub note: Option<String>,
}

/// Checks a workspace. A lost one is recreated from its newest checkpoint or a backup. After a boot
/// that ended without *safe*, damage to the repository is repaired.
///
/// # Errors
/// The workspace is lost, and there is no checkpoint and no backup of it.
pub(super) fn ready(context: &LaunchContext<'_>, record: &AgentRecord) -> Result<Readied, Refused> {
    let place = CheckpointTarget::from_record(context.data_dir, &context.config.checkpoint, record);
    let deadline = Deadline::after(LIMIT);
    match fs::read_dir(&place.workspace) {
        Ok(mut entries) => {
            // If a checkpoint may exist, an empty directory has lost the agent's files.
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
            "cannot read its workspace {}: {error}",
            place.workspace.display()
        ))),
        Err(error) => {
            let why = format!("its workspace could not be read ({error}) and was moved away");
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
                "its workspace {} is missing, and no repository is left that has a checkpoint of \
                 it, {no_backup}",
                place.workspace.display()
            ))
        }),
    }
}

/// Recreates a workspace from its newest checkpoint; `None`: there is none.
fn from_checkpoint(
    context: &LaunchContext<'_>,
    place: &CheckpointTarget,
    why: &str,
    deadline: Deadline,
) -> Result<Option<Readied>> {
    // A workspace on another disk may just not be mounted, and a mount would hide what is put
    // there.
    if !place.workspace.starts_with(context.data_dir.dir()) {
        return Ok(None);
    }
    let brought = checkpoint::bring_back(context.data_dir, place, deadline).with_context(|| {
        let workspace = place.workspace.display();
        format!("its workspace {workspace} is missing, and cannot be recreated")
    })?;
    let Some((checkpoint, lacks)) = brought else {
        return Ok(None);
    };
    let note = format!(
        "Your{}, and was recreated from a checkpoint of {}: later changes, and files that git \
         ignores, are not there.",
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
        note: Some(note),
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
        Ok(Some(done)) => Ok(Readied {
            note: Some(format!(
                "Your{}; {done}: later changes are not there.",
                why.strip_prefix("its").unwrap_or(why),
            )),
            what: vec![JournalEvent::Repaired { what: done }],
        }),
        Ok(None) => Err("and no backup".to_owned()),
        Err(error) => Err(format!("and {}", recover::with_hint(&error))),
    }
}

/// Checks a repository before the first start of a boot, if the boot before ended without *safe*.
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

/// Repairs a repository. Damage that cannot be repaired is reported and does not stop the agent.
fn repair(context: &LaunchContext<'_>, place: &CheckpointTarget, deadline: Deadline) -> Readied {
    let mut what = Vec::new();
    let mut note = None;
    match checkpoint::repair(context.data_dir, place, deadline) {
        Ok(found) => {
            if !found.damaged.is_empty() {
                note = Some(format!(
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
            what: format!("cannot check its repository: {error:#}"),
        }),
    }
    point(Point::RestoreRepaired);
    // A checkpoint of the files as they are now writes every object that is not intact elsewhere.
    if let Err(error) = checkpoint::keep(context.data_dir, place, Trigger::Before, deadline) {
        what.push(JournalEvent::CheckpointFailed {
            why: format!("{error:#}"),
        });
    }
    Readied { what, note }
}

fn quarantine(workspace: &Path) -> Result<()> {
    let mut target = workspace.as_os_str().to_owned();
    target.push(".damaged");
    // A directory that was moved away before stays.
    if fs::symlink_metadata(&target).is_ok() {
        target.push(format!("-{}", Timestamp::now().digits()));
    }
    fs::rename(workspace, &target)
        .with_context(|| format!("cannot move {} away", workspace.display()))
}
