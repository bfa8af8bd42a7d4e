//! `spotkeep init`

use std::path::Path;
use std::process::ExitCode;

use super::output::say;
use state::config::{Config, LaidDown};
use state::layout::Root;
use sys::error::Result;

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  spotkeep --root ~/fleet init\n  spotkeep --root ~/fleet init --unattended"
)]
pub(super) struct Args {
    /// Let agents run every command without asking (--dangerously-skip-permissions). Do this only
    /// on a machine that holds nothing else.
    #[arg(long)]
    unattended: bool,
    /// Say what would be done, and do nothing.
    #[arg(long)]
    dry_run: bool,
}

pub(super) fn run(at: &Path, args: &Args) -> Result<ExitCode> {
    if args.dry_run {
        say(&format!(
            "would make a root at {} with a spotkeep.toml",
            at.display()
        ));
        return Ok(ExitCode::SUCCESS);
    }
    let (root, is_new) = Root::init(at)?;
    let laid_down = Config::lay_down(&root.config(), &root.config_copy(), args.unattended)?;
    let place = root.dir().display();
    say(&match (is_new, laid_down) {
        (true, _) => format!("made a root at {place}"),
        (false, LaidDown::LastGood) => {
            format!("the root at {place} has its spotkeep.toml again, as it last was")
        }
        (false, LaidDown::Template) => format!("the root at {place} has a spotkeep.toml again"),
        (false, LaidDown::Nothing) => format!("{place} is a root already; nothing was changed"),
    });
    if args.unattended && laid_down == LaidDown::Template {
        say(
            "agents will run every command without asking: give this machine nothing that you would not give them",
        );
    }
    say(&format!(
        "next: spotkeep --root {place} add agent-1 --prompt 'Fix issue 123.'"
    ));
    Ok(ExitCode::SUCCESS)
}
