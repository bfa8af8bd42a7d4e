//! `spotkeep checkpoint rollback`: restores a workspace to a checkpoint.

use std::process::ExitCode;
use std::time::Duration;

use super::{LIMIT, Subject};
use crate::cli::daemon::{instead_of_keeper, named, status, wait};
use crate::cli::output::{complain, print_line};
use crate::keeper::client;
use crate::keeper::status::Status;
use checkpoint::{Checkpoint, CheckpointOutcome, Layer, WorkspaceLock};
use state::Trigger;
use state::layout::DataDir;
use state::{AgentName, AgentState, Desired, Fleet, Journal, JournalEvent};
use sys::deadline::Deadline;
use sys::error::{Context as _, ErrorKind, Hint as _, Result, anyhow, bail};
use sys::files::LockFile;

/// How long an agent may take to stop.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Restores the files of the workspace and what is staged; files that git ignores stay. HEAD and its
branch stay where they are, unless --with-head. A checkpoint is made before, so a rollback can be
undone.

Examples:
  spotkeep checkpoint rollback agent-1 --dry-run
  spotkeep checkpoint rollback agent-1 10m --stop")]
pub(super) struct Args {
    /// The agent's name.
    name: AgentName,
    /// The checkpoint to restore.
    #[arg(default_value = "latest")]
    id: String,
    /// Move HEAD and its branch back too. Later commits stay in the reflog, and in the checkpoint
    /// made before.
    #[arg(long)]
    with_head: bool,
    /// Stop a running agent, and start it afterwards.
    #[arg(long)]
    stop: bool,
    /// Show what would be done; change no files.
    #[arg(long)]
    dry_run: bool,
}

/// The steps around a rollback: whether to restart the agent, and who keeps it stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct RollbackPlan {
    /// The agent runs: it is stopped before and started after the rollback.
    restarts: bool,
    /// The process that keeps the agent stopped meanwhile, and writes the journal.
    by: By,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    /// The running keeper, on request.
    Keeper,
    /// This process, which holds the keeper's lock.
    This,
}

impl RollbackPlan {
    /// Decides the steps. `runs`: the agent runs, or may start at any moment.
    fn decide(data_dir: &DataDir, args: &Args, id: &str, runs: bool, by: By) -> Result<Self> {
        let name = &args.name;
        match (runs, args.stop, by) {
            (true, false, _) => Err(anyhow!(
                "{name} is running and could change files during the rollback"
            ))
            .hint(format!("spotkeep checkpoint rollback {name} {id} --stop"))
            .kind(ErrorKind::NotAsDeclared),
            (true, true, By::This) => Err(anyhow!("cannot stop {name}: no keeper runs")).hint(
                format!("spotkeep --data-dir {} up", data_dir.dir().display()),
            ),
            (restarts, ..) => Ok(Self { restarts, by }),
        }
    }
}

pub(super) fn run(data_dir: &DataDir, args: &Args) -> Result<ExitCode> {
    let subject = Subject::load(data_dir, &args.name)?;
    let to = subject.find(data_dir, &args.id)?;
    let now = status(data_dir)?;
    let runs = may_run(&now, &args.name)?;
    if args.dry_run {
        return show(data_dir, &subject, &to, args, runs);
    }
    let by = match now.keeper.runs() {
        true => By::Keeper,
        false => By::This,
    };
    let plan = RollbackPlan::decide(data_dir, args, &to.id, runs, by)?;
    let undo = carry_out(data_dir, &subject, &to, args, plan)?;
    report(args, &to, undo.as_deref(), plan.restarts);
    Ok(ExitCode::SUCCESS)
}

/// Carries out the plan. Checks again what may have changed since: whether the agent has stopped,
/// and every file that the checkpoint would overwrite. Returns the id of the checkpoint made
/// before.
fn carry_out(
    data_dir: &DataDir,
    subject: &Subject,
    to: &Checkpoint,
    args: &Args,
    plan: RollbackPlan,
) -> Result<Option<String>> {
    let name = &args.name;
    // No keeper may start the agent meanwhile: a running one is asked not to, otherwise its lock is
    // taken.
    let lock = match plan.by {
        By::Keeper => None,
        By::This => Some(instead_of_keeper(data_dir)?),
    };
    if plan.restarts {
        stop(data_dir, name)?;
    }
    let undo = checkpoint_and_roll_back(data_dir, subject, to, args.with_head);
    if plan.restarts {
        // The agent ran before, so it is started again even if the rollback has failed.
        client::want(data_dir, std::slice::from_ref(name), Desired::Running)?;
    }
    let undo = undo?;
    notify_keeper(data_dir, name, to, undo.as_deref(), lock)?;
    Ok(undo)
}

fn report(args: &Args, to: &Checkpoint, undo: Option<&str>, restarts: bool) {
    let name = &args.name;
    print_line(&format!(
        "restored the workspace of {name} as of {} (checkpoint {})",
        to.at.for_people(),
        to.id
    ));
    match undo {
        Some(undo) => print_line(&format!(
            "to undo this: spotkeep checkpoint rollback {name} {undo}{}",
            if args.with_head { " --with-head" } else { "" }
        )),
        None => print_line("there were no changes before the rollback"),
    }
    if restarts {
        print_line(&format!("{name} is started again: spotkeep attach {name}"));
    }
}

