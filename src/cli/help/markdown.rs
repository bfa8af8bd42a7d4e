//! `docs/commands.md`: all pages in one.

use super::page::{Entry, Page};
use super::tree;

const HEAD: &str = "\
# Commands

<!-- Written by `make docs` from the program itself; a test fails when it is old. -->

`spotkeep VERB --help` and `man spotkeep-VERB` say the same. `--json` is on whatever reads, `--dry-run` on whatever changes.
";

/// The text of the page.
pub(super) fn reference() -> String {
    let tree = tree();
    let pages = Page::all(&tree);
    let global: Vec<&str> = pages
        .first()
        .map(|page| page.options.iter().map(|entry| entry.term.as_str()))
        .into_iter()
        .flatten()
        .collect();
    let mut out = HEAD.to_owned();
    for page in &pages {
        let depth = page.name.split(' ').count();
        out += &format!("\n{} {}\n\n", "#".repeat(depth.min(3) + 1), page.name);
        out += &format!("{}\n\n```text\n{}\n```\n", cell(&page.about), page.usage);
        for note in &page.notes {
            out += &format!("\n{}\n", note_of(note));
        }
        list(&mut out, &page.verbs, |verb| {
            let anchor = format!("{} {}", page.name, verb.term).replace(' ', "-");
            format!("[`{}`](#{anchor})", verb.term)
        });
        list(&mut out, &page.arguments, |entry| {
            format!("`{}`", entry.term)
        });
        // What is said once, at the top, is not repeated 60 times.
        let own: Vec<&Entry> = page
            .options
            .iter()
            .filter(|entry| depth == 1 || !global.contains(&entry.term.as_str()))
            .collect();
        list(&mut out, own, |entry| format!("`{}`", entry.term));
        if !page.examples.is_empty() {
            out += &format!("\n```sh\n{}\n```\n", page.examples.join("\n"));
        }
    }
    out
}

fn list<'a>(
    out: &mut String,
    entries: impl IntoIterator<Item = &'a Entry>,
    term: impl Fn(&Entry) -> String,
) {
    let lines: String = entries
        .into_iter()
        .map(|entry| format!("* {}: {}\n", term(entry), cell(&entry.text)))
        .collect();
    if !lines.is_empty() {
        *out += &format!("\n{lines}");
    }
}

/// One line of Markdown that means what it says.
fn cell(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.replace('<', "\\<")
        .replace('*', "\\*")
        .replace('_', "\\_")
}

/// A paragraph; lines that are indented stay lines.
fn note_of(note: &str) -> String {
    match note.lines().any(|line| line.starts_with("  ")) {
        true => format!("```text\n{note}\n```"),
        false => cell(note),
    }
}
