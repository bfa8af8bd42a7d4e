//! Tests of fleet commands: up and down, start, stop and restart, add and remove, send and logs.

use std::fs;

use serde_json::Value;

use crate::support::{Lab, arguments, prompt_of, said};

#[test]
fn up_shows_its_plan_and_starts_a_keeper_and_the_declared_agents() {
    let lab = Lab::new();
    lab.declare("a", "idle", "");
    lab.declare("b", "idle", "");
    let dry = lab.run(&["up", "--dry-run"]).ok();
    assert_eq!(
        dry.out,
        "AGENT  PLAN\na      starts for the first time\nb      starts for the first time\n"
    );
    assert!(lab.processes().is_empty());
    let up = lab.run(&["up"]).ok();
    assert!(
        up.out.starts_with(&dry.out) && up.out.ends_with("2 of 2 agents are running\n"),
        "{up:?}"
    );
    assert_eq!(lab.status()["keeper"], "running");
    lab.wait_done("a");
    lab.wait_done("b");
    let process = lab.process("a");
    let again = lab.run(&["up"]).ok();
    assert!(
        again
            .out
            .contains(&format!("a      runs already (pid {})", process.pid)),
        "{again:?}"
    );
    assert_eq!(lab.process("a"), process);
}

#[test]
fn down_ends_everything_and_the_fleet_stays_down_across_a_boot_until_up() {
    let lab = Lab::new();
    lab.declare("a", "idle", "");
    lab.run(&["up"]).ok();
    lab.wait_done("a");
    let session = lab.session_of("a");
    assert_eq!(
        lab.run(&["down", "--dry-run"]).ok().out,
        "would stop 1 agent: a\n"
    );
    lab.run(&["down"]).ok();
    // The keeper that `up` started ends with the fleet, and so does its tmux server.
    lab.until("nothing runs", || lab.processes().is_empty().then_some(()));
    lab.next_boot();
    let _keeper = lab.keeper();
    let status = lab.status();
    assert_eq!(
        (
            status["fleet"].as_str(),
            status["agents"][0]["state"].as_str()
        ),
        (Some("down"), Some("stopped"))
    );
    lab.run(&["start", "a"]);
    assert_eq!(lab.events("a", "starting").len(), 1);
    lab.run(&["up"]).ok();
    lab.wait_up("a", 2);
    assert_eq!(lab.session_of("a"), session);
    lab.assert_nothing_lost("a");
}

#[test]
fn a_stopped_agent_stays_stopped_across_keepers_and_boots() {
    let lab = Lab::new();
    lab.declare("a", "tool", "");
    lab.declare("b", "idle", "");
    let keeper = lab.keeper();
    lab.wait_open("a");
    let (session, process) = (lab.session_of("a"), lab.process("a"));
    let stopped = lab.run(&["stop", "a"]).ok();
    assert_eq!(stopped.out, "– stopped  a: stopped by you\n");
    assert!(!process.is_alive());
    keeper.let_go();
    let keeper = lab.keeper();
    lab.wait_state("a", "stopped");
    drop(keeper);
    lab.next_boot();
    let _keeper = lab.keeper();
    lab.wait_up("b", 2);
    assert_eq!(lab.wait_state("a", "stopped")["desired"], "stopped");
    assert_eq!(lab.events("a", "starting").len(), 1);
    lab.run(&["up"]).ok();
    assert_eq!(
        lab.events("a", "starting").len(),
        1,
        "up started a stopped agent"
    );

    lab.run(&["start", "a"]).ok();
    lab.wait_done("a");
    assert_eq!(lab.session_of("a"), session);
    assert_eq!(lab.events("a", "starting")[1].data["how"], "continue");
}

#[test]
fn without_a_keeper_a_request_is_remembered_for_the_next_one() {
    let lab = Lab::new();
    lab.declare("a", "", "");
    lab.run(&["start", "a"])
        .refused(1, "no keeper has loaded a yet", "spotkeep up");
    lab.keeper().let_go();
    lab.next_boot();
    let starts = lab.events("a", "starting").len();
    let said = lab.run(&["stop", "a"]).ok();
    assert!(said.err.contains("the next one applies this"), "{said:?}");
    let _keeper = lab.keeper();
    lab.wait_state("a", "stopped");
    assert_eq!(lab.events("a", "starting").len(), starts);
    lab.run(&["start", "a"]).ok();
    lab.wait_state("a", "idle");
}

