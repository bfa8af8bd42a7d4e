//! Privileges of verbs that root runs on a data directory that belongs to the agents' user.
//!
//! No process of that user ever has root's terminal, and root runs no file that the user can write.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::{Lab, SPOTKEEP, is_root, said, skip};

/// Every process of a drill: the user that it runs as, and its command line.
fn drill_processes() -> Vec<(u32, String)> {
    let entries = fs::read_dir("/proc").unwrap();
    let of = |dir: PathBuf| {
        let environment = fs::read(dir.join("environ")).ok()?;
        let mut pairs = environment.split(|byte| *byte == 0);
        let is_marked = pairs.any(|pair| pair.starts_with(b"SPOTKEEP_BOOT_ID=drill-"));
        let uid = fs::metadata(&dir).ok()?.uid();
        let command = fs::read(dir.join("cmdline")).ok()?;
        is_marked.then(|| (uid, String::from_utf8_lossy(&command).replace('\0', " ")))
    };
    entries
        .filter_map(|entry| of(entry.unwrap().path()))
        .collect()
}

fn write_script(path: &Path, script: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Runs a command as root in a new terminal; returns its exit code and output.
fn on_roots_terminal(lab: &Lab, line: &str) -> (Option<i32>, String) {
    let mut command = Command::new("script");
    let path = std::env::var("PATH").unwrap();
    command
        .args(["-qec", line, "/dev/null"])
        .env_clear()
        .env("PATH", format!("{}:{path}", lab.dir.join("shim").display()))
        .env("HOME", "/nonexistent")
        .env("SPOTKEEP_RUNTIME_DIR", lab.dir.join("run"))
        .env("SPOTKEEP_LOOPBACK_ONLY", "1")
        .env("SPOTKEEP_BOOT_ID", lab.boot_id())
        .current_dir("/")
        .stdin(Stdio::null());
    let output = command.output().unwrap();
    let shown = String::from_utf8_lossy(&output.stdout).replace('\r', "");
    (output.status.code(), shown)
}

#[test]
fn a_read_only_verb_that_root_runs_becomes_the_owner_without_a_terminal() {
    if !is_root() {
        return skip(
            "a_read_only_verb_that_root_runs_becomes_the_owner_without_a_terminal",
            "the test needs root",
        );
    }
    let lab = Lab::of_a_user();
    lab.declare("a", "", "");
    // A process that becomes the owner writes down its user, session, terminal and files first.
    let facts = lab.dir.join("tmp/facts");
    let write_down = "{ echo; id -u; cut -d\\  -f1,6,7 /proc/$$/stat; ls -l /proc/$$/fd; } \
                      >>\"$0\" 2>&1; exec \"$@\"";
    write_script(
        &lab.dir.join("shim/setpriv"),
        &format!(
            "PATH=${{PATH#*:}}; before=\nwhile [ \"$1\" != -- ]; do before=\"$before $1\"; shift; \
             done\n\
             shift\nexec setpriv $before -- /bin/sh -c '{write_down}' {} \"$@\"",
            facts.display()
        ),
    );
    lab.give_away();
    let owner = fs::metadata(lab.file("session-state")).unwrap().uid();
    assert_ne!(owner, 0);
    for verb in [
        "ls",
        "status",
        "doctor",
        "metrics",
        "events",
        "report",
        "logs a",
        "notice",
        "checkpoint ls a",
        "up --dry-run",
        "down --dry-run",
        "restore --dry-run",
    ] {
        fs::remove_file(&facts).ok();
        let line = format!("{SPOTKEEP} --data-dir {} {verb}", lab.data_dir().display());
        let (_, shown) = on_roots_terminal(&lab, &line);
        assert!(!shown.contains("belongs to"), "{verb}: {shown}");
        let facts = fs::read_to_string(&facts).unwrap_or_else(|e| panic!("{e}: {verb}: {shown}"));
        let mut lines = facts.lines().skip(1);
        assert_eq!(lines.next(), Some(owner.to_string().as_str()), "{facts}");
        // It leads its own session, without a terminal (proc(5), fields 1, 6 and 7).
        let fields: Vec<&str> = lines.next().unwrap().split(' ').collect();
        assert!(
            fields[0] == fields[1] && fields[2] == "0",
            "{verb}: {facts}"
        );
        assert!(
            !facts.contains("/dev/pts") && !facts.contains("/dev/tty"),
            "{facts}"
        );
    }
    let line = format!("{SPOTKEEP} --data-dir {} ls", lab.data_dir().display());
    let (_, shown) = on_roots_terminal(&lab, &line);
    assert_eq!(shown, lab.run(&["ls"]).ok().out);
}

#[test]
fn a_verb_that_changes_the_owners_files_is_refused_to_root_and_starts_nothing() {
    if !is_root() {
        return skip(
            "a_verb_that_changes_the_owners_files_is_refused_to_root_and_starts_nothing",
            "the test needs root",
        );
    }
    let lab = Lab::of_a_user();
    lab.declare("a", "", "");
    lab.give_away();
    let owner = fs::metadata(lab.file("session-state")).unwrap().uid();
    let trace = lab.dir.join("trace");
    for (verb, code) in [
        ("add b --workspace workspaces/b", 2),
        ("adopt --yes", 2),
        ("rm a", 2),
        ("up", 2),
        ("down", 2),
        ("start a", 2),
        ("stop a", 2),
        ("restart a", 2),
        ("run", 2),
        ("top", 2),
        ("attach a", 2),
        ("send a hello", 2),
        ("save", 2),
        ("checkpoint now", 2),
        ("checkpoint rollback a latest --stop", 2),
        ("restore", 2),
        ("drill --live --yes", 2),
        ("status --login-line", 0),
    ] {
        let line = format!(
            "strace -f -qq -e trace=execve -o {} {SPOTKEEP} --data-dir {} {verb}",
            trace.display(),
            lab.data_dir().display()
        );
        let (ended, shown) = on_roots_terminal(&lab, &line);
        assert_eq!(ended, Some(code), "{verb}: {shown}");
        if code == 2 {
            assert!(
                shown.contains(&format!("belongs to {owner}")) && shown.contains("hint: "),
                "{verb}: {shown}"
            );
        } else {
            assert_eq!(shown, "", "{verb}");
        }
        let traced = fs::read_to_string(&trace).unwrap();
        let started = traced.lines().filter(|line| line.contains("execve("));
        assert_eq!(started.count(), 1, "{verb}: {traced}");
    }
}

#[test]
fn root_uses_no_data_directory_that_another_user_can_change() {
    if !is_root() {
        return skip(
            "root_uses_no_data_directory_that_another_user_can_change",
            "the test needs root",
        );
    }
    let lab = Lab::of_a_user();
    let ran = lab.dir.join("tmp/ran");
    fs::set_permissions(lab.dir.join("tmp"), fs::Permissions::from_mode(0o777)).unwrap();
    write_script(
        &lab.dir.join("bin/claude"),
        &format!("id -u >>{}; echo 2.1.330", ran.display()),
    );
    lab.declare("a", "", "");
    lab.give_away();
    let (state, moved) = (lab.file("session-state"), lab.file("moved"));
    let root_types = |verb: &str| {
        let line = format!("{SPOTKEEP} --data-dir {} {verb}", lab.data_dir().display());
        on_roots_terminal(&lab, &line)
    };
    // Without the state, the owner of the data directory is unknown.
    fs::rename(&state, &moved).unwrap();
    for verb in ["ls", "doctor", "up --dry-run", "up", "save", "init"] {
        let (code, shown) = root_types(verb);
        assert!(
            code != Some(0) && shown.contains("is not root's alone"),
            "{verb}: {shown}"
        );
    }
    let (_, offered) = root_types(&format!(
        "complete -- --data-dir {} attach ''",
        lab.data_dir().display()
    ));
    assert_eq!(offered, "");
    assert!(!state.exists());
    // As if root had made the state directory before.
    fs::create_dir(&state).unwrap();
    fs::copy(moved.join("root.json"), state.join("root.json")).unwrap();
    for verb in ["ls", "doctor", "up"] {
        let (_, shown) = root_types(verb);
        assert!(shown.contains("is not root's alone"), "{verb}: {shown}");
    }
    let ran = fs::read_to_string(&ran).unwrap_or_default();
    assert!(!ran.lines().any(|uid| uid == "0"), "{ran}");
}

#[test]
fn a_drill_by_root_runs_nothing_from_the_working_directory_and_everything_unprivileged() {
    if !is_root() {
        return skip(
            "a_drill_by_root_runs_nothing_from_the_working_directory_and_everything_unprivileged",
            "the test needs root",
        );
    }
    let lab = Lab::bare();
    // A repository that a user cloned.
    let repository = lab.dir.join("repository");
    let trap = format!("touch {}", lab.dir.join("trapped").display());
    for at in [".claude-bin/99.0.0/claude", "claude", "bin/claude"] {
        write_script(&repository.join(at), &trap);
    }
    let drill = |claude: &[&str]| {
        let mut command = Command::new(SPOTKEEP);
        command
            .args(["drill", "--json", "--kind", "kill", "--agents", "1"])
            .args(claude)
            .env_clear()
            .env(
                "PATH",
                ":.:bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            )
            .env("HOME", "/nonexistent")
            .env("SPOTKEEP_CLAUDE", repository.join("claude"))
            .env("SPOTKEEP_LOOPBACK_ONLY", "1")
            .current_dir(&repository)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    let output = drill(&["--fake"]).wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let output = drill(&[]).wait_with_output().unwrap();
    let report = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!lab.dir.join("trapped").exists(), "{report}");

    // The program that root names may be in a directory of root's. It waits before it starts.
    fs::set_permissions(&lab.dir, fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(lab.dir.join("tmp"), fs::Permissions::from_mode(0o777)).unwrap();
    let (started, gate) = (lab.dir.join("tmp/started"), lab.dir.join("tmp/gate"));
    let terminal = lab.dir.join("tmp/terminal");
    fs::write(&started, "").unwrap();
    fs::set_permissions(&started, fs::Permissions::from_mode(0o666)).unwrap();
    assert_eq!(
        said(Command::new("mkfifo").args(["-m", "666"]).arg(&gate)).code,
        0
    );
    let program = lab.dir.join("bin/spotkeep");
    fs::copy(SPOTKEEP, &program).unwrap();
    let claude = lab.dir.join("bin/claude");
    write_script(
        &claude,
        &format!(
            "case $* in *--version*) cut -d\\  -f7 /proc/$$/stat >{3};;\n\
             *) echo on >>{0}; cat {1} >/dev/null;; esac\n\
             setsid env -i PATH=$PATH tail -f {0} </dev/null >/dev/null 2>&1 &\n\
             exec {2} fake-claude \"$@\"",
            started.display(),
            gate.display(),
            program.display(),
            terminal.display()
        ),
    );
    let child = drill(&["--claude", claude.to_str().unwrap()]);
    lab.until("the agent starts", || {
        let text = fs::read_to_string(&started).unwrap();
        (!text.is_empty()).then_some(())
    });
    // A process outside of the drill's panes has no terminal.
    assert_eq!(fs::read_to_string(&terminal).unwrap(), "0\n");
    let all = drill_processes();
    for expected in ["run", "tmux", "claude"] {
        assert!(
            all.iter().any(|(_, command)| command.contains(expected)),
            "{expected}: {all:?}"
        );
    }
    for (uid, command) in &all {
        assert_ne!(*uid, 0, "{command}");
    }
    // An ordinary file in the place of the pipe, for this start and the one after the cut.
    let ordinary = lab.dir.join("tmp/ordinary");
    fs::write(&ordinary, "").unwrap();
    fs::set_permissions(&ordinary, fs::Permissions::from_mode(0o666)).unwrap();
    let held = lab.dir.join("tmp/held");
    fs::rename(&gate, &held).unwrap();
    fs::rename(&ordinary, &gate).unwrap();
    fs::write(&held, "").unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    // The process in another session with an empty environment has ended with the drill too.
    let of = |entry: fs::DirEntry| fs::read(entry.path().join("cmdline")).ok();
    let entries = fs::read_dir("/proc").unwrap();
    let commands: Vec<Vec<u8>> = entries.filter_map(|entry| of(entry.unwrap())).collect();
    let started = started.to_str().unwrap();
    let holds = |command: &Vec<u8>| String::from_utf8_lossy(command).contains(started);
    assert!(!commands.iter().any(holds));
}
