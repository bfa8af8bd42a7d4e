//! Restart policies: what the keeper does when an agent exits.

use sys::process::Signal;

use crate::notice::UnusedPort;
use crate::support::{Lab, arguments};

fn fleet(restart: &str) -> Lab {
    let lab = Lab::new();
    lab.declare("a", "idle", &format!("restart = \"{restart}\""));
    lab
}

#[test]
fn a_finished_agent_is_not_restarted_in_this_boot_or_the_next() {
    for restart in ["on-failure", "never"] {
        let lab = fleet(restart);
        let _keeper = lab.keeper();
        lab.wait_done("a");
        lab.run(&["send", "a", "/exit"]).ok();
        assert_eq!(lab.wait_event("a", "stopped", 1).data["by"], "itself");
        let agent = lab.wait_state("a", "stopped");
        assert_eq!(agent["why"], "finished (exit 0)");
        assert_eq!(agent["desired"], "stopped");
        lab.next_boot();
        let keeper = lab.keeper();
        assert_eq!(lab.agent("a")["state"], "stopped");
        keeper.let_go();
        assert_eq!(lab.events("a", "starting").len(), 1);
        lab.assert_nothing_lost("a");
    }
}

#[test]
fn an_agent_with_restart_always_is_restarted_after_a_clean_exit_too() {
    let lab = fleet("always");
    let _keeper = lab.keeper();
    lab.wait_done("a");
    let session = lab.session_of("a");
    lab.run(&["send", "a", "/exit"]).ok();
    let backoff = lab.wait_event("a", "backoff", 1);
    assert_eq!(backoff.data["why"], "finished (exit 0)");
    lab.wait_up("a", 2);
    let words = arguments(lab.process("a"));
    assert!(words.contains(&session), "{words:?}");
    assert!(
        !words.iter().any(|word| word.contains("[spotkeep]")),
        "nothing was cut: {words:?}"
    );
    lab.assert_nothing_lost("a");
}

#[test]
fn an_agent_with_restart_never_stays_failed_with_the_reason() {
    let lab = fleet("never");
    let _keeper = lab.keeper();
    lab.wait_done("a");
    lab.process("a").open().unwrap().signal(Signal::Kill);
    assert_eq!(lab.wait_state("a", "failed")["why"], "killed by SIGKILL");
    assert_eq!(lab.run(&["status"]).code, 3);
    assert_eq!(lab.events("a", "starting").len(), 1);
    lab.run(&["start", "a"]).ok();
    lab.wait_up("a", 2);
    lab.assert_nothing_lost("a");
}

#[test]
fn each_failure_in_a_row_doubles_the_pause() {
    let lab = Lab::new();
    lab.declare("a", "", "env = { FAKE_CLAUDE_EXIT = \"7\" }");
    let _keeper = lab.keeper();
    let second = lab.wait_event("a", "backoff", 2);
    let first = lab.wait_event("a", "backoff", 1);
    let pause = |line: &crate::terminal::JournalLine| line.data["pause_ms"].as_u64().unwrap();
    assert!((2_000..=2_500).contains(&pause(&first)), "{first:?}");
    assert!((4_000..=5_000).contains(&pause(&second)), "{second:?}");
    assert_eq!(
        (
            first.data["failures"].as_u64(),
            second.data["failures"].as_u64()
        ),
        (Some(1), Some(2))
    );
    for line in [&first, &second] {
        assert!(
            line.data["why"].as_str().unwrap().contains('7'),
            "the reason has the exit code: {line:?}"
        );
    }
    // The user can stop it before the pause ends.
    lab.run(&["stop", "a"]).ok();
    assert_eq!(lab.agent("a")["state"], "stopped");
    assert!(lab.transcripts().is_empty());
}

#[test]
fn a_failure_of_one_agent_leaves_the_others_alone() {
    let lab = Lab::new();
    lab.declare("good", "idle", "");
    lab.declare("bad", "", "env = { FAKE_CLAUDE_EXIT = \"1\" }");
    lab.declare("ugly", "", "env_file = \"missing.env\"");
    let _keeper = lab.keeper();
    lab.wait_done("good");
    lab.wait_event("bad", "backoff", 1);
    assert!(
        lab.wait_state("ugly", "failed")["why"]
            .as_str()
            .unwrap()
            .contains("missing.env")
    );
    assert_eq!(lab.events("good", "starting").len(), 1);
    assert!(lab.events("good", "exited").is_empty());
}

#[test]
fn agents_wait_for_an_api_that_does_not_answer_yet_and_status_says_so() {
    let lab = Lab::new();
    let api = UnusedPort::new();
    let env = format!(
        "env = {{ ANTHROPIC_BASE_URL = \"http://{}\" }}",
        api.address()
    );
    lab.declare("a", "", &env);
    let _keeper = lab.keeper();
    lab.until("status shows what the agent waits for", || {
        (lab.agent("a")["why"] == "waits for the API to answer").then_some(())
    });
    assert!(lab.events("a", "starting").is_empty());
    let _answers = api.listens();
    lab.wait_up("a", 1);
}

#[test]
fn a_machine_whose_agents_have_finished_saves_and_powers_off() {
    let lab = Lab::new();
    let off = lab.dir.join("off");
    let poweroff = format!("poweroff = [\"touch\", \"{}\"]", off.display());
    lab.configure(&format!("[machine]\nstop_when_idle = \"1s\"\n{poweroff}"));
    lab.declare("a", "idle", "");
    let _keeper = lab.keeper();
    // The agent is ended a second after its turn, so the test does not wait until it is idle.
    lab.until("the machine is powered off", || off.exists().then_some(()));
    let why = lab.wait_event("", "powering-off", 1).data["why"].to_string();
    assert!(why.contains("finished"), "{why}");
    assert_eq!(lab.wait_event("", "safe", 1).data["clean"], true);
    assert_eq!(lab.events("", "notice").len(), 1);
    lab.assert_nothing_lost("a");
}

#[test]
fn a_machine_that_cannot_power_off_resumes_its_fleet() {
    let lab = Lab::new();
    lab.configure("[machine]\nstop_when_idle = \"1s\"\npoweroff = [\"false\"]");
    lab.declare("a", "idle", "");
    let _keeper = lab.keeper();
    lab.wait_event("", "powering-off", 1);
    lab.wait_event("", "survived", 1);
    lab.wait_up("a", 2);
}
