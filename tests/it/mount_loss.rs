//! Tests of a data disk that is unmounted, replaced, read-only or hangs while the keeper runs.
//!
//! The trouble is shown, nothing is started or written meanwhile, and the fleet continues
//! automatically when the same data directory is back. The disk is an image file, mounted in the
//! test's mount namespace, so that no other process of this machine sees it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use sys::process::Signal;

use crate::support::{Lab, is_root, said, skip};

/// Environment variable of the second run, in its own mount namespace.
const INSIDE: &str = "SPOTKEEP_TEST_OWN_MOUNTS";

/// Returns a lab whose data directory is its own ext4 file system, and the image. Returns `None`
/// where it cannot be mounted, and in the first run, after the test has run again in its own mount
/// namespace.
pub fn on_a_disk(test: &str) -> Option<(Lab, PathBuf)> {
    if !is_root() {
        skip(test, "mounting needs root");
        return None;
    }
    if std::env::var_os(INSIDE).is_none() {
        let mut again = Command::new("unshare");
        again
            .args(["-m", "--propagation", "private"])
            .arg(std::env::current_exe().unwrap())
            .args([test, "--exact", "--nocapture"])
            .env(INSIDE, "1");
        let ran = said(&mut again);
        assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
        return None;
    }
    let mut lab = Lab::bare();
    let image = lab.dir.join("disk.img");
    fs::File::create(&image).unwrap().set_len(64 << 20).unwrap();
    must(
        "mkfs.ext4",
        &["-q", "-F", "-e", "remount-ro", &text(&image)],
    );
    fs::create_dir(lab.data_dir()).unwrap();
    mount(&image, &lab.data_dir());
    lab.umount_at_the_end();
    lab.run(&["init"]).ok();
    lab.configure("");
    Some((lab, image))
}

