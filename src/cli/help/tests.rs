//! Tests that help texts, man pages and docs match the program.

use std::fs;
use std::path::{Path, PathBuf};

use clap::error::{ContextKind, ErrorKind};
use clap::{Command, Parser as _};

use super::examples::{after, split};
use super::page::Page;
use super::{man, markdown, tree, verbs};
use crate::cli::Cli;
use state::config::Config;

fn here() -> PathBuf {
    env!("CARGO_MANIFEST_DIR").into()
}

/// Returns the words of a shell command, up to its end; without variables that are set before it.
fn shell_words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in line.chars() {
        match (c, quote) {
            (c, Some(open)) if c == open => quote = None,
            (c, Some(_)) => word.get_or_insert_default().push(c),
            ('\'' | '"', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (' ', None) => words.extend(word.take()),
            ('#' | '<', None) if word.is_none() => break,
            ('|' | ';' | '&' | '>' | ')', None) => break,
            (c, None) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    let is_before = |word: &String| {
        let name = word.split_once('=').map_or("", |(name, _)| name);
        matches!(word.as_str(), "sudo" | "exec" | "$")
            || (!name.is_empty() && name == name.to_uppercase())
    };
    let first = words.iter().position(|word| !is_before(word));
    words.split_off(first.unwrap_or(words.len()))
}

/// Returns what is wrong with a spotkeep command; `None` also for a line of another program.
fn wrong(line: &str) -> Option<clap::Error> {
    let words = shell_words(&line.replace('$', ""));
    let program = Path::new(words.first()?).file_name()?;
    (program == "spotkeep").then(|| Cli::try_parse_from(&words).err())?
}

/// Returns what is wrong with a spotkeep command in a sentence, which may have gaps: an unknown
/// verb or option.
fn wrong_name(line: &str) -> Option<clap::Error> {
    let error = wrong(line)?;
    let named = |kind| error.get(kind).map(ToString::to_string);
    let is_wrong = match error.kind() {
        ErrorKind::UnknownArgument => named(ContextKind::InvalidArg)?.starts_with("--"),
        ErrorKind::InvalidSubcommand => {
            let verb = named(ContextKind::InvalidSubcommand)?;
            verb.bytes().all(|byte| byte.is_ascii_lowercase())
        }
        _ => false,
    };
    is_wrong.then_some(error)
}

#[test]
fn every_verb_has_an_example_and_each_example_is_valid() {
    fn walk(command: &Command, failures: &mut Vec<String>) {
        let name = command.get_bin_name().unwrap_or_default().to_owned();
        let (_, examples) = split(&after(command));
        if examples.is_empty() {
            failures.push(format!("{name}: there is no example"));
        }
        for example in examples {
            if !shell_words(&example).join(" ").contains("spotkeep") {
                failures.push(format!("{name}: not a spotkeep command: {example}"));
            }
            if let Some(error) = wrong(&example) {
                failures.push(format!("{name}: {example}: {error}"));
            }
        }
        for verb in verbs(command) {
            walk(verb, failures);
        }
    }
    let mut failures = Vec::new();
    walk(&tree(), &mut failures);
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn docs_commands_md_is_up_to_date() {
    let path = here().join("docs/commands.md");
    let (now, desired) = (
        fs::read_to_string(&path).unwrap_or_default(),
        markdown::reference(),
    );
    if std::env::var_os("SPOTKEEP_UPDATE_DOCS").is_some() {
        fs::write(&path, desired).unwrap();
    } else {
        let differs = now.lines().zip(desired.lines()).find(|(a, b)| a != b);
        assert!(
            now == desired,
            "docs/commands.md is out of date: make docs\n{differs:?}"
        );
    }
}

#[test]
fn every_verb_has_a_man_page_that_the_page_above_refers_to() {
    let pages = man::pages().unwrap();
    let tree = tree();
    let names: Vec<String> = Page::all(&tree)
        .iter()
        .map(|page| page.name.replace(' ', "-"))
        .collect();
    assert_eq!(pages.len(), names.len());
    assert!(
        names.contains(&"spotkeep-gcp-create".to_owned()),
        "{names:?}"
    );
    for name in &names {
        let (_, text) = pages
            .iter()
            .find(|(file, _)| *file == format!("{name}.1"))
            .unwrap();
        assert!(
            text.contains("\n.TH ") && text.contains("\n.SH EXAMPLES\n"),
            "{text}"
        );
        if let Some((above, _)) = name
            .rsplit_once('-')
            .filter(|(above, _)| names.iter().any(|name| name == above))
        {
            let (_, above) = pages
                .iter()
                .find(|(file, _)| *file == format!("{above}.1"))
                .unwrap();
            assert!(above.contains(&name.replace('-', "\\-")), "{name}");
        }
    }
}

/// Returns the code blocks of a page in one of these languages.
fn blocks(text: &str, languages: &[&str]) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut is_desired = None;
    for line in text.lines() {
        match (is_desired, line.trim_start().strip_prefix("```")) {
            (None, Some(language)) => {
                is_desired = Some(languages.contains(&language));
                blocks.push(String::new());
            }
            (Some(_), Some(_)) => is_desired = None,
            (Some(true), None) => *blocks.last_mut().unwrap() += &format!("{line}\n"),
            _ => {}
        }
    }
    blocks
}

/// Returns the shell commands of a page; continued lines are joined.
fn code(text: &str) -> Vec<String> {
    let shell = blocks(text, &["sh", "console"]).concat();
    let joined = shell.replace("\\\n", "");
    joined
        .lines()
        .map(|line| line.trim_start().to_owned())
        .collect()
}

/// Returns the name and text of every page for users.
fn pages() -> Vec<(String, String)> {
    let docs = fs::read_dir(here().join("docs")).unwrap();
    let docs = docs.map(|entry| entry.unwrap().path());
    let pages = docs.filter(|path| path.extension().is_some_and(|ending| ending == "md"));
    let pages = pages.chain(["README.md", "SECURITY.md"].map(|name| here().join(name)));
    let read = |path: PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        (name, fs::read_to_string(&path).unwrap())
    };
    pages.map(read).collect()
}

#[test]
fn every_spotkeep_toml_in_the_docs_is_valid() {
    let mut seen = 0;
    for (name, text) in pages() {
        for block in blocks(&text, &["toml"]) {
            let parsed = Config::parse(&block);
            assert!(parsed.is_ok(), "{name}: {:#}\n{block}", parsed.unwrap_err());
            seen += usize::from(!block.is_empty());
        }
    }
    assert!(seen > 5);
}

#[test]
fn every_command_in_the_docs_is_valid() {
    let (mut failures, mut seen) = (Vec::new(), 0);
    for (name, text) in pages() {
        for line in code(&text) {
            seen += 1;
            if let Some(error) = wrong(&line) {
                failures.push(format!("{name}: {line}: {error}"));
            }
        }
        // In a sentence a command may be named without its arguments.
        for span in text.split('`').skip(1).step_by(2) {
            if let Some(error) = wrong_name(span) {
                failures.push(format!("{name}: `{span}`: {error}"));
            }
        }
    }
    assert!(failures.is_empty() && seen > 20, "{}", failures.join("\n"));
}

/// Collects the Rust sources below a directory.
fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files(&path, found),
            false if path.extension().is_some_and(|ending| ending == "rs") => found.push(path),
            false => {}
        }
    }
}

