//! Screen of a pane: recognizes dialogs that block a start. Pure.
//!
//! Wording and layout change between versions (2.1.197 numbers the answers, 2.1.330 does not and
//! selects "No" first), so the match uses a few words that did not change. While one of these
//! dialogs is shown there is no `sessions/<pid>.json`, except with the session picker, whose file
//! has no status (measured on 2.1.197 and 2.1.330).
//!
//! Only use it while a start is not confirmed: a conversation may contain any of these words.

use std::fmt;

/// What waits for the user before the session begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Blocker {
    /// Whether the folder is trusted.
    Trust,
    /// Whether the API key in the environment is to be used.
    ApiKey,
    /// The warning of the bypass mode, whose default answer ends Claude.
    BypassPermissions,
    /// The very first start.
    Onboarding,
    /// No login.
    Login,
    /// `.claude.json` is damaged.
    BrokenConfig,
    /// No session of that name.
    SessionPicker,
    /// Another dialog, by its first line.
    Other(String),
}

/// Texts of which all must be on the pane, for each dialog.
const SIGNS: &[(&[&str], Blocker)] = &[
    (&["configuration error"], Blocker::BrokenConfig),
    (&["claude.json", "corrupted"], Blocker::BrokenConfig),
    (&["accessing workspace:", "trust"], Blocker::Trust),
    (&["do you trust the files"], Blocker::Trust),
    (&["adding a new directory:", "trust"], Blocker::Trust),
    (&["detected a custom api key"], Blocker::ApiKey),
    (
        &["bypass permissions mode", "yes, i accept"],
        Blocker::BypassPermissions,
    ),
    (
        &["resume session", "type to search"],
        Blocker::SessionPicker,
    ),
    (
        &["unable to connect to anthropic services"],
        Blocker::Onboarding,
    ),
    (&["choose the text style"], Blocker::Onboarding),
    (&["select login method"], Blocker::Login),
    (&["paste code here if prompted"], Blocker::Login),
    (&["not logged in", "/login"], Blocker::Login),
    (&["please run /login"], Blocker::Login),
];

/// Finds the dialog that blocks; `None` where the pane shows none.
#[must_use]
pub fn blocker(pane_text: &str) -> Option<Blocker> {
    // Narrow panes break lines anywhere between words.
    let flat = pane_text
        .to_lowercase()
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ");
    let known = SIGNS
        .iter()
        .find(|(signs, _)| signs.iter().all(|sign| flat.contains(sign)))
        .map(|(_, blocker)| blocker.clone());
    known.or_else(|| dialog(pane_text).map(Blocker::Other))
}

/// Returns the title of a dialog that blocks a start. It is recognized by the line of keys below
/// every one of them, and below the selected answer, which has this sign before it.
fn dialog(pane_text: &str) -> Option<String> {
    let below = pane_text
        .rsplit_once('❯')
        .map_or(pane_text, |(_, below)| below);
    let flat = below.to_lowercase();
    let shown = flat.contains("enter to confirm") || flat.contains("enter to continue");
    shown.then(|| title(pane_text))
}

/// Returns the title of what is shown in place of the input box. A dialog is below a line, and the
/// conversation above it.
#[must_use]
pub fn title(pane_text: &str) -> String {
    let is_border = |line: &&str| line.starts_with("───") || line.starts_with("▔▔▔");
    let below = pane_text.lines().skip_while(|line| !is_border(line));
    first_text_line(below.filter(|line| !is_border(line)))
        .or_else(|| first_text_line(pane_text.lines().filter(|line| !is_border(line))))
        .unwrap_or_else(|| "a dialog".into())
}

/// Whether the pane shows Claude Code's question at a usage limit. Escape has the same effect as
/// the first answer, which is to wait (measured on 2.1.197 and 2.1.330).
#[must_use]
pub fn shows_limit_question(pane_text: &str) -> bool {
    let text = pane_text.to_lowercase();
    let dialog = text.rsplit_once("what do you want to do?");
    dialog.is_some_and(|(_, answers)| {
        answers.contains("wait for limit to reset") && answers.contains("esc to cancel")
    })
}

/// Returns the first line with letters, which is a dialog's title.
fn first_text_line<'a>(lines: impl Iterator<Item = &'a str>) -> Option<String> {
    let mut lines = lines.map(str::trim);
    let words = lines.find(|line| line.chars().any(char::is_alphabetic))?;
    Some(
        words
            .chars()
            .filter(|c| !c.is_control())
            .take(120)
            .collect(),
    )
}

