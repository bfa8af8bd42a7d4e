//! `spotkeep setup` and the machine: the account, the symlinks and the user's script.
//!
//! Root follows no symlink that the user can write.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use sys::command::run_with_input;
use sys::process::users_of;

use crate::setup_machine::{UID, Vm, owned, tool};
use crate::support::{SPOTKEEP, is_root, said};
use testing::wait::{FOREVER, during, until};

const ENOUGH: u64 = 512 << 20;

/// A command that runs a shell script as ann.
fn ann(script: &str) -> Command {
    let mut command = Command::new("setpriv");
    let uid = UID.to_string();
    command.args([
        "--reuid",
        &uid,
        "--regid",
        &uid,
        "--clear-groups",
        "sh",
        "-c",
        script,
    ]);
    command
}

#[test]
fn a_new_machine_gets_everything_back_including_the_account() {
    let Some(mut vm) = Vm::new("a_new_machine_gets_everything_back_including_the_account") else {
        return;
    };
    let device = vm.disk("d", ENOUGH);
    vm.anns(".claude/projects/-srv/1.jsonl", "words\n");
    vm.anns(".gitconfig", "[user]\n");
    vm.ready("d").ok();
    let config = vm.data_dir().join("spotkeep.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(
        &config,
        format!("[machine]\nhome = [\".gitconfig\", \".config/gh\"]\n{text}"),
    )
    .unwrap();
    let moved = vm.setup(&["--disk", "d"]).ok();
    assert!(moved.out.contains("home/ann/.gitconfig"), "{moved:?}");
    vm.unmount();

    // A new boot disk, without the account.
    vm.boot_disk();
    vm.name("d", &device);
    let dry = vm.setup(&["--disk", "d", "--dry-run"]).ok();
    assert!(
        dry.out.contains(&format!(
            "would make the account ann with the user id {UID}"
        )),
        "{dry:?}"
    );
    assert!(!vm.data_dir().exists(), "a dry run has mounted something");
    let back = vm.setup(&["--disk", "d"]).ok();
    assert!(!back.out.contains("format"), "{back:?}");
    let passwd = fs::read_to_string(vm.path("etc/passwd")).unwrap();
    assert!(passwd.contains(&format!("ann:x:{UID}:{UID}:")), "{passwd}");
    assert!(
        fs::read_to_string(vm.path("etc/group"))
            .unwrap()
            .contains("sudo:x:27:ann")
    );
    let home = vm.path("home/ann");
    assert_eq!(
        fs::read_to_string(home.join(".claude/projects/-srv/1.jsonl")).unwrap(),
        "words\n"
    );
    assert_eq!(
        fs::read_to_string(home.join(".gitconfig")).unwrap(),
        "[user]\n"
    );
    assert!(
        fs::symlink_metadata(home.join(".config/gh"))
            .unwrap()
            .is_symlink()
    );
    assert_eq!(owned(&home.join(".config")).0, UID);
    assert!(
        vm.setup(&["--disk", "d"])
            .ok()
            .out
            .starts_with("nothing to do")
    );
}

#[test]
fn a_uid_that_is_in_use_on_the_new_machine_is_reported() {
    let Some(mut vm) = Vm::new("a_uid_that_is_in_use_on_the_new_machine_is_reported") else {
        return;
    };
    let device = vm.disk("d", ENOUGH);
    vm.ready("d").ok();
    vm.unmount();
    vm.boot_disk();
    vm.name("d", &device);
    vm.account("bob");
    vm.setup(&["--disk", "d"])
        .refused(1, "which bob has on this machine", "usermod");
    vm.setup(&["--disk", "d", "--user", "bob"])
        .refused(1, "the agents of ann", "--user ann");
}

