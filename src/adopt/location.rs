//! Location of a session's workspace, and whether it can be moved or copied.

use std::fs;
use std::path::{Path, PathBuf};

use checkpoint::workspace;
use state::layout::DataDir;

/// Where a workspace is, relative to the data directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WorkspaceLocation {
    /// The directory does not exist any more.
    Gone,
    /// It is in the data directory.
    Inside,
    /// It is outside; with what ties it to its path.
    Outside(Tie),
}

/// What ties a directory outside of the data directory to its path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tie {
    /// Nothing: it can be moved and copied.
    None,
    /// It is a part of a repository above it.
    PartOf(PathBuf),
    /// Its repository is elsewhere: it is a linked worktree, or a submodule.
    Linked {
        /// The repository's directory with objects and refs.
        repository: PathBuf,
        /// Whether the repository is in the data directory.
        inside: bool,
    },
    /// This many linked worktrees belong to its repository and refer to it by its path.
    Worktrees(usize),
    /// It is the home, the data directory's own parent, or the like: more than a workspace.
    TooMuch,
}

/// Locates a workspace. `homes` are directories that are more than a workspace.
#[must_use]
pub fn locate(data_dir: &DataDir, cwd: &Path, homes: &[PathBuf]) -> WorkspaceLocation {
    let Ok(cwd) = fs::canonicalize(cwd) else {
        return WorkspaceLocation::Gone;
    };
    if !cwd.is_dir() {
        return WorkspaceLocation::Gone;
    }
    if data_dir.holds(&cwd) {
        return WorkspaceLocation::Inside;
    }
    let is_too_much = |dir: &Path| {
        let dir = fs::canonicalize(dir).unwrap_or_else(|_| dir.to_owned());
        dir.starts_with(&cwd)
    };
    if is_too_much(data_dir.dir()) || homes.iter().any(|home| is_too_much(home)) {
        return WorkspaceLocation::Outside(Tie::TooMuch);
    }
    WorkspaceLocation::Outside(tie(data_dir, &cwd))
}

fn tie(data_dir: &DataDir, cwd: &Path) -> Tie {
    if let Some(common) = workspace::common_dir(cwd) {
        let common = fs::canonicalize(&common).unwrap_or(common);
        if !common.starts_with(cwd) {
            return Tie::Linked {
                inside: data_dir.holds(&common),
                repository: common,
            };
        }
        let linked = fs::read_dir(common.join("worktrees"));
        return match linked.into_iter().flatten().count() {
            0 => Tie::None,
            count => Tie::Worktrees(count),
        };
    }
    let above = cwd.ancestors().skip(1);
    match above
        .into_iter()
        .find(|dir| fs::symlink_metadata(dir.join(".git")).is_ok())
    {
        Some(top) => Tie::PartOf(top.to_owned()),
        None => Tie::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locate_finds_what_ties_a_workspace_to_its_path() {
        let dir = tempfile::tempdir().unwrap();
        let dir = fs::canonicalize(dir.path()).unwrap();
        let (data_dir, _) = DataDir::init(&dir.join("ann/fleet")).unwrap();
        let put = |path: &str| {
            fs::create_dir_all(dir.join(path)).unwrap();
            dir.join(path)
        };
        let look = |path: &Path| locate(&data_dir, path, &[dir.join("home/bob")]);
        let plain = put("plain");
        assert_eq!(look(&plain), WorkspaceLocation::Outside(Tie::None));
        assert_eq!(look(&dir.join("nowhere")), WorkspaceLocation::Gone);
        assert_eq!(
            look(&put("ann/fleet/workspaces/w")),
            WorkspaceLocation::Inside
        );
        assert_eq!(
            look(&dir.join("ann")),
            WorkspaceLocation::Outside(Tie::TooMuch)
        );
        put("home/bob");
        assert_eq!(
            look(&dir.join("home/bob")),
            WorkspaceLocation::Outside(Tie::TooMuch)
        );

        let repository = put("api");
        put("api/.git");
        assert_eq!(look(&repository), WorkspaceLocation::Outside(Tie::None));
        assert_eq!(
            look(&put("api/src")),
            WorkspaceLocation::Outside(Tie::PartOf(repository.clone()))
        );
        put("api/.git/worktrees/linked");
        fs::write(dir.join("api/.git/worktrees/linked/commondir"), "../..\n").unwrap();
        assert_eq!(
            look(&repository),
            WorkspaceLocation::Outside(Tie::Worktrees(1))
        );
        let linked = put("linked");
        fs::write(
            linked.join(".git"),
            "gitdir: ../api/.git/worktrees/linked\n",
        )
        .unwrap();
        let tie = Tie::Linked {
            repository: repository.join(".git"),
            inside: false,
        };
        assert_eq!(look(&linked), WorkspaceLocation::Outside(tie));
    }
}
