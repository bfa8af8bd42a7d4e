//! Input box of Claude Code's screen: its content, and when Enter may be pressed. Pure.
//!
//! Measured on 2.1.197, 2.1.263 and 2.1.330:
//!
//! ```text
//! ──────────────────────────── NAME ──   also `─── ↑ 2 more ──…` where its first lines are cut off
//! ❯ the text, with a no-break space in front, and a reversed cursor
//!   its further lines                    `!` in place of `❯` in the shell mode
//! ────────────────────────────────────
//!   the footer: a status line of the user's, the mode, hints
//! ```
//!
//! * A dialog takes the place of the box. One of them (`AskUserQuestion`) also marks an answer in
//!   the first column between two such lines; the text after the answer begins in the first column
//!   too.
//! * Claude Code dims its suggestions, except for the first character, which is the cursor.
//! * More than two lines, or 800 characters, are shown as `[Pasted text #1 +29 lines]`.
//! * An Enter that comes before a paste is shown is lost. Of 680 that came after it was shown, on
//!   2.1.197 and 2.1.330, none was lost.
//! * While the box holds a text, no dialog opens for 1.5 s after its last change. So an Enter
//!   within that time answers no question that was not on the screen before.

use std::time::{Duration, Instant};

/// How long a text has to stay unchanged before Enter.
const STILL: Duration = Duration::from_millis(150);

/// The same after a change that cannot be seen, on a machine that was slow just before.
const STILL_UNSEEN: Duration = Duration::from_millis(500);

/// How long after a change Enter may be pressed: less than Claude Code's 1.5 s.
const WITHIN: Duration = Duration::from_secs(1);

/// What Claude Code shows in place of a long text, without spaces.
const COLLAPSED: &str = "[Pastedtext#";

/// Text in the box of the list of sessions, which looks like that of a session. A text that is
/// typed there begins another session.
const OF_SESSION_LIST: &str = "describeataskforanewsession";

/// The input box of a screen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputBox {
    /// The text that was typed, without spaces and without Claude Code's suggestions.
    typed: String,
    /// It has more than one line, or lines that are not shown.
    may_be_cut: bool,
    in_shell_mode: bool,
}

impl InputBox {
    /// Finds the box on a screen that was captured with its colours; `None` where there is none.
    #[must_use]
    pub fn find(coloured_screen: &str) -> Option<Self> {
        let lines = cells(coloured_screen);
        let text: Vec<String> = lines.iter().map(|line| plain(line)).collect();
        // A user's status line may contain borders as well, which are shorter.
        let widest = text
            .iter()
            .filter(|line| is_lower_border(line))
            .max_by_key(|line| line.len())?;
        let lower = text.iter().rposition(|line| line == widest)?;
        let upper = text[..lower].iter().rposition(|line| is_border(line))?;
        let (first, further) = text[upper + 1..lower].split_first()?;
        let sign = first
            .chars()
            .next()
            .filter(|sign| matches!(sign, '❯' | '!'));
        let starts_in_the_middle = text[upper].contains('↑') && is_indented(first);
        let is_box = sign.is_some_and(|sign| is_indented(&first.replacen(sign, " ", 1)))
            || starts_in_the_middle;
        if !is_box || !further.iter().all(|line| is_indented(line)) {
            return None;
        }
        let mut body = lines[upper + 1..lower].concat();
        if sign.is_some() {
            body.remove(0);
        }
        Some(Self {
            typed: typed(&body),
            may_be_cut: starts_in_the_middle || !further.is_empty(),
            in_shell_mode: sign == Some('!'),
        })
    }

