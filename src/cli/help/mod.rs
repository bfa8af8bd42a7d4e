//! What the command line says of itself: one tree, from which come the man pages, the page of all
//! commands, and the completions. So each knows a new verb as soon as there is one.

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

/// Columns of what is printed into files.
const WIDTH: usize = 100;

/// The whole tree; options that are for all verbs are at each of them.
fn tree() -> Command {
    let mut command = super::Cli::command().term_width(WIDTH);
    command.build();
    command
}

/// Verbs that are for people.
fn verbs(command: &Command) -> impl Iterator<Item = &Command> {
    command
        .get_subcommands()
        .filter(|verb| !verb.is_hide_set() && verb.get_name() != "help")
}
