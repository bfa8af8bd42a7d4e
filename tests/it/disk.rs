//! Tests of a full data disk.
//!
//! The error is shown, no file is damaged, and with free space the fleet continues.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::support::{Lab, is_root, prompt_of, said, skip};

/// Returns a lab whose data directory is its own tmpfs; `None` where it cannot be mounted.
pub fn on_a_small_disk(test: &str) -> Option<Lab> {
    if !is_root() {
        skip(test, "mounting needs root");
        return None;
    }
    let mut lab = Lab::bare();
    fs::create_dir(lab.data_dir()).unwrap();
    let mut mount = Command::new("mount");
    mount
        .args(["-t", "tmpfs", "-o", "size=8m,mode=755", "tmpfs"])
        .arg(lab.data_dir());
    let mounted = said(&mut mount);
    if mounted.code != 0 {
        skip(test, &mounted.err);
        return None;
    }
    lab.umount_at_the_end();
    lab.run(&["init"]).ok();
    lab.configure("");
    Some(lab)
}

/// Fills the disk to its last byte.
pub fn fill(data_dir: &Path) -> PathBuf {
    let path = data_dir.join("ballast");
    let mut file = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)
        .unwrap();
    for size in [1 << 16, 1 << 12, 1] {
        while file.write_all(&vec![7; size]).is_ok() {}
    }
    path
}

/// Asserts that every state file can be parsed, and that no temporary file of a failed write is
/// left.
pub fn assert_no_damaged_file(lab: &Lab) {
    for dir in [
        "session-state",
        "session-state/agents",
        "session-state/saves",
        ".claude",
    ] {
        for entry in fs::read_dir(lab.file(dir)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|kind| kind == "json") {
                let bytes = fs::read(&path).unwrap();
                assert!(
                    serde_json::from_slice::<Value>(&bytes).is_ok(),
                    "{}: {bytes:?}",
                    path.display()
                );
            }
            assert!(
                path.extension().is_none_or(|kind| kind != "tmp"),
                "{}",
                path.display()
            );
        }
    }
}

#[test]
fn a_full_disk_is_shown_damages_no_file_and_is_cleared_once_there_is_space() {
    let Some(lab) =
        on_a_small_disk("a_full_disk_is_shown_damages_no_file_and_is_cleared_once_there_is_space")
    else {
        return;
    };
    lab.declare("a", "idle", "");
    lab.declare("b", "", "");
    let _keeper = lab.keeper();
    lab.wait_done("a");
    lab.wait_state("b", "idle");
    let (session, process) = (lab.session_of("a"), lab.process("a"));
    let ballast = fill(&lab.data_dir());

    // Each verb has to write. An agent that ends frees some space, so the disk is filled again.
    let mut verbs = ["stop", "start"].into_iter().cycle();
    let status = lab.until("status shows the trouble", || {
        let said = lab.run(&[verbs.next().unwrap(), "b"]).sound();
        assert!(said.code == 0 || !(said.out + &said.err).is_empty());
        fill(&lab.data_dir());
        let status = lab.status();
        (!status["trouble"].as_array().unwrap().is_empty()).then_some(status)
    });
    assert!(
        status["trouble"].to_string().contains("No space left"),
        "{status}"
    );
    fill(&lab.data_dir());
    let text = lab.run(&["status"]);
    assert!(text.code == 3 && text.out.contains("trouble "), "{text:?}");
    for verb in [
        &["ls"][..],
        &["events"],
        &["logs", "a"],
        &["restore", "--dry-run"],
        &["add", "c"],
        &["rm", "b"],
    ] {
        lab.run(verb).sound();
    }
    assert_no_damaged_file(&lab);
    assert!(process.is_alive());
    assert_eq!(lab.process("a"), process);

    fs::remove_file(&ballast).unwrap();
    lab.run(&["start", "b"]).ok();
    lab.run(&["send", "a", &prompt_of("a", "idle", 2)]).ok();
    lab.until("the trouble is over", || {
        lab.status()["trouble"]
            .as_array()
            .unwrap()
            .is_empty()
            .then_some(())
    });
    lab.until("the second turn has ended", || {
        (lab.model.request_log().agents["a"].turns_ended == 2).then_some(())
    });
    lab.assert_nothing_lost("a");
    assert_eq!(lab.session_of("a"), session);
    assert_eq!(
        lab.run(&["save", "--final", "--json"]).ok().json()["clean"],
        true
    );
}

#[test]
fn a_save_on_a_full_disk_ends_the_agents_and_keeps_their_transcripts() {
    let Some(lab) =
        on_a_small_disk("a_save_on_a_full_disk_ends_the_agents_and_keeps_their_transcripts")
    else {
        return;
    };
    lab.declare("a", "tool", "");
    let keeper = lab.keeper();
    lab.wait_open("a");
    let (session, process) = (lab.session_of("a"), lab.process("a"));
    let ballast = fill(&lab.data_dir());
    let save = lab.run(&["save", "--final"]).sound();
    // The manifest cannot be written; the agents are saved even so, and the error is shown.
    assert!(save.err.contains("No space left"), "{save:?}");
    assert!(!process.is_alive());
    assert_no_damaged_file(&lab);
    lab.assert_nothing_lost("a");
    drop(keeper);
    lab.next_boot();
    // A keeper on a full disk refuses to start and shows the cause.
    let run = lab.run(&["run"]);
    assert!(
        run.code == 1 && run.err.contains("No space left"),
        "{run:?}"
    );
    assert_no_damaged_file(&lab);
    fs::remove_file(&ballast).unwrap();
    let _keeper = lab.keeper();
    lab.wait_done("a");
    assert_eq!(lab.session_of("a"), session);
}
