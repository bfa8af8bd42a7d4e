//! Git facts about an agent's workspace: git directory, branch, status, running git processes.

mod create;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::git::{Git, Repository, ShadowGitDir, objects};
use state::layout::DataDir;

pub use create::{CreatedWorkspace, Source, make};

/// A status of 50,000 files takes 0.15 s (measured); a cold disk takes far longer.
const STATUS_LIMIT: Duration = Duration::from_secs(60);

/// Returns the git directory of a workspace (a linked worktree's own part of its repository),
/// without running git.
#[must_use]
pub fn git_dir(workspace: &Path) -> Option<PathBuf> {
    let dot_git = workspace.join(".git");
    if dot_git.is_dir() {
        return Some(dot_git);
    }
    let text = fs::read_to_string(&dot_git).ok()?;
    Some(workspace.join(text.strip_prefix("gitdir:")?.trim()))
}

/// Returns the directory that holds the repository's objects and refs, shared by all its worktrees;
/// `None` where the workspace is not a git repository.
#[must_use]
pub fn common_dir(workspace: &Path) -> Option<PathBuf> {
    let git_dir = git_dir(workspace)?;
    match fs::read_to_string(git_dir.join("commondir")) {
        Ok(text) => Some(git_dir.join(text.trim())),
        Err(_) => Some(git_dir),
    }
}

/// Returns warnings on what of a workspace may not survive a preemption.
#[must_use]
pub fn warnings(data_dir: &DataDir, workspace: &Path) -> Vec<String> {
    let mut all = Vec::new();
    if !data_dir.holds(workspace) {
        all.push(format!(
            "{} is outside the data directory: it may not survive",
            workspace.display()
        ));
    }
    if let Some(common) = common_dir(workspace)
        && !data_dir.holds(&common)
        && data_dir.holds(workspace)
    {
        all.push(format!(
            "its repository {} is outside the data directory: commits may not survive",
            common.display()
        ));
    }
    all
}

/// Returns the branch checked out, or the short commit where HEAD is detached.
#[must_use]
pub fn branch(workspace: &Path) -> Option<String> {
    let head = fs::read_to_string(git_dir(workspace)?.join("HEAD")).ok()?;
    let head = head.trim();
    match head.strip_prefix("ref: refs/heads/") {
        Some(branch) => Some(branch.to_owned()),
        None => head.get(..10).map(str::to_owned),
    }
}

/// Whether a git process works in one of these directories, or may: one whose working directory
/// cannot be read counts. Names are checked first, which every user may read.
#[must_use]
pub fn holds_git_dir(dirs: &[&Path]) -> bool {
    let dirs: Vec<PathBuf> = dirs
        .iter()
        .filter_map(|dir| fs::canonicalize(dir).ok())
        .collect();
    let within = |path: &Path| dirs.iter().any(|dir| path.starts_with(dir));
    let Ok(processes) = fs::read_dir("/proc") else {
        return true;
    };
    processes.flatten().any(|entry| {
        let process = entry.path();
        let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
        if !name.starts_with("git") {
            return false;
        }
        match fs::read_link(process.join("cwd")) {
            Ok(cwd) => within(&cwd) || holds_open(&process, &within),
            // It has ended, or is another user's.
            Err(error) => error.kind() == std::io::ErrorKind::PermissionDenied,
        }
    })
}

/// Whether a process has a file open whose path is `requested`.
fn holds_open(process: &Path, requested: &dyn Fn(&Path) -> bool) -> bool {
    let Ok(files) = fs::read_dir(process.join("fd")) else {
        return false;
    };
    files
        .flatten()
        .any(|file| fs::read_link(file.path()).is_ok_and(|path| requested(&path)))
}

/// Whether any process that spotkeep can see has this very file open.
#[must_use]
pub fn is_open_anywhere(path: &Path) -> bool {
    let Ok(path) = fs::canonicalize(path) else {
        return false;
    };
    let Ok(processes) = fs::read_dir("/proc") else {
        return true;
    };
    processes
        .flatten()
        .any(|entry| holds_open(&entry.path(), &|open| open == path))
}

