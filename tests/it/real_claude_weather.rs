//! The real Claude Code against an API that refuses, each in its way: at the start, in a tool, and with
//! a login of a subscription.

use spotkeep::drill::model::Fault;
use spotkeep::time::Timestamp;

use crate::lab::Lab;
use crate::real_claude::{KEY, Version, lab, with_each_version};
use crate::weather::{lasting, login};

const NO_RETRIES: &str = "env = { CLAUDE_CODE_MAX_RETRIES = \"0\" }";

/// A lab whose agents have a subscription's login in place of a key.
fn subscribed(version: &Version) -> Lab {
    let lab = lab(version);
    let text = lab.config_text();
    lab.write_config(&text.replace(&format!("ANTHROPIC_API_KEY = \"{KEY}\", "), ""));
    assert!(!lab.config_text().contains(KEY));
    login(&lab, &lasting("one"));
    lab
}

fn turns_ended(lab: &Lab, name: &str) -> u64 {
    let ledger = lab.model.ledger();
    let account = ledger.agents.get(name);
    account.map_or(0, |account| account.turns_ended as u64)
}

fn goes_on(lab: &Lab, name: &str) {
    lab.until(&format!("{name} goes on"), || {
        (turns_ended(lab, name) > 0).then_some(())
    });
    lab.wait_state(name, "idle");
    assert!(lab.events(name, "exited").is_empty());
}

#[test]
fn real_claude_goes_on_after_an_api_that_refused_or_hung_up() {
    with_each_version(|version| {
        let lab = lab(version);
        let _keeper = lab.keeper();
        // In the middle of a turn, behind its first tool; the third time it is not even reached.
        lab.model.let_pass(1);
        lab.model.fault(Fault::status(529), 1);
        lab.declare("a", "idle", NO_RETRIES);
        lab.reload();
        let stalled = lab.wait_event("a", "stalled", 1);
        assert_eq!(stalled.data["reason"], "overloaded", "{stalled:?}");
        lab.model.refuse(true);
        let stalled = lab.wait_event("a", "stalled", 2);
        assert_eq!(stalled.data["reason"], "network", "{stalled:?}");
        assert_eq!(stalled.data["in_a_row"], 2, "{stalled:?}");
        lab.model.refuse(false);
        goes_on(&lab, "a");
    });
}

#[test]
fn real_claude_waits_for_the_end_of_a_limit_and_goes_on() {
    with_each_version(|version| {
        let lab = subscribed(version);
        let soon = Timestamp::now().as_millis() / 1_000 + 20;
        lab.model.fault(
            Fault {
                limit_until: Some(soon),
                ..Fault::status(429)
            },
            1,
        );
        lab.declare("a", "idle", NO_RETRIES);
        let _keeper = lab.keeper();
        let stalled = lab.wait_event("a", "stalled", 1);
        assert_eq!(stalled.data["reason"], "limit", "{stalled:?}");
        let until = Timestamp::parse(stalled.data["until"].as_str().unwrap()).unwrap();
        assert!((soon - until.as_millis() / 1_000).abs() < 60, "{until}");
        // The older version asks what to do then; the answer is to wait, and later to leave it.
        assert_eq!(lab.wait_state("a", "stalled")["name"], "a");
        goes_on(&lab, "a");
    });
}

#[test]
fn real_claude_goes_on_in_a_fleet_that_waited_for_a_login() {
    with_each_version(|version| {
        let lab = subscribed(version);
        lab.model.fault(Fault::status(401), 12);
        lab.declare("a", "idle", NO_RETRIES);
        let _keeper = lab.keeper();
        lab.wait_event("", "paused", 1);
        let why = lab.wait_state("a", "stalled")["why"].to_string();
        assert!(why.contains("/login"), "{why}");
        lab.model.clear_faults();
        login(&lab, &lasting("two"));
        lab.wait_event("", "unpaused", 1);
        goes_on(&lab, "a");
    });
}
