//! Sessions of agents: one process for each session, and no new session in the place of a lost one.

use std::fs;
use std::io::Write as _;
use std::process::Stdio;

use serde_json::Value;
use sys::process::{ProcessId, Signal};

use crate::support::{Lab, SPOTKEEP, arguments, prompt_of};

/// A fleet of one idle agent with a transcript, without a keeper and without processes.
fn at_rest() -> Lab {
    let lab = Lab::new();
    lab.declare("a", "idle", "");
    let keeper = lab.keeper();
    lab.wait_done("a");
    lab.until("the record has the transcript", || {
        lab.record("a")["transcript"].is_object().then_some(())
    });
    keeper.let_go();
    lab.next_boot();
    lab
}

/// Fails unless the agent has failed for the reason `why`, and no other session was begun.
fn assert_refused(lab: &Lab, why: &str) {
    let agent = lab.wait_state("a", "failed");
    assert!(agent["why"].as_str().unwrap().contains(why), "{agent}");
    assert!(agent["pid"].is_null());
    assert_eq!(lab.events("a", "starting").len(), 1, "{}", lab.account());
    assert_eq!(lab.run(&["status"]).code, 3);
}

#[test]
fn a_session_that_another_process_has_open_is_not_started() {
    let lab = at_rest();
    let session = lab.session_of("a");
    let mut other = lab.program(lab.dir.join("bin/claude").to_str().unwrap());
    other
        .args(["--resume", &session])
        .env("CLAUDE_CONFIG_DIR", lab.file(".claude"))
        .current_dir(lab.workspace("a"))
        .stdin(Stdio::piped())
        .stdout(Stdio::null());
    let mut other = other.spawn().unwrap();
    let pid = other.id();
    lab.until("the other process is up", || {
        lab.file(&format!(".claude/sessions/{pid}.json"))
            .exists()
            .then_some(())
    });

    let _keeper = lab.keeper();
    let agent = lab.wait_state("a", "backoff");
    let why = format!("in use by another claude (pid {pid})");
    assert!(agent["why"].as_str().unwrap().contains(&why), "{agent}");
    assert_eq!(lab.events("a", "starting").len(), 1);
    assert!(other.try_wait().unwrap().is_none());

    // As soon as the session is free, the agent resumes automatically.
    other.stdin.take().unwrap().write_all(b"/exit\n").unwrap();
    other.wait().unwrap();
    lab.wait_done("a");
    assert_eq!(lab.session_of("a"), session);
    lab.assert_nothing_lost("a");
}

#[test]
fn a_session_that_is_in_two_folders_is_not_started() {
    let lab = at_rest();
    let other = lab.file(".claude/projects/-elsewhere");
    fs::create_dir(&other).unwrap();
    let copy = other.join(lab.transcript("a").file_name().unwrap());
    fs::copy(lab.transcript("a"), &copy).unwrap();
    let _keeper = lab.keeper();
    assert_refused(&lab, "exists more than once");
    assert!(
        lab.agent("a")["why"]
            .as_str()
            .unwrap()
            .contains(copy.to_str().unwrap())
    );
    assert_eq!(lab.transcripts().len(), 2);

    fs::remove_file(&copy).unwrap();
    lab.run(&["start", "a"]).ok();
    lab.wait_done("a");
}

#[test]
fn a_lost_transcript_is_named_and_never_replaced_by_a_blank_session() {
    let lab = at_rest();
    let transcript = lab.transcript("a");
    let moved = lab.dir.join("moved.jsonl");
    fs::rename(&transcript, &moved).unwrap();
    let keeper = lab.keeper();
    assert_refused(&lab, "is gone, and no backup has it");
    assert_eq!(lab.run(&["start", "a"]).code, 3);
    assert_refused(&lab, "is gone, and no backup has it");
    keeper.let_go();
    let plan = lab.run(&["restore", "--dry-run"]).ok().out;
    assert!(plan.contains("cannot start: its transcript"), "{plan}");
    let _keeper = lab.keeper();
    assert_refused(&lab, "is gone, and no backup has it");
    assert!(lab.transcripts().is_empty());

    fs::rename(&moved, &transcript).unwrap();
    lab.run(&["start", "a"]).ok();
    lab.wait_done("a");
    assert_eq!(lab.events("a", "starting")[1].data["how"], "resume");
    lab.assert_nothing_lost("a");
}

#[test]
fn a_transcript_without_any_whole_record_is_not_replaced() {
    for rest in [&b""[..], b"\0\0\0\0\0\0\0\0", b"{\"type\":\"user\",\"mess"] {
        let lab = at_rest();
        fs::write(lab.transcript("a"), rest).unwrap();
        let _keeper = lab.keeper();
        assert_refused(&lab, "has lost every record");
        assert_eq!(fs::read(lab.transcript("a")).unwrap(), rest);
    }
}