#[test]
fn a_move_keeps_the_files_of_both_sides_and_undo_restores_the_originals() {
    let test = "a_move_keeps_the_files_of_both_sides_and_undo_restores_the_originals";
    let Some(mut vm) = Vm::new(test) else { return };
    vm.disk("d", ENOUGH);
    vm.ready("d").ok();
    // A machine on which Claude was used before.
    fs::remove_file(vm.path("home/ann/.claude")).unwrap();
    fs::write(vm.data_dir().join(".claude/CLAUDE.md"), "of the disk").unwrap();
    vm.anns(".claude/CLAUDE.md", "of the home");
    vm.anns(".claude/projects/-a/2.jsonl", "only here");
    let said = vm.setup(&["--disk", "d"]).ok();
    assert!(
        said.out
            .contains("the disk has other files under these names, and they stay: CLAUDE.md"),
        "{said:?}"
    );
    let claude = vm.data_dir().join(".claude");
    assert_eq!(
        fs::read_to_string(claude.join("CLAUDE.md")).unwrap(),
        "of the disk"
    );
    assert_eq!(
        fs::read_to_string(claude.join("projects/-a/2.jsonl")).unwrap(),
        "only here"
    );
    assert_eq!(owned(&claude.join("projects/-a/2.jsonl")).0, UID);

    let dry = vm.setup(&["--undo", "--dry-run"]).ok();
    assert!(dry.out.contains("would remove"), "{dry:?}");
    let identity = fs::read(vm.data_dir().join("session-state/root.json")).unwrap();
    vm.setup(&["--undo"]).ok();
    let home = vm.path("home/ann/.claude");
    assert_eq!(
        fs::read_to_string(home.join("CLAUDE.md")).unwrap(),
        "of the home"
    );
    assert!(fs::symlink_metadata(vm.path("workspaces")).is_err());
    assert!(fs::symlink_metadata(vm.path("usr/local/bin/spotkeep")).is_err());
    let units = vm.path("etc/systemd/system");
    let left: Vec<_> = walk(&units)
        .into_iter()
        .filter(|path| !path.is_dir())
        .collect();
    assert_eq!(left, Vec::<std::path::PathBuf>::new());
    assert!(
        !vm.data_dir().join("session-state").exists(),
        "it is still mounted"
    );

    vm.setup(&["--disk", "d"]).ok();
    assert_eq!(
        fs::read(vm.data_dir().join("session-state/root.json")).unwrap(),
        identity
    );
}

fn walk(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.is_symlink() {
            all.extend(walk(&path));
        }
        all.push(path);
    }
    all
}

#[test]
fn a_directory_that_a_process_uses_is_not_moved() {
    let Some(mut vm) = Vm::new("a_directory_that_a_process_uses_is_not_moved") else {
        return;
    };
    vm.disk("d", ENOUGH);
    let file = vm.anns(".claude/history.jsonl", "words");
    let dir = file.parent().unwrap();
    let mut user = Held(
        ann(&format!("cd '{}' && exec tail -f /dev/null", dir.display()))
            .spawn()
            .unwrap(),
    );
    until("tail runs in the directory", || {
        users_of(dir)
            .iter()
            .any(|(_, name)| name == "tail")
            .then_some(())
    });
    let pid = user.0.id().to_string();
    vm.ready("d").refused(
        1,
        &format!("is in use by {pid} (tail)"),
        &format!("kill {pid}"),
    );
    assert!(file.exists() && !fs::symlink_metadata(dir).unwrap().is_symlink());
    user.0.kill().unwrap();
    user.0.wait().unwrap();
    vm.ready("d").ok();
    assert_eq!(
        fs::read_to_string(vm.data_dir().join(".claude/history.jsonl")).unwrap(),
        "words"
    );
}

/// A child process that is killed at the end of the test.
struct Held(Child);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
fn a_home_that_does_not_fit_on_the_disk_stays_where_it_is() {
    let Some(mut vm) = Vm::new("a_home_that_does_not_fit_on_the_disk_stays_where_it_is") else {
        return;
    };
    vm.disk("d", ENOUGH);
    vm.ready("d").ok();
    fs::remove_file(vm.path("home/ann/.claude")).unwrap();
    let file = vm.anns(".claude/large", "");
    fs::OpenOptions::new()
        .write(true)
        .open(&file)
        .unwrap()
        .set_len(2 * ENOUGH)
        .unwrap();
    let said = vm.setup(&["--disk", "d"]);
    assert_eq!(said.code, 3, "{said:?}");
    assert!(said.err.contains("free bytes") && file.exists(), "{said:?}");
    fs::remove_file(file).unwrap();
    vm.setup(&["--disk", "d"]).ok();
}

#[test]
fn the_users_script_runs_once_on_a_boot_disk_and_never_as_root() {
    let Some(mut vm) = Vm::new("the_users_script_runs_once_on_a_boot_disk_and_never_as_root")
    else {
        return;
    };
    let device = vm.disk("d", ENOUGH);
    vm.ready("d").ok();
    let data_dir = vm.data_dir();
    vm.give_to_ann(
        &data_dir.join("provision.sh"),
        "#!/bin/sh\nid -u >>ran; exit $(cat code)\n",
    );
    fs::set_permissions(
        data_dir.join("provision.sh"),
        fs::Permissions::from_mode(0o755),
    )
    .unwrap();
    vm.give_to_ann(&data_dir.join("code"), "7");
    let config = data_dir.join("spotkeep.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(
        &config,
        format!("[machine]\non_new_machine = \"provision.sh\"\n{text}"),
    )
    .unwrap();

    let failed = vm.setup(&["--disk", "d"]);
    assert_eq!(failed.code, 3, "{failed:?}");
    assert!(
        failed.err.contains("exit status: 7") && failed.err.contains(".log"),
        "{failed:?}"
    );
    fs::write(data_dir.join("code"), "0").unwrap();
    vm.setup(&["--disk", "d"]).ok();
    vm.setup(&["--disk", "d"]).ok();
    let ran = |data_dir: &Path| fs::read_to_string(data_dir.join("ran")).unwrap();
    assert_eq!(
        ran(&data_dir),
        format!("{UID}\n{UID}\n"),
        "once more after it had failed, then never"
    );

    vm.unmount();
    vm.boot_disk();
    vm.name("d", &device);
    vm.setup(&["--disk", "d"]).ok();
    assert_eq!(
        ran(&data_dir).lines().count(),
        3,
        "and once on the next boot disk"
    );
}

