//! API errors with the real Claude Code: at the start of a turn, after a tool, and with a login.

use drill::fake_api::Fault;
use sys::time::Timestamp;

use crate::api_errors::{lasting, login};
use crate::real_claude::{KEY, Version, lab, with_each_version, with_oldest_and_newest};
use crate::support::Lab;

const NO_RETRIES: &str = "env = { CLAUDE_CODE_MAX_RETRIES = \"0\" }";

/// Claude does not retry, and gives up soon on a request without an answer.
const IMPATIENT: &str = "env = { CLAUDE_CODE_MAX_RETRIES = \"0\", API_TIMEOUT_MS = \"4000\", \
                         CLAUDE_CODE_DISABLE_NONSTREAMING_FALLBACK = \"1\" }";

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
    let request_log = lab.model.request_log();
    let account = request_log.agents.get(name);
    account.map_or(0, |account| account.turns_ended as u64)
}

fn goes_on(lab: &Lab, name: &str) {
    lab.until(&format!("{name} goes on"), || {
        (turns_ended(lab, name) > 0).then_some(())
    });
    lab.wait_state(name, "idle");
    assert!(lab.events(name, "exited").is_empty());
}

/// An API error for one agent, and the reason that the keeper then logs.
struct Case {
    /// How many answers come before the error: after one, a tool was called and its result was
    /// sent.
    answers: usize,
    fault: Fault,
    reason: &'static str,
}

/// Runs each case in its own fleet of one agent, because an API error slows a whole fleet down.
fn resumes_after_each(version: &Version, cases: &[Case]) {
    std::thread::scope(|scope| {
        for case in cases {
            scope.spawn(|| goes_on_after(version, case));
        }
    });
}

fn goes_on_after(version: &Version, case: &Case) {
    let lab = lab(version);
    lab.model.let_pass(case.answers);
    // Claude's HTTP client retries once when a connection that was used before is closed.
    let hangs_up = case.fault == Fault::status(0);
    lab.model.fault(case.fault, if hangs_up { 2 } else { 1 });
    lab.declare("a", "idle", IMPATIENT);
    let _keeper = lab.keeper();
    let stalled = lab.wait_event("a", "stalled", 1);
    assert_eq!(
        stalled.data["reason"], case.reason,
        "{:?}: {stalled:?}",
        case.fault
    );
    goes_on(&lab, "a");
    let stalls = lab.events("a", "stalled");
    assert!(stalls.len() == 1 || hangs_up, "{stalls:?}");
    // The keeper logs a nudge when it has seen that Claude took it, which the model sees earlier.
    lab.until("each stall has one nudge", || {
        (lab.events("a", "nudged").len() == stalls.len()).then_some(())
    });
}

/// Errors in place of an answer, and the reason that the keeper logs for each.
fn refusals() -> [(Fault, &'static str); 5] {
    let later = Fault {
        retry_after: Some(2),
        ..Fault::status(429)
    };
    [
        (Fault::status(429), "rate-limited"),
        (later, "rate-limited"),
        (Fault::status(529), "overloaded"),
        (Fault::status(0), "network"),
        (Fault::silent(), "network"),
    ]
}

#[test]
fn real_claude_goes_on_after_a_turn_that_was_refused_at_its_start() {
    with_oldest_and_newest(|version| {
        resumes_after_each(
            version,
            &refusals().map(|(fault, reason)| Case {
                answers: 0,
                fault,
                reason,
            }),
        );
    });
}

#[test]
fn real_claude_goes_on_after_a_turn_that_was_refused_after_a_tool() {
    with_oldest_and_newest(|version| {
        resumes_after_each(
            version,
            &refusals().map(|(fault, reason)| Case {
                answers: 1,
                fault,
                reason,
            }),
        );
    });
}

#[test]
fn real_claude_goes_on_after_an_answer_that_broke_off() {
    with_oldest_and_newest(|version| {
        resumes_after_each(
            version,
            &[
                (Fault::midway(429), "rate-limited"),
                (Fault::midway(500), "server"),
                (Fault::midway(529), "overloaded"),
                (Fault::midway(0), "network"),
            ]
            .map(|(fault, reason)| Case {
                answers: 1,
                fault,
                reason,
            }),
        );
    });
}

#[test]
fn real_claude_goes_on_after_an_api_that_was_not_there() {
    with_each_version(|version| {
        let lab = lab(version);
        lab.model.let_pass(1);
        lab.model.fault(Fault::status(529), 1);
        lab.declare("a", "idle", NO_RETRIES);
        let _keeper = lab.keeper();
        lab.wait_event("a", "stalled", 1);
        // The nudge gets no answer.
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
        // At the start of a turn, and behind a tool.
        std::thread::scope(|scope| {
            for answers in [0, 1] {
                scope.spawn(move || waits_for_the_end_of_a_limit(version, answers));
            }
        });
    });
}

fn waits_for_the_end_of_a_limit(version: &Version, answers: usize) {
    let lab = subscribed(version);
    let soon = Timestamp::now().as_millis() / 1_000 + 20;
    lab.model.let_pass(answers);
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
    // The older version shows a dialog then: the keeper chooses to wait, and closes it later.
    assert_eq!(lab.wait_state("a", "stalled")["name"], "a");
    goes_on(&lab, "a");
}

#[test]
fn real_claude_goes_on_in_a_fleet_that_waited_for_a_login() {
    with_each_version(|version| {
        let refusals = [
            (0, Fault::status(401)),
            (1, Fault::status(401)),
            (1, Fault::midway(401)),
        ];
        std::thread::scope(|scope| {
            for (answers, fault) in refusals {
                scope.spawn(move || waits_for_a_login(version, answers, fault));
            }
        });
    });
}

fn waits_for_a_login(version: &Version, answers: usize, fault: Fault) {
    let lab = subscribed(version);
    lab.model.let_pass(answers);
    lab.model.fault(fault, 12);
    lab.declare("a", "idle", NO_RETRIES);
    let _keeper = lab.keeper();
    lab.wait_event("", "paused", 1);
    let why = lab.wait_state("a", "stalled")["why"].to_string();
    assert!(why.contains("/login"), "{why}");
    lab.model.clear_faults();
    login(&lab, &lasting("two"));
    lab.wait_event("", "unpaused", 1);
    goes_on(&lab, "a");
}
