//! Tests of errors and concurrent changes while a checkpoint is made or restored.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::chown;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use checkpoint::{CheckpointOutcome, create, list, rollback};
use state::Trigger;
use sys::deadline::Deadline;
use sys::error::hint_of;

use super::repositories::Bench;
use crate::support::{is_root, said, skip};
use testing::wait::FOREVER;

/// A shell that runs a script in a loop. On drop it completes the current round: its git would
/// outlive it otherwise.
struct Busy(Child, PathBuf);

impl Busy {
    fn start(bench: &Bench, script: &str) -> Self {
        let stop = bench.dir.join("stop");
        let mut command = Command::new("sh");
        command
            .args([
                "-c",
                &format!("while [ ! -e '{}' ]; do {script}\ndone", stop.display()),
            ])
            .current_dir(&bench.workspace)
            .env("HOME", bench.dir.join("home"))
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        for who in ["AUTHOR", "COMMITTER"] {
            command
                .env(format!("GIT_{who}_NAME"), "A")
                .env(format!("GIT_{who}_EMAIL"), "a@localhost");
        }
        Self(command.spawn().unwrap(), stop)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        fs::write(&self.1, "").unwrap();
        self.0.wait().unwrap();
    }
}

fn fsck(bench: &Bench) {
    let output = bench.git_says(&bench.workspace, &["fsck", "--full", "--no-dangling"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
}

#[test]
fn files_that_are_rewritten_all_the_time_are_kept_in_sound_checkpoints() {
    let bench = Bench::new();
    let _busy = Busy::start(
        &bench,
        "i=$((i + 1)); n=0; while [ $n -lt 300 ]; do n=$((n + 1)); rm -f churn/$n; mkdir -p churn
         head -c $(((i * n * 997) % 60000)) /dev/zero > churn/$n; : > churn/$(((n * 7) % 300)); \
         done",
    );
    for _ in 0..6 {
        assert!(matches!(
            bench.try_take().unwrap(),
            CheckpointOutcome::Taken(_) | CheckpointOutcome::Unchanged(_)
        ));
    }
    fsck(&bench);
}

#[test]
fn an_agent_that_commits_and_rebases_meanwhile_gets_sound_checkpoints_and_is_never_disturbed() {
    let bench = Bench::new();
    let log = bench.dir.join("log");
    let busy = Busy::start(
        &bench,
        &format!(
            "i=$((i + 1)); echo $i > a; git add a 2>> {0}; git commit -qm $i 2>> {0}
             echo more >> b; git stash -q 2>> {0}; git stash pop -q 2>> {0}
             git commit -qam b 2>> {0}; git rebase -q --force-rebase HEAD~2 2>> {0}",
            log.display()
        ),
    );
    for _ in 0..12 {
        bench.try_take().unwrap();
    }
    drop(busy);
    fsck(&bench);
    let said = fs::read_to_string(&log).unwrap();
    // Errors of git that would show a lock or a moved ref of spotkeep's.
    assert!(!said.contains("lock") && !said.contains("cannot"), "{said}");
}

#[test]
fn a_git_directory_that_is_deleted_during_a_checkpoint_causes_an_error_at_most() {
    let bench = Bench::new();
    let spare = bench.dir.join("spare");
    bench.git(&["clone", "-q", "--bare", ".", spare.to_str().unwrap()]);
    let _busy = Busy::start(
        &bench,
        "rm -rf .git; git init -q; echo x > n; git add n; git commit -qm x",
    );
    for _ in 0..12 {
        // It may fail, but it has to end.
        bench.try_take().ok();
    }
    assert_eq!(
        fs::read_to_string(bench.path("b")).unwrap(),
        "b as committed\n"
    );
}

#[test]
fn a_damaged_index_costs_what_was_staged_and_nothing_else() {
    for damage in [
        &b""[..],
        b"DIRC",
        b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
    ] {
        let bench = Bench::new();
        bench.write("a", "changed\n");
        bench.write("new", "new\n");
        fs::write(bench.path(".git/index"), damage).unwrap();
        let checkpoint = bench.taken();
        assert_eq!(
            checkpoint.left_out,
            ["staged content: the index is damaged"]
        );
        assert_eq!(fs::read(bench.path(".git/index")).unwrap(), damage);
        let of =
            |name: &str| bench.git(&["show", &format!("{}:worktree/{name}", checkpoint.commit)]);
        assert_eq!((of("a"), of("new")), ("changed\n".into(), "new\n".into()));
        rollback(&bench.place(), &checkpoint.id, false).unwrap();
        assert_eq!(bench.git(&["status", "--porcelain"]), " M a\n?? new\n");
    }
}

#[test]
fn an_object_that_a_power_cut_has_emptied_is_written_again() {
    let bench = Bench::new();
    bench.write("a", "on its way to the disk\n");
    let oid = bench.git(&["hash-object", "a"]);
    let path = bench
        .path(".git/objects")
        .join(&oid[..2])
        .join(oid[2..].trim());
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, "").unwrap();
    let checkpoint = bench.taken();
    let kept = bench.git(&["show", &format!("{}:worktree/a", checkpoint.commit)]);
    assert_eq!(kept, "on its way to the disk\n");
    fsck(&bench);
}

#[test]
fn objects_that_were_collected_as_garbage_are_written_again() {
    let bench = Bench::new();
    bench.write("new", "untracked\n");
    let first = bench.taken();
    bench.git(&[
        "update-ref",
        "-d",
        &format!("refs/spotkeep/7d0c-agent/{}", first.id),
    ]);
    bench.git(&["gc", "-q", "--prune=now"]);
    let second = bench.taken();
    let kept = bench.git(&["show", &format!("{}:worktree/new", second.commit)]);
    assert_eq!(kept, "untracked\n");
    fsck(&bench);
}

#[test]
fn a_branch_that_a_power_cut_has_emptied_is_reported() {
    let bench = Bench::new();
    fs::write(bench.path(".git/refs/heads/main"), "").unwrap();
    let checkpoint = bench.taken();
    assert_eq!(checkpoint.left_out, ["HEAD: refs/heads/main is damaged"]);
    assert_eq!(checkpoint.head.branch.as_deref(), Some("refs/heads/main"));
}

#[test]
fn a_full_disk_is_reported_and_costs_no_earlier_checkpoint() {
    let test = "a_full_disk_is_reported_and_costs_no_earlier_checkpoint";
    if !is_root() {
        return skip(test, "mounting needs root");
    }
    let bench = Bench::bare();
    let mut mount = Command::new("mount");
    mount
        .args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"])
        .arg(&bench.workspace);
    let mounted = said(&mut mount);
    if mounted.code != 0 {
        return skip(test, &mounted.err);
    }
    bench.git(&["init", "-q", "-b", "main"]);
    bench.fill();
    bench.write("a", "before\n");
    let first = bench.taken();
    let mut ballast = fs::File::create(bench.path(".git/ballast")).unwrap();
    for size in [1 << 16, 1 << 12, 1] {
        while ballast.write_all(&vec![7; size]).is_ok() {}
    }
    // Of the same size as before, so that it fits on the full disk.
    fs::write(bench.path("a"), "after.\n").unwrap();
    let error = bench.try_take().unwrap_err();
    assert!(format!("{error:#}").contains("No space left"), "{error:#}");
    assert_eq!(list(&bench.place()).unwrap(), std::slice::from_ref(&first));
    drop(ballast);
    fs::remove_file(bench.path(".git/ballast")).unwrap();
    assert!(bench.taken().id > first.id);
    fsck(&bench);
    assert_eq!(said(Command::new("umount").arg(&bench.workspace)).code, 0);
}

#[test]
fn a_checkpoint_survives_a_power_cut() {
    let test = "a_checkpoint_survives_a_power_cut";
    if !is_root() {
        return skip(test, "mounting needs root");
    }
    let bench = Bench::bare();
    let image = bench.dir.join("image");
    fs::File::create(&image).unwrap().set_len(64 << 20).unwrap();
    let made = said(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image));
    if made.code != 0 {
        return skip(test, &made.err);
    }
    let mount = || {
        said(
            Command::new("mount")
                .args(["-o", "loop"])
                .arg(&image)
                .arg(&bench.workspace),
        )
    };
    let umount = || assert_eq!(said(Command::new("umount").arg(&bench.workspace)).code, 0);
    let mounted = mount();
    if mounted.code != 0 {
        return skip(test, &mounted.err);
    }
    bench.git(&["init", "-q", "-b", "main"]);
    bench.fill();
    sys::files::sync_filesystem(&bench.workspace).unwrap();
    // From here on only the syncs of the checkpoint make data durable.
    for number in 0..200 {
        bench.write(
            &format!("new/{number}"),
            &format!("{number}\n").repeat(number),
        );
    }
    // A commit by the agent, which git does not sync.
    bench.write("committed", "just now\n");
    bench.git(&["add", "committed"]);
    bench.git(&["commit", "-qm", "Just now"]);
    bench.write("a", "staged\n");
    bench.git(&["add", "a"]);
    let checkpoint = bench.taken();
    sys::power_cut::cut_power(&bench.workspace).unwrap();
    umount();
    assert_eq!(mount().code, 0);
    let found = list(&bench.place());
    let name = format!("refs/spotkeep/7d0c-agent/{}", checkpoint.id);
    let sound = bench.git_says(
        &bench.workspace,
        &["fsck", "--full", "--no-dangling", &name],
    );
    let last = bench.git_says(
        &bench.workspace,
        &["show", &format!("{name}:worktree/new/199")],
    );
    umount();
    assert_eq!(found.unwrap(), [checkpoint]);
    assert!(sound.status.success(), "{sound:?}");
    assert_eq!(String::from_utf8(last.stdout).unwrap(), "199\n".repeat(199));
}

