//! Tests of what pruning removes and what it keeps, with the real git.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use super::{CheckpointOutcome, CheckpointTarget, keep_in, list, prune_at};
use crate::WorkspaceLock;
use state::Trigger;
use state::config::Keep;
use state::layout::DataDir;
use sys::command::run;
use sys::deadline::Deadline;
use sys::time::Timestamp;
use testing::wait::FOREVER;

struct Lab {
    _dir: tempfile::TempDir,
    data_dir: DataDir,
    place: CheckpointTarget,
}

impl Lab {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (data_dir, _) = DataDir::init(&dir.path().join("r")).unwrap();
        let workspace = data_dir.dir().join("workspaces/a");
        fs::create_dir_all(&workspace).unwrap();
        let place = CheckpointTarget {
            private: data_dir.checkpoints("agent"),
            workspace,
            agent_id: "agent".into(),
            largest_file: 1 << 20,
        };
        let lab = Self {
            _dir: dir,
            data_dir,
            place,
        };
        lab.git(&["init", "-q", "-b", "main"]);
        lab.write("f", "committed\n");
        lab.git(&["add", "."]);
        lab.git(&["commit", "-qm", "one"]);
        lab
    }

    fn git(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("git");
        command
            .args(["-c", "user.name=Lab", "-c", "user.email=lab@localhost"])
            .args(arguments)
            .current_dir(&self.place.workspace)
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("HOME", "/nonexistent");
        let output = run(&mut command, FOREVER).unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", output.stderr);
        output.stdout.trim().to_owned()
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.place.workspace.join(name), text).unwrap();
    }

    fn create(&self) -> String {
        let deadline = Deadline::after(FOREVER);
        let lock = WorkspaceLock::wait(&self.place, deadline).unwrap();
        match keep_in(&lock, &self.data_dir, &self.place, Trigger::Time, deadline).unwrap() {
            CheckpointOutcome::Taken(taken) => taken.id,
            other => panic!("{other:?}"),
        }
    }

    fn prune(&self, keep: &Keep) -> Vec<String> {
        let deadline = Deadline::after(FOREVER);
        prune_at(&self.place, keep, Timestamp::now(), true, deadline).unwrap()
    }

    fn loose(&self) -> BTreeSet<PathBuf> {
        let mut files = BTreeSet::new();
        collect(&self.place.workspace.join(".git/objects"), &mut files);
        files.retain(|path| !path.to_string_lossy().contains("/pack/"));
        files
    }

    fn has(&self, id: &str) -> bool {
        let mut command = Command::new("git");
        command
            .args(["cat-file", "-e", id])
            .current_dir(&self.place.workspace);
        run(&mut command, FOREVER).unwrap().status.success()
    }
}

fn collect(dir: &Path, into: &mut BTreeSet<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap().flatten() {
        match entry.file_type().unwrap().is_dir() {
            true => collect(&entry.path(), into),
            false => {
                into.insert(entry.path());
            }
        }
    }
}

/// Keeps none for their age; the newest few are always kept.
fn nothing() -> Keep {
    Keep {
        all: state::config::Span::from_secs(0),
        hourly: state::config::Span::from_secs(0),
        daily: state::config::Span::from_secs(0),
    }
}

#[test]
fn objects_of_only_expired_checkpoints_are_removed_and_all_others_stay() {
    let lab = Lab::new();
    let users = lab.loose();
    let mut ids = Vec::new();
    for round in 0..8 {
        lab.write("f", &format!("round {round}\n"));
        lab.write(&format!("new-{round}"), &format!("new in {round}\n"));
        ids.push(lab.create());
    }
    let before = lab.loose();
    let only_first = lab.git(&[
        "rev-parse",
        &format!("refs/spotkeep/agent/{}:worktree/f", ids[0]),
    ]);
    let kept_file = lab.git(&[
        "rev-parse",
        &format!("refs/spotkeep/agent/{}:worktree/new-0", ids[0]),
    ]);
    let gone = lab.prune(&nothing());
    assert_eq!(
        gone.iter().collect::<BTreeSet<_>>(),
        ids[..3].iter().collect()
    );
    assert_eq!(list(&lab.place).unwrap().len(), 5);
    assert!(!lab.has(&only_first), "a file as only the first had it");
    assert!(lab.has(&kept_file), "the same file is in those that stay");
    assert!(lab.loose().len() < before.len());
    assert!(lab.loose().is_superset(&users));
    lab.git(&["fsck", "--no-dangling"]);
    assert!(lab.prune(&nothing()).is_empty(), "nothing is left to do");
}

