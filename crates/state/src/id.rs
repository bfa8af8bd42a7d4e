//! Agent names, and ids of saves.

use std::fmt;
use std::ops::Deref;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use sys::error::{Error, ErrorKind, Hint as _, Result, anyhow, hint_of};

/// Returns a new id that sorts after `last`: by time (UUID version 7), also where the clock was set
/// back.
#[must_use]
pub fn new_save_id(last: Option<&str>) -> String {
    let now = Uuid::now_v7();
    let last = last.and_then(|last| Uuid::parse_str(last).ok());
    match last.filter(|last| *last >= now) {
        None => now.to_string(),
        // The last one's time plus a millisecond, in its upper 48 bits; the rest is unchanged.
        Some(last) => {
            let time = (last.as_u128() >> 80).saturating_add(1);
            let rest = now.as_u128() & ((1 << 80) - 1);
            Uuid::from_u128(time << 80 | rest).to_string()
        }
    }
}

/// Longest agent name in bytes: it is a file name, a tmux session and a row in a table.
const NAME_MAX: usize = 64;

fn is_good(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '-' || c == '_'
}

/// The name of an agent: letters, digits, `-` and `_`, beginning with a letter or a digit.
///
/// tmux allows neither `.` nor `:` in a session name; other characters would need quoting in a
/// shell.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct AgentName(String);

impl AgentName {
    /// Checks a name.
    ///
    /// # Errors
    /// A usage error that names the wrong character, with a similar name that is valid.
    pub fn new(text: &str) -> Result<Self> {
        let suggestion = || {
            let name = Self::near(text).map_or_else(|| "agent-1".to_owned(), |name| name.0);
            format!("\"{name}\" would do")
        };
        let problem = if text.is_empty() {
            "it is empty".to_owned()
        } else if text.len() > NAME_MAX {
            format!("it is longer than {NAME_MAX} characters")
        } else if let Some(bad) = text.chars().find(|c| !is_good(*c)) {
            format!("it holds {bad:?}; letters, digits, - and _ are allowed")
        } else if text.starts_with(['-', '_']) {
            "it must begin with a letter or a digit".to_owned()
        } else {
            return Ok(Self(text.to_owned()));
        };
        Err(anyhow!("{text:?} cannot name an agent: {problem}"))
            .hint(suggestion())
            .kind(ErrorKind::Usage)
    }

    /// Returns the valid name nearest to a text; `None` where nothing of it can be used.
    #[must_use]
    pub fn near(text: &str) -> Option<Self> {
        let name: String = text
            .trim()
            .chars()
            .map(|c| if is_good(c) { c } else { '-' })
            .take(NAME_MAX)
            .collect();
        let name = name.trim_matches(['-', '_']);
        (!name.is_empty()).then(|| Self(name.to_owned()))
    }

    /// Returns the default name.
    #[must_use]
    pub fn any() -> Self {
        Self("agent".to_owned())
    }

    /// Returns the name with a number at its end; `None` where that is too long.
    #[must_use]
    pub fn numbered(&self, count: u32) -> Option<Self> {
        Self::new(&format!("{self}-{count}")).ok()
    }

    /// Returns the name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for AgentName {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl std::str::FromStr for AgentName {
    type Err = Error;
    /// A command line parser shows only the error's own text, so the hint is a part of it.
    fn from_str(text: &str) -> Result<Self> {
        Self::new(text).map_err(|error| match hint_of(&error) {
            Some(hint) => anyhow!("{error}; {hint}"),
            None => error,
        })
    }
}

impl Deref for AgentName {
    type Target = str;
    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for AgentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sys::error::hint_of;

    #[test]
    fn the_id_of_a_save_comes_after_the_last_one_also_where_the_clock_was_set_back() {
        let mut last = "ff000000-0000-7000-8000-000000000000".to_owned();
        for nth in 1..=3 {
            let next = new_save_id(Some(&last));
            // One millisecond after the last one, and otherwise a normal id of version 7.
            let time = format!("ff000000-000{nth}-7");
            assert!(
                next > last && next.starts_with(&time) && sys::uuid::is_uuid(&next),
                "{next} {last}"
            );
            assert_ne!(next[24..], last[24..], "by chance, too");
            last = next;
        }
        assert!(new_save_id(Some("no id")) < last);
    }

    #[test]
    fn a_name_that_tmux_cannot_take_is_refused_with_one_that_it_can() {
        for bad in [
            "",
            "a.b",
            "a:b",
            "a b",
            "-a",
            "../x",
            "a/b",
            "ü",
            &"x".repeat(65),
        ] {
            let error = AgentName::new(bad).unwrap_err();
            let read = serde_json::from_value::<AgentName>(bad.into()).unwrap_err();
            let hint = hint_of(&error).unwrap();
            assert!(read.to_string().contains(hint), "{read}");
            let name = hint.split('"').nth(1).unwrap();
            assert!(AgentName::new(name).is_ok(), "{bad:?} -> {hint}");
        }
        assert!(AgentName::new("agent-1-issue-123").is_ok());
    }

    #[test]
    fn a_name_is_made_from_any_text() {
        let (full, long) = ("x".repeat(NAME_MAX), "x".repeat(NAME_MAX + 9));
        for (text, near) in [
            ("  my agent ", Some("my-agent")),
            ("-_x_-", Some("x")),
            ("a.b/c_d", Some("a-b-c_d")),
            (full.as_str(), Some(full.as_str())),
            (long.as_str(), Some(full.as_str())),
            ("", None),
            ("/ü/", None),
        ] {
            let made = AgentName::near(text);
            assert_eq!(made.as_deref(), near, "{text:?}");
            assert!(made.is_none_or(|name| AgentName::new(&name).is_ok()));
        }
        let numbered = AgentName::any().numbered(2);
        assert_eq!(numbered.as_ref().map(AgentName::as_str), Some("agent-2"));
        assert_eq!(AgentName::new(&full).unwrap().numbered(2), None);
    }
}