pub fn must(program: &str, args: &[&str]) {
    let ran = said(Command::new(program).args(args));
    assert_eq!(ran.code, 0, "{program} {args:?}: {ran:?}");
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

pub fn mount(image: &Path, at: &Path) {
    must("mount", &["-o", "loop", &text(image), &text(at)]);
}

/// Waits until `status` shows this trouble, or none if `what` is empty.
fn wait_trouble(lab: &Lab, what: &str) {
    lab.until(&format!("the trouble is {what:?}"), || {
        let trouble = lab.status()["trouble"].to_string();
        match what {
            "" => (trouble == "[]").then_some(()),
            what => trouble.contains(what).then_some(()),
        }
    });
}

/// Returns every file below a directory.
fn tree(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap().flatten() {
        found.push(entry.path());
        if entry.file_type().unwrap().is_dir() {
            found.extend(tree(&entry.path()));
        }
    }
    found
}

#[test]
fn an_unmounted_data_directory_gets_no_agent_and_no_file_and_recovers_later() {
    let test =
        "mount_loss::an_unmounted_data_directory_gets_no_agent_and_no_file_and_recovers_later";
    let Some((lab, image)) = on_a_disk(test) else {
        return;
    };
    lab.declare("a", "idle", "");
    let keeper = lab.keeper();
    lab.wait_done("a");
    lab.wait_checkpointed("a");
    let (session, process) = (lab.session_of("a"), lab.process("a"));

    must("umount", &["-l", &text(&lab.data_dir())]);
    wait_trouble(&lab, "was unmounted");
    let status = lab.run(&["status"]);
    assert!(
        status.code == 3 && status.out.contains("sudo mount"),
        "{status:?}"
    );
    assert!(lab.run(&["ls"]).ok().out.contains("idle"));
    let doctor = lab.run(&["doctor"]).sound();
    assert!(
        doctor.code == 3 && doctor.out.contains("was unmounted"),
        "{doctor:?}"
    );
    // An agent that ends meanwhile is not restarted in an empty directory.
    process.open().unwrap().signal(Signal::Kill);
    lab.until("a waits for the data directory", || {
        let agent = lab.agent("a");
        agent["why"]
            .to_string()
            .contains("to be available again")
            .then_some(())
    });
    assert_eq!(tree(&lab.data_dir()), Vec::<PathBuf>::new());

    mount(&image, &lab.data_dir());
    lab.wait_up("a", 2);
    wait_trouble(&lab, "");
    let back = lab.wait_event("", "data-dir-back", 1);
    assert!(
        back.data["why"].to_string().contains("unmounted"),
        "{back:?}"
    );
    assert_eq!(lab.session_of("a"), session);
    lab.assert_nothing_lost("a");
    // The keeper holds the lock again.
    assert_eq!(lab.run(&["run"]).code, 1);
    keeper.let_go();
}

#[test]
fn another_data_directory_mounted_in_its_place_is_left_alone() {
    let test = "mount_loss::another_data_directory_mounted_in_its_place_is_left_alone";
    let Some((lab, _image)) = on_a_disk(test) else {
        return;
    };
    lab.declare("a", "idle", "");
    let keeper = lab.keeper();
    lab.wait_done("a");
    let process = lab.process("a");
    // Created at another path, so that it appears complete.
    let other = lab.dir.join("other");
    fs::create_dir(&other).unwrap();
    let mode = "mode=755";
    must(
        "mount",
        &["-t", "tmpfs", "-o", mode, "tmpfs", &text(&other)],
    );
    let made = said(
        lab.program(crate::support::SPOTKEEP)
            .arg("--data-dir")
            .arg(&other)
            .arg("init"),
    );
    assert_eq!(made.code, 0, "{made:?}");
    let before = tree(&other).len();

    must("mount", &["--move", &text(&other), &text(&lab.data_dir())]);
    lab.until("the keeper logs that it is another data directory", || {
        let log = fs::read_to_string(lab.log()).unwrap();
        log.contains("another data directory").then_some(())
    });
    process.open().unwrap().signal(Signal::Kill);
    lab.until("the end of the agent is logged", || {
        let log = fs::read_to_string(lab.log()).unwrap();
        log.contains("backoff failures=").then_some(())
    });
    assert_eq!(tree(&lab.data_dir()).len(), before);
    must("umount", &[&text(&lab.data_dir())]);
    lab.wait_up("a", 2);
    wait_trouble(&lab, "");
    keeper.let_go();
    lab.assert_nothing_lost("a");
}

/// Tests both ways in which a file system turns read-only: by a user, and by the kernel after an
/// error.
#[test]
fn a_read_only_data_directory_is_reported_and_gets_no_agent_until_writable() {
    let test =
        "mount_loss::a_read_only_data_directory_is_reported_and_gets_no_agent_until_writable";
    let Some((lab, _image)) = on_a_disk(test) else {
        return;
    };
    lab.declare("a", "idle", "");
    lab.declare("b", "", "");
    let keeper = lab.keeper();
    lab.wait_done("a");
    lab.wait_state("b", "idle");
    lab.wait_checkpointed("a");
    lab.wait_checkpointed("b");
    lab.run(&["stop", "b"]).ok();

    // A file system with files open for writing cannot be remounted read-only; a bind mount over it
    // can be.
    let data_dir = text(&lab.data_dir());
    must("mount", &["--bind", "-o", "ro", &data_dir, &data_dir]);
    wait_trouble(&lab, "mounted read-only");
    lab.run(&["start", "b"])
        .refused(3, "cannot be written", "doctor");
    readers_work(&lab);
    must("umount", &[&data_dir]);
    wait_trouble(&lab, "");
    lab.run(&["start", "b"]).ok();
    lab.wait_up("b", 2);

    let process = lab.process("a");
    trigger_error(&lab.data_dir());
    wait_trouble(&lab, "cannot be written");
    process.open().unwrap().signal(Signal::Kill);
    lab.until("a waits for the data directory", || {
        let agent = lab.agent("a");
        agent["why"]
            .to_string()
            .contains("to be available again")
            .then_some(())
    });
    readers_work(&lab);
    assert!(process.open().is_none());
    let save = lab.run(&["save", "--final"]).sound();
    assert_eq!(save.code, 3, "{save:?}");
    drop(keeper);
    // Without a keeper the files can be read, and no keeper starts.
    lab.next_boot();
    readers_work(&lab);
    let run = lab.run(&["run"]);
    assert!(run.code == 1 && run.err.contains("ead-only"), "{run:?}");
}

/// A file system on which every write hangs until this is dropped or a minute has passed.
struct Frozen<'a> {
    at: &'a Path,
    thaws_anyway: Child,
}

