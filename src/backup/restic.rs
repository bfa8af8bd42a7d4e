//! Running restic: finding the program, version check, environment, limits, errors.
//!
//! All knowledge of restic's output is here; measured with 0.14, the oldest version that can be
//! used.

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

/// The oldest version with repositories of version 2 and `copy --from-repo`.
const OLDEST: (u32, u32) = (0, 14);

/// Time limit of `restic version`.
const VERSION_LIMIT: Duration = Duration::from_secs(10);

/// A restic that reads nothing for so long hangs.
const STALLED: Duration = Duration::from_secs(10 * 60);

/// Limits of a first backup of a large data directory, a check, or a copy over a slow line.
pub const LONG: Limits = Limits {
    total: Duration::from_secs(24 * 3600),
    stalled: STALLED,
};

/// Limits of short commands.
pub const SHORT: Limits = Limits {
    total: Duration::from_secs(5 * 60),
    stalled: Duration::from_secs(60),
};

const INSTALL: &str = "sudo apt-get install restic";

/// restic's progress.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
pub struct Progress {
    /// From 0 to 1.
    #[serde(default)]
    pub percent_done: f64,
    /// Files that are done.
    #[serde(default)]
    pub files_done: u64,
    /// Bytes that are done.
    #[serde(default)]
    pub bytes_done: u64,
    /// All bytes, as far as known.
    #[serde(default)]
    pub total_bytes: u64,
}

/// The restic program.
#[derive(Debug, Clone)]
pub struct Restic {
    program: PathBuf,
}

impl Restic {
    /// Finds restic on `PATH`, and checks that it is new enough.
    ///
    /// # Errors
    /// restic is missing, too old, or does not answer.
    pub fn find() -> Result<Self> {
        Ok(Self::find_unless(None)?.0)
    }

    /// Like [`Self::find`], without the check if the program is the `known` one; returns the
    /// program too.
    ///
    /// # Errors
    /// As [`Self::find`].
    pub fn find_unless(known: Option<&Program>) -> Result<(Self, Program)> {
        let program = sys::user::absolute_program("restic")
            .context("restic is not installed; backups are made with it")
            .hint(INSTALL)?;
        let file = Program::from_path(&program)
            .with_context(|| format!("cannot read {}", program.display()))?;
        if known == Some(&file) {
            return Ok((Self { program }, file));
        }
        let mut command = Command::new(&program);
        let output = command::run(command.arg("version"), VERSION_LIMIT)
            .with_context(|| format!("{} does not answer", program.display()))
            .hint(format!("{} version", program.display()))?;
        let version = parse_version(&output.stdout);
        ensure_version(version, output.stdout.trim(), &program)?;
        Ok((Self { program }, file))
    }
}

/// The file of a program: while this is the same, the version is too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    path: PathBuf,
    bytes: u64,
    inode: u64,
    /// mtime and ctime, in nanoseconds since 1970.
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
        None => format!("{} version prints {said:?}", program.display()),
    };
    Err(anyhow!(
        "{problem}; backups need {}.{} or newer",
        OLDEST.0,
        OLDEST.1
    ))
    .hint(INSTALL)
}

