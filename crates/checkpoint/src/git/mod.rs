//! Runs git safely in repositories that agents can write to.
//!
//! Nothing that an agent has written there is executed outside of the agent's sandbox. The only
//! module that starts git.
//!
//! # Three ways to run it
//!
//! A list of dangerous settings is never complete, and between checking a configuration and using
//! it the agent may change it. So git runs without the agent's configuration wherever it can:
//!
//! * [`Git::files`] is for reading and writing files of the workspace, an index or objects. Its git
//!   directory is [spotkeep's](ShadowGitDir), with spotkeep's configuration, attributes and index.
//!   Of the repository it uses only the object store. git does not know of a filter or an fsmonitor
//!   that the repository names.
//! * [`Git::writing`] is for refs, which only the repository's own git directory can resolve (they
//!   may be in a reftable). The repository's configuration and hooks are replaced by
//!   [spotkeep's](shadow_dir::common). Since git 2.54 a hook may be a setting, and no other setting
//!   disables it.
//! * [`Git::refs`] is for reading refs where spotkeep has no directory yet. Here the configuration
//!   is read, and overruled where a setting could run a program; the few commands that are run this
//!   way (`cat-file`, `for-each-ref`, `config --get`, `check-attr`, `worktree list`) change
//!   nothing, so they run no hook.
//!
//! The user's and the machine's git configuration are not read either, since an agent may write to
//! the former; only the path of the global ignore patterns is taken from it.

mod as_user;
pub(crate) mod call;
pub mod index;
pub mod objects;
pub mod repository;
pub mod shadow_dir;
pub mod status;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use sys::command::{Exchange, exchange};
use sys::error::{Context as _, Result, anyhow, ensure};

pub use as_user::{as_user, without_secret};
pub use repository::Repository;
pub use shadow_dir::ShadowGitDir;

/// Settings that disable what could run a program, wait for a human, or change more than is asked;
/// and those that make spotkeep's objects durable before a ref names them.
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
    // Written out at once, and made durable by the next full fsync, as in git's own batches: see
    // FLUSH.
    ("core.fsyncMethod", "writeout-only"),
];

/// Arguments for the last command of a series that writes objects: its fsync commits the journal
/// and empties the disk's cache, which makes durable what was written out before it. One wait for
/// the disk replaces one for each command.
pub const FLUSH: [&str; 2] = ["-c", "core.fsyncMethod=fsync"];

/// Returns a git command in `dir` with a cleaned environment, and with every setting disabled that
/// could run a program, wait for a human, or change more than it is asked to. The user's own
/// configuration is read.
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
        // Nothing is fetched, also by a git that does not know the variable above.
        .env("GIT_ALLOW_PROTOCOL", "none")
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

/// A way to run git, until a point in time.
#[derive(Debug, Clone)]
pub struct Git {
    dir: PathBuf,
    variables: Vec<(&'static str, PathBuf)>,
    until: Instant,
}

impl Git {
    /// git for reading the refs of a repository, in its own git directory.
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

    /// git for the refs of a repository and its index, without its configuration and its hooks.
    /// `common` is [`shadow_dir::common`].
    #[must_use]
    pub fn writing(repository: &Repository, common: &Path, until: Instant) -> Self {
        let mut git = Self::refs(repository, until);
        git.variables.extend([
            ("GIT_COMMON_DIR", common.to_path_buf()),
            (
                "GIT_OBJECT_DIRECTORY",
                repository.common_dir.join("objects"),
            ),
        ]);
        git
    }

    /// git for files, indexes and objects, in spotkeep's git directory.
    #[must_use]
    pub fn files(shadow: &ShadowGitDir, until: Instant) -> Self {
        Self {
            dir: shadow.work_tree.clone(),
            variables: vec![
                ("GIT_DIR", shadow.dir.clone()),
                ("GIT_WORK_TREE", shadow.work_tree.clone()),
                ("GIT_OBJECT_DIRECTORY", shadow.objects.clone()),
                ("GIT_CONFIG_NOSYSTEM", "1".into()),
                ("GIT_CONFIG_GLOBAL", "/dev/null".into()),
            ],
            until,
        }
    }

