//! Text to a terminal or to a pipe: lines, tables, colour where it is wanted.

use std::io::{self, IsTerminal as _, Write as _};

use serde::Serialize;

use crate::error::Result;
use crate::state::AgentState;

/// Prints a line. Whoever closed the pipe wanted no more.
pub(super) fn say(line: &str) {
    if writeln!(io::stdout().lock(), "{line}").is_err() {
        std::process::exit(0);
    }
}

/// Prints a line for a human beside the output.
pub(super) fn complain(line: &str) {
    writeln!(io::stderr().lock(), "{line}").ok();
}

/// Prints a value as JSON.
pub(super) fn json<T: Serialize>(value: &T) -> Result<()> {
    say(&serde_json::to_string_pretty(value)?);
    Ok(())
}

/// Whether colours are wanted: a terminal, and nobody said `NO_COLOR`.
pub(super) fn colourful() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// A state with its sign, coloured as everybody expects.
pub(super) fn state(state: AgentState) -> String {
    let text = format!("{} {}", state.glyph(), state.word());
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

/// A sign in a colour of the terminal, where colours are wanted.
pub(super) fn mark(sign: char, colour: u8) -> String {
    match colourful() {
        true => format!("\x1b[{colour}m{sign}\x1b[0m"),
        false => sign.to_string(),
    }
}

/// The columns a text takes, colour codes not counted.
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

/// Aligns rows into columns; the last one is as long as it is.
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

/// Cuts a text to so many characters, with a sign that it was cut.
pub(super) fn shorten(text: &str, longest: usize) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if text.chars().count() <= longest {
        return text;
    }
    let cut: String = text.chars().take(longest.saturating_sub(1)).collect();
    format!("{cut}…")
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
    fn a_long_text_becomes_one_short_line() {
        assert_eq!(shorten("a\n b  c", 9), "a b c");
        assert_eq!(shorten("abcdef", 4), "abc…");
    }
}
