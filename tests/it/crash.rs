//! Tests of crashes of spotkeep at each of its crash points.
//!
//! The process aborts and is started again, and what was saved before is still there. A crash point
//! that is never reached fails its test.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use drill::verify::workspace_digest::Digest;
use serde_json::Value;
use sys::failpoint::Point;
use sys::power_cut::cut_power;
use sys::process::Signal;

use crate::backup::{by_hand, has_restic};
use crate::keeper::Keeper;
use crate::mount_loss::{mount, on_a_disk};
use crate::setup_machine::Vm;
use crate::support::{CommandOutput, Lab, SPOTKEEP, git, is_root, said, skip};

const CRASH: &str = "SPOTKEEP_CRASH_AT";

/// The signal with which an aborted process ends (SIGABRT).
const ABORTED: i32 = 6;

/// The operations for which a test here ends the process at each of their crash points.
const OPERATIONS: [&str; 10] = [
    "state",
    "journal",
    "save",
    "restore",
    "checkpoint",
    "rollback",
    "backup",
    "setup",
    "upgrade",
    "undo",
];

/// Returns the names of the crash points of an operation.
fn points(operation: &str) -> Vec<&'static str> {
    let names = Point::ALL.iter().map(|(_, name)| *name);
    names
        .filter(|name| name.split('/').next() == Some(operation))
        .collect()
}

#[test]
fn every_crash_point_belongs_to_a_tested_operation_and_has_a_unique_name() {
    let mut names: Vec<&str> = Point::ALL.iter().map(|(_, name)| *name).collect();
    for name in &names {
        assert!(
            OPERATIONS.contains(&name.split('/').next().unwrap()),
            "{name}"
        );
    }
    names.sort_unstable();
    let count = names.len();
    names.dedup();
    assert_eq!(names.len(), count);
    assert!(
        OPERATIONS
            .iter()
            .all(|operation| !points(operation).is_empty())
    );
}

/// Compiles the one file with crash points as a release build and as a test build.
#[test]
fn a_release_build_has_neither_the_variable_nor_the_names_of_crash_points() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("crates/sys/src/failpoint.rs");
    let dir = tempfile::tempdir().unwrap();
    let holds = |assertions: &str| {
        let object = dir.path().join(assertions);
        let flag = format!("debug-assertions={assertions}");
        let mut rustc = Command::new("rustc");
        rustc
            .args([
                "--edition=2024",
                "--crate-type=lib",
                "--emit=obj",
                "-O",
                "-C",
                &flag,
                "-o",
            ])
            .arg(&object)
            .arg(&source);
        said(&mut rustc).ok();
        let bytes = fs::read(object).unwrap();
        let has = |text: &str| {
            bytes
                .windows(text.len())
                .any(|window| window == text.as_bytes())
        };
        [has(CRASH), has("save/transcripts-safe")]
    };
    assert_eq!(holds("yes"), [true, true]);
    assert_eq!(holds("no"), [false, false]);
    // No other file reads the variable.
    let mut grep = Command::new("grep");
    grep.args(["-rl", CRASH, "src", "crates"])
        .current_dir(env!("CARGO_MANIFEST_DIR"));
    assert_eq!(said(&mut grep).out, "crates/sys/src/failpoint.rs\n");
}

