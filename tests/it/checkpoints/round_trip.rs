//! Tests, for each state of a workspace, that a checkpoint changes nothing and restores everything.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;

use checkpoint::{CheckpointOutcome, rebuild, rollback};

use super::cases::{CASES, Case};
use super::repositories::{Bench, assert_same, each, fingerprint, view};

fn each_case(check: impl Fn(&Case) + Sync) {
    each(CASES, |case| case.name, check);
}

#[test]
fn a_checkpoint_changes_nothing_and_restores_everything_after_damage() {
    each_case(|case| {
        let bench = (case.make)();
        let before = fingerprint(&bench);
        let checkpoint = bench.taken();
        let again = bench.try_take().unwrap();
        let after = fingerprint(&bench);
        for (path, fingerprint) in &before.0 {
            assert_eq!(
                Some(fingerprint),
                after.0.get(path),
                "{}: {}",
                case.name,
                path.display()
            );
        }
        assert_eq!(before.0.len(), after.0.len(), "{}", case.name);
        assert_eq!(before.1, after.1, "{}", case.name);
        assert_eq!(
            again,
            CheckpointOutcome::Unchanged(Some(checkpoint.id.clone())),
            "{}",
            case.name
        );
        assert_eq!(checkpoint.left_out, [""; 0], "{}", case.name);

        let as_kept = view(&bench, &bench.workspace);
        wreck(&bench);
        let wrecked = view(&bench, &bench.workspace);
        let undo = bench.taken();
        let told = rollback(&bench.place(), &checkpoint.id, true);
        let told = told.unwrap_or_else(|error| panic!("{}: {error:#}", case.name));
        assert_eq!(told, [""; 0], "{}", case.name);
        assert_same(&view(&bench, &bench.workspace), &as_kept, case.name);
        rollback(&bench.place(), &undo.id, true).unwrap();
        assert_same(
            &view(&bench, &bench.workspace),
            &wrecked,
            &format!("{}, undone", case.name),
        );
        let fsck = bench.git_says(&bench.workspace, &["fsck", "--full", "--no-dangling"]);
        assert!(fsck.status.success(), "{}: {fsck:?}", case.name);
    });
}

#[test]
fn a_missing_workspace_is_recreated_from_the_shared_refs() {
    each_case(|case| {
        if !case.rebuilds {
            return;
        }
        let bench = (case.make)();
        // Checkpoints contain no ignored files.
        bench.git(&["clean", "-q", "-f", "-d", "-X"]);
        fs::remove_file(bench.path(".git/index.lock")).ok();
        let before = view(&bench, &bench.workspace);
        let checkpoint = bench.taken();
        let is_linked = bench.path(".git").is_file();
        let (workspace, repository) = if is_linked {
            fs::remove_dir_all(&bench.workspace).unwrap();
            bench.git_in(&bench.dir.join("w"), &["worktree", "prune"]);
            (bench.workspace.clone(), bench.dir.join("w"))
        } else {
            (bench.dir.join("again"), bench.workspace.clone())
        };
        let place = bench.place_at(&workspace, "private-again");
        let told = rebuild(&place, &repository, &checkpoint.id);
        let told = told.unwrap_or_else(|error| panic!("{}: {error:#}", case.name));
        assert_eq!(told, [""; 0], "{}", case.name);
        configure_as(&bench, &workspace, is_linked);
        assert_same(&view(&bench, &workspace), &before, case.name);
        assert_eq!(
            stash(&bench, &workspace),
            stash(&bench, &repository),
            "{}",
            case.name
        );
    });
}

/// Copies the repository's settings, which no checkpoint contains, so that git prints the same.
fn configure_as(bench: &Bench, workspace: &std::path::Path, is_linked: bool) {
    if is_linked {
        return;
    }
    for key in [
        "core.autocrlf",
        "core.excludesFile",
        "filter.lfs.clean",
        "filter.lfs.required",
    ] {
        let value = bench.git_says(&bench.workspace, &["config", key]).stdout;
        let value = String::from_utf8(value).unwrap();
        if !value.is_empty() {
            bench.git_in(workspace, &["config", key, value.trim()]);
        }
    }
    fs::copy(
        bench.path(".git/info/exclude"),
        workspace.join(".git/info/exclude"),
    )
    .ok();
}

fn stash(bench: &Bench, dir: &std::path::Path) -> String {
    bench.git_in(dir, &["stash", "list"])
}

/// Damages a workspace as an agent can: deletes all files that are not ignored, and commits on
/// another branch.
fn wreck(bench: &Bench) {
    fs::remove_file(bench.path(".git/index.lock")).ok();
    let list = bench.git_says(
        &bench.workspace,
        &["ls-files", "-z", "-c", "-o", "--exclude-standard"],
    );
    for name in list
        .stdout
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
    {
        let path = bench.workspace.join(std::ffi::OsStr::from_bytes(name));
        // Skips nested repositories, which end in a slash, and submodules, which are directories.
        if fs::symlink_metadata(&path).is_ok_and(|found| !found.is_dir()) {
            fs::remove_file(&path).unwrap();
        }
    }
    for name in ["dir", "a", "b"] {
        // Directories of these names are empty now.
        fs::remove_dir(bench.path(name)).ok();
    }
    bench.write("wreck/age", "by the agent\n");
    bench.write("b", "by the agent\n");
    bench.git(&["read-tree", "--empty"]);
    bench.git(&["symbolic-ref", "HEAD", "refs/heads/wreck"]);
    bench.git(&["add", "--sparse", "wreck", "b"]);
    bench.git(&["commit", "-q", "--no-verify", "-m", "Wreck"]);
}
