//! restic as a program: found, asked for its version, started with a clean environment, watched. All that is
//! known of what it says is here; measured with 0.14, the oldest that does what we need.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::settings::Key;
use super::{Settings, Stop};
use sys::command;
use sys::command::{Exchange, Limits, Runner};
use sys::error::{Context as _, Error, ErrorKind, Hint as _, Result, anyhow, ensure};

/// Repositories of version 2, `copy --from-repo`.
const OLDEST: (u32, u32) = (0, 14);

/// For `restic version`.
const VERSION_LIMIT: Duration = Duration::from_secs(10);

/// Reading nothing for so long is hanging.
const STALLED: Duration = Duration::from_secs(10 * 60);

/// For a first backup of a large data directory, a check or a copy over a slow line.
pub const LONG: Limits = Limits {
    total: Duration::from_secs(24 * 3600),
    stalled: STALLED,
};

/// For what is asked on the way of something else.
pub const SHORT: Limits = Limits {
    total: Duration::from_secs(5 * 60),
    stalled: Duration::from_secs(60),
};

const INSTALL: &str = "sudo apt-get install restic";

/// What restic is at, in its own numbers.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
pub struct Progress {
    /// From 0 to 1.
    #[serde(default)]
    pub percent_done: f64,
    /// Files that are through.
    #[serde(default)]
    pub files_done: u64,
    /// Bytes that are through.
    #[serde(default)]
    pub bytes_done: u64,
    /// Bytes in all, as far as is known.
    #[serde(default)]
    pub total_bytes: u64,
}

/// The program.
#[derive(Debug, Clone)]
pub struct Restic {
    program: PathBuf,
}

impl Restic {
    /// Finds it on `PATH`, and makes sure that it is new enough.
    ///
    /// # Errors
    /// It is missing, too old, or does not answer.
    pub fn find() -> Result<Self> {
        Ok(Self::find_unless(None)?.0)
    }

    /// As [`Self::find`], and does not ask one that was `known` to be good before; which one it is.
    ///
    /// # Errors
    /// As [`Self::find`].
    pub fn find_unless(known: Option<&Program>) -> Result<(Self, Program)> {
        let program = sys::user::absolute_program("restic")
            .context("restic is not installed; backups are made with it")
            .hint(INSTALL)?;
        let print = Program::from_path(&program)
            .with_context(|| format!("cannot look at {}", program.display()))?;
        if known == Some(&print) {
            return Ok((Self { program }, print));
        }
        let mut command = Command::new(&program);
        let output = command::run(command.arg("version"), VERSION_LIMIT)
            .with_context(|| format!("{} does not answer", program.display()))
            .hint(format!("{} version", program.display()))?;
        let version = parse_version(&output.stdout);
        ensure_version(version, output.stdout.trim(), &program)?;
        Ok((Self { program }, print))
    }
}

/// The file of a program: as long as this is the same, so is its version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    path: PathBuf,
    bytes: u64,
    inode: u64,
    /// Nanoseconds since 1970: of its content, and of its place in the file system.
    times: (i64, i64),
}

impl Program {
    fn from_path(path: &Path) -> std::io::Result<Self> {
        let found = std::fs::metadata(path)?;
        let nanoseconds = |seconds: i64, rest: i64| seconds.saturating_mul(1_000_000_000) + rest;
        Ok(Self {
            path: path.to_path_buf(),
            bytes: found.len(),
            inode: found.ino(),
            times: (
                nanoseconds(found.mtime(), found.mtime_nsec()),
                nanoseconds(found.ctime(), found.ctime_nsec()),
            ),
        })
    }
}

fn ensure_version(version: Option<(u32, u32)>, said: &str, program: &Path) -> Result<()> {
    let problem = match version {
        Some(version) if version >= OLDEST => return Ok(()),
        Some((major, minor)) => format!("{} is restic {major}.{minor}", program.display()),
        None => format!("{} says {said:?}", program.display()),
    };
    Err(anyhow!(
        "{problem}; backups need {}.{} or newer",
        OLDEST.0,
        OLDEST.1
    ))
    .hint(INSTALL)
}

