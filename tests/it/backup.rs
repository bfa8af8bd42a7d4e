//! Tests of backups with the real restic, checked by running restic by hand.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use serde_json::Value;
use sys::process::{ProcessId, Signal};

use crate::support::{CommandOutput, Lab, SPOTKEEP, git, is_root, said, skip};
use testing::wait::during;

/// Whether restic is installed; if not, reports the test as skipped.
pub fn has_restic(test: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|dir| dir.join("restic").is_file());
    if !found {
        skip(test, "restic is not installed");
    }
    found
}

/// Returns a lab with a workspace, build output, secrets and a home directory; no keeper runs.
pub fn furnished() -> Lab {
    let lab = Lab::new();
    lab.declare("a", "", "");
    let work = lab.workspace("a");
    git(&work, &["branch", "target"]);
    for (path, text) in [
        ("target/debug/out", "built"),
        ("web/node_modules/x/index.js", "fetched"),
        ("src/main.rs", "fn main() {}"),
        (".env", "TOKEN=hunter2"),
        (
            "cached/CACHEDIR.TAG",
            "Signature: 8a477f597d28d172789f06886806bc55",
        ),
        ("cached/blob", "again"),
    ] {
        put(&work.join(path), text);
    }
    put(&lab.file(".claude/.credentials.json"), "{\"secret\":1}");
    put(
        &lab.file("session-state/credentials.json"),
        "{\"secret\":1}",
    );
    put(&lab.file("home/.ssh/id_ed25519"), "private");
    put(&lab.file("home/.ssh/id_ed25519.pub"), "public");
    put(&lab.file("home/.gitconfig"), "[user]\n");
    lab
}

pub fn put(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// Runs restic by hand, with the settings that `backup key` prints.
pub fn by_hand(lab: &Lab, args: &[&str]) -> CommandOutput {
    let key = lab.run(&["backup", "key", "--json"]).ok().json();
    let mut restic = lab.program("restic");
    restic
        .env(
            "RESTIC_PASSWORD_FILE",
            key["password_file"].as_str().unwrap(),
        )
        .env("RESTIC_REPOSITORY", key["repository"].as_str().unwrap())
        .arg("--no-cache")
        .args(args);
    said(&mut restic)
}

/// Returns every file below a directory with its contents.
fn tree(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    fn walk(base: &Path, dir: &Path, all: &mut BTreeMap<PathBuf, Vec<u8>>) {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if entry.file_type().unwrap().is_dir() {
                walk(base, &path, all);
            } else {
                let name = path.strip_prefix(base).unwrap().to_path_buf();
                all.insert(name, fs::read(&path).unwrap_or_default());
            }
        }
    }
    let mut all = BTreeMap::new();
    walk(dir, dir, &mut all);
    all
}

