//! An upgrade from the old program: the new one reads its data directory, resumes its agents and
//! takes over its running fleet.

use std::fs;

use serde_json::Value;
use sys::process::{ProcessId, Signal};
use sys::time::Timestamp;

use crate::backup::has_restic;
use crate::old_program::{old_program, renamed};
use crate::support::{Lab, arguments};
use crate::terminal::JournalLine;

/// The rows of `checkpoint ls --json`, newest first.
fn checkpoints(lab: &Lab) -> Vec<[Value; 5]> {
    let list = lab.run(&["checkpoint", "ls", "--json"]).ok().json();
    let all = list["checkpoints"].as_array().unwrap().iter();
    let row = |one: &Value| ["agent", "id", "at", "trigger", "commit"].map(|key| one[key].clone());
    all.map(row).collect()
}

/// The ids of `backup ls --json`.
fn backups(lab: &Lab) -> Vec<String> {
    let list = lab.run(&["backup", "ls", "--json"]).ok().json();
    let backups = list["backups"].as_array().unwrap().iter();
    backups
        .map(|backup| backup["id"].as_str().unwrap().to_owned())
        .collect()
}

/// The lines of `events --json`.
fn event_lines(lab: &Lab) -> Vec<String> {
    let said = lab.run(&["events", "--json", "-n", "10000"]).ok();
    said.out.lines().map(str::to_owned).collect()
}

fn epoch(lab: &Lab) -> u64 {
    lab.status()["epoch"].as_u64().unwrap()
}

/// The ids of each agent, which an upgrade does not change.
fn identities<'n>(lab: &Lab, names: &[&'n str]) -> Vec<(&'n str, Value, Value)> {
    let of = |name: &&'n str| {
        let record = lab.record(name);
        assert!(record["session_id"].is_string(), "{name}: {record}");
        (
            *name,
            record["agent_id"].clone(),
            record["session_id"].clone(),
        )
    };
    names.iter().map(of).collect()
}

fn assert_no_gap(journal: &[JournalLine]) {
    let seqs: Vec<u64> = journal.iter().map(|line| line.seq).collect();
    assert!(
        seqs.windows(2).all(|pair| pair[1] == pair[0] + 1),
        "{seqs:?}"
    );
}

#[test]
fn the_save_of_the_old_program_is_shown_and_resumed_by_the_new_one() {
    let test = "upgrade::the_save_of_the_old_program_is_shown_and_resumed_by_the_new_one";
    let Some(program) = old_program(test) else {
        return;
    };
    let names = ["cut", "done", "off"];
    let mut lab = Lab::of_old_program_in_a_cloud(&program);
    lab.declare("cut", "tool", "");
    lab.declare("done", "idle", "");
    lab.declare("off", "idle", "");
    let keeper = lab.keeper();
    lab.assert_program(&keeper);
    lab.wait_open("cut");
    lab.wait_done("done");
    lab.wait_done("off");
    for name in ["done", "off"] {
        lab.wait_checkpointed(name);
    }
    lab.run(&["stop", "off"]).ok();
    let made = has_restic(test).then(|| {
        lab.run(&["backup", "now"]).ok();
        backups(&lab)
    });
    lab.wait_asked();
    lab.metadata().preempt();
    lab.wait_event("", "saved", 1);
    let last_save = lab.until("the save is known", || {
        let save = lab.status()["last_save"].clone();
        save.is_object().then_some(save)
    });
    assert_eq!(last_save["clean"], true, "{last_save}");
    drop(keeper);
    lab.next_boot();
    lab.leave_the_cloud();
    let before = identities(&lab, &names);
    let (events, kept, old_epoch) = (event_lines(&lab), checkpoints(&lab), epoch(&lab));
    assert!(!kept.is_empty());

    // Before a new keeper has changed anything.
    lab.upgrade();
    assert_eq!(event_lines(&lab), events);
    assert_eq!(checkpoints(&lab), kept);
    if let Some(made) = &made {
        assert_eq!(&backups(&lab), made);
    }
    assert_the_save_is_shown(&lab, &last_save);

    let keeper = lab.keeper();
    lab.assert_program(&keeper);
    lab.wait_up("cut", 2);
    let arguments = arguments(lab.process("cut"));
    lab.wait_up("done", 2);
    lab.wait_done("cut");
    assert_eq!(identities(&lab, &names), before);
    assert_eq!(epoch(&lab), old_epoch + 1);
    assert_eq!(
        lab.wait_event("", "keeper-started", 2).data["last_end"],
        "safe"
    );
    let resumed = |name: &str| lab.wait_event(name, "starting", 2).data["how"].clone();
    assert_eq!(
        (resumed("cut"), resumed("done")),
        ("continue".into(), "resume".into())
    );
    assert!(
        arguments.last().unwrap().starts_with("[spotkeep]"),
        "{arguments:?}"
    );
    assert_eq!(lab.model.request_log().agents["cut"].continued, 1);
    for name in names {
        lab.assert_nothing_lost(name);
    }
    assert_eq!(lab.transcripts().len(), 3);

    let off = lab.wait_state("off", "stopped");
    assert_eq!(renamed(&off, "desired"), "stopped", "{off}");
    assert_eq!(lab.events("off", "starting").len(), 1);

    // What the old program wrote is still shown, together with what the new one adds.
    assert_the_save_is_shown(&lab, &last_save);
    assert_the_preemption_is_reported(&lab, &last_save);
    assert_eq!(event_lines(&lab)[..events.len()], events);
    assert_no_gap(&lab.journal());
    let now = checkpoints(&lab);
    assert!(kept.iter().all(|old| now.contains(old)), "{kept:?} {now:?}");
    if let Some(made) = made {
        lab.run(&["backup", "now"]).ok();
        let now = backups(&lab);
        assert_eq!((now.len(), made.len()), (2, 1));
        assert!(now.contains(&made[0]), "{made:?} {now:?}");
    }

    // The stopped agent resumes its session as well.
    lab.run(&["start", "off"]).ok();
    lab.wait_up("off", 2);
    assert_eq!(identities(&lab, &names), before);
}

