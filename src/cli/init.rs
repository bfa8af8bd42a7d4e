//! `spotkeep init`: creates a data directory with a spotkeep.toml.

use std::path::Path;
use std::process::ExitCode;

use super::output::print_line;
use state::config::{Config, LaidDown};
use state::layout::DataDir;
use sys::error::Result;

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  spotkeep --data-dir ~/fleet init
  spotkeep --data-dir ~/fleet init --unattended")]
pub(super) struct Args {
    /// Let agents run every command without asking. Starts Claude Code with
    /// --dangerously-skip-permissions. Use it only on a machine without secrets.
    #[arg(long)]
    unattended: bool,
    /// Show what would be done; change nothing.
    #[arg(long)]
    dry_run: bool,
}

pub(super) fn run(at: &Path, args: &Args) -> Result<ExitCode> {
    if args.dry_run {
        print_line(&format!(
            "would make a data directory at {} with a spotkeep.toml",
            at.display()
        ));
        return Ok(ExitCode::SUCCESS);
    }
    let (data_dir, is_new) = DataDir::init(at)?;
    let laid_down = Config::lay_down(&data_dir.config(), &data_dir.config_copy(), args.unattended)?;
    let place = data_dir.dir().display();
    print_line(&match (is_new, laid_down) {
        (true, _) => format!("made a data directory at {place}"),
        (false, LaidDown::LastGood) => {
            format!("the data directory at {place} has its last spotkeep.toml again")
        }
        (false, LaidDown::Template) => {
            format!("the data directory at {place} has a spotkeep.toml again")
        }
        (false, LaidDown::Nothing) => {
            format!("{place} is a data directory already; nothing was changed")
        }
    });
    if args.unattended && laid_down == LaidDown::Template {
        print_line(
            "agents will run every command without asking: use only a machine without secrets",
        );
    }
    print_line(&format!(
        "next: spotkeep --data-dir {place} add agent-1 --prompt 'Fix issue 123.'"
    ));
    Ok(ExitCode::SUCCESS)
}
