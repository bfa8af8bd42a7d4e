//! Unprivileged helper process of a set-up, which reads and changes the user's files.
//!
//! It works in the home and in the user's directories of the data directory, so that root follows
//! nothing there. Root starts it, passes a request in one argument, and does not trust its answer.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::account::Account;
use super::first_boot_script;
use crate::storage::links::{self, Link, State};
use claude::{binary, retention};
use state::config::{Config, LaidDown};
use state::layout::DataDir;
use sys::command;
use sys::command::Output;
use sys::error::{Context as _, Hint as _, Result, anyhow, bail, ensure, hint_of};
use sys::files::{self, LockFile};
use sys::prefix::Prefix;
use sys::process::{self, Signal};
use sys::run_as::{Groups, run_as};
use sys::user;

/// The hidden verb of the helper process.
pub const VERB: &str = "setup-user";

/// Reading takes milliseconds; a cold disk and `claude --version` may take some seconds.
const INSPECT_LIMIT: Duration = Duration::from_secs(60);
/// Copying a large home, or the user's own script with its own limit.
const WORK_LIMIT: Duration = Duration::from_secs(3600);
/// A program larger than this is not Claude.
pub(super) const PROGRAM_LIMIT: u64 = 2 << 30;

/// A request to the helper process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// Report the state of the user's files.
    Look {
        /// Where the data directory's files are now; `None` if there are none yet.
        tree: Option<PathBuf>,
        /// Where the data directory will be.
        data_dir: PathBuf,
        /// The home directory.
        home: PathBuf,
        /// The id of the boot disk.
        machine: Option<String>,
        /// Whether to search for a claude.
        claude: bool,
    },
    /// Make the user's part of the data directory.
    Inhabit {
        /// The data directory.
        data_dir: PathBuf,
        /// The user's name.
        user: String,
        /// Whether a new `spotkeep.toml` lets agents run every command without asking.
        unattended: bool,
    },
    /// Make a link.
    Link(Link),
    /// Copy the content at a link's path, and leave it there.
    CopyIn(Link),
    /// Remove a link.
    Unlink(Link),
    /// Raise the retention of transcripts.
    Retain {
        /// The data directory.
        data_dir: PathBuf,
    },
    /// Run the script of a new machine.
    NewMachine {
        /// The data directory.
        data_dir: PathBuf,
        /// The id of the boot disk.
        machine: String,
    },
    /// Write a program to standard output.
    Send(PathBuf),
    /// Return the version of a claude.
    Version(PathBuf),
}

/// The state of the user's files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Whether the user's part of the data directory is complete.
    pub inhabited: bool,
    /// Each link of the home and its state.
    pub links: Vec<(Link, State)>,
    /// A script that has yet to run here.
    pub pending: Option<String>,
    /// For how many days transcripts are kept.
    pub retention: Option<u64>,
    /// A claude that could be kept: its version and where it is.
    pub claude: Option<(String, PathBuf)>,
    /// Why a link cannot be made now, with a hint: a process uses the content at its path.
    pub busy: Option<(String, String)>,
    /// Whether a keeper holds the data directory.
    pub keeper: bool,
    /// What could not be read, in sentences.
    pub problems: Vec<String>,
}

/// Serves a request as the user of this process. For the hidden verb.
///
/// # Errors
/// The request fails, or this process is root.
pub fn serve(request: &str) -> Result<Value> {
    ensure!(user::id() != 0, "{VERB} does not run as root");
    let request: Request = serde_json::from_str(request).context("invalid request")?;
    let value = match request {
        Request::Look {
            tree,
            data_dir,
            home,
            machine,
            claude,
        } => serde_json::to_value(inspect(
            tree.as_deref(),
            &data_dir,
            &home,
            machine.as_deref(),
            claude,
        )?),
        Request::Inhabit {
            data_dir,
            user,
            unattended,
        } => serde_json::to_value(inhabit(&data_dir, &user, unattended)?),
        Request::Link(link) => serde_json::to_value(link.make()?),
        Request::CopyIn(link) => {
            link.refuse_in_use()?;
            let bytes = match link.state()? {
                State::Content { bytes, .. } => bytes,
                _ => 0,
            };
            serde_json::to_value(vec![link.copy_in(bytes)?])
        }
        Request::Unlink(link) => serde_json::to_value(link.undo()?.into_iter().collect::<Vec<_>>()),
        Request::Retain { data_dir } => {
            let mut said = retention::raise(&data_dir.join(".claude"))?;
            said.push(format!(
                "Claude keeps transcripts for {} days",
                retention::LONG_DAYS
            ));
            serde_json::to_value(said)
        }
        Request::NewMachine { data_dir, machine } => {
            let data_dir = DataDir::open(&data_dir)?;
            let (config, _) =
                Config::load_or_last_good(&data_dir.config(), &data_dir.config_copy())?;
            serde_json::to_value(vec![first_boot_script::run(&data_dir, &config, &machine)?])
        }
        Request::Send(path) => {
            send(&path)?;
            return Ok(Value::Null);
        }
        Request::Version(path) => serde_json::to_value(binary::version(&path)?),
    };
    value.context("cannot answer")
}

