//! `spotkeep checkpoint rollback`

use std::process::ExitCode;
use std::time::Duration;

use super::{LIMIT, Subject};
use crate::cli::daemon::{instead_of_keeper, named, status, wait};
use crate::cli::output::{complain, say};
use crate::keeper::client::{PATIENCE, ask};
use crate::keeper::protocol::Request;
use crate::keeper::status::Status;
use checkpoint::{Checkpoint, Layer, Outcome, Turn};
use state::Trigger;
use state::layout::Root;
use state::{AgentName, AgentState, Fleet, Journal, Wanted, What};
use sys::deadline::Deadline;
use sys::error::{Context as _, Hint as _, Kind, Result, anyhow, bail};
use sys::files::LockFile;

/// How long an agent may take to end.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The worktree and what is staged become what they were; files that git ignores stay. HEAD and its branch
stay where they are, unless --with-head. A checkpoint is made before, so a rollback can be rolled back.

Examples:
  spotkeep checkpoint rollback agent-1 --dry-run
  spotkeep checkpoint rollback agent-1 10m --stop"
)]
pub(super) struct Args {
    /// Which agent.
    name: AgentName,
    /// To this checkpoint.
    #[arg(default_value = "latest")]
    id: String,
    /// HEAD and its branch go back too. Later commits are then in the checkpoint made before, and in the reflog.
    #[arg(long)]
    with_head: bool,
    /// If the agent runs, stop it, and start it again after that.
    #[arg(long)]
    stop: bool,
    /// Say what would be done, and do nothing to the workspace.
    #[arg(long)]
    dry_run: bool,
}

pub(super) fn run(root: &Root, args: &Args) -> Result<ExitCode> {
    let name = &args.name;
    let subject = Subject::of(root, name)?;
    let to = subject.find(root, &args.id)?;
    let now = status(root)?;
    let runs = may_run(&now, name)?;
    if args.dry_run {
        return show(root, &subject, &to, args, runs);
    }
    if runs && !args.stop {
        return Err(anyhow!("{name} runs, and would work on under your hands"))
            .hint(format!(
                "spotkeep checkpoint rollback {name} {} --stop",
                to.id
            ))
            .kind(Kind::NotAsDeclared);
    }
    // No keeper may start it in the midst of this: one that runs is asked, otherwise its place is taken.
    let lock = match now.keeper == "running" {
        true => None,
        false => Some(instead_of_keeper(root)?),
    };
    if runs {
        stop(root, name, lock.is_some())?;
    }
    let undo = undoable(root, &subject, &to, args.with_head);
    if runs {
        // It was wanted before, whatever became of the rollback.
        let request = Request::Want {
            names: vec![name.clone()],
            wanted: Wanted::Running,
        };
        ask(root, &request, PATIENCE)?;
    }
    let undo = undo?;
    tell(root, name, &to, undo.as_deref(), lock)?;
    say(&format!(
        "{name} is what it was at {} (checkpoint {})",
        to.at.for_people(),
        to.id
    ));
    match undo {
        Some(undo) => say(&format!(
            "to undo this: spotkeep checkpoint rollback {name} {undo}{}",
            if args.with_head { " --with-head" } else { "" }
        )),
        None => say("before, there was nothing to keep"),
    }
    if runs {
        say(&format!("{name} goes on: spotkeep attach {name}"));
    }
    Ok(ExitCode::SUCCESS)
}

/// Takes a checkpoint, then rolls back; the id of the former.
fn undoable(
    root: &Root,
    subject: &Subject,
    to: &Checkpoint,
    with_head: bool,
) -> Result<Option<String>> {
    let deadline = Deadline::after(LIMIT);
    let turn = Turn::wait(&subject.place, deadline)?;
    let before = checkpoint::keep_in(&turn, root, &subject.place, Trigger::Before, deadline)
        .context("nothing was changed: no checkpoint could be made before")?;
    let undo = match before {
        Outcome::Taken(taken) => Some(taken.id),
        Outcome::Unchanged(id) => id,
        Outcome::NotGit => bail!("{} is no git workspace", subject.place.workspace.display()),
    };
    for lacks in checkpoint::rollback(&subject.place, &to.id, with_head)? {
        complain(&format!("warning: {lacks}"));
    }
    Ok(undo)
}

