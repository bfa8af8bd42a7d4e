//! Snapshot tests of whole screens.

use std::time::Duration;

use insta::assert_snapshot;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::style::Color;
use serde_json::json;

use super::*;
use crate::backup::BackupState;
use crate::keeper::status::{AgentStatus, BackupSeen, KeeperState, NoticeSeen, Status, sample};
use crate::top::key::Key;
use crate::top::snapshot::{FleetSnapshot, Glance, Load, Machine, News};
use claude::transcript::render::{LineSpeaker, TranscriptLine};
use state::{AgentName, AgentState, Fleet, JournalEntry, Manifest};
use sys::files::Space;
use sys::time::Timestamp;

fn now() -> Timestamp {
    Timestamp::parse("2026-11-28T14:03:22Z").unwrap()
}

fn ago(seconds: u64) -> Timestamp {
    now().before(Duration::from_secs(seconds))
}

fn name(text: &str) -> AgentName {
    AgentName::new(text).unwrap()
}

fn agent(text: &str, state: AgentState, since: u64, why: Option<&str>) -> AgentStatus {
    AgentStatus {
        state,
        since: Some(ago(since)),
        pid: (state != AgentState::Failed && state != AgentState::Stopped).then_some(4_711),
        session_id: "c5300413-dc01-4c0d-adf9-fb2831facbfa".into(),
        branch: Some("main".into()),
        dirty: Some(3),
        last_checkpoint: Some(ago(40)),
        last_backup: Some(ago(720)),
        why: why.map(str::to_owned),
        ..sample(text, "")
    }
}

fn glance(doing: &str, tokens: u64) -> Glance {
    Glance {
        doing: Some(doing.into()),
        tokens,
        cached: tokens * 28,
        context: 82_345,
        is_whole: true,
    }
}

fn fleet_of(agents: Vec<AgentStatus>) -> FleetSnapshot {
    let line = |seconds: u64, agent: Option<&str>, event: &str, rest: serde_json::Value| {
        let mut line = json!({"version": 1, "seq": 1, "at": ago(seconds), "data_dir_id": "r",
        "epoch": 7,
            "boot_id": "l", "event": event, "agent": agent});
        let more = rest.as_object().unwrap().clone();
        line.as_object_mut().unwrap().extend(more);
        JournalEntry::parse(&line.to_string()).unwrap()
    };
    FleetSnapshot {
        status: Status {
            version: 1,
            data_dir: "/mnt/persist".into(),
            data_dir_id: "0b6c1f7e".into(),
            epoch: 7,
            boot_id: "l".into(),
            keeper: KeeperState::Running,
            keeper_version: Some("0.1.0".into()),
            fleet: Fleet::Up,
            paused: None,
            notice: None,
            last_save: None,
            backup: Some(BackupSeen {
                at: Some(ago(250)),
                ..BackupSeen::from_state(&BackupState::default())
            }),
            trouble: Vec::new(),
            agents,
        },
        stale: None,
        glances: [
            (
                "api-123",
                glance(
                    "Bash cargo test --locked --workspace -- --nocapture",
                    1_234_567,
                ),
            ),
            (
                "docs",
                glance("The README says now how to install it.", 45_210),
            ),
            (
                "web-issue-77",
                glance("Edit /workspaces/web/src/pages/index.tsx", 9_876),
            ),
        ]
        .into_iter()
        .map(|(agent, glance)| (name(agent), glance))
        .collect(),
        loads: [
            ("api-123", Some(118), 812 << 20),
            ("docs", Some(0), 340 << 20),
        ]
        .into_iter()
        .map(|(agent, cpu, memory)| (name(agent), Load { cpu, memory }))
        .collect(),
        journal: vec![
            line(
                900,
                None,
                "keeper-started",
                json!({"pid": 812, "new_boot": true}),
            ),
            line(
                890,
                Some("api-123"),
                "resumed",
                json!({"session_id": "c5300413-dc01-4c0d-adf9-fb2831facbfa", "continued": true}),
            ),
            line(
                120,
                Some("web-issue-77"),
                "waiting",
                json!({"why": "permission prompt"}),
            ),
            line(
                60,
                Some("nightly"),
                "failed",
                json!({"why": "it ended 5 times in a row; the last time with code 1"}),
            ),
        ],
        save: None,
        disk: Some(Space {
            free: 33 << 30,
            total: 50 << 30,
            free_inodes: 1,
            inodes: 2,
        }),
        machine: Machine {
            name: "vm-1".into(),
            cloud: Some("gcp".into()),
            preemptible: Some(true),
        },
        transcript: None,
    }
}