fn inspect(
    tree: Option<&Path>,
    data_dir: &Path,
    home: &Path,
    machine: Option<&str>,
    claude: bool,
) -> Result<Report> {
    let mut report = Report::default();
    let mut pieces = Vec::new();
    if let Some(tree) = tree
        && tree.join("session-state/root.json").exists()
    {
        let here = DataDir::open(tree)?;
        let lost = Config::is_lost(&here.config());
        report.inhabited = DataDir::is_complete(tree) && !lost;
        report.retention = retention::days(&here.claude());
        // On a disk that is mounted read-only no keeper can hold the lock.
        report.keeper = tree == data_dir && LockFile::try_take(&here.lock())?.is_none();
        match Config::load_or_last_good(&here.config(), &here.config_copy()) {
            Ok((config, wrong)) => {
                // This run restores a lost file.
                let wrong = wrong.filter(|_| !lost);
                report
                    .problems
                    .extend(wrong.map(|error| format!("{error:#}")));
                report.pending = first_boot_script::pending(&here, &config, machine)?;
                pieces = config.machine.home;
            }
            Err(_) if lost => {}
            // The machine has to be set up; the file's settings apply when it is repaired.
            Err(error) => report.problems.push(format!("{error:#}")),
        }
    }
    let mut requested = links::home_links(home, data_dir, &[])?;
    match links::home_links(home, data_dir, &pieces) {
        Ok(all) => requested = all,
        Err(error) => report.problems.push(format!("{error:#}")),
    }
    for link in requested {
        let state = link.state()?;
        if matches!(state, State::Content { .. })
            && let Err(error) = link.refuse_in_use()
        {
            let hint = hint_of(&error).unwrap_or_default().to_owned();
            report.busy.get_or_insert((error.to_string(), hint));
        }
        report.links.push((link, state));
    }
    if claude {
        report.claude = find_claude(home, &mut report.problems);
    }
    Ok(report)
}

/// A claude of this user that is a single file and can be kept.
fn find_claude(home: &Path, problems: &mut Vec<String>) -> Option<(String, PathBuf)> {
    let path = std::env::var_os("PATH");
    let search = binary::Search {
        path: path.as_deref(),
        home: Some(home),
        ..binary::Search::default()
    };
    let found = binary::find(&search).ok()?;
    if !binary::is_native(&found) {
        problems.push(format!(
            "{} is a script, not the native build, and cannot be kept on the disk; name one with \
             --claude FILE",
            found.display()
        ));
        return None;
    }
    match binary::version(&found) {
        Ok(version) => Some((version, found)),
        Err(error) => {
            problems.push(format!("{error:#}"));
            None
        }
    }
}

fn inhabit(data_dir: &Path, user: &str, unattended: bool) -> Result<Vec<String>> {
    let (data_dir, is_new) = DataDir::init(data_dir)?;
    let mut said = Vec::new();
    if is_new {
        said.push(format!("{} is a data directory", data_dir.dir().display()));
    }
    said.extend(
        match Config::lay_down(&data_dir.config(), &data_dir.config_copy(), unattended)? {
            LaidDown::Nothing => None,
            LaidDown::LastGood => Some("spotkeep.toml was missing: restored its last version"),
            LaidDown::Template => Some("wrote a spotkeep.toml in which every setting is explained"),
        }
        .map(str::to_owned),
    );
    // A keeper that runs writes the same file.
    if let Some(_lock) = LockFile::try_take(&data_dir.lock())? {
        let mut identity = data_dir.identity()?;
        let here = (user.to_owned(), user::id(), data_dir.dir().to_path_buf());
        if (
            identity.user.clone(),
            identity.uid,
            identity.mount_path.clone(),
        ) != here
        {
            (identity.user, identity.uid, identity.mount_path) = here;
            state::store(&data_dir.identity_file(), &identity)?;
        }
    }
    files::sync_filesystem(data_dir.dir())?;
    Ok(said)
}

fn send(path: &Path) -> Result<()> {
    let mut file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let meta = file.metadata()?;
    ensure!(
        meta.is_file() && meta.len() < PROGRAM_LIMIT,
        "{} is not a program",
        path.display()
    );
    let mut out = io::stdout().lock();
    io::copy(&mut file, &mut out)?;
    Ok(out.flush()?)
}

/// Acts as a user by means of the helper process.
#[derive(Debug)]
pub struct User<'a> {
    account: &'a Account,
    place: &'a Prefix,
    program: (File, PathBuf),
}

impl<'a> User<'a> {
    /// Creates one for an account.
    ///
    /// # Errors
    /// It is root, or this program cannot be passed on.
    pub fn new(account: &'a Account, place: &'a Prefix) -> Result<Self> {
        ensure!(account.uid != 0, "agents do not run as root");
        process::close_descriptors_on_exec();
        Ok(Self {
            account,
            place,
            program: process::inheritable_self()?,
        })
    }

