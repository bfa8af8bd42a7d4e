//! `spotkeep checkpoint`: creates, lists, compares and restores checkpoints.

mod diff;
mod ls;
mod rollback;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use super::daemon::names_or_all;
use super::drop_privileges::Access;
use super::output::{complain, print_line, table};
use checkpoint::{Checkpoint, CheckpointOutcome, CheckpointTarget};
use state::Trigger;
use state::config::Config;
use state::layout::DataDir;
use state::{AgentName, AgentRecord};
use sys::deadline::Deadline;
use sys::error::{Context as _, ErrorKind, Hint as _, Result, anyhow};
use sys::time::{Timestamp, parse_duration};

/// Time limit of a checkpoint that a user waits for.
const LIMIT: Duration = Duration::from_secs(600);

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
A checkpoint is a snapshot of uncommitted work: staged, unstaged and untracked files, without
files that git ignores. Checkpoints are made automatically: every minute while an agent works,
when it has finished, at a save, and before a rollback. ID is an ID that `ls` shows, the beginning
of one, `latest` (except those made for a rollback or a comparison), or an age like 10m (the newest
that is at least that old).

Examples:
  spotkeep checkpoint ls agent-1
  spotkeep checkpoint diff agent-1 10m
  spotkeep checkpoint rollback agent-1 10m --stop")]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Create checkpoints now.
    Now(NowArgs),
    /// List checkpoints, newest first.
    Ls(ls::Args),
    /// Show changes since a checkpoint, or between two.
    Diff(diff::Args),
    /// Restore a workspace to a checkpoint.
    Rollback(rollback::Args),
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  spotkeep checkpoint now\n  spotkeep checkpoint now agent-1 --json"
)]
struct NowArgs {
    /// The agents; all if none is named.
    names: Vec<AgentName>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Show what would be done; change nothing.
    #[arg(long)]
    dry_run: bool,
}

impl Args {
    /// Returns what the verb does on the data directory: `ls` and `diff` only read.
    pub(super) fn access(&self) -> Access {
        match &self.verb {
            Verb::Ls(_) | Verb::Diff(_) => Access::Reads,
            Verb::Now(_) | Verb::Rollback(_) => Access::Acts,
        }
    }
}

pub(super) fn run(data_dir: &DataDir, args: Args) -> Result<ExitCode> {
    match args.verb {
        Verb::Now(args) => now(data_dir, args),
        Verb::Ls(args) => ls::run(data_dir, args),
        Verb::Diff(args) => diff::run(data_dir, &args),
        Verb::Rollback(args) => rollback::run(data_dir, &args),
    }
}

fn now(data_dir: &DataDir, args: NowArgs) -> Result<ExitCode> {
    let names = names_or_all(data_dir, args.names)?;
    if args.dry_run {
        let names: Vec<&str> = names.iter().map(AgentName::as_str).collect();
        print_line(&format!("would make a checkpoint of {}", names.join(", ")));
        return Ok(ExitCode::SUCCESS);
    }
    let (mut rows, mut objects) = (Vec::new(), Vec::new());
    let mut failed = false;
    for name in &names {
        let kept = Subject::load(data_dir, name).and_then(|subject| {
            let deadline = Deadline::after(LIMIT);
            checkpoint::keep(data_dir, &subject.place, Trigger::Command, deadline)
        });
        if names.len() == 1 && kept.is_err() {
            kept?;
            continue;
        }
        let (id, what) = match kept {
            Ok(CheckpointOutcome::Taken(taken)) => {
                for left in &taken.left_out {
                    complain(&format!("warning: {name}: left out: {left}"));
                }
                (Some(taken.id), "made".to_owned())
            }
            Ok(CheckpointOutcome::Unchanged(Some(id))) => (Some(id), "unchanged".into()),
            Ok(CheckpointOutcome::Unchanged(None)) => (None, "no changes yet".into()),
            Ok(CheckpointOutcome::NotGit) => (None, "not a git repository".into()),
            Err(error) => {
                failed = true;
                (None, format!("failed: {error:#}"))
            }
        };
        objects.push(serde_json::json!({ "name": name, "id": id, "what": what }));
        rows.push([name.to_string(), id.unwrap_or_else(|| "-".into()), what]);
    }
    if args.json {
        super::output::json(&serde_json::json!({
            "version": state::VERSION, "agents": objects,
        }))?;
    } else {
        for line in table(["AGENT", "ID", ""], &rows) {
            print_line(&line);
        }
    }
    Ok(ExitCode::from(if failed {
        ErrorKind::Failed as u8
    } else {
        0
    }))
}

/// An agent and the place of its checkpoints.
struct Subject {
    record: AgentRecord,
    place: CheckpointTarget,
}