fn fleet() -> FleetSnapshot {
    let mut failed = agent(
        "nightly",
        AgentState::Failed,
        60,
        Some("it ended 5 times in a row; the last time with code 1"),
    );
    failed.hint = Some("spotkeep logs --raw nightly".into());
    failed.restarts = 5;
    let mut off = agent(
        "off",
        AgentState::Stopped,
        86_400 * 3,
        Some("stopped by you"),
    );
    off.branch = None;
    off.dirty = None;
    off.last_checkpoint = None;
    let mut waiting = agent(
        "web-issue-77",
        AgentState::Waiting,
        120,
        Some("permission prompt"),
    );
    waiting.branch = Some("fix/issue-77-long-name".into());
    fleet_of(vec![
        agent("api-123", AgentState::Running, 131, None),
        agent("docs", AgentState::Idle, 4_000, None),
        failed,
        off,
        waiting,
    ])
}

fn saving() -> FleetSnapshot {
    let mut fleet = fleet();
    fleet.status.notice = Some(NoticeSeen {
        at: ago(4),
        deadline: Some(now().after(Duration::from_secs(21))),
        source: "metadata".into(),
    });
    fleet.status.agents[0].state = AgentState::Saving;
    for agent in &mut fleet.status.agents[1..] {
        agent.state = AgentState::Stopped;
        agent.pid = None;
        agent.why = Some("ended by a save; the next boot resumes it".into());
    }
    fleet.loads.clear();
    fleet
}

fn saved() -> FleetSnapshot {
    let mut fleet = saving();
    fleet.status.agents[0].state = AgentState::Stopped;
    fleet.status.agents[0].pid = None;
    let row = |agent: &str, checkpoint: Option<&str>| {
        json!({"name": agent, "agent_id": agent, "session_id": "s", "end": "exited in time",
            "exit_ms": 166, "open": "idle", "transcript_bytes": 812, "transcript_safe": true,
            "workspace": {"checkpoint": checkpoint, "note": ""}})
    };
    let manifest: Manifest = serde_json::from_value(json!({
        "version": 1, "id": "s", "data_dir_id": "r", "epoch": 7, "boot_id": "l", "at": ago(4),
        "source": "metadata", "final": true, "deadline_ms": 25_000, "clean": true,
        "stages": {"agents_ended_ms": 900, "transcripts_safe_ms": 930, "notice_to_safe_ms": 1_151,
            "workspaces_ms": null},
        "agents": [row("api-123", Some("b2")), row("docs", None), row("web-issue-77", Some("b3"))],
    }))
    .unwrap();
    fleet.save = Some(manifest);
    fleet
}

fn model(fleet: FleetSnapshot) -> Model {
    Model::new(fleet, now())
}

fn pressed(fleet: FleetSnapshot, keys: &[Key]) -> Model {
    let mut model = model(fleet);
    for key in keys {
        model.press(*key);
    }
    model
}

fn cells(model: &Model, columns: u16, lines: u16, theme: Theme) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(columns, lines)).unwrap();
    terminal
        .draw(|frame| draw(frame.buffer_mut(), model, theme))
        .unwrap();
    terminal.backend().buffer().clone()
}

fn screen(model: &Model, columns: u16, lines: u16) -> String {
    let buffer = cells(model, columns, lines, Theme { colour: false });
    let rows = buffer.content.chunks(usize::from(columns));
    rows.map(|row| {
        let mut text = String::new();
        let mut skip = 0;
        for cell in row {
            if skip == 0 {
                text.push_str(cell.symbol());
                skip = text::width(cell.symbol());
            }
            skip = skip.saturating_sub(1);
        }
        text.trim_end().to_owned() + "\n"
    })
    .collect()
}

#[test]
fn a_fleet_in_80_columns() {
    assert_snapshot!(screen(&model(fleet()), 80, 24));
}

#[test]
fn a_fleet_in_140_columns() {
    assert_snapshot!(screen(&pressed(fleet(), &[Key::Down, Key::Down]), 140, 30));
}

#[test]
fn a_small_pane_keeps_the_table() {
    assert_snapshot!(screen(&pressed(fleet(), &[Key::End]), 60, 10));
}

#[test]
fn a_save_under_way_counts_down() {
    assert_snapshot!(screen(&model(saving()), 80, 24));
}

#[test]
fn a_finished_save_shows_what_is_saved_of_each_agent() {
    assert_snapshot!(screen(&model(saved()), 100, 24));
}