/// Whether the agent runs, or a keeper might start it at any moment.
fn may_run(now: &Status, name: &AgentName) -> Result<bool> {
    let found = named(now, std::slice::from_ref(name));
    // One that was removed from the file has its checkpoints still.
    let Ok(Some(agent)) = found.map(|agents| agents.first().copied()) else {
        return Ok(false);
    };
    let is_kept = now.keeper == "running" && now.fleet == Fleet::Up && now.notice.is_none();
    let stands_still = matches!(agent.state, AgentState::Stopped | AgentState::Failed);
    Ok(agent.pid.is_some() || (is_kept && !stands_still))
}

fn stop(root: &Root, name: &AgentName, no_keeper: bool) -> Result<()> {
    if no_keeper {
        return Err(anyhow!("{name} runs, and no keeper is there to end it"))
            .hint(format!("spotkeep --root {} up", root.dir().display()));
    }
    let request = Request::Want {
        names: vec![name.clone()],
        wanted: Wanted::Stopped,
    };
    ask(root, &request, PATIENCE)?.context("the keeper has just ended")?;
    let after = wait(root, STOP_LIMIT, |now| {
        now.agents
            .iter()
            .all(|agent| agent.name != *name || agent.pid.is_none())
    })?;
    if may_run(&after, name)? {
        return Err(anyhow!("{name} does not end")).hint(format!("spotkeep stop {name}"));
    }
    Ok(())
}

/// Into the journal: by the keeper, or in its place.
fn tell(
    root: &Root,
    name: &AgentName,
    to: &Checkpoint,
    undo: Option<&str>,
    lock: Option<LockFile>,
) -> Result<()> {
    let (to, undo) = (to.id.clone(), undo.map(str::to_owned));
    if lock.is_none() {
        let request = Request::RolledBack {
            name: name.clone(),
            to,
            undo,
        };
        ask(root, &request, PATIENCE)?;
        return Ok(());
    }
    let identity = root.identity()?;
    let life = sys::process::current_life()?;
    let mut journal = Journal::open(&root.journal(), &identity.root_id, identity.epoch, &life)?;
    // It is done; that it cannot be written down does not undo it.
    if let Err(error) = journal.write(Some(name), &What::RolledBack { to, undo }) {
        complain(&format!("warning: {error:#}"));
    }
    Ok(())
}

fn show(
    root: &Root,
    subject: &Subject,
    to: &Checkpoint,
    args: &Args,
    runs: bool,
) -> Result<ExitCode> {
    let deadline = Deadline::after(LIMIT);
    let name = &args.name;
    if runs {
        say(&match args.stop {
            true => format!("would stop {name}, and start it again after that"),
            false => format!("{name} runs: this needs --stop"),
        });
    }
    say(&format!(
        "would make {} what it was at {} (checkpoint {})",
        subject.place.workspace.display(),
        to.at.for_people(),
        to.id
    ));
    let now = match checkpoint::keep(root, &subject.place, Trigger::Command, deadline)? {
        Outcome::Taken(taken) => Some(taken.commit),
        Outcome::Unchanged(Some(_)) => subject.list(root)?.into_iter().next().map(|one| one.commit),
        Outcome::Unchanged(None) | Outcome::NotGit => None,
    };
    for words in checkpoint::plan(&subject.place, &to.id, args.with_head)? {
        say(&words);
    }
    if let Some(now) = now {
        let repository = subject.repository(root);
        let changes = checkpoint::difference(
            &repository,
            &now,
            &to.commit,
            Layer::Worktree,
            true,
            false,
            deadline,
        )?;
        say(if changes.is_empty() {
            "no file would change"
        } else {
            changes.trim_end()
        });
    }
    Ok(ExitCode::SUCCESS)
}