#[test]
fn root_follows_no_symlink_that_the_user_made() {
    let Some(mut vm) = Vm::new("root_follows_no_symlink_that_the_user_made") else {
        return;
    };
    vm.disk("d", ENOUGH);
    vm.ready("d").ok();
    let (data_dir, victim) = (vm.data_dir(), vm.path("victim"));
    fs::create_dir(&victim).unwrap();
    fs::write(victim.join("shadow"), "secret").unwrap();
    fs::set_permissions(&victim, fs::Permissions::from_mode(0o700)).unwrap();
    let untouched = |what: &str| {
        assert_eq!(owned(&victim), (0, 0, 0o700), "{what}");
        assert_eq!(fs::read_dir(&victim).unwrap().count(), 1, "{what}");
        assert_eq!(owned(&victim.join("shadow")).0, 0, "{what}");
    };
    // A data directory that the user made, with symlinks in the place of directories that root
    // makes.
    for name in ["bin", "backups"] {
        fs::rename(data_dir.join(name), data_dir.join(format!("{name}.old"))).unwrap();
        symlink(&victim, data_dir.join(name)).unwrap();
        let said = vm.setup(&["--disk", "d", "--user", "ann"]);
        assert_eq!(said.code, 1, "{said:?}");
        untouched(name);
        fs::remove_file(data_dir.join(name)).unwrap();
        fs::rename(data_dir.join(format!("{name}.old")), data_dir.join(name)).unwrap();
    }
    // A bin directory of the user's: setup replaces its programs and its owner.json.
    chown(data_dir.join("bin"), Some(UID), Some(UID)).unwrap();
    fs::write(
        data_dir.join("bin/owner.json"),
        r#"{"version":1,"user":"root","uid":0,"gid":0,"shell":"","groups":[]}"#,
    )
    .unwrap();
    fs::write(data_dir.join("bin/spotkeep"), "#!/bin/sh\nevil\n").unwrap();
    vm.ready("d").ok();
    assert_eq!(owned(&data_dir.join("bin")), (0, 0, 0o755));
    assert!(
        !fs::read(data_dir.join("bin/spotkeep"))
            .unwrap()
            .starts_with(b"#!")
    );
    assert!(
        fs::read_to_string(data_dir.join("bin/owner.json"))
            .unwrap()
            .contains("ann")
    );
    // Setup reads the user's files as ann, not as root.
    let toml = data_dir.join("spotkeep.toml");
    fs::remove_file(&toml).unwrap();
    symlink(victim.join("shadow"), &toml).unwrap();
    let said = vm.setup(&["--disk", "d"]);
    assert!(
        !said.err.contains("secret") && !said.out.contains("secret"),
        "{said:?}"
    );
    untouched("spotkeep.toml");
    fs::remove_file(&toml).unwrap();
    // A symlink in the place of ~/.claude.
    fs::remove_file(vm.path("home/ann/.claude")).unwrap();
    ann(&format!(
        "ln -s '{}' '{}'",
        victim.display(),
        vm.path("home/ann/.claude").display()
    ))
    .status()
    .unwrap();
    let said = vm.setup(&["--disk", "d"]);
    assert!(
        said.code == 3 && said.err.contains("was left as it is"),
        "{said:?}"
    );
    untouched("home");
}