#[test]
fn objects_that_the_user_wrote_before_or_wrote_again_stay() {
    let lab = Lab::new();
    // Dangling for git: staged once, and not any more.
    lab.write("f", "staged once\n");
    lab.git(&["add", "f"]);
    let staged_once = lab.git(&["rev-parse", ":f"]);
    let mut ids = vec![lab.create()];
    // In the files first, and staged after the checkpoint.
    lab.write("f", "staged later\n");
    ids.push(lab.create());
    lab.git(&["add", "f"]);
    let staged_later = lab.git(&["rev-parse", ":f"]);
    lab.git(&["reset", "-q"]);
    // As if that had been a minute later: git renews the time of what it would have written.
    let object = lab.place.workspace.join(".git/objects");
    let object = object.join(&staged_later[..2]).join(&staged_later[2..]);
    let file = fs::File::open(&object).unwrap();
    file.set_modified(SystemTime::now() + Duration::from_secs(60))
        .unwrap();
    // In the files, and then by name in a commit: git does not write such an object again.
    lab.write("f", "by name\n");
    ids.push(lab.create());
    let by_name = lab.git(&[
        "rev-parse",
        &format!("refs/spotkeep/agent/{}:worktree/f", ids[2]),
    ]);
    lab.git(&[
        "update-index",
        "--cacheinfo",
        &format!("100644,{by_name},f"),
    ]);
    lab.git(&["commit", "-qm", "two"]);
    for round in 0..6 {
        lab.write("f", &format!("round {round}\n"));
        ids.push(lab.create());
    }
    let gone = lab.prune(&nothing());
    assert!(gone.contains(&ids[0]) && gone.contains(&ids[1]) && gone.contains(&ids[2]));
    assert!(lab.has(&staged_once), "it was in an index");
    assert!(lab.has(&by_name), "a commit has it");
    assert!(lab.has(&staged_later), "git would have written it");
    lab.git(&["fsck", "--no-dangling"]);
}

#[test]
fn a_branch_that_was_made_of_a_checkpoint_keeps_all_of_it() {
    let lab = Lab::new();
    lab.write("f", "worth keeping\n");
    let first = lab.create();
    lab.git(&["branch", "rescue", &format!("refs/spotkeep/agent/{first}")]);
    for round in 0..6 {
        lab.write("f", &format!("round {round}\n"));
        lab.create();
    }
    assert!(lab.prune(&nothing()).contains(&first));
    assert_eq!(lab.git(&["show", "rescue:worktree/f"]), "worth keeping");
    lab.git(&["fsck", "--no-dangling"]);
}

#[test]
fn hundreds_of_loose_objects_become_one_pack() {
    let lab = Lab::new();
    for round in 0..12 {
        for file in 0..90 {
            lab.write(&format!("f{file}"), &format!("{round} {file}\n"));
        }
        lab.create();
    }
    let commits: Vec<String> = list(&lab.place)
        .unwrap()
        .into_iter()
        .map(|one| one.commit)
        .collect();
    let before = lab.loose().len();
    assert!(before > 1_000, "{before}");
    assert!(lab.prune(&Keep::default()).is_empty());
    let after = lab.loose().len();
    assert!(after < 50, "{before} {after}");
    for commit in commits {
        assert!(lab.has(&format!("{commit}:worktree/f0")));
    }
    lab.git(&["fsck", "--no-dangling"]);
}

#[test]
fn checkpoints_of_repositories_inside_go_with_those_that_name_them() {
    let lab = Lab::new();
    let inner = lab.place.workspace.join("inner");
    fs::create_dir(&inner).unwrap();
    lab.git(&["init", "-q", "inner"]);
    let refs = || {
        let said = lab.git(&["-C", "inner", "for-each-ref", "refs/spotkeep"]);
        said.lines().count()
    };
    for round in 0..7 {
        lab.write("inner/g", &format!("round {round}\n"));
        lab.create();
    }
    assert_eq!(refs(), 7);
    assert_eq!(lab.prune(&nothing()).len(), 2);
    assert_eq!(refs(), 5);
}

#[test]
fn pruned_checkpoints_are_removed_from_the_remote_and_vanished_ones_are_not() {
    let lab = Lab::new();
    lab.git(&["init", "-q", "--bare", "../../safe.git"]);
    let remote = lab
        .data_dir
        .dir()
        .join("safe.git")
        .to_string_lossy()
        .into_owned();
    let remote: state::config::Remote = remote.try_into().unwrap();
    let push = || {
        let deadline = Deadline::after(FOREVER);
        crate::push(&lab.place, &remote, deadline).unwrap();
        let said = lab.git(&[
            "-C",
            "../../safe.git",
            "for-each-ref",
            "--format=%(refname:lstrip=3)",
        ]);
        said.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let mut ids = Vec::new();
    for round in 0..7 {
        lab.write("f", &format!("round {round}\n"));
        ids.push(lab.create());
    }
    assert_eq!(push(), ids);
    lab.prune(&nothing());
    assert_eq!(push(), ids[2..]);
    for id in &ids[2..] {
        lab.git(&["update-ref", "-d", &format!("refs/spotkeep/agent/{id}")]);
    }
    lab.write("f", "after the loss\n");
    let last = lab.create();
    let there = push();
    assert!(
        there.contains(&last) && there.ends_with(&[last]),
        "{there:?}"
    );
    assert_eq!(there[..5], ids[2..]);
}
