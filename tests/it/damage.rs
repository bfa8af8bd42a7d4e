//! Tests of damaged state files: each is named in a message, and costs as little as possible.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::Lab;

/// The kinds of damage that a power cut, a full disk or an editor leaves in a file.
const HARMS: [(&str, Harm); 4] = [
    ("empty", empty),
    ("truncated", truncate),
    ("nul", nul),
    ("garbage", garbage),
];

type Harm = fn(&Path);

fn empty(path: &Path) {
    fs::write(path, "").unwrap();
}

fn truncate(path: &Path) {
    let bytes = fs::read(path).unwrap();
    fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
}

fn nul(path: &Path) {
    let length = fs::read(path).unwrap().len().max(16);
    fs::write(path, vec![0; length]).unwrap();
}

fn garbage(path: &Path) {
    fs::write(path, b"\xff\xfe{]\n\x00 not json").unwrap();
}

/// Returns a lab with two agents that had a turn and were saved; none of their processes is left.
fn after_a_boot() -> Lab {
    let lab = Lab::new();
    lab.declare("a", "idle", "");
    lab.declare("b", "tool", "");
    let keeper = lab.keeper();
    lab.wait_done("a");
    lab.wait_open("b");
    lab.run(&["save", "--final"]).ok();
    keeper.let_go();
    lab.next_boot();
    lab
}

/// Runs every command that reads, and dry runs of others; none may panic, whatever the exit code.
fn ask_everything(lab: &Lab) -> String {
    let verbs: [&[&str]; 10] = [
        &["status"],
        &["status", "--json"],
        &["ls"],
        &["ls", "--json"],
        &["events"],
        &["restore", "--dry-run"],
        &["restore", "--json"],
        &["up", "--dry-run"],
        &["logs", "a"],
        &["save"],
    ];
    verbs
        .iter()
        .map(|verb| lab.run(verb).sound())
        .map(|said| said.out + &said.err)
        .collect()
}

#[test]
fn a_damaged_record_is_named_left_alone_and_stops_its_agent_only() {
    for (what, harm) in HARMS {
        let lab = after_a_boot();
        let path = lab.record_path("a");
        let whole = fs::read(&path).unwrap();
        harm(&path);
        let damaged = fs::read(&path).unwrap();
        let said = ask_everything(&lab);
        assert!(said.contains("agents/a.json is damaged"), "{what}: {said}");
        assert_eq!(lab.run(&["status"]).code, 3, "{what}");
        assert_eq!(
            fs::read(&path).unwrap(),
            damaged,
            "{what}: the damaged file was changed"
        );

        let keeper = lab.keeper();
        let agent = lab.wait_state("a", "failed");
        assert!(
            agent["why"].as_str().unwrap().contains("a.json is damaged"),
            "{what}: {agent}"
        );
        lab.wait_done("b");
        assert_eq!(
            lab.transcripts().len(),
            2,
            "{what}: a new session was started"
        );
        assert_eq!(
            fs::read(&path).unwrap(),
            damaged,
            "{what}: the damaged file was changed"
        );
        // With the record restored from a copy, the agent continues.
        fs::write(&path, &whole).unwrap();
        lab.run(&["up"]).ok();
        lab.wait_up("a", 2);
        keeper.let_go();
        lab.assert_nothing_lost("a");
    }
}

#[test]
fn a_damaged_root_json_stops_every_verb_with_its_name_and_a_hint() {
    for (what, harm) in HARMS {
        let lab = after_a_boot();
        let path = lab.file("session-state/root.json");
        let whole = fs::read(&path).unwrap();
        harm(&path);
        let damaged = fs::read(&path).unwrap();
        for verb in [
            &["status"][..],
            &["ls"],
            &["run"],
            &["up"],
            &["save"],
            &["save", "--final"],
            &["init"],
        ] {
            lab.run(verb)
                .refused(1, "root.json is damaged", "root.json.damaged");
        }
        lab.run(&["restore", "--dry-run"]).sound();
        assert_eq!(fs::read(&path).unwrap(), damaged, "{what}");
        assert!(lab.processes().is_empty(), "{what}");
        fs::write(&path, &whole).unwrap();
        let _keeper = lab.keeper();
        lab.wait_up("a", 2);
        lab.assert_nothing_lost("a");
    }
}

