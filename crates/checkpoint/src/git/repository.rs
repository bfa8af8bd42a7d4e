//! Finds a workspace's repository, checks its owner, and reads its settings.
//!
//! # Ownership checks
//!
//! An agent can write a `.git` that leads anywhere, and the keeper may be able to write where the
//! agent cannot. So:
//!
//! * Only the workspace itself is searched, no directory above it.
//! * Workspace, git directory, objects and refs must belong to the user that spotkeep runs as. This
//!   is so for root too: what root writes into a user's repository, that user could not change any
//!   more. git's own rule (`safe.directory`) requires the same.
//! * A git directory outside of the workspace must acknowledge it: the one of a linked worktree by
//!   its `gitdir` file, any other by `core.worktree`, as submodules do. A user who can write
//!   neither cannot make spotkeep write there.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use sys::error::{Context as _, Hint as _, Result, anyhow, bail};
use sys::user;

use super::Git;

/// A repository that may be written to, and the workspace that it belongs to. All paths are
/// absolute and without links.
#[derive(Debug, Clone)]
pub struct Repository {
    /// The workspace.
    pub work_tree: PathBuf,
    /// The git directory; for a linked worktree, its own part.
    pub git_dir: PathBuf,
    /// The directory that all worktrees share: objects, refs, configuration.
    pub common_dir: PathBuf,
    /// Its settings.
    pub settings: Settings,
}

/// Settings of a repository that say how files are to be read. None of them names a program.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// Bytes of an object's name: 20, or 32 with SHA-256.
    pub oid_length: usize,
    /// Whether refs are in a reftable.
    pub reftable: bool,
    /// Whether the mode of a file on the disk can be relied on.
    pub file_mode: bool,
    /// Path of the user's global ignore patterns; `None`: git's default path.
    pub excludes_file: Option<PathBuf>,
    /// Path of the user's global attributes.
    pub attributes_file: Option<PathBuf>,
    /// Whether line ends are converted without an attribute that says so.
    pub converts_line_ends: bool,
    /// Whether only a part of the files is to be on the disk.
    pub is_sparse: bool,
    /// Whether the repository has no work tree.
    pub is_bare: bool,
    /// `core.worktree`.
    pub work_tree: Option<PathBuf>,
}

impl Repository {
    /// Finds the repository of a workspace; `None` where the workspace itself is not a repository.
    ///
    /// # Errors
    /// It belongs to another user, it does not acknowledge this workspace, or it cannot be read.
    pub fn find(workspace: &Path, until: Instant) -> Result<Option<Self>> {
        let Some(git_dir) = git_dir(workspace)? else {
            return Ok(None);
        };
        let work_tree = canonical(workspace)?;
        let git_dir = canonical(&git_dir)?;
        let common_dir = match fs::read_to_string(git_dir.join("commondir")) {
            Ok(text) => canonical(&git_dir.join(text.trim_end_matches('\n')))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => git_dir.clone(),
            Err(error) => return Err(error).context("cannot read its commondir"),
        };
        let mut repository = Self {
            work_tree,
            git_dir,
            common_dir,
            settings: Settings::default(),
        };
        repository.ensure_ours()?;
        let git = Git::refs(&repository, until);
        repository.settings = Settings::read(&git, &repository.git_dir)?;
        repository.ensure_acknowledged()?;
        Ok(Some(repository))
    }

    /// Opens a repository without a workspace: a bare one, or that of another workspace.
    ///
    /// # Errors
    /// There is none, or it belongs to another user.
    pub fn open(path: &Path, until: Instant) -> Result<Self> {
        let git_dir = git_dir(path)?.unwrap_or_else(|| path.to_path_buf());
        let git_dir = canonical(&git_dir)?;
        if !git_dir.join("objects").is_dir() && !git_dir.join("commondir").is_file() {
            bail!("there is no repository at {}", path.display());
        }
        let common_dir = match fs::read_to_string(git_dir.join("commondir")) {
            Ok(text) => canonical(&git_dir.join(text.trim_end_matches('\n')))?,
            Err(_) => git_dir,
        };
        let mut repository = Self {
            work_tree: common_dir.clone(),
            git_dir: common_dir.clone(),
            common_dir,
            settings: Settings::default(),
        };
        repository.ensure_ours()?;
        let git = Git::refs(&repository, until);
        repository.settings = Settings::read(&git, &repository.git_dir)?;
        Ok(repository)
    }

    /// Whether the workspace is a linked worktree.
    #[must_use]
    pub fn is_linked(&self) -> bool {
        self.git_dir != self.common_dir
    }

    fn ensure_ours(&self) -> Result<()> {
        let me = user::id();
        let refs = ["objects", "refs", "reftable"].map(|name| self.common_dir.join(name));
        let first = [&self.work_tree, &self.git_dir, &self.common_dir];
        for path in first.into_iter().chain(&refs) {
            let owner = match fs::metadata(path) {
                Ok(metadata) => metadata.uid(),
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => {
                    return Err(error).with_context(|| format!("cannot access {}", path.display()));
                }
            };
            if owner != me {
                let name = user::name(owner);
                return Err(anyhow!(
                    "{} belongs to the user {name}, \
                     and {name} could not change what {} writes there",
                    path.display(),
                    user::name(me)
                ))
                .hint(format!("run spotkeep as the user {name}"));
            }
        }
        Ok(())
    }