#[test]
fn a_repository_of_another_user_is_left_alone() {
    let test = "a_repository_of_another_user_is_left_alone";
    if !is_root() {
        return skip(test, "giving files away needs root");
    }
    let owner = sys::user::name(65534);
    for part in ["", ".git", ".git/objects", ".git/refs"] {
        let bench = Bench::new();
        bench.write("a", "x\n");
        chown(bench.path(part), Some(65534), None).unwrap();
        let error = bench.try_take().unwrap_err();
        assert!(
            error
                .to_string()
                .contains(&format!("belongs to the user {owner}")),
            "{error:#}"
        );
        assert!(hint_of(&error).unwrap().contains(&owner));
        assert!(!bench.path(".git/refs/spotkeep").exists());
    }
}

#[test]
fn variables_that_redirect_git_are_not_inherited() {
    const INNER: &str = "SPOTKEEP_TEST_WORKSPACE";
    let test = "checkpoints::resilience::variables_that_redirect_git_are_not_inherited";
    if let Some(workspace) = std::env::var_os(INNER) {
        let bench = Bench::bare();
        let place = bench.place_at(workspace.as_ref(), "private");
        let taken = create(&place, Trigger::Command, Deadline::after(FOREVER)).unwrap();
        assert!(matches!(taken, CheckpointOutcome::Taken(_)));
        return;
    }
    let (bench, other) = (Bench::new(), Bench::new());
    bench.write("a", "x\n");
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test]).env(INNER, &bench.workspace);
    for (name, value) in [
        ("GIT_DIR", ".git"),
        ("GIT_INDEX_FILE", ".git/index"),
        ("GIT_OBJECT_DIRECTORY", ".git/objects"),
        ("GIT_WORK_TREE", "."),
    ] {
        command.env(name, other.path(value));
    }
    command
        .env("GIT_NAMESPACE", "elsewhere")
        .env("GIT_CEILING_DIRECTORIES", "/");
    let inner = said(&mut command);
    assert_eq!(inner.code, 0, "{inner:?}");
    assert!(bench.git(&["for-each-ref"]).contains("refs/spotkeep/"));
    assert!(!other.git(&["for-each-ref"]).contains("refs/spotkeep/"));
}