/// `0.14` out of `restic 0.14.0 compiled with go1.19.8 on linux/amd64`.
fn parse_version(said: &str) -> Option<(u32, u32)> {
    let mut words = said.split_whitespace();
    (words.next()? == "restic").then_some(())?;
    let mut numbers = words.next()?.split(['.', '-']);
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// A repository, and all that is needed to use it.
#[derive(Debug, Clone)]
pub struct Repository {
    restic: Restic,
    /// As restic names it.
    url: OsString,
    key: Key,
    environment: BTreeMap<String, String>,
    /// The repository on the data directory itself; its path.
    local: Option<PathBuf>,
}

impl Repository {
    /// The one in `backups/`; it may not exist yet.
    #[must_use]
    pub fn local(restic: Restic, settings: &Settings, key: Key) -> Self {
        Self {
            restic,
            url: settings.repository().into_os_string(),
            key,
            environment: BTreeMap::new(),
            local: Some(settings.repository()),
        }
    }

    /// The one in `backups/`, as it is.
    ///
    /// # Errors
    /// There is none, it is another user's, or restic cannot be used.
    pub fn open(settings: &Settings) -> Result<Self> {
        settings.ensure_mine()?;
        if !settings.has_repository() {
            return Err(anyhow!("there is no backup yet"))
                .hint("spotkeep backup now")
                .kind(ErrorKind::NotAsDeclared);
        }
        let key = settings.ensure_key()?;
        Ok(Self::local(Restic::find()?, settings, key))
    }

    /// Another one.
    #[must_use]
    pub fn remote(
        restic: Restic,
        url: &str,
        key: Key,
        environment: BTreeMap<String, String>,
    ) -> Self {
        Self {
            restic,
            url: url.into(),
            key,
            environment,
            local: None,
        }
    }

    /// Where it is, for people.
    #[must_use]
    pub fn name(&self) -> String {
        match &self.local {
            Some(path) => path.display().to_string(),
            None => without_password(&self.url.to_string_lossy()),
        }
    }

    /// The directory of the one on the data directory.
    #[must_use]
    pub fn directory(&self) -> Option<&Path> {
        self.local.as_deref()
    }

    /// A command of restic's on it. The settings of a person's own restic do not count.
    #[must_use]
    pub fn command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(&self.restic.program);
        for (name, _) in std::env::vars_os() {
            if name
                .to_str()
                .is_some_and(|name| name.starts_with("RESTIC_"))
            {
                command.env_remove(name);
            }
        }
        // In front, since an argument of the caller's may want a value that follows.
        if self.local.is_some() {
            command.arg("--no-cache");
        }
        command
            .args(arguments)
            .envs(&self.environment)
            .env("RESTIC_REPOSITORY", &self.url);
        key_into(&mut command, "RESTIC", &self.key);
        command
    }

    /// As [`Repository::command`], with `other` as the repository that is copied from.
    #[must_use]
    pub fn command_from<S: AsRef<OsStr>>(
        &self,
        other: &Self,
        arguments: impl IntoIterator<Item = S>,
    ) -> Command {
        let mut command = self.command(arguments);
        command.env("RESTIC_FROM_REPOSITORY", &other.url);
        key_into(&mut command, "RESTIC_FROM", &other.key);
        command
    }

    /// Runs a command to its end; returns what it said.
    ///
    /// # Errors
    /// It failed; it was stopped, it hung.
    pub fn ask(&self, command: &mut Command, limits: Limits, stop: &Stop) -> Result<String> {
        let mut text = String::new();
        let ended = self.run(command, limits, stop, &mut |line| {
            text.push_str(line);
            text.push('\n');
        })?;
        self.ensure_success(&ended)?;
        Ok(text)
    }

    /// Runs a command to its end, each line given to `line`; how it ended is for the caller to evaluate.
    ///
    /// # Errors
    /// It cannot be started; it was stopped, it hung.
    pub fn run(
        &self,
        command: &mut Command,
        limits: Limits,
        stop: &Stop,
        line: &mut dyn FnMut(&str),
    ) -> Result<Exchange> {
        Runner::watched(command, limits, &|| stop.reason())
            .each_line(line)
            .context("restic")
    }

    /// Runs a command whose output goes elsewhere.
    ///
    /// # Errors
    /// It failed; it was stopped, it hung.
    pub fn run_into(
        &self,
        command: &mut Command,
        output: impl Into<std::process::Stdio>,
        limits: Limits,
        stop: &Stop,
    ) -> Result<()> {
        command.stdin(std::process::Stdio::null()).stdout(output);
        let ended = Runner::watched(command, limits, &|| stop.reason()).run()?;
        self.ensure_success(&ended)
    }

    /// Fails as restic failed.
    ///
    /// # Errors
    /// Its last words, with a hint where they are known.
    pub fn ensure_success(&self, ended: &Exchange) -> Result<()> {
        if ended.status.success() {
            return Ok(());
        }
        Err(self.failure(ended))
    }

    /// What restic's last words mean.
    #[must_use]
    pub fn failure(&self, ended: &Exchange) -> Error {
        let name = self.name();
        let words = last_words(&ended.stderr);
        let error = anyhow!("restic on {name}: {words}");
        match Trouble::from_exchange(ended) {
            Trouble::WrongKey => {
                error.hint("spotkeep backup key says where the password is taken from")
            }
            Trouble::Locked => {
                error.hint("another restic is at work on it; try again when it has ended")
            }
            Trouble::Damaged => error.hint("spotkeep backup check names what is damaged"),
            Trouble::Absent | Trouble::Other => error,
        }
    }
}