    fn ensure_acknowledged(&self) -> Result<()> {
        let (workspace, git_dir) = (self.work_tree.display(), self.git_dir.display());
        let named = match &self.settings.work_tree {
            Some(path) => canonical(path).is_ok_and(|path| path == self.work_tree),
            None => false,
        };
        if self.is_linked() {
            // `<common>/worktrees/<name>/gitdir` holds the path of `<workspace>/.git`.
            let registered = self.git_dir.parent() == Some(&self.common_dir.join("worktrees"));
            let back = fs::read_to_string(self.git_dir.join("gitdir")).unwrap_or_default();
            let back = self.git_dir.join(back.trim_end_matches('\n'));
            let back = back.parent().and_then(|parent| canonical(parent).ok());
            if !registered || back.as_ref() != Some(&self.work_tree) {
                return Err(anyhow!(
                    "{workspace} names itself a worktree of {}, which does not list it",
                    self.common_dir.display()
                ))
                .hint(format!("git -C {workspace} worktree repair"));
            }
        } else if self.git_dir != self.work_tree.join(".git") && !named {
            return Err(anyhow!(
                "{workspace} has its git directory at {git_dir}, which does not name it"
            ))
            .hint(format!(
                "git --git-dir {git_dir} config core.worktree {workspace}"
            ));
        } else if self.settings.work_tree.is_some() && !named {
            return Err(anyhow!(
                "the repository of {workspace} has another work tree (core.worktree)"
            ))
            .hint(format!(
                "git --git-dir {git_dir} config --unset core.worktree"
            ));
        }
        Ok(())
    }
}

fn canonical(path: &Path) -> Result<PathBuf> {
    fs::canonicalize(path).with_context(|| format!("cannot follow {}", path.display()))
}

/// Returns the directory that `.git` leads to; `None` where there is none.
fn git_dir(workspace: &Path) -> Result<Option<PathBuf>> {
    let dot_git = workspace.join(".git");
    let found = match fs::metadata(&dot_git) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Ok(None),
        Err(error) => {
            return Err(error).with_context(|| format!("cannot access {}", dot_git.display()));
        }
    };
    if found.is_dir() {
        // git does not take an empty `.git`, or one without a HEAD, for a repository either.
        return Ok(dot_git
            .join("HEAD")
            .symlink_metadata()
            .is_ok()
            .then_some(dot_git));
    }
    if !found.is_file() || found.len() > 8192 {
        bail!(
            "{} is neither a directory nor a short file",
            dot_git.display()
        );
    }
    let text = fs::read_to_string(&dot_git)
        .with_context(|| format!("cannot read {}", dot_git.display()))?;
    let path = text
        .strip_prefix("gitdir:")
        .with_context(|| format!("{} is damaged", dot_git.display()))?;
    Ok(Some(workspace.join(path.trim())))
}

impl Settings {
    fn read(git: &Git, git_dir: &Path) -> Result<Self> {
        let keys = "^(core\\.(excludesfile|attributesfile|autocrlf|bare|eol|filemode|sparsecheckout|worktree)|extensions\\.(objectformat|refstorage))$";
        // Only the user's configuration names the global ignore patterns; reading it runs nothing.
        let git = git
            .with("GIT_CONFIG_NOSYSTEM", "0")
            .without("GIT_CONFIG_GLOBAL");
        let said = git.ask(
            &[
                "config",
                "--includes",
                "--type=path",
                "-z",
                "--get-regexp",
                keys,
            ],
            Vec::new(),
        )?;
        // 1: none of these settings is set.
        if !said.status.success() && said.status.code() != Some(1) {
            bail!(
                "git cannot read the repository's configuration: {}",
                said.stderr
            );
        }
        let mut settings = Self {
            oid_length: 20,
            file_mode: true,
            ..Self::default()
        };
        for pair in said.stdout.split(|byte| *byte == 0) {
            let pair = String::from_utf8_lossy(pair);
            let (key, value) = pair.split_once('\n').unwrap_or((&pair, "true"));
            let path = || (!value.is_empty()).then(|| git_dir.join(value));
            match key {
                "core.excludesfile" => settings.excludes_file = path(),
                // `/dev/null` is spotkeep's own override.
                "core.attributesfile" if value != "/dev/null" => settings.attributes_file = path(),
                "core.worktree" => settings.work_tree = path(),
                "core.autocrlf" => settings.converts_line_ends = !is_false(value),
                "core.sparsecheckout" => settings.is_sparse = !is_false(value),
                "core.bare" => settings.is_bare = !is_false(value),
                "core.filemode" => settings.file_mode = !is_false(value),
                "extensions.objectformat" if value == "sha256" => settings.oid_length = 32,
                "extensions.refstorage" => settings.reftable = value == "reftable",
                _ => {}
            }
        }
        Ok(settings)
    }
}

fn is_false(value: &str) -> bool {
    matches!(
        value.to_ascii_lowercase().as_str(),
        "false" | "no" | "off" | "0" | ""
    )
}