#[test]
fn a_checkpoint_ends_by_its_deadline_and_leaves_no_lock() {
    let bench = Bench::new();
    bench.write("a", "x\n");
    let late = create(
        &bench.place(),
        Trigger::Save,
        Deadline::after(Duration::ZERO),
    );
    assert!(late.is_err());
    // A pipe without a writer, on which git hangs.
    let pipe = bench.path(".gitignore");
    assert_eq!(said(Command::new("mkfifo").arg(&pipe)).code, 0);
    let late = create(
        &bench.place(),
        Trigger::Save,
        Deadline::after(Duration::from_secs(2)),
    );
    assert!(format!("{:#}", late.unwrap_err()).contains("in time"));
    fs::remove_file(&pipe).unwrap();
    bench.taken();
    assert_eq!(bench.git(&["status", "--porcelain"]), " M a\n");
}

#[test]
fn a_rollback_respects_a_lock_on_the_index() {
    let bench = Bench::new();
    bench.write("a", "x\n");
    let checkpoint = bench.taken();
    bench.write("a", "y\n");
    let lock = bench.path(".git/index.lock");
    fs::write(&lock, "").unwrap();
    let error = rollback(&bench.place(), &checkpoint.id, false).unwrap_err();
    assert!(hint_of(&error).unwrap().contains("index.lock"), "{error:#}");
    assert!(lock.exists());
    assert_eq!(fs::read_to_string(bench.path("a")).unwrap(), "y\n");
    fs::remove_file(&lock).unwrap();
    rollback(&bench.place(), &checkpoint.id, false).unwrap();
    assert_eq!(fs::read_to_string(bench.path("a")).unwrap(), "x\n");
    assert!(!lock.exists());
}

