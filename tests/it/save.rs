//! `spotkeep save`: which processes it ends, what it writes to disk, and what it does not change.

use drill::verify::workspace_digest::Digest;

use crate::support::Lab;

#[test]
fn a_save_that_is_not_final_leaves_agents_and_workspaces_as_they_are() {
    let lab = Lab::new();
    lab.declare("a", "tool", "");
    let _keeper = lab.keeper();
    lab.wait_open("a");
    let (process, before) = (
        lab.process("a"),
        Digest::from_workspace(&lab.workspace("a")).unwrap(),
    );
    let save = lab.run(&["save", "--json"]).ok().json();
    assert_eq!(
        (save["clean"].as_bool(), save["final"].as_bool()),
        (Some(true), Some(false))
    );
    assert_eq!(save["agents"][0]["end"], "goes on");
    assert!(save["agents"][0]["transcript_bytes"].as_u64().unwrap() > 0);
    assert!(
        lab.run(&["save"])
            .ok()
            .out
            .contains("everything safe after")
    );
    assert!(process.is_alive());
    assert_eq!(lab.process("a"), process);
    assert_eq!(Digest::from_workspace(&lab.workspace("a")).unwrap(), before);
    assert!(lab.events("", "notice").is_empty());
    assert!(
        lab.status()["last_save"].is_null(),
        "only a final save is shown"
    );
    assert_eq!(lab.run(&["save", "--final", "--dry-run"]).code, 0);
    assert!(process.is_alive());
}

#[test]
fn a_final_save_ends_agents_and_reports_what_was_open() {
    let lab = Lab::new();
    lab.declare("cut", "tool", "");
    lab.declare("done", "idle", "");
    lab.declare("off", "", "");
    lab.declare("stubborn", "", "env = { FAKE_CLAUDE_IGNORE_TERM = \"1\" }");
    let _keeper = lab.keeper();
    lab.wait_open("cut");
    lab.wait_done("done");
    lab.wait_state("stubborn", "idle");
    lab.wait_state("off", "idle");
    lab.run(&["stop", "off"]).ok();
    let work = ["cut", "done"].map(|name| Digest::from_workspace(&lab.workspace(name)).unwrap());
    let save = lab.run(&["save", "--final", "--json"]).ok().json();

    let row = |name: &str| {
        save["agents"]
            .as_array()
            .unwrap()
            .iter()
            .find(|row| row["name"] == name)
            .unwrap()
    };
    assert_eq!(row("cut")["end"], "exited in time");
    assert!(
        row("cut")["open"].as_str().unwrap().contains("Bash"),
        "{save}"
    );
    assert_eq!(row("done")["end"], "exited in time");
    assert_eq!(row("off")["end"], "was not running");
    assert_eq!(row("stubborn")["end"], "killed: it did not exit in time");
    let exit_ms = row("stubborn")["exit_ms"].as_u64().unwrap();
    assert!(exit_ms >= 3_000, "it has its term timeout: {exit_ms}");
    let stages: Vec<u64> = [
        "agents_ended_ms",
        "transcripts_safe_ms",
        "notice_to_safe_ms",
        "workspaces_ms",
    ]
    .map(|stage| {
        save["stages"][stage]
            .as_u64()
            .unwrap_or_else(|| panic!("{stage}: {save}"))
    })
    .to_vec();
    assert!(stages.is_sorted(), "{stages:?}");
    for row in save["agents"].as_array().unwrap() {
        assert_eq!(row["transcript_safe"], true, "{row}");
        assert!(row["workspace"]["note"].as_str().is_some(), "{row}");
    }
    let size = std::fs::metadata(lab.transcript("cut")).unwrap().len();
    assert_eq!(row("cut")["transcript_bytes"], size);
    assert_eq!(lab.manifests(), std::slice::from_ref(&save));
    assert_eq!(save["data_dir_id"], lab.status()["data_dir_id"]);

    // The open tool ran in its own session.
    let left = lab.processes().into_iter().filter(|process| {
        std::fs::read(format!("/proc/{}/cmdline", process.pid))
            .unwrap_or_default()
            .starts_with(b"tail\0")
    });
    assert_eq!(left.count(), 0);
    assert_eq!(
        work,
        ["cut", "done"].map(|name| Digest::from_workspace(&lab.workspace(name)).unwrap())
    );
    lab.assert_nothing_lost("cut");
    lab.assert_nothing_lost("done");
}

