//! Text below the options in `--help`: paragraphs and examples.

use clap::Command;

/// Returns the text below the options.
pub(super) fn after(command: &Command) -> String {
    command
        .get_after_help()
        .map(ToString::to_string)
        .unwrap_or_default()
}

/// Splits the text into paragraphs and examples. Examples are indented lines below `Example:` or
/// `Examples:`.
pub(super) fn split(after: &str) -> (Vec<String>, Vec<String>) {
    let (mut notes, mut examples) = (vec![String::new()], Vec::new());
    let mut in_examples = false;
    for line in after.lines() {
        let is_indented = line.starts_with("  ");
        match line {
            "Example:" | "Examples:" => in_examples = true,
            line if in_examples && is_indented => examples.push(line.trim().to_owned()),
            "" => notes.push(String::new()),
            line => {
                in_examples = false;
                if let Some(note) = notes.last_mut() {
                    if !note.is_empty() {
                        note.push('\n');
                    }
                    note.push_str(line);
                }
            }
        }
    }
    notes.retain(|note| !note.is_empty());
    (notes, examples)
}
