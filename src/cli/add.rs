//! `spotkeep add`

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::ask::instead_of_keeper;
use super::term::{complain, say};
use crate::claude::{self, Lookup};
use crate::config::{self, Config};
use crate::error::{Context as _, Hint as _, Kind, Result, anyhow};
use crate::keeper::canonical_cwd;
use crate::keeper::client::{PATIENCE, ask};
use crate::keeper::protocol::Request;
use crate::root::Root;
use crate::state::{AgentName, AgentRecord, TranscriptMark, is_uuid};
use crate::workspace::{self, Made, Source};

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  spotkeep add agent-1 --workspace workspaces/agent-1 --prompt 'Fix issue 123.'
  spotkeep add review --session 0b6c1f7e-97a3-4f7c-8d92-7d0f6f0b9a55 --workspace /srv/app
  spotkeep add docs --repo https://github.com/you/api --prompt 'Write a README.'
  spotkeep add fast --prompt 'Write the docs.' -- --model sonnet")]
pub(super) struct Args {
    /// The agent's name, which is also its tmux session's and Claude's.
    name: AgentName,
    /// The directory it works in, relative to the root. Made, as workspaces/NAME, where not given.
    #[arg(long, value_name = "DIR")]
    workspace: Option<PathBuf>,
    /// Make its workspace, as workspaces/NAME, out of this repository. Agents of one repository share its
    /// objects; each has a worktree and a branch of its own.
    #[arg(long, value_name = "URL|PATH", conflicts_with_all = ["workspace", "session"])]
    repo: Option<String>,
    /// The branch to check out; a new one named after the agent begins there, where another worktree has it.
    /// The repository's default, where not given.
    #[arg(long, requires = "repo", value_name = "B")]
    branch: Option<String>,
    /// Its first prompt. It is visible in ps, as Claude's own arguments are.
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    /// Take over this session of Claude's, which must exist.
    #[arg(long, value_name = "UUID")]
    session: Option<String>,
    /// Say what would be done, and do nothing.
    #[arg(long)]
    dry_run: bool,
    /// Arguments for Claude.
    #[arg(last = true, value_name = "CLAUDE-ARGS")]
    arguments: Vec<String>,
}

