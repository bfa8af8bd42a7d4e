//! `docs/commands.md`: the help pages of all verbs as Markdown.

use super::page::{Entry, Page};
use super::tree;

const HEAD: &str = "\
# Commands

<!-- Generated from the program by `make docs`; a test fails when it is out of date. -->

`spotkeep VERB --help` and `man spotkeep-VERB` show the same text. Verbs that read have `--json`,
verbs that change something have `--dry-run`.
";

/// Returns the text of `docs/commands.md`.
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
        let about = wrap(&cell(&page.about), "");
        out += &format!("{about}\n\n```text\n{}\n```\n", page.usage);
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
        // Global options are listed once, at the top.
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
        .map(|entry| format!("* {}: {}", term(entry), cell(&entry.text)))
        .map(|line| wrap(&line, "  ") + "\n")
        .collect();
    if !lines.is_empty() {
        *out += &format!("\n{lines}");
    }
}

/// Joins a text into one line and escapes Markdown.
fn cell(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.replace('<', "\\<")
        .replace('*', "\\*")
        .replace('_', "\\_")
}

/// Formats a paragraph; one with indented lines becomes a block of text.
fn note_of(note: &str) -> String {
    match note.lines().any(|line| line.starts_with("  ")) {
        true => format!("```text\n{note}\n```"),
        false => wrap(&cell(note), ""),
    }
}

/// Breaks a paragraph at spaces into lines of at most 100 columns; all but the first are indented.
fn wrap(text: &str, indent: &str) -> String {
    let mut out = String::new();
    let mut width = 0;
    for word in text.split(' ') {
        let columns = word.chars().count();
        if width > 0 && width + 1 + columns > 100 {
            out += "\n";
            out += indent;
            width = indent.len();
        } else if width > 0 {
            out += " ";
            width += 1;
        }
        out += word;
        width += columns;
    }
    out
}