/// Returns the command with a script named `restic` before the real one in the path.
fn with_restic(lab: &Lab, script: &str, args: &[&str]) -> Command {
    let dir = lab.dir.join("other");
    put(&dir.join("restic"), script);
    fs::set_permissions(dir.join("restic"), fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = lab.spotkeep(args);
    let path = format!("{}:{}", dir.display(), std::env::var("PATH").unwrap());
    command.env("PATH", path);
    command
}

fn ids(lab: &Lab) -> Vec<String> {
    let list = lab.run(&["backup", "ls", "--json"]).ok().json();
    let ids = list["backups"].as_array().unwrap().iter();
    ids.map(|backup| backup["id"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn restic_by_hand_restores_everything_but_secrets_and_build_output() {
    if !has_restic("restic_by_hand_restores_everything_but_secrets_and_build_output") {
        return;
    }
    let lab = furnished();
    let made = lab.run(&["backup", "now", "--json"]).ok().json();
    assert_eq!(made["outcome"], "made");
    assert_eq!(made["trouble"], Value::Array(Vec::new()));
    let check = by_hand(&lab, &["check", "--read-data"]);
    assert!(
        check.code == 0 && check.out.contains("no errors"),
        "{check:?}"
    );
    let there = lab.dir.join("there");
    assert_eq!(
        by_hand(
            &lab,
            &["restore", "latest", "--target", there.to_str().unwrap()]
        )
        .code,
        0
    );
    let (mut left, mut back) = (tree(&lab.data_dir()), tree(&there));
    left.retain(|path, _| !path.starts_with("backups") && !path.ends_with("backups.key"));
    back.retain(|path, _| !path.ends_with("backup.json"));
    let mut out: Vec<String> = left
        .keys()
        .filter(|path| !back.contains_key(*path))
        .map(|path| path.display().to_string())
        .collect();
    out.sort();
    assert_eq!(
        out,
        [
            ".claude/.credentials.json",
            "home/.ssh/id_ed25519",
            "session-state/backup.json",
            "session-state/credentials.json",
            "workspaces/a/.env",
            "workspaces/a/cached/CACHEDIR.TAG",
            "workspaces/a/cached/blob",
            "workspaces/a/target/debug/out",
            "workspaces/a/web/node_modules/x/index.js",
        ]
    );
    for (path, bytes) in &back {
        assert_eq!(left.get(path), Some(bytes), "{}", path.display());
    }
    // A branch of that name is not build output.
    assert!(back.contains_key(Path::new("workspaces/a/.git/refs/heads/target")));
    for (path, mode) in [("backups", 0o700), ("backups.key", 0o600)] {
        let meta = fs::metadata(lab.file(path)).unwrap();
        assert_eq!(meta.mode() & 0o777, mode, "{path}");
    }
    // An agent that no keeper has loaded yet has no record; all others have one.
    let status = lab.status();
    assert_eq!(status["backup"]["id"], made["backup"]["id"]);
    assert_eq!(status["trouble"], Value::Array(Vec::new()));
}

#[test]
fn listed_files_and_secrets_are_backed_up_on_request() {
    if !has_restic("listed_files_and_secrets_are_backed_up_on_request") {
        return;
    }
    let lab = furnished();
    let text = lab.config_text();
    let holds = |settings: &str, path: &str| {
        lab.write_config(&format!("{text}\n[backup]\n{settings}\n"));
        lab.run(&["backup", "now", "--always"]).ok();
        let list = by_hand(&lab, &["ls", "latest"]).out;
        list.lines().any(|line| line == format!("/{path}"))
    };
    assert!(holds("keep_ignored = [\".env\"]", "workspaces/a/.env"));
    assert!(!holds(
        "keep_ignored = [\".env\"]",
        ".claude/.credentials.json"
    ));
    assert!(holds(
        "keep_ignored = [\"target\"]",
        "workspaces/a/target/debug/out"
    ));
    assert!(holds("secrets = true", ".claude/.credentials.json"));
    assert!(holds("secrets = true", "home/.ssh/id_ed25519"));
    assert!(!holds(
        "exclude = [\"/workspaces/a/src\"]",
        "workspaces/a/src/main.rs"
    ));
}

#[test]
fn without_a_change_no_restic_is_started_and_nothing_is_written() {
    if !has_restic("without_a_change_no_restic_is_started_and_nothing_is_written") {
        return;
    }
    let lab = furnished();
    lab.run(&["backup", "now"]).ok();
    let files = |lab: &Lab| -> BTreeMap<PathBuf, (i64, i64, u64)> {
        tree(&lab.data_dir())
            .into_keys()
            .filter(|path| !path.ends_with("spotkeep.lock"))
            .map(|path| {
                let meta = fs::symlink_metadata(lab.file(path.to_str().unwrap())).unwrap();
                (path, (meta.ctime(), meta.ctime_nsec(), meta.len()))
            })
            .collect()
    };
    let before = files(&lab);
    let started = lab.dir.join("started");
    let script = format!("#!/bin/sh\ntouch {}\nexit 1\n", started.display());
    for _ in 0..3 {
        let now = said(&mut with_restic(
            &lab,
            &script,
            &["backup", "now", "--json"],
        ))
        .ok();
        assert_eq!(now.json()["outcome"], "unchanged");
    }
    assert!(!started.exists());
    assert_eq!(files(&lab), before);
    // New build output does not count as a change; another file does.
    put(&lab.workspace("a").join("target/debug/more"), "x");
    assert_eq!(
        lab.run(&["backup", "now", "--json"]).ok().json()["outcome"],
        "unchanged"
    );
    put(&lab.workspace("a").join("src/new.rs"), "x");
    assert_eq!(
        lab.run(&["backup", "now", "--json"]).ok().json()["outcome"],
        "made"
    );
    assert_eq!(ids(&lab).len(), 2);
}

#[test]
fn a_flipped_byte_in_each_kind_of_file_is_found_and_named() {
    if !has_restic("a_flipped_byte_in_each_kind_of_file_is_found_and_named") {
        return;
    }
    let lab = furnished();
    lab.run(&["backup", "now"]).ok();
    let repository = lab.file("backups");
    let check = |args: &[&str]| lab.run(&[&["backup", "check", "--json"], args].concat());
    for kind in ["config", "keys", "snapshots", "index", "data"] {
        let file = if kind == "config" {
            PathBuf::from(kind)
        } else {
            let inside = tree(&repository.join(kind)).into_keys().next().unwrap();
            Path::new(kind).join(inside)
        };
        let path = repository.join(&file);
        let good = fs::read(&path).unwrap();
        let mut bad = good.clone();
        let middle = bad.len() / 2;
        bad[middle] ^= 1;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, bad).unwrap();
        let found = check(&["--all"]);
        assert_eq!(found.code, 3, "{kind}: {found:?}");
        let damage = found.json()["damage"].to_string();
        assert!(damage.contains(file.to_str().unwrap()), "{kind}: {damage}");
        // The error is shown until a check passes again.
        let status = lab.run(&["status"]);
        assert!(
            status.code == 3 && status.out.contains("damaged"),
            "{status:?}"
        );
        fs::write(&path, good).unwrap();
        assert_eq!(check(&["--all"]).code, 0, "{kind}");
    }
    assert_eq!(lab.run(&["status"]).code, 0);
}

/// Starts spotkeep in its own process group, so that `kill_all` can end it together with its
/// restic.
fn start(lab: &Lab, args: &[&str]) -> Child {
    let mut command = lab.spotkeep(args);
    command
        .process_group(0)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Returns the running restic of this lab, if there is one.
fn restic_of(lab: &Lab) -> Option<ProcessId> {
    lab.processes().into_iter().find(|process| {
        let name = fs::read_to_string(format!("/proc/{}/comm", process.pid)).unwrap_or_default();
        name.trim() == "restic"
    })
}

fn kill_all(lab: &Lab, child: &mut Child) {
    // spotkeep first, so that it cannot report the end of its restic.
    child.kill().ok();
    child.wait().unwrap();
    while let Some(restic) = restic_of(lab).and_then(ProcessId::open) {
        restic.signal(Signal::Kill);
        during("a killed restic ends", || restic.wait(None));
    }
}

/// Writes pseudo-random data, which restic cannot compress.
fn noise(path: &Path, seed: u64, bytes: usize) {
    let mut state = seed | 1;
    let mut all = Vec::with_capacity(bytes);
    while all.len() < bytes {
        // xorshift64: random enough that no chunk is in the repository yet.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        all.extend_from_slice(&state.to_le_bytes());
    }
    fs::write(path, all).unwrap();
}

/// How often each operation is killed; `SPOTKEEP_KILLS` raises it.
fn rounds() -> u32 {
    let kills = std::env::var("SPOTKEEP_KILLS").ok();
    kills.and_then(|text| text.parse().ok()).unwrap_or(20)
}

/// Returns the restic of this lab that runs the restic command `verb`, if there is one.
fn restic_at(lab: &Lab, verb: &str) -> Option<ProcessId> {
    let is_at = |process: &ProcessId| {
        let words = fs::read(format!("/proc/{}/cmdline", process.pid)).unwrap_or_default();
        let mut words = words.split(|byte| *byte == 0);
        words.any(|word| word == verb.as_bytes())
    };
    restic_of(lab).filter(is_at)
}

/// Kills spotkeep and restic [`rounds`] times during the restic command `verb`, at moments spread
/// over its duration.
fn kill_at(lab: &Lab, args: &[&str], verb: &str, mut before: impl FnMut(u64)) {
    let mut seed = 0;
    let mut begin = || {
        seed += 1;
        before(seed * 31 + 11);
        let mut child = start(lab, args);
        let at_work = lab.until(&format!("restic runs {verb}"), || {
            if let Some(restic) = restic_at(lab, verb) {
                return Some(Some(restic));
            }
            // On a busy machine it may have ended before it was seen.
            child.try_wait().unwrap().map(|_| None)
        });
        (child, at_work)
    };
    // The duration of the command when it is not killed.
    let alone = || {
        let (mut child, at_work) = begin();
        let began = Instant::now();
        let seen = at_work.and_then(ProcessId::open);
        let ended = seen.map(|restic| during("restic ends", || restic.wait(None)));
        let span = began.elapsed();
        child.wait().unwrap();
        (ended == Some(true)).then_some(span)
    };
    let mut span = std::iter::repeat_with(alone)
        .take(10)
        .flatten()
        .next()
        .unwrap();
    let (expected, mut hits) = (rounds(), 0);
    for _ in 0..expected * 10 {
        let (mut child, at_work) = begin();
        // A fixed moment, independent of what restic does, like a power cut.
        std::thread::sleep(span * (2 * hits + 1) / (2 * expected));
        let was_at_it = at_work.is_some() && restic_at(lab, verb).is_some();
        kill_all(lab, &mut child);
        match was_at_it {
            true => hits += 1,
            // The command had ended before: the machine is faster now.
            false => span = span * 3 / 4,
        }
        if hits == expected {
            return;
        }
    }
    panic!("restic was killed at {verb} only {hits} times of {expected}");
}

/// Returns a lab with a retention of two backups, and the contents of a large file that is in all
/// of them.
fn lab_to_kill_in() -> (Lab, Vec<u8>) {
    let lab = furnished();
    let text = lab.config_text();
    lab.write_config(&format!(
        "{text}\n[backup]\nkeep = {{ last = 2, hourly = 0, daily = 0, weekly = 0 }}\n"
    ));
    let big = lab.workspace("a").join("big");
    noise(&big, 7, 1 << 20);
    lab.run(&["backup", "now"]).ok();
    let kept = fs::read(&big).unwrap();
    (lab, kept)
}

/// Asserts that the next backup works without help, that no backup is damaged, and that a restore
/// is complete.
fn assert_nothing_was_lost(lab: &Lab, kept: &[u8]) {
    // Stale locks do not block it.
    let made = lab
        .run(&["backup", "now", "--always", "--json"])
        .ok()
        .json();
    assert_eq!(made["outcome"], "made");
    let check = lab.run(&["backup", "check", "--all"]);
    assert_eq!(check.code, 0, "{check:?}");
    let there = lab.dir.join("there");
    let to = there.to_str().unwrap();
    lab.run(&["backup", "restore", "latest", "--to", to]).ok();
    assert_eq!(fs::read(there.join("workspaces/a/big")).unwrap(), kept);
    assert_eq!(
        fs::read(there.join("workspaces/a/next")).unwrap(),
        fs::read(lab.workspace("a").join("next")).unwrap()
    );
}

#[test]
fn a_kill_at_any_moment_of_a_backup_loses_nothing_that_was_backed_up() {
    if !has_restic("a_kill_at_any_moment_of_a_backup_loses_nothing_that_was_backed_up") {
        return;
    }
    let (lab, kept) = lab_to_kill_in();
    let first = ids(&lab);
    let next = lab.workspace("a").join("next");
    kill_at(&lab, &["backup", "now"], "backup", |seed| {
        noise(&next, seed, 3 << 20);
    });
    assert!(ids(&lab).contains(&first[0]));
    assert_nothing_was_lost(&lab, &kept);
}

#[test]
fn a_kill_at_any_moment_of_a_copy_loses_no_backup_and_the_next_copy_completes_it() {
    if !has_restic("a_kill_at_any_moment_of_a_copy_loses_no_backup_and_the_next_copy_completes_it")
    {
        return;
    }
    let (lab, kept) = lab_to_kill_in();
    let text = lab.config_text();
    let copy = lab.dir.join("copy");
    lab.write_config(&format!("{text}copy_to = \"{}\"\n", copy.display()));
    // The first backup also creates the repository of the copy.
    lab.run(&["backup", "now", "--always"]).ok();
    let next = lab.workspace("a").join("next");
    kill_at(&lab, &["backup", "now"], "copy", |seed| {
        noise(&next, seed, 2 << 20);
    });
    assert_nothing_was_lost(&lab, &kept);
    let check = lab.run(&["backup", "check", "--copy", "--all"]);
    assert_eq!(check.code, 0, "{check:?}");
    // Expired backups are removed from the copy too, after a check.
    lab.run(&["backup", "check", "--prune"]).ok();
    let of_copy = || {
        let mut restic = lab.program("restic");
        restic
            .env("RESTIC_PASSWORD_FILE", lab.file("backups.key"))
            .env("RESTIC_REPOSITORY", &copy)
            .args(["--no-cache", "snapshots", "--json"]);
        said(&mut restic).ok().json().as_array().unwrap().len()
    };
    assert_eq!((of_copy(), ids(&lab).len()), (2, 2));
    let check = lab.run(&["backup", "check", "--copy", "--all"]);
    assert_eq!(check.code, 0, "{check:?}");
    // A copy with `copy_keeps_all` keeps them.
    let text = lab.config_text();
    lab.write_config(&format!("{text}copy_keeps_all = true\n"));
    for _ in 0..2 {
        lab.run(&["backup", "now", "--always"]).ok();
    }
    lab.run(&["backup", "check", "--prune"]).ok();
    assert_eq!((of_copy(), ids(&lab).len()), (4, 2));
}

#[test]
fn a_kill_at_any_moment_of_a_prune_loses_no_backup_that_the_policy_keeps() {
    if !has_restic("a_kill_at_any_moment_of_a_prune_loses_no_backup_that_the_policy_keeps") {
        return;
    }
    let (lab, kept) = lab_to_kill_in();
    let first = ids(&lab).pop().unwrap();
    let next = lab.workspace("a").join("next");
    kill_at(&lab, &["backup", "check", "--prune"], "forget", |seed| {
        noise(&next, seed, 2 << 20);
        lab.run(&["backup", "now"]).ok();
    });
    assert_nothing_was_lost(&lab, &kept);
    // The policy keeps two; a removed backup leaves nothing behind.
    lab.run(&["backup", "check", "--prune"]).ok();
    let left = ids(&lab);
    assert!(left.len() <= 2 && !left.contains(&first), "{left:?}");
    assert_eq!(lab.run(&["backup", "check", "--all"]).code, 0);
}

#[test]
fn progress_is_shown_in_a_terminal_and_not_in_a_unit() {
    if !has_restic("progress_is_shown_in_a_terminal_and_not_in_a_unit") {
        return;
    }
    let lab = furnished();
    let status = r#"{"message_type":"status","percent_done":0.5,"total_bytes":2048,"files_done":3,"bytes_done":1024}"#;
    let script = format!(
        "#!/bin/sh\ncase \"$*\" in *backup*--json*) echo '{status}';; esac\nexec {} \"$@\"\n",
        real_restic().display()
    );
    let quiet = said(&mut with_restic(&lab, &script, &["backup", "now"])).ok();
    assert!(!quiet.err.contains("50 %"), "{quiet:?}");
    // `script` provides a terminal.
    let command = format!(
        "{} --data-dir {} backup now --always",
        crate::support::SPOTKEEP,
        lab.data_dir().display()
    );
    let mut seen = lab.program("script");
    let path = format!(
        "{}:{}",
        lab.dir.join("other").display(),
        std::env::var("PATH").unwrap()
    );
    seen.env("PATH", path)
        .args(["--quiet", "--return", "--command", &command, "/dev/null"]);
    let seen = said(&mut seen).ok().out;
    assert!(
        seen.contains("[############............]  50 %  1.0 KiB of 2.0 KiB, 3 files"),
        "{seen}"
    );
}

#[test]
fn the_password_may_come_from_a_command_and_is_then_in_no_file() {
    if !has_restic("the_password_may_come_from_a_command_and_is_then_in_no_file") {
        return;
    }
    let lab = furnished();
    let text = lab.config_text();
    lab.write_config(&format!(
        "{text}\n[backup]\nkey_command = \"echo hunter2\"\n"
    ));
    lab.run(&["backup", "now"]).ok();
    assert!(!lab.file("backups.key").exists());
    let key = lab.run(&["backup", "key"]).ok().out;
    assert!(
        key.contains("RESTIC_PASSWORD_COMMAND='echo hunter2'"),
        "{key}"
    );
    let mut restic = lab.program("restic");
    restic
        .env("RESTIC_PASSWORD", "hunter2")
        .env("RESTIC_REPOSITORY", lab.file("backups"))
        .args(["--no-cache", "snapshots"]);
    assert!(said(&mut restic).ok().out.contains("1 snapshots"));
}

#[test]
fn a_second_backup_waits_for_the_first_and_a_scheduled_one_does_not() {
    if !has_restic("a_second_backup_waits_for_the_first_and_a_scheduled_one_does_not") {
        return;
    }
    let lab = furnished();
    lab.run(&["backup", "now"]).ok();
    put(&lab.workspace("a").join("src/new.rs"), "x");
    let (enter, go) = (lab.dir.join("entered"), lab.dir.join("go"));
    // A restic that waits for the file `go`.
    let script = format!(
        "#!/bin/sh\ncase \"$*\" in *backup*--json*) touch {}; while [ ! -e {} ]; do sleep 0.05; \
         done;; esac\nexec {} \"$@\"\n",
        enter.display(),
        go.display(),
        real_restic().display()
    );
    let mut first = with_restic(&lab, &script, &["backup", "now"]);
    let mut first = first
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    lab.until("the first backup runs", || enter.exists().then_some(()));
    lab.run(&["backup", "now", "--scheduled"])
        .refused(3, "another backup is running", "try again");
    let mut second = lab.spotkeep(&["backup", "now"]);
    let second = second
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The second waits for the lock until the first has ended.
    fs::write(&go, "").unwrap();
    assert!(first.wait().unwrap().success());
    let second = second.wait_with_output().unwrap();
    assert!(second.status.success());
    assert!(String::from_utf8_lossy(&second.stdout).contains("nothing has changed"));
    assert_eq!(ids(&lab).len(), 2);
}

fn real_restic() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap();
    std::env::split_paths(&path)
        .map(|dir| dir.join("restic"))
        .find(|path| path.is_file())
        .unwrap()
}

#[test]
fn the_lock_of_a_running_restic_is_respected_and_a_stale_lock_is_removed() {
    if !has_restic("the_lock_of_a_running_restic_is_respected_and_a_stale_lock_is_removed") {
        return;
    }
    let lab = furnished();
    noise(&lab.workspace("a").join("big"), 3, 24 << 20);
    lab.run(&["backup", "now"]).ok();
    // A restic by hand, slow enough to be still running.
    let key = lab.file("backups.key");
    let mut restic = lab.program("restic");
    restic
        .env("RESTIC_PASSWORD_FILE", &key)
        .env("RESTIC_REPOSITORY", lab.file("backups"))
        .args(["--no-cache", "--limit-upload", "64", "backup", "--force"])
        .arg(lab.dir.join("noise"));
    noise(&lab.dir.join("noise"), 99, 24 << 20);
    let mut restic = restic
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let locks = lab.file("backups/locks");
    lab.until("it holds its lock", || {
        (fs::read_dir(&locks).unwrap().count() > 0).then_some(())
    });
    lab.run(&["backup", "check"])
        .refused(3, "another restic process has locked", "try again");
    assert_eq!(
        fs::read_dir(&locks).unwrap().count(),
        1,
        "the lock of a running restic was removed"
    );
    // Both take a shared lock, so a backup runs beside it.
    lab.run(&["backup", "now", "--always"]).ok();
    restic.kill().unwrap();
    restic.wait().unwrap();
    assert_eq!(fs::read_dir(&locks).unwrap().count(), 1);
    lab.run(&["backup", "check", "--prune"]).ok();
    assert_eq!(fs::read_dir(&locks).unwrap().count(), 0);
}

#[test]
fn a_restic_that_is_missing_too_old_or_hangs_is_reported_with_a_hint() {
    let lab = furnished();
    let script = "#!/bin/sh\necho 'restic 0.9.4 compiled with go1.11 on linux/amd64'\n";
    said(&mut with_restic(&lab, script, &["backup", "now"])).refused(
        1,
        "0.9",
        "apt-get install restic",
    );
    let status = lab.run(&["status"]);
    assert!(
        status.code == 3 && status.out.contains("restic 0.9"),
        "{status:?}"
    );

    let empty = lab.dir.join("empty");
    fs::create_dir(&empty).unwrap();
    let mut none = lab.spotkeep(&["backup", "now"]);
    said(none.env("PATH", &empty)).refused(1, "restic is not installed", "apt-get install restic");

    let script = "#!/bin/sh\nexec tail -f /dev/null\n";
    said(&mut with_restic(&lab, script, &["backup", "now"])).refused(
        1,
        "does not answer",
        "version",
    );
    // With backups turned off, `status` does not report that there are none.
    let text = lab.config_text();
    lab.write_config(&format!("{text}\n[backup]\nevery = \"never\"\n"));
    assert_eq!(lab.run(&["status"]).code, 0);
}

#[test]
fn files_are_restored_by_hand_and_no_present_file_is_lost() {
    if !has_restic("files_are_restored_by_hand_and_no_present_file_is_lost") {
        return;
    }
    let lab = furnished();
    lab.run(&["backup", "now"]).ok();
    let work = lab.workspace("a");
    fs::remove_dir_all(work.join("src")).unwrap();
    put(&work.join("tracked.txt"), "written after");
    let plan = lab
        .run(&["backup", "restore", "latest", "workspaces/a", "--dry-run"])
        .ok();
    assert!(
        plan.out.contains("would restore workspaces/a/src/main.rs"),
        "{plan:?}"
    );
    assert!(
        plan.out.contains("newer: workspaces/a/tracked.txt"),
        "{plan:?}"
    );
    assert!(!work.join("src").exists());
    let first = lab.run(&["backup", "restore", "latest", "workspaces/a"]);
    assert_eq!(first.code, 3, "{first:?}");
    assert_eq!(
        fs::read_to_string(work.join("src/main.rs")).unwrap(),
        "fn main() {}"
    );
    assert_eq!(
        fs::read_to_string(work.join("tracked.txt")).unwrap(),
        "written after"
    );
    lab.run(&["backup", "restore", "latest", "workspaces/a", "--overwrite"])
        .ok();
    assert_eq!(
        fs::read_to_string(work.join("tracked.txt")).unwrap(),
        "staged, then changed\n"
    );
    let kept = tree(&work).into_iter().any(|(path, bytes)| {
        path.to_string_lossy()
            .starts_with("tracked.txt.before-restore-")
            && bytes == b"written after"
    });
    assert!(kept);
    lab.run(&["backup", "restore", "latest", "nowhere"])
        .refused(2, "has no nowhere", "dry-run");
    lab.run(&["backup", "restore", "ffffffff"])
        .refused(2, "no backup", "backup ls");
    lab.run(&["backup", "restore", "latest", "../x"]).refused(
        2,
        "not in the data directory",
        "relative",
    );
    let full = lab.dir.display().to_string();
    lab.run(&["backup", "restore", "latest", "--to", &full])
        .refused(2, "not empty", "new");
    assert!(!lab.file(".restored").exists());
    let left = fs::read_dir(lab.data_dir()).unwrap().flatten();
    assert!(
        left.into_iter()
            .all(|entry| !entry.file_name().to_string_lossy().starts_with(".restored"))
    );
}

#[test]
fn backups_stop_before_the_disk_is_full_and_status_shows_it() {
    if !has_restic("backups_stop_before_the_disk_is_full_and_status_shows_it") {
        return;
    }
    let lab = furnished();
    lab.run(&["backup", "now"]).ok();
    let text = lab.config_text();
    lab.write_config(&format!("{text}\n[backup]\nmin_free = \"900T\"\n"));
    lab.run(&["backup", "now"])
        .refused(3, "backups stop below", "du ");
    let status = lab.run(&["status"]);
    assert!(
        status.code == 3 && status.out.contains("no backup is made"),
        "{status:?}"
    );
    lab.write_config(&text);
    lab.run(&["backup", "now"]).ok();
    assert_eq!(lab.run(&["status"]).code, 0);
}

#[test]
fn a_keeper_makes_scheduled_backups_and_status_shows_each_agents_newest() {
    if !has_restic("a_keeper_makes_scheduled_backups_and_status_shows_each_agents_newest") {
        return;
    }
    let lab = Lab::new();
    lab.declare("a", "idle", "");
    // The program is replaced while the keeper runs, as package managers do.
    let (program, new) = (lab.dir.join("bin/spotkeep"), lab.dir.join("bin/new"));
    fs::copy(SPOTKEEP, &program).unwrap();
    let _keeper = lab.keeper_by(|command| {
        *command = lab.program(program.to_str().unwrap());
        command.arg("--data-dir").arg(lab.data_dir()).arg("run");
        command.env("SPOTKEEP_FIRST_BACKUP", "3s");
    });
    fs::copy(SPOTKEEP, &new).unwrap();
    fs::rename(&new, &program).unwrap();
    let agent = lab.until("the agent has a backup", || {
        let agent = lab.agent("a");
        agent["last_backup"].is_string().then_some(agent)
    });
    let status = lab.status();
    assert_eq!(status["backup"]["at"], agent["last_backup"]);
    let text = lab.run(&["status"]).ok().out;
    assert!(text.contains("\nbackup  "), "{text}");
}

#[test]
fn a_backup_ends_cleanly_when_the_notice_comes() {
    if !has_restic("a_backup_ends_cleanly_when_the_notice_comes") {
        return;
    }
    let lab = furnished();
    lab.run(&["backup", "now"]).ok();
    let before = ids(&lab);
    put(&lab.workspace("a").join("src/new.rs"), "x");
    let (enter, ended) = (lab.dir.join("entered"), lab.dir.join("ended"));
    let script = format!(
        "#!/bin/sh\ncase \"$*\" in *backup*--json*) trap 'touch {1}; exit 130' INT; touch {0}; \
         while :; do sleep 0.05; done;; esac\nexec {2} \"$@\"\n",
        enter.display(),
        ended.display(),
        real_restic().display()
    );
    let mut backup = with_restic(&lab, &script, &["backup", "now", "--scheduled"]);
    let backup = backup
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    lab.until("restic runs", || enter.exists().then_some(()));
    let save = lab.run(&["save", "--final", "--json"]).ok().json();
    assert_eq!(save["clean"], true);
    let said = backup.wait_with_output().unwrap();
    assert_eq!(said.status.code(), Some(1));
    let err = String::from_utf8_lossy(&said.stderr);
    assert!(err.contains("has had its notice"), "{err}");
    assert!(ended.exists(), "restic was not asked to end");
    // No further backup starts in this boot, which is not shown as trouble; the next boot makes
    // one.
    lab.run(&["backup", "now", "--scheduled"]).sound();
    assert_eq!(ids(&lab), before);
    assert_eq!(
        lab.run(&["status", "--json"]).json()["trouble"],
        Value::Array(Vec::new())
    );
    lab.next_boot();
    lab.run(&["backup", "now"]).ok();
    assert_eq!(ids(&lab).len(), before.len() + 1);
}

#[test]
fn a_disk_that_fills_up_during_a_backup_costs_that_backup_and_no_other() {
    let test = "a_disk_that_fills_up_during_a_backup_costs_that_backup_and_no_other";
    if !has_restic(test) {
        return;
    }
    if !is_root() {
        skip(test, "mounting needs root");
        return;
    }
    let mut lab = Lab::bare();
    fs::create_dir(lab.data_dir()).unwrap();
    let mut mount = Command::new("mount");
    mount
        .args(["-t", "tmpfs", "-o", "size=48m,mode=755", "tmpfs"])
        .arg(lab.data_dir());
    let mounted = said(&mut mount);
    if mounted.code != 0 {
        skip(test, &mounted.err);
        return;
    }
    lab.umount_at_the_end();
    lab.run(&["init"]).ok();
    lab.configure("[backup]\nmin_free = \"1K\"");
    lab.run(&["backup", "now"]).ok();
    let before = ids(&lab);
    let big = lab.file("workspaces/big");
    noise(&big, 5, 30 << 20);
    let failed = lab.run(&["backup", "now"]);
    assert_eq!(failed.code, 1, "{failed:?}");
    assert!(failed.err.contains("no space left"), "{failed:?}");
    assert_eq!(ids(&lab), before);
    noise(&big, 5, 1 << 20);
    // The next prune removes data that no backup refers to.
    lab.run(&["backup", "check", "--all", "--prune"]).ok();
    lab.run(&["backup", "now"]).ok();
    assert_eq!(ids(&lab).len(), 2);
    assert_eq!(lab.run(&["backup", "check", "--all"]).code, 0);
    assert_eq!(lab.run(&["status"]).code, 0);
}