    /// Whether it has no typed text.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.typed.is_empty() && !self.in_shell_mode
    }

    /// Whether it belongs to the list of sessions.
    #[must_use]
    pub fn is_of_session_list(&self) -> bool {
        self.typed == OF_SESSION_LIST
    }

    /// Whether the box holds this text, after it was pasted into the empty box, and nothing else.
    #[must_use]
    pub fn holds(&self, text: &str) -> bool {
        let text = match text.strip_prefix('!') {
            Some(command) if self.in_shell_mode => command,
            _ => text,
        };
        let (text, typed) = (squeeze(text), self.typed.as_str());
        let is_collapsed = typed.starts_with(COLLAPSED)
            && typed.find(']').is_some_and(|end| end + 1 == typed.len());
        if typed.is_empty() || is_collapsed {
            return is_collapsed;
        }
        let (desired, shown) = (common(&text), common(typed));
        // After a command, Claude Code shows its arguments.
        let has_hint = text.starts_with('/') && shown.starts_with(&desired);
        let is_end = self.may_be_cut && !shown.is_empty() && desired.ends_with(&shown);
        shown == desired || has_hint || is_end
    }

    /// Whether the box may still hold this text after an Enter that Claude Code did not take as
    /// submit: it inserted a line break, or chose a name that the text begins.
    #[must_use]
    pub fn may_hold(&self, text: &str) -> bool {
        let (desired, shown) = (common(&squeeze(text)), common(&self.typed));
        let is_begun = !shown.is_empty() && desired.starts_with(&shown);
        let goes_on = !desired.is_empty() && shown.starts_with(&desired);
        self.holds(text) || is_begun || goes_on
    }
}

/// Returns the characters of a squeezed text that a terminal returns unchanged; emoji and the like
/// may change.
fn common(text: &str) -> String {
    let is_common = |c: &char| c.is_alphanumeric() || c.is_ascii_graphic();
    text.chars().filter(is_common).collect()
}

/// Returns a text in a form that can be pasted: nothing in it ends the paste or presses a key, and
/// nothing at its end makes Enter do something else than submit.
#[must_use]
pub fn pasteable(text: &str) -> String {
    let lines = text.replace("\r\n", "\n").replace('\r', "\n");
    let kept = |c: &char| !c.is_control() || matches!(c, '\n' | '\t');
    let lines: Vec<String> = lines
        .lines()
        .map(|line| {
            cells(line)
                .concat()
                .iter()
                .map(|(c, _)| *c)
                .filter(kept)
                .collect()
        })
        .collect();
    let mut text = lines.join("\n").trim_end().to_owned();
    let last_word = text.split_whitespace().next_back().unwrap_or_default();
    // Enter turns a backslash into a line break, and accepts a suggested file (2.1.197).
    if last_word.ends_with('\\') || last_word.contains('@') {
        text.push(' ');
    }
    text
}

/// Decides when to press Enter after a text has been pasted.
#[derive(Debug)]
pub struct TypedTextCheck {
    /// Earliest time of the last change of the box.
    changed: Instant,
    /// Since when the box has been seen with the text.
    stands: Option<Instant>,
    /// How long the text has to stay unchanged.
    still: Duration,
}

/// What to do after a capture of the box.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Capture again.
    Wait,
    /// Change the box, by a space: Enter would come too late after its last change.
    Renew,
    /// Press Enter.
    Press,
}

impl TypedTextCheck {
    /// Starts the check when a text is about to be pasted.
    #[must_use]
    pub fn begin(now: Instant) -> Self {
        Self {
            changed: now,
            stands: None,
            still: STILL,
        }
    }

    /// Applies a capture that lasted from `began` to `now`; `stands`: the box held the text.
    #[must_use]
    pub fn observe(&mut self, began: Instant, now: Instant, stands: bool) -> Next {
        if !stands {
            self.changed = began;
            self.stands = None;
            return Next::Wait;
        }
        let since = *self.stands.get_or_insert(now);
        if now.duration_since(self.changed) > WITHIN {
            *self = Self::begin(now);
            self.still = STILL_UNSEEN;
            return Next::Renew;
        }
        match now.duration_since(since) >= self.still {
            true => Next::Press,
            false => Next::Wait,
        }
    }
}

/// How a character is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shade {
    Normal,
    Dim,
    Reversed,
}

