//! Imports sessions of the real Claude Code that were begun outside of the data directory.

use std::fs;

use claude::transcript::locate::slug;
use serde_json::Value;

use crate::adopt::{outside, own_config, session_of, start_person};
use crate::real_claude::{
    lab, records, said_by_hand, with_oldest_and_newest, write_onboarded_config,
};
use crate::support::{arguments, prompt_of};

#[test]
fn real_claude_goes_on_as_an_agent_after_its_workspace_moved_into_the_data_dir() {
    with_oldest_and_newest(|version| {
        let lab = lab(version);
        let place = outside(&lab, "api");
        let person = start_person(&lab, &place, "api", "idle");
        let session = person.session();
        // A session that is open is refused.
        let said = lab.run(&["adopt", "--yes", "--move", &session]);
        assert_eq!(said.code, 3, "{said:?}");
        assert!(
            said.err.contains(&format!("pid {}", person.claude.pid)),
            "{said:?}"
        );
        assert!(person.claude.is_alive());
        person.leaves();
        lab.run(&["adopt", "--yes", "--move", &session]).ok();
        let to = lab.workspace("api");
        assert!(to.is_dir() && !place.exists());
        let transcript = lab.transcript("api");
        let folder = lab.file(".claude/projects").join(slug(&to));
        assert_eq!(transcript.parent().unwrap(), folder);

        let _keeper = lab.keeper();
        lab.wait_up("api", 1);
        lab.wait_state("api", "idle");
        assert_eq!(lab.session_of("api"), session);
        assert_eq!(lab.events("api", "starting")[0].data["how"], "resume");
        let words = arguments(lab.process("api"));
        let by_id = ["--resume".to_owned(), session.clone()];
        assert!(words.windows(2).any(|pair| *pair == by_id), "{words:?}");
        lab.run(&["send", "api", &prompt_of("api", "idle", 2)]).ok();
        lab.until("its next turn ends", || {
            (lab.model.request_log().agents["api"].turns_ended == 2).then_some(())
        });
        // The model was given the whole conversation, and Claude works in the new directory.
        lab.assert_nothing_lost("api");
        let last = records(&transcript);
        let cwd = to.to_str().unwrap();
        assert!(last.iter().any(|record| record["cwd"] == cwd));
        assert_eq!(lab.transcripts(), [transcript]);
        assert!(
            own_config(&lab)
                .join("projects")
                .join(slug(&place))
                .is_dir()
        );
    });
}

#[test]
fn real_claude_that_is_ended_in_a_turn_goes_on_with_it_as_an_agent() {
    with_oldest_and_newest(|version| {
        let lab = lab(version);
        let place = outside(&lab, "api");
        let person = start_person(&lab, &place, "api", "tool");
        lab.until("the open tool runs", || {
            place.join("open.txt").exists().then_some(())
        });
        let session = session_of(&own_config(&lab), person.claude);
        let said = lab.run(&["adopt", "--yes", "--end", &session]).ok();
        assert!(said.out.contains("ended pid"), "{said:?}");
        assert!(!person.claude.is_alive());
        let _keeper = lab.keeper();
        assert_eq!(lab.wait_event("api", "starting", 1).data["how"], "continue");
        lab.until("the cut turn goes on and ends", || {
            (lab.model.request_log().agents["api"].turns_ended == 1).then_some(())
        });
        lab.wait_state("api", "idle");
        assert!(place.join("continued.txt").exists());
        lab.assert_nothing_lost("api");
    });
}

#[test]
fn real_claude_in_the_background_is_imported_only_after_it_was_stopped() {
    with_oldest_and_newest(|version| {
        let lab = lab(version);
        let place = outside(&lab, "api");
        let config = own_config(&lab);
        write_onboarded_config(&lab, &config, &place);
        // A background worker reads the address of the API from this file only.
        let file = config.join("settings.json");
        let mut settings: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        settings["env"]["ANTHROPIC_BASE_URL"] = Value::from(lab.model.url());
        fs::write(&file, settings.to_string()).unwrap();
        let claude = |words: &[&str]| said_by_hand(&lab, &config, &place, words);
        let free = "--dangerously-skip-permissions";
        claude(&["--bg", free, "-n", "api", &prompt_of("api", "idle", 1)]);
        lab.until("its turn ends", || {
            (lab.model.request_log().agents.get("api")?.turns_ended == 1).then_some(())
        });

        let plan = lab.run(&["adopt", "--json"]).ok().json();
        // The process that serves the job is not listed as a session.
        assert_eq!(plan["notes"], serde_json::json!([]), "{plan}");
        let found = &plan["sessions"][0];
        let session = found["session_id"].as_str().unwrap();
        let job = found["job"]["id"].as_str().unwrap();
        let refused = lab.run(&["adopt", "--yes", "--end", session]);
        assert_eq!(refused.code, 3, "{refused:?}");
        let hint = format!("claude stop {job}");
        assert!(refused.err.contains(&hint), "{refused:?}");

        claude(&["stop", job]);
        lab.run(&["adopt", "--yes", session]).ok();
        let _keeper = lab.keeper();
        lab.wait_up("api", 1);
        lab.wait_state("api", "idle");
        assert_eq!(lab.session_of("api"), session);
        lab.run(&["send", "api", &prompt_of("api", "idle", 2)]).ok();
        lab.until("its next turn ends", || {
            (lab.model.request_log().agents["api"].turns_ended == 2).then_some(())
        });
        lab.assert_nothing_lost("api");
        claude(&["daemon", "stop", "--any"]);
    });
}
