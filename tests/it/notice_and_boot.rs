//! Keeper locks and restarts, the notice by SIGTERM, and resuming in the next boot.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use sys::process::{ProcessId, Signal};

use crate::support::{Lab, arguments};

#[test]
fn a_second_keeper_is_refused_with_the_pid_of_the_first() {
    let lab = Lab::new();
    let keeper = lab.keeper();
    let pid = format!("(pid {})", keeper.process.pid);
    let before = fs::read(lab.file("session-state/root.json")).unwrap();
    lab.run(&["run"]).refused(1, &pid, "status");
    assert_eq!(
        fs::read(lab.file("session-state/root.json")).unwrap(),
        before
    );
    assert_eq!(lab.status()["keeper"], "running");
    assert_eq!(lab.events("", "keeper-started").len(), 1);
}

#[test]
fn agents_go_on_when_the_keeper_is_killed_and_the_next_one_finds_them() {
    let lab = Lab::new();
    lab.declare("a", "tool", "");
    lab.declare("b", "idle", "");
    let keeper = lab.keeper();
    lab.wait_open("a");
    lab.wait_done("b");
    let (a, b) = (lab.process("a"), lab.process("b"));
    keeper.kill();
    assert!(a.is_alive() && b.is_alive());
    let alone = lab.status();
    assert_eq!(alone["keeper"], "stopped");
    assert_eq!(alone["agents"][0]["pid"], a.pid);

    let _keeper = lab.keeper();
    assert_eq!(lab.wait_state("a", "running")["pid"], a.pid);
    assert_eq!(lab.wait_state("b", "idle")["pid"], b.pid);
    for name in ["a", "b"] {
        assert_eq!(lab.events(name, "starting").len(), 1);
        lab.assert_nothing_lost(name);
    }
    // The new keeper watches it: its end is seen.
    b.open().unwrap().signal(Signal::Kill);
    lab.wait_event("b", "exited", 1);
}

#[test]
fn an_agent_that_ended_while_no_keeper_ran_is_resumed_by_the_next_one() {
    let lab = Lab::new();
    lab.declare("a", "tool", "");
    let keeper = lab.keeper();
    lab.wait_open("a");
    let (session, process) = (lab.session_of("a"), lab.process("a"));
    keeper.kill();
    let pidfd = process.open().unwrap();
    pidfd.signal(Signal::Kill);
    assert!(pidfd.wait(None));
    let _keeper = lab.keeper();
    let start = lab.wait_event("a", "starting", 2);
    assert_eq!(start.data["how"], "continue");
    lab.wait_done("a");
    assert_eq!(lab.session_of("a"), session);
    assert_eq!(lab.transcripts().len(), 1);
    lab.assert_nothing_lost("a");
}

#[test]
fn a_keeper_leaves_its_agents_running_upon_sigterm() {
    let lab = Lab::new();
    lab.declare("a", "tool", "");
    let keeper = lab.keeper();
    lab.wait_open("a");
    let process = lab.process("a");
    keeper.let_go();
    assert!(process.is_alive());
    assert!(lab.events("", "notice").is_empty());
    assert!(lab.manifests().is_empty());
    assert_eq!(lab.events("", "keeper-stopped").len(), 1);
    let _keeper = lab.keeper();
    assert_eq!(lab.wait_state("a", "running")["pid"], process.pid);
}

#[test]
fn sigterm_is_the_notice_where_configured_and_a_second_one_changes_nothing() {
    let lab = Lab::new();
    lab.declare("a", "tool", "");
    lab.declare("slow", "", "env = { FAKE_CLAUDE_IGNORE_TERM = \"1\" }");
    let keeper = lab.keeper_with(&["--sigterm", "save"]);
    lab.wait_open("a");
    lab.wait_state("slow", "idle");
    keeper.signal(Signal::Term);
    let notice = lab.wait_event("", "notice", 1);
    assert_eq!(notice.data["source"], "signal");
    keeper.signal(Signal::Term);
    keeper.signal(Signal::Term);
    assert_eq!(keeper.end().code(), Some(0));
    let saves = lab.manifests();
    assert_eq!(saves.len(), 1);
    assert_eq!(saves[0]["clean"], true);
    assert_eq!(lab.events("", "notice").len(), 1);
    assert_eq!(lab.events("", "safe").len(), 1);
    lab.assert_nothing_lost("a");
}

#[test]
fn a_keeper_restarted_after_the_notice_starts_nothing_until_the_user_restores() {
    let lab = Lab::new();
    lab.declare("a", "tool", "");
    let keeper = lab.keeper_with(&["--sigterm", "save"]);
    lab.wait_open("a");
    let session = lab.session_of("a");
    keeper.signal(Signal::Term);
    keeper.end();

    let _keeper = lab.keeper();
    let status = lab.status();
    assert_eq!(status["notice"]["source"], "signal");
    assert_eq!(status["agents"][0]["state"], "stopped");
    assert!(status["agents"][0]["pid"].is_null());
    let text = lab.run(&["status"]).out;
    assert!(
        text.contains("no agent starts until the next boot"),
        "{text}"
    );
    for verb in [&["up"][..], &["start", "a"], &["restart", "a"]] {
        lab.run(verb)
            .refused(3, "had its preemption notice", "spotkeep restore");
    }
    assert_eq!(lab.events("a", "starting").len(), 1);

    lab.run(&["restore"]).ok();
    lab.wait_done("a");
    assert_eq!(lab.events("a", "starting")[1].data["how"], "continue");
    assert_eq!(lab.session_of("a"), session);
    assert_eq!(lab.status()["notice"], serde_json::Value::Null);
    lab.assert_nothing_lost("a");
}