/// Parses `0.14` from `restic 0.14.0 compiled with go1.19.8 on linux/amd64`.
fn parse_version(said: &str) -> Option<(u32, u32)> {
    let mut words = said.split_whitespace();
    (words.next()? == "restic").then_some(())?;
    let mut numbers = words.next()?.split(['.', '-']);
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// A repository, with everything that is needed to use it.
#[derive(Debug, Clone)]
pub struct Repository {
    restic: Restic,
    /// The restic URL.
    url: OsString,
    key: Key,
    environment: BTreeMap<String, String>,
    /// The path of the local repository, in the data directory.
    local: Option<PathBuf>,
}

impl Repository {
    /// The repository in `backups/`; it may not exist yet.
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

    /// Opens the repository in `backups/`.
    ///
    /// # Errors
    /// There is none, it belongs to another user, or restic cannot be used.
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

    /// A repository elsewhere.
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

    /// Its address for people, without a password.
    #[must_use]
    pub fn name(&self) -> String {
        match &self.local {
            Some(path) => path.display().to_string(),
            None => without_password(&self.url.to_string_lossy()),
        }
    }

    /// The directory of a local repository.
    #[must_use]
    pub fn directory(&self) -> Option<&Path> {
        self.local.as_deref()
    }

    /// A restic command on this repository, without the user's own `RESTIC_*` variables.
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
        // In front, since the caller's last argument may take a value.
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

    /// Like [`Repository::command`], with `other` as the source repository.
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

    /// Runs a command to its end; returns its output.
    ///
    /// # Errors
    /// It failed, was stopped, or hung.
    pub fn ask(&self, command: &mut Command, limits: Limits, stop: &Stop) -> Result<String> {
        let mut text = String::new();
        let ended = self.run(command, limits, stop, &mut |line| {
            text.push_str(line);
            text.push('\n');
        })?;
        self.ensure_success(&ended)?;
        Ok(text)
    }

    /// Runs a command to its end and passes each line to `line`. The caller evaluates the exit
    /// status.
    ///
    /// # Errors
    /// It cannot be started, was stopped, or hung.
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
    /// It failed, was stopped, or hung.
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

    /// Returns an error if restic failed.
    ///
    /// # Errors
    /// The last lines of restic's output, with a hint if the cause is known.
    pub fn ensure_success(&self, ended: &Exchange) -> Result<()> {
        if ended.status.success() {
            return Ok(());
        }
        Err(self.failure(ended))
    }

    /// The error of a failed restic, from its output.
    #[must_use]
    pub fn failure(&self, ended: &Exchange) -> Error {
        let name = self.name();
        let output = last_output(&ended.stderr);
        let error = anyhow!("restic on {name}: {output}");
        match Trouble::from_exchange(ended) {
            Trouble::WrongKey => {
                error.hint("to see where the password comes from: spotkeep backup key")
            }
            Trouble::Locked => {
                error.hint("another restic is at work on it; try again when it has ended")
            }
            Trouble::Damaged => error.hint("to see which files are damaged: spotkeep backup check"),
            Trouble::Absent | Trouble::Other => error,
        }
    }
}

/// The cause of a failure of restic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// The password is wrong.
    WrongKey,
    /// Another process holds a lock.
    Locked,
    /// There is no repository.
    Absent,
    /// A file of the repository is damaged.
    Damaged,
    /// Anything else.
    Other,
}

impl Trouble {
    /// Finds the cause from the exit code and the output.
    #[must_use]
    pub fn from_exchange(ended: &Exchange) -> Self {
        trouble(ended.status.code(), &ended.stderr)
    }
}

/// Finds the cause by the exit code, which restic has since 0.17; otherwise by its output.
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

/// Joins the last lines that give the reason, without restic's advice for its own command line.
fn last_output(stderr: &str) -> String {
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
        "" => "it failed without a message".into(),
        said => said.to_owned(),
    }
}

fn key_into(command: &mut Command, prefix: &str, key: &Key) {
    match key {
        Key::File(path) => command.env(format!("{prefix}_PASSWORD_FILE"), path),
        Key::Command(text) => command.env(format!("{prefix}_PASSWORD_COMMAND"), text),
    };
}

/// Replaces the password in a URL like `rest:https://user:password@host/`.
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

/// Makes an empty repository, with the chunker parameters of `like` if given, so that both
/// deduplicate the same data.
///
/// # Errors
/// There is one, or it cannot be created there.
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

/// Fails if only loopback is allowed and `url` is elsewhere.
///
/// # Errors
/// `url` is not on loopback.
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
    fn causes_are_found_in_the_output_of_restic() {
        for (said, meant) in [
            ("Fatal: wrong password or no key found", Trouble::WrongKey),
            (
                "unable to create lock in backend: repository is already locked by PID 7 on vm by \
                 root",
                Trouble::Locked,
            ),
            (
                "Fatal: unable to open config file: stat /x/config: no such file or directory\nIs \
                 there a repository at the following location?\n/x",
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
    fn an_exit_code_of_restic_counts_for_any_output() {
        for (code, meant) in [
            (10, Trouble::Absent),
            (11, Trouble::Locked),
            (12, Trouble::WrongKey),
            (3, Trouble::Other),
            (130, Trouble::Other),
        ] {
            assert_eq!(trouble(Some(code), "other output"), meant, "{code}");
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
    fn the_last_lines_of_the_output_give_the_reason() {
        let said = "unable to create lock: already locked by PID 7\nlock was created 2 s \
                    ago\nstorage ID 6c\nthe `unlock` command can be used";
        assert_eq!(
            last_output(said),
            "unable to create lock: already locked by PID 7; lock was created 2 s ago"
        );
        assert_eq!(last_output("Fatal: no\n"), "no");
    }
}
