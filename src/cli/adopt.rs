//! `spotkeep adopt`: imports existing sessions.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};

use super::daemon::instead_of_keeper;
use super::output::{bytes, complain, counted, json as print_json, print_line, shorten, table};
use crate::adopt::{
    Choice, Decision, Entry, ImportResult, Occupied, Request as TakeRequest, SessionScan,
    WorkspaceTransfer, import_session, plan, scan, where_it_runs,
};
use crate::keeper::client;
use crate::storage::merge_tree;
use claude::transcript::tail;
use state::config::Config;
use state::layout::DataDir;
use state::{AgentName, Desired, VERSION};
use sys::error::{ErrorKind, Hint as _, Result, anyhow, hint_of};
use sys::time::{Timestamp, parse_duration};

/// The longest reason in a table, in characters.
const PLAN_MAX: usize = 90;

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Without --yes it shows what it has found and what it would do, and changes nothing.

Examples:
  spotkeep adopt                                 # show recent sessions, and all that run
  spotkeep adopt --yes --move issue-123          # import one, move its workspace
  spotkeep adopt --yes --end 0b6c1f7e            # end its Claude process, and import it
  spotkeep adopt --yes --stopped --all           # import all; start none of them")]
pub(super) struct Args {
    /// Sessions to import. IDs, their first eight digits, or names; by default the newest session
    /// of each workspace that was used in the last week.
    #[arg(value_name = "SESSION")]
    sessions: Vec<String>,
    /// Import the sessions.
    #[arg(long, conflicts_with = "dry_run")]
    yes: bool,
    /// Show what would be done (the default).
    #[arg(long)]
    dry_run: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Import sessions of any age.
    #[arg(long, conflicts_with = "since")]
    all: bool,
    /// Import sessions that were used this recently.
    #[arg(long, value_name = "TIME", default_value = "168h", value_parser = parse_duration)]
    since: Duration,
    /// Move outside workspaces into the data directory.
    #[arg(long = "move", conflicts_with = "copy")]
    moves: bool,
    /// Copy outside workspaces into the data directory.
    #[arg(long)]
    copy: bool,
    /// End Claude processes that have a session open. An interrupted turn goes on when the agent
    /// starts.
    #[arg(long)]
    end: bool,
    /// Do not start the agents before `spotkeep start`.
    #[arg(long)]
    stopped: bool,
    /// Use this agent name (for one session).
    #[arg(long, value_name = "NAME")]
    name: Option<AgentName>,
    /// Search this Claude configuration directory too.
    #[arg(long = "from", value_name = "DIR")]
    more: Vec<PathBuf>,
}

pub(super) fn run(data_dir: &DataDir, args: Args) -> Result<ExitCode> {
    let config = Config::load(&data_dir.config())?;
    let more: Vec<PathBuf> = args
        .more
        .iter()
        .map(|dir| fs::canonicalize(dir).map_err(|error| anyhow!("{}: {error}", dir.display())))
        .collect::<Result<_>>()
        .kind(ErrorKind::Usage)?;
    let choice = Choice {
        sessions: args.sessions,
        all: args.all,
        recent: args.since,
        outside: match (args.moves, args.copy) {
            (true, _) => WorkspaceTransfer::Move,
            (_, true) => WorkspaceTransfer::Copy,
            _ => WorkspaceTransfer::Stay,
        },
        end: args.end,
        name: args.name,
    };
    let request = TakeRequest {
        desired: if args.stopped {
            Desired::Stopped
        } else {
            Desired::Running
        },
        end: args.end,
    };
    // No keeper may start during the import.
    let keeper = client::status(data_dir, client::TIMEOUT)?.is_some();
    let _lock = match args.yes && !keeper {
        true => Some(instead_of_keeper(data_dir)?),
        false => None,
    };
    let SessionScan { found, notes } = scan(data_dir, &config, &more)?;
    let entries = plan(
        &found,
        &occupied(data_dir, &config)?,
        &choice,
        Timestamp::now(),
    )?;
    // Before any workspace is moved.
    let seen: Vec<PlanDetails> = entries.iter().map(PlanDetails::from_entry).collect();
    let done: Vec<Option<Done>> = entries
        .iter()
        .map(|entry| {
            let takes = matches!(entry.decision, Decision::Import { .. }) && args.yes;
            takes.then(|| Done::from_result(import_session(data_dir, entry, request)))
        })
        .collect();
    let any_taken = done.iter().flatten().any(|done| done.failure.is_none());
    if any_taken && keeper {
        client::reload(data_dir, Vec::new())?;
    }
    if args.json {
        let sessions: Vec<Value> = entries
            .iter()
            .zip(&seen)
            .zip(&done)
            .map(|((entry, seen), done)| as_json(entry, seen, done.as_ref()))
            .collect();
        print_json(
            &json!({ "version": VERSION, "done": args.yes, "sessions": sessions, "notes": notes }),
        )?;
    } else {
        show(&entries, &seen, choice.sessions.is_empty());
        for note in &notes {
            complain(&format!("note: {note}"));
        }
        print_result(data_dir, &entries, &done, args.yes, keeper);
    }
    let failed = done.iter().flatten().any(|done| done.failure.is_some());
    let refused = entries
        .iter()
        .any(|entry| matches!(entry.decision, Decision::Refused { .. }));
    let is_named = !choice.sessions.is_empty();
    Ok(match failed || (refused && (is_named || args.yes)) {
        true => ExitCode::from(ErrorKind::NotAsDeclared as u8),
        false => ExitCode::SUCCESS,
    })
}