#[test]
fn a_session_whose_transcript_has_a_damaged_end_is_resumed() {
    let lab = at_rest();
    let mut file = fs::OpenOptions::new()
        .append(true)
        .open(lab.transcript("a"))
        .unwrap();
    file.write_all(b"{\"type\":\"assistant\",\"mess\0\0\0\0")
        .unwrap();
    let _keeper = lab.keeper();
    lab.wait_up("a", 2);
    lab.assert_nothing_lost("a");
}

#[test]
fn clear_is_followed_at_once_and_the_next_boot_resumes_the_new_session() {
    let lab = Lab::new();
    lab.declare("a", "idle", "");
    let _keeper = lab.keeper();
    lab.wait_done("a");
    let old = lab.session_of("a");
    lab.type_into("a", "/clear");
    let changed = lab.wait_event("a", "session-changed", 1);
    let new = changed.data["to"].as_str().unwrap().to_owned();
    assert_eq!(changed.data["from"], old.as_str());
    // The record is durable before the event is logged.
    assert_eq!(lab.session_of("a"), new);
    assert_eq!(lab.record("a")["past_sessions"], serde_json::json!([old]));

    lab.run(&["send", "a", &prompt_of("a", "idle", 2)]).ok();
    lab.until("the new session has a turn", || {
        (lab.model.request_log().agents["a"].turns_ended == 2).then_some(())
    });
    lab.assert_nothing_lost("a");
    lab.next_boot();
    let _keeper = lab.keeper();
    lab.wait_up("a", 2);
    assert!(arguments(lab.process("a")).contains(&new));
    assert_eq!(lab.session_of("a"), new);
    assert_eq!(lab.transcripts().len(), 2);
    lab.assert_nothing_lost("a");
}

#[test]
fn a_cleared_session_without_a_message_is_not_taken_for_a_lost_one() {
    let lab = Lab::new();
    lab.declare("a", "idle", "");
    let _keeper = lab.keeper();
    lab.wait_done("a");
    lab.type_into("a", "/clear");
    lab.wait_event("a", "session-changed", 1);
    let new = lab.session_of("a");
    lab.run(&["save", "--final"]).ok();
    lab.next_boot();
    let _keeper = lab.keeper();
    lab.wait_up("a", 2);
    let words = arguments(lab.process("a"));
    assert!(words.contains(&new), "{words:?}");
    // The prompt in the config was given to the session before, so it is not sent again.
    assert!(
        !words.iter().any(|word| word.contains("DRILL")),
        "{words:?}"
    );
    lab.assert_nothing_lost("a");
}

