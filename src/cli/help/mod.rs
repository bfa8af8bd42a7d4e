//! Documentation of the command line: man pages, `docs/commands.md` and shell completions.
//!
//! All of them are generated from the one tree of commands, so they include every new verb.

pub(super) mod complete;
pub(super) mod completions;
mod examples;
pub(super) mod man;

#[cfg(test)]
mod markdown;
#[cfg(test)]
mod page;
#[cfg(test)]
mod tests;

use clap::{Command, CommandFactory as _};

/// Width of generated files, in columns.
const WIDTH: usize = 100;

/// Returns the whole tree of commands, with the global options at each verb.
fn tree() -> Command {
    let mut command = super::Cli::command().term_width(WIDTH);
    command.build();
    command
}

/// Returns the verbs for users, without hidden ones.
fn verbs(command: &Command) -> impl Iterator<Item = &Command> {
    command
        .get_subcommands()
        .filter(|verb| !verb.is_hide_set() && verb.get_name() != "help")
}
