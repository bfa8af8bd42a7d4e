//! Tests of `spotkeep doctor`: the checks, the fixes, and that nothing is written.
//!
//! A machine that was set up passes every check, and each problem is found by its check, with a
//! fix.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use spotkeep::setup::login_line;
use spotkeep::systemd::install;
use spotkeep::systemd::units::{ALL, UNIT_DIR, UnitPaths};
use sys::user;
use sys::uuid::new_uuid;

use crate::support::{Lab, is_root, said, skip};

/// A VM that was set up: its data directory is a lab's, and another directory takes the place of
/// `/`.
struct Vm {
    lab: Lab,
    dir: PathBuf,
}

impl Vm {
    /// Returns `None` where the test does not run as root, who owns the files of a VM.
    fn new(test: &str) -> Option<Self> {
        if !is_root() {
            skip(test, "a VM that was set up has files of root");
            return None;
        }
        let mut lab = Lab::in_a_cloud();
        lab.umount_at_the_end();
        lab.metadata().set_preemptible(true);
        let text = lab.config_text();
        lab.write_config(
            &text
                .replace("[cloud]", "[cloud]\nnotice = \"120s\"")
                .replace("IS_SANDBOX", "ANTHROPIC_API_KEY = \"lab-key\", IS_SANDBOX"),
        );
        lab.declare("a", "", "");
        program(&lab.dir.join("bin/claude"), "echo '2.1.330 (Claude Code)'");
        let settings = "{\"cleanupPeriodDays\": 3650}";
        fs::write(lab.file(".claude/settings.json"), settings).unwrap();
        lab.run(&["down"]).ok();
        let vm = Self {
            dir: lab.dir.join("m"),
            lab,
        };
        vm.furnish();
        Some(vm)
    }

    fn furnish(&self) {
        let data_dir = self.lab.data_dir();
        let shown = data_dir.display();
        self.put("etc/passwd", "root:x:0:0::/home/ann:/bin/sh\n");
        self.put("etc/fstab", &format!("UUID=1 {shown} ext4 nofail 0 2\n"));
        self.mounted("ext4", "rw,noatime", "rw,errors=remount-ro");
        self.put(
            "proc/meminfo",
            "MemTotal: 8388608 kB\nMemAvailable: 6291456 kB\n",
        );
        self.put("proc/sys/vm/dirty_bytes", "268435456\n");
        self.put("proc/sys/vm/dirty_ratio", "0\n");
        self.put("sys/class/dmi/id/product_name", "Google Compute Engine\n");
        self.put(
            "etc/systemd/system.conf.d/50-stop.conf",
            "[Manager]\nDefaultTimeoutStopSec=15s\n",
        );
        for dir in [
            "run/systemd/system",
            "home/ann",
            "tmp",
            "var/lib/systemd/linger",
        ] {
            fs::create_dir_all(self.dir.join(dir)).unwrap();
        }
        program(
            &self.dir.join("usr/bin/systemctl"),
            "printf 'active\\nactive\\nactive\\n'",
        );
        program(&self.dir.join("usr/bin/timedatectl"), "echo yes");
        let units = UnitPaths {
            data_dir: data_dir.clone(),
            is_mount: true,
            user: "root".into(),
            home: "/home/ann".into(),
            program: data_dir.join("bin/spotkeep"),
        };
        install::install(&self.dir, &units).unwrap();
        let wants = self.dir.join(UNIT_DIR).join("multi-user.target.wants");
        fs::create_dir_all(&wants).unwrap();
        for unit in ALL {
            symlink(format!("../{unit}"), wants.join(unit)).unwrap();
        }
        symlink(data_dir.join(".claude"), self.dir.join("home/ann/.claude")).unwrap();
        symlink(
            data_dir.join(".claude/.claude.json"),
            self.dir.join("home/ann/.claude.json"),
        )
        .unwrap();
        symlink(data_dir.join("workspaces"), self.dir.join("workspaces")).unwrap();
    }

