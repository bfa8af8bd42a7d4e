//! Sessions of the real Claude Code that the user opens, clears, moves or imports.

use std::fs;

use crate::real_claude::{
    Person, lab, records, requests, times_said, wait_requests, with_each_version,
};
use crate::support::{arguments, prompt_of};

#[test]
fn the_user_finds_the_session_of_an_agent_by_name_and_by_id() {
    with_each_version(|version| {
        let lab = lab(version);
        lab.declare("issue-123", "idle", "");
        let _keeper = lab.keeper();
        lab.wait_done("issue-123");
        let (session, transcript) = (lab.session_of("issue-123"), lab.transcript("issue-123"));
        lab.run(&["stop", "issue-123"]).ok();
        lab.wait_state("issue-123", "stopped");

        for (word, message) in [
            ("issue-123", "Here I am by name."),
            (session.as_str(), "Here I am by id."),
        ] {
            let asked = requests(&lab, "issue-123");
            let workspace = lab.workspace("issue-123");
            let person = Person::with_agent_config(&lab, &workspace, &["--resume", word]);
            assert_eq!(person.session(), session, "{}", person.screen());
            person.says(message);
            // The fake API counts by the conversation, so the request has the whole of it.
            wait_requests(&lab, "issue-123", asked + 1);
            lab.until("the user's message is in the transcript", || {
                (times_said(&transcript, message) == 1).then_some(())
            });
            assert_eq!(person.session(), session);
            person.leaves();
        }
        assert_eq!(lab.transcripts(), [transcript]);

        // The keeper resumes where the user stopped.
        lab.run(&["start", "issue-123"]).ok();
        lab.wait_state("issue-123", "idle");
        assert_eq!(lab.session_of("issue-123"), session);
        lab.assert_nothing_lost("issue-123");
    });
}

#[test]
fn a_session_that_the_user_has_open_is_not_started() {
    with_each_version(|version| {
        let lab = lab(version);
        lab.declare("a", "idle", "");
        let _keeper = lab.keeper();
        lab.wait_done("a");
        lab.run(&["stop", "a"]).ok();
        lab.wait_state("a", "stopped");
        let person = Person::with_agent_config(&lab, &lab.workspace("a"), &["--resume", "a"]);
        person.session();
        lab.run(&["start", "a"]).sound();
        let why = lab.wait_state("a", "backoff")["why"]
            .as_str()
            .unwrap()
            .to_owned();
        assert!(
            why.contains(&format!(
                "in use by another claude (pid {})",
                person.claude.pid
            )),
            "{why}"
        );
        assert_eq!(lab.events("a", "starting").len(), 1);
        person.leaves();
        lab.wait_up("a", 2);
        lab.wait_state("a", "idle");
    });
}

#[test]
fn clear_is_followed_and_the_new_session_is_resumed_in_the_next_boot() {
    with_each_version(|version| {
        let lab = lab(version);
        lab.declare("a", "idle", "");
        let _keeper = lab.keeper();
        lab.wait_done("a");
        let old = lab.session_of("a");
        lab.run(&["send", "a", "/clear"]).ok();
        let changed = lab.wait_event("a", "session-changed", 1);
        assert_eq!(changed.data["from"], old.as_str());
        let new = lab.session_of("a");
        assert_eq!(changed.data["to"], new.as_str());
        assert_eq!(lab.record("a")["past_sessions"], serde_json::json!([old]));

        lab.run(&["send", "a", &prompt_of("a", "second", 2)]).ok();
        lab.wait_open("a");
        lab.next_boot();
        let _keeper = lab.keeper();
        lab.wait_up("a", 2);
        let words = arguments(lab.process("a"));
        assert!(
            words
                .windows(2)
                .any(|pair| pair == ["--resume", new.as_str()]),
            "{words:?}"
        );
        lab.until("the cut turn goes on", || {
            (lab.model.request_log().agents["a"].continued == 1).then_some(())
        });
        assert_eq!(lab.session_of("a"), new);
        let first = lab.model.request_log().agents["a"].first.clone().unwrap();
        let prompts: Vec<String> = first
            .markers
            .iter()
            .map(ToString::to_string)
            .filter(|mark| mark.contains(":p:"))
            .collect();
        assert_eq!(prompts, ["[[a:p:2]]"], "what was cleared stays cleared");
        lab.assert_nothing_lost("a");
        assert_eq!(lab.transcripts().len(), 2);
    });
}