/// `status` shows the last save as the old program has shown it.
fn assert_the_save_is_shown(lab: &Lab, old: &Value) {
    let now = &lab.status()["last_save"];
    for field in ["id", "at", "clean", "notice_to_safe_ms"] {
        assert_eq!(now[field], old[field], "{field}: {now}");
    }
    let safe_ms = renamed(now, "transcripts_safe_ms");
    assert!(safe_ms.is_u64(), "{now}");
    assert_eq!(safe_ms, renamed(old, "transcripts_safe_ms"));
    let text = lab.run(&["status"]).ok().out;
    let save = text.lines().find(|line| line.starts_with("save "));
    assert!(
        save.is_some_and(|line| line.contains("safe after")),
        "{text}"
    );
}

/// `report` counts the preemption in the old program's journal, and `status` has its login line.
fn assert_the_preemption_is_reported(lab: &Lab, save: &Value) {
    let report = lab.run(&["report", "--json"]).ok().json();
    let [end] = &report["preemptions"].as_array().unwrap()[..] else {
        panic!("{report}")
    };
    assert_eq!(end["kind"], "preempted", "{end}");
    let at: Timestamp = serde_json::from_value(end["at"].clone()).unwrap();
    assert_eq!(at, lab.events("", "notice")[0].at);
    assert_eq!((&end["save"], &end["clean"]), (&save["id"], &true.into()));
    assert_eq!(renamed(end, "boot_id"), "boot-1");
    assert_eq!(
        renamed(end, "transcripts_safe_ms"),
        renamed(save, "transcripts_safe_ms")
    );
    let counted = [
        "agents_total",
        "agents_back",
        "turns_cut",
        "turns_continued",
        "turns_lost",
        "records_lost",
    ]
    .map(|figure| end[figure].as_u64());
    assert_eq!(counted, [2, 2, 1, 1, 0, 0].map(Some), "{end}");
    let text = lab.run(&["report"]).ok().out;
    assert!(text.contains("1 preemption, 1 of 1 clean"), "{text}");
    let line = lab.run(&["status", "--login-line"]).ok().out;
    assert!(line.contains("2 of 2"), "{line}");
}

#[test]
fn a_boot_cut_off_under_the_old_program_comes_back_with_the_new_one() {
    let test = "upgrade::a_boot_cut_off_under_the_old_program_comes_back_with_the_new_one";
    let Some(program) = old_program(test) else {
        return;
    };
    let names = ["cut", "done"];
    let mut lab = Lab::of_old_program(&program);
    lab.declare("cut", "tool", "");
    lab.declare("done", "idle", "");
    let keeper = lab.keeper();
    lab.assert_program(&keeper);
    lab.wait_open("cut");
    lab.wait_done("done");
    let before = identities(&lab, &names);
    drop(keeper);
    lab.next_boot();

    lab.upgrade();
    let keeper = lab.keeper();
    lab.assert_program(&keeper);
    for name in names {
        lab.wait_up(name, 2);
    }
    lab.wait_done("cut");
    assert_eq!(
        lab.wait_event("", "keeper-started", 2).data["last_end"],
        "without a notice"
    );
    assert_eq!(lab.events("cut", "starting")[1].data["how"], "continue");
    assert_eq!(lab.events("done", "starting")[1].data["how"], "resume");
    assert_eq!(identities(&lab, &names), before);
    assert_eq!(lab.model.request_log().agents["cut"].continued, 1);
    for name in names {
        lab.assert_nothing_lost(name);
    }
}

