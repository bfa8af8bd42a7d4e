//! Tests of creating, listing and restoring checkpoints, with the real git.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::*;
use testing::wait::FOREVER;

struct Lab {
    dir: tempfile::TempDir,
    place: CheckpointTarget,
}

fn git(dir: &Path, arguments: &[&str]) -> String {
    let mut command = crate::git::command(dir);
    command
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .args(["-c", "core.fsync=none"])
        .args(arguments);
    let output = Command::output(&mut command).unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

impl Lab {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let workspace = fs::canonicalize(dir.path()).unwrap().join("w");
        fs::create_dir(&workspace).unwrap();
        git(&workspace, &["init", "-q", "-b", "main"]);
        let place = CheckpointTarget {
            workspace,
            agent_id: "a1".into(),
            private: dir.path().join("private"),
            largest_file: 1 << 20,
        };
        Self { dir, place }
    }

    fn committed() -> Self {
        let lab = Self::new();
        lab.write("a", "a\n");
        lab.write("sub/b", "b\n");
        git(&lab.place.workspace, &["add", "."]);
        git(&lab.place.workspace, &["commit", "-qm", "One"]);
        lab
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.workspace.join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn create(&self) -> CheckpointOutcome {
        create(&self.place, Trigger::Command, Deadline::after(FOREVER)).unwrap()
    }

    fn taken(&self) -> Checkpoint {
        match self.create() {
            CheckpointOutcome::Taken(checkpoint) => checkpoint,
            other => panic!("{other:?}"),
        }
    }

    fn show(&self, name: &str) -> String {
        git(&self.place.workspace, &["cat-file", "-p", name])
    }
}

#[test]
fn staged_and_unstaged_changes_are_separate_and_no_change_makes_no_checkpoint() {
    let lab = Lab::committed();
    lab.write("a", "staged\n");
    git(&lab.place.workspace, &["add", "a"]);
    lab.write("a", "changed again\n");
    lab.write("new", "untracked\n");
    let first = lab.taken();
    assert_eq!(lab.show(&format!("{}:index/a", first.commit)), "staged\n");
    assert_eq!(
        lab.show(&format!("{}:worktree/a", first.commit)),
        "changed again\n"
    );
    assert_eq!(
        lab.show(&format!("{}:worktree/new", first.commit)),
        "untracked\n"
    );
    assert_eq!(
        lab.create(),
        CheckpointOutcome::Unchanged(Some(first.id.clone()))
    );
    lab.write("new", "more\n");
    let second = lab.taken();
    assert!(second.id > first.id);
    assert_eq!(list(&lab.place).unwrap(), [second, first]);
}

#[test]
fn an_untracked_file_that_is_ignored_later_is_in_no_later_checkpoint() {
    let lab = Lab::committed();
    lab.write("out/log", "1\n");
    let first = lab.taken();
    assert_eq!(
        lab.show(&format!("{}:worktree/out/log", first.commit)),
        "1\n"
    );
    lab.write(".gitignore", "out\n");
    lab.write("out/log", "2\n");
    let second = lab.taken();
    let tree = git(
        &lab.place.workspace,
        &[
            "ls-tree",
            "-r",
            "--name-only",
            &format!("{}:worktree", second.commit),
        ],
    );
    assert_eq!(tree, ".gitignore\na\nsub/b\n");
}

#[test]
fn a_directory_without_a_repository_is_reported() {
    let lab = Lab::new();
    fs::remove_dir_all(lab.path(".git")).unwrap();
    assert_eq!(lab.create(), CheckpointOutcome::NotGit);
    assert!(list(&lab.place).unwrap().is_empty());
}

#[test]
fn an_empty_repository_needs_no_checkpoint() {
    let lab = Lab::new();
    assert_eq!(lab.create(), CheckpointOutcome::Unchanged(None));
    lab.write("a", "a\n");
    lab.taken();
}

#[test]
fn files_above_the_limit_are_left_out_and_named() {
    let mut lab = Lab::committed();
    lab.place.largest_file = 10;
    lab.write("big", "more than ten bytes\n");
    lab.write("a", "small\n");
    let checkpoint = lab.taken();
    assert!(
        checkpoint.left_out[0].starts_with("big: 20 bytes"),
        "{checkpoint:?}"
    );
    assert_eq!(
        lab.create(),
        CheckpointOutcome::Unchanged(Some(checkpoint.id))
    );
    drop(lab.dir);
}

#[test]
fn the_private_directory_of_an_inner_repository_has_a_stable_name_and_the_old_one_is_removed() {
    let lab = Lab::committed();
    let inner = lab.path("libs/inner");
    fs::create_dir_all(&inner).unwrap();
    git(&inner, &["init", "-q", "-b", "main"]);
    fs::write(inner.join("c"), "c\n").unwrap();
    git(&inner, &["add", "."]);
    git(&inner, &["commit", "-qm", "Inner"]);
    // The name that an earlier version gave it.
    let old = lab.place.private.join("nested/0123456789abcdef/git");
    fs::create_dir_all(&old).unwrap();
    fs::write(old.join("worktree.index"), "old").unwrap();
    let first = lab.taken();
    assert_eq!(first.left_out, [""; 0]);
    assert!(!lab.place.private.join("nested").exists());
    let names = fs::read_dir(lab.place.private.join("inner")).unwrap();
    let names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["3ef6f65c98f77b16"]);
    // Its loss only made a checkpoint slower.
    let id = first.nested[0].id.clone().unwrap();
    fs::remove_dir_all(lab.place.private.join("inner")).unwrap();
    assert_eq!(lab.create(), CheckpointOutcome::Unchanged(Some(first.id)));
    fs::write(inner.join("c"), "changed\n").unwrap();
    let second = lab.taken();
    assert!(second.nested[0].id.as_ref().unwrap() > &id);
}
