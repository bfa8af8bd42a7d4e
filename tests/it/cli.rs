//! Tests of the commands' output, as text and as JSON, and of their exit codes.

use std::fs;

use insta::assert_snapshot;
use serde_json::Value;

use crate::support::{Lab, SPOTKEEP, said};

/// Returns an output with all parts replaced that differ between runs.
fn filtered(lab: &Lab, text: &str) -> String {
    let data_dir: Value =
        serde_json::from_slice(&fs::read(lab.file("session-state/root.json")).unwrap_or_default())
            .unwrap_or_default();
    let mut text = text.replace(lab.data_dir().to_str().unwrap(), "<data-dir>");
    if let Some(id) = data_dir["data_dir_id"].as_str() {
        text = text.replace(id, "<data-dir-id>");
    }
    for name in ["a", "b"] {
        if let Some(id) = lab.record(name)["session_id"].as_str() {
            text = text.replace(id, "<session>").replace(&id[..8], "<sess>");
        }
    }
    text
}

/// Replaces ages, and the width of their columns, which depend on the speed of the machine.
fn without_ages(text: &str) -> String {
    let line = |line: &str| {
        let mut words: Vec<&str> = line.split_whitespace().collect();
        while let Some(unit) = words.iter().position(|word| matches!(*word, "ms" | "s")) {
            words.splice(unit - 1..=unit, ["<age>"]);
        }
        words.join(" ")
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn init_creates_a_data_directory_once_and_changes_nothing_the_second_time() {
    let lab = Lab::bare();
    let dry = lab.run(&["init", "--dry-run"]).ok();
    assert!(!lab.data_dir().exists());
    let first = lab.run(&["init"]).ok();
    let files = [
        fs::read(lab.config()).unwrap(),
        fs::read(lab.file("session-state/root.json")).unwrap(),
    ];
    let again = lab.run(&["init", "--unattended"]).ok();
    assert_eq!(
        files,
        [
            fs::read(lab.config()).unwrap(),
            fs::read(lab.file("session-state/root.json")).unwrap()
        ]
    );
    fs::remove_file(lab.config()).unwrap();
    let without = lab.run(&["init", "--unattended"]).ok();
    assert!(
        lab.config_text()
            .contains("args = [\"--dangerously-skip-permissions\"]")
    );
    let all = [dry.out, first.out, again.out, without.out].join("--\n");
    assert_snapshot!(filtered(&lab, &all), @r"
    would make a data directory at <data-dir> with a spotkeep.toml
    --
    made a data directory at <data-dir>
    next: spotkeep --data-dir <data-dir> add agent-1 --prompt 'Fix issue 123.'
    --
    <data-dir> is a data directory already; nothing was changed
    next: spotkeep --data-dir <data-dir> add agent-1 --prompt 'Fix issue 123.'
    --
    the data directory at <data-dir> has a spotkeep.toml again
    agents will run every command without asking: use only a machine without secrets
    next: spotkeep --data-dir <data-dir> add agent-1 --prompt 'Fix issue 123.'
    ");
}

#[test]
fn a_path_that_is_not_a_data_directory_is_refused_with_a_hint() {
    let lab = Lab::bare();
    for verb in ["status", "ls", "up", "save", "run", "events"] {
        lab.run(&[verb]).refused(1, "no data directory at", "init");
    }
    fs::create_dir(lab.data_dir()).unwrap();
    lab.run(&["status"])
        .refused(1, "is not a spotkeep data directory", "init");
    assert_eq!(fs::read_dir(lab.data_dir()).unwrap().count(), 0);
}

#[test]
fn a_fresh_fleet_is_shown_without_a_keeper() {
    let lab = Lab::new();
    lab.declare("a", "idle", "");
    lab.declare("b", "", "");
    assert_snapshot!(filtered(&lab, &lab.run(&["status"]).ok().out), @r"
    data    <data-dir> (<data-dir-id>, epoch 0)
    keeper  stopped

    STATE      AGENT  SESSION  BRANCH  DIRTY  CHECKPOINT  SIZE  RESTARTS  WHY
    ? unknown  a      -        main    -      -           -     0         no keeper has loaded it yet
    ? unknown  b      -        main    -      -           -     0         no keeper has loaded it yet
    ");
}

#[test]
fn a_running_fleet_is_shown_as_a_table() {
    let lab = Lab::new();
    lab.declare("a", "idle", "");
    lab.declare("b", "", "");
    let _keeper = lab.keeper();
    lab.wait_done("a");
    lab.wait_state("b", "idle");
    lab.until("changes are counted", || {
        let (a, b) = (lab.agent("a"), lab.agent("b"));
        let kept = a["last_checkpoint"].is_string() && b["last_checkpoint"].is_string();
        (kept && a["dirty"] == 4 && b["dirty"] == 2).then_some(())
    });
    lab.run(&["stop", "b"]).ok();
    let shown = without_ages(&filtered(&lab, &lab.run(&["ls"]).ok().out));
    assert_snapshot!(shown, @r"
    STATE AGENT SESSION BRANCH DIRTY CHECKPOINT RESTARTS WHY
    ○ idle a <sess> main 4 <age> 0
    – stopped b <sess> main 2 <age> 0 stopped by you
    ");
    assert!(lab.run(&["status"]).ok().out.contains("keeper  running"));
}

#[test]
fn the_json_of_status_has_every_field_of_its_contract() {
    let lab = Lab::new();
    lab.declare("a", "idle", "");
    let contract = |status: &Value| {
        for field in [
            "version",
            "data_dir",
            "data_dir_id",
            "epoch",
            "boot_id",
            "keeper",
            "notice",
            "last_save",
            "agents",
        ] {
            assert!(status.get(field).is_some(), "{field}: {status}");
        }
        let agent = &status["agents"][0];
        for field in [
            "name",
            "agent_id",
            "state",
            "desired",
            "session_id",
            "workspace",
            "branch",
            "dirty",
            "last_checkpoint",
            "last_backup",
            "restarts",
            "why",
        ] {
            assert!(agent.get(field).is_some(), "{field}: {agent}");
        }
        assert!(
            status["version"].is_u64() && status["epoch"].is_u64() && agent["restarts"].is_u64()
        );
    };
    contract(&lab.status());
    let keeper = lab.keeper();
    lab.wait_done("a");
    let status = lab.status();
    contract(&status);
    assert_eq!(status["agents"][0]["branch"], "main");
    assert_eq!(
        status["agents"][0]["workspace"],
        lab.workspace("a").to_str().unwrap()
    );
    lab.run(&["save", "--final"]).ok();
    let ended = lab.status();
    contract(&ended);
    let is_time = |value: &Value| {
        value
            .as_str()
            .is_some_and(|text| text.ends_with('Z') && text.contains('T'))
    };
    assert!(
        is_time(&ended["notice"]["at"]) && is_time(&ended["notice"]["deadline"]),
        "{ended}"
    );
    assert_eq!(ended["notice"]["source"], "command");
    for field in [
        "id",
        "at",
        "clean",
        "transcripts_safe_ms",
        "notice_to_safe_ms",
    ] {
        assert!(!ended["last_save"][field].is_null(), "{field}: {ended}");
    }
    keeper.let_go();
    contract(&lab.status());
    assert_eq!(
        lab.run(&["ls", "--json"]).ok().json()["agents"],
        lab.status()["agents"]
    );
}

#[test]
fn every_verb_has_a_help_text() {
    let lab = Lab::bare();
    let help = said(lab.program(SPOTKEEP).arg("--help")).ok().out;
    let verbs: Vec<&str> = help
        .lines()
        .skip_while(|line| !line.starts_with("Commands:"))
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.strip_prefix("  ")?.split(' ').next())
        .filter(|verb| !verb.is_empty())
        .collect();
    for verb in [
        "init", "add", "rm", "up", "down", "start", "stop", "restart", "run", "ls", "status",
        "attach", "logs", "send", "events", "save", "restore", "notice", "drill",
    ] {
        assert!(verbs.contains(&verb), "{verb}: {verbs:?}");
    }
    for verb in verbs {
        let said = said(lab.program(SPOTKEEP).args([verb, "--help"])).ok();
        assert!(said.out.contains("Usage: spotkeep"), "{said:?}");
        let wrong = crate::support::said(lab.program(SPOTKEEP).args([verb, "--no-such-flag"]));
        assert_eq!(wrong.code, 2, "{wrong:?}");
    }
    assert_eq!(said(lab.program(SPOTKEEP).arg("no-such-verb")).code, 2);
}

#[test]
fn exit_codes_distinguish_wrong_usage_a_failure_and_a_fleet_that_is_not_as_declared() {
    let lab = Lab::new();
    lab.declare("a", "", "env_file = \"missing.env\"");
    assert_eq!(lab.run(&["status"]).code, 0);
    assert_eq!(lab.run(&["up"]).code, 3);
    assert_eq!(lab.run(&["status"]).code, 3);
    assert_eq!(lab.run(&["start", "a"]).code, 3);
    assert_eq!(lab.run(&["start", "b"]).code, 2);
    assert_eq!(lab.run(&["add", "a"]).code, 2);
    assert_eq!(lab.run(&["logs", "a"]).code, 1);
    assert_eq!(lab.run(&["down"]).code, 0);
}

#[test]
fn no_colour_reaches_a_pipe() {
    let lab = Lab::new();
    lab.declare("a", "idle", "");
    let _keeper = lab.keeper();
    lab.wait_done("a");
    for verb in [
        &["status"][..],
        &["ls"],
        &["events"],
        &["logs", "a"],
        &["save"],
    ] {
        let text = lab.run(verb).ok();
        assert!(
            !text.out.contains('\x1b') && !text.err.contains('\x1b'),
            "{text:?}"
        );
    }
}

#[test]
fn colour_is_shown_in_a_terminal_unless_it_is_turned_off() {
    let lab = Lab::new();
    lab.declare("a", "", "");
    let in_a_terminal = |no_colour: &str| {
        let script = format!(
            "NO_COLOR={no_colour} {SPOTKEEP} --data-dir {} ls",
            lab.data_dir().display()
        );
        said(lab.program("script").args(["-qec", &script, "/dev/null"]))
            .ok()
            .out
    };
    if lab.program("script").arg("--version").output().is_err() {
        return crate::support::skip(
            "colour_is_shown_in_a_terminal_unless_it_is_turned_off",
            "there is no `script`",
        );
    }
    assert!(in_a_terminal("").contains("\x1b["));
    assert!(!in_a_terminal("1").contains("\x1b["));
}

#[test]
fn events_are_shown_newest_last_and_as_they_are_in_the_journal() {
    let lab = Lab::new();
    lab.declare("a", "idle", "");
    let keeper = lab.keeper();
    lab.wait_done("a");
    keeper.let_go();
    let lines = lab.run(&["events", "-n", "3", "--json"]).ok().out;
    let journal = fs::read_to_string(lab.file("session-state/journal.jsonl")).unwrap();
    let newest: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let all: Vec<Value> = journal
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(newest, all[all.len() - 3..]);
    let text = lab.run(&["events"]).ok().out;
    assert!(
        text.lines().last().unwrap().contains("keeper-stopped"),
        "{text}"
    );
    assert!(
        text.lines()
            .any(|line| line.contains("  a  ") && line.contains("starting")),
        "{text}"
    );
}

#[test]
fn a_dry_run_changes_not_one_byte() {
    let lab = Lab::new();
    lab.declare("a", "idle", "");
    let _keeper = lab.keeper();
    lab.wait_done("a");
    lab.until("the record does not change any more", || {
        lab.record("a")["transcript"].is_object().then_some(())
    });
    let state = || {
        let journal = fs::read(lab.file("session-state/journal.jsonl")).unwrap();
        (
            journal,
            lab.config_text(),
            lab.record("a"),
            lab.process("a"),
            lab.manifests(),
        )
    };
    let before = state();
    for verb in [
        &["add", "b"][..],
        &["rm", "a"],
        &["up"],
        &["down"],
        &["start"],
        &["stop"],
        &["restart"],
        &["send", "a", "x"],
        &["save"],
        &["save", "--final"],
        &["restore"],
        &["init"],
    ] {
        lab.run(&[verb, &["--dry-run"]].concat()).ok();
    }
    assert_eq!(state(), before);
    assert!(!lab.workspace("b").exists());
}
