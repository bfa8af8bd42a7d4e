//! Terminal output of the command line: lines, tables, JSON, colours.

use std::borrow::Cow;
use std::io::{self, IsTerminal as _, Write as _};

use serde::Serialize;

use state::AgentState;
use sys::error::Result;
use sys::terminal::is_plain;

/// Prints a line. Exits when the reader has closed the pipe.
pub(super) fn print_line(line: &str) {
    print(&harmless(line));
}

fn print(line: &str) {
    if writeln!(io::stdout().lock(), "{line}").is_err() {
        std::process::exit(0);
    }
}

/// Prints the output of another process, from which [`sys::terminal::pass_on`] has removed control
/// characters.
pub(super) fn relay(text: &str) {
    if write!(io::stdout().lock(), "{text}").is_err() {
        std::process::exit(0);
    }
}

/// Prints to standard error like [`relay`].
pub(super) fn relay_complaint(text: &str) {
    write!(io::stderr().lock(), "{text}").ok();
}

/// Prints a line for a person to standard error.
pub(super) fn complain(line: &str) {
    writeln!(io::stderr().lock(), "{}", harmless(line)).ok();
}

/// The longest colour code, in bytes: 24-bit foreground and background, and a style.
const LONGEST_COLOUR: usize = 40;

/// Returns the text without terminal control sequences, except colours. Text of an agent, a model
/// or a repository is shown inside spotkeep's own output, and must not move the cursor, set a title
/// or type an answer.
fn harmless(text: &str) -> Cow<'_, str> {
    if text.chars().all(is_plain) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let colour = rest.strip_prefix("\x1b[").and_then(|code| {
            let end = code.find(|c: char| !c.is_ascii_digit() && c != ';')?;
            (end <= LONGEST_COLOUR && code[end..].starts_with('m'))
                .then_some("\x1b[".len() + end + 1)
        });
        let taken = colour.unwrap_or(c.len_utf8());
        match colour.is_some() || is_plain(c) {
            true => shown.push_str(&rest[..taken]),
            false => shown.push(char::REPLACEMENT_CHARACTER),
        }
        rest = &rest[taken..];
    }
    Cow::Owned(shown)
}

/// Prints a value as JSON.
pub(super) fn json<T: Serialize>(value: &T) -> Result<()> {
    print(&escape_controls(&serde_json::to_string_pretty(value)?));
    Ok(())
}

/// Escapes the control characters U+007F to U+009F in JSON text. `serde_json` escapes only those up
/// to U+001F, and a terminal obeys the others too. They can occur in strings only.
fn escape_controls(json: &str) -> Cow<'_, str> {
    let is_kept = |c: char| !c.is_control() || c == '\n';
    if json.chars().all(is_kept) {
        return Cow::Borrowed(json);
    }
    let mut escaped = String::with_capacity(json.len());
    for c in json.chars() {
        if is_kept(c) {
            escaped.push(c);
        } else {
            escaped.push_str(&format!("\\u{:04x}", u32::from(c)));
        }
    }
    Cow::Owned(escaped)
}

/// Returns whether to print colours: standard output is a terminal, and `NO_COLOR` is not set.
pub(super) fn colourful() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Returns a state with its symbol, in its usual colour.
pub(super) fn state(state: AgentState) -> String {
    let text = format!("{} {}", state.glyph(), state.as_str());
    if !colourful() {
        return text;
    }
    let colour = match state {
        AgentState::Running => 32,
        AgentState::Waiting | AgentState::Stalled | AgentState::Backoff => 33,
        AgentState::Failed => 31,
        AgentState::Starting | AgentState::Saving => 36,
        AgentState::Idle | AgentState::Stopped | AgentState::Unknown => 90,
    };
    format!("\x1b[{colour}m{text}\x1b[0m")
}

