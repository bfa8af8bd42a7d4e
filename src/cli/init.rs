//! `spotkeep init`

use std::path::Path;
use std::process::ExitCode;

use super::term::say;
use crate::config;
use crate::error::Result;
use crate::os::files;
use crate::root::Root;

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
    let has_config = root.config().exists();
    if !has_config {
        files::write_atomic(&root.config(), config::template(args.unattended).as_bytes())?;
    }
    let place = root.dir().display();
    say(&match (is_new, has_config) {
        (true, _) => format!("made a root at {place}"),
        (false, false) => format!("the root at {place} has a spotkeep.toml again"),
        (false, true) => format!("{place} is a root already; nothing was changed"),
    });
    if args.unattended && !has_config {
        say(
            "agents will run every command without asking: give this machine nothing that you would not give them",
        );
    }
    say(&format!(
        "next: spotkeep --root {place} add agent-1 --prompt 'Fix issue 123.'"
    ));
    Ok(ExitCode::SUCCESS)
}