fn occupied<'a>(data_dir: &'a DataDir, config: &Config) -> Result<Occupied<'a>> {
    let records = data_dir.all_records()?;
    let names = records.into_iter().map(|(name, _)| name);
    let workspaces = config.agents.iter().map(|(name, agent)| {
        let path = data_dir.absolute(&agent.workspace);
        (fs::canonicalize(&path).unwrap_or(path), name.clone())
    });
    Ok(Occupied {
        data_dir: data_dir.dir(),
        names: names.chain(config.agents.keys().cloned()).collect(),
        workspaces: workspaces.collect(),
    })
}

/// The result of importing one session.
struct Done {
    taken: ImportResult,
    failure: Option<(String, Option<String>)>,
}

impl Done {
    fn from_result(result: Result<ImportResult>) -> Self {
        match result {
            Ok(taken) => Self {
                taken,
                failure: None,
            },
            Err(error) => Self {
                taken: ImportResult::default(),
                failure: Some((format!("{error:#}"), hint_of(&error).map(str::to_owned))),
            },
        }
    }

    fn warnings(&self) -> impl Iterator<Item = String> {
        let warnings = self.taken.warnings.iter();
        warnings.map(|warning| format!("warning: {warning}"))
    }

    fn messages(&self) -> Vec<String> {
        let done = self.taken.done.iter().cloned();
        done.chain(self.warnings()).collect()
    }
}

fn as_json(entry: &Entry, seen: &PlanDetails, done: Option<&Done>) -> Value {
    let found = &entry.found;
    let (mut action, mut workspace, mut why, mut hint) = ("left", None, None, None);
    match &entry.decision {
        Decision::Import {
            how,
            workspace: there,
        } => {
            action = match how {
                WorkspaceTransfer::Stay => "take-in",
                WorkspaceTransfer::Move => "move",
                WorkspaceTransfer::Copy => "copy",
            };
            workspace = Some(there.clone());
        }
        Decision::Refused {
            why: reason,
            hint: command,
        } => {
            action = "refused";
            (why, hint) = (Some(reason.clone()), command.clone());
        }
        Decision::Agent => action = "agent",
        Decision::Left { why: reason } => why = Some(reason.clone()),
    }
    if let Some((failure, command)) = done.and_then(|done| done.failure.clone()) {
        (why, hint) = (Some(failure), command);
    }
    json!({
        "name": entry.name,
        "session_id": found.session_id,
        "action": action,
        "done": done.is_some_and(|done| done.failure.is_none()),
        "why": why,
        "hint": hint,
        "cwd": found.cwd,
        "workspace": workspace,
        "workspace_bytes": seen.workspace_bytes,
        "config_dir": found.config_dir,
        "transcript": found.transcript,
        "transcript_bytes": found.bytes,
        "changed_at": found.changed_at,
        "title": found.title,
        "args": found.arguments,
        "turn_open": seen.turn_open,
        "live": found.live.as_ref().map(|live| json!({
            "pid": live.process.pid,
            "status": live.status,
            "tmux_socket": live.pane.as_ref().map(|pane| &pane.socket),
            "tmux_pane": live.pane.as_ref().map(|pane| &pane.id),
        })),
        "job": found.job.as_ref().map(|job| json!({ "id": job.id, "state": job.state })),
        "said": done.map(Done::messages),
    })
}

/// Details of a plan that are shown beside the decision.
struct PlanDetails {
    /// Size of the workspace to move or copy; `None` if it stays.
    workspace_bytes: Option<u64>,
    /// Where its last turn was interrupted, as text; the turn is then continued automatically.
    turn_open: Option<String>,
}