#[test]
fn a_stop_without_a_keeper_says_that_the_agent_still_runs() {
    let lab = Lab::new();
    lab.declare("a", "idle", "");
    let keeper = lab.keeper();
    lab.wait_done("a");
    let process = lab.process("a");
    keeper.kill();
    lab.run(&["stop", "a"])
        .refused(3, "cannot stop a: no keeper runs", "up");
    lab.run(&["rm", "a"])
        .refused(1, "cannot stop a: no keeper runs", "up");
    lab.run(&["restart", "a"])
        .refused(1, "no keeper runs", "up");
    lab.run(&["send", "a", "x"])
        .refused(1, "no keeper runs", "up");
    assert!(process.is_alive());
    let _keeper = lab.keeper();
    lab.until("the next keeper ends it", || {
        (!process.is_alive()).then_some(())
    });
    lab.wait_state("a", "stopped");
}

#[test]
fn a_restart_applies_changed_settings_in_the_same_session() {
    let lab = Lab::new();
    lab.declare("a", "idle", "");
    let _keeper = lab.keeper();
    lab.wait_done("a");
    let (session, process) = (lab.session_of("a"), lab.process("a"));
    lab.write_config(&(lab.config_text() + "args = [\"--model\", \"opus\"]\n"));
    // Another agent is added, and the keeper reads the file again.
    lab.run(&["add", "b"]).ok();
    lab.wait_up("b", 1);
    assert_eq!(
        lab.process("a"),
        process,
        "a running agent was changed without a restart"
    );
    lab.run(&["restart", "a"]).ok();
    let words = arguments(lab.process("a"));
    assert_ne!(lab.process("a"), process);
    assert!(
        words.contains(&"opus".to_owned()) && words.contains(&session),
        "{words:?}"
    );
    assert_eq!(
        lab.agent("a")["restarts"],
        0,
        "a requested restart counts as a failure"
    );
    lab.assert_nothing_lost("a");
}

#[test]
fn a_restart_when_idle_cuts_no_turn() {
    let lab = Lab::new();
    lab.declare("a", "idle", "");
    lab.declare(
        "busy",
        "",
        "prompt = \"DRILL agent=busy plan=second [[busy:p:1]]\"",
    );
    let _keeper = lab.keeper();
    lab.wait_done("a");
    lab.wait_done("busy");
    lab.run(&["send", "busy", &prompt_of("busy", "second", 2)])
        .ok();
    lab.wait_open("busy");
    let process = lab.process("busy");
    lab.run(&["restart", "--when-idle"]).ok();
    lab.wait_up("a", 2);
    assert_eq!(lab.process("busy"), process);
    assert!(lab.events("busy", "exited").is_empty());
    // The tool ends, and the model continues with an endless text; only the end of the turn counts.
    assert_eq!(lab.agent("busy")["state"], "running");
}

#[test]
fn an_agent_that_is_removed_ends_and_has_its_session_when_it_is_added_again() {
    let lab = Lab::new();
    lab.declare("a", "idle", "");
    lab.declare("b", "idle", "");
    let _keeper = lab.keeper();
    lab.wait_done("a");
    lab.wait_done("b");
    let (before, process) = (lab.record("a"), lab.process("a"));
    let text = lab.config_text();
    assert!(
        lab.run(&["rm", "a", "--dry-run"])
            .ok()
            .out
            .contains("would stop it and remove a from")
    );
    assert_eq!(lab.config_text(), text);
    lab.run(&["rm", "a"]).ok();
    lab.until("it has ended", || (!process.is_alive()).then_some(()));
    lab.until("it is forgotten", || {
        (lab.agent("a") == Value::Null).then_some(())
    });
    assert_eq!(lab.record("a")["session_id"], before["session_id"]);
    assert!(lab.workspace("a").join("untracked.txt").exists());
    assert_eq!(lab.transcripts().len(), 2);

    lab.run(&[
        "add",
        "a",
        "--workspace",
        "workspaces/a",
        "--prompt",
        &prompt_of("a", "idle", 1),
    ])
    .ok();
    lab.wait_up("a", 2);
    assert_eq!(lab.record("a")["agent_id"], before["agent_id"]);
    assert!(
        arguments(lab.process("a")).contains(&before["session_id"].as_str().unwrap().to_owned())
    );
    assert_eq!(
        lab.model.request_log().agents["a"].turns_ended,
        1,
        "its prompt was given twice"
    );
    assert_eq!(lab.events("b", "starting").len(), 1);
    lab.assert_nothing_lost("a");
}

