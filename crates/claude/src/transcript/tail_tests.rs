//! Tests of the states of [`Tail`], with transcripts that both versions of Claude Code wrote.

use std::path::PathBuf;

use super::*;
use sys::time::Timestamp;

const VERSIONS: [&str; 2] = ["2.1.197", "2.1.330"];

fn fixture(version: &str, name: &str) -> TailState {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("src/testdata")
        .join(version)
        .join(format!("{name}.jsonl"));
    let (state, reader) = read(&path).unwrap();
    assert_eq!(reader.skipped().lines, 0, "{}", path.display());
    state
}

/// Returns the tail of one kind of transcript, once per version.
fn tails(name: &str) -> Vec<Tail> {
    VERSIONS
        .iter()
        .map(|version| fixture(version, name).tail())
        .collect()
}

fn open_commands(tail: &Tail) -> Vec<&str> {
    match tail {
        Tail::CutInTool { tools } => tools
            .iter()
            .map(|tool| {
                assert_eq!(tool.name, "Bash");
                tool.input["command"].as_str().unwrap()
            })
            .collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_finished_turn_is_idle() {
    for name in ["finish", "kill_tool1_resumed", "print_mode", "bg_done"] {
        assert_eq!(tails(name), [Tail::Idle, Tail::Idle], "{name}");
    }
}

#[test]
fn a_turn_that_a_stop_hook_prolonged_is_idle_at_its_real_end() {
    assert_eq!(tails("stophook"), [Tail::Idle, Tail::Idle]);
}

#[test]
fn local_commands_in_an_idle_session_leave_it_idle() {
    for name in ["local", "compact"] {
        assert_eq!(tails(name), [Tail::Idle, Tail::Idle], "{name}");
    }
}

#[test]
fn a_cleared_session_is_empty() {
    assert_eq!(tails("clear_new"), [Tail::Empty, Tail::Empty]);
}

#[test]
fn a_killed_tool_is_named_with_its_input_whichever_it_was() {
    for name in ["kill_tool1", "kill_tool2", "term_tool1"] {
        for tail in tails(name) {
            assert_eq!(open_commands(&tail), ["tail -f /dev/null"], "{name}");
            assert!(tail.was_cut(None));
        }
    }
}

#[test]
fn of_parallel_tools_only_the_unanswered_one_is_open() {
    for tail in tails("kill_par") {
        assert_eq!(open_commands(&tail), ["tail -f /dev/null"]);
    }
}

#[test]
fn a_tool_that_waits_for_permission_is_an_open_tool() {
    for tail in tails("perm") {
        assert_eq!(open_commands(&tail), ["touch /srv/zz"]);
    }
}

#[test]
fn an_unanswered_prompt_or_tool_result_is_a_cut_stream() {
    for name in ["kill_stream", "kill_stream_after_tool", "custom_command"] {
        for tail in tails(name) {
            assert_eq!(tail, Tail::CutInStream, "{name}");
            assert!(tail.was_cut(Some(&Status::Busy)));
        }
    }
}

#[test]
fn escape_before_the_first_output_shows_only_in_the_status() {
    for tail in tails("esc_nothing") {
        assert_eq!(tail, Tail::CutInStream);
        assert!(!tail.was_cut(Some(&Status::Idle)));
    }
}

#[test]
fn escape_is_an_interruption_in_the_stream_and_in_a_tool() {
    for name in ["esc_stream", "esc_tool"] {
        for tail in tails(name) {
            assert_eq!(tail, Tail::InterruptedByUser, "{name}");
            assert!(!tail.was_cut(None));
        }
    }
}

#[test]
fn an_open_question_or_plan_waits_for_the_user() {
    for (name, tool_name) in [("ask", "AskUserQuestion"), ("plan", "ExitPlanMode")] {
        for tail in tails(name) {
            assert!(
                matches!(&tail, Tail::WaitingForHuman { tool } if tool.name == tool_name),
                "{tail:?}"
            );
        }
    }
}

#[test]
fn errors_of_the_api_are_distinguished() {
    for (name, expected) in [
        ("api_529", ApiStop::Overloaded),
        ("api_429", ApiStop::RateLimited),
        ("throttled", ApiStop::RateLimited),
        ("api_401", ApiStop::Login),
        ("no_key", ApiStop::Login),
        ("api_refused", ApiStop::Network),
        ("dropped", ApiStop::Network),
        ("dropped_stream", ApiStop::Network),
        ("api_500", ApiStop::Server { status: 500 }),
        ("api_400", ApiStop::Refused { status: Some(400) }),
        ("no_credit", ApiStop::Refused { status: Some(400) }),
        ("limit_no_time", ApiStop::Limit { until: None }),
    ] {
        for tail in tails(name) {
            assert!(
                matches!(&tail, Tail::StoppedByApi { reason, .. } if *reason == expected),
                "{name}: {tail:?}"
            );
        }
    }
}

/// As 2.1.197 wrote it on a crowded machine, without the records that do not matter here.
#[test]
fn the_end_of_a_turn_that_is_written_before_its_prompt_is_its_end() {
    let lines = [
        r#"{"type":"assistant","uuid":"e","parentUuid":"c","timestamp":"2026-11-29T15:30:44.579Z","message":{"role":"assistant","stop_reason":"stop_sequence","content":[{"type":"text","text":"Not logged in · Please run /login"}]},"error":"authentication_failed","isApiErrorMessage":true}"#,
        r#"{"type":"system","subtype":"turn_duration","uuid":"d","parentUuid":"e","timestamp":"2026-11-29T15:30:44.606Z"}"#,
        r#"{"type":"user","uuid":"a","parentUuid":null,"timestamp":"2026-11-29T15:30:41.778Z","message":{"role":"user","content":"go"},"origin":{"kind":"human"}}"#,
        r#"{"type":"attachment","uuid":"b","parentUuid":"a","timestamp":"2026-11-29T15:30:41.780Z","attachment":{"type":"skill_listing"}}"#,
        r#"{"type":"attachment","uuid":"c","parentUuid":"b","timestamp":"2026-11-29T15:30:41.781Z","attachment":{"type":"agent_listing_delta"}}"#,
    ];
    let said = |lines: &[&str]| {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("u.jsonl");
        std::fs::write(&path, lines.join("\n") + "\n").unwrap();
        read(&path).unwrap().0
    };
    let state = said(&lines);
    assert!(
        matches!(
            &state.tail(),
            Tail::StoppedByApi {
                reason: ApiStop::Login,
                ..
            }
        ),
        "{state:?}"
    );
    assert_eq!(
        (state.last_prompt(), state.stops_in_a_row()),
        (Some("go"), 1)
    );
    let at = state.last_activity().unwrap();
    assert!(
        at.to_string().starts_with("2026-11-29T15:30:44.606"),
        "{at}"
    );

    // The same holds for an answer in two parts, whose second continues the first.
    let more = r#"{"type":"assistant","uuid":"g","parentUuid":"e","timestamp":"2026-11-29T15:30:44.580Z","message":{"role":"assistant","stop_reason":"end_turn","content":[{"type":"text","text":"so it is"}]}}"#;
    let state = said(&[lines[0], more, lines[2], lines[3]]);
    assert_eq!(state.tail(), Tail::Idle);

    // In whatever order the records were written, a later prompt begins another turn, also where
    // the clock was set back meanwhile and the records are in order.
    let next = |time: &str| {
        format!(
            r#"{{"type":"user","uuid":"f","parentUuid":"d","timestamp":"{time}","message":{{"role":"user","content":"on"}}}}"#
        )
    };
    let later = next("2026-11-29T15:31:00.000Z");
    let state = said(&[&lines[..], &[later.as_str()]].concat());
    assert_eq!(state.tail(), Tail::CutInStream);
    let [end, duration, prompt, first, second] = lines;
    let earlier = next("2016-11-29T15:31:00.000Z");
    let state = said(&[prompt, first, second, end, duration, earlier.as_str()]);
    assert_eq!(state.tail(), Tail::CutInStream);
}

#[test]
fn both_versions_record_to_the_minute_when_a_limit_ends() {
    for (name, expected) in [
        ("limit_session", "2026-11-23T02:38"),
        ("limit_week", "2026-11-26T00:08"),
    ] {
        for tail in tails(name) {
            let Tail::StoppedByApi {
                reason: ApiStop::Limit { until: Some(until) },
                ..
            } = tail
            else {
                panic!("{name}: {tail:?}")
            };
            assert!(until.to_string().starts_with(expected), "{name}: {until}");
        }
    }
}

#[test]
fn a_subagent_is_an_open_tool_or_is_awaited_in_the_background() {
    let [old, new] = &tails("agent")[..] else {
        panic!("there are two versions")
    };
    assert!(matches!(old, Tail::CutInTool { tools } if tools[0].name == "Agent"));
    assert_eq!(*new, Tail::AwaitingTasks { count: 1 });
}

#[test]
fn a_command_in_the_background_is_awaited_until_its_end_is_recorded() {
    let awaited = Tail::AwaitingTasks { count: 1 };
    assert_eq!(tails("bgshell"), [awaited.clone(), awaited.clone()]);
    assert!(awaited.was_cut(Some(&Status::Shell)));
    assert_eq!(tails("bg_resumed"), [Tail::Idle, Tail::Idle]);
}

#[test]
fn records_of_a_subagent_do_not_change_the_main_conversation() {
    assert_eq!(tails("agent_side"), [Tail::Empty, Tail::Empty]);
}

#[test]
fn a_queued_prompt_is_listed_until_the_model_has_it() {
    for version in VERSIONS {
        let queued = fixture(version, "queued");
        assert_eq!(queued.queued(), ["please text queued words"]);
        let done = fixture(version, "queued_done");
        assert!(done.queued().is_empty());
        assert_eq!(done.last_prompt(), Some("and also this please"));
        assert_eq!(done.tail(), Tail::Idle);
        assert!(fixture(version, "queued_pop").queued().is_empty());
    }
}

#[test]
fn a_resume_note_is_not_the_last_request_and_empties_the_queue() {
    for version in VERSIONS {
        let state = fixture(version, "kill_tool1_resumed");
        assert_eq!(
            state.last_prompt(),
            Some("please bash tail -f /dev/null; then text x")
        );
        assert!(state.last_activity().is_some());
    }
}

#[test]
fn the_turn_is_found_before_more_output_than_the_first_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("u.jsonl");
    let big = "x".repeat(1024 * 1024);
    let mut text = String::from(
        "{\"type\":\"user\",\"message\":{\"content\":\"go\"}}\n{\"type\":\"assistant\",\"message\":{\"content\":[{\"type\":\"tool_use\",\"id\":\"t\",\"name\":\"Bash\",\"input\":{}}],\"stop_reason\":\"tool_use\"}}\n",
    );
    for _ in 0..6 {
        text.push_str(&format!("{{\"type\":\"noise\",\"x\":\"{big}\"}}\n"));
    }
    std::fs::write(&path, &text).unwrap();
    let (state, reader) = read(&path).unwrap();
    assert_eq!(state.last_prompt(), Some("go"));
    assert!(matches!(state.tail(), Tail::CutInTool { .. }));
    assert_eq!(reader.mark().offset, text.len() as u64);
}

#[test]
fn a_turn_that_ended_after_the_stop_killed_its_tool_was_cut() {
    let [old, _] = VERSIONS.map(|version| fixture(version, "term_agent"));
    assert_eq!(old.tail(), Tail::Idle);
    let at = |text| Timestamp::parse(text).unwrap();
    assert!(matches!(
        old.tail_when_stopped(at("2026-11-22T20:00:00Z")),
        Tail::CutInTool { tools } if tools[0].name == "Agent"
    ));
    assert_eq!(
        old.tail_when_stopped(at("2026-11-23T00:00:00Z")),
        Tail::Idle,
        "killed before the stop, by another process"
    );
}

#[test]
fn of_parallel_tools_the_one_that_the_stop_killed_is_cut() {
    for tail in tails("term_par") {
        assert_eq!(open_commands(&tail), ["tail -f /dev/null"]);
    }
}

#[test]
fn a_subagent_that_was_reported_as_lost_is_not_awaited_any_more() {
    assert_eq!(fixture("2.1.330", "agent_resumed").tail(), Tail::Idle);
}
