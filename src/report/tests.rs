use std::fmt::Write as _;

use serde_json::{Value, json};

use super::*;

/// Builds a journal line by line.
pub(crate) struct Story {
    pub(crate) lines: Vec<JournalEntry>,
    boot: String,
}

impl Story {
    pub(crate) fn new() -> Self {
        Self {
            lines: Vec::new(),
            boot: "a".into(),
        }
    }

    pub(crate) fn boot(&mut self, boot: &str) {
        self.boot = boot.into();
    }

    pub(crate) fn line(&mut self, at: &str, agent: &str, event: &str, mut data: Value) {
        let map = data.as_object_mut().unwrap();
        map.insert("event".into(), event.into());
        if !agent.is_empty() {
            map.insert("agent".into(), agent.into());
        }
        for (key, value) in [
            ("version", json!(1)),
            ("seq", json!(self.lines.len() + 1)),
            ("at", json!(format!("2026-11-{at}Z"))),
            ("data_dir_id", json!("r")),
            ("epoch", json!(1)),
            ("boot_id", json!(self.boot)),
        ] {
            map.insert(key.into(), value);
        }
        // Other fields of the event, which reports do not use.
        for (key, value) in [
            ("session_id", json!("s")),
            ("after_ms", json!(1)),
            ("pid", json!(1)),
            ("new_boot", json!(true)),
            ("last_end", json!("safe")),
        ] {
            map.entry(key).or_insert(value);
        }
        self.lines
            .push(JournalEntry::parse(&data.to_string()).unwrap());
    }

    /// Adds an `activity` event with several changes of state.
    fn activity(&mut self, at: &str, changes: &[(&str, &str, &str)]) {
        let changes: Vec<Value> = changes
            .iter()
            .map(|(at, agent, state)| {
                json!({"agent": agent, "state": state,
            "at": format!("2026-11-{at}Z")})
            })
            .collect();
        self.line(at, "", "activity", json!({ "changes": changes }));
    }
}

pub(crate) fn about(from: &str, until: &str, watched: Option<&str>) -> About {
    let at = |text: &str| Timestamp::parse(&format!("2026-11-{text}Z")).unwrap();
    About {
        data_dir: "/mnt/persist".into(),
        data_dir_id: "9b0d4a52-6d5c-4c5b-8c58-0d4b2f6e7a10".into(),
        from: at(from),
        until: at(until),
        watched_boot: watched.map(str::to_owned),
    }
}

fn save(id: &str, at: &str, rows: &[(&str, bool)]) -> Manifest {
    let agents: Vec<Value> = rows
        .iter()
        .map(|(name, ran)| {
            json!({
                "name": name, "agent_id": "i", "session_id": "s", "end": "exited in time",
                "open": "idle",
                "exit_ms": ran.then_some(120), "transcript_bytes": 10, "transcript_safe": true,
                "workspace": {"checkpoint": null, "note": "unchanged"},
            })
        })
        .collect();
    serde_json::from_value(json!({
        "version": 1, "id": id, "data_dir_id": "r", "epoch": 1, "boot_id": "a",
        "at": format!("2026-11-{at}Z"),
        "source": "metadata", "final": true, "deadline_ms": 25_000, "clean": true, "agents": agents,
        "stages": {"agents_ended_ms": 900, "transcripts_safe_ms": 1_230, "notice_to_safe_ms": 1_610,
        "workspaces_ms": 2_000},
    }))
    .unwrap()
}

