//! `spotkeep send`

use std::process::ExitCode;

use super::term::say;
use crate::error::{Context as _, Hint as _, Result};
use crate::keeper::client::{PATIENCE, ask};
use crate::keeper::protocol::Request;
use crate::root::Root;
use crate::state::AgentName;

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "It is refused while the agent waits for a human: a text could answer its question.\n\nExample:\n  spotkeep send agent-1 'Then run the tests again.'"
)]
pub(super) struct Args {
    /// Which agent.
    name: AgentName,
    /// The text; Enter is pressed after it.
    text: String,
    /// Say what would be done, and do nothing.
    #[arg(long)]
    dry_run: bool,
}

pub(super) fn run(root: &Root, args: Args) -> Result<ExitCode> {
    if args.dry_run {
        say(&format!(
            "would type {} characters into {}",
            args.text.chars().count(),
            args.name
        ));
        return Ok(ExitCode::SUCCESS);
    }
    let request = Request::Send {
        name: args.name.clone(),
        text: args.text,
    };
    ask(root, &request, PATIENCE)?
        .context("no keeper runs")
        .hint("spotkeep up")?;
    say(&format!("typed into {}", args.name));
    Ok(ExitCode::SUCCESS)
}
