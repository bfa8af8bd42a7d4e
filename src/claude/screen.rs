//! Pure: what a pane shows that blocks a start.
//!
//! The wording and the layout move between versions (2.1.197 numbers the answers, 2.1.330 does not
//! and lights "No" first), so a few words that stayed are looked for. While one of these dialogs is
//! shown there is no `sessions/<pid>.json`, except with the session picker, whose file has no
//! status (measured on 2.1.197 and 2.1.330).
//!
//! Only ask while a start does not come up: a conversation may speak of any of these words.

use std::fmt;

/// What waits for a human before the session begins.
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

/// What every line of the last alternative must hold.
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

/// Finds what blocks; `None` where nothing does, so far as the pane can tell.
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

/// The title of a dialog that a pane shows, by the line of keys that is below every one of them, and
/// below the answer that is lit.
#[must_use]
pub fn dialog(pane_text: &str) -> Option<String> {
    let below = input(pane_text).unwrap_or(pane_text);
    let flat = below.to_lowercase();
    let shown = flat.contains("enter to confirm") || flat.contains("enter to continue");
    shown.then(|| first_words(pane_text))
}

/// What stands in the input line, with all that is below it; `None` where there is no such line.
/// Both versions begin it with this sign, and what was said before with the same.
#[must_use]
pub fn input(pane_text: &str) -> Option<&str> {
    pane_text.rsplit_once('❯').map(|(_, input)| input)
}

/// Whether the pane shows the question that Claude asks at a usage limit. Its first answer, to wait,
/// is what leaving it with Escape comes to (measured on 2.1.197 and 2.1.330).
#[must_use]
pub fn shows_limit_question(pane_text: &str) -> bool {
    let text = pane_text.to_lowercase();
    let dialog = text.rsplit_once("what do you want to do?");
    dialog.is_some_and(|(_, answers)| {
        answers.contains("wait for limit to reset") && answers.contains("esc to cancel")
    })
}

/// Whether somebody's unsent words stand in the input line of a pane that was captured with its
/// colours. What Claude itself shows there, a dimmed proposal behind a reversed cursor, is none.
#[must_use]
pub fn has_unsent_text(coloured_pane: &str) -> bool {
    let Some((_, input)) = coloured_pane.rsplit_once('❯') else {
        return false;
    };
    let line = input.lines().next().unwrap_or_default();
    let (mut dim, mut reversed) = (false, false);
    let mut rest = line;
    while let Some(first) = rest.chars().next() {
        if let Some(sequence) = rest.strip_prefix("\u{1b}[") {
            let end = sequence.find(|c: char| c.is_ascii_alphabetic());
            let (codes, after) = sequence.split_at(end.unwrap_or(sequence.len()));
            if after.starts_with('m') {
                for code in codes.split(';') {
                    match code {
                        "" | "0" => (dim, reversed) = (false, false),
                        "2" => dim = true,
                        "22" => dim = false,
                        "7" => reversed = true,
                        "27" => reversed = false,
                        _ => {}
                    }
                }
            }
            rest = after.get(1..).unwrap_or_default();
            continue;
        }
        if !first.is_whitespace() && !first.is_control() && !dim && !reversed {
            return true;
        }
        rest = &rest[first.len_utf8()..];
    }
    false
}

/// The first line that holds words, which is a dialog's title.
fn first_words(pane_text: &str) -> String {
    pane_text
        .lines()
        .map(str::trim)
        .find(|line| line.chars().any(char::is_alphabetic))
        .unwrap_or("a dialog")
        .chars()
        .filter(|c| !c.is_control())
        .take(120)
        .collect()
}

impl Blocker {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Trust => {
                "attach and answer once; for a folder of --add-dir, start claude in it once by hand"
            }
            Self::ApiKey => {
                "attach and answer once, or remove the key from customApiKeyResponses.rejected in .claude.json"
            }
            Self::BypassPermissions => {
                "attach and accept it once, or leave --dangerously-skip-permissions out"
            }
            Self::Onboarding => "check the network, then run claude once by hand",
            Self::Login => "attach and run /login; the other agents go on by themselves",
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
    fn the_dialogs_of_both_versions_are_known() {
        for (text, expected) in [
            (
                " Accessing workspace:\n /srv/work\n Quick safety check: Is this a project you created or one you trust?\n ❯ 1. Yes, I trust this folder\n   2. No, exit\n Enter to confirm · Esc to cancel",
                Blocker::Trust,
            ),
            (
                " Accessing workspace:\n /srv/work\n ❯ No, exit\n   Yes, I trust this folder",
                Blocker::Trust,
            ),
            (
                " Detected a custom API key in your environment\n Do you want to use this API key?\n ❯ 2. No (recommended)",
                Blocker::ApiKey,
            ),
            (
                " WARNING: Claude Code running in Bypass Permissions\n mode\n ❯ No, exit\n   Yes, I accept",
                Blocker::BypassPermissions,
            ),
            (
                " Configuration error\n /c/.claude.json isn't valid JSON.\n ❯ 1. Exit and fix manually",
                Blocker::BrokenConfig,
            ),
            (
                " Unable to connect to Anthropic services\n Failed to connect to api.anthropic.com: EAI_AGAIN",
                Blocker::Onboarding,
            ),
            (
                " Resume session\n ⌕ nosuchname\n No sessions match\n Type to search · Esc to clear",
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
    fn the_input_is_behind_what_was_said() {
        let pane = "❯ said before\n● done\n────\n❯ not sent\n────\n  ⏵⏵ bypass permissions on";
        assert!(input(pane).is_some_and(|input| input.starts_with(" not sent\n")));
        assert_eq!(input("$ "), None);
    }

    #[test]
    fn the_question_at_a_limit_is_known_and_no_other() {
        let old = "❯ /rate-limit-options\n────\n  What do you want to do?\n  ❯ 1. Stop and wait for limit to reset\n    2. Upgrade your plan\n  Enter to confirm · Esc to cancel";
        let new = "▔▔▔\n  What do you want to do?\n  ❯ 1. Stop and wait for limit to reset\n    2. Wait here, then continue automatically at Nov 25, 11:40pm\n    3. Upgrade your plan\n  Enter to confirm · Esc to cancel";
        assert!(shows_limit_question(old) && shows_limit_question(new));
        let permission = "  Do you want to proceed?\n  ❯ 1. Yes\n    2. No\n  Esc to cancel";
        assert!(!shows_limit_question(permission));
        assert!(!shows_limit_question("❯ said: wait for limit to reset\n❯ "));
    }

    #[test]
    fn a_proposal_of_claude_is_not_taken_for_unsent_words() {
        for (pane, unsent) in [
            ("❯ said\n────\n❯ \n────\n  ⏵⏵ bypass", false),
            (
                "❯ \u{1b}[7mT\u{1b}[27m\u{1b}[2mry \"fix lint errors\"\u{1b}[0m\n────",
                false,
            ),
            ("❯ \u{1b}[7m \u{1b}[0m\n────", false),
            ("❯ fix the\u{1b}[7m \u{1b}[0m\n────", true),
            ("\u{1b}[39m❯\u{1b}[0m\u{a0}hello\n────", true),
            ("$ ", false),
        ] {
            assert_eq!(has_unsent_text(pane), unsent, "{pane:?}");
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