pub(super) fn run(root: &Root, args: Args) -> Result<ExitCode> {
    let declared = Config::load(&root.config())?;
    claude::launch::check_extra(&args.arguments).kind(Kind::Usage)?;
    let workspace = match &args.workspace {
        Some(given) => existing(root, given)?,
        None => Path::new("workspaces").join(args.name.as_str()),
    };
    let mark = args
        .session
        .as_deref()
        .map(|id| session_mark(root, &declared, id))
        .transpose()?;
    let source = match &args.repo {
        Some(repo) => Some(Source::find(root, repo)?),
        None => None,
    };
    // Before anything is downloaded.
    if declared.agents.contains_key(&args.name) {
        return Err(anyhow!("the agent {} is declared already", args.name))
            .hint(format!("spotkeep rm {}", args.name))
            .kind(Kind::Usage);
    }
    if args.dry_run {
        let from = source
            .as_ref()
            .map(|source| format!(", made out of {}", source.shown()));
        say(&format!(
            "would declare {} in {}{}",
            args.name,
            root.absolute(&workspace).display(),
            from.unwrap_or_default()
        ));
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(source) = &source {
        let made = workspace::make(root, &args.name, source, args.branch.as_deref())?;
        say(&format!(
            "made {} on the branch {}",
            made.workspace.display(),
            made.branch
        ));
        remember_origin(root, &args.name, &workspace, made)?;
    } else if args.workspace.is_none() {
        let dir = root.absolute(&workspace);
        fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    }
    config::add_agent(
        &root.config(),
        &args.name,
        &workspace,
        args.prompt.as_deref(),
        &args.arguments,
    )?;
    if let Some(mark) = mark {
        take_over(root, &args.name, &workspace, mark)?;
    }
    let has_past = root
        .load_record(&args.name)?
        .is_some_and(|record| record.transcript.is_some());
    if has_past && args.session.is_none() {
        complain(&format!(
            "warning: {} has a session from before, which goes on{}; another name begins a new one",
            args.name,
            if args.prompt.is_some() {
                ", and the prompt is not sent"
            } else {
                ""
            }
        ));
    }
    for warning in warnings(root, &root.absolute(&workspace)) {
        complain(&format!("warning: {warning}"));
    }
    say(&format!(
        "declared {} in {}",
        args.name,
        root.absolute(&workspace).display()
    ));
    match ask(root, &Request::Reload, PATIENCE)? {
        Some(_) => say("the keeper takes it from here: spotkeep ls"),
        None => say(&format!(
            "next: spotkeep --root {} up",
            root.dir().display()
        )),
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes down where the workspace came from.
fn remember_origin(root: &Root, name: &AgentName, workspace: &Path, made: Made) -> Result<()> {
    let _lock = match ask(root, &Request::Status, PATIENCE)? {
        // As in `take_over`: the keeper does not know the agent yet.
        Some(_) => None,
        None => Some(instead_of_keeper(root)?),
    };
    let cwd = canonical_cwd(root, workspace);
    let mut record = root
        .load_record(name)?
        .unwrap_or_else(|| AgentRecord::new(name.clone(), cwd));
    record.origin = Some(made.origin);
    record.base_commit = made.base_commit;
    root.store_record(&record)
}

/// A workspace as it is declared: relative where it lies inside the root.
fn existing(root: &Root, given: &Path) -> Result<PathBuf> {
    // First as the file would read it; then as a shell would.
    let candidates = [root.absolute(given), std::env::current_dir()?.join(given)];
    let Some(found) = candidates.iter().find(|path| path.exists()) else {
        return Err(anyhow!(
            "the workspace {} does not exist",
            candidates[0].display()
        ))
        .hint(format!("git clone URL {}", candidates[0].display()));
    };
    if !found.is_dir() {
        return Err(anyhow!(
            "the workspace {} is not a directory",
            found.display()
        ))
        .kind(Kind::Usage);
    }
    Ok(canonical_cwd(root, found))
}

/// What may not survive a preemption.
fn warnings(root: &Root, workspace: &Path) -> Vec<String> {
    let mut all = Vec::new();
    if !root.holds(workspace) {
        all.push(format!(
            "{} is outside the root: it may not survive",
            workspace.display()
        ));
    }
    if let Some(common) = workspace::common_dir(workspace)
        && !root.holds(&common)
        && root.holds(workspace)
    {
        all.push(format!(
            "its repository {} is outside the root: commits may not survive",
            common.display()
        ));
    }
    all
}

/// Where the words of an existing session are.
fn session_mark(root: &Root, declared: &Config, session_id: &str) -> Result<TranscriptMark> {
    if !is_uuid(session_id) {
        return Err(anyhow!(
            "{session_id:?} is not a session id; it must be a UUID"
        ))
        .hint("claude's own list of sessions shows them: claude --resume")
        .kind(Kind::Usage);
    }
    for name in declared.agents.keys() {
        if root
            .load_record(name)?
            .is_some_and(|record| record.session_id == session_id)
        {
            return Err(anyhow!(
                "the session {session_id} belongs to the agent {name}"
            ))
            .hint(format!("spotkeep attach {name}"))
            .kind(Kind::Usage);
        }
    }
    let config_dir = root.claude();
    match claude::locate(&config_dir, session_id) {
        Lookup::Present(path) => Ok(TranscriptMark {
            session_id: session_id.to_owned(),
            length: fs::metadata(&path)?.len(),
            path: path
                .strip_prefix(&config_dir)
                .unwrap_or(&path)
                .to_path_buf(),
            generation: 0,
        }),
        Lookup::Several(paths) => Err(anyhow!(
            "the session {session_id} exists in {} folders",
            paths.len()
        ))
        .hint(format!(
            "move all but the right one away: {}",
            paths[0].display()
        )),
        Lookup::Unknown(why) => Err(anyhow!("cannot look for the session {session_id}: {why}")),
        Lookup::Missing | Lookup::Blank(_) => Err(anyhow!(
            "there is no session {session_id} in {}",
            config_dir.display()
        ))
        .hint(format!(
            "copy its transcript to {}/projects/",
            config_dir.display()
        )),
    }
}

/// Writes the record of an agent that goes on with a session of before.
fn take_over(root: &Root, name: &AgentName, workspace: &Path, mark: TranscriptMark) -> Result<()> {
    let _lock = match ask(root, &Request::Status, PATIENCE)? {
        // The keeper reads the record only once the agent is declared to it, which comes after.
        Some(_) => None,
        None => Some(instead_of_keeper(root)?),
    };
    let mut record = root
        .load_record(name)?
        .unwrap_or_else(|| AgentRecord::new(name.clone(), canonical_cwd(root, workspace)));
    let old = std::mem::replace(&mut record.session_id, mark.session_id.clone());
    if record.transcript.is_some() {
        record.past_sessions.push(old);
    }
    record.transcript = Some(mark);
    record.prompt_delivered = true;
    root.store_record(&record)
}