/// Returns the output of `git status` with these arguments; `None` where the workspace is not a git
/// repository. It writes only to `private`, a directory of spotkeep's, and runs no program that the
/// repository names: a filter, or the fsmonitor of a submodule. So a file that a filter has changed
/// counts as changed until the agent's own git has read it.
#[must_use]
pub fn status(workspace: &Path, private: &Path, arguments: &[&str]) -> Option<String> {
    let until = Instant::now() + STATUS_LIMIT;
    let repository = Repository::find(workspace, until).ok()??;
    let shadow = ShadowGitDir::open(private, &repository).ok()?;
    let head = objects::look_up(&Git::refs(&repository, until), &["HEAD"]).ok()?;
    shadow
        .set_head(head.get("HEAD").map(|object| object.oid.as_str()))
        .ok()?;
    let git = Git::files(&shadow, until).with("GIT_INDEX_FILE", repository.git_dir.join("index"));
    // A submodule's own git would read its configuration.
    let arguments = [&["status", "--ignore-submodules=dirty"], arguments].concat();
    let said = git.run(&arguments, Vec::new()).or_else(|_| {
        // Its index may be a split one.
        shadow.share_index(&repository)?;
        git.run(&arguments, Vec::new())
    });
    Some(String::from_utf8_lossy(&said.ok()?).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_counts_what_git_counts_and_writes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let workspace = dir.path().join("w");
        fs::create_dir(&workspace).unwrap();
        let git = |arguments: &[&str]| {
            let mut command = crate::git::command(&workspace);
            let output = command.args(arguments).output().unwrap();
            assert!(output.status.success(), "{arguments:?}: {output:?}");
            String::from_utf8(output.stdout).unwrap()
        };
        git(&["init", "-q"]);
        let write = |name: &str, text: &str| fs::write(workspace.join(name), text).unwrap();
        for name in ["a", "b", "c"] {
            write(name, name);
        }
        git(&["add", "."]);
        git(&["commit", "-qm", "One"]);
        let arguments = ["--porcelain=v2", "-z", "-uall"];
        for round in ["whole", "split"] {
            write("a", round);
            git(&["add", "a"]);
            write("b", &format!("{round} b"));
            write(&format!("new-{round}"), "");
            let index = fs::read(workspace.join(".git/index")).unwrap();
            let expected = git(&[&["status"], &arguments[..]].concat());
            let found = status(&workspace, &dir.path().join("private"), &arguments);
            assert_eq!(found, Some(expected), "{round}");
            assert_eq!(fs::read(workspace.join(".git/index")).unwrap(), index);
            git(&[
                "-c",
                "core.splitIndex=true",
                "update-index",
                "--split-index",
            ]);
        }
        fs::remove_dir_all(workspace.join(".git")).unwrap();
        assert_eq!(
            status(&workspace, &dir.path().join("private"), &arguments),
            None
        );
    }

    #[test]
    fn a_repository_and_its_linked_worktree_have_own_git_directories_and_one_common_directory() {
        let dir = tempfile::tempdir().unwrap();
        let main = dir.path().join("main");
        fs::create_dir_all(main.join(".git/worktrees/w")).unwrap();
        fs::write(main.join(".git/HEAD"), "ref: refs/heads/fix/issue-1\n").unwrap();
        let linked = dir.path().join("w");
        fs::create_dir(&linked).unwrap();
        fs::write(linked.join(".git"), "gitdir: ../main/.git/worktrees/w\n").unwrap();
        let own = main.join(".git/worktrees/w");
        fs::write(
            own.join("HEAD"),
            "0123456789abcdef0123456789abcdef01234567\n",
        )
        .unwrap();
        fs::write(own.join("commondir"), "../..\n").unwrap();
        assert_eq!(branch(&main).as_deref(), Some("fix/issue-1"));
        assert_eq!(branch(&linked).as_deref(), Some("0123456789"));
        let canonical = |path: Option<PathBuf>| fs::canonicalize(path.unwrap()).unwrap();
        assert_eq!(canonical(common_dir(&linked)), canonical(common_dir(&main)));
        assert_eq!(common_dir(dir.path()), None);
    }
}