/// Returns the characters of each line of a captured screen, and how they are drawn.
fn cells(screen: &str) -> Vec<Vec<(char, Shade)>> {
    let (mut dim, mut reversed) = (false, false);
    let mut lines = Vec::new();
    for line in screen.lines() {
        let mut cells = Vec::new();
        let mut rest = line;
        while let Some(first) = rest.chars().next() {
            if let Some(link) = rest.strip_prefix("\u{1b}]") {
                let end = link.find(['\u{7}', '\u{1b}']).unwrap_or(link.len());
                rest = link[end..]
                    .trim_start_matches('\u{7}')
                    .trim_start_matches("\u{1b}\\");
                continue;
            }
            if let Some(sequence) = rest.strip_prefix("\u{1b}[") {
                let end = sequence.find(|c| !(' '..='?').contains(&c));
                let (codes, after) = sequence.split_at(end.unwrap_or(sequence.len()));
                if after.starts_with('m') {
                    (dim, reversed) = shade(codes, dim, reversed);
                }
                rest = after
                    .strip_prefix(|c| ('@'..='~').contains(&c))
                    .unwrap_or(after);
                continue;
            }
            let shade = match (reversed, dim) {
                (true, _) => Shade::Reversed,
                (false, true) => Shade::Dim,
                (false, false) => Shade::Normal,
            };
            cells.push((first, shade));
            rest = &rest[first.len_utf8()..];
        }
        lines.push(cells);
    }
    lines
}

/// Returns the shade after a sequence of codes.
fn shade(codes: &str, mut dim: bool, mut reversed: bool) -> (bool, bool) {
    let mut codes = codes.split(';');
    while let Some(code) = codes.next() {
        match code {
            "" | "0" => (dim, reversed) = (false, false),
            "2" => dim = true,
            "22" => dim = false,
            "7" => reversed = true,
            "27" => reversed = false,
            // A colour, with its own numbers after it: `38;5;2` does not change the shade.
            "38" | "48" | "58" => {
                let numbers = if codes.next() == Some("2") { 3 } else { 1 };
                codes.by_ref().take(numbers).for_each(drop);
            }
            _ => {}
        }
    }
    (dim, reversed)
}

fn plain(line: &[(char, Shade)]) -> String {
    let line: String = line.iter().map(|(c, _)| c).collect();
    line.trim_end().to_owned()
}

/// Returns what was typed among the characters of a box. A cursor alone is not text; on a
/// suggestion it belongs to the suggestion.
fn typed(body: &[(char, Shade)]) -> String {
    let is_proposal = body
        .iter()
        .any(|(c, shade)| *shade == Shade::Dim && !c.is_whitespace());
    let is_typed = |(_, shade): &&(char, Shade)| match shade {
        Shade::Normal => true,
        Shade::Dim => false,
        Shade::Reversed => !is_proposal,
    };
    let typed: String = body.iter().filter(is_typed).map(|(c, _)| c).collect();
    squeeze(&typed)
}

/// Whether a line is a border of the box. The upper one may hold a name.
fn is_border(line: &str) -> bool {
    line.starts_with("───") && line.ends_with('─')
}

fn is_lower_border(line: &str) -> bool {
    is_border(line) && line.chars().all(|c| c == '─')
}

fn is_indented(line: &str) -> bool {
    line.chars().take(2).all(char::is_whitespace)
}

