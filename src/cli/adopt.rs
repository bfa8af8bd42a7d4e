//! `spotkeep adopt`

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};

use super::daemon::instead_of_keeper;
use super::output::{bytes, complain, json as print_json, print_line, shorten, table};
use crate::adopt::{
    Choice, Entry, Occupied, Request as TakeRequest, SessionScan, Taken, Verdict,
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

/// The longest reason in a table.
const PLAN_MAX: usize = 90;

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Without --yes it shows what it found and what it would do, and does nothing.

Examples:
  spotkeep adopt                                 # the newest session of each workspace, and what runs
  spotkeep adopt --yes --move issue-123          # take in one, and move its workspace into the data directory
  spotkeep adopt --yes --end 0b6c1f7e            # end the Claude that has it open, and take it in
  spotkeep adopt --yes --stopped --all           # take in all; none of them starts"
)]
pub(super) struct Args {
    /// Which sessions: their ids, the first eight digits of them, or their names. Where none is named: the
    /// newest of each workspace that was used in the last week.
    #[arg(value_name = "SESSION")]
    sessions: Vec<String>,
    /// Do it.
    #[arg(long, conflicts_with = "dry_run")]
    yes: bool,
    /// Say what would be done, and do nothing, as without --yes.
    #[arg(long)]
    dry_run: bool,
    /// As JSON.
    #[arg(long)]
    json: bool,
    /// However long ago they were last used.
    #[arg(long, conflicts_with = "since")]
    all: bool,
    /// Those that were used so recently.
    #[arg(long, value_name = "TIME", default_value = "168h", value_parser = parse_duration)]
    since: Duration,
    /// Move workspaces that are outside of the data directory into workspaces/.
    #[arg(long = "move", conflicts_with = "copy")]
    moves: bool,
    /// Copy them there; the originals stay.
    #[arg(long)]
    copy: bool,
    /// End a Claude that has a session open. A turn that is cut by that goes on when the agent starts.
    #[arg(long)]
    end: bool,
    /// Let none of them run before `spotkeep start`.
    #[arg(long)]
    stopped: bool,
    /// The agent's name, where one session is named.
    #[arg(long, value_name = "NAME")]
    name: Option<AgentName>,
    /// Look into this configuration directory of Claude's too.
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
    // While it is done, no keeper begins.
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
    // Before anything of it is somewhere else.
    let seen: Vec<PlanDetails> = entries.iter().map(PlanDetails::from_entry).collect();
    let done: Vec<Option<Done>> = entries
        .iter()
        .map(|entry| {
            let takes = matches!(entry.verdict, Verdict::TakeIn { .. }) && args.yes;
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
        .any(|entry| matches!(entry.verdict, Verdict::Refused { .. }));
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

/// What came of one.
struct Done {
    taken: Taken,
    failure: Option<(String, Option<String>)>,
}

impl Done {
    fn from_result(result: Result<Taken>) -> Self {
        match result {
            Ok(taken) => Self {
                taken,
                failure: None,
            },
            Err(error) => Self {
                taken: Taken::default(),
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
    match &entry.verdict {
        Verdict::TakeIn {
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
        Verdict::Refused {
            why: reason,
            hint: command,
        } => {
            action = "refused";
            (why, hint) = (Some(reason.clone()), command.clone());
        }
        Verdict::Agent => action = "agent",
        Verdict::Left { why: reason } => why = Some(reason.clone()),
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

/// What a plan tells beside the decision.
struct PlanDetails {
    /// What has to be carried; `None` where nothing has.
    workspace_bytes: Option<u64>,
    /// Where its last turn was cut, in words; it goes on by itself then.
    turn_open: Option<String>,
}

impl PlanDetails {
    fn from_entry(entry: &Entry) -> Self {
        let Verdict::TakeIn { how, .. } = &entry.verdict else {
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
            workspace_bytes: cwd.and_then(|cwd| Some(merge_tree::weigh(cwd).ok()?.1)),
            turn_open: open(),
        }
    }
}

fn show(entries: &[Entry], seen: &[PlanDetails], hide_left: bool) {
    let is_shown = |entry: &Entry| match entry.verdict {
        Verdict::Left { .. } => false,
        Verdict::Agent => !hide_left,
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
        print_line("no session was found that could be taken in");
    } else {
        let header = [
            "AGENT",
            "SESSION",
            "WORKSPACE",
            "WORDS",
            "LAST USED",
            "PLAN",
        ];
        for line in table(header, &rows) {
            print_line(&line);
        }
    }
    let left = entries
        .iter()
        .filter(|entry| matches!(entry.verdict, Verdict::Left { .. }))
        .count();
    if left > 0 && hide_left {
        print_line(&format!(
            "{left} more are left alone: older ones, and those of workspaces in use (--json shows why)"
        ));
    }
}

/// What is done with it, in words.
fn describe(entry: &Entry, seen: &PlanDetails) -> String {
    let goes_on = seen.turn_open.as_ref().map_or_else(String::new, |open| {
        format!("; its turn was cut ({open}) and goes on")
    });
    match &entry.verdict {
        Verdict::TakeIn { how, workspace } => {
            let ends = match entry.found.live {
                Some(_) => format!("ends it ({}), ", where_it_runs(&entry.found)),
                None => String::new(),
            };
            let carried = seen.workspace_bytes.map_or_else(String::new, bytes);
            let to = workspace.display();
            let takes = match how {
                WorkspaceTransfer::Stay => "takes it in".to_owned(),
                WorkspaceTransfer::Move => format!("takes it in, moves {carried} to {to}"),
                WorkspaceTransfer::Copy => format!("takes it in, copies {carried} to {to}"),
            };
            format!("{ends}{takes}{goes_on}")
        }
        Verdict::Refused { why, .. } => format!("refused: {why}"),
        Verdict::Agent => "is an agent already".to_owned(),
        Verdict::Left { why } => format!("left alone: {why}"),
    }
}

/// What was done, what was not, and what comes next.
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
        match (&entry.verdict, done) {
            (Verdict::Refused { why, hint }, _) => {
                complain(&format!("{} is not taken in: {why}", entry.name));
                if let Some(hint) = hint {
                    complain(&format!("hint: {hint}"));
                }
            }
            (_, Some(done)) => match &done.failure {
                Some((why, hint)) => {
                    complain(&format!("{} is not taken in: {why}", entry.name));
                    if let Some(hint) = hint {
                        complain(&format!("hint: {hint}"));
                    }
                }
                None => {
                    taken += 1;
                    print_line(&format!("{} is an agent now", entry.name));
                    for line in &done.taken.done {
                        print_line(&format!("  {line}"));
                    }
                    done.warnings().for_each(|line| complain(&line));
                }
            },
            (Verdict::TakeIn { .. }, None) => could += 1,
            _ => {}
        }
    }
    if could > 0 && !yes {
        print_line(&format!(
            "nothing was done; to take in {could}: the same with --yes"
        ));
    }
    if taken > 0 {
        print_line("their transcripts stay where they were too; go on with the agents only");
        match keeper {
            true => print_line("the keeper takes it from here: spotkeep ls"),
            false => print_line(&format!("next: spotkeep --data-dir {at} up")),
        }
    }
}