impl PlanDetails {
    fn from_entry(entry: &Entry) -> Self {
        let Decision::Import { how, .. } = &entry.decision else {
            return Self {
                workspace_bytes: None,
                turn_open: None,
            };
        };
        let cwd = entry
            .found
            .cwd
            .as_ref()
            .filter(|_| *how != WorkspaceTransfer::Stay);
        let open = || {
            let (state, _) = tail::read(&entry.found.transcript).ok()?;
            let tail = state.tail();
            tail.was_cut(None).then(|| tail.to_string())
        };
        Self {
            workspace_bytes: cwd.and_then(|cwd| Some(merge_tree::measure(cwd).ok()?.1)),
            turn_open: open(),
        }
    }
}

fn show(entries: &[Entry], seen: &[PlanDetails], hide_left: bool) {
    let is_shown = |entry: &Entry| match entry.decision {
        Decision::Left { .. } => false,
        Decision::Agent => !hide_left,
        _ => true,
    };
    let rows: Vec<[String; 6]> = entries
        .iter()
        .zip(seen)
        .filter(|(entry, _)| is_shown(entry))
        .map(|(entry, seen)| {
            let found = &entry.found;
            [
                entry.name.to_string(),
                found.session_id.get(..8).unwrap_or("-").to_owned(),
                found
                    .cwd
                    .as_deref()
                    .map_or_else(|| "-".into(), |cwd: &Path| cwd.display().to_string()),
                bytes(found.bytes),
                found.changed_at.for_people(),
                shorten(&describe(entry, seen), PLAN_MAX),
            ]
        })
        .collect();
    if rows.is_empty() {
        print_line("no sessions to import");
    } else {
        let header = ["AGENT", "SESSION", "WORKSPACE", "SIZE", "LAST USED", "PLAN"];
        for line in table(header, &rows) {
            print_line(&line);
        }
    }
    let left = entries
        .iter()
        .filter(|entry| matches!(entry.decision, Decision::Left { .. }))
        .count();
    if left > 0 && hide_left {
        print_line(&format!(
            "{left} more are skipped: they are older, or their workspace is in use (--json shows \
             why)"
        ));
    }
}

/// Describes what is done with a session.
fn describe(entry: &Entry, seen: &PlanDetails) -> String {
    let goes_on = seen.turn_open.as_ref().map_or_else(String::new, |open| {
        format!("; its turn was interrupted ({open}) and will be continued")
    });
    match &entry.decision {
        Decision::Import { how, workspace } => {
            let ends = match entry.found.live {
                Some(_) => format!("end its process ({}), ", where_it_runs(&entry.found)),
                None => String::new(),
            };
            let carried = seen.workspace_bytes.map_or_else(String::new, bytes);
            let to = workspace.display();
            let takes = match how {
                WorkspaceTransfer::Stay => "import".to_owned(),
                WorkspaceTransfer::Move => format!("import, move {carried} to {to}"),
                WorkspaceTransfer::Copy => format!("import, copy {carried} to {to}"),
            };
            format!("{ends}{takes}{goes_on}")
        }
        Decision::Refused { why, .. } => format!("refused: {why}"),
        Decision::Agent => "already an agent".to_owned(),
        Decision::Left { why } => format!("skipped: {why}"),
    }
}

/// Prints what was done, what was not, and the next command.
fn print_result(
    data_dir: &DataDir,
    entries: &[Entry],
    done: &[Option<Done>],
    yes: bool,
    keeper: bool,
) {
    let at = data_dir.dir().display();
    let (mut taken, mut could) = (0, 0);
    for (entry, done) in entries.iter().zip(done) {
        match (&entry.decision, done) {
            (Decision::Refused { why, hint }, _) => {
                complain(&format!("cannot import {}: {why}", entry.name));
                if let Some(hint) = hint {
                    complain(&format!("hint: {hint}"));
                }
            }
            (_, Some(done)) => match &done.failure {
                Some((why, hint)) => {
                    complain(&format!("cannot import {}: {why}", entry.name));
                    if let Some(hint) = hint {
                        complain(&format!("hint: {hint}"));
                    }
                }
                None => {
                    taken += 1;
                    print_line(&format!("imported {}", entry.name));
                    for line in &done.taken.done {
                        print_line(&format!("  {line}"));
                    }
                    done.warnings().for_each(|line| complain(&line));
                }
            },
            (Decision::Import { .. }, None) => could += 1,
            _ => {}
        }
    }
    if could > 0 && !yes {
        print_line(&format!(
            "nothing was done; add --yes to import {}",
            counted(could, "session")
        ));
    }
    if taken > 0 {
        print_line("the original transcripts are kept; continue these sessions only in spotkeep");
        match keeper {
            true => print_line("the keeper starts them now: spotkeep ls"),
            false => print_line(&format!("next: spotkeep --data-dir {at} up")),
        }
    }
}
