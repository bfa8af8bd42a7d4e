//! Help page of one verb: its text, arguments, options and examples.

use clap::{Arg, Command};

use super::examples::{after, split};
use super::verbs;

/// The help page of a verb.
#[derive(Debug)]
pub(super) struct Page {
    /// The full command: `spotkeep checkpoint ls`.
    pub(super) name: String,
    pub(super) about: String,
    pub(super) usage: String,
    /// More paragraphs, from before and after the examples.
    pub(super) notes: Vec<String>,
    pub(super) examples: Vec<String>,
    pub(super) arguments: Vec<Entry>,
    pub(super) options: Vec<Entry>,
    /// The subcommands, with their first lines.
    pub(super) verbs: Vec<Entry>,
}

/// A term and its description.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) term: String,
    pub(super) text: String,
}

impl Page {
    /// Returns the pages of a verb and of all its subcommands, each verb before its subcommands.
    pub(super) fn all(command: &Command) -> Vec<Self> {
        let below = verbs(command).flat_map(Self::all);
        std::iter::once(Self::from_command(command))
            .chain(below)
            .collect()
    }

    fn from_command(command: &Command) -> Self {
        let (notes, examples) = split(&after(command));
        let mut command_for_usage = command.clone();
        let usage = command_for_usage.render_usage().to_string();
        let shown = || command.get_arguments().filter(|arg| !arg.is_hide_set());
        Self {
            name: command.get_bin_name().unwrap_or(command.get_name()).into(),
            about: text(command.get_long_about().or(command.get_about())),
            usage: usage.trim_start_matches("Usage:").trim().into(),
            notes,
            examples,
            arguments: shown()
                .filter(|arg| arg.is_positional())
                .map(entry)
                .collect(),
            options: shown()
                .filter(|arg| !arg.is_positional())
                .map(entry)
                .collect(),
            verbs: verbs(command)
                .map(|verb| Entry {
                    term: verb.get_name().into(),
                    text: text(verb.get_about()),
                })
                .collect(),
        }
    }
}

fn text(styled: Option<&clap::builder::StyledStr>) -> String {
    styled.map(ToString::to_string).unwrap_or_default()
}

fn entry(arg: &Arg) -> Entry {
    let mut term = arg.to_string();
    if let Some(short) = arg.get_short()
        && arg.get_long().is_some()
    {
        term = format!("-{short}, {term}");
    }
    let mut said = text(arg.get_long_help().or(arg.get_help()));
    let values: Vec<_> = arg
        .get_possible_values()
        .into_iter()
        .filter(|value| !value.is_hide_set())
        .collect();
    if arg.get_action().takes_values() && !values.is_empty() {
        let each = values.iter().map(|value| match value.get_help() {
            Some(help) => format!("{}: {help}", value.get_name()),
            None => value.get_name().to_owned(),
        });
        said += &format!("\n\nOne of: {}", each.collect::<Vec<_>>().join("; "));
    }
    let defaults: Vec<_> = arg
        .get_default_values()
        .iter()
        .map(|value| value.to_string_lossy())
        .collect();
    if arg.get_action().takes_values() && !defaults.is_empty() {
        said += &format!(" [default: {}]", defaults.join(" "));
    }
    if let Some(variable) = arg.get_env() {
        said += &format!(" [env: {}]", variable.to_string_lossy());
    }
    Entry { term, text: said }
}