/// Removes all spaces, since lines are broken anywhere, and all invisible characters.
fn squeeze(text: &str) -> String {
    let is_seen = |c: &char| !c.is_whitespace() && !c.is_control();
    text.chars().filter(is_seen).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "────────────────────────────────────────";
    const OLD: &str = "\u{1b}[38;5;37m──────────────────────────────\u{1b}[38;5;16m\u{1b}[48;5;37m \
                       agent \
                       \u{1b}[38;5;37m\u{1b}[49m──";
    const NEW: &str = "\u{1b}[38;5;244m──────────────────────────────── agent ─";
    /// Footers below an empty box, of each version; they contain various words.
    const OLD_FOOTER: &str = "  ? for shortcuts · ← for agents        ● high · /effort";
    const NEW_FOOTER: &str = "  ⏵⏵ bypass permissions on (shift+tab to cycle) · ← for agents";

    /// Returns a screen with some output, and a box.
    fn screen(upper: &str, body: &str, footer: &str) -> String {
        format!(
            "❯ said before\n\n● Done, they all pass.\n\n{upper}\n\u{1b}[39m{body}\n\
             \u{1b}[0m\u{1b}[38;5;244m{LINE}\n{footer}\n\n"
        )
    }

    /// Returns the boxes of both versions' screens.
    fn inputs(body: &str) -> [InputBox; 2] {
        [(OLD, OLD_FOOTER), (NEW, NEW_FOOTER)]
            .map(|(upper, footer)| InputBox::find(&screen(upper, body, footer)).expect(body))
    }

    #[test]
    fn an_empty_box_is_empty_whatever_claude_suggests_in_it_and_writes_below() {
        for body in [
            "❯\u{a0}",
            "❯\u{a0}\u{1b}[7m \u{1b}[0m\u{1b}[39m\u{1b}[49m",
            "❯\u{a0}\u{1b}[7mT\u{1b}[27m\u{1b}[2mry \"fix lint errors\"\u{1b}[0m",
            "\u{1b}[38;5;246m❯\u{a0}\u{1b}[7m\u{1b}[39mP\u{1b}[0;2mress up to edit queued messages",
        ] {
            for input in inputs(body) {
                assert!(input.is_empty(), "{body:?}: {input:?}");
                // Each of these is in one of the footers.
                for text in ["y", "hi", "on", "to", "for agents", "hello"] {
                    assert!(!input.holds(text), "{body:?} holds {text}");
                }
            }
        }
    }

    #[test]
    fn a_text_in_the_box_is_found_however_claude_draws_it() {
        let long = "line\n".repeat(30);
        for (body, text) in [
            ("❯\u{a0}y\u{1b}[7m \u{1b}[0m", "y"),
            ("❯\u{a0}to", "to"),
            // The cursor on the only character, and on the first of several.
            ("❯\u{a0}\u{1b}[7my\u{1b}[0m\u{1b}[39m", "y"),
            ("❯\u{a0}\u{1b}[7mo\u{1b}[0m\u{1b}[39mne\n  two", "one\ntwo"),
            (
                "❯\u{a0}one\n\n  two words\n  three\u{1b}[7m",
                "one\n\ntwo words\nthree",
            ),
            (
                "❯\u{a0}a text that is\n  broken anywhere",
                "a text that is broken anywhere",
            ),
            ("❯\u{a0}tab    end", "tab\tend"),
            ("❯\u{a0}⚠️  ünï 日本語\u{1b}[7m", "⚠️ ünï 日本語"),
            ("❯\u{a0}👍\u{1b}[7m", "👍"),
            ("❯\u{a0}[Pasted text #1 +29 lines]\u{1b}[7m", &long),
            ("\u{1b}[38;5;211m!\u{a0}\u{1b}[39mecho hi", "!echo hi"),
            (
                "❯\u{a0}\u{1b}[38;5;153m/compact\u{1b}[39m  \u{1b}[38;5;246m<instructions>",
                "/compact",
            ),
            (
                "❯\u{a0}\u{1b}[38;5;210mu\u{1b}[38;5;216mltrathink\u{1b}[39m",
                "ultrathink",
            ),
            ("❯\u{a0}trailing \\\u{1b}[7m", "trailing \\"),
        ] {
            for input in inputs(body) {
                assert!(
                    input.holds(text) && !input.is_empty(),
                    "{body:?}: {input:?}"
                );
            }
        }
    }

    #[test]
    fn text_of_another_user_does_not_match_and_neither_does_a_part() {
        for (body, text) in [
            ("❯\u{a0}mine y", "y"),
            ("❯\u{a0}y and more", "y"),
            ("❯\u{a0}run the", "run the tests"),
            ("❯\u{a0}the tests", "run the tests"),
            (
                "❯\u{a0}[Pasted text #1 +29 lines] y",
                "one\ntwo\nthree\nfour",
            ),
            ("❯\u{a0}one\n  two", "two"),
            ("❯\u{a0}echo hi", "!echo hi"),
            ("!\u{a0}", "!"),
        ] {
            for input in inputs(body) {
                assert!(
                    !input.holds(text) && !input.is_empty(),
                    "{body:?}: {input:?}"
                );
            }
        }
    }

    #[test]
    fn a_text_that_enter_only_changed_may_still_be_in_the_box() {
        for (body, text, may) in [
            ("❯\u{a0}look at @src/main.rs", "look at @src/m", true),
            ("❯\u{a0}a path\n", "a path\\", true),
            (
                "❯\u{a0}[Pasted text #1 +29 lines]",
                "one\ntwo\nthree\nfour",
                true,
            ),
            ("❯\u{a0}a draft that was put away", "go on", false),
            ("❯\u{a0}", "go on", false),
            ("❯\u{a0}", "👍", false),
            ("❯\u{a0}a draft", "👍", false),
        ] {
            for input in inputs(body) {
                assert_eq!(input.may_hold(text), may, "{body:?}: {input:?}");
            }
        }
    }

    #[test]
    fn a_text_that_is_too_long_for_the_terminal_is_found_by_its_end() {
        let text = format!("{}the end", "word ".repeat(150));
        for (upper, body) in [
            (
                "─── ↑ 8 more ──────────────────── agent ─",
                "  word word word\n  word the end",
            ),
            (NEW, "❯\u{a0}word word word\n  word the end"),
        ] {
            let input = InputBox::find(&screen(upper, body, "")).unwrap();
            assert!(input.holds(&text), "{input:?}");
            assert!(!input.holds("word the ends"), "{input:?}");
        }
    }

    #[test]
    fn a_status_line_that_looks_like_a_box_is_ignored() {
        for (body, text) in [("❯\u{a0}", None), ("❯\u{a0}hello y", Some("hello y"))] {
            for footer in [
                "  ────────────────────\n  ❯ status y\n  ──────────\n  -- INSERT --",
                "────────────────────\n❯ status y\n──────────\n  -- INSERT --",
            ] {
                let input = InputBox::find(&screen(NEW, body, footer)).unwrap();
                assert_eq!(input.is_empty(), text.is_none(), "{input:?}");
                assert!(!input.holds("status y") && !input.holds("y"), "{input:?}");
                assert!(text.is_none_or(|text| input.holds(text)), "{input:?}");
            }
        }
    }

    #[test]
    fn no_dialog_of_any_version_is_mistaken_for_the_box() {
        let said = "❯ run it\n\n● Bash(touch x1)\n  ⎿  Waiting…\n\n";
        for shown in [
            // Permission to run a command (2.1.197, then 2.1.330, whose last line stays).
            format!(
                "{LINE}\n Bash command\n\n   touch x1\n\n Do you want to proceed?\n ❯ 1. Yes\n   \
                 2. No\n\n \
                 Esc to cancel · Tab to amend"
            ),
            format!(
                "{LINE}\n Bash command\n╌╌╌╌╌╌\n touch x1\n╌╌╌╌╌╌\n Do you want to proceed?\n ❯ 1. \
                 Yes\n   \
                 2. No\n\n Esc to cancel\n\n\n{NEW}"
            ),
            // A question of the model, with each of its answers selected.
            format!(
                "{LINE}\n ☐ Pick\n\nWhich one?\n\n❯ 1. Red\n     r\n  2. Type \
                 something.\n{LINE}\n  3. Chat \
                 about this\n\nEnter to select · Esc to cancel\n\n{NEW}"
            ),
            format!(
                "{LINE}\n ☐ Pick\n\nWhich one?\n\n  1. Red\n❯ 2. my own answer\n     in two \
                 lines\n{LINE}\n  \
                 3. Chat about this\n\nEnter to select · Esc to cancel"
            ),
            format!(
                "{LINE}\n ☐ Pick\n\nWhich one?\n\n  1. Red\n  2. Type something.\n{LINE}\n❯ 3. \
                 Chat about this\n\n\
                 Enter to select · Esc to cancel\n\n{LINE}"
            ),
            // The model, the help, the list of background tasks (2.1.197), the whole transcript,
            // the rewind dialog.
            format!(
                "{LINE}\n  Select model\n\n  ❯ 1. Default ✔\n    2. Opus\n\n  Enter to save\n{OLD}"
            ),
            "▔▔▔▔▔▔▔▔▔▔▔▔\n  Select model\n\n  ❯ 1. Default ✔\n    2. Opus\n\n  Enter to save"
                .to_owned(),
            format!(
                "{OLD}\n\n{LINE}\n  Background\n\n  No tasks currently running\n\n  Esc to close"
            ),
            format!("● ok\n\n{LINE}\n  Showing detailed transcript · ctrl+o to toggle"),
            "  Rewind\n\n    hello\n    No code changes\n\n  ❯ (current)\n\n  Enter to continue"
                .to_owned(),
            // A start, and a shell without Claude Code.
            format!(
                "{LINE}\n Accessing workspace:\n /srv\n ❯ 1. Yes, I trust this folder\n Enter to \
                 confirm"
            ),
            "$ ".to_owned(),
            String::new(),
        ] {
            assert_eq!(InputBox::find(&format!("{said}{shown}\n")), None, "{shown}");
        }
    }

    #[test]
    fn the_list_of_sessions_is_recognized_by_its_placeholder() {
        let list = format!(
            "Needs input\n ✻ a       ok · \
             →\n\n\u{1b}[2m{LINE}\n\u{1b}[0m\u{1b}[38;5;246m❯\u{1b}[39m \
             \u{1b}[38;5;246mdescribe a task for a new session\n\u{1b}[2m{LINE}\n  enter to open"
        );
        assert!(InputBox::find(&list).unwrap().is_of_session_list());
        assert!(
            inputs("❯\u{a0}hello")
                .iter()
                .all(|input| !input.is_of_session_list())
        );
    }

    #[test]
    fn no_pasted_text_presses_a_key_and_its_end_is_submitted_unchanged() {
        for (text, pasted) in [
            ("one\r\ntwo\rthree\n\n", "one\ntwo\nthree"),
            ("a\u{1b}[201~\rb", "a\nb"),
            (
                "\u{1b}[31mred\u{1b}[0m \u{1b}]0;title\u{7}text\u{3}\u{7f}\u{0}",
                "red text",
            ),
            ("\ttab ü 日本", "\ttab ü 日本"),
            ("a path\\", "a path\\ "),
            ("look at @src/main.rs", "look at @src/main.rs "),
            ("@a is it", "@a is it"),
            (" \u{1b}[0m\n", ""),
        ] {
            assert_eq!(pasteable(text), pasted, "{text:?}");
        }
    }

    #[test]
    fn enter_is_pressed_once_the_text_is_stable_and_before_a_dialog_can_open() {
        let ms = Duration::from_millis;
        // Begin and end of each capture, whether the box held the text, and what is done then.
        let none: &[(u64, u64, bool, Next)] =
            &[(0, 5, false, Next::Wait), (50, 55, false, Next::Wait)];
        let quick = &[
            (0, 5, true, Next::Wait),
            (100, 105, true, Next::Wait),
            (150, 160, true, Next::Press),
        ];
        let flickers = &[
            (0, 5, true, Next::Wait),
            (100, 105, false, Next::Wait),
            (160, 165, true, Next::Wait),
            (300, 320, true, Next::Press),
        ];
        let late = &[
            (0, 5, false, Next::Wait),
            (5_000, 5_010, false, Next::Wait),
            (5_060, 5_800, true, Next::Wait),
            (5_900, 6_100, true, Next::Renew),
            (6_150, 6_200, true, Next::Wait),
            (6_600, 6_699, true, Next::Wait),
            (6_700, 6_750, true, Next::Press),
        ];
        for captures in [none, quick, flickers, late] {
            let begin = Instant::now();
            let mut landing = TypedTextCheck::begin(begin);
            for (began, ended, stands, next) in captures {
                let seen = landing.observe(begin + ms(*began), begin + ms(*ended), *stands);
                assert_eq!(seen, *next, "at {ended} ms of {captures:?}");
            }
        }
    }
}