#[test]
fn a_damaged_journal_is_read_past_its_damage_and_appended_to() {
    for tail in [
        &b"{\"version\":1,\"seq\":9"[..],
        b"\0\0\0\0\0\0",
        b"\xff\xfe\n",
        b"\n\n\n",
    ] {
        let lab = after_a_boot();
        let path = lab.file("session-state/journal.jsonl");
        let mut bytes = fs::read(&path).unwrap();
        let lines = lab.journal().len();
        bytes.extend_from_slice(tail);
        fs::write(&path, &bytes).unwrap();
        let said = ask_everything(&lab);
        let is_damage = tail != b"\n\n\n";
        let told = said.contains("journal.jsonl are damaged and are skipped");
        assert_eq!(told, is_damage, "{tail:?}: {said}");
        let _keeper = lab.keeper();
        // The save of the previous boot was read past the damage.
        let started = lab
            .journal()
            .into_iter()
            .rfind(|line| line.event == "keeper-started")
            .unwrap();
        assert_eq!(started.data["last_end"], "safe", "{tail:?}");
        assert_eq!(!lab.events("", "trouble").is_empty(), is_damage, "{tail:?}");
        lab.wait_up("a", 2);
        assert!(lab.journal().len() > lines);
        assert!(
            fs::read(&path).unwrap().starts_with(&bytes),
            "the journal was rewritten"
        );
    }
}

#[test]
fn a_missing_or_unreadable_journal_costs_history_and_no_agent() {
    for harm in [nul as Harm, garbage, |path| fs::remove_file(path).unwrap()] {
        let lab = after_a_boot();
        harm(&lab.file("session-state/journal.jsonl"));
        ask_everything(&lab);
        let _keeper = lab.keeper();
        lab.until("both run", || {
            ["a", "b"]
                .iter()
                .all(|name| !lab.agent(name)["pid"].is_null())
                .then_some(())
        });
        lab.assert_nothing_lost("a");
        lab.assert_nothing_lost("b");
        assert_eq!(lab.transcripts().len(), 2);
    }
}

