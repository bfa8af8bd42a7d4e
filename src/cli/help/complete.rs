//! `spotkeep complete`: lists completions at the cursor, for the scripts of `spotkeep completions`.
//!
//! The scripts only call this verb, so an older or newer script still completes what this version
//! of the program takes, and the agents that exist now. The shell runs it at each press of the Tab
//! key: it reads one file, starts no process, and never fails.

use std::any::TypeId;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::builder::PossibleValue;
use clap::{Arg, ArgAction, Command};

use super::{tree, verbs};
use crate::cli::output::print_line;
use state::AgentName;
use state::config::Config;
use state::layout::{self, DataDir};

/// A completion and its description.
type Choice = (String, String);

/// Prints one line per completion: the word, a tab, and the description.
pub(in crate::cli) fn run(words: &[String]) -> ExitCode {
    for (word, what) in choices(&tree(), words, agents) {
        print_line(&format!("{word}\t{what}"));
    }
    ExitCode::SUCCESS
}

/// Returns the agents of the data directory in use.
fn agents(data_dir: Option<&Path>) -> Vec<Choice> {
    let data_dir = data_dir
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("SPOTKEEP_DATA_DIR").map(PathBuf::from))
        .unwrap_or_else(layout::default_dir);
    let Ok(data_dir) = DataDir::open(&data_dir) else {
        return Vec::new();
    };
    let Ok((config, _)) = Config::load_or_last_good(&data_dir.config(), &data_dir.config_copy())
    else {
        return Vec::new();
    };
    let names = config.agents.keys();
    names
        .map(|name| (name.to_string(), "agent".into()))
        .collect()
}

/// The command and argument that the words before the cursor lead to.
struct CursorContext<'a> {
    command: &'a Command,
    positional: usize,
    /// The option whose value comes next.
    open: Option<&'a Arg>,
    /// Whether `--` was given, after which no word is an option.
    is_literal: bool,
    data_dir: Option<PathBuf>,
}

/// Returns the completions of the last of `words`. The name of the program is not in `words`.
fn choices(
    tree: &Command,
    words: &[String],
    agents: impl Fn(Option<&Path>) -> Vec<Choice>,
) -> Vec<Choice> {
    // bash splits words at equals signs, which become separate words.
    let is_word = |word: &&String| word.as_str() != "=";
    let last = words.last().filter(is_word).map_or("", |word| word);
    let before = words.split_last().map_or(&[][..], |(_, before)| before);
    let place = before
        .iter()
        .filter(is_word)
        .fold(CursorContext::start(tree), |place, word| place.after(word));

    if let Some(arg) = place.open {
        return fitting(place.values(arg, &agents), last);
    }
    if let Some((option, value)) = last.split_once('=')
        && let Some(arg) = place.option(option)
    {
        let values = fitting(place.values(arg, &agents), value);
        let whole = |(word, what)| (format!("{option}={word}"), what);
        return values.into_iter().map(whole).collect();
    }
    if last.starts_with('-') && !place.is_literal {
        return fitting(place.options(), last);
    }
    let below = verbs(place.command)
        .filter(|_| place.positional == 0)
        .map(|verb| (verb.get_name().into(), line(verb.get_about())));
    let here = place
        .argument()
        .map(|arg| place.values(arg, &agents))
        .unwrap_or_default();
    fitting(below.chain(here).collect(), last)
}

fn fitting(choices: Vec<Choice>, begun: &str) -> Vec<Choice> {
    let mut choices = choices;
    choices.retain(|(word, _)| word.starts_with(begun));
    choices
}

impl<'a> CursorContext<'a> {
    fn start(tree: &'a Command) -> Self {
        Self {
            command: tree,
            positional: 0,
            open: None,
            is_literal: false,
            data_dir: None,
        }
    }

    fn after(mut self, word: &str) -> Self {
        if let Some(arg) = self.open.take() {
            if arg.get_long() == Some("data-dir") {
                self.data_dir = Some(word.into());
            }
            return self;
        }
        if word == "--" {
            self.is_literal = true;
        } else if word.starts_with('-') && word.len() > 1 && !self.is_literal {
            let (name, value) = word.split_once('=').unzip();
            let arg = self.option(name.unwrap_or(word));
            if value.is_none() {
                self.open = arg.filter(|arg| takes_value(arg));
            } else if arg.is_some_and(|arg| arg.get_long() == Some("data-dir")) {
                self.data_dir = value.map(PathBuf::from);
            }
        } else if let Some(verb) = self.command.find_subcommand(word)
            && self.positional == 0
        {
            self.command = verb;
        } else {
            self.positional += 1;
        }
        self
    }