#[test]
fn the_next_boot_resumes_the_same_sessions_and_sends_a_note_to_those_that_were_cut() {
    let lab = Lab::new();
    lab.declare("cut", "tool", "");
    lab.declare("done", "idle", "");
    let _keeper = lab.keeper();
    lab.wait_open("cut");
    lab.wait_done("done");
    let sessions = [lab.session_of("cut"), lab.session_of("done")];
    let command = "tail -f /dev/null";
    lab.next_boot();

    let _keeper = lab.keeper();
    lab.wait_up("cut", 2);
    let words = arguments(lab.process("cut"));
    lab.wait_up("done", 2);
    let quiet = arguments(lab.process("done"));
    lab.wait_done("cut");
    assert_eq!([lab.session_of("cut"), lab.session_of("done")], sessions);
    assert!(
        words
            .windows(2)
            .any(|pair| pair == ["--resume", &sessions[0]]),
        "{words:?}"
    );
    assert!(
        quiet
            .windows(2)
            .any(|pair| pair == ["--resume", &sessions[1]]),
        "{quiet:?}"
    );

    // All users of the machine can see the arguments: the tool's name, never its input.
    let note = words.last().unwrap();
    assert!(
        note.starts_with("[spotkeep]") && note.contains("without notice"),
        "{note}"
    );
    assert!(note.contains("Bash") && !note.contains(command), "{note}");
    assert!(!quiet.last().unwrap().contains("[spotkeep]"), "{quiet:?}");
    let file = lab.file("session-state/notes/cut.md");
    assert_eq!(
        fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert!(fs::read_to_string(&file).unwrap().contains(command));
    assert!(note.contains(file.to_str().unwrap()), "{note}");
    assert!(!lab.file("session-state/notes/done.md").exists());

    assert_eq!(lab.transcripts().len(), 2);
    assert_eq!(lab.model.request_log().agents["cut"].continued, 1);
    lab.assert_nothing_lost("cut");
    lab.assert_nothing_lost("done");
}

#[test]
fn every_keeper_increments_the_epoch_and_logs_how_the_last_boot_ended() {
    let lab = Lab::new();
    let ends =
        |keeper: usize| lab.wait_event("", "keeper-started", keeper).data["last_end"].clone();
    lab.keeper().kill();
    lab.keeper().let_go();
    assert_eq!(
        (ends(1), ends(2)),
        ("the first boot".into(), "the same boot".into())
    );
    lab.next_boot();
    let keeper = lab.keeper();
    assert_eq!(ends(3), "without a notice");
    lab.run(&["save", "--final"]).ok();
    keeper.let_go();
    lab.next_boot();
    let _keeper = lab.keeper();
    assert_eq!(ends(4), "safe");
    assert_eq!(lab.status()["epoch"], 4);
    let seqs: Vec<u64> = lab.journal().iter().map(|line| line.seq).collect();
    assert!(
        seqs.windows(2).all(|pair| pair[1] == pair[0] + 1),
        "{seqs:?}"
    );
}

#[test]
fn a_pid_that_was_reused_after_a_reboot_is_not_taken_for_an_agent() {
    let lab = Lab::new();
    lab.declare("a", "idle", "");
    let keeper = lab.keeper();
    lab.wait_done("a");
    keeper.let_go();
    lab.next_boot();
    // The pid of a living process that is not the agent's, as after a reboot.
    let mut record = lab.record("a");
    let me = ProcessId::current().unwrap();
    record["process"] = serde_json::json!({"pid": me.pid, "start_time": me.start_time + 1});
    fs::write(lab.record_path("a"), record.to_string()).unwrap();
    let _keeper = lab.keeper();
    lab.wait_up("a", 2);
    assert_ne!(lab.process("a").pid, me.pid);
    assert!(me.is_alive());
}

#[test]
fn an_agent_that_was_removed_from_the_config_while_no_keeper_ran_is_ended() {
    let lab = Lab::new();
    lab.declare("a", "idle", "");
    let without = lab.config_text();
    lab.declare("b", "idle", "");
    let keeper = lab.keeper();
    lab.wait_done("a");
    lab.wait_done("b");
    let (a, b) = (lab.process("a"), lab.process("b"));
    keeper.let_go();
    lab.write_config(&without);
    let _keeper = lab.keeper();
    lab.until("the removed agent is ended", || {
        (!b.is_alive()).then_some(())
    });
    assert!(a.is_alive());
    lab.assert_nothing_lost("b");
}

/// Claude writes its configuration back at its start, as it read it.
#[test]
fn every_workspace_is_trusted_before_the_first_agent_starts() {
    let lab = Lab::new();
    for name in ["a", "b", "c"] {
        lab.declare(name, "", "");
    }
    let _keeper = lab.keeper();
    lab.wait_event("c", "starting", 1);
    let journal = lab.journal();
    let before_any = journal.iter().take_while(|line| line.event != "starting");
    let changes = before_any.filter_map(|line| line.data.get("what")?.as_str());
    assert_eq!(changes.filter(|what| what.contains("trusted")).count(), 3);
}