#[test]
fn a_damaged_claude_json_is_quarantined_and_rebuilt_before_the_start() {
    for (what, harm) in HARMS {
        let lab = after_a_boot();
        let path = lab.file(".claude/.claude.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        config["mine"] = Value::from("precious");
        fs::write(&path, config.to_string()).unwrap();
        // A start makes spotkeep's copy of the file.
        let keeper = lab.keeper();
        lab.wait_up("a", 2);
        lab.wait_done("b");
        keeper.let_go();
        lab.next_boot();
        harm(&path);
        let damaged = fs::read(&path).unwrap();
        ask_everything(&lab);
        assert_eq!(
            fs::read(&path).unwrap(),
            damaged,
            "{what}: a reading command changed the file"
        );
        let _keeper = lab.keeper();
        lab.wait_up("a", 3);
        lab.wait_up("b", 3);
        let config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert_eq!(config["mine"], "precious", "{what}");
        let repaired = lab.events("", "repaired");
        let said = |text: &str| {
            repaired
                .iter()
                .any(|line| line.data["what"].as_str().unwrap().contains(text))
        };
        assert!(
            said(".claude.json was rebuilt from"),
            "{what}: {repaired:?}"
        );
        if !damaged.is_empty() {
            let found: Vec<PathBuf> = fs::read_dir(lab.file(".claude"))
                .unwrap()
                .map(|entry| entry.unwrap().path())
                .collect();
            let kept = found
                .iter()
                .any(|path| path.is_file() && fs::read(path).unwrap() == damaged);
            assert!(kept, "{what}: {found:?}");
        }
        lab.assert_nothing_lost("a");
    }
}

#[test]
fn a_damaged_manifest_is_skipped() {
    for (what, harm) in HARMS {
        let lab = after_a_boot();
        let entry = fs::read_dir(lab.file("session-state/saves"))
            .unwrap()
            .next()
            .unwrap()
            .unwrap();
        harm(&entry.path());
        ask_everything(&lab);
        assert!(lab.status()["last_save"].is_null(), "{what}");
        let keeper = lab.keeper();
        lab.wait_up("a", 2);
        lab.wait_done("b");
        let save = lab.run(&["save", "--final", "--json"]).ok().json();
        assert_eq!(lab.status()["last_save"]["id"], save["id"], "{what}");
        keeper.let_go();
        lab.assert_nothing_lost("b");
    }
}

#[test]
fn a_lock_file_that_holds_garbage_blocks_no_keeper() {
    for (what, harm) in HARMS {
        let lab = after_a_boot();
        harm(&lab.file("session-state/lock"));
        ask_everything(&lab);
        let keeper = lab.keeper();
        lab.wait_up("a", 2);
        assert_eq!(lab.status()["keeper"], "running", "{what}");
        keeper.let_go();
    }
}

#[test]
fn a_keeper_whose_lock_file_was_overwritten_still_keeps_others_out() {
    let lab = Lab::new();
    lab.declare("a", "idle", "");
    let _keeper = lab.keeper();
    lab.wait_done("a");
    fs::write(lab.file("session-state/lock"), "rubbish").unwrap();
    lab.run(&["run"])
        .refused(1, "another keeper (pid unknown)", "status");
    for verb in [&["up"][..], &["save", "--final"], &["stop", "a"]] {
        let said = lab.run(verb).sound();
        assert_ne!(
            said.code, 0,
            "a command acted in the place of a running keeper: {said:?}"
        );
    }
    assert_eq!(lab.events("a", "starting").len(), 1);
    assert!(lab.events("", "notice").is_empty());
}

#[test]
fn fields_of_a_newer_version_survive_a_rewrite() {
    let lab = after_a_boot();
    let mut record = lab.record("a");
    record["colour"] = serde_json::json!({"of": ["the", "future"]});
    record["state"] = Value::from("dreaming");
    fs::write(lab.record_path("a"), record.to_string()).unwrap();
    let path = lab.file("session-state/root.json");
    let mut data_dir: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    data_dir["lease"] = Value::from("until tomorrow");
    fs::write(&path, data_dir.to_string()).unwrap();
    let _keeper = lab.keeper();
    lab.wait_up("a", 2);
    lab.until("the record is rewritten", || {
        (lab.record("a")["state"] == "idle").then_some(())
    });
    assert_eq!(lab.record("a")["colour"], record["colour"]);
    lab.run(&["down"]).ok();
    let after: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    assert_eq!(
        (after["lease"].as_str(), after["fleet"].as_str()),
        (Some("until tomorrow"), Some("down"))
    );
    assert_eq!(after["epoch"], data_dir["epoch"].as_u64().unwrap() + 1);
}

#[test]
fn missing_files_are_created_again_or_named() {
    let lab = after_a_boot();
    fs::remove_dir_all(lab.file("session-state/saves")).unwrap();
    fs::remove_dir_all(lab.file("session-state/notes")).unwrap();
    fs::remove_file(lab.file("session-state/lock")).unwrap();
    fs::remove_file(lab.file(".claude/.claude.json")).unwrap();
    ask_everything(&lab);
    lab.run(&["init"]).ok();
    let _keeper = lab.keeper();
    lab.wait_up("a", 2);
    lab.wait_done("b");
    assert_eq!(
        lab.run(&["save", "--final", "--json"]).ok().json()["clean"],
        true
    );
    lab.assert_nothing_lost("b");
}
