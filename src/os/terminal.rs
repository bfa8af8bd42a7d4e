//! Text of others on its way to a terminal.

use std::borrow::Cow;

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