/// What kind of trouble restic is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// The password opens no key.
    WrongKey,
    /// Somebody else holds a lock.
    Locked,
    /// There is no repository.
    Absent,
    /// A file of it is not what it was.
    Damaged,
    /// Anything else.
    Other,
}

impl Trouble {
    /// Reads it out of how restic ended.
    #[must_use]
    pub fn from_exchange(ended: &Exchange) -> Self {
        trouble(ended.status.code(), &ended.stderr)
    }
}

/// By the exit code, which restic has since 0.17; by its words where it is older, or has no code for it.
fn trouble(code: Option<i32>, stderr: &str) -> Trouble {
    match code {
        Some(10) => return Trouble::Absent,
        Some(11) => return Trouble::Locked,
        Some(12) => return Trouble::WrongKey,
        _ => {}
    }
    let has = |text: &str| stderr.contains(text);
    if has("already locked") {
        Trouble::Locked
    } else if has("wrong password or no key found") {
        Trouble::WrongKey
    } else if has("unable to open config file") || has("Is there a repository at") {
        Trouble::Absent
    } else if has("ciphertext verification failed")
        || has("invalid data returned")
        || has("is damaged")
    {
        Trouble::Damaged
    } else {
        Trouble::Other
    }
}

/// The lines that say why, in one: not what was being done, not restic's advice for its own command line.
fn last_words(stderr: &str) -> String {
    let noise = |line: &&str| {
        let line = line.trim();
        !line.is_empty()
            && !line.starts_with("storage ID")
            && !line.starts_with("the `unlock` command")
            && !line.starts_with("Is there a repository")
            && !line.starts_with("signal ")
    };
    let lines: Vec<&str> = stderr.lines().filter(noise).collect();
    let said = lines[lines.len().saturating_sub(4)..].join("; ");
    match said.trim_start_matches("Fatal: ") {
        "" => "it failed and did not say why".into(),
        said => said.to_owned(),
    }
}

fn key_into(command: &mut Command, prefix: &str, key: &Key) {
    match key {
        Key::File(path) => command.env(format!("{prefix}_PASSWORD_FILE"), path),
        Key::Command(text) => command.env(format!("{prefix}_PASSWORD_COMMAND"), text),
    };
}

