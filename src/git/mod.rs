//! Runs the real git in repositories that agents can write to, so that nothing of theirs is executed
//! outside of their sandbox. The only room that starts git.
//!
//! # Two ways to run it
//!
//! A list of dangerous settings is never complete, and between looking at a configuration and using it
//! the agent may change it. So the agent's configuration is kept out of the way altogether:
//!
//! * [`Git::files`] is for everything that looks at or writes files of the workspace, an index or objects.
//!   Its git directory is [ours](Side): our configuration, our attributes, our index. Of the
//!   repository it uses the object store and nothing else. A filter or an fsmonitor that the repository
//!   names is not even known to it.
//! * [`Git::refs`] is for refs, which only the repository's own git directory can resolve (they may be in
//!   a reftable). Here its configuration is read, and overruled where a setting could run a program; the
//!   few commands that are run this way (`cat-file`, `for-each-ref`, `update-ref`, `symbolic-ref`,
//!   `reflog show`, `config --get`, `check-attr`, `worktree add --no-checkout`) know of no other program than hooks.
//!
//! The user's and the machine's git configuration are left out too, since an agent may write to the former;
//! only where global ignore patterns are, is asked for.

pub mod index;
pub mod objects;
pub mod repository;
pub mod side;
pub mod status;
mod user;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use crate::error::{Context as _, Result, anyhow, ensure};
use crate::os::process::{Exchange, exchange};

pub use repository::Repository;
pub use side::Side;
pub use user::{as_user, without_secret};

/// Settings that could run a program, wait for a human, or change more than is asked, put out of action; and
/// those that make our own objects durable before a ref names them.
const SETTINGS: [(&str, &str); 18] = [
    ("core.hooksPath", "/dev/null"),
    ("core.fsmonitor", "false"),
    ("core.untrackedCache", "false"),
    ("core.splitIndex", "false"),
    ("core.safecrlf", "false"),
    ("core.logAllRefUpdates", "false"),
    ("core.attributesFile", "/dev/null"),
    ("core.pager", "cat"),
    ("core.askPass", ""),
    ("core.sshCommand", "false"),
    ("credential.helper", ""),
    ("protocol.ext.allow", "never"),
    ("log.showSignature", "false"),
    ("gc.auto", "0"),
    ("maintenance.auto", "false"),
    ("advice.addEmbeddedRepo", "false"),
    ("core.fsync", "committed,loose-object"),
    // Written out at once, and made durable by the next full fsync, as git's own batches are: see FLUSH.
    ("core.fsyncMethod", "writeout-only"),
];

/// For the command that ends a row of written objects: its fsync commits the journal and empties the disk's cache,
/// and with that makes durable what was written out before it. One wait for the disk in place of one for each command.
pub const FLUSH: [&str; 2] = ["-c", "core.fsyncMethod=fsync"];

/// A git command in `dir` with a cleaned environment and every setting that could run a program, wait
/// for a human, or change more than it is asked to, put out of action. The user's own configuration is
/// read.
#[must_use]
pub fn command(dir: &Path) -> Command {
    let mut command = Command::new("git");
    command.current_dir(dir);
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("GIT_")) {
            command.env_remove(name);
        }
    }
    command
        .env_remove("SSH_ASKPASS")
        .env("GIT_OPTIONAL_LOCKS", "0")
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_NO_LAZY_FETCH", "1")
        .env("GIT_NO_REPLACE_OBJECTS", "1")
        .env("GIT_ATTR_NOSYSTEM", "1")
        .env("GIT_TRACE2", "0")
        .env("GIT_TRACE2_EVENT", "0")
        .env("GIT_TRACE2_PERF", "0")
        .env("GIT_AUTHOR_NAME", "spotkeep")
        .env("GIT_AUTHOR_EMAIL", "spotkeep@localhost")
        .env("GIT_COMMITTER_NAME", "spotkeep")
        .env("GIT_COMMITTER_EMAIL", "spotkeep@localhost")
        .env("LC_ALL", "C")
        .env("GIT_CONFIG_COUNT", SETTINGS.len().to_string());
    for (at, (key, value)) in SETTINGS.iter().enumerate() {
        command.env(format!("GIT_CONFIG_KEY_{at}"), key);
        command.env(format!("GIT_CONFIG_VALUE_{at}"), value);
    }
    command
}

