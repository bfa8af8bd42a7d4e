//! A terminal: what is harmless on it, and its keys one by one.

use std::borrow::Cow;
use std::io::{BufRead as _, BufReader, IsTerminal as _, Read, stdin};

use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

use crate::error::{Context as _, Result};

/// The longest piece of a line that is passed on at once, in bytes.
const PIECE: u64 = 64 << 10;

/// Passes on what another process says into a pipe, line by line, without anything that a terminal
/// would obey. The terminal itself is not for that process: it could type into the shell there.
pub fn pass_on(pipe: Option<impl Read>, print: impl Fn(&str)) {
    let Some(pipe) = pipe else { return };
    let mut lines = BufReader::new(pipe);
    let mut line = Vec::new();
    while matches!((&mut lines).take(PIECE).read_until(b'\n', &mut line), Ok(n) if n > 0) {
        print(&plain(&String::from_utf8_lossy(&line)));
        line.clear();
    }
}

/// Whether a terminal only shows it.
#[must_use]
pub fn is_plain(c: char) -> bool {
    !c.is_control() || c == '\n' || c == '\t'
}

/// Without anything that a terminal would obey.
#[must_use]
pub fn plain(text: &str) -> Cow<'_, str> {
    if text.chars().all(is_plain) {
        return Cow::Borrowed(text);
    }
    let shown = |c| match is_plain(c) {
        true => c,
        false => char::REPLACEMENT_CHARACTER,
    };
    Cow::Owned(text.chars().map(shown).collect())
}

/// Has keys come one by one, and shows none of them; signals keep their keys, and lines are written
/// as ever. Returns whether standard input is a terminal at all.
///
/// # Errors
/// The terminal is gone.
pub fn take_keys() -> Result<bool> {
    let stdin = stdin();
    if !stdin.is_terminal() {
        return Ok(false);
    }
    let mut modes = tcgetattr(&stdin).context("cannot read the terminal's modes")?;
    modes.local_modes -= LocalModes::ICANON | LocalModes::ECHO;
    tcsetattr(&stdin, OptionalActions::Now, &modes).context("cannot set the terminal's modes")?;
    Ok(true)
}