/// Makes a checkpoint, then rolls back. Returns the id of that checkpoint.
fn checkpoint_and_roll_back(
    data_dir: &DataDir,
    subject: &Subject,
    to: &Checkpoint,
    with_head: bool,
) -> Result<Option<String>> {
    let deadline = Deadline::after(LIMIT);
    let lock = WorkspaceLock::wait(&subject.place, deadline)?;
    let before = checkpoint::keep_in(&lock, data_dir, &subject.place, Trigger::Before, deadline)
        .context("nothing was changed: no checkpoint could be made before")?;
    let undo = match before {
        CheckpointOutcome::Taken(taken) => Some(taken.id),
        CheckpointOutcome::Unchanged(id) => id,
        CheckpointOutcome::NotGit => {
            bail!(
                "{} is not a git repository",
                subject.place.workspace.display()
            )
        }
    };
    for lacks in checkpoint::rollback(&subject.place, &to.id, with_head)? {
        complain(&format!("warning: {lacks}"));
    }
    Ok(undo)
}

/// Returns whether the agent runs, or a keeper may start it at any moment.
fn may_run(now: &Status, name: &AgentName) -> Result<bool> {
    let found = named(now, std::slice::from_ref(name));
    // An agent that was removed from spotkeep.toml still has its checkpoints.
    let Ok(Some(agent)) = found.map(|agents| agents.first().copied()) else {
        return Ok(false);
    };
    let is_kept = now.keeper.runs() && now.fleet == Fleet::Up && now.notice.is_none();
    let stands_still = matches!(agent.state, AgentState::Stopped | AgentState::Failed);
    Ok(agent.pid.is_some() || (is_kept && !stands_still))
}

fn stop(data_dir: &DataDir, name: &AgentName) -> Result<()> {
    client::want(data_dir, std::slice::from_ref(name), Desired::Stopped)?
        .context("the keeper has just ended")?;
    let after = wait(data_dir, STOP_LIMIT, |now| {
        now.agents
            .iter()
            .all(|agent| agent.name != *name || agent.pid.is_none())
    })?;
    match may_run(&after, name)? {
        true => Err(anyhow!("{name} has not stopped")).hint(format!("spotkeep stop {name}")),
        false => Ok(()),
    }
}

/// Records the rollback in the journal: through the keeper, or directly with its lock.
fn notify_keeper(
    data_dir: &DataDir,
    name: &AgentName,
    to: &Checkpoint,
    undo: Option<&str>,
    lock: Option<LockFile>,
) -> Result<()> {
    let (to, undo) = (to.id.clone(), undo.map(str::to_owned));
    if lock.is_none() {
        client::rolled_back(data_dir, name, to, undo)?;
        return Ok(());
    }
    let identity = data_dir.identity()?;
    let boot_id = sys::process::current_boot_id()?;
    let mut journal = Journal::open(
        &data_dir.journal(),
        &identity.data_dir_id,
        identity.epoch,
        &boot_id,
    )?;
    // The rollback is done, so a failure to record it is only a warning.
    if let Err(error) = journal.write(Some(name), &JournalEvent::RolledBack { to, undo }) {
        complain(&format!("warning: {error:#}"));
    }
    Ok(())
}

fn show(
    data_dir: &DataDir,
    subject: &Subject,
    to: &Checkpoint,
    args: &Args,
    runs: bool,
) -> Result<ExitCode> {
    let deadline = Deadline::after(LIMIT);
    let name = &args.name;
    if runs {
        print_line(&match args.stop {
            true => format!("would stop {name}, and start it afterwards"),
            false => format!("{name} is running: add --stop"),
        });
    }
    print_line(&format!(
        "would restore {} as of {} (checkpoint {})",
        subject.place.workspace.display(),
        to.at.for_people(),
        to.id
    ));
    let now = match checkpoint::keep(data_dir, &subject.place, Trigger::Before, deadline)? {
        CheckpointOutcome::Taken(taken) => Some(taken.commit),
        CheckpointOutcome::Unchanged(Some(_)) => subject
            .list(data_dir)?
            .into_iter()
            .next()
            .map(|one| one.commit),
        CheckpointOutcome::Unchanged(None) | CheckpointOutcome::NotGit => None,
    };
    for words in checkpoint::plan(&subject.place, &to.id, args.with_head)? {
        print_line(&words);
    }
    if let Some(now) = now {
        let repository = subject.repository(data_dir);
        let changes = checkpoint::difference(
            &repository,
            &now,
            &to.commit,
            Layer::Worktree,
            true,
            false,
            deadline,
        )?;
        print_line(if changes.is_empty() {
            "no file would change"
        } else {
            changes.trim_end()
        });
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sys::error::{hint_of, kind_of};

    #[test]
    fn a_running_agent_is_stopped_only_on_request_and_only_by_a_keeper() {
        let dir = tempfile::tempdir().unwrap();
        let (data_dir, _) = DataDir::init(dir.path()).unwrap();
        let decide = |runs, stop, by| {
            let args = Args {
                name: AgentName::new("a").unwrap(),
                id: "latest".into(),
                with_head: false,
                stop,
                dry_run: false,
            };
            RollbackPlan::decide(&data_dir, &args, "1", runs, by)
        };
        for by in [By::Keeper, By::This] {
            for stop in [true, false] {
                let restarts = false;
                assert_eq!(
                    decide(false, stop, by).unwrap(),
                    RollbackPlan { restarts, by }
                );
            }
            let error = decide(true, false, by).unwrap_err();
            assert_eq!(kind_of(&error), ErrorKind::NotAsDeclared);
            let hint = hint_of(&error);
            assert_eq!(hint, Some("spotkeep checkpoint rollback a 1 --stop"));
        }
        let plan = decide(true, true, By::Keeper).unwrap();
        assert!(plan.restarts && plan.by == By::Keeper);
        let error = decide(true, true, By::This).unwrap_err();
        assert!(error.to_string().contains("no keeper runs"));
    }
}
