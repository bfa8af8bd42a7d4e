//! A workspace that is fit to be worked in, before its agent starts.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use super::launch::{Ground, Refused};
use super::recover::{self, Loss};
use checkpoint::Place;
use state::Trigger;
use state::{AgentRecord, What};
use sys::deadline::Deadline;
use sys::error::{Context as _, Hint as _, Result, anyhow, hint_of};
use sys::failpoint::{Point, point};
use sys::time::Timestamp;

/// How long looking over one repository may take; an agent that waits longer starts without.
const LIMIT: Duration = Duration::from_secs(120);

/// What was found and done, for the journal, and for the agent where it has to know.
#[derive(Debug, Default)]
pub(super) struct Readied {
    /// In the order in which it happened.
    pub what: Vec<What>,
    /// A sentence for the agent's note.
    pub told: Option<String>,
}

/// Looks a workspace over: one that is gone is made anew from its newest checkpoint, and after a life
/// that ended without *safe*, what the cut left torn is mended.
///
/// # Errors
/// It is gone, and there is nothing to make it from.
pub(super) fn ready(ground: &Ground<'_>, record: &AgentRecord) -> Result<Readied, Refused> {
    let place = Place::of(ground.root, &ground.config.checkpoint, record);
    let deadline = Deadline::after(LIMIT);
    match fs::read_dir(&place.workspace) {
        Ok(mut entries) => {
            // With a checkpoint that has something in it, an empty directory is none of an agent's at work.
            if entries.next().is_none()
                && recover::may_have_checkpoint(ground.root, ground.config, record)
                && let Some(readied) =
                    from_checkpoint(ground, &place, "its workspace was empty", deadline)?
            {
                return Ok(readied);
            }
        }
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            // A file in its place, or a link that leads nowhere.
            if fs::symlink_metadata(&place.workspace).is_ok() {
                move_aside(&place.workspace)?;
            }
            return bring_back(ground, &place, "its workspace was gone", deadline);
        }
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            return Err(Refused::never(format!(
                "its workspace {} may not be read: {error}",
                place.workspace.display()
            )));
        }
        Err(error) => {
            let why = format!("its workspace could not be read ({error}) and was moved aside");
            move_aside(&place.workspace)?;
            return bring_back(ground, &place, &why, deadline);
        }
    }
    let is_first_of_life = record.life.as_deref() != Some(ground.life);
    let unclean = ground.history.had_life && !ground.history.safe;
    if !unclean || !is_first_of_life {
        return Ok(Readied::default());
    }
    Ok(mend(ground, &place, deadline))
}

fn bring_back(
    ground: &Ground<'_>,
    place: &Place,
    why: &str,
    deadline: Deadline,
) -> Result<Readied, Refused> {
    let missing = || format!("its workspace {} is missing", place.workspace.display());
    let Some(readied) = from_checkpoint(ground, place, why, deadline)? else {
        let no_backup = match recover::from_backups(ground.root, ground.life, &loss(ground, place))
        {
            Ok(Some(words)) => return Ok(from_backup(why, words)),
            Ok(None) => "and no backup".to_owned(),
            Err(error) => match hint_of(&error) {
                Some(hint) => format!("and {error:#} ({hint})"),
                None => format!("and {error:#}"),
            },
        };
        let error: Result<()> = Err(anyhow!(
            "{}, and no repository is left that has a checkpoint of it, {no_backup}",
            missing()
        ));
        let error = error.hint("clone it again");
        return Err(Refused {
            why: error.err().unwrap_or_else(|| anyhow!(missing())),
            retry: false,
        });
    };
    Ok(readied)
}

/// Makes a workspace anew from its newest checkpoint; `None`: there is none.
fn from_checkpoint(
    ground: &Ground<'_>,
    place: &Place,
    why: &str,
    deadline: Deadline,
) -> Result<Option<Readied>> {
    // One on a disk of its own may just not be mounted: what were put there would be hidden by it.
    if !place.workspace.starts_with(ground.root.dir()) {
        return Ok(None);
    }
    let brought = checkpoint::bring_back(ground.root, place, deadline).with_context(|| {
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
    let rebuilt = What::Rebuilt {
        from: checkpoint.id,
        why: why.to_owned(),
    };
    let lacks = lacks.into_iter().map(|what| What::Damaged { what });
    Ok(Some(Readied {
        what: std::iter::once(rebuilt).chain(lacks).collect(),
        told: Some(told),
    }))
}

fn loss(ground: &Ground<'_>, place: &Place) -> Loss {
    Loss::Workspace(ground.root.relative(&place.workspace))
}

fn from_backup(why: &str, words: String) -> Readied {
    let told = format!(
        "Your{}; {words}: what was changed after that is not there.",
        why.strip_prefix("its").unwrap_or(why),
    );
    Readied {
        what: vec![What::Repaired { what: words }],
        told: Some(told),
    }
}

/// No damage in a repository keeps an agent from its session: what cannot be mended is said.
fn mend(ground: &Ground<'_>, place: &Place, deadline: Deadline) -> Readied {
    let mut what = Vec::new();
    let mut told = None;
    match checkpoint::repair(ground.root, place, deadline) {
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
                .map(|what| What::Repaired { what });
            let damaged = found.damaged.into_iter().map(|what| What::Damaged { what });
            what.extend(repaired.chain(damaged));
        }
        Err(error) => what.push(What::Damaged {
            what: format!("its repository could not be looked over: {error:#}"),
        }),
    }
    point(Point::RestoreRepaired);
    // From what is on the disk now, in which every object is written that is not whole elsewhere.
    if let Err(error) = checkpoint::keep(ground.root, place, Trigger::Before, deadline) {
        what.push(What::CheckpointFailed {
            why: format!("{error:#}"),
        });
    }
    Readied { what, told }
}

fn move_aside(workspace: &Path) -> Result<()> {
    let mut aside = workspace.as_os_str().to_owned();
    aside.push(".damaged");
    // What was moved away before stays.
    if fs::symlink_metadata(&aside).is_ok() {
        aside.push(format!("-{}", Timestamp::now().digits()));
    }
    fs::rename(workspace, &aside)
        .with_context(|| format!("cannot move {} away", workspace.display()))
}