/// Returns a symbol, coloured if colours are printed.
pub(super) fn mark(sign: char, colour: u8) -> String {
    match colourful() {
        true => format!("\x1b[{colour}m{sign}\x1b[0m"),
        false => sign.to_string(),
    }
}

/// Returns the width of a text in columns, without colour codes.
fn width(text: &str) -> usize {
    let mut count = 0;
    let mut in_code = false;
    for c in text.chars() {
        match c {
            '\x1b' => in_code = true,
            'm' if in_code => in_code = false,
            _ if !in_code => count += 1,
            _ => {}
        }
    }
    count
}

/// Aligns rows into columns; the last column is not padded.
pub(super) fn table<const N: usize>(header: [&str; N], rows: &[[String; N]]) -> Vec<String> {
    let mut widths = header.map(width);
    for row in rows {
        for (column, cell) in widths.iter_mut().zip(row) {
            *column = (*column).max(width(cell));
        }
    }
    let line = |cells: Vec<&str>| {
        let padded = cells.iter().zip(widths).map(|(cell, column)| {
            format!("{cell}{}", " ".repeat(column.saturating_sub(width(cell))))
        });
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    std::iter::once(line(header.to_vec()))
        .chain(
            rows.iter()
                .map(|row| line(row.iter().map(String::as_str).collect())),
        )
        .collect()
}

/// Formats a number of bytes, like `312 B` or `4.2 MiB`.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1024.0;
    let mut unit = UNITS[0];
    for next in &UNITS[1..] {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    format!("{value:.1} {unit}")
}

/// Cuts a text to at most `longest` characters; a cut text ends with `…`.
pub(super) fn shorten(text: &str, longest: usize) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if text.chars().count() <= longest {
        return text;
    }
    let cut: String = text.chars().take(longest.saturating_sub(1)).collect();
    format!("{cut}…")
}

/// Returns a number with its noun, like `1 agent` or `3 agents`.
pub(super) fn counted(count: usize, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_whatever_their_colour() {
        let rows = [
            ["\x1b[32m● a\x1b[0m".to_owned(), "x".to_owned()],
            ["long".to_owned(), String::new()],
        ];
        assert_eq!(
            table(["S", "N"], &rows),
            ["S     N", "\x1b[32m● a\x1b[0m   x", "long"]
        );
    }

    #[test]
    fn json_keeps_its_meaning_and_controls_no_terminal() {
        let value = serde_json::json!({ "a": "\u{9b}6n\x1b\u{7f}é" });
        let shown = escape_controls(&serde_json::to_string_pretty(&value).unwrap()).into_owned();
        assert!(
            shown.chars().all(|c| !c.is_control() || c == '\n'),
            "{shown:?}"
        );
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&shown).unwrap(),
            value
        );
    }

    #[test]
    fn a_terminal_gets_colours_and_no_other_control_sequence() {
        assert_eq!(
            harmless("\x1b[1;31mred\x1b[0m\ta\n"),
            "\x1b[1;31mred\x1b[0m\ta\n"
        );
        for (text, shown) in [
            ("\x1b]0;title\x07x", "\u{fffd}]0;title\u{fffd}x"),
            ("\x1b[2Jx", "\u{fffd}[2Jx"),
            ("\x1b[6n", "\u{fffd}[6n"),
            ("a\rb\x08", "a\u{fffd}b\u{fffd}"),
            ("\u{9b}31m", "\u{fffd}31m"),
            ("\x1b[", "\u{fffd}["),
            // One character longer than the longest colour code.
            (&format!("\x1b[{:041}m", 0), &format!("\u{fffd}[{:041}m", 0)),
            ("\x1b", "\u{fffd}"),
        ] {
            assert_eq!(harmless(text), shown);
        }
    }

    #[test]
    fn a_long_text_becomes_one_short_line() {
        assert_eq!(shorten("a\n b  c", 9), "a b c");
        assert_eq!(shorten("abcdef", 4), "abc…");
    }
}