impl<'a> Frozen<'a> {
    fn new(at: &'a Path) -> Self {
        // Started first: a test that dies leaves no frozen file system behind.
        let thaw = format!("sleep 60; exec fsfreeze -u '{}'", at.display());
        let mut shell = Command::new("setsid");
        let thaws_anyway = shell.args(["sh", "-c", &thaw]).spawn().unwrap();
        must("fsfreeze", &["-f", &text(at)]);
        Self { at, thaws_anyway }
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        said(Command::new("fsfreeze").arg("-u").arg(self.at));
        let group = format!("-{}", self.thaws_anyway.id());
        said(Command::new("kill").args(["--", &group]));
        self.thaws_anyway.wait().ok();
    }
}

#[test]
fn a_keeper_whose_disk_hangs_answers_and_begins_the_save_of_a_notice_at_once() {
    let test =
        "mount_loss::a_keeper_whose_disk_hangs_answers_and_begins_the_save_of_a_notice_at_once";
    let Some((lab, _image)) = on_a_disk(test) else {
        return;
    };
    lab.declare("a", "idle", "");
    lab.declare("b", "", "");
    let keeper = lab.keeper_with(&["--sigterm", "save"]);
    lab.wait_done("a");
    lab.wait_state("b", "idle");
    lab.wait_checkpointed("a");
    lab.wait_checkpointed("b");
    let (data_dir, killed) = (lab.data_dir(), lab.process("b"));

    let frozen = Frozen::new(&data_dir);
    killed.open().unwrap().signal(Signal::Kill);
    // The writer thread holds the entry for the end of b. Its next start is due and waits.
    wait_trouble(&lab, "the disk has not answered");
    lab.wait_state("b", "starting");
    assert_eq!(lab.agent("a")["state"], "idle");
    keeper.signal(Signal::Term);
    lab.until("the save has begun", || {
        let log = fs::read_to_string(lab.log()).unwrap();
        log.contains("saving, and the notice is not in the journal yet")
            .then_some(())
    });
    assert_eq!(lab.agent("a")["state"], "saving");
    drop(frozen);
    assert!(keeper.end().success());

    // All decisions are in the journal, in order.
    let events: Vec<String> = lab.journal().into_iter().map(|line| line.event).collect();
    let place = |event: &str| events.iter().position(|word| word == event).unwrap();
    let ends = [
        "exited",
        "backoff",
        "notice",
        "safe",
        "saved",
        "keeper-stopped",
    ]
    .map(place);
    assert!(ends.is_sorted(), "{events:?}");
    assert_eq!(lab.events("b", "starting").len(), 1, "{events:?}");
    let save = lab.manifests().pop().unwrap();
    assert_eq!(save["final"], true, "{save}");
    lab.assert_nothing_lost("a");
}

/// Asserts that reading commands work on a data directory that cannot be written.
fn readers_work(lab: &Lab) {
    for verb in [
        &["ls"][..],
        &["events"],
        &["logs", "a"],
        &["restore", "--dry-run"],
    ] {
        lab.run(verb).ok();
    }
    assert_eq!(
        lab.run(&["status", "--json"]).sound().json()["agents"][0]["name"],
        "a"
    );
}

/// Triggers an ext4 error, as a failing disk would.
fn trigger_error(data_dir: &Path) {
    let source = said(
        Command::new("findmnt")
            .args(["-n", "-o", "SOURCE", "--mountpoint"])
            .arg(data_dir),
    );
    let device = source.out.trim().rsplit('/').next().unwrap().to_owned();
    fs::write(format!("/sys/fs/ext4/{device}/trigger_fs_error"), "1").unwrap();
}
