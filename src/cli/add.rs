//! `spotkeep add`: adds an agent to spotkeep.toml.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::daemon::instead_of_keeper;
use super::output::{complain, print_line};
use crate::adopt::{Past, remember, session_mark};
use crate::keeper::canonical_cwd;
use crate::keeper::client;
use checkpoint::workspace::{self, CreatedWorkspace, Source};
use state::config::{self, Config};
use state::layout::DataDir;
use state::{AgentName, AgentRecord, Desired};
use sys::error::{Context as _, ErrorKind, Hint as _, Result, anyhow};
use sys::files::LockFile;

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  spotkeep add agent-1 --workspace workspaces/agent-1 --prompt 'Fix issue 123.'
  spotkeep add review --session 0b6c1f7e-97a3-4f7c-8d92-7d0f6f0b9a55 --workspace /srv/app
  spotkeep add docs --repo https://github.com/you/api --prompt 'Write a README.'
  spotkeep add fast --prompt 'Write the docs.' -- --model sonnet")]
pub(super) struct Args {
    /// The agent's name. Its tmux session and its Claude session have the same name.
    name: AgentName,
    /// Work in this directory. Relative to the data directory; the default workspaces/NAME is
    /// created.
    #[arg(long, value_name = "DIR")]
    workspace: Option<PathBuf>,
    /// Create workspaces/NAME from this git repository. Agents of one repository share its objects;
    /// each has its own worktree and branch.
    #[arg(long, value_name = "URL|PATH", conflicts_with_all = ["workspace", "session"])]
    repo: Option<String>,
    /// Check out this branch. If another worktree uses it, a new branch with the agent's name
    /// starts there. Default: the repository's default branch.
    #[arg(long, requires = "repo", value_name = "B")]
    branch: Option<String>,
    /// Start with this prompt. Other users of the machine can see it with ps.
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    /// Continue this existing Claude session.
    #[arg(long, value_name = "UUID")]
    session: Option<String>,
    /// Show what would be done; change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Arguments for Claude Code.
    #[arg(last = true, value_name = "CLAUDE-ARGS")]
    arguments: Vec<String>,
}

pub(super) fn run(data_dir: &DataDir, args: Args) -> Result<ExitCode> {
    let declared = Config::load(&data_dir.config())?;
    claude::command_line::check_extra(&args.arguments).kind(ErrorKind::Usage)?;
    let workspace = match &args.workspace {
        Some(given) => existing(data_dir, given)?,
        None => Path::new("workspaces").join(args.name.as_str()),
    };
    let mark = args
        .session
        .as_deref()
        .map(|id| session_mark(data_dir, &declared, id))
        .transpose()?;
    let source = match &args.repo {
        Some(repo) => Some(Source::find(data_dir, repo)?),
        None => None,
    };
    // Before anything is downloaded.
    if declared.agents.contains_key(&args.name) {
        return Err(anyhow!("the agent {} exists already", args.name))
            .hint(format!("spotkeep rm {}", args.name))
            .kind(ErrorKind::Usage);
    }
    if args.dry_run {
        let from = source
            .as_ref()
            .map(|source| format!(", created from {}", source.shown()));
        print_line(&format!(
            "would add {} in {}{}",
            args.name,
            data_dir.absolute(&workspace).display(),
            from.unwrap_or_default()
        ));
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(source) = &source {
        let made = workspace::make(data_dir, &args.name, source, args.branch.as_deref())?;
        print_line(&format!(
            "created {} on the branch {}",
            made.workspace.display(),
            made.branch
        ));
        remember_origin(data_dir, &args.name, &workspace, made)?;
    } else if args.workspace.is_none() {
        let dir = data_dir.absolute(&workspace);
        fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    }
    config::add_agent(
        &data_dir.config(),
        &args.name,
        &workspace,
        args.prompt.as_deref(),
        &args.arguments,
    )?;
    if let Some(mark) = mark {
        let _lock = keepers_place(data_dir)?;
        let past = Past {
            mark,
            cwd: canonical_cwd(data_dir, &workspace),
            desired: Desired::Running,
        };
        remember(data_dir, &args.name, past)?;
    }
    let has_past = data_dir
        .load_record(&args.name)?
        .is_some_and(|record| record.transcript.is_some());
    if has_past && args.session.is_none() {
        complain(&format!(
            "warning: {} continues its earlier session{}; use another name for a new session",
            args.name,
            if args.prompt.is_some() {
                ", and the prompt is not sent"
            } else {
                ""
            }
        ));
    }
    for warning in workspace::warnings(data_dir, &data_dir.absolute(&workspace)) {
        complain(&format!("warning: {warning}"));
    }
    print_line(&format!(
        "added {} in {}",
        args.name,
        data_dir.absolute(&workspace).display()
    ));
    match client::reload(data_dir, Vec::new())? {
        Some(_) => print_line("the keeper starts it now: spotkeep ls"),
        None => print_line(&format!(
            "next: spotkeep --data-dir {} up",
            data_dir.dir().display()
        )),
    }
    Ok(ExitCode::SUCCESS)
}

/// Records which repository and commit the workspace was created from.
fn remember_origin(
    data_dir: &DataDir,
    name: &AgentName,
    workspace: &Path,
    made: CreatedWorkspace,
) -> Result<()> {
    let _lock = keepers_place(data_dir)?;
    let cwd = canonical_cwd(data_dir, workspace);
    let mut record = data_dir
        .load_record(name)?
        .unwrap_or_else(|| AgentRecord::new(name.clone(), cwd));
    record.origin = Some(made.origin);
    record.base_commit = made.base_commit;
    data_dir.store_record(&record)
}

/// Returns an existing workspace as spotkeep.toml names it: relative if it is inside the data
/// directory.
fn existing(data_dir: &DataDir, given: &Path) -> Result<PathBuf> {
    // First relative to the data directory, like in spotkeep.toml; then to the current directory.
    let candidates = [
        data_dir.absolute(given),
        std::env::current_dir()?.join(given),
    ];
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
        .kind(ErrorKind::Usage);
    }
    Ok(canonical_cwd(data_dir, found))
}

/// Takes the keeper's lock while a record is written, if no keeper runs. A running keeper reads the
/// record only when the agent is added to it, which is done after that.
fn keepers_place(data_dir: &DataDir) -> Result<Option<LockFile>> {
    match client::status(data_dir, client::TIMEOUT)? {
        Some(_) => Ok(None),
        None => Ok(Some(instead_of_keeper(data_dir)?)),
    }
}