/// Declares an agent that becomes idle and one that stays in a tool, and installs a claude that
/// records which process runs which session.
fn furnish(lab: &Lab) {
    let script = format!(
        "#!/bin/sh
for word; do
    case $before in --session-id | --resume) session=$word ;; esac
    before=$word
done
alive() {{ [ -r /proc/$1/stat ] && set -- $2 $(cat /proc/$1/stat) && [ \"$1\" = \"${{23}}\" ] && \
[ \"$4\" != Z ]; }}
set_start() {{ start=${{22}}; }}
set_start $(cat /proc/$$/stat)
while read -r other pid since; do
    if [ \"$other\" = \"$session\" ] && alive $pid $since; then echo $session $pid $$ \
    >>'{dir}/twice'; fi
done <'{dir}/witness'
echo $session $$ $start >>'{dir}/witness'
exec '{SPOTKEEP}' fake-claude \"$@\"
",
        dir = lab.dir.display()
    );
    fs::write(lab.dir.join("witness"), "").unwrap();
    fs::write(lab.dir.join("bin/claude"), script).unwrap();
    lab.declare("a", "idle", "");
    lab.declare("b", "tool", "");
}

/// What has to be the same after the crash.
struct Promised {
    sessions: [String; 2],
    transcripts: Vec<PathBuf>,
    staged: String,
}

impl Promised {
    /// Waits until both agents are where their plans end, and records their state.
    fn from_lab(lab: &Lab) -> Self {
        lab.wait_done("a");
        lab.wait_open("b");
        Self {
            sessions: ["a", "b"].map(|name| lab.session_of(name)),
            transcripts: lab.transcripts(),
            staged: staged(lab),
        }
    }

    /// Asserts that both agents are back in their sessions, with complete transcripts and
    /// workspaces, and that no session ran twice.
    fn holds(&self, lab: &Lab, point: &str) {
        lab.wait_state("a", "idle");
        lab.wait_done("b");
        assert_eq!(
            ["a", "b"].map(|name| lab.session_of(name)),
            self.sessions,
            "{point}"
        );
        assert_eq!(lab.transcripts(), self.transcripts, "{point}");
        lab.assert_nothing_lost("a");
        lab.assert_nothing_lost("b");
        assert_eq!(staged(lab), self.staged, "{point}");
        for name in ["a", "b"] {
            let work = lab.workspace(name);
            assert_eq!(
                fs::read_to_string(work.join("untracked.txt")).unwrap(),
                "untracked\n",
                "{point}"
            );
            let changed = fs::read_to_string(work.join("tracked.txt")).unwrap();
            assert!(
                changed.starts_with("staged, then changed\n"),
                "{point}: {changed}"
            );
            git(&work, &["fsck", "--no-dangling", "--no-progress"]);
        }
        assert!(
            !lab.dir.join("twice").exists(),
            "{point}: a session ran twice: {}",
            lab.account()
        );
        let log = fs::read_to_string(lab.log()).unwrap();
        assert!(!log.contains("panicked"), "{point}: {log}");
        for path in [
            lab.record_path("a"),
            lab.record_path("b"),
            lab.file("session-state/root.json"),
        ] {
            assert!(
                serde_json::from_slice::<Value>(&fs::read(&path).unwrap()).is_ok(),
                "{point}: {path:?}"
            );
        }
        lab.manifests();
    }
}

fn staged(lab: &Lab) -> String {
    git(&lab.workspace("a"), &["diff", "--cached", "tracked.txt"])
}

fn crashing(lab: &Lab, at: &str, args: &[&str]) -> Keeper {
    lab.keeper_by(|command| {
        command.args(args).env(CRASH, at);
    })
}

/// Waits until a keeper has ended, and asserts that it aborted at its crash point.
fn has_crashed(lab: &Lab, keeper: Keeper, at: &str) {
    let status = keeper.end();
    assert_eq!(
        status.signal(),
        Some(ABORTED),
        "{at} was not reached: {status:?} {}",
        lab.account()
    );
}

/// Starts a keeper that aborts at a crash point, perhaps before it answers.
fn crash_at_start(lab: &Lab, at: &str) {
    let log = fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(lab.log())
        .unwrap();
    let mut run = lab.spotkeep(&["run"]);
    run.env(CRASH, at)
        .stdout(log.try_clone().unwrap())
        .stderr(log);
    let code = said(&mut run).code;
    assert_eq!(code, -ABORTED, "{at} was not reached: {}", lab.account());
}

fn crash_in_save(at: &str) {
    let lab = Lab::new();
    furnish(&lab);
    let keeper = crashing(&lab, at, &["--sigterm", "save"]);
    let promised = Promised::from_lab(&lab);
    keeper.signal(Signal::Term);
    has_crashed(&lab, keeper, at);

    // In the same boot the next keeper completes the save, and starts no agent.
    let keeper = lab.keeper();
    lab.wait_event("", "saved", 1);
    assert!(
        lab.agent("a")["pid"].is_null() && lab.agent("b")["pid"].is_null(),
        "{at}"
    );
    assert_eq!(lab.events("a", "starting").len(), 1, "{at}");
    lab.until("the save has ended", || {
        (lab.status()["last_save"]["clean"] == true).then_some(())
    });
    keeper.let_go();
    lab.next_boot();
    let _keeper = lab.keeper();
    promised.holds(&lab, at);
    assert_eq!(
        lab.events("b", "starting")[1].data["how"],
        "continue",
        "{at}"
    );
}

#[test]
fn a_crash_at_any_point_of_a_save_is_recovered_from_in_this_boot_and_in_the_next() {
    points("save").into_iter().for_each(crash_in_save);
}

/// The power is cut at the same moment: unsynced data is lost.
#[test]
fn a_power_cut_at_any_point_of_a_save_loses_nothing_that_was_durable() {
    let test = "crash::a_power_cut_at_any_point_of_a_save_loses_nothing_that_was_durable";
    for at in points("save") {
        let Some((lab, image)) = on_a_disk(test) else {
            return;
        };
        furnish(&lab);
        let keeper = crashing(&lab, at, &["--sigterm", "save"]);
        let promised = Promised::from_lab(&lab);
        // Data becomes durable two or five seconds after it was written. That delay is not tested
        // here.
        sys::files::sync_filesystem(&lab.data_dir()).unwrap();
        keeper.signal(Signal::Term);
        has_crashed(&lab, keeper, at);
        cut_power(&lab.data_dir()).unwrap();
        lab.next_boot();
        said(Command::new("umount").arg(lab.data_dir())).ok();
        mount(&image, &lab.data_dir());
        let _keeper = lab.keeper();
        promised.holds(&lab, at);
    }
}

/// Crashes in the first scan of a boot that ended without a notice.
#[test]
fn the_next_keeper_recovers_from_a_crash_at_any_point_of_a_restore() {
    for at in points("restore") {
        let lab = Lab::new();
        furnish(&lab);
        let keeper = lab.keeper();
        let promised = Promised::from_lab(&lab);
        keeper.kill();
        lab.next_boot();
        crash_at_start(&lab, at);
        let _keeper = lab.keeper();
        promised.holds(&lab, at);
    }
}

/// Crashes at several of the record and journal writes of a start.
#[test]
fn a_crash_while_any_file_is_replaced_or_any_line_is_written_leaves_them_whole() {
    for name in [points("state"), points("journal")].concat() {
        for times in [1, 2, 4, 6] {
            let at = format!("{name}:{times}");
            let lab = Lab::new();
            furnish(&lab);
            let keeper = lab.keeper();
            let promised = Promised::from_lab(&lab);
            lab.run(&["save", "--final"]).ok();
            keeper.let_go();
            lab.next_boot();
            crash_at_start(&lab, &at);
            let _keeper = lab.keeper();
            promised.holds(&lab, &at);
        }
    }
}

fn crash(lab: &Lab, at: &str, args: &[&str]) -> CommandOutput {
    let crashed = said(lab.spotkeep(args).env(CRASH, at));
    assert_eq!(crashed.code, -ABORTED, "{at} was not reached: {crashed:?}");
    crashed
}

/// Returns a lab with a checkpoint of its workspace; no keeper runs.
fn with_a_checkpoint() -> Lab {
    let lab = Lab::new();
    lab.declare("a", "", "");
    let keeper = lab.keeper();
    lab.wait_state("a", "idle");
    lab.run(&["stop", "a"]).ok();
    keeper.let_go();
    lab.run(&["checkpoint", "now", "a"]).ok();
    lab
}

fn checkpoints(lab: &Lab) -> Vec<String> {
    let list = lab.run(&["checkpoint", "ls", "a", "--json"]).ok().json();
    let list = list["checkpoints"].as_array().unwrap();
    list.iter()
        .map(|one| one["id"].as_str().unwrap().to_owned())
        .collect()
}

fn is_sound(lab: &Lab, at: &str) {
    let work = lab.workspace("a");
    git(&work, &["fsck", "--full", "--no-dangling", "--no-progress"]);
    let refs = git(
        &work,
        &["for-each-ref", "--format=%(objectname)", "refs/spotkeep"],
    );
    for commit in refs.lines() {
        git(
            &work,
            &[
                "rev-list",
                "--objects",
                "--missing=error",
                "--quiet",
                commit,
            ],
        );
    }
    assert_eq!(refs.lines().count(), checkpoints(lab).len(), "{at}");
}

#[test]
fn a_crash_at_any_point_of_a_checkpoint_touches_nothing_and_the_next_one_is_sound() {
    for at in points("checkpoint") {
        let lab = with_a_checkpoint();
        fs::write(lab.workspace("a").join("new.txt"), "new\n").unwrap();
        let before = Digest::from_workspace(&lab.workspace("a")).unwrap();
        crash(&lab, at, &["checkpoint", "now", "a"]);
        assert_eq!(
            Digest::from_workspace(&lab.workspace("a")).unwrap(),
            before,
            "{at}"
        );
        is_sound(&lab, at);
        lab.run(&["checkpoint", "now", "a"]).ok();
        assert_eq!(
            Digest::from_workspace(&lab.workspace("a")).unwrap(),
            before,
            "{at}"
        );
        is_sound(&lab, at);
        let newest = checkpoints(&lab)[0].clone();
        let shown = git(
            &lab.workspace("a"),
            &[
                "show",
                &format!(
                    "refs/spotkeep/{}/{newest}:worktree/new.txt",
                    lab.record("a")["agent_id"].as_str().unwrap()
                ),
            ],
        );
        assert_eq!(shown, "new\n", "{at}");
    }
}

#[test]
fn a_crash_at_any_point_of_a_rollback_is_finished_or_undone_by_the_same_command() {
    for at in points("rollback") {
        let lab = with_a_checkpoint();
        let work = lab.workspace("a");
        let then = Digest::from_workspace(&work).unwrap();
        let id = checkpoints(&lab)[0].clone();
        fs::write(work.join("tracked.txt"), "changed since\n").unwrap();
        fs::write(work.join("new.txt"), "new\n").unwrap();
        git(&work, &["add", "."]);
        let now = Digest::from_workspace(&work).unwrap();
        crash(&lab, at, &["checkpoint", "rollback", "a", &id]);
        is_sound(&lab, at);
        // The checkpoint made before the rollback holds the state before it.
        let before = checkpoints(&lab)[0].clone();
        assert_ne!(before, id, "{at}");

        let again = lab.run(&["checkpoint", "rollback", "a", &id]).sound();
        if again.code != 0 {
            // git's own lock on the index, which only the user may remove: the error names it.
            assert!(
                again.err.contains("index.lock") && again.err.contains("hint: "),
                "{at}: {again:?}"
            );
            fs::remove_file(work.join(".git/index.lock")).unwrap();
            lab.run(&["checkpoint", "rollback", "a", &id]).ok();
        }
        assert_eq!(Digest::from_workspace(&work).unwrap(), then, "{at}");
        lab.run(&["checkpoint", "rollback", "a", &before]).ok();
        assert_eq!(Digest::from_workspace(&work).unwrap(), now, "{at}");
    }
}

#[test]
fn a_crash_at_any_point_of_a_backup_leaves_a_repository_without_errors() {
    let test = "a_crash_at_any_point_of_a_backup_leaves_a_repository_without_errors";
    if !has_restic(test) {
        return;
    }
    for at in points("backup")
        .into_iter()
        .filter(|name| !name.contains("brought"))
    {
        let lab = Lab::new();
        lab.declare("a", "", "");
        let copy = lab.dir.join("copy");
        let text = lab.config_text();
        lab.write_config(&format!(
            "{text}\n[backup]\ncopy_to = \"{}\"\n",
            copy.display()
        ));
        crash(&lab, at, &["backup", "now"]);
        let made = lab.run(&["backup", "now", "--always", "--json"]).sound();
        assert_eq!(made.code, 0, "{at}: {made:?}");
        let check = by_hand(&lab, &["check", "--read-data"]);
        assert!(
            check.code == 0 && check.out.contains("no errors"),
            "{at}: {check:?}"
        );
        let status = lab.status();
        assert_eq!(status["backup"]["id"], made.json()["backup"]["id"], "{at}");
        assert_eq!(status["trouble"], Value::Array(Vec::new()), "{at}");
    }
}

#[test]
fn the_next_attempt_recovers_from_a_crash_while_a_transcript_is_restored() {
    let test = "the_next_attempt_recovers_from_a_crash_while_a_transcript_is_restored";
    if !has_restic(test) {
        return;
    }
    let lab = Lab::new();
    lab.declare("a", "idle", "");
    let keeper = lab.keeper();
    lab.wait_done("a");
    lab.until("the transcript is on record", || {
        lab.record("a")["transcript"].is_object().then_some(())
    });
    keeper.let_go();
    lab.next_boot();
    lab.run(&["backup", "now"]).ok();
    let path = lab.transcript("a");
    let words = fs::read(&path).unwrap();
    for at in points("backup")
        .into_iter()
        .filter(|name| name.contains("brought"))
    {
        fs::remove_dir_all(lab.file(".claude/projects")).unwrap();
        crash(&lab, at, &["backup", "recover"]);
        lab.run(&["backup", "recover"]).ok();
        assert_eq!(fs::read(&path).unwrap(), words, "{at}");
    }
    // A temporary file may be large; the next keeper removes it.
    lab.keeper().let_go();
    let left = fs::read_dir(lab.file("session-state")).unwrap().flatten();
    let left: Vec<_> = left
        .map(|entry| entry.file_name())
        .filter(|name| name.to_string_lossy().starts_with(".brought"))
        .collect();
    assert!(left.is_empty(), "temporary files are left: {left:?}");
}

#[test]
fn a_crash_at_any_step_of_a_setup_is_completed_by_the_next() {
    let Some(mut vm) = Vm::new("a_crash_at_any_step_of_a_setup_is_completed_by_the_next") else {
        return;
    };
    let device = vm.disk("d", 512 << 20);
    let claude = vm.claude().display().to_string();
    let args = ["--disk", "d", "--user", "ann", "--yes", "--claude", &claude];
    let mut crashes = [0, 0];
    for (which, name) in ["setup/step", "setup/done"].into_iter().enumerate() {
        // The state after one step is nearly the state before the next.
        let times = if which == 0 { 1..40 } else { 1..3 };
        for times in times {
            // A machine before its first set-up.
            vm.boot_disk();
            vm.account("ann");
            vm.name("d", &device);
            said(Command::new("blkdiscard").args(["-z", &device])).ok();
            vm.anns(".claude/history.jsonl", "words\n");
            let at = format!("{name}:{times}");
            let crashed = said(vm.command(&args).env(CRASH, &at));
            if crashed.code != -ABORTED {
                assert_eq!(crashed.code, 0, "{at}: {crashed:?}");
                vm.unmount();
                break;
            }
            crashes[which] += 1;
            vm.ready("d").ok();
            assert!(
                vm.setup(&["--disk", "d"])
                    .ok()
                    .out
                    .starts_with("nothing to do"),
                "{at}"
            );
            assert_eq!(
                fs::read_to_string(vm.path("home/ann/.claude/history.jsonl")).unwrap(),
                "words\n",
                "{at}"
            );
            vm.unmount();
        }
    }
    assert!(crashes[0] >= 8 && crashes[1] == 2, "{crashes:?}");
}

#[test]
fn a_crash_while_a_program_is_replaced_or_a_setup_is_undone_is_completed_by_the_next() {
    let test = "a_crash_while_a_program_is_replaced_or_a_setup_is_undone_is_completed_by_the_next";
    let Some(mut vm) = Vm::new(test) else { return };
    vm.disk("d", 512 << 20);
    vm.anns(".claude/history.jsonl", "words\n");
    vm.ready("d").ok();
    let program = vm.data_dir().join("bin/spotkeep");
    // An older program, to be replaced.
    fs::write(&program, "#!/bin/sh\necho spotkeep 0.0.1\n").unwrap();
    let at = "setup/previous";
    let crashed = said(vm.command(&["--disk", "d"]).env(CRASH, at));
    assert_eq!(crashed.code, -ABORTED, "{at} was not reached: {crashed:?}");
    assert!(
        fs::read_to_string(&program).unwrap().contains("0.0.1"),
        "the crash left no program"
    );
    vm.setup(&["--disk", "d"]).ok();
    assert_eq!(fs::read(&program).unwrap(), fs::read(SPOTKEEP).unwrap());

    let mut crashes = 0;
    for times in 1..20 {
        let at = format!("undo/step:{times}");
        let crashed = said(vm.command(&["--undo"]).env(CRASH, &at));
        if crashed.code != -ABORTED {
            assert_eq!(crashed.code, 0, "{at}: {crashed:?}");
            break;
        }
        crashes += 1;
        vm.setup(&["--undo"]).ok();
        assert!(
            fs::symlink_metadata(vm.path("usr/local/bin/spotkeep")).is_err(),
            "{at}"
        );
        vm.setup(&["--disk", "d"]).ok();
        assert_eq!(
            fs::read_to_string(vm.path("home/ann/.claude/history.jsonl")).unwrap(),
            "words\n",
            "{at}"
        );
    }
    assert!(crashes >= 4, "{crashes}");
}

/// The keeper does not run, so spotkeep only queries systemd for its state.
#[test]
fn a_crash_at_any_point_of_an_upgrade_leaves_a_program_that_runs() {
    let test = "a_crash_at_any_point_of_an_upgrade_leaves_a_program_that_runs";
    if !is_root() {
        return skip(test, "an upgrade takes root");
    }
    let lab = Lab::bare();
    lab.run(&["init"]).ok();
    said(
        Command::new("chown")
            .arg("65534")
            .arg(lab.file("session-state")),
    )
    .ok();
    let systemctl = lab.dir.join("bin/systemctl");
    fs::write(&systemctl, "#!/bin/sh\nexit 3\n").unwrap();
    fs::set_permissions(&systemctl, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!(
        "{}:{}",
        lab.dir.join("bin").display(),
        std::env::var("PATH").unwrap()
    );
    for at in points("upgrade") {
        let program = lab.file("bin/spotkeep");
        let old = "#!/bin/sh\necho spotkeep 0.0.1\n";
        fs::write(&program, old).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let new = lab.dir.join("new");
        fs::write(&new, "#!/bin/sh\necho spotkeep 9.9.9\n").unwrap();
        let mut upgrade = lab.spotkeep(&["setup", "--upgrade", new.to_str().unwrap()]);
        upgrade.env("PATH", &path);
        let crashed = said(upgrade.env(CRASH, at));
        assert_eq!(crashed.code, -ABORTED, "{at} was not reached: {crashed:?}");
        let says = said(Command::new(&program).arg("--version")).ok().out;
        assert!(says.starts_with("spotkeep "), "{at}: {says}");
        said(upgrade.env_remove(CRASH)).ok();
        assert_eq!(
            said(&mut Command::new(&program)).ok().out,
            "spotkeep 9.9.9\n",
            "{at}"
        );
    }
}
