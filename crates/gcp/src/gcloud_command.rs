//! One call of `gcloud`: its words, never a shell's line.

use std::fmt;
use std::time::Duration;

use sys::user::in_quotes;

/// A question. gcloud itself needs about a second.
const READ_LIMIT: Duration = Duration::from_secs(120);
/// A change, and the wait for its operation.
const CHANGE_LIMIT: Duration = Duration::from_secs(900);
/// A word that is longer, in characters, is not shown whole.
const LONG: usize = 400;

/// What a call does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// It asks.
    Read,
    /// It changes something.
    Change,
}

/// One call: the words behind `gcloud`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// What it is for, as a sentence without its full stop.
    pub why: String,
    /// The words.
    pub words: Vec<String>,
    /// Whether it changes something.
    pub effect: Effect,
    /// How long it may take.
    pub limit: Duration,
}

impl Call {
    /// A question, answered as JSON. `command` is split at spaces.
    #[must_use]
    pub fn read(why: impl Into<String>, command: &str) -> Self {
        let call = Self::new(why, command, Effect::Read, READ_LIMIT);
        call.flag("format", "json")
    }

    /// A change. `command` is split at spaces.
    #[must_use]
    pub fn change(why: impl Into<String>, command: &str) -> Self {
        Self::new(why, command, Effect::Change, CHANGE_LIMIT)
    }

    fn new(why: impl Into<String>, command: &str, effect: Effect, limit: Duration) -> Self {
        Self {
            why: why.into(),
            words: command.split(' ').map(str::to_owned).collect(),
            effect,
            limit,
        }
    }

    /// With a word behind it.
    #[must_use]
    pub fn arg(mut self, word: impl Into<String>) -> Self {
        self.words.push(word.into());
        self
    }

    /// With `--name=value`.
    #[must_use]
    pub fn flag(self, name: &str, value: impl fmt::Display) -> Self {
        self.arg(format!("--{name}={value}"))
    }

    /// With `--name=value`, if there is a value.
    #[must_use]
    pub fn flag_if<T: fmt::Display>(self, name: &str, value: Option<T>) -> Self {
        match value {
            Some(value) => self.flag(name, value),
            None => self,
        }
    }

    /// With `--name`.
    #[must_use]
    pub fn switch(self, name: &str) -> Self {
        self.arg(format!("--{name}"))
    }

    /// With `--name`, where that is so.
    #[must_use]
    pub fn switch_if(self, name: &str, so: bool) -> Self {
        if so { self.switch(name) } else { self }
    }

    /// At most so long.
    #[must_use]
    pub fn within(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// As a read, whatever its words are: it changes nothing that lasts.
    #[must_use]
    pub fn as_read(mut self) -> Self {
        self.effect = Effect::Read;
        self.limit = READ_LIMIT;
        self
    }

    /// The line as it is shown while it is made: a value that fills a screen is cut. `--dry-run` shows all of it.
    #[must_use]
    pub fn brief(&self) -> String {
        let mut call = self.clone();
        for word in &mut call.words {
            if word.chars().count() > LONG {
                let whole = word.chars().count();
                let head: String = word.chars().take(LONG / 2).collect();
                let head = head.lines().next().unwrap_or_default();
                *word = format!("{head}… ({whole} characters)");
            }
        }
        call.to_string()
    }

    /// The words without flags, such as `compute disks create claude-persist`.
    #[must_use]
    pub fn command(&self) -> String {
        let plain = self.words.iter().filter(|word| !word.starts_with("--"));
        plain.cloned().collect::<Vec<_>>().join(" ")
    }
}

/// A line that a shell would run.
impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("gcloud")?;
        for word in &self.words {
            write!(f, " {}", quote(word))?;
        }
        Ok(())
    }
}

/// A word as a POSIX shell takes it.
#[must_use]
pub fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_@%+=:,./-".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    // Of --flag=VALUE only the value is quoted, as people write it.
    if let Some((flag, value)) = word.split_once('=')
        && flag.starts_with("--")
        && flag.chars().all(plain)
    {
        return format!("{flag}={}", in_quotes(value));
    }
    in_quotes(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shown_call_can_be_pasted() {
        let call = Call::read("the disk", "compute disks list")
            .flag("filter", "name=(a b)")
            .flag("zones", "z1,z2")
            .arg("it's");
        assert_eq!(
            call.to_string(),
            r"gcloud compute disks list --format=json --filter='name=(a b)' --zones=z1,z2 'it'\''s'"
        );
        assert_eq!(call.command(), "compute disks list it's");
    }
}