    /// Returns a copy that works on this index.
    #[must_use]
    pub fn on_index(&self, index: &Path) -> Self {
        let mut git = self.clone();
        git.variables.push(("GIT_INDEX_FILE", index.to_path_buf()));
        // In spotkeep's own index, refreshed stat data may be written.
        git.variables.push(("GIT_OPTIONAL_LOCKS", "1".into()));
        git
    }

    /// Returns a copy with one more environment variable.
    #[must_use]
    pub fn with(&self, name: &'static str, value: impl Into<PathBuf>) -> Self {
        let mut git = self.clone();
        git.variables.push((name, value.into()));
        git
    }

    /// Returns a copy that is started in another directory.
    #[must_use]
    pub fn within(&self, dir: &Path) -> Self {
        let mut git = self.clone();
        git.dir = dir.to_path_buf();
        git
    }

    /// Returns a copy without an environment variable.
    #[must_use]
    fn without(&self, name: &str) -> Self {
        let mut git = self.clone();
        git.variables.retain(|(found, _)| *found != name);
        git
    }

    /// Returns the time by which it has to end.
    #[must_use]
    pub fn until(&self) -> Instant {
        self.until
    }

    /// Runs git; any exit status is returned.
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

    /// Runs git; returns its output if it succeeded.
    ///
    /// # Errors
    /// Like [`Self::ask`], or git failed.
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

    /// Runs git; returns the one line that it prints.
    ///
    /// # Errors
    /// Like [`Self::run`].
    pub fn line<S: AsRef<OsStr>>(&self, arguments: &[S], input: Vec<u8>) -> Result<String> {
        let bytes = self.run(arguments, input)?;
        Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use testing::wait::FOREVER;

    #[test]
    fn refs_are_written_in_the_repository_without_its_configuration() {
        let dir = tempfile::tempdir().unwrap();
        let main = fs::canonicalize(dir.path()).unwrap().join("main");
        let linked = main.with_file_name("linked");
        fs::create_dir(&main).unwrap();
        let plain = |arguments: &[&str]| {
            let output = command(&main).args(arguments).output().unwrap();
            assert!(output.status.success(), "{arguments:?}: {output:?}");
            String::from_utf8(output.stdout).unwrap()
        };
        plain(&["init", "-q"]);
        plain(&["commit", "-q", "--allow-empty", "-m", "One"]);
        plain(&["worktree", "add", "-q", linked.to_str().unwrap()]);
        // A hook by configuration, which git supports since 2.54.
        plain(&["config", "hook.planted.event", "reference-transaction"]);
        plain(&["config", "hook.planted.command", "touch footprint"]);
        let until = Instant::now() + FOREVER;
        for (at, workspace) in [&main, &linked].into_iter().enumerate() {
            let repository = Repository::find(workspace, until).unwrap().unwrap();
            let common = shadow_dir::common(&dir.path().join("side"), &repository).unwrap();
            let git = Git::writing(&repository, &common, until);
            let said = git
                .ask(&["config", "--get-regexp", "^hook\\."], Vec::new())
                .unwrap();
            assert_eq!((said.status.code(), said.stdout), (Some(1), Vec::new()));
            let name = format!("refs/spotkeep/x/{at}");
            git.run(&["update-ref", &name, "HEAD"], Vec::new()).unwrap();
            assert!(main.join(".git").join(&name).is_file());
            // A ref of this worktree alone.
            git.run(&["update-ref", "refs/bisect/bad", "HEAD"], Vec::new())
                .unwrap();
            assert!(repository.git_dir.join("refs/bisect/bad").is_file());
        }
        plain(&["pack-refs", "--all"]);
        let repository = Repository::find(&main, until).unwrap().unwrap();
        let common = shadow_dir::common(&dir.path().join("side"), &repository).unwrap();
        Git::writing(&repository, &common, until)
            .run(&["update-ref", "-d", "refs/spotkeep/x/0"], Vec::new())
            .unwrap();
        let left = plain(&["for-each-ref", "--format=%(refname)", "refs/spotkeep"]);
        assert_eq!(left, "refs/spotkeep/x/1\n");
    }
}