#[test]
fn an_agent_that_is_added_while_a_keeper_runs_starts() {
    let lab = Lab::new();
    let _keeper = lab.keeper();
    let added = lab
        .run(&["add", "new", "--prompt", &prompt_of("new", "idle", 1)])
        .ok();
    assert!(
        added
            .out
            .ends_with("the keeper starts it now: spotkeep ls\n"),
        "{added:?}"
    );
    lab.wait_done("new");
    assert!(lab.workspace("new").is_dir());
    assert_eq!(lab.record("new")["cwd"], "workspaces/new");
}

#[test]
fn an_existing_session_can_be_taken_over() {
    let lab = Lab::new();
    lab.declare("a", "idle", "");
    let _keeper = lab.keeper();
    lab.wait_done("a");
    let session = lab.session_of("a");
    lab.run(&["rm", "a"]).ok();
    lab.until("it has ended", || {
        (lab.agent("a") == Value::Null && lab.events("a", "exited").len() == 1).then_some(())
    });
    lab.run(&[
        "add",
        "b",
        "--workspace",
        "workspaces/a",
        "--session",
        &session,
    ])
    .ok();
    lab.wait_up("b", 1);
    assert!(
        arguments(lab.process("b"))
            .windows(2)
            .any(|pair| pair == ["--resume", &session])
    );
    assert_eq!(lab.transcripts().len(), 1);
    lab.run(&["add", "c", "--session", &session])
        .refused(2, "belongs to the agent b", "");
    let nowhere = "0b6c1f7e-97a3-4f7c-8d92-7d0f6f0b9a55";
    lab.run(&["add", "c", "--session", nowhere])
        .refused(1, "there is no session", "adopt");
    lab.run(&["add", "c", "--session", "last"])
        .refused(2, "must be a UUID", "adopt --all");
    assert!(!lab.config_text().contains("[agents.c]"));
}

#[test]
fn texts_are_typed_in_full_and_logs_shows_the_conversation() {
    let lab = Lab::new();
    lab.declare("a", "idle", "");
    let _keeper = lab.keeper();
    lab.wait_done("a");
    let text = "a 'quoted' text; $HOME `x` \\ and -- more";
    assert_eq!(lab.run(&["send", "a", text]).ok().out, "sent to a\n");
    lab.until("it is in the transcript", || {
        fs::read_to_string(lab.transcript("a"))
            .unwrap()
            .contains("a 'quoted' text")
            .then_some(())
    });
    lab.wait_state("a", "idle");
    let logs = lab.run(&["logs", "a"]).ok().out;
    assert!(logs.contains(&format!("user    {text}")), "{logs}");
    assert!(logs.contains("tool    Bash"), "{logs}");
    let last = lab.run(&["logs", "a", "-n", "1"]).ok().out;
    assert_eq!(last.lines().count(), 1, "{last}");
    assert!(
        lab.run(&["logs", "--raw", "a"])
            .ok()
            .out
            .contains("a 'quoted' text")
    );
    for verb in [
        &["send", "unknown", "x"][..],
        &["logs", "unknown"],
        &["attach", "unknown"],
        &["stop", "unknown"],
    ] {
        lab.run(verb)
            .refused(2, "there is no agent unknown", "spotkeep ls");
    }
}