/// Returns a report of two agents: a preemption with a clean save, then a power loss after which
/// one agent fails.
pub(crate) fn sample() -> Report {
    let mut story = Story::new();
    story.line(
        "22T03:00:00.000",
        "",
        "keeper-started",
        json!({"pid": 1, "new_boot": true, "last_end": "the first boot", "since_boot_ms": 9_000}),
    );
    story.line(
        "22T03:00:01.000",
        "x",
        "starting",
        json!({"session_id": "s", "how": "first"}),
    );
    story.line(
        "22T03:00:03.000",
        "x",
        "started",
        json!({"session_id": "s"}),
    );
    story.line(
        "22T03:00:04.000",
        "y",
        "started",
        json!({"session_id": "t"}),
    );
    story.activity(
        "22T03:01:00.000",
        &[
            ("22T03:00:00.100", "x", "starting"),
            ("22T03:00:00.100", "y", "starting"),
            ("22T03:00:03.100", "x", "running"),
            ("22T03:00:04.100", "y", "running"),
        ],
    );
    story.line(
        "22T04:00:00.000",
        "y",
        "waiting",
        json!({"why": "may I? token=secret"}),
    );
    story.activity(
        "22T04:01:00.000",
        &[
            ("22T04:00:00.010", "y", "waiting"),
            ("22T04:00:30.000", "x", "idle"),
        ],
    );
    story.line(
        "22T05:00:00.000",
        "",
        "notice",
        json!({"source": "metadata", "deadline_ms": 25_000}),
    );
    story.line(
        "22T05:00:01.620",
        "",
        "safe",
        json!({"save": "0001", "clean": true, "after_ms": 1_620}),
    );
    story.line("22T05:00:02.000", "", "saved", json!({"save": "0001"}));
    story.activity(
        "22T05:00:02.010",
        &[
            ("22T04:50:00.000", "x", "running"),
            ("22T05:00:00.500", "x", "stopped"),
            ("22T05:00:00.600", "y", "stopped"),
        ],
    );
    story.boot("b");
    story.line(
        "22T05:03:00.000",
        "",
        "keeper-started",
        json!({"pid": 1, "new_boot": true, "last_end": "safe", "since_boot_ms": 12_000}),
    );
    story.line(
        "22T05:03:00.010",
        "",
        "restore",
        json!({"agents": 2, "unclean": false, "names": ["x", "y"], "short": [], "torn": []}),
    );
    story.line(
        "22T05:03:01.000",
        "x",
        "starting",
        json!({"session_id": "s", "how": "continue"}),
    );
    story.line(
        "22T05:03:05.000",
        "x",
        "resumed",
        json!({"session_id": "s", "continued": true}),
    );
    story.line(
        "22T05:03:08.000",
        "y",
        "resumed",
        json!({"session_id": "t", "continued": false}),
    );
    story.activity(
        "22T05:04:00.000",
        &[
            ("22T05:03:00.020", "x", "starting"),
            ("22T05:03:00.020", "y", "starting"),
            ("22T05:03:05.010", "x", "running"),
            ("22T05:03:08.010", "y", "waiting"),
        ],
    );
    story.line(
        "22T06:00:00.000",
        "x",
        "stalled",
        json!({"reason": "limit", "why": "sk-ant-secret", "until": null, "in_a_row": 1}),
    );
    story.line("22T06:30:00.000", "x", "nudged", json!({"in_a_row": 1}));
    story.activity("22T06:31:00.000", &[("22T06:30:02.000", "x", "running")]);
    story.line(
        "22T07:00:00.000",
        "y",
        "exited",
        json!({"how": "signal 9", "cause": {"kind": "crashed", "signal": 9}}),
    );
    story.line(
        "22T07:00:00.010",
        "y",
        "backoff",
        json!({"failures": 1, "pause_ms": 5_000, "why": "signal 9", "cause": {"kind": "crashed"}}),
    );
    story.line(
        "22T07:00:08.000",
        "y",
        "resumed",
        json!({"session_id": "t", "continued": true}),
    );
    story.activity("22T07:01:00.000", &[("22T07:00:08.010", "y", "running")]);
    story.boot("c");
    story.line(
        "22T08:00:00.000",
        "",
        "keeper-started",
        json!({"pid": 1, "new_boot": true, "last_end": "without a notice", "since_boot_ms": null}),
    );
    story.line(
        "22T08:00:00.010",
        "",
        "restore",
        json!({"agents": 2, "unclean": true, "names": ["x", "y"], "short": [], "torn": ["y"]}),
    );
    story.line(
        "22T08:00:02.000",
        "y",
        "starting",
        json!({"session_id": "t", "how": "continue"}),
    );
    story.line(
        "22T08:00:04.000",
        "y",
        "failed",
        json!({"why": "its transcript is gone", "cause": {"kind": "cannot-start"}}),
    );
    story.line(
        "22T08:00:05.000",
        "x",
        "resumed",
        json!({"session_id": "s", "continued": true}),
    );
    story.line("22T08:30:00.000", "", "something-new", json!({}));
    let saves = [save("0001", "22T05:00:00.000", &[("x", true), ("y", true)])];
    from_lines(
        about("22T02:00:00", "22T10:00:00", Some("c")),
        &story.lines,
        &saves,
    )
}

/// Returns a lane as text, one line per span.
fn lane(report: &Report, name: &str) -> String {
    let agent = report
        .agents
        .iter()
        .find(|agent| agent.name == name)
        .unwrap();
    let mut text = String::new();
    for span in &agent.timeline {
        let note = span
            .note
            .as_deref()
            .map(|note| format!(" ({note})"))
            .unwrap_or_default();
        writeln!(text, "{} {}{note}", span.from.clock(), span.doing.as_str()).unwrap();
    }
    text
}

