//! Terminal output without control characters, and single-key input.

use std::borrow::Cow;
use std::io::{BufRead as _, BufReader, IsTerminal as _, Read, stdin};

use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

use crate::error::{Context as _, Result};

/// The longest piece of a line that is passed on at once, in bytes.
const PIECE: u64 = 64 << 10;

/// Prints what another process writes into a pipe, line by line, without characters that control a
/// terminal. That process does not get the terminal itself: it could type into the shell there.
pub fn pass_on(pipe: Option<impl Read>, print: impl Fn(&str)) {
    let Some(pipe) = pipe else { return };
    let mut lines = BufReader::new(pipe);
    let mut line = Vec::new();
    while matches!((&mut lines).take(PIECE).read_until(b'\n', &mut line), Ok(n) if n > 0) {
        print(&plain(&String::from_utf8_lossy(&line)));
        line.clear();
    }
}

/// Whether a terminal only displays the character.
#[must_use]
pub fn is_plain(c: char) -> bool {
    !c.is_control() || c == '\n' || c == '\t'
}

/// Returns the text without characters that control a terminal.
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

/// Makes the terminal deliver keys one by one, without echo; keys that send signals still do, and
/// output is unchanged. Returns whether standard input is a terminal at all.
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
