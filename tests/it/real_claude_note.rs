//! The note that the real Claude Code gets after an interrupted turn.
//!
//! Each cause is named once, the input of tools never, and an agent that was idle gets no note.

use std::fs;

use sys::process::{ProcessId, Signal};

use crate::real_claude::{
    lab, lab_in_a_cloud, requests, times_said, wait_requests, with_each_version,
};
use crate::support::{arguments, prompt_of};

const COMMAND: &str = "tail -f /dev/null";

#[test]
fn after_a_notice_a_cut_turn_gets_its_note_once_and_an_idle_agent_gets_nothing() {
    with_each_version(|version| {
        let lab = lab_in_a_cloud(version);
        lab.declare("cut", "tool", "");
        lab.declare("rests", "idle", "");
        let keeper = lab.keeper();
        lab.wait_open("cut");
        lab.wait_done("rests");
        let asked = [requests(&lab, "cut"), requests(&lab, "rests")];

        lab.metadata().preempt();
        assert_eq!(lab.wait_event("", "safe", 1).data["clean"], true);
        lab.wait_event("", "saved", 1);
        keeper.let_go();
        // It may have sent one more request when its tool was ended.
        let asked = [asked[0].max(requests(&lab, "cut")), asked[1]];
        lab.next_boot();
        lab.leave_the_cloud();
        let _keeper = lab.keeper();
        lab.wait_up("cut", 2);
        lab.wait_up("rests", 2);
        lab.wait_done("cut");

        let note = arguments(lab.process("cut")).pop().unwrap();
        assert!(
            note.starts_with("[spotkeep] This machine was preempted at "),
            "{note}"
        );
        assert!(
            note.contains("Your Bash call was cut off") && !note.contains(COMMAND),
            "{note}"
        );
        let details = fs::read_to_string(lab.file("session-state/notes/cut.md")).unwrap();
        assert!(details.contains(COMMAND), "{details}");
        assert!(note.ends_with("session-state/notes/cut.md"), "{note}");

        let request_log = lab.model.request_log();
        let first = request_log.agents["cut"].first.clone().unwrap();
        assert_eq!(
            first.note.as_deref(),
            Some(note.as_str()),
            "the first request ends with the note"
        );
        assert_eq!(request_log.agents["cut"].continued, 1);
        // The request with the note, and the one with the result of the step after it.
        assert_eq!(requests(&lab, "cut"), asked[0] + 2);
        assert_eq!(times_said(&lab.transcript("cut"), &note), 1);
        assert_eq!(times_said(&lab.transcript("cut"), "[spotkeep]"), 1);

        lab.wait_state("rests", "idle");
        assert!(
            !arguments(lab.process("rests"))
                .iter()
                .any(|word| word.contains("[spotkeep]"))
        );
        assert!(
            request_log.agents["rests"].first.is_none(),
            "it has sent no request"
        );
        // The next request is the first one since the save, and has the whole conversation.
        lab.run(&["send", "rests", "Are you there?"]).ok();
        wait_requests(&lab, "rests", asked[1] + 1);
        assert_eq!(requests(&lab, "rests"), asked[1] + 1);
        assert_eq!(times_said(&lab.transcript("rests"), "[spotkeep]"), 0);
        lab.assert_nothing_lost("cut");
        lab.assert_nothing_lost("rests");
    });
}

#[test]
fn a_queued_message_that_the_model_never_got_is_named_in_the_note() {
    with_each_version(|version| {
        let lab = lab(version);
        lab.declare("a", "tool", "");
        let keeper = lab.keeper();
        lab.wait_open("a");
        let message = "Then write the words down as well.";
        lab.run(&["send", "a", message]).ok();
        let transcript = lab.transcript("a");
        lab.until("the message is queued", || {
            fs::read_to_string(&transcript)
                .unwrap()
                .contains(message)
                .then_some(())
        });
        lab.run(&["save", "--final"]).ok();
        keeper.let_go();
        assert_eq!(times_said(&transcript, message), 0, "it was only queued");
        lab.next_boot();
        let _keeper = lab.keeper();
        lab.wait_up("a", 2);
        lab.wait_done("a");
        let note = arguments(lab.process("a")).pop().unwrap();
        assert!(
            note.contains("One message of mine was never given to you"),
            "{note}"
        );
        assert!(!note.contains(message), "{note}");
        let details = fs::read_to_string(lab.file("session-state/notes/a.md")).unwrap();
        assert!(details.contains(message), "{details}");
        assert_eq!(
            lab.model.request_log().agents["a"]
                .first
                .clone()
                .unwrap()
                .note,
            Some(note)
        );

        // The next start gets no second note.
        lab.run(&["save", "--final"]).ok();
        lab.next_boot();
        let _keeper = lab.keeper();
        lab.wait_up("a", 3);
        assert!(
            !arguments(lab.process("a"))
                .iter()
                .any(|word| word.contains("[spotkeep]"))
        );
        lab.assert_nothing_lost("a");
    });
}

#[test]
fn an_agent_that_crashed_in_a_turn_goes_on_with_a_note_and_without_orphans() {
    with_each_version(|version| {
        let lab = lab(version);
        lab.declare("a", "tool", "");
        let _keeper = lab.keeper();
        lab.wait_open("a");
        let session = lab.session_of("a");
        let orphan = lab.until("its tool runs", || {
            let is_tool = |process: &ProcessId| arguments(*process) == ["tail", "-f", "/dev/null"];
            lab.processes().into_iter().find(is_tool)
        });
        let cut = lab.model.request_log().agents["a"]
            .open
            .clone()
            .unwrap()
            .marker;
        lab.model.next_boot();
        lab.process("a").open().unwrap().signal(Signal::Kill);
        let backoff = lab.wait_event("a", "backoff", 1);
        assert_eq!(backoff.data["why"], "killed by SIGKILL");
        lab.wait_up("a", 2);
        assert!(
            !orphan.is_alive(),
            "its tool, which leads its own session, was ended too"
        );
        lab.wait_done("a");
        let note = arguments(lab.process("a")).pop().unwrap();
        assert!(
            note.contains("Claude Code ended unexpectedly (killed by SIGKILL)"),
            "{note}"
        );
        assert_eq!(lab.session_of("a"), session);
        assert_eq!(lab.transcripts().len(), 1);
        assert_eq!(lab.agent("a")["restarts"], 1);
        assert_eq!(lab.model.request_log().agents["a"].continued, 1);
        assert_eq!(times_said(&lab.transcript("a"), "[spotkeep]"), 1);
        lab.assert_nothing_lost("a");

        // Up to 2.1.263, the model does not see the call that was cut; with 2.1.330, it sees the
        // call with a result that says it was interrupted. So with the older versions it knows only
        // from the note.
        let first = lab.model.request_log().agents["a"].first.clone().unwrap();
        let drops_it = ["2.1.197", "2.1.263"].contains(&version.number.as_str());
        assert_eq!(first.markers.contains(&cut), !drops_it);

        // The turn has ended, so there is no note after the next crash.
        let asked = requests(&lab, "a");
        lab.process("a").open().unwrap().signal(Signal::Kill);
        lab.wait_up("a", 3);
        lab.wait_state("a", "idle");
        assert!(
            !arguments(lab.process("a"))
                .iter()
                .any(|word| word.contains("[spotkeep]"))
        );
        lab.run(&["send", "a", &prompt_of("a", "idle", 9)]).ok();
        wait_requests(&lab, "a", asked + 1);
        lab.assert_nothing_lost("a");
    });
}