#[test]
fn a_lane_shows_what_an_agent_did_across_boots() {
    let report = sample();
    insta::assert_snapshot!(lane(&report, "x"), @r"
    03:00:00 starting
    03:00:03 working
    04:00:30 idle
    04:50:00 working
    05:00:00 away
    05:03:05 working
    06:00:00 stalled (limit)
    06:30:02 working
    07:01:00 away
    08:00:05 working
    ");
    insta::assert_snapshot!(lane(&report, "y"), @r"
    03:00:00 starting
    03:00:04 working
    04:00:00 waiting
    05:00:00 away
    05:03:08 waiting
    07:00:00 starting (crashed)
    07:00:08 working
    07:01:00 away
    08:00:04 failed (cannot-start)
    ");
}

#[test]
fn the_json_report_is_as_documented() {
    let text = serde_json::to_string_pretty(&sample()).unwrap();
    assert!(
        !text.contains("secret"),
        "free text is not part of a report"
    );
    insta::assert_snapshot!("report_json", text);
}

#[test]
fn spans_never_overlap_whatever_the_clocks_say() {
    let mut story = Story::new();
    let states = [
        "running", "idle", "waiting", "stalled", "removed", "stopped", "backoff", "dreaming",
    ];
    for n in 0_usize..400 {
        // The clock is set back and forth, within a boot and between boots.
        let at = format!("22T{:02}:{:02}:00.000", (n * 7) % 24, (n * 13) % 60);
        story.boot(&format!("boot-{}", n / 40));
        match n % 9 {
            0 => story.line(&at, "", "notice", json!({"source": "metadata"})),
            1 => story.line(&at, "a", "resumed", json!({"continued": true})),
            2 => story.line(&at, "", "survived", json!({"reason": "x"})),
            3 => story.line(&at, "", "keeper-stopped", json!({"reason": "x"})),
            _ => story.activity(
                &at,
                &[(&at, "a", states[n % 8]), (&at, "b", states[(n / 3) % 8])],
            ),
        }
    }
    let report = from_lines(about("22T01:00:00", "22T20:00:00", None), &story.lines, &[]);
    assert!(!report.preemptions.is_empty());
    for agent in &report.agents {
        for pair in agent.timeline.windows(2) {
            assert!(pair[0].until <= pair[1].from, "{pair:?}");
        }
        for span in &agent.timeline {
            assert!(
                span.from < span.until && span.from >= report.from && span.until <= report.until
            );
        }
        assert!(agent.uptime.total() <= report.until.since(report.from));
    }
}

#[test]
fn a_boot_that_ends_while_the_fleet_is_down_is_not_a_preemption() {
    let mut story = Story::new();
    story.line("22T03:00:00.000", "", "keeper-started", json!({}));
    story.line("22T03:10:00.000", "", "fleet", json!({"desired": "down"}));
    story.line(
        "22T03:10:01.000",
        "",
        "keeper-stopped",
        json!({"reason": "the fleet is down"}),
    );
    story.boot("b");
    story.line("22T05:00:00.000", "", "keeper-started", json!({}));
    story.line(
        "22T05:00:00.100",
        "",
        "restore",
        json!({"names": ["a"], "short": [], "torn": []}),
    );
    let report = from_lines(about("22T02:00:00", "22T10:00:00", None), &story.lines, &[]);
    assert_eq!(report.preemptions, []);
}

#[test]
fn a_machine_that_keeps_running_after_its_notice_is_reported_as_survived() {
    let mut story = Story::new();
    story.line(
        "22T03:00:00.000",
        "a",
        "resumed",
        json!({"continued": false}),
    );
    story.line(
        "22T03:10:00.000",
        "",
        "notice",
        json!({"source": "metadata"}),
    );
    story.line(
        "22T03:10:01.000",
        "",
        "safe",
        json!({"save": "0001", "clean": true}),
    );
    story.line("22T03:11:00.000", "", "survived", json!({"reason": "x"}));
    story.line(
        "22T03:11:02.000",
        "a",
        "resumed",
        json!({"continued": true}),
    );
    let saves = [save(
        "0001",
        "22T03:10:00.000",
        &[("a", true), ("b", false)],
    )];
    let report = from_lines(
        about("22T02:00:00", "22T04:00:00", Some("a")),
        &story.lines,
        &saves,
    );
    let [end] = &report.preemptions[..] else {
        panic!("{:?}", report.preemptions)
    };
    assert!(end.survived && end.clean && end.missing.is_empty());
    assert_eq!(
        (end.agents_total, end.gone_ms, end.away_ms),
        (1, None, Some(62_000))
    );
    assert_eq!(report.agents[0].uptime.away_ms, 62_000);
    assert_eq!(
        lane(&report, "a"),
        "03:00:00 idle\n03:10:00 away\n03:11:02 working\n"
    );
}

#[test]
fn a_preemption_without_a_next_boot_is_reported_as_far_as_known() {
    let mut story = Story::new();
    story.line(
        "22T03:00:00.000",
        "a",
        "resumed",
        json!({"continued": false}),
    );
    story.line("22T03:10:00.000", "", "notice", json!({"source": "unit"}));
    let report = from_lines(about("22T02:00:00", "22T04:00:00", None), &story.lines, &[]);
    let end = &report.preemptions[0];
    assert_eq!(
        (end.kind, end.back_at, end.clean),
        (BootEnd::ShutDown, None, false)
    );
    assert_eq!(report.agents[0].uptime.away_ms, 50 * 60_000);
    let nothing = from_lines(about("22T02:00:00", "22T04:00:00", None), &[], &[]);
    assert!(nothing.agents.is_empty() && nothing.journal_from.is_none());
    let page = html::page(&nothing);
    assert!(page.contains("has no agents") && page.contains("There were no preemptions"));
}

/// Returns a report whose names and notes contain HTML injections.
fn hostile() -> Report {
    let mut report = sample();
    let evil = "<script>alert(1)</script>\"'&<!--\u{202e}\u{0}";
    report.data_dir = evil.into();
    report.data_dir_id = evil.into();
    for agent in &mut report.agents {
        agent.name = format!("{evil}{}", agent.name);
        for span in &mut agent.timeline {
            span.note = Some(evil.into());
        }
    }
    for end in &mut report.preemptions {
        end.missing = vec![evil.into()];
    }
    report
}

#[test]
fn a_page_is_valid_and_self_contained_whatever_the_names() {
    for report in [
        sample(),
        hostile(),
        crowd(50),
        from_lines(about("22T02:00:00", "22T04:00:00", None), &[], &[]),
    ] {
        let page = html::page(&report);
        assert!(page.starts_with("<!doctype html>\n<html lang=\"en\">"));
        check_tags(&page);
        assert!(page.len() < 1_000_000, "{}", page.len());
        for word in [
            "http:",
            "https:",
            "//",
            "src=",
            "href=",
            "@import",
            "<script",
            "onload",
            "javascript",
        ] {
            assert!(!page.contains(word), "{word}");
        }
        assert_eq!(
            page.matches("url(").count(),
            page.matches("url(#hatch-").count()
        );
        assert!(page.contains("prefers-color-scheme: dark") && page.contains("default-src 'none'"));
        let hidden = page
            .chars()
            .any(|c| (c.is_control() && c != '\n') || c == '\u{202e}');
        assert!(!hidden, "characters that turn or hide text are removed");
    }
    let page = html::page(&sample());
    for word in [
        "stalled (limit)",
        "<title>x: ",
        "resumed, turn continued",
        "preempted 2026-11-22 05:00:00 UTC; safe after 1.6 s",
    ] {
        assert!(page.contains(word), "{word}");
    }
    let version = format!("spotkeep {}", env!("CARGO_PKG_VERSION"));
    insta::assert_snapshot!("page", page.replace(&version, "spotkeep VERSION"));
}

/// Returns a report of this many agents that change state every minute.
fn crowd(agents: usize) -> Report {
    let mut story = Story::new();
    let names: Vec<String> = (0..agents).map(|n| format!("issue-{n}")).collect();
    for minute in 0..600 {
        let at = format!("22T{:02}:{:02}:00.000", minute / 60, minute % 60);
        let state = |n: usize| ["running", "idle", "waiting"][(n + minute) % 3];
        let changes: Vec<_> = names
            .iter()
            .enumerate()
            .map(|(n, name)| (&*at, &**name, state(n)))
            .collect();
        story.activity(&at, &changes);
    }
    from_lines(
        about("15T02:00:00", "22T10:00:00", Some("a")),
        &story.lines,
        &[],
    )
}

/// Checks that every tag is closed, that attributes are quoted, and that text has no `<`.
fn check_tags(page: &str) {
    let mut open: Vec<&str> = Vec::new();
    let mut rest = page;
    while let Some(at) = rest.find('<') {
        let end = at + rest[at..].find('>').expect("a tag has an end");
        let tag = &rest[at + 1..end];
        rest = &rest[end + 1..];
        let name = tag
            .trim_start_matches('/')
            .split([' ', '/'])
            .next()
            .unwrap();
        assert!(
            name == "!doctype" || name.bytes().all(|c| c.is_ascii_alphanumeric()),
            "<{tag}>"
        );
        assert_eq!(tag.matches('"').count() % 2, 0, "<{tag}>");
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name), "</{name}> in {open:?}");
        } else if !tag.ends_with('/') && !matches!(name, "!doctype" | "meta") {
            open.push(name);
        }
        if name == "style" && !tag.starts_with('/') {
            rest = &rest[rest.find("</style>").unwrap()..];
        }
    }
    assert_eq!(open, [] as [&str; 0]);
}