/// `rest:https://user:password@host/` without the password.
#[must_use]
pub fn without_password(url: &str) -> String {
    let Some((before, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    match host.rsplit_once('@') {
        Some((user, host)) => {
            let user = user.split(':').next().unwrap_or_default();
            format!("{before}://{user}:***@{host}/{path}")
        }
        None => url.to_owned(),
    }
}

/// Makes an empty repository, with the chunks of `like` where that is given, so that what both hold is cut
/// in the same places.
///
/// # Errors
/// There is one, or the place cannot hold one.
pub fn init(repository: &Repository, like: Option<&Repository>, stop: &Stop) -> Result<()> {
    let arguments = ["init", "--repository-version", "2"];
    let mut command = match like {
        None => repository.command(arguments),
        Some(other) => {
            let mut command = repository.command_from(other, arguments);
            command.arg("--copy-chunker-params");
            command
        }
    };
    repository
        .ask(&mut command, SHORT, stop)
        .with_context(|| format!("cannot make a repository at {}", repository.name()))?;
    Ok(())
}

/// Fails where the machine may speak to loopback only and `url` leads elsewhere.
///
/// # Errors
/// It does.
pub fn ensure_allowed(url: &str) -> Result<()> {
    if !sys::loopback_only!() {
        return Ok(());
    }
    let is_path = url.starts_with('/') || url.starts_with('.');
    let loopback = ["rest:http://127.0.0.1:", "s3:http://127.0.0.1:"];
    let is_loopback = loopback.iter().any(|prefix| url.starts_with(prefix));
    ensure!(
        is_path || is_loopback,
        "SPOTKEEP_LOOPBACK_ONLY is set, and {} is not on loopback",
        without_password(url)
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read_and_an_old_one_refused() {
        let said = "restic 0.14.0 compiled with go1.19.8 on linux/amd64\n";
        assert_eq!(parse_version(said), Some((0, 14)));
        assert_eq!(parse_version("restic 0.18.1-dev (x)"), Some((0, 18)));
        assert_eq!(parse_version("bash: restic"), None);
        let path = Path::new("/usr/bin/restic");
        assert!(ensure_version(Some((1, 0)), "", path).is_ok());
        for version in [Some((0, 12)), None] {
            assert!(ensure_version(version, "x", path).is_err());
        }
    }

    #[test]
    fn what_restic_says_is_told_apart() {
        for (said, meant) in [
            ("Fatal: wrong password or no key found", Trouble::WrongKey),
            (
                "unable to create lock in backend: repository is already locked by PID 7 on vm by root",
                Trouble::Locked,
            ),
            (
                "Fatal: unable to open config file: stat /x/config: no such file or directory\nIs there a repository at the following location?\n/x",
                Trouble::Absent,
            ),
            (
                "Fatal: config or key 6f is damaged: ciphertext verification failed",
                Trouble::Damaged,
            ),
            ("write /x: no space left on device", Trouble::Other),
        ] {
            assert_eq!(trouble(Some(1), said), meant, "{said}");
        }
    }

    #[test]
    fn an_exit_code_of_restics_counts_whatever_its_words_are() {
        for (code, meant) in [
            (10, Trouble::Absent),
            (11, Trouble::Locked),
            (12, Trouble::WrongKey),
            (3, Trouble::Other),
            (130, Trouble::Other),
        ] {
            assert_eq!(trouble(Some(code), "in other words"), meant, "{code}");
        }
        assert_eq!(trouble(None, "already locked"), Trouble::Locked);
    }

    #[test]
    fn a_password_in_an_address_is_never_shown() {
        assert_eq!(
            without_password("rest:https://me:secret@host:8000/x"),
            "rest:https://me:***@host:8000/x"
        );
        assert_eq!(without_password("gs:bucket:/x"), "gs:bucket:/x");
    }

    #[test]
    fn its_last_words_are_what_went_wrong() {
        let said = "unable to create lock: already locked by PID 7\nlock was created 2 s ago\nstorage ID 6c\nthe `unlock` command can be used";
        assert_eq!(
            last_words(said),
            "unable to create lock: already locked by PID 7; lock was created 2 s ago"
        );
        assert_eq!(last_words("Fatal: no\n"), "no");
    }
}
