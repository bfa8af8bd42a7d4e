//! Tests of turns that end with an API error: the state shown, the waiting time and the nudges.

use std::fs;

use drill::fake_api::Fault;
use serde_json::Value;
use sys::time::Timestamp;

use crate::keeper::Keeper;
use crate::support::{Lab, prompt_of};

const NO_RETRIES: &str = "env = { CLAUDE_CODE_MAX_RETRIES = \"0\" }";

/// Writes a subscription's login file, valid or not.
pub fn login(lab: &Lab, content: &str) {
    let dir = lab.file(".claude");
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join(".credentials.json"), content).unwrap();
}

/// Returns a login that does not expire; `token` tells it from another one.
pub fn lasting(token: &str) -> String {
    format!(
        r#"{{"claudeAiOauth":{{"accessToken":"sk-ant-oat01-{token}","refreshToken":"sk-ant-ort01-{token}","expiresAt":9999999999999,"scopes":["user:inference","user:profile"],"subscriptionType":"max"}}}}"#
    )
}

/// Starts a keeper with unscaled pauses, so that nothing is retried during the test.
fn patient(lab: &Lab) -> Keeper {
    lab.keeper_by(|command| {
        command.env("SPOTKEEP_TIME_SCALE", "1");
    })
}

fn continued(lab: &Lab, name: &str) -> u32 {
    let request_log = lab.model.request_log();
    let account = request_log.agents.get(name);
    account.map_or(0, |account| account.turns_ended)
}

#[test]
fn status_shows_why_the_api_stopped_an_agent() {
    let lab = Lab::new();
    lab.model.fault(Fault::status(529), 1);
    lab.declare("a", "idle", NO_RETRIES);
    let _keeper = patient(&lab);
    let agent = lab.wait_state("a", "stalled");
    assert!(agent["why"].as_str().unwrap().contains("529"), "{agent}");
    assert!(agent["next_try"].is_string(), "{agent}");
}

#[test]
fn an_agent_that_the_api_stopped_is_nudged_until_it_continues() {
    let lab = Lab::new();
    lab.model.fault(Fault::status(529), 2);
    lab.declare("a", "idle", NO_RETRIES);
    let _keeper = lab.keeper();
    let stalled = lab.wait_event("a", "stalled", 1);
    assert_eq!(stalled.data["reason"], "overloaded");
    let again = lab.wait_event("a", "stalled", 2);
    assert_eq!(again.data["in_a_row"], 2);
    lab.until("a continues", || (continued(&lab, "a") > 0).then_some(()));
    lab.wait_state("a", "idle");
    assert_eq!(lab.events("a", "nudged").len(), 2);
    assert!(lab.events("a", "exited").is_empty());
}

#[test]
fn an_agent_whose_request_the_api_refuses_waits_for_the_user() {
    let lab = Lab::new();
    lab.model.fault(Fault::status(400), 1);
    lab.declare("a", "idle", NO_RETRIES);
    let _keeper = lab.keeper();
    let agent = lab.wait_state("a", "stalled");
    assert_eq!(agent["next_try"], Value::Null);
    assert!(
        agent["why"].as_str().unwrap().ends_with("it waits for you"),
        "{agent}"
    );
    lab.run(&["send", "a", &prompt_of("a", "idle", 1)]).ok();
    lab.wait_done("a");
    assert!(lab.events("a", "nudged").is_empty());
}

#[test]
fn a_usage_limit_is_waited_for() {
    let lab = Lab::new();
    let soon = Timestamp::now().as_millis() / 1_000 + 3;
    let limit = Fault {
        limit_until: Some(soon),
        ..Fault::status(429)
    };
    lab.model.fault(limit, 1);
    lab.declare("a", "idle", NO_RETRIES);
    let _keeper = lab.keeper();
    let stalled = lab.wait_event("a", "stalled", 1);
    assert_eq!(stalled.data["reason"], "limit");
    let until = Timestamp::parse(stalled.data["until"].as_str().unwrap()).unwrap();
    assert_eq!(until.as_millis() / 1_000, soon);
    let nudged = lab.wait_event("a", "nudged", 1);
    assert!(nudged.at > until, "{nudged:?}");
    lab.wait_state("a", "idle");
}

