//! `spotkeep completions`: prints shell completions.

use std::process::ExitCode;

use clap::ValueEnum;

use crate::cli::output::print_line;

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Completes verbs, options and agent names. The Debian package installs it. Otherwise run one of
these once; create the directory first if it does not exist (mkdir -p).

Examples:
  spotkeep completions bash >~/.local/share/bash-completion/completions/spotkeep
  spotkeep completions zsh >~/.zfunc/_spotkeep     # with fpath+=~/.zfunc before compinit
  spotkeep completions fish >~/.config/fish/completions/spotkeep.fish")]
pub(in crate::cli) struct Args {
    /// The shell.
    #[arg(value_enum)]
    shell: Shell,
}

/// A shell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Shell {
    /// GNU bash.
    Bash,
    /// zsh.
    Zsh,
    /// fish.
    Fish,
}

/// Prints the completion script.
pub(in crate::cli) fn run(args: &Args) -> ExitCode {
    print_line(script(args.shell).trim_end());
    ExitCode::SUCCESS
}

fn script(shell: Shell) -> &'static str {
    match shell {
        Shell::Bash => include_str!("spotkeep.bash"),
        Shell::Zsh => include_str!("spotkeep.zsh"),
        Shell::Fish => include_str!("spotkeep.fish"),
    }
}
