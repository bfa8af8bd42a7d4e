//! A digest of a git workspace: every file with its mode, the index, HEAD and the refs.
//!
//! Two digests show whether a preemption changed the workspace.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use sys::command;
use sys::error::{Context as _, Result, ensure};

/// The digest: an entry for each file, staged path and ref, with a fingerprint of its content.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Digest(BTreeMap<String, String>);

impl Digest {
    /// Makes the digest of a workspace. Spotkeep's refs (`refs/spotkeep/`) are left out, because
    /// spotkeep may change them. It writes nothing, not even git's index.
    ///
    /// # Errors
    /// It cannot be read, or git fails.
    pub fn from_workspace(workspace: &Path) -> Result<Self> {
        Self::with_git(workspace, &|args| {
            git(Command::new("git").env_clear(), workspace, args)
        })
    }

    /// Like [`Digest::from_workspace`], with the caller's git command.
    ///
    /// # Errors
    /// See [`Digest::from_workspace`].
    pub fn with_git(workspace: &Path, git: &dyn Fn(&[&str]) -> Result<String>) -> Result<Self> {
        let mut entries = BTreeMap::new();
        walk(workspace, workspace, &mut entries)?;
        for line in git(&["ls-files", "--stage"])?.lines() {
            // MODE OBJECT STAGE<tab>PATH
            let (what, path) = line.split_once('\t').unwrap_or((line, ""));
            entries.insert(format!("staged {path}"), what.to_owned());
        }
        let refs = git(&["for-each-ref", "--format=%(refname) %(objectname)"])?;
        for line in refs
            .lines()
            .filter(|line| !line.starts_with("refs/spotkeep/"))
        {
            let (name, object) = line.split_once(' ').unwrap_or((line, ""));
            entries.insert(format!("ref {name}"), object.to_owned());
        }
        let head = fs::read_to_string(workspace.join(".git/HEAD")).context("cannot read HEAD")?;
        entries.insert("HEAD".to_owned(), head);
        Ok(Self(entries))
    }

    /// Returns the entries that are missing or different in `later`.
    #[must_use]
    pub fn changed_in(&self, later: &Self) -> Vec<String> {
        self.0
            .iter()
            .filter(|(key, value)| later.0.get(*key) != Some(*value))
            .map(|(key, _)| key.clone())
            .collect()
    }

    /// Returns the entries of `later` that are not in this digest.
    #[must_use]
    pub fn added_in(&self, later: &Self) -> Vec<String> {
        let new = later.0.keys().filter(|key| !self.0.contains_key(*key));
        new.cloned().collect()
    }
}

fn walk(top: &Path, dir: &Path, entries: &mut BTreeMap<String, String>) -> Result<()> {
    let failed = || format!("cannot read {}", dir.display());
    for entry in fs::read_dir(dir).with_context(failed)? {
        let path = entry.with_context(failed)?.path();
        let name = path.strip_prefix(top).unwrap_or(&path).to_string_lossy();
        if name == ".git" {
            continue;
        }
        let meta = path.symlink_metadata().with_context(failed)?;
        let content = if meta.is_dir() {
            walk(top, &path, entries)?;
            "directory".to_owned()
        } else if meta.is_symlink() {
            fs::read_link(&path)?.to_string_lossy().into_owned()
        } else {
            let mut hasher = DefaultHasher::new();
            fs::read(&path).with_context(failed)?.hash(&mut hasher);
            format!("{:016x} of {} bytes", hasher.finish(), meta.len())
        };
        let mode = meta.permissions().mode();
        entries.insert(format!("file {name}"), format!("{mode:o} {content}"));
    }
    Ok(())
}

/// Runs the git command `command` in `dir` without the user's configuration, and returns its
/// output.
pub(crate) fn git(command: &mut Command, dir: &Path, args: &[&str]) -> Result<String> {
    command
        .args(["-c", "user.name=Drill", "-c", "user.email=drill@localhost"])
        .args(["-c", "commit.gpgsign=false", "-c", "core.quotePath=false"])
        .args(args)
        .current_dir(dir)
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", "/nonexistent")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_OPTIONAL_LOCKS", "0");
    let output = command::run(command, Duration::from_secs(30))?;
    ensure!(
        output.status.success(),
        "git {}: {}",
        args.join(" "),
        output.stderr
    );
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_of_bytes_mode_index_and_branch_are_seen_and_spotkeeps_refs_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path();
        let git = |args: &[&str]| git(Command::new("git").env_clear(), at, args);
        let digest = || Digest::from_workspace(at).unwrap();
        git(&["init", "-q"]).unwrap();
        fs::write(at.join("a"), "1").unwrap();
        git(&["add", "a"]).unwrap();
        git(&["commit", "-qm", "one"]).unwrap();
        let before = digest();
        git(&["update-ref", "refs/spotkeep/x", "HEAD"]).unwrap();
        assert_eq!(before, digest());

        fs::write(at.join("a"), "2").unwrap();
        assert_eq!(before.changed_in(&digest()), ["file a"]);
        git(&["add", "a"]).unwrap();
        assert_eq!(before.changed_in(&digest()), ["file a", "staged a"]);
        git(&["branch", "b"]).unwrap();
        assert_eq!(before.added_in(&digest()), ["ref refs/heads/b"]);
        fs::set_permissions(at.join("a"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(at.join("a"), "1").unwrap();
        assert!(before.changed_in(&digest()).contains(&"file a".to_owned()));
    }
}