#[test]
fn a_lost_login_pauses_the_fleet_once_and_a_new_login_ends_the_pause() {
    let lab = Lab::new();
    lab.model.fault(Fault::status(401), 2);
    lab.declare("a", "idle", NO_RETRIES);
    lab.declare("b", "idle", NO_RETRIES);
    let _keeper = patient(&lab);
    lab.wait_state("a", "stalled");
    lab.wait_state("b", "stalled");
    assert_eq!(lab.status()["paused"], "login");
    assert!(lab.run(&["status"]).out.contains("paused  login"));
    // An agent that is added now waits with them.
    lab.declare("c", "idle", NO_RETRIES);
    login(&lab, &lasting("one"));
    lab.wait_event("", "unpaused", 1);
    for name in ["a", "b"] {
        lab.until("the agent continues", || {
            (continued(&lab, name) > 0).then_some(())
        });
        lab.wait_state(name, "idle");
        assert!(
            lab.events(name, "exited").is_empty(),
            "{name} was restarted"
        );
    }
    assert_eq!(lab.events("", "paused").len(), 1);
    assert_eq!(lab.status()["paused"], Value::Null);
    let journal = fs::read_to_string(lab.file("session-state/journal.jsonl")).unwrap();
    let log = fs::read_to_string(lab.log()).unwrap_or_default();
    assert!(
        !(journal + &log).contains("sk-ant"),
        "a secret is in the journal or the log"
    );
}

#[test]
fn nothing_is_started_while_the_fleet_waits_for_a_login() {
    let lab = Lab::new();
    lab.model.fault(Fault::status(401), 1);
    lab.declare("a", "idle", NO_RETRIES);
    let _keeper = patient(&lab);
    lab.wait_event("", "paused", 1);
    lab.declare("b", "idle", NO_RETRIES);
    lab.reload();
    lab.until("status shows that b waits for a login", || {
        let why = lab.agent("b")["why"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        why.contains("/login").then_some(())
    });
    assert!(lab.events("b", "starting").is_empty());
    // An explicit start is tried even so: the user may have repaired the login.
    lab.run(&["start", "b"]).ok();
    lab.wait_done("b");
}

#[test]
fn a_login_file_that_was_emptied_is_restored() {
    let lab = Lab::new();
    login(&lab, &lasting("one"));
    lab.declare("a", "idle", "");
    let _keeper = lab.keeper();
    lab.wait_done("a");
    lab.until("the login is saved", || {
        let kept = fs::read_to_string(lab.file("session-state/credentials.json")).ok()?;
        (kept == lasting("one")).then_some(())
    });
    login(&lab, "");
    let repaired = lab.until("the repair is logged", || {
        let events = lab.events("", "repaired");
        events
            .into_iter()
            .find(|line| line.data["what"].to_string().contains("credentials"))
    });
    assert!(!repaired.data["what"].to_string().contains("sk-ant"));
    let file = lab.file(".claude/.credentials.json");
    assert_eq!(fs::read_to_string(file).unwrap(), lasting("one"));
}

#[test]
fn an_agent_that_the_api_stopped_is_asked_to_continue_after_the_next_boot() {
    let lab = Lab::new();
    lab.model.fault(Fault::status(401), 1);
    lab.declare("a", "idle", NO_RETRIES);
    let _keeper = patient(&lab);
    lab.wait_state("a", "stalled");
    lab.next_boot();
    let _keeper = lab.keeper();
    assert_eq!(lab.wait_event("a", "starting", 2).data["how"], "continue");
    lab.until("a continues", || (continued(&lab, "a") > 0).then_some(()));
    lab.wait_state("a", "idle");
    assert_eq!(
        lab.events("", "paused").len(),
        1,
        "a pause of an earlier boot is logged again"
    );
}