#[test]
fn a_rollback_leaves_head_alone_unless_asked_and_moves_no_branch_of_another_worktree() {
    let bench = Bench::new();
    bench.write("a", "uncommitted\n");
    let checkpoint = bench.taken();
    bench.git(&["commit", "-qam", "Three"]);
    let head = bench.git(&["rev-parse", "HEAD"]);
    bench.write("a", "later\n");
    rollback(&bench.place(), &checkpoint.id, false).unwrap();
    assert_eq!(bench.git(&["rev-parse", "HEAD"]), head);
    assert_eq!(
        fs::read_to_string(bench.path("a")).unwrap(),
        "uncommitted\n"
    );

    bench.git(&["checkout", "-q", "-f", "-b", "mine"]);
    let other = bench.dir.join("other");
    bench.git(&["worktree", "add", "-q", other.to_str().unwrap(), "main"]);
    let error = rollback(&bench.place(), &checkpoint.id, true).unwrap_err();
    assert!(error.to_string().contains("checked out in"), "{error:#}");
    assert_eq!(bench.git(&["rev-parse", "main"]), head);

    bench.git(&["worktree", "remove", other.to_str().unwrap()]);
    rollback(&bench.place(), &checkpoint.id, true).unwrap();
    assert_eq!(
        bench.git(&["rev-parse", "HEAD", "main"]),
        format!("{0}\n{0}\n", checkpoint.head.commit.unwrap())
    );
    // The previous commit of the branch is in its reflog, as after a reset.
    assert!(
        bench
            .git(&["reflog", "main"])
            .contains("spotkeep: rollback")
    );
}

#[test]
fn a_rollback_overwrites_no_file_that_is_in_no_checkpoint() {
    let bench = Bench::new();
    bench.write("notes", "untracked\n");
    bench.write("tree/leaf", "untracked\n");
    let checkpoint = bench.taken();
    bench.write(".gitignore", "notes\ntree\n");
    bench.write("notes", "ignored now, and changed\n");
    bench.taken();
    let error = rollback(&bench.place(), &checkpoint.id, false).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("a file that no checkpoint holds: notes"),
        "{error:#}"
    );
    assert_eq!(
        fs::read_to_string(bench.path("notes")).unwrap(),
        "ignored now, and changed\n"
    );
    assert!(bench.path(".gitignore").exists());

    fs::remove_file(bench.path("notes")).unwrap();
    rollback(&bench.place(), &checkpoint.id, false).unwrap();
    assert_eq!(
        fs::read_to_string(bench.path("notes")).unwrap(),
        "untracked\n"
    );

    let mut place = bench.place();
    place.largest_file = 30;
    fs::remove_file(bench.path("tree/leaf")).unwrap();
    fs::remove_dir(bench.path("tree")).unwrap();
    bench.write("tree", "a file that is too large to be in any checkpoint\n");
    let error = rollback(&place, &checkpoint.id, false).unwrap_err();
    assert!(
        error.to_string().contains("no checkpoint holds: tree"),
        "{error:#}"
    );
}

#[test]
fn a_rollback_to_an_unknown_checkpoint_is_refused() {
    let bench = Bench::new();
    for id in ["20260101T000000000-aaaa", "../heads/main", ""] {
        assert!(rollback(&bench.place(), id, false).is_err());
    }
}
