//! Nothing is touched, and everything is given back: for each case.

use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use spotkeep::checkpoint::{Outcome, rebuild, rollback};

use super::bench::{Bench, print, view};
use super::cases::{CASES, Case};

/// All cases, a few at a time; every one that fails is told.
fn each_case(check: impl Fn(&Case) + Sync) {
    let next = AtomicUsize::new(0);
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some(case) = CASES.get(next.fetch_add(1, Ordering::SeqCst)) {
                    let checked =
                        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(case)));
                    if checked.is_err() {
                        failed.lock().unwrap().push(case.name);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "failed: {failed:?}");
}

#[test]
fn a_checkpoint_touches_nothing_and_a_second_one_is_not_needed() {
    each_case(|case| {
        let bench = (case.make)();
        let before = print(&bench);
        let checkpoint = bench.taken();
        let again = bench.try_take().unwrap();
        let after = print(&bench);
        for (path, print) in &before.0 {
            assert_eq!(
                Some(print),
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
            Outcome::Unchanged(Some(checkpoint.id)),
            "{}",
            case.name
        );
        assert_eq!(checkpoint.left_out, [""; 0], "{}", case.name);
        sound(&bench, case);
    });
}

#[test]
fn after_a_wreck_everything_is_given_back_and_the_wreck_too() {
    each_case(|case| {
        let bench = (case.make)();
        let before = view(&bench, &bench.workspace);
        let checkpoint = bench.taken();
        wreck(&bench);
        let wrecked = view(&bench, &bench.workspace);
        let undo = bench.taken();
        let told = rollback(&bench.place(), &checkpoint.id, true);
        let told = told.unwrap_or_else(|error| panic!("{}: {error:#}", case.name));
        assert_eq!(told, [""; 0], "{}", case.name);
        assert_eq!(view(&bench, &bench.workspace), before, "{}", case.name);
        rollback(&bench.place(), &undo.id, true).unwrap();
        assert_eq!(
            view(&bench, &bench.workspace),
            wrecked,
            "{}, undone",
            case.name
        );
        sound(&bench, case);
    });
}

#[test]
fn a_workspace_that_is_gone_is_made_anew_from_the_shared_refs() {
    each_case(|case| {
        if !case.rebuilds {
            return;
        }
        let bench = (case.make)();
        // What is ignored is in no checkpoint.
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
        assert_eq!(view(&bench, &workspace), before, "{}", case.name);
        assert_eq!(
            stash(&bench, &workspace),
            stash(&bench, &repository),
            "{}",
            case.name
        );
    });
}

/// The repository's own settings are in no checkpoint; the agent's are set again, so that git says the same.
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

/// What an agent can do to a workspace: half of it is deleted, another branch, a commit.
fn wreck(bench: &Bench) {
    fs::remove_file(bench.path(".git/index.lock")).ok();
    for entry in fs::read_dir(&bench.workspace).unwrap() {
        let path = entry.unwrap().path();
        let keeps_a_repository = path.join(".git").exists();
        if path.ends_with(".git") || keeps_a_repository || path.ends_with("deps") {
            continue;
        }
        if path.is_dir() && !path.is_symlink() {
            fs::remove_dir_all(&path).unwrap();
        } else {
            fs::remove_file(&path).unwrap();
        }
    }
    bench.write("wreck/age", "by the agent\n");
    bench.write("b", "by the agent\n");
    bench.git(&["symbolic-ref", "HEAD", "refs/heads/wreck"]);
    bench.git(&["add", "-A", "--sparse", "wreck", "b"]);
    bench.git(&["commit", "-q", "--no-verify", "-m", "Wreck"]);
}

fn sound(bench: &Bench, case: &Case) {
    let output = bench.git_says(&bench.workspace, &["fsck", "--full", "--no-dangling"]);
    assert!(output.status.success(), "{}: {output:?}", case.name);
}