    fn option(&self, word: &str) -> Option<&'a Arg> {
        let mut all = self.command.get_arguments();
        match word.strip_prefix("--") {
            Some(name) => all.find(|arg| {
                let aliases = arg.get_all_aliases().unwrap_or_default();
                arg.get_long() == Some(name) || aliases.contains(&name)
            }),
            // In a group of short options, only the last one can take a value.
            None => {
                all.find(|arg| arg.get_short().is_some() && arg.get_short() == word.chars().last())
            }
        }
    }

    fn options(&self) -> Vec<Choice> {
        let shown = self
            .command
            .get_arguments()
            .filter(|arg| !arg.is_hide_set());
        shown
            .filter_map(|arg| Some((format!("--{}", arg.get_long()?), line(arg.get_help()))))
            .collect()
    }

    /// Returns the next positional argument; the last one may take several values.
    fn argument(&self) -> Option<&'a Arg> {
        let all: Vec<&Arg> = self.command.get_positionals().collect();
        let is_many = |arg: &&&Arg| matches!(arg.get_action(), ArgAction::Append);
        let at = all.get(self.positional).or(all.last().filter(is_many));
        at.copied()
            .filter(|arg| !arg.is_last_set() || self.is_literal)
    }

    fn values(&self, arg: &Arg, agents: impl Fn(Option<&Path>) -> Vec<Choice>) -> Vec<Choice> {
        let is_agent = arg.get_value_parser().type_id() == TypeId::of::<AgentName>();
        // `add` takes a new name.
        if is_agent && self.command.get_name() != "add" {
            return agents(self.data_dir.as_deref());
        }
        let shown = arg.get_possible_values();
        let shown = shown.into_iter().filter(|value| !value.is_hide_set());
        let choice = |value: PossibleValue| (value.get_name().to_owned(), line(value.get_help()));
        match takes_value(arg) {
            true => shown.map(choice).collect(),
            false => Vec::new(),
        }
    }
}

fn takes_value(arg: &Arg) -> bool {
    arg.get_action().takes_values()
}

/// Returns the first line of a text, without its full stop.
fn line(text: Option<&clap::builder::StyledStr>) -> String {
    let text = text.map(ToString::to_string).unwrap_or_default();
    text.lines()
        .next()
        .unwrap_or_default()
        .trim_end_matches('.')
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(words: &[&str]) -> Vec<String> {
        let words: Vec<String> = words.iter().map(|&word| word.into()).collect();
        let agents = |data_dir: Option<&Path>| match data_dir {
            None => vec![
                ("issue-1".into(), String::new()),
                ("docs".into(), String::new()),
            ],
            Some(other) => vec![(other.display().to_string(), String::new())],
        };
        let found = choices(&tree(), &words, agents);
        found.into_iter().map(|(word, _)| word).collect()
    }

    #[test]
    fn verbs_options_values_and_agents_are_found() {
        for (words, expected) in [
            (&["dow"][..], &["down"][..]),
            (&["checkpoint", "roll"], &["rollback"]),
            (&["stop", ""], &["issue-1", "docs"]),
            (&["stop", "docs", "i"], &["issue-1"]),
            (&["checkpoint", "diff", "i"], &["issue-1"]),
            (&["checkpoint", "diff", "docs", ""], &[]),
            (&["--data-dir", "/r", "attach", ""], &["/r"]),
            (&["--data-dir=/r", "attach", ""], &["/r"]),
            (&["--root", "/r", "attach", ""], &["/r"]),
            (&["--root=/r", "attach", ""], &["/r"]),
            (&["-D", "/r", "attach", ""], &["/r"]),
            (&["--data-dir", "=", "/r", "attach", ""], &["/r"]),
            (&["add", ""], &[]),
            (&["up", "--dr"], &["--dry-run"]),
            (&["ls", "--da"], &["--data-dir"]),
            (&["drill", "--kind", "p"], &["power-cut"]),
            (&["drill", "--kind=p"], &["--kind=power-cut"]),
            (&["drill", "--kind", "="], &["notice", "kill", "power-cut"]),
            (&["events", "-n", "1"], &[]),
            (&["add", "a", "--", "--m"], &[]),
            (&["agent-ex"], &[]),
            (&["nothing-like-it", "x"], &[]),
        ] {
            assert_eq!(said(words), expected, "{words:?}");
        }
        let first = said(&[""]);
        assert!(first.contains(&"up".into()) && !first.contains(&"complete".into()));
        assert_eq!(said(&[]), first);
    }

    #[test]
    fn the_agents_are_those_that_are_declared() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(agents(Some(dir.path())), []);
        let (data_dir, _) = DataDir::init(dir.path()).unwrap();
        std::fs::write(
            data_dir.config(),
            "[agents.b]\nworkspace = \"b\"\n[agents.a]\nworkspace = \"a\"\n",
        )
        .unwrap();
        let names: Vec<String> = agents(Some(dir.path()))
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        assert_eq!(names, ["a", "b"]);
    }
}