#[test]
fn agents_run_in_spotkeeps_tmux_server_and_the_users_own_is_not_touched() {
    let lab = Lab::new();
    let theirs = |args: &[&str]| {
        let mut tmux = lab.program("tmux");
        said(
            tmux.env("TMUX_TMPDIR", lab.dir.join("home"))
                .args(["-f", "/dev/null"])
                .args(args),
        )
        .ok()
        .out
    };
    theirs(&["new-session", "-d", "-s", "mine", "tail -f /dev/null"]);
    theirs(&["set-buffer", "precious"]);
    let before = theirs(&["list-sessions"]);
    lab.declare("a", "idle", "");
    let mut up = lab.spotkeep(&["up"]);
    // Run as from a pane of the user's.
    up.env("TMUX_TMPDIR", lab.dir.join("home"))
        .env("TMUX", "/tmp/x,1,0")
        .env("TMUX_PANE", "%0");
    said(&mut up).ok();
    lab.wait_done("a");
    lab.run(&["send", "a", "hello"]).ok();
    let ours = lab
        .program("tmux")
        .arg("-S")
        .arg(lab.tmux().socket())
        .args(["list-sessions", "-F", "#S"])
        .output();
    assert_eq!(String::from_utf8(ours.unwrap().stdout).unwrap(), "a\n");
    let environ = fs::read(format!("/proc/{}/environ", lab.process("a").pid)).unwrap();
    assert!(
        !environ
            .split(|byte| *byte == 0)
            .any(|pair| pair == b"TMUX=/tmp/x,1,0")
    );
    lab.run(&["down"]).ok();
    assert_eq!(theirs(&["list-sessions"]), before);
    assert_eq!(theirs(&["show-buffer"]).trim_end(), "precious");
}

#[test]
fn up_shows_changed_arguments_and_applies_them_when_idle_to_one_agent_first() {
    let lab = Lab::new();
    lab.declare("a", "idle", "");
    lab.declare("b", "idle", "");
    let _keeper = lab.keeper();
    for name in ["a", "b"] {
        lab.wait_done(name);
    }
    let plan = lab.run(&["up", "--dry-run"]).ok().out;
    assert!(!plan.contains("changed"), "{plan}");

    let text = lab.config_text().replace(
        "[defaults]\n",
        "[defaults]\nargs = [\"--model\", \"opus\"]\n",
    );
    lab.write_config(&text);
    let plan = lab.run(&["up", "--dry-run"]).ok().out;
    assert_eq!(
        plan.matches("changed: args; restarts when idle").count(),
        2,
        "{plan}"
    );
    let said = lab.run(&["up", "--no-wait"]).ok();
    assert!(
        said.out.contains("one first, the others when it runs"),
        "{said:?}"
    );
    for name in ["a", "b"] {
        lab.wait_up(name, 2);
        lab.wait_state(name, "idle");
        assert!(arguments(lab.process(name)).contains(&"opus".to_owned()));
        lab.assert_nothing_lost(name);
    }
    // The second restarts after the first has run for a minute, which is shortened here.
    let (a, b) = (lab.events("a", "starting"), lab.events("b", "starting"));
    assert!(a[1].at < b[1].at || b[1].at < a[1].at);
    let plan = lab.run(&["up", "--dry-run"]).ok().out;
    assert!(!plan.contains("changed"), "{plan}");
}

#[test]
fn a_changed_argument_that_stops_the_first_agent_from_starting_is_not_applied_to_others() {
    let lab = Lab::new();
    lab.declare("a", "idle", "");
    lab.declare("b", "idle", "");
    let _keeper = lab.keeper();
    for name in ["a", "b"] {
        lab.wait_done(name);
    }
    let before = [lab.process("a"), lab.process("b")];
    let text = lab.config_text().replace(
        "IS_SANDBOX = \"1\"",
        "IS_SANDBOX = \"1\", FAKE_CLAUDE_EXIT = \"7\"",
    );
    lab.write_config(&text);
    let plan = lab.run(&["up", "--dry-run"]).ok().out;
    assert!(plan.contains("changed: FAKE_CLAUDE_EXIT"), "{plan}");
    lab.run(&["up", "--no-wait"]).ok();
    let told = lab.until("the trouble is logged", || {
        let told = lab.events("", "trouble");
        told.into_iter().find(|line| {
            line.data["what"]
                .to_string()
                .contains("does not start with its changed settings")
        })
    });
    assert!(
        told.data["what"].to_string().contains("keep their old"),
        "{told:?}"
    );
    let alive = before.iter().filter(|process| process.is_alive()).count();
    assert_eq!(alive, 1, "not exactly one agent was restarted");
}
