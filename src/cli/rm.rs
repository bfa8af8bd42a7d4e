//! `spotkeep rm`: stops an agent and removes it from spotkeep.toml.

use std::process::ExitCode;

use super::daemon::status;
use super::output::print_line;
use crate::keeper::client;
use state::AgentName;
use state::config;
use state::layout::DataDir;
use sys::error::{Hint as _, Result, anyhow};

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Its workspace and its session are kept.\n\nExample:\n  spotkeep rm agent-1"
)]
pub(super) struct Args {
    /// The agent's name.
    name: AgentName,
    /// Show what would be done; change nothing.
    #[arg(long)]
    dry_run: bool,
}

pub(super) fn run(data_dir: &DataDir, args: &Args) -> Result<ExitCode> {
    let name = &args.name;
    let now = status(data_dir)?;
    let runs = now
        .agents
        .iter()
        .any(|agent| agent.name == *name && agent.pid.is_some());
    if runs && !now.keeper.runs() {
        return Err(anyhow!("cannot stop {name}: no keeper runs")).hint(format!(
            "spotkeep --data-dir {} up",
            data_dir.dir().display()
        ));
    }
    if args.dry_run {
        let stop = if runs { "stop it and " } else { "" };
        print_line(&format!(
            "would {stop}remove {name} from {}",
            data_dir.config().display()
        ));
        return Ok(ExitCode::SUCCESS);
    }
    config::remove_agent(&data_dir.config(), name)?;
    let ends = vec![name.clone()];
    client::reload(data_dir, ends)?;
    print_line(&format!(
        "removed {name} from spotkeep.toml; its workspace, session and record are kept"
    ));
    Ok(ExitCode::SUCCESS)
}