#[test]
fn missing_files_are_rebuilt_from_the_journal_of_the_old_program() {
    let test = "upgrade::missing_files_are_rebuilt_from_the_journal_of_the_old_program";
    let Some(program) = old_program(test) else {
        return;
    };
    let mut lab = Lab::of_old_program(&program);
    lab.declare("a", "idle", "");
    lab.declare("off", "idle", "");
    let keeper = lab.keeper();
    lab.assert_program(&keeper);
    for name in ["a", "off"] {
        lab.wait_done(name);
    }
    lab.run(&["stop", "off"]).ok();
    lab.run(&["down"]).ok();
    keeper.let_go();
    let sessions = ["a", "off"].map(|name| lab.session_of(name));
    let id = renamed(&lab.status(), "data_dir_id").clone();
    let old_epoch = epoch(&lab);
    lab.next_boot();
    fs::remove_file(lab.file("session-state/root.json")).unwrap();
    fs::remove_dir_all(lab.file("session-state/agents")).unwrap();

    lab.upgrade();
    lab.run(&["init"]).ok();
    let keeper = lab.keeper();
    lab.assert_program(&keeper);
    let status = lab.status();
    assert_eq!(renamed(&status, "data_dir_id"), &id);
    assert_eq!(status["epoch"], old_epoch + 1);
    assert_eq!(status["fleet"], "down");
    lab.run(&["up"]).ok();
    lab.wait_up("a", 2);
    let off = lab.wait_state("off", "stopped");
    assert_eq!(renamed(&off, "desired"), "stopped", "{off}");
    assert_eq!(["a", "off"].map(|name| lab.session_of(name)), sessions);
    assert_eq!(lab.events("off", "starting").len(), 1);
    assert_eq!(lab.transcripts().len(), 2);
}

/// The process of each agent, with the marker that its environment began with.
fn processes(lab: &Lab, names: &[&str]) -> Vec<(ProcessId, String)> {
    let of = |name: &&str| {
        let process = lab.process(name);
        let environ = fs::read(format!("/proc/{}/environ", process.pid)).unwrap();
        let mut pairs = environ.split(|byte| *byte == 0);
        let marker = pairs.find_map(|pair| pair.strip_prefix(b"SPOTKEEP_LAUNCH="));
        let marker = String::from_utf8(marker.unwrap().to_vec()).unwrap();
        assert_eq!(lab.record(name)["launch"]["marker"], *marker, "{name}");
        (process, marker)
    };
    names.iter().map(of).collect()
}

#[test]
fn a_running_fleet_of_the_old_keeper_is_taken_over_and_no_agent_restarts() {
    let test = "upgrade::a_running_fleet_of_the_old_keeper_is_taken_over_and_no_agent_restarts";
    let Some(program) = old_program(test) else {
        return;
    };
    let names = ["open", "done", "ends"];
    let mut lab = Lab::of_old_program(&program);
    lab.declare("open", "tool", "");
    lab.declare("done", "idle", "");
    lab.declare("ends", "idle", "");
    let keeper = lab.keeper();
    lab.assert_program(&keeper);
    lab.wait_open("open");
    lab.wait_done("done");
    lab.wait_done("ends");
    let (before, sessions) = (processes(&lab, &names), identities(&lab, &names));

    // The new program reads the status of the old keeper, which still runs.
    lab.upgrade();
    let status = lab.status();
    assert_eq!(status["keeper"], "running");
    let shown: Vec<_> = names.iter().map(|name| lab.process(name)).collect();
    assert!(before.iter().map(|(process, _)| *process).eq(shown));

    keeper.let_go();
    // Its environment names another directory for sockets: the lock says where the old ones are.
    let keeper = lab.keeper_by(|command| {
        command.env("SPOTKEEP_RUNTIME_DIR", lab.dir.join("tmp"));
    });
    lab.assert_program(&keeper);
    for (name, state) in [("open", "running"), ("done", "idle"), ("ends", "idle")] {
        lab.wait_state(name, state);
    }
    assert_eq!(processes(&lab, &names), before);
    assert_eq!(identities(&lab, &names), sessions);
    let last = lab.wait_event("", "keeper-started", 2);
    assert_eq!(
        (&last.data["last_end"], &last.data["new_boot"]),
        (&"the same boot".into(), &false.into())
    );

    // It supervises them: one receives a message, and the end of another is noticed.
    lab.run(&["send", "done", "go on, please"]).ok();
    lab.until("the message is in its transcript", || {
        let transcript = fs::read_to_string(lab.transcript("done")).unwrap();
        transcript.contains("go on, please").then_some(())
    });
    let starts = |name: &str| lab.events(name, "starting").len();
    assert_eq!(names.map(starts), [1, 1, 1]);
    before[2].0.open().unwrap().signal(Signal::Kill);
    lab.wait_event("ends", "exited", 1);
    lab.wait_up("ends", 2);
    lab.wait_state("done", "idle");
    let now = processes(&lab, &names);
    assert_eq!(now[..2], before[..2]);
    assert_eq!(identities(&lab, &names), sessions);
    assert_no_gap(&lab.journal());

    // It saves them.
    let save = lab.run(&["save", "--final", "--json"]).ok().json();
    assert_eq!(save["clean"], true, "{save}");
    keeper.let_go();
    for name in names {
        lab.assert_nothing_lost(name);
    }
}
