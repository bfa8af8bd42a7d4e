//! Users of this machine: names, homes, and commands that run as another user.

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;

/// Returns the real user id of this process.
#[must_use]
pub fn id() -> u32 {
    rustix::process::getuid().as_raw()
}

/// Returns the absolute directories of `PATH`. A relative one may hold programs of a cloned
/// repository.
#[must_use]
pub fn absolute_path() -> OsString {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let absolute = std::env::split_paths(&path).filter(|dir| dir.is_absolute());
    std::env::join_paths(absolute).unwrap_or_default()
}

/// Returns the path of a program in one of these directories.
#[must_use]
pub fn absolute_program(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&absolute_path())
        .map(|dir| dir.join(name))
        .find(|program| program.is_file())
}

/// Returns the name of a user, from `/etc/passwd`; the number where it has none.
#[must_use]
pub fn name(uid: u32) -> String {
    let number = uid.to_string();
    fs::read_to_string("/etc/passwd")
        .ok()
        .and_then(|passwd| {
            passwd.lines().find_map(|line| {
                let mut fields = line.split(':');
                let name = fields.next()?;
                (fields.nth(1)? == number).then(|| name.to_owned())
            })
        })
        .unwrap_or(number)
}

/// Returns the home of a user, from `/etc/passwd`.
#[must_use]
pub fn home(uid: u32) -> Option<PathBuf> {
    let number = uid.to_string();
    let passwd = fs::read_to_string("/etc/passwd").ok()?;
    let mut of_user = passwd
        .lines()
        .filter(|line| line.split(':').nth(2) == Some(&number));
    Some(of_user.next()?.split(':').nth(5)?.into())
}

/// Returns a shell command that runs `words` as the user `uid`, on a separate terminal. Without
/// `--pty` it would be on the terminal of the user who types it, and `sudo -u` leaves it there too
/// wherever sudoers does not set `use_pty` (su(1), sudoers(5)).
#[must_use]
pub fn as_user_hint(uid: u32, words: &[String]) -> String {
    let line = words
        .iter()
        .map(|word| quoted(word))
        .collect::<Vec<_>>()
        .join(" ");
    let sudo = if id() == 0 { "" } else { "sudo " };
    if uid == 0 {
        return format!("{sudo}{line}");
    }
    let name = name(uid);
    let su = format!("{sudo}su --pty - {name} -c {}", in_quotes(&line));
    match name == uid.to_string() {
        false => su,
        true => format!("{sudo}useradd --uid {uid} NAME   # the user id {uid} has no account"),
    }
}

/// Returns a word quoted for a shell if needed.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@%+".contains(c);
    match !word.is_empty() && word.chars().all(is_plain) {
        true => word.to_owned(),
        false => in_quotes(word),
    }
}

/// Returns a text as one quoted word for a shell.
#[must_use]
pub fn in_quotes(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_for_another_user_survives_two_shells() {
        let words = ["spotkeep", "send", "a", "it's \"on\" $HOME"].map(str::to_owned);
        let line = words.iter().map(|word| quoted(word)).collect::<Vec<_>>();
        let script = format!(
            "sh -c {}",
            in_quotes(&format!("printf '%s|' {}", line.join(" ")))
        );
        let output = std::process::Command::new("sh")
            .args(["-c", &script])
            .output()
            .unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert_eq!(said, "spotkeep|send|a|it's \"on\" $HOME|");
    }

    #[test]
    fn root_needs_no_separate_terminal() {
        let words = ["spotkeep".to_owned(), "ls".to_owned()];
        assert!(as_user_hint(0, &words).ends_with("spotkeep ls"));
        let other = as_user_hint(65_534, &words);
        assert!(
            other.ends_with("su --pty - nobody -c 'spotkeep ls'"),
            "{other}"
        );
    }
}