impl Subject {
    fn load(data_dir: &DataDir, name: &AgentName) -> Result<Self> {
        let (config, _) = Config::load_or_last_good(&data_dir.config(), &data_dir.config_copy())?;
        let record = data_dir
            .load_record(name)?
            .with_context(|| match config.agents.contains_key(name) {
                true => format!("no keeper has loaded {name} yet"),
                false => format!("there is no agent {name}"),
            })
            .hint(match config.agents.contains_key(name) {
                true => "spotkeep up",
                false => "spotkeep ls",
            })
            .kind(ErrorKind::Usage)?;
        let place = CheckpointTarget::from_record(data_dir, &config.checkpoint, &record);
        Ok(Self { record, place })
    }

    /// Returns the git repository with the objects of the checkpoints, also if the workspace is
    /// missing.
    fn repository(&self, data_dir: &DataDir) -> PathBuf {
        match checkpoint::workspace::common_dir(&self.place.workspace) {
            Some(_) => self.place.workspace.clone(),
            None => checkpoint::home(data_dir, &self.place.private)
                .unwrap_or_else(|| self.place.workspace.clone()),
        }
    }

    /// Returns all checkpoints of the agent, newest first, also if the workspace is missing.
    fn list(&self, data_dir: &DataDir) -> Result<Vec<Checkpoint>> {
        let workspace = &self.place.workspace;
        if checkpoint::workspace::common_dir(workspace).is_some() {
            return checkpoint::list(&self.place);
        }
        if let Some(repository) = checkpoint::home(data_dir, &self.place.private) {
            return checkpoint::list_at(&self.place, &repository, Deadline::after(LIMIT));
        }
        let failed: Result<_> = match workspace.is_dir() {
            true => Err(anyhow!(
                "{} is not a git repository, so it has no checkpoints",
                workspace.display()
            )),
            false => Err(anyhow!("the workspace {} is missing", workspace.display())),
        };
        failed.hint(format!("git -C {} init", workspace.display()))
    }

    /// Returns the requested checkpoint.
    fn find(&self, data_dir: &DataDir, requested: &str) -> Result<Checkpoint> {
        let all = self.list(data_dir)?;
        let name = &self.record.name;
        let found = choose(&all, requested, Timestamp::now()).cloned();
        found
            .map_err(|why| anyhow!("{name}: {why}"))
            .hint(format!("spotkeep checkpoint ls {name}"))
            .kind(ErrorKind::Usage)
    }
}

/// Finds a checkpoint by its id, the beginning of it, `latest` or an age. `all` are newest first.
fn choose<'a>(
    all: &'a [Checkpoint],
    requested: &str,
    now: Timestamp,
) -> Result<&'a Checkpoint, String> {
    let Some(newest) = all.first() else {
        return Err("there is no checkpoint yet".into());
    };
    if requested == "latest" {
        // Not one that a rollback or a comparison has made: that is the workspace as it is now.
        let own = all.iter().find(|one| one.trigger != Trigger::Before);
        return Ok(own.unwrap_or(newest));
    }
    let by_id: Vec<&Checkpoint> = all
        .iter()
        .filter(|one| one.id.starts_with(requested))
        .collect();
    match by_id[..] {
        [one] => return Ok(one),
        [] => {}
        [first, ..] => {
            let exact = by_id.iter().find(|one| one.id == requested);
            return exact.copied().ok_or_else(|| {
                format!(
                    "{} checkpoints begin with {requested}, for example {}",
                    by_id.len(),
                    first.id
                )
            });
        }
    }
    let Ok(age) = parse_duration(requested) else {
        return Err(format!("there is no checkpoint {requested}"));
    };
    let old = all.iter().find(|one| now.since(one.at) >= age);
    old.ok_or_else(|| {
        let oldest = all.last().unwrap_or(newest);
        format!(
            "no checkpoint is {requested} old; the oldest is {} old",
            sys::time::short(now.since(oldest.at))
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_is_found_by_its_id_the_beginning_of_it_latest_or_an_age() {
        let now = Timestamp::parse("2026-11-22T12:00:00Z").unwrap();
        let one = |id: &str, ago: i64| Checkpoint {
            id: id.into(),
            commit: String::new(),
            at: Timestamp::from_millis(now.as_millis() - ago * 60_000).unwrap(),
            trigger: Trigger::Time,
            left_out: Vec::new(),
            head: checkpoint::Head::default(),
            nested: Vec::new(),
        };
        let mut all = [one("c1", 0), one("b2", 1), one("b1", 12), one("a1", 60)];
        all[0].trigger = Trigger::Before;
        let id = |requested: &str| choose(&all, requested, now).map(|found| found.id.as_str());
        assert_eq!(
            id("latest"),
            Ok("b2"),
            "not the one that a dry run has made"
        );
        assert_eq!(choose(&all[..1], "latest", now).unwrap().id, "c1");
        assert_eq!(id("b1"), Ok("b1"));
        assert_eq!(id("a"), Ok("a1"));
        assert_eq!(id("10m"), Ok("b1"));
        assert_eq!(id("30m"), Ok("a1"));
        assert!(id("b").unwrap_err().contains("2 checkpoints"));
        assert!(id("2h").unwrap_err().contains("the oldest is 1h 0m old"));
        assert!(id("zzz").unwrap_err().contains("no checkpoint zzz"));
        assert!(choose(&[], "latest", now).is_err());
    }
}