    /// Returns the state of the user's files.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn inspect(&self, request: &Request) -> Result<Report> {
        self.ask(request, INSPECT_LIMIT)
    }

    /// Carries out a request; returns what was done, in sentences.
    ///
    /// # Errors
    /// The request failed; the hint is the helper process's own.
    pub fn act(&self, request: &Request) -> Result<Vec<String>> {
        self.ask(request, WORK_LIMIT)
    }

    /// The version of a claude that the user may run.
    ///
    /// # Errors
    /// It does not run, or its output is not a version.
    pub fn version(&self, program: &Path) -> Result<String> {
        let version: String = self.ask(&Request::Version(program.to_owned()), INSPECT_LIMIT)?;
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '+');
        let starts = version.starts_with(|c: char| c.is_ascii_digit());
        ensure!(
            starts && version.len() < 64 && version.chars().all(good),
            "{} prints no version",
            program.display()
        );
        Ok(version)
    }

    /// Has the helper process read a file, and writes it into `into`. Root opens nothing by a name
    /// that the user chose.
    ///
    /// # Errors
    /// It cannot be read, or the disk is full.
    pub fn fetch(&self, from: &Path, into: &File) -> Result<()> {
        let mut command = self.command(&Request::Send(from.to_owned()))?;
        let output = command::run_into(&mut command, into.try_clone()?.into(), WORK_LIMIT)?;
        if !output.status.success() {
            return Err(self.failure(&output));
        }
        Ok(())
    }

    fn ask<T: DeserializeOwned>(&self, request: &Request, limit: Duration) -> Result<T> {
        let mut command = self.command(request)?;
        let output = command::run_into(&mut command, Stdio::piped(), limit)?;
        if !output.status.success() {
            return Err(self.failure(&output));
        }
        let answer: Value =
            serde_json::from_str(&output.stdout).context("the helper process gave no answer")?;
        serde_json::from_value(cleaned(answer)).context("the helper process gave a wrong answer")
    }

    /// The error that the helper process printed, with its hint.
    fn failure(&self, output: &Output) -> sys::error::Error {
        let mut lines = output.stderr.lines();
        let error = lines.next().unwrap_or_default();
        let error = printable(error.strip_prefix("error: ").unwrap_or(error));
        let name = &self.account.name;
        let error = match error.as_str() {
            "" => anyhow!("the helper process of {name} ended with {}", output.status),
            said => anyhow!("as {name}: {said}"),
        };
        match lines.find_map(|line| line.strip_prefix("hint: ")) {
            Some(hint) => error.hint(printable(hint)),
            None => error,
        }
    }

    /// The command of the helper process, with the user's groups and the environment of a login.
    fn command(&self, request: &Request) -> Result<Command> {
        let account = self.account;
        // The accounts of a prefix do not exist on this machine.
        let groups = match self.place.is_real() {
            true => Groups::OfAccount,
            false => Groups::None,
        };
        // Killed with its parent: no helper of an interrupted set-up runs beside the next one.
        let mut command = run_as(
            account.uid,
            account.gid,
            groups,
            Signal::Kill,
            &self.program.1,
        );
        command.arg(VERB).arg(serde_json::to_string(request)?);
        let home = &account.home;
        let path = format!(
            "{}/.local/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            home.display()
        );
        command
            .env("HOME", home)
            .env("USER", &account.name)
            .env("LOGNAME", &account.name)
            .env("SHELL", &account.shell)
            .env("PATH", path)
            .env("LANG", "C.UTF-8");
        Ok(command)
    }
}

/// Untrusted text, without control characters that a terminal would obey.
fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

/// An answer in which every text is printable.
fn cleaned(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(printable(&text)),
        Value::Array(list) => list.into_iter().map(cleaned).collect(),
        Value::Object(object) => object
            .into_iter()
            .map(|(key, value)| (printable(&key), cleaned(value)))
            .collect(),
        other => other,
    }
}

/// Returns the answer of the hidden verb as it is printed; errors are returned as errors.
///
/// # Errors
/// As [`serve`].
pub fn answer(request: &str) -> Result<Option<String>> {
    match serve(request) {
        Ok(Value::Null) => Ok(None),
        Ok(value) => Ok(Some(value.to_string())),
        Err(error) => {
            // One line, since the parent process reads one.
            let line = printable(&format!("{error:#}"));
            match hint_of(&error) {
                Some(hint) => Err(anyhow!(line)).hint(hint.to_owned()),
                None => bail!(line),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_of_the_helper_cannot_control_a_terminal() {
        assert_eq!(printable("a\x1b]0;x\x07b\nc"), "a ]0;x b c");
        let answer = serde_json::json!({"links": [["\u{1b}[2J", 1]]});
        assert_eq!(cleaned(answer)["links"][0][0], " [2J");
    }

    #[test]
    fn requests_are_read_as_they_were_written() {
        let link = Link {
            at: "/home/a/.x".into(),
            to: "/r/home/.x".into(),
        };
        for request in [
            Request::Link(link),
            Request::Retain {
                data_dir: "/r".into(),
            },
        ] {
            let text = serde_json::to_string(&request).unwrap();
            assert_eq!(serde_json::from_str::<Request>(&text).unwrap(), request);
        }
    }
}
