//! Typing into an agent so that the text really is sent.
//!
//! Claude swallows an Enter that comes right behind a paste (measured on 2.1.197: in about one of
//! four). So the text is waited for on the screen, Enter comes a moment later, and again while the
//! text still stands in the input line. The state that Claude tells of itself does not serve: a
//! short turn changes nothing in it (measured on both versions), a command of its own neither.

use std::time::{Duration, Instant};

use crate::claude::{self, screen};
use crate::error::{Hint as _, Kind, Result, anyhow};
use crate::state::AgentName;
use crate::tmux::Tmux;

/// How long the text may take to appear; a busy screen may never show it.
const SHOW_LIMIT: Duration = Duration::from_secs(1);

/// How often the screen is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// By how many of its last characters a text is known.
const LANDMARK: usize = 24;

/// Between the text and Enter: with this much, none of ten was swallowed.
const PAUSE: Duration = Duration::from_millis(150);

/// How long a text may still stand in the input line after Enter.
const TAKE_LIMIT: Duration = Duration::from_secs(2);

/// How often Enter is pressed. On an empty input it does nothing.
const TRIES: usize = 3;

/// Types `text` into an agent and sends it.
///
/// # Errors
/// It has no pane, or the text stays in its input line.
fn type_text(tmux: &Tmux, name: &AgentName, text: &str) -> Result<()> {
    let before = tmux.screen(name)?;
    tmux.paste(name, text)?;
    wait(SHOW_LIMIT, || {
        Ok(landed(&before, &tmux.screen(name)?, text))
    })?;
    std::thread::sleep(PAUSE);
    for _ in 0..TRIES {
        tmux.press_enter(name)?;
        if wait(TAKE_LIMIT, || Ok(!is_in_input(&tmux.screen(name)?, text)))? {
            return Ok(());
        }
    }
    Err(anyhow!("the text stays in the input line of {name}"))
        .hint(format!("spotkeep attach {name}"))
        .kind(Kind::NotAsDeclared)
}

/// Types `text` into an agent and sends it, unless somebody else's words stand there already: they
/// would be sent with it.
///
/// # Errors
/// There are such words; as [`type_text`].
pub(super) fn type_politely(tmux: &Tmux, name: &AgentName, text: &str) -> Result<()> {
    if screen::has_unsent_text(&tmux.coloured_screen(name)?) {
        return Err(anyhow!(
            "unsent words stand in the input line of {name}, and would be sent with these"
        ))
        .hint(format!("spotkeep attach {name}"))
        .kind(Kind::NotAsDeclared);
    }
    type_text(tmux, name, text)
}

/// Types a nudge, if nothing that a person is about to do is in its way; the reason if there is.
///
/// # Errors
/// It has no pane, or the text stays in its input line.
pub(super) fn nudge(
    tmux: &Tmux,
    name: &AgentName,
    text: &str,
    is_idle: impl Fn() -> bool,
) -> Result<Option<String>> {
    if claude::screen::shows_limit_question(&tmux.screen(name)?) {
        tmux.press_escape(name)?;
        wait(SHOW_LIMIT, || {
            Ok(!claude::screen::shows_limit_question(&tmux.screen(name)?))
        })?;
    }
    if !wait(SHOW_LIMIT, || Ok(is_idle()))? {
        return Ok(Some("it is not at its prompt".into()));
    }
    let screen = tmux.screen(name)?;
    if let Some(dialog) = claude::screen::dialog(&screen) {
        return Ok(Some(format!("it shows a dialog: {dialog}")));
    }
    if claude::screen::has_unsent_text(&tmux.coloured_screen(name)?) {
        return Ok(Some("unsent words stand in its input line".into()));
    }
    type_text(tmux, name, text).map(|()| None)
}

/// Whether it came true within the limit. What a pane shows can only be asked for.
fn wait(limit: Duration, is_true: impl Fn() -> Result<bool>) -> Result<bool> {
    let until = Instant::now() + limit;
    loop {
        if is_true()? {
            return Ok(true);
        }
        if Instant::now() >= until {
            return Ok(false);
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Whether a text is shown in the input line, and thus was not sent.
fn is_in_input(screen: &str, text: &str) -> bool {
    let end = landmark(text);
    let input = screen::input(screen).map(squeeze).unwrap_or_default();
    !end.is_empty() && (input.contains(&end) || input.contains(LONG))
}

/// Whether a screen shows a pasted text that it did not show before: its end, wherever lines were
/// broken, or what Claude shows in place of a long one.
fn landed(before: &str, after: &str, text: &str) -> bool {
    let (before, after, end) = (squeeze(before), squeeze(after), landmark(text));
    let shows_more = |what: &str| after.matches(what).count() > before.matches(what).count();
    end.is_empty() || shows_more(&end) || shows_more(LONG)
}

/// What Claude shows in place of a long text, squeezed.
const LONG: &str = "[Pastedtext";

/// The last characters of a text, squeezed.
fn landmark(text: &str) -> String {
    let last_line = text.trim_end().lines().next_back().unwrap_or_default();
    let end: Vec<char> = squeeze(last_line).chars().collect();
    end[end.len().saturating_sub(LANDMARK)..].iter().collect()
}

/// Without any space, since lines are broken anywhere.
fn squeeze(text: &str) -> String {
    text.split_whitespace().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pasted_text_has_landed_when_it_shows_once_more_than_before() {
        let said = "❯ run the tests again\n● Done.\n";
        let text = "run the tests again";
        assert!(!landed(said, said, text));
        assert!(!landed(said, &format!("{said}✻ Thinking"), text));
        assert!(landed(
            said,
            &format!("{said}❯ run the tests\n  again\n"),
            text
        ));
        assert!(landed(
            said,
            &format!("{said}❯ [Pasted text #1 +30 lines]"),
            "one\ntwo\n"
        ));
        assert!(landed(said, said, "\n"));
    }
    #[test]
    fn a_text_is_unsent_while_it_stands_in_the_input_line() {
        let text = "run the tests again";
        assert!(is_in_input(
            "❯ before\n● Done.\n───\n❯ run the tests\n  again\n───\n",
            text
        ));
        assert!(is_in_input("❯ [Pasted text #1 +30 lines]\n", "one\ntwo\n"));
        assert!(!is_in_input(
            "❯ run the tests again\n● Done.\n───\n❯ \n───\n",
            text
        ));
        assert!(
            !is_in_input("run the tests again\n", text),
            "it has no such line"
        );
    }
}
