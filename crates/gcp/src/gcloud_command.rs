//! A `gcloud` command as a list of arguments, without a shell.

use std::fmt;
use std::time::Duration;

use sys::user::in_quotes;

/// The limit of a call that reads. gcloud itself needs about a second.
const READ_LIMIT: Duration = Duration::from_secs(120);
/// The limit of a change, with the wait for its operation.
const CHANGE_LIMIT: Duration = Duration::from_secs(900);
/// The maximum length of an argument that is shown whole, in characters.
const LONG: usize = 400;

/// The effect of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// The call reads.
    Read,
    /// The call changes something.
    Change,
}

/// A call: the arguments of `gcloud`, with its purpose and time limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The purpose, as a sentence without its full stop.
    pub why: String,
    /// The arguments.
    pub words: Vec<String>,
    /// Whether it changes something.
    pub effect: Effect,
    /// The time limit.
    pub limit: Duration,
}

impl Call {
    /// A call that reads, with JSON output. `command` is split at spaces.
    #[must_use]
    pub fn read(why: impl Into<String>, command: &str) -> Self {
        let call = Self::new(why, command, Effect::Read, READ_LIMIT);
        call.flag("format", "json")
    }

    /// A call that changes something. `command` is split at spaces.
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

    /// Appends an argument.
    #[must_use]
    pub fn arg(mut self, word: impl Into<String>) -> Self {
        self.words.push(word.into());
        self
    }

    /// Appends `--name=value`.
    #[must_use]
    pub fn flag(self, name: &str, value: impl fmt::Display) -> Self {
        self.arg(format!("--{name}={value}"))
    }

    /// Appends `--name=value`, if there is a value.
    #[must_use]
    pub fn flag_if<T: fmt::Display>(self, name: &str, value: Option<T>) -> Self {
        match value {
            Some(value) => self.flag(name, value),
            None => self,
        }
    }

    /// Appends `--name`.
    #[must_use]
    pub fn switch(self, name: &str) -> Self {
        self.arg(format!("--{name}"))
    }

    /// Appends `--name`, if `so` is true.
    #[must_use]
    pub fn switch_if(self, name: &str, so: bool) -> Self {
        if so { self.switch(name) } else { self }
    }

    /// Sets the time limit.
    #[must_use]
    pub fn within(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Marks the call as one that reads: it changes nothing permanent.
    #[must_use]
    pub fn as_read(mut self) -> Self {
        self.effect = Effect::Read;
        self.limit = READ_LIMIT;
        self
    }

    /// Returns the command line that is shown before the call: long values are cut. `--dry-run`
    /// shows them whole.
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

    /// Returns the arguments without flags, like `compute disks create claude-persist`.
    #[must_use]
    pub fn command(&self) -> String {
        let plain = self.words.iter().filter(|word| !word.starts_with("--"));
        plain.cloned().collect::<Vec<_>>().join(" ")
    }
}

/// Formats the call as a shell command.
impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("gcloud")?;
        for word in &self.words {
            write!(f, " {}", quote(word))?;
        }
        Ok(())
    }
}

/// Quotes an argument for a POSIX shell.
#[must_use]
pub fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_@%+=:,./-".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    // In --flag=VALUE, only the value is quoted, as people write it.
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