#[test]
fn an_agent_whose_workspace_was_moved_is_resumed_by_its_file() {
    with_each_version(|version| {
        let lab = lab(version);
        lab.declare("a", "tool", "");
        let _keeper = lab.keeper();
        lab.wait_open("a");
        let (session, transcript) = (lab.session_of("a"), lab.transcript("a"));
        lab.next_boot();
        let moved = lab.workspace("moved");
        fs::rename(lab.workspace("a"), &moved).unwrap();
        lab.write_config(
            &lab.config_text()
                .replace("workspaces/a\"", "workspaces/moved\""),
        );

        let _keeper = lab.keeper();
        lab.wait_up("a", 2);
        let words = arguments(lab.process("a"));
        assert!(
            words
                .windows(2)
                .any(|pair| pair == ["--resume", transcript.to_str().unwrap()]),
            "{words:?}"
        );
        lab.wait_done("a");
        assert_eq!(lab.session_of("a"), session);
        assert!(
            moved.join("continued.txt").exists(),
            "it works in the new directory"
        );
        assert_eq!(lab.transcripts(), std::slice::from_ref(&transcript));
        let moved = fs::canonicalize(moved).unwrap();
        assert!(
            records(&transcript)
                .iter()
                .any(|record| record["cwd"] == moved.to_str().unwrap())
        );

        // The transcript stays where it is, so the next boot needs its path as well.
        lab.next_boot();
        let _keeper = lab.keeper();
        lab.wait_up("a", 3);
        assert_eq!(lab.session_of("a"), session);
        assert_eq!(lab.transcripts(), [transcript]);
        lab.assert_nothing_lost("a");
    });
}

#[test]
fn a_session_begun_without_spotkeep_is_imported_and_goes_on() {
    with_each_version(|version| {
        let lab = lab(version);
        let workspace = lab.make_workspace("mine");
        let config = lab.file(".claude");
        let prompt = prompt_of("mine", "idle", 1);
        let person = Person::with_own_config(&lab, &config, &workspace, &[&prompt]);
        lab.until("the first turn has ended", || {
            lab.model
                .request_log()
                .agents
                .get("mine")
                .is_some_and(|account| account.turns_ended == 1)
                .then_some(())
        });
        let session = person.session();
        person.leaves();

        lab.run(&[
            "add",
            "mine",
            "--workspace",
            "workspaces/mine",
            "--session",
            &session,
        ])
        .ok();
        let _keeper = lab.keeper();
        lab.wait_up("mine", 1);
        lab.wait_state("mine", "idle");
        let asked = requests(&lab, "mine");
        assert_eq!(lab.session_of("mine"), session);
        assert_eq!(lab.events("mine", "starting")[0].data["how"], "resume");
        lab.run(&["send", "mine", &prompt_of("mine", "idle", 2)])
            .ok();
        wait_requests(&lab, "mine", asked + 1);
        lab.until("the next turn has ended", || {
            (lab.model.request_log().agents["mine"].turns_ended == 2).then_some(())
        });
        lab.assert_nothing_lost("mine");
        assert_eq!(lab.transcripts().len(), 1);

        // The session has a name now, by which the user can resume it.
        lab.run(&["stop", "mine"]).ok();
        lab.wait_state("mine", "stopped");
        let person = Person::with_agent_config(&lab, &workspace, &["--resume", "mine"]);
        assert_eq!(person.session(), session, "{}", person.screen());
    });
}

#[test]
fn a_text_that_is_sent_right_after_a_start_begins_a_turn() {
    with_each_version(|version| {
        let lab = lab(version);
        lab.declare("a", "idle", "");
        let _keeper = lab.keeper();
        lab.wait_done("a");
        for turn in 2..4 {
            lab.run(&["restart", "a"]).ok();
            lab.wait_up("a", turn);
            lab.wait_state("a", "idle");
            let asked = requests(&lab, "a");
            let number = u32::try_from(turn).unwrap();
            // The fake API answers at once, so the turn may be over before Claude shows it.
            lab.run(&["send", "a", &prompt_of("a", "idle", number)])
                .ok();
            wait_requests(&lab, "a", asked + 1);
            lab.until("its turn has ended", || {
                (lab.model.request_log().agents["a"].turns_ended == number).then_some(())
            });
            // Wait until the transcript is written: the next restart would lose the rest.
            lab.assert_nothing_lost("a");
        }
    });
}