#[test]
fn a_second_final_save_returns_the_result_of_the_first() {
    let lab = Lab::new();
    lab.declare("slow", "", "env = { FAKE_CLAUDE_IGNORE_TERM = \"1\" }");
    let _keeper = lab.keeper();
    lab.wait_state("slow", "idle");
    let ask = || lab.run(&["save", "--final", "--json"]).ok().json();
    let saves = std::thread::scope(|scope| {
        let first = scope.spawn(ask);
        lab.wait_event("", "notice", 1);
        let second = scope.spawn(ask);
        [first.join().unwrap(), second.join().unwrap()]
    });
    assert_eq!(saves[0]["id"], saves[1]["id"]);
    assert_eq!(ask()["id"], saves[0]["id"]);
    assert_eq!(lab.manifests().len(), 1);
    assert_eq!(lab.events("", "notice").len(), 1);
}

#[test]
fn a_final_save_is_done_without_a_keeper_too() {
    let lab = Lab::new();
    lab.declare("a", "tool", "");
    let keeper = lab.keeper();
    lab.wait_open("a");
    let process = lab.process("a");
    keeper.kill();
    let save = lab
        .run(&["save", "--final", "--unit", "--json"])
        .ok()
        .json();
    assert_eq!(
        (save["clean"].as_bool(), save["source"].as_str()),
        (Some(true), Some("unit"))
    );
    assert_eq!(save["agents"][0]["end"], "exited in time");
    assert!(!process.is_alive());
    lab.assert_nothing_lost("a");
    assert_eq!(lab.events("", "safe").len(), 1);
    lab.run(&["up"])
        .refused(3, "preemption notice (unit)", "spotkeep restore");
    // A keeper that systemd restarts meanwhile starts no agent either.
    let keeper = lab.keeper();
    assert!(lab.agent("a")["pid"].is_null());
    keeper.let_go();
    assert_eq!(lab.events("a", "starting").len(), 1);
    lab.next_boot();
    let _keeper = lab.keeper();
    lab.wait_done("a");
    assert_eq!(lab.events("a", "starting")[1].data["how"], "continue");
}

#[test]
fn the_next_save_completes_one_in_which_the_keeper_died() {
    let lab = Lab::new();
    lab.declare("a", "tool", "");
    lab.declare("slow", "", "env = { FAKE_CLAUDE_IGNORE_TERM = \"1\" }");
    // The keeper crashes as soon as the save has begun.
    let keeper = lab.keeper_by(|command| {
        command.args(["--sigterm", "save"]);
        command.env("SPOTKEEP_CRASH_AT", "save/noticed");
    });
    lab.wait_open("a");
    lab.wait_state("slow", "idle");
    let slow = lab.process("slow");
    keeper.signal(sys::process::Signal::Term);
    lab.wait_event("", "notice", 1);
    assert!(!keeper.end().success());
    assert!(slow.is_alive());
    let save = lab.run(&["save", "--final", "--json"]).ok().json();
    assert_eq!(save["clean"], true);
    assert!(!slow.is_alive());
    lab.assert_nothing_lost("a");
    lab.next_boot();
    let _keeper = lab.keeper();
    lab.wait_done("a");
}

#[test]
fn a_long_notice_lets_agents_in_a_turn_work_on() {
    let lab = Lab::in_a_cloud();
    let text = lab
        .config_text()
        .replace("[defaults]", "notice = \"120s\"\n\n[defaults]");
    lab.write_config(&text);
    lab.declare("a", "steady", "");
    let _keeper = lab.keeper();
    lab.wait_state("a", "running");
    lab.wait_asked();
    lab.metadata().preempt();
    let notice = lab.wait_event("", "notice", 1);
    assert!(
        notice.data["deadline_ms"].as_u64().unwrap() > 100_000,
        "{notice:?}"
    );
    // It works on: it sends more requests after the notice.
    let steps = |lab: &Lab| lab.model.request_log().agents["a"].requests;
    let then = steps(&lab);
    lab.until_model("the agent works on", |request_log| {
        request_log.agents["a"].requests >= then + 3
    });
    assert!(lab.events("", "safe").is_empty());
    assert_eq!(lab.agent("a")["state"], "saving");
}

#[test]
fn a_save_without_agents_is_clean() {
    let lab = Lab::new();
    let save = lab.run(&["save", "--final", "--json"]).ok().json();
    assert_eq!(
        (
            save["clean"].as_bool(),
            save["agents"].as_array().unwrap().len()
        ),
        (Some(true), 0)
    );
    assert_eq!(lab.run(&["save", "--json"]).ok().json()["clean"], true);
}