impl Blocker {
    /// Returns what the user can do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Trust => {
                "attach and answer once; for a folder of --add-dir, start claude in it once by hand"
            }
            Self::ApiKey => {
                "attach and answer once, or remove the key from customApiKeyResponses.rejected in \
                 .claude.json"
            }
            Self::BypassPermissions => {
                "attach and accept it once, or leave --dangerously-skip-permissions out"
            }
            Self::Onboarding => "check the network, then run claude once by hand",
            Self::Login => "attach and run /login; the other agents continue automatically",
            Self::BrokenConfig => "restart the agent: its .claude.json is rebuilt before the start",
            Self::SessionPicker => "leave it with Escape; sessions are resumed by id, not by name",
            Self::Other(_) => "attach and answer it",
        }
    }
}

impl fmt::Display for Blocker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Trust => "Claude asks whether to trust the folder",
            Self::ApiKey => "Claude asks whether to use the API key",
            Self::BypassPermissions => "Claude asks to accept the bypass mode",
            Self::Onboarding => "Claude is in its first-start setup",
            Self::Login => "Claude is not logged in",
            Self::BrokenConfig => "Claude cannot read its .claude.json",
            Self::SessionPicker => "Claude shows its list of sessions",
            Self::Other(title) => return write!(f, "Claude shows a dialog: {title}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dialogs_of_both_versions_are_recognized() {
        for (text, expected) in [
            (
                " Accessing workspace:\n /srv/work\n Quick safety check: Is this a project you \
                 created or one you trust?\n ❯ 1. Yes, I trust this folder\n   2. No, exit\n Enter \
                 to confirm · Esc to cancel",
                Blocker::Trust,
            ),
            (
                " Accessing workspace:\n /srv/work\n ❯ No, exit\n   Yes, I trust this folder",
                Blocker::Trust,
            ),
            (
                " Detected a custom API key in your environment\n Do you want to use this API \
                 key?\n ❯ 2. No (recommended)",
                Blocker::ApiKey,
            ),
            (
                " WARNING: Claude Code running in Bypass Permissions\n mode\n ❯ No, exit\n   Yes, \
                 I accept",
                Blocker::BypassPermissions,
            ),
            (
                " Configuration error\n /c/.claude.json isn't valid JSON.\n ❯ 1. Exit and fix \
                 manually",
                Blocker::BrokenConfig,
            ),
            (
                " Unable to connect to Anthropic services\n Failed to connect to \
                 api.anthropic.com: EAI_AGAIN",
                Blocker::Onboarding,
            ),
            (
                " Resume session\n ⌕ nosuchname\n No sessions match\n Type to search · Esc to \
                 clear",
                Blocker::SessionPicker,
            ),
            (
                "❯ hello\n  ⎿  Not logged in · Please run /login\n❯ ",
                Blocker::Login,
            ),
        ] {
            assert_eq!(blocker(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn a_session_at_its_prompt_is_not_blocked() {
        let pane = "● done one\n❯ \n  ⏵⏵ bypass permissions on (shift+tab to cycle) · ← for agents";
        assert_eq!(blocker(pane), None);
        assert_eq!(blocker(""), None);
    }

    #[test]
    fn only_the_question_at_a_limit_is_recognized() {
        let old = "❯ /rate-limit-options\n────\n  What do you want to do?\n  ❯ 1. Stop and wait \
                   for limit to reset\n    2. Upgrade your plan\n  Enter to confirm · Esc to \
                   cancel";
        let new = "▔▔▔\n  What do you want to do?\n  ❯ 1. Stop and wait for limit to reset\n    2. \
                   Wait here, then continue automatically at Nov 25, 11:40pm\n    3. Upgrade your \
                   plan\n  Enter to confirm · Esc to cancel";
        assert!(shows_limit_question(old) && shows_limit_question(new));
        let permission = "  Do you want to proceed?\n  ❯ 1. Yes\n    2. No\n  Esc to cancel";
        assert!(!shows_limit_question(permission));
        assert!(!shows_limit_question("❯ said: wait for limit to reset\n❯ "));
    }

    #[test]
    fn a_dialog_is_named_by_its_title_and_not_by_the_conversation_before_it() {
        for (pane, expected) in [
            (
                "❯ run it\n● Bash(x)\n─────\n Bash command\n\n   touch x\n ❯ 1. Yes",
                "Bash command",
            ),
            (
                "❯ /model\n▔▔▔▔▔\n  Select model\n  ❯ 1. Default",
                "Select model",
            ),
            (
                "● ok\n─── ↑ 2 more ── a ─\n\n─────\n  Background\n\n  Esc",
                "Background",
            ),
            ("  Rewind\n\n  ❯ (current)\n───── a ─\n", "Rewind"),
            ("─────\n❯ \n", "a dialog"),
        ] {
            assert_eq!(title(pane), expected, "{pane}");
        }
    }

    #[test]
    fn an_unknown_dialog_is_named_by_its_title() {
        let pane = "─────\n  A new \u{2}question\n  ❯ Yes\n Enter to confirm · Esc to cancel";
        assert_eq!(
            blocker(pane).map(|blocker| blocker.to_string()),
            Some("Claude shows a dialog: A new question".to_owned())
        );
    }
}