/// Returns the string literals of a source file that are on one line.
fn literals(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .flat_map(|line| line.split('"').skip(1).step_by(2))
}

#[test]
fn every_command_in_a_hint_is_valid() {
    let mut sources = Vec::new();
    for dir in ["src", "crates"] {
        files(&here().join(dir), &mut sources);
    }
    let (mut failures, mut seen) = (Vec::new(), 0);
    for path in &sources {
        let text = fs::read_to_string(path).unwrap();
        for literal in literals(&text).filter(|text| text.contains("spotkeep ")) {
            // A hint may begin with text: the command starts at the name of the program.
            let from = literal.find("spotkeep ").unwrap();
            let is_word = from == 0 || literal[..from].ends_with([' ', '/', '`']);
            // After an escaped newline there is another line.
            let literal = literal[from..].split("\\n").next().unwrap_or_default();
            let line = literal.split(['`', ',', '(']).next().unwrap_or_default();
            let second = shell_words(line).into_iter().nth(1).unwrap_or_default();
            let is_verb = verbs(&tree()).any(|verb| verb.get_name() == second);
            if !is_word || !(is_verb || second.starts_with("--")) {
                continue;
            }
            seen += 1;
            if let Some(error) = wrong_name(line) {
                failures.push(format!("{}: {literal}: {error}", path.display()));
            }
        }
    }
    assert!(
        failures.is_empty() && seen > 40,
        "{seen}: {}",
        failures.join("\n")
    );
}

#[test]
fn every_error_in_docs_errors_md_exists() {
    let mut sources = Vec::new();
    for dir in ["src", "crates"] {
        files(&here().join(dir), &mut sources);
    }
    // A placeholder in the table is a gap.
    let code: String = sources
        .iter()
        .map(|path| fs::read_to_string(path).unwrap().replace("\\\"", "\""))
        .collect();
    let text = fs::read_to_string(here().join("docs/errors.md")).unwrap();
    let rows = text
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let mut failures: Vec<&str> = rows
        .clone()
        .filter(|message| {
            let mut pieces = message
                .split('…')
                .map(str::trim)
                .filter(|piece| !piece.is_empty());
            !pieces.all(|piece| code.contains(piece))
        })
        .collect();
    // Every cause is explained.
    failures.extend(
        "finished crashed out-of-memory limit login api dialog disk-full preempted stopped \
         cannot-start unknown"
            .split(' ')
            .filter(|cause| !rows.clone().any(|row| row == *cause)),
    );
    assert!(failures.is_empty() && rows.count() > 60, "{failures:#?}");
}
