//! `spotkeep man`: a page for each verb, as `man` takes it.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use super::page::{Entry, Page};
use super::tree;
use sys::error::{Context as _, Result};

/// Arguments.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// The directory for the pages; made where it is not there.
    dir: PathBuf,
}

/// Writes all pages.
pub(in crate::cli) fn run(args: &Args) -> Result<ExitCode> {
    let dir = &args.dir;
    fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    for (name, text) in pages() {
        let path = dir.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The pages: name of the file, and what is in it.
pub(super) fn pages() -> Vec<(String, String)> {
    let tree = tree();
    let pages = Page::all(&tree);
    let named = pages.iter().map(|page| {
        let title = title(&page.name);
        (format!("{title}.1"), roff(page, &pages))
    });
    named.collect()
}

fn title(name: &str) -> String {
    name.replace(' ', "-")
}

fn roff(page: &Page, pages: &[Page]) -> String {
    let title = title(&page.name);
    let about = page.about.lines().next().unwrap_or_default();
    let mut out = format!(
        ".TH {} 1 \"\" \"spotkeep {}\" \"User Commands\"\n.SH NAME\n{} \\- {}\n.SH SYNOPSIS\n",
        escaped(&title.to_uppercase()),
        env!("CARGO_PKG_VERSION"),
        escaped(&title),
        escaped(about.trim_end_matches('.')),
    );
    out += &format!("\\fB{}\\fR\n", escaped(&page.usage));
    out += ".SH DESCRIPTION\n";
    let paragraphs = page.about.split("\n\n").map(str::to_owned);
    for paragraph in paragraphs.chain(page.notes.iter().cloned()) {
        out += ".PP\n";
        out += &filled(&paragraph);
    }
    section(&mut out, "COMMANDS", &page.verbs);
    section(&mut out, "ARGUMENTS", &page.arguments);
    section(&mut out, "OPTIONS", &page.options);
    if !page.examples.is_empty() {
        out += ".SH EXAMPLES\n.nf\n";
        for example in &page.examples {
            out += &format!("{}\n", line(example));
        }
        out += ".fi\n";
    }
    out += ".SH SEE ALSO\n";
    out += &format!("{}.\n", related(page, pages).join(", "));
    out
}

/// The page above, and those below.
fn related(page: &Page, pages: &[Page]) -> Vec<String> {
    let above = page.name.rsplit_once(' ').map(|(above, _)| above);
    let is_related = |other: &&Page| {
        let parent = other.name.rsplit_once(' ').map(|(parent, _)| parent);
        Some(other.name.as_str()) == above || parent == Some(page.name.as_str())
    };
    let named = pages.iter().filter(is_related);
    named
        .map(|other| format!("\\fB{}\\fR(1)", escaped(&title(&other.name))))
        .collect()
}

fn section(out: &mut String, title: &str, entries: &[Entry]) {
    if entries.is_empty() {
        return;
    }
    *out += &format!(".SH {title}\n");
    for entry in entries {
        *out += &format!(".TP\n\\fB{}\\fR\n", escaped(&entry.term));
        let mut paragraphs = entry.text.split("\n\n").filter(|text| !text.is_empty());
        *out += &paragraphs.next().map(filled).unwrap_or("\n".into());
        for paragraph in paragraphs {
            *out += &format!(".IP\n{}", filled(paragraph));
        }
    }
}

/// A paragraph; lines that are indented stay lines.
fn filled(paragraph: &str) -> String {
    let mut out = String::new();
    for text in paragraph.lines() {
        match text.strip_prefix("  ") {
            Some(kept) => out += &format!(".nf\n    {}\n.fi\n", escaped(kept)),
            None => out += &format!("{}\n", line(text)),
        }
    }
    out
}

/// A line of text is no request, whatever it begins with.
fn line(text: &str) -> String {
    let text = escaped(text);
    match text.starts_with(['.', '\'']) {
        true => format!("\\&{text}"),
        false => text,
    }
}

/// Characters that mean something to roff. A hyphen stays one that can be copied.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\e")
        .replace('-', "\\-")
        .replace('\'', "\\(aq")
        .replace('`', "\\(ga")
        .replace('^', "\\(ha")
        .replace('~', "\\(ti")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_means_something_to_roff_means_nothing_in_a_text() {
        assert_eq!(line(".SH 'a\\b' --c"), "\\&.SH \\(aqa\\eb\\(aq \\-\\-c");
        assert_eq!(line("'x"), "\\(aqx");
        assert_eq!(filled("a\n  b"), "a\n.nf\n    b\n.fi\n");
    }

    #[test]
    fn pages_are_written_where_they_are_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("man1");
        run(&Args { dir: at.clone() }).unwrap();
        let first = fs::read_to_string(at.join("spotkeep.1")).unwrap();
        assert!(
            first.contains("\\fBspotkeep\\-checkpoint\\fR(1)"),
            "{first}"
        );
        let below = fs::read_to_string(at.join("spotkeep-checkpoint-ls.1")).unwrap();
        assert!(below.contains(".SH EXAMPLES\n"), "{below}");
        assert!(!at.join("spotkeep-agent-exec.1").exists(), "it is hidden");
    }
}
