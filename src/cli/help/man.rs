//! `spotkeep man`: writes the man pages, one per verb.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Command;
use clap_mangen::Man;

use super::examples::{after, split};
use super::{tree, verbs};
use sys::error::{Context as _, Result};

/// Arguments.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// The directory for the pages; created if missing.
    dir: PathBuf,
}

/// Writes all pages.
pub(in crate::cli) fn run(args: &Args) -> Result<ExitCode> {
    let dir = &args.dir;
    fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    for (name, text) in pages()? {
        let path = dir.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns the pages: name and text of each file.
pub(super) fn pages() -> Result<Vec<(String, String)>> {
    let mut pages = Vec::new();
    collect(&tree(), &mut pages)?;
    Ok(pages)
}

fn collect(command: &Command, pages: &mut Vec<(String, String)>) -> Result<()> {
    let name = command.get_bin_name().unwrap_or(command.get_name());
    let title = name.replace(' ', "-");
    pages.push((format!("{title}.1"), page(command, name, &title)?));
    verbs(command).try_for_each(|verb| collect(verb, pages))
}

fn page(command: &Command, name: &str, title: &str) -> Result<String> {
    let (notes, examples) = split(&after(command));
    let shown = command
        .clone()
        .display_name(title)
        .bin_name(name)
        .after_help(notes.join("\n\n"));
    let man = Man::new(shown)
        .title(title.to_uppercase())
        .source(concat!("spotkeep ", env!("CARGO_PKG_VERSION")));
    let mut out = Vec::new();
    man.render_title(&mut out)?;
    man.render_name_section(&mut out)?;
    man.render_synopsis_section(&mut out)?;
    man.render_description_section(&mut out)?;
    man.render_options_section(&mut out)?;
    if verbs(command).next().is_some() {
        man.render_subcommands_section(&mut out)?;
    }
    if !notes.is_empty() {
        man.render_extra_section(&mut out)?;
    }
    let mut out = String::from_utf8(out)?;
    if !examples.is_empty() {
        let lines = examples.iter().map(|example| verbatim(example));
        out += &format!(".SH EXAMPLES\n.nf\n{}.fi\n", lines.collect::<String>());
    }
    if let Some((above, _)) = name.rsplit_once(' ') {
        let above = above.replace(' ', "\\-");
        out += &format!(".SH \"SEE ALSO\"\n{above}(1)\n");
    }
    Ok(out)
}

/// Escapes a line for roff, so that it is shown as it is and never read as a request. A hyphen
/// stays one that can be copied.
fn verbatim(text: &str) -> String {
    let mut text = text.replace('\\', "\\e");
    for (character, escape) in [
        ('-', "\\-"),
        ('\'', "\\(aq"),
        ('`', "\\(ga"),
        ('^', "\\(ha"),
        ('~', "\\(ti"),
    ] {
        text = text.replace(character, escape);
    }
    match text.starts_with('.') {
        true => format!("\\&{text}\n"),
        false => format!("{text}\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_has_no_meaning_to_roff() {
        assert_eq!(
            verbatim(".SH 'a\\b' --c"),
            "\\&.SH \\(aqa\\eb\\(aq \\-\\-c\n"
        );
        assert_eq!(verbatim("'x"), "\\(aqx\n");
    }

    #[test]
    fn pages_are_written_into_the_given_directory() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("man1");
        run(&Args { dir: at.clone() }).unwrap();
        let first = fs::read_to_string(at.join("spotkeep.1")).unwrap();
        assert!(first.contains("spotkeep\\-checkpoint(1)"), "{first}");
        let below = fs::read_to_string(at.join("spotkeep-checkpoint-ls.1")).unwrap();
        assert!(below.contains(".SH EXAMPLES\n"), "{below}");
        assert!(!at.join("spotkeep-agent-exec.1").exists(), "it is hidden");
    }
}
