//! The screen of the fake: output that scrolls, and below it an input box like the real program's.
//!
//! `claude::input_box` parses that box.

use std::io::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The maximum length of an input that is shown in full. The real program has 800, and wraps lines.
const SHOWN_MAX: usize = 150;

const LINE: &str = "────────────────────────────────────────────────────────────";

static TERMINAL: Mutex<Terminal> = Mutex::new(Terminal {
    input: Vec::new(),
    is_open: false,
    rows: 0,
});

#[derive(Debug)]
struct Terminal {
    /// The input, in UTF-8.
    input: Vec<u8>,
    is_open: bool,
    /// The number of rows that the box takes now.
    rows: usize,
}

/// Prints a line above the box. Errors are ignored: the terminal may be closed.
pub(super) fn show(text: &str) {
    let mut terminal = lock();
    terminal.erase();
    write(&format!("{text}\n"));
    terminal.draw();
}

/// Shows or hides the box.
pub(super) fn open_box(is_open: bool) {
    let mut terminal = lock();
    terminal.erase();
    terminal.is_open = is_open;
    terminal.draw();
}

/// Turns on bracketed paste mode.
pub(super) fn mark_pastes() {
    write("\u{1b}[?2004h");
}

fn lock() -> MutexGuard<'static, Terminal> {
    TERMINAL.lock().unwrap_or_else(PoisonError::into_inner)
}

fn write(text: &str) {
    let mut out = std::io::stdout();
    out.write_all(text.as_bytes()).ok();
    out.flush().ok();
}

impl Terminal {
    fn erase(&mut self) {
        if self.rows > 0 {
            write(&format!("\u{1b}[{}A\r\u{1b}[J", self.rows));
            self.rows = 0;
        }
    }

    fn draw(&mut self) {
        if !self.is_open {
            return;
        }
        let text = String::from_utf8_lossy(&self.input);
        let lines = text.lines().count().max(1);
        let shown = match lines > 3 || text.chars().count() > SHOWN_MAX {
            true => format!("[Pasted text #1 +{} lines]", lines - 1),
            false => text.replace('\n', "\n  "),
        };
        let drawn = format!("{LINE}\n❯\u{a0}{shown}\n{LINE}\n  ? for shortcuts\n");
        write(&drawn);
        self.rows = drawn.lines().count();
    }
}

/// The state of the key parser.
#[derive(Debug, Default)]
pub(super) struct Keys {
    /// An escape sequence that has begun, without the escape character.
    sequence: Option<Vec<u8>>,
    is_pasting: bool,
}

impl Keys {
    /// Processes input bytes; returns the texts that were submitted with Enter.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut terminal = lock();
        terminal.erase();
        let mut submitted = Vec::new();
        for byte in bytes {
            submitted.extend(self.take_one(*byte, &mut terminal.input));
        }
        terminal.draw();
        submitted
    }

    fn take_one(&mut self, byte: u8, input: &mut Vec<u8>) -> Option<String> {
        if let Some(sequence) = &mut self.sequence {
            sequence.push(byte);
            if byte.is_ascii_alphabetic() || byte == b'~' {
                self.is_pasting = match sequence.as_slice() {
                    b"[200~" => true,
                    b"[201~" => false,
                    _ => self.is_pasting,
                };
                self.sequence = None;
            }
            return None;
        }
        match byte {
            0x1b => self.sequence = Some(Vec::new()),
            // The terminal sends the same byte for Enter and for a line break in a paste.
            b'\r' | b'\n' if self.is_pasting => input.push(b'\n'),
            b'\r' | b'\n' => {
                let text = std::mem::take(input);
                return Some(String::from_utf8_lossy(&text).into_owned());
            }
            0x08 | 0x7f => while input.pop().is_some_and(|byte| (0x80..0xc0).contains(&byte)) {},
            byte if byte >= b' ' || byte == b'\t' => input.push(byte),
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_paste_is_one_text_and_enter_submits_it() {
        let (mut keys, mut input) = (Keys::default(), Vec::new());
        let mut typed = |bytes: &str| -> Vec<String> {
            let taken = bytes
                .bytes()
                .filter_map(|byte| keys.take_one(byte, &mut input));
            taken.collect()
        };
        let nothing: [&str; 0] = [];
        assert_eq!(typed("\u{1b}[200~one\rtwo\nü"), nothing);
        assert_eq!(typed("\u{1b}[201~\u{1b}[A!\u{7f}"), nothing);
        assert_eq!(typed("\n\n"), ["one\ntwo\nü", ""]);
        assert_eq!(typed("ü\u{7f}next\r"), ["next"]);
    }
}