#[test]
fn no_agents_yet() {
    let mut fleet = fleet_of(Vec::new());
    fleet.status.keeper = KeeperState::Stopped;
    fleet.status.keeper_version = None;
    fleet.glances.clear();
    fleet.loads.clear();
    assert_snapshot!(screen(&model(fleet), 80, 16));
}

#[test]
fn a_filter_is_typed() {
    let keys = [
        Key::Char('/'),
        Key::Char('w'),
        Key::Char('e'),
        Key::Char('b'),
    ];
    assert_snapshot!(screen(&pressed(fleet(), &keys), 80, 20));
}

#[test]
fn the_help() {
    assert_snapshot!(screen(&pressed(fleet(), &[Key::Char('?')]), 80, 24));
}

#[test]
fn a_stop_asks_for_confirmation() {
    let text = screen(&pressed(fleet(), &[Key::Char('s')]), 80, 24);
    let last = text.lines().last().unwrap();
    assert_eq!(
        last,
        "stop api-123? its current turn is interrupted  y yes  n no"
    );
}

#[test]
fn the_transcript_of_an_agent_is_shown() {
    let mut model = pressed(fleet(), &[Key::Char('l')]);
    let said = |seconds, who, text: &str| TranscriptLine {
        at: Some(ago(seconds)),
        who,
        text: text.into(),
    };
    let messages = vec![
        said(
            90,
            LineSpeaker::User,
            "Fix issue 123.\nRun the tests before you stop.",
        ),
        said(80, LineSpeaker::Claude, "I look at the tests first."),
        said(79, LineSpeaker::Tool, "Bash cargo test --locked"),
        said(
            60,
            LineSpeaker::Result { is_error: true },
            "Exit code 101\none\ntwo\nthree\nfour\nfive\nsix\nseven",
        ),
        said(50, LineSpeaker::Claude, "Two of them fail:\n\n- one\n- two"),
        said(49, LineSpeaker::Result { is_error: false }, ""),
    ];
    let mut fleet = fleet();
    fleet.transcript = Some((name("api-123"), messages));
    model.apply(News::FleetSnapshot(Box::new(fleet)));
    assert_snapshot!(screen(&model, 80, 24));
}

#[test]
fn a_diff_starts_at_its_beginning() {
    let mut model = pressed(fleet(), &[Key::Char('d')]);
    model.apply(News::CommandDone {
        command: "spotkeep checkpoint diff api-123".into(),
        text: " a.rs | 2 +-\n\ndiff --git a/a.rs b/a.rs\n@@ -1 +1 @@\n-old\n+\tnew\n".into(),
        worked: true,
        show: true,
    });
    assert_snapshot!(screen(&model, 80, 10));
}

#[test]
fn problems_are_shown_above_the_table() {
    let mut fleet = fleet();
    fleet.status.paused = Some("login".into());
    fleet.status.trouble = ["the disk is full", "two", "three"]
        .map(str::to_owned)
        .to_vec();
    fleet.stale = Some("the keeper did not answer".into());
    assert_snapshot!(screen(&model(fleet), 80, 20));
}

#[test]
fn without_colour_no_cell_has_one_and_with_it_some_have() {
    let coloured = |colour: bool| {
        let buffer = cells(&model(saved()), 140, 30, Theme { colour });
        buffer
            .content
            .iter()
            .filter(|cell| cell.fg != Color::Reset || cell.bg != Color::Reset)
            .count()
    };
    assert_eq!(coloured(false), 0);
    assert!(coloured(true) > 0);
}

#[test]
fn every_size_is_drawn() {
    for model in [
        model(fleet()),
        model(saving()),
        pressed(fleet(), &[Key::Char('?')]),
        pressed(fleet(), &[Key::Char('l')]),
        pressed(fleet(), &[Key::Char('/'), Key::Char('x')]),
    ] {
        for columns in (1..200).step_by(29) {
            for lines in (1..60).step_by(7) {
                screen(&model, columns, lines);
            }
        }
    }
}

#[test]
fn the_chosen_agent_is_visible_among_many() {
    let many =
        (0..50).map(|number| agent(&format!("agent-{number:02}"), AgentState::Idle, 5, None));
    let model = pressed(fleet_of(many.collect()), &[Key::End]);
    let text = screen(&model, 80, 24);
    assert!(text.contains("○ idle      agent-49"), "{text}");
    assert!(text.contains("── agent-49 ──"), "{text}");
}