    /// Writes a mountinfo with this mount at the data directory.
    fn mounted(&self, kind: &str, options: &str, super_options: &str) {
        let data_dir = self.lab.data_dir();
        let text = format!(
            "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n36 22 8:16 / {} {options} - {kind} /dev/sdb \
             {super_options}\n",
            data_dir.display()
        );
        self.put("proc/self/mountinfo", &text);
    }

    fn put(&self, path: &str, text: &str) {
        let path = self.dir.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn doctor(&self, more: &[&str]) -> crate::support::CommandOutput {
        let machine = self.dir.display().to_string();
        let args = [&["doctor", "--machine", &machine], more].concat();
        let mut doctor = self.lab.spotkeep(&args);
        // The fake tools of this machine come first in the path.
        let path = std::env::var("PATH").unwrap();
        doctor.env(
            "PATH",
            format!("{}:{path}", self.lab.dir.join("bin").display()),
        );
        said(&mut doctor).sound()
    }

    /// Returns one check of `doctor --json` (null if it is missing), and the exit code.
    fn check(&self, name: &str) -> (Value, i32) {
        let said = self.doctor(&["--json"]);
        (find(&said.json(), name), said.code)
    }
}

fn find(report: &Value, name: &str) -> Value {
    let checks = report["checks"].as_array().unwrap();
    checks
        .iter()
        .find(|check| check["check"] == name)
        .cloned()
        .unwrap_or(Value::Null)
}

fn program(path: &Path, script: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    // Renamed into place: a file that another thread's fork has open for writing cannot be
    // executed.
    let draft = path.with_extension("draft");
    fs::write(&draft, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&draft, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(&draft, path).unwrap();
}

/// Returns everything that a write would change: names, modes, owners, times of change, contents.
fn fingerprint(dir: &Path) -> Vec<(PathBuf, u32, u32, i64, i64, Vec<u8>)> {
    let mut all = Vec::new();
    let mut left = vec![dir.to_path_buf()];
    while let Some(path) = left.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        let content = match meta.is_file() {
            true => fs::read(&path).unwrap(),
            false => Vec::new(),
        };
        if meta.is_dir() {
            left.extend(
                fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        }
        all.push((
            path,
            meta.mode(),
            meta.uid(),
            meta.ctime(),
            meta.ctime_nsec(),
            content,
        ));
    }
    all.sort();
    all
}

#[test]
fn a_machine_that_was_set_up_passes_every_check_and_nothing_is_written() {
    let Some(vm) = Vm::new("a_machine_that_was_set_up_passes_every_check_and_nothing_is_written")
    else {
        return;
    };
    let before = fingerprint(&vm.lab.data_dir());
    let said = vm.doctor(&["--json"]);
    let report = said.json();
    assert_eq!(said.code, 0, "{report:#}");
    let checks = report["checks"].as_array().unwrap();
    for check in checks {
        assert_eq!(
            (&check["ok"], &check["warning"]),
            (&true.into(), &false.into()),
            "{check}"
        );
        assert!(
            check["fix"].is_null() && check["detail"].is_string(),
            "{check}"
        );
    }
    // The contract: the checks on a VM, and the fields of each.
    let names: Vec<&str> = checks
        .iter()
        .map(|check| check["check"].as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        [
            "data-dir",
            "mount",
            "filesystem",
            "space",
            "inodes",
            "owners",
            "bin",
            "secrets",
            "links",
            "spotkeep.toml",
            "workspaces",
            "records",
            "saves",
            "journal",
            "clock",
            "keeper",
            "sessions",
            "claude",
            "login",
            "unattended",
            "retention",
            "git",
            "tmux",
            "restic",
            "backup",
            "units",
            "boot",
            "running",
            "stop-timeout",
            "inhibit-delay",
            "power-key",
            "memory",
            "unwritten",
            "tmp",
            "metadata",
            "notice",
        ]
        .into_iter()
        // A tmpfs, where labs are, may have no inode limit.
        .filter(|name| *name != "inodes" || names.contains(name))
        .collect::<Vec<_>>()
    );
    let keys: Vec<&String> = checks[0].as_object().unwrap().keys().collect();
    assert_eq!(keys, ["check", "ok", "warning", "detail", "fix"]);
    assert_eq!(report["version"], 1);

    let text = vm.doctor(&[]);
    assert!(
        text.code == 0 && text.out.starts_with("✓ data-dir"),
        "{text:?}"
    );
    assert!(
        text.out.ends_with(" ok, 0 warnings, 0 failed\n"),
        "{text:?}"
    );
    assert_eq!(fingerprint(&vm.lab.data_dir()), before);
}

#[test]
fn an_untested_claude_version_is_drilled_and_the_result_is_shown() {
    let lab = Lab::new();
    let claude = lab.dir.join("bin/claude");
    // The fake Claude, with a future version number.
    program(
        &claude,
        &format!(
            "case $1 in --version) echo '9.9.9 (Claude Code)' ;; *) exec '{}' fake-claude \"$@\" \
             ;; esac",
            crate::support::SPOTKEEP
        ),
    );
    let check = |report: &Value, name: &str| {
        let checks = report["checks"].as_array().unwrap();
        let found = checks.iter().find(|check| check["check"] == name);
        found.cloned().unwrap_or(Value::Null)
    };
    // `claude --version` has a time limit, which it may exceed on a busy machine.
    let told = lab.until("the claude is checked", || {
        let report = lab.run(&["doctor", "--json"]).sound().json();
        Some(check(&report, "claude")).filter(|told| told["ok"] == true)
    });
    assert_eq!(
        (&told["ok"], &told["warning"]),
        (&true.into(), &true.into())
    );
    let fix = told["fix"].as_str().unwrap();
    assert!(fix.ends_with("doctor --probe"), "{told}");

    let (told, found) = lab.until("the claude is checked again, and drilled", || {
        let report = lab.run(&["doctor", "--json", "--probe"]).sound().json();
        let told = check(&report, "claude");
        (told["ok"] == true).then(|| (told, check(&report, "claude-behaviour")))
    });
    let detail = found["detail"].as_str().unwrap();
    assert_eq!(found["ok"], true, "{found:#}");
    assert!(
        detail.starts_with("9.9.9: ") && detail.contains("1 of 1 resumed"),
        "{detail}"
    );
    assert_eq!(told["warning"], false, "{told:#}");
}

#[test]
fn a_data_directory_of_another_user_is_reported_with_its_owner() {
    if !is_root() {
        skip(
            "a_data_directory_of_another_user_is_reported_with_its_owner",
            "acting as another user needs root",
        );
        return;
    }
    let lab = Lab::new();
    fs::set_permissions(&lab.dir, fs::Permissions::from_mode(0o755)).unwrap();
    let copy = lab.dir.join("spotkeep");
    fs::copy(crate::support::SPOTKEEP, &copy).unwrap();
    let mut as_another_user = lab.program("setpriv");
    as_another_user
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(copy)
        .arg("--data-dir")
        .arg(lab.data_dir())
        .arg("doctor");
    let said = said(&mut as_another_user);
    assert!(
        said.code == 3 && said.out.contains("fix: sudo spotkeep --data-dir"),
        "{said:?}"
    );
}

#[test]
fn root_acts_as_the_owner_of_the_data_directory_and_leaves_no_file_of_roots_in_it() {
    const OTHER_UID: u32 = 65_534;
    if !is_root() {
        return skip(
            "root_acts_as_the_owner_of_the_data_directory_and_leaves_no_file_of_roots_in_it",
            "it is about root",
        );
    }
    let lab = Lab::new();
    lab.make_workspace("b");
    fs::set_permissions(&lab.dir, fs::Permissions::from_mode(0o755)).unwrap();
    // A program that an agent has installed at the path in `spotkeep.toml`, which agents can write
    // too.
    program(
        &lab.dir.join("bin/claude"),
        &format!(
            "id -u >>'{}'; echo '2.1.330 (Claude Code)'",
            lab.dir.join("tmp/ran").display()
        ),
    );
    for dir in ["r", "run", "tmp"] {
        let given = said(
            Command::new("chown")
                .args(["-R", &OTHER_UID.to_string()])
                .arg(lab.dir.join(dir)),
        );
        assert_eq!(given.code, 0, "{given:?}");
    }
    lab.run(&["doctor"]).sound();
    let ran = fs::read_to_string(lab.dir.join("tmp/ran")).unwrap();
    assert!(
        ran.lines().all(|uid| uid == OTHER_UID.to_string()) && !ran.is_empty(),
        "{ran}"
    );
    lab.run(&["ls"]).ok();
    let owner = user::name(OTHER_UID);
    lab.run(&["add", "b", "--workspace", "workspaces/b"])
        .refused(
            2,
            &format!("belongs to {owner}"),
            &format!("su --pty - {owner} -c"),
        );
    let of_others: Vec<PathBuf> = fingerprint(&lab.data_dir())
        .into_iter()
        .filter(|(_, _, uid, ..)| *uid != OTHER_UID)
        .map(|(path, ..)| path)
        .collect();
    assert_eq!(of_others, Vec::<PathBuf>::new());
    // A link of the user's does not make a directory of root's the user's.
    let state = lab.file("session-state");
    fs::rename(&state, lab.dir.join("state")).unwrap();
    symlink(lab.dir.join("state"), &state).unwrap();
    std::os::unix::fs::lchown(&state, Some(OTHER_UID), None).unwrap();
    give(&lab.dir.join("state"), 0);
    lab.run(&["ls"]).refused(1, "", "");
}

#[test]
fn doctor_reports_a_file_that_does_not_answer_and_does_not_hang() {
    let lab = Lab::new();
    // A pipe without a writer: opening it blocks, as on a disk that hangs.
    fs::remove_file(lab.config()).unwrap();
    let made = said(Command::new("mkfifo").arg(lab.config()));
    assert_eq!(made.code, 0, "{made:?}");
    let mut command = lab.program(crate::support::SPOTKEEP);
    let said = said(command.arg("--data-dir").arg(lab.data_dir()).arg("doctor"));
    assert!(
        said.code == 3 && said.out.contains("does not answer"),
        "{said:?}"
    );
}

/// The check that finds the problem, its severity, a part of the fix, and how to cause the problem.
type Case = (&'static str, Sort, &'static str, fn(&Vm));

#[derive(Debug, Clone, Copy, PartialEq)]
enum Sort {
    Wrong,
    Warning,
}

const CASES: [Case; 50] = [
    ("data-dir", Sort::Wrong, "init", |vm| {
        fs::remove_dir_all(vm.lab.data_dir()).unwrap();
    }),
    ("data-dir", Sort::Wrong, "root.json.damaged", |vm| {
        fs::write(vm.lab.file("session-state/root.json"), "{").unwrap();
    }),
    ("mount", Sort::Wrong, "sudo mount ", |vm| {
        vm.put(
            "proc/self/mountinfo",
            "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n",
        );
    }),
    ("mount", Sort::Warning, "setup --disk", |vm| {
        vm.put(
            "proc/self/mountinfo",
            "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n",
        );
        vm.put("etc/fstab", "");
    }),
    ("filesystem", Sort::Wrong, "remount,rw", |vm| {
        vm.mounted("ext4", "rw", "rw,emergency_ro");
    }),
    ("filesystem", Sort::Wrong, "disk", |vm| {
        vm.mounted("tmpfs", "rw", "rw");
    }),
    ("filesystem", Sort::Warning, "volume", |vm| {
        vm.mounted("overlay", "rw", "rw");
    }),
    ("space", Sort::Wrong, "most is in ", |vm| {
        small(vm, "size=32m");
        fs::create_dir_all(vm.lab.workspace("a")).unwrap();
        fs::write(vm.lab.workspace("a").join("built"), vec![1; 8 << 20]).unwrap();
    }),
    ("inodes", Sort::Wrong, "find ", |vm| {
        small(vm, "nr_inodes=200");
        for number in 0.. {
            if fs::write(vm.lab.file(&format!("home/{number}")), "").is_err() {
                break;
            }
        }
    }),
    ("owners", Sort::Wrong, "chown -R root:", |vm| {
        give(&vm.lab.file("session-state/root.json"), 4_242);
    }),
    ("owners", Sort::Wrong, "chmod go-rwx", |vm| {
        chmod(&vm.lab.file(".claude"), 0o755);
    }),
    ("bin", Sort::Wrong, "setup", |vm| {
        chmod(&vm.lab.file("bin"), 0o777);
    }),
    ("secrets", Sort::Wrong, "chmod 600", |vm| {
        fs::write(vm.lab.file("keys.env"), "KEY=1\n").unwrap();
        chmod(&vm.lab.file("keys.env"), 0o644);
        add_to(vm, "env_file = \"keys.env\"");
    }),
    ("secrets", Sort::Wrong, "umask 077", |vm| {
        add_to(vm, "env_file = \"missing.env\"");
    }),
    ("secrets", Sort::Wrong, ".credentials.json", |vm| {
        fs::write(vm.lab.file(".claude/.credentials.json"), "{}").unwrap();
        chmod(&vm.lab.file(".claude/.credentials.json"), 0o644);
    }),
    ("links", Sort::Wrong, "setup", |vm| {
        fs::remove_file(vm.dir.join("home/ann/.claude")).unwrap();
        fs::create_dir(vm.dir.join("home/ann/.claude")).unwrap();
    }),
    ("spotkeep.toml", Sort::Wrong, "edit ", |vm| {
        let text = vm.lab.config_text();
        vm.lab.write_config(&(text + "\nnonsense = 1\n"));
    }),
    ("workspaces", Sort::Wrong, "git clone", |vm| {
        fs::remove_dir_all(vm.lab.workspace("a")).unwrap();
    }),
    ("records", Sort::Wrong, ".damaged", |vm| {
        fs::write(vm.lab.record_path("a"), "{\"ver").unwrap();
    }),
    ("journal", Sort::Warning, "events", |vm| {
        fs::write(
            vm.lab.file("session-state/journal.jsonl"),
            "{\"version\":1,\"se\n",
        )
        .unwrap();
    }),
    ("clock", Sort::Wrong, "timedatectl", |vm| {
        let line = serde_json::json!({
            "version": 1, "seq": 1, "at": "2096-01-01T00:00:00.000Z", "data_dir_id": "r",
            "epoch": 1,
            "boot_id": "l", "event": "safe",
        });
        fs::write(
            vm.lab.file("session-state/journal.jsonl"),
            format!("{line}\n"),
        )
        .unwrap();
    }),
    ("clock", Sort::Warning, "timedatectl", |vm| {
        program(&vm.dir.join("usr/bin/timedatectl"), "echo no");
    }),
    ("keeper", Sort::Wrong, "systemctl start spotkeep", |vm| {
        let path = vm.lab.file("session-state/root.json");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(path, text.replace("\"down\"", "\"up\"")).unwrap();
    }),
    ("sessions", Sort::Wrong, "rm b", |vm| two_records(vm)),
    ("git", Sort::Wrong, "install git", |vm| {
        program(&vm.lab.dir.join("bin/git"), "echo git version 2.30.2");
    }),
    ("tmux", Sort::Wrong, "install tmux", |vm| {
        program(&vm.lab.dir.join("bin/tmux"), "echo tmux 3.0a");
    }),
    ("restic", Sort::Wrong, "install restic", |vm| {
        program(&vm.lab.dir.join("bin/restic"), "echo restic 0.9.4 compiled");
    }),
    ("backup", Sort::Warning, "backup now", |vm| {
        let text = vm.lab.config_text();
        vm.lab
            .write_config(&(text + "\n[backup]\nevery = \"never\"\n"));
    }),
    ("backup", Sort::Wrong, "backup now", |vm| {
        let state = serde_json::json!({"version": 1, "trouble": "restic cannot write"});
        fs::write(vm.lab.file("session-state/backup.json"), state.to_string()).unwrap();
    }),
    ("claude", Sort::Wrong, "install Claude Code", |vm| {
        fs::remove_file(vm.lab.dir.join("bin/claude")).unwrap();
    }),
    ("claude", Sort::Warning, "doctor --probe", |vm| {
        program(&vm.lab.dir.join("bin/claude"), "echo '9.9.9 (Claude Code)'");
    }),
    ("claude", Sort::Wrong, "--version", |vm| {
        program(&vm.lab.dir.join("bin/claude"), "exec tail -f /dev/null");
    }),
    ("login", Sort::Wrong, "/login", |vm| {
        replace(vm, "ANTHROPIC_API_KEY = \"lab-key\", ", "");
    }),
    ("unattended", Sort::Wrong, "IS_SANDBOX", |vm| {
        replace(vm, "IS_SANDBOX = \"1\"", "X = \"1\"");
        replace(
            vm,
            "[defaults]",
            "[defaults]\nargs = [\"--dangerously-skip-permissions\"]",
        );
    }),
    ("unattended", Sort::Wrong, "/config", |vm| {
        let path = vm.lab.file(".claude/.claude.json");
        fs::write(
            &path,
            r#"{"customApiKeyResponses":{"rejected":["lab-key"]}}"#,
        )
        .unwrap();
        chmod(&path, 0o600);
    }),
    ("retention", Sort::Warning, "cleanupPeriodDays", |vm| {
        fs::remove_file(vm.lab.file(".claude/settings.json")).unwrap();
    }),
    ("retention", Sort::Wrong, "jq", |vm| {
        fs::write(
            vm.lab.file(".claude/settings.json"),
            "{\"cleanupPeriodDays\": 0}",
        )
        .unwrap();
    }),
    ("units", Sort::Wrong, "setup", |vm| {
        for unit in ALL {
            fs::remove_file(vm.dir.join(UNIT_DIR).join(unit)).unwrap();
        }
    }),
    ("units", Sort::Warning, "setup", |vm| {
        let unit = vm.dir.join(UNIT_DIR).join("spotkeep-save.service");
        let text = fs::read_to_string(&unit).unwrap();
        fs::write(unit, text + "# mine\n").unwrap();
    }),
    ("units", Sort::Warning, "by hand", |vm| {
        let unit = vm.dir.join(UNIT_DIR).join("spotkeep.service");
        fs::write(unit, "[Service]\nExecStart=/usr/local/bin/spotkeep run\n").unwrap();
    }),
    ("boot", Sort::Wrong, "enable --now spotkeep-save", |vm| {
        let wants = vm.dir.join(UNIT_DIR).join("multi-user.target.wants");
        fs::remove_file(wants.join("spotkeep-save.service")).unwrap();
    }),
    (
        "running",
        Sort::Wrong,
        "journalctl -u spotkeep.service",
        |vm| {
            program(
                &vm.dir.join("usr/bin/systemctl"),
                "printf 'active\\nfailed\\nactive\\n'; exit 3",
            );
        },
    ),
    (
        "stop-timeout",
        Sort::Warning,
        "DefaultTimeoutStopSec",
        |vm| {
            fs::remove_file(vm.dir.join("etc/systemd/system.conf.d/50-stop.conf")).unwrap();
        },
    ),
    ("inhibit-delay", Sort::Warning, "InhibitDelayMaxSec", |vm| {
        let dropin = "usr/lib/systemd/logind.conf.d/unattended-upgrades-logind-maxdelay.conf";
        vm.put(dropin, "[Login]\nInhibitDelayMaxSec=30\n");
    }),
    ("power-key", Sort::Wrong, "HandlePowerKey=poweroff", |vm| {
        vm.put(
            "etc/systemd/logind.conf",
            "[Login]\nHandlePowerKey=ignore\n",
        );
    }),
    ("memory", Sort::Warning, "larger", |vm| {
        vm.put("proc/meminfo", "MemTotal: 524288 kB\n");
    }),
    ("unwritten", Sort::Warning, "vm.dirty_bytes", |vm| {
        vm.put("proc/sys/vm/dirty_bytes", "0\n");
        vm.put("proc/sys/vm/dirty_ratio", "20\n");
    }),
    ("metadata", Sort::Wrong, "provider = \"none\"", |vm| {
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = closed.local_addr().unwrap().to_string();
        replace(vm, &vm.lab.metadata().address(), &address);
    }),
    (
        "notice",
        Sort::Warning,
        "preemption-notice-duration=120s",
        |vm| replace(vm, "notice = \"120s\"\n", ""),
    ),
    ("notice", Sort::Warning, "status", |vm| {
        vm.lab.metadata().preempt();
    }),
];

/// Moves the data directory to its own file system in memory, which is unmounted with the lab.
fn small(vm: &Vm, options: &str) {
    let (data_dir, moved) = (vm.lab.data_dir(), vm.lab.dir.join("moved"));
    fs::rename(&data_dir, &moved).unwrap();
    fs::create_dir(&data_dir).unwrap();
    let mounted = said(
        Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("mode=755,{options}"), "tmpfs"])
            .arg(&data_dir),
    );
    assert_eq!(mounted.code, 0, "{mounted:?}");
    let copied = said(Command::new("cp").args(["-aT"]).args([&moved, &data_dir]));
    assert_eq!(copied.code, 0, "{copied:?}");
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn give(path: &Path, uid: u32) {
    std::os::unix::fs::chown(path, Some(uid), None).unwrap();
}

fn replace(vm: &Vm, old: &str, new: &str) {
    let text = vm.lab.config_text();
    assert!(text.contains(old), "{old}: {text}");
    vm.lab.write_config(&text.replace(old, new));
}

/// Appends a line to the table of the agent, which is the last one.
fn add_to(vm: &Vm, line: &str) {
    let text = vm.lab.config_text();
    vm.lab.write_config(&format!("{text}\n{line}\n"));
}

fn two_records(vm: &Vm) {
    let session = new_uuid();
    for name in ["a", "b"] {
        let record = serde_json::json!({
            "version": 1, "name": name, "agent_id": new_uuid(), "session_id": session,
            "cwd": format!("workspaces/{name}"),
        });
        fs::write(vm.lab.record_path(name), record.to_string()).unwrap();
    }
}

#[test]
fn each_problem_is_found_by_its_check_and_has_a_fix() {
    let test = "each_problem_is_found_by_its_check_and_has_a_fix";
    for (name, sort, fix, harm) in CASES {
        let Some(vm) = Vm::new(test) else {
            return;
        };
        harm(&vm);
        let (check, code) = vm.check(name);
        let expected = sort == Sort::Warning;
        assert_eq!(check["ok"], expected, "{name}: {check:#}");
        assert_eq!(check["warning"], expected, "{name}: {check:#}");
        assert!(check["fix"].is_string(), "{name}: {check:#}");
        let text = check["fix"].as_str().unwrap();
        assert!(
            text.contains(fix) || check["detail"].to_string().contains(fix),
            "{name}: {check:#}"
        );
        assert!(
            sort == Sort::Warning || code == 3,
            "{name}: {code} {check:#}"
        );
    }
}

#[test]
fn on_a_laptop_nothing_is_reported_about_boots_and_shutdowns() {
    let lab = Lab::new();
    let machine = lab.dir.join("m");
    fs::create_dir_all(machine.join("run/systemd/system")).unwrap();
    let shown = machine.display().to_string();
    let report = lab
        .run(&["doctor", "--json", "--machine", &shown])
        .sound()
        .json();
    for name in [
        "mount",
        "bin",
        "links",
        "units",
        "power-key",
        "stop-timeout",
        "unwritten",
        "metadata",
        "notice",
    ] {
        assert_eq!(find(&report, name), Value::Null, "{name}");
    }
    assert_eq!(find(&report, "owners")["ok"], true);
}

#[test]
fn doctor_checks_the_keepers_version_and_the_cgroup_of_its_agents() {
    let lab = Lab::new();
    lab.declare("a", "idle", "");
    let keeper = lab.keeper();
    lab.wait_done("a");
    lab.wait_checkpointed("a");
    let machine = lab.dir.join("m");
    fs::create_dir_all(machine.join("run/systemd/system")).unwrap();
    let shown = machine.display().to_string();
    let doctor = || {
        lab.run(&["doctor", "--json", "--machine", &shown])
            .sound()
            .json()
    };
    // The keeper writes too, when a turn ends; a write during every attempt is one of the doctor's.
    lab.until("the checkpoint is made", || {
        lab.agent("a")["last_checkpoint"].is_string().then_some(())
    });
    let report = lab.until("the doctor writes nothing", || {
        let before = fingerprint(&lab.data_dir());
        let report = doctor();
        (fingerprint(&lab.data_dir()) == before).then_some(report)
    });
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(
        find(&report, "keeper")["detail"],
        format!("runs, version {version}")
    );
    assert_eq!(find(&report, "agents")["ok"], true);
    let cgroup = machine.join(format!("proc/{}/cgroup", lab.process("a").pid));
    fs::create_dir_all(cgroup.parent().unwrap()).unwrap();
    fs::write(&cgroup, "0::/user.slice/user-1000.slice/session-3.scope\n").unwrap();
    assert_eq!(find(&doctor(), "tmux-server")["ok"], true);
    fs::create_dir_all(machine.join("etc/systemd")).unwrap();
    fs::write(
        machine.join("etc/systemd/logind.conf"),
        "[Login]\nKillUserProcesses=yes\n",
    )
    .unwrap();
    let server = find(&doctor(), "tmux-server");
    assert!(
        server["ok"] == false && server["fix"].to_string().contains("enable-linger"),
        "{server}"
    );
    lab.process("a")
        .open()
        .unwrap()
        .signal(sys::process::Signal::Kill);
    keeper.let_go();
}

#[test]
fn a_login_shell_after_a_preemption_prints_its_result_and_prints_nothing_otherwise() {
    let lab = Lab::in_a_cloud();
    lab.declare("a", "tool", "");
    lab.declare("b", "idle", "");
    let line = |lab: &Lab| lab.run(&["status", "--login-line"]).ok().out;
    let keeper = lab.keeper();
    lab.wait_open("a");
    lab.wait_done("b");
    assert_eq!(line(&lab), "", "the first boot");
    lab.metadata().preempt();
    lab.wait_event("", "saved", 1);
    drop(keeper);
    lab.next_boot();
    lab.leave_the_cloud();
    assert_eq!(line(&lab), "", "no keeper has started yet");
    let _keeper = lab.keeper();
    lab.wait_up("a", 2);
    lab.wait_up("b", 2);
    let told = line(&lab);
    assert!(
        told.starts_with("preempted ") && told.contains(", back "),
        "{told}"
    );
    assert!(
        told.ends_with(" UTC: 2 of 2 agents, 0 records lost, 1 turn continued\n"),
        "{told}"
    );
    // As in a login shell.
    let dir = lab.dir.join("etc-of-the-lab");
    let spotkeep = Path::new(crate::support::SPOTKEEP);
    login_line::install(&dir, spotkeep, &lab.data_dir(), user::id()).unwrap();
    let mut shell = lab.program("script");
    let snippet = dir.join(login_line::PATH);
    shell.args([
        "-qec",
        &format!("sh -i -c '. {}; echo in'", snippet.display()),
        "/dev/null",
    ]);
    if said(Command::new("script").arg("--version")).code != 0 {
        let test =
            "a_login_shell_after_a_preemption_prints_its_result_and_prints_nothing_otherwise";
        return skip(test, "there is no script(1)");
    }
    let out = said(&mut shell).out;
    assert!(out.contains("2 of 2 agents") && out.contains("in"), "{out}");
    // The login shell of another user does not start the program.
    login_line::install(&dir, spotkeep, &lab.data_dir(), user::id() + 1).unwrap();
    assert_eq!(said(&mut shell).out.trim_end(), "in");
    // Without a data directory: no output, no error.
    let nowhere = lab.dir.join("nowhere");
    let mut elsewhere = lab.program(crate::support::SPOTKEEP);
    elsewhere
        .arg("--data-dir")
        .arg(&nowhere)
        .args(["status", "--login-line"]);
    assert_eq!(said(&mut elsewhere).ok().out, "");
}