/// A way to run git, until a moment.
#[derive(Debug, Clone)]
pub struct Git {
    dir: PathBuf,
    variables: Vec<(&'static str, PathBuf)>,
    until: Instant,
}

impl Git {
    /// For the refs of a repository, in its own git directory.
    #[must_use]
    pub fn refs(repository: &Repository, until: Instant) -> Self {
        Self {
            dir: repository.git_dir.clone(),
            variables: vec![
                ("GIT_DIR", repository.git_dir.clone()),
                ("GIT_CONFIG_NOSYSTEM", "1".into()),
                ("GIT_CONFIG_GLOBAL", "/dev/null".into()),
            ],
            until,
        }
    }

    /// For files, indexes and objects, in a git directory of ours.
    #[must_use]
    pub fn files(side: &Side, until: Instant) -> Self {
        Self {
            dir: side.work_tree.clone(),
            variables: vec![
                ("GIT_DIR", side.dir.clone()),
                ("GIT_WORK_TREE", side.work_tree.clone()),
                ("GIT_OBJECT_DIRECTORY", side.objects.clone()),
                ("GIT_CONFIG_NOSYSTEM", "1".into()),
                ("GIT_CONFIG_GLOBAL", "/dev/null".into()),
            ],
            until,
        }
    }

    /// The same, on this index.
    #[must_use]
    pub fn on_index(&self, index: &Path) -> Self {
        let mut git = self.clone();
        git.variables.push(("GIT_INDEX_FILE", index.to_path_buf()));
        // The refreshed stat data of an index of ours are worth keeping.
        git.variables.push(("GIT_OPTIONAL_LOCKS", "1".into()));
        git
    }

    /// The same, with one more variable.
    #[must_use]
    pub fn with(&self, name: &'static str, value: impl Into<PathBuf>) -> Self {
        let mut git = self.clone();
        git.variables.push((name, value.into()));
        git
    }

    /// The same, started in another directory.
    #[must_use]
    pub fn within(&self, dir: &Path) -> Self {
        let mut git = self.clone();
        git.dir = dir.to_path_buf();
        git
    }

    /// The same, without a variable.
    #[must_use]
    fn without(&self, name: &str) -> Self {
        let mut git = self.clone();
        git.variables.retain(|(found, _)| *found != name);
        git
    }

    /// When it has to be done.
    #[must_use]
    pub fn until(&self) -> Instant {
        self.until
    }

    /// Runs it, whatever it answers.
    ///
    /// # Errors
    /// It cannot be started, or the time is over.
    pub fn ask<S: AsRef<OsStr>>(&self, arguments: &[S], input: Vec<u8>) -> Result<Exchange> {
        let mut command = command(&self.dir);
        command.args(arguments);
        for (name, value) in &self.variables {
            command.env(name, value);
        }
        let what = arguments.first().map(|name| name.as_ref().to_os_string());
        let said = || format!("git {}", what.unwrap_or_default().to_string_lossy());
        ensure!(
            self.until > Instant::now(),
            "no time is left for {}",
            said()
        );
        exchange(&mut command, input, self.until).with_context(said)
    }

    /// Runs it; what it says when all went well.
    ///
    /// # Errors
    /// As [`Self::ask`], or it failed.
    pub fn run<S: AsRef<OsStr>>(&self, arguments: &[S], input: Vec<u8>) -> Result<Vec<u8>> {
        let said = self.ask(arguments, input)?;
        if said.status.success() {
            return Ok(said.stdout);
        }
        let name = arguments
            .first()
            .map(|name| name.as_ref().to_string_lossy());
        Err(anyhow!(
            "git {} failed ({}): {}",
            name.unwrap_or_default(),
            said.status,
            said.stderr
        ))
    }

    /// Runs it; the one line it says.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn line<S: AsRef<OsStr>>(&self, arguments: &[S], input: Vec<u8>) -> Result<String> {
        let bytes = self.run(arguments, input)?;
        Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
    }
}