#[test]
fn a_claude_that_opens_another_session_is_ended_and_the_reason_shown() {
    let lab = Lab::new();
    let other = "0b6c1f7e-97a3-4f7c-8d92-7d0f6f0b9a55";
    let script = format!("#!/bin/sh\nexec '{SPOTKEEP}' fake-claude \"$@\" --session-id {other}\n");
    fs::write(lab.dir.join("bin/claude"), script).unwrap();
    lab.declare("a", "", "");
    let _keeper = lab.keeper();
    let why = lab.wait_event("a", "backoff", 1).data["why"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(
        why.contains(&format!(
            "opened the session {other} instead of {}",
            lab.session_of("a")
        )),
        "{why}"
    );
    assert_ne!(lab.session_of("a"), other);
}

#[test]
fn a_missing_claude_program_is_reported_at_once() {
    let lab = Lab::new();
    lab.declare("a", "idle", "");
    let missing = lab.dir.join("bin/nowhere");
    let text = lab.config_text().replace(
        lab.dir.join("bin/claude").to_str().unwrap(),
        missing.to_str().unwrap(),
    );
    lab.write_config(&text);
    let _keeper = lab.keeper();
    let agent = lab.wait_state("a", "failed");
    assert!(
        agent["why"]
            .as_str()
            .unwrap()
            .contains(missing.to_str().unwrap()),
        "{agent}"
    );
    assert!(lab.events("a", "starting").is_empty());
    let up = lab.run(&["up"]);
    assert_eq!(up.code, 3);
    assert!(
        up.err
            .contains("hint: spotkeep logs --raw a; then: spotkeep start a"),
        "{up:?}"
    );
}

#[test]
fn a_claude_that_ends_at_its_start_is_tried_again_with_the_reason() {
    let lab = Lab::new();
    lab.declare("a", "idle", "env = { FAKE_CLAUDE_EXIT = \"1\" }");
    let _keeper = lab.keeper();
    let first = lab.wait_event("a", "backoff", 1);
    // At once: before tmux had said that it runs.
    let why = first.data["why"].as_str().unwrap();
    let reasons = ["claude ended during start-up", "it ended at once: exit 1"];
    assert!(
        reasons.iter().any(|reason| why.contains(reason)),
        "{first:?}"
    );
    lab.until("each restart is counted", || {
        (lab.agent("a")["restarts"] == lab.events("a", "backoff").len()).then_some(())
    });
    // After the cause is removed, the user need not wait for the end of the pause.
    lab.write_config(
        &lab.config_text()
            .replace("env = { FAKE_CLAUDE_EXIT = \"1\" }", ""),
    );
    lab.run(&["up", "--no-wait"]).ok();
    lab.run(&["start", "a"]).ok();
    lab.wait_done("a");
    assert_eq!(lab.transcripts().len(), 1);
    lab.assert_nothing_lost("a");
}

#[test]
fn a_dialog_that_blocks_a_start_is_shown_and_answering_it_lets_the_agent_run() {
    let lab = Lab::new();
    let env =
        "env = { FAKE_CLAUDE_DIALOG = \"Accessing workspace: /srv\\nDo you trust this folder?\" }";
    lab.declare("a", "idle", env);
    let _keeper = lab.keeper();
    let agent = lab.wait_state("a", "waiting");
    let why = agent["why"].as_str().unwrap();
    assert!(
        why.contains("Claude asks whether to trust the folder"),
        "{why}"
    );
    assert!(why.contains("Do you trust this folder?"), "{why}");
    lab.run(&["send", "a", "yes"])
        .refused(3, "waits for a human", "attach a");
    assert!(lab.model.request_log().agents.is_empty());
    lab.press_enter("a");
    lab.wait_done("a");
    assert_eq!(lab.agent("a")["why"], Value::Null);
}

#[test]
fn a_start_that_hangs_can_be_stopped_and_does_not_delay_the_others() {
    let lab = Lab::new();
    lab.declare("a", "", "env = { FAKE_CLAUDE_HANG = \"1\" }");
    lab.declare("b", "idle", "");
    let _keeper = lab.keeper();
    lab.wait_done("b");
    assert_eq!(lab.agent("a")["state"], "starting");
    let process = lab.process("a");
    lab.run(&["stop", "a"]).ok();
    assert_eq!(lab.wait_state("a", "stopped")["why"], "stopped by you");
    assert!(!process.is_alive());
}

#[test]
fn secrets_that_others_can_read_stop_the_start_and_appear_nowhere() {
    use std::os::unix::fs::PermissionsExt as _;
    let lab = Lab::new();
    lab.declare("a", "idle", "env_file = \"secrets.env\"");
    let secrets = lab.file("secrets.env");
    fs::write(&secrets, "TOKEN=hunter2\n").unwrap();
    fs::set_permissions(&secrets, fs::Permissions::from_mode(0o644)).unwrap();
    let _keeper = lab.keeper();
    let why = lab.wait_state("a", "failed")["why"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(why.contains("others can read the env_file"), "{why}");
    fs::set_permissions(&secrets, fs::Permissions::from_mode(0o600)).unwrap();
    lab.run(&["start", "a"]).ok();
    lab.wait_done("a");
    let environ = fs::read(format!("/proc/{}/environ", lab.process("a").pid)).unwrap();
    assert!(String::from_utf8_lossy(&environ).contains("TOKEN=hunter2"));
    let shown = lab.account() + &lab.status().to_string() + &lab.record("a").to_string();
    assert!(!shown.contains("hunter2"), "{shown}");
}

#[test]
fn an_agent_that_crashes_goes_on_in_its_session_with_a_note() {
    let lab = Lab::new();
    lab.declare("a", "tool", "");
    let _keeper = lab.keeper();
    lab.wait_open("a");
    let session = lab.session_of("a");
    let tool = open_tool(&lab);
    lab.process("a").open().unwrap().signal(Signal::Kill);
    let backoff = lab.wait_event("a", "backoff", 1);
    assert_eq!(backoff.data["why"], "killed by SIGKILL");
    lab.wait_up("a", 2);
    let note = arguments(lab.process("a")).pop().unwrap();
    assert!(
        note.contains("ended unexpectedly (killed by SIGKILL)"),
        "{note}"
    );
    assert!(!tool.is_alive(), "the agent's tool is ended with it");
    lab.wait_done("a");
    assert_eq!(lab.session_of("a"), session);
    assert_eq!(lab.agent("a")["restarts"], 1);
    lab.assert_nothing_lost("a");
}

/// The tool that an agent has left running, which leads its own session.
fn open_tool(lab: &Lab) -> ProcessId {
    let is_tool = |process: &ProcessId| {
        let words = fs::read(format!("/proc/{}/cmdline", process.pid)).unwrap_or_default();
        words == b"tail\0-f\0/dev/null\0"
    };
    lab.until("the tool runs", || {
        lab.processes().into_iter().find(is_tool)
    })
}