#[test]
fn root_follows_no_symlink_that_is_swapped_in_while_it_works() {
    let Some(mut vm) = Vm::new("root_follows_no_symlink_that_is_swapped_in_while_it_works") else {
        return;
    };
    vm.disk("d", ENOUGH);
    vm.ready("d").ok();
    let (data_dir, victim) = (vm.data_dir(), vm.path("victim"));
    fs::create_dir(&victim).unwrap();
    fs::set_permissions(&victim, fs::Permissions::from_mode(0o700)).unwrap();
    for round in 0..10 {
        // The user owns the data directory, and swaps a directory for a symlink in a loop.
        fs::remove_dir_all(data_dir.join("backups")).ok();
        fs::remove_file(data_dir.join("backups")).ok();
        chown(&data_dir, Some(UID), Some(UID)).unwrap();
        fs::set_permissions(&data_dir, fs::Permissions::from_mode(0o755)).unwrap();
        let script = format!(
            "cd '{}' && while :; do ln -sn '{}' backups; rm -f backups; mkdir backups; rmdir \
             backups; done 2>/dev/null",
            data_dir.display(),
            victim.display()
        );
        let mut swapper = Held(ann(&script).stderr(Stdio::null()).spawn().unwrap());
        let said = vm.setup(&["--disk", "d"]);
        swapper.0.kill().unwrap();
        swapper.0.wait().unwrap();
        assert_eq!(owned(&victim), (0, 0, 0o700), "round {round}: {said:?}");
        assert_eq!(fs::read_dir(&victim).unwrap().count(), 0, "round {round}");
        // Setup completes, or names what is in the way.
        assert!(said.code == 0 || said.code == 1, "round {round}: {said:?}");
    }
}

#[test]
fn the_users_own_claude_is_copied_to_the_disk_and_a_script_is_not() {
    let test = "the_users_own_claude_is_copied_to_the_disk_and_a_script_is_not";
    let Some(mut vm) = Vm::new(test) else { return };
    vm.disk("d", ENOUGH);
    let claude = vm.anns(".local/bin/claude", "#!/bin/sh\necho 2.1.330\n");
    fs::set_permissions(&claude, fs::Permissions::from_mode(0o755)).unwrap();
    let first = vm.setup(&["--disk", "d", "--user", "ann", "--yes"]);
    assert!(
        first.code == 3 && first.err.contains("is a script"),
        "{first:?}"
    );
    // The native build is one file, which only the user can read.
    let source = vm.anns(
        "claude.c",
        "#include <stdio.h>\nint main() { puts(\"2.1.330 (Claude Code)\"); }\n",
    );
    fs::remove_file(&claude).unwrap();
    let (source, to) = (source.to_str().unwrap(), claude.to_str().unwrap());
    tool("cc", &["-o", to, source]);
    chown(&claude, Some(UID), Some(UID)).unwrap();
    fs::set_permissions(&claude, fs::Permissions::from_mode(0o700)).unwrap();
    let second = vm.setup(&["--disk", "d"]).ok();
    assert!(
        second.out.contains("claude 2.1.330 is on the disk"),
        "{second:?}"
    );
    let kept = vm.data_dir().join("bin/claude/2.1.330/claude");
    assert_eq!(owned(&kept), (0, 0, 0o755));
    assert_eq!(fs::read(kept).unwrap(), fs::read(claude).unwrap());
    assert!(
        vm.setup(&["--disk", "d"])
            .ok()
            .out
            .contains("nothing to do")
    );
}

#[test]
fn setup_at_a_terminal_asks_whether_to_keep_transcripts_longer() {
    let test = "setup_at_a_terminal_asks_whether_to_keep_transcripts_longer";
    let Some(mut vm) = Vm::new(test) else { return };
    vm.disk("d", ENOUGH);
    let claude = vm.claude();
    let args = ["--disk", "d", "--user", "ann", "--claude"];
    let first = vm
        .setup(&[&args[..], &[claude.to_str().unwrap()]].concat())
        .ok();
    assert!(first.out.contains("--yes lets it keep them"), "{first:?}");
    let settings = vm.data_dir().join(".claude/settings.json");
    let asked = |answer: &str| {
        let command = vm.command(&["--disk", "d"]);
        let words = command.get_args().map(|word| word.to_str().unwrap());
        let line: String = words.map(|word| format!(" '{word}'")).collect();
        let mut terminal = Command::new("script");
        terminal
            .args(["-qec", &format!("'{SPOTKEEP}'{line}"), "/dev/null"])
            .env("SPOTKEEP_LOOPBACK_ONLY", "1");
        during("setup at a terminal ends", || {
            run_with_input(&mut terminal, answer.as_bytes(), FOREVER).unwrap()
        })
    };
    let no = asked("n\n");
    assert!(
        no.status.success() && no.stdout.contains("Keep them for ten years?"),
        "{no:?}"
    );
    assert!(!settings.exists());
    asked("y\n");
    let text = fs::read_to_string(&settings).unwrap();
    assert!(text.contains("\"cleanupPeriodDays\": 3650"), "{text}");
    assert_eq!(owned(&settings).0, UID);
    let again = asked("");
    assert!(again.stdout.contains("nothing to do"), "{again:?}");
}

#[test]
fn setup_without_root_is_refused_with_a_hint() {
    let mut command = if is_root() {
        ann(&format!("exec '{SPOTKEEP}' setup --disk d"))
    } else {
        let mut command = Command::new(SPOTKEEP);
        command.args(["setup", "--disk", "d"]);
        command
    };
    said(&mut command).refused(1, "needs root", "sudo spotkeep setup");
}
