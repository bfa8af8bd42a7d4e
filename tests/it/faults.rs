//! Tests of machine faults: full, failing or slow disk, clock jump, large journal, fork bomb.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use sys::power_cut::cut_power;
use sys::process::{Signal, with_marker};

use crate::disk::{assert_no_damaged_file, fill, on_a_small_disk};
use crate::matrix::Run;
use crate::mount_loss::{mount, on_a_disk};
use crate::support::{Lab, is_root, said, skip};

/// Numbers of free pages on the disk: each lets a different write fail.
const LEFT: std::ops::Range<u64> = 0..14;

#[test]
fn a_disk_that_fills_up_at_any_write_of_a_boot_costs_no_session_and_no_transcript() {
    let test = "a_disk_that_fills_up_at_any_write_of_a_boot_costs_no_session_and_no_transcript";
    let Some(lab) = on_a_small_disk(test) else {
        return;
    };
    lab.declare("a", "idle", "");
    let keeper = lab.keeper();
    lab.wait_done("a");
    let session = lab.session_of("a");
    keeper.let_go();
    let mut refused = 0;
    for pages in LEFT {
        lab.next_boot();
        let ballast = fill(&lab.data_dir());
        let file = fs::OpenOptions::new().write(true).open(&ballast).unwrap();
        file.set_len(file.metadata().unwrap().len() - pages * 4096)
            .unwrap();
        let run = Run::start(&lab);
        run.begun(&format!("{pages} pages are left"));
        let save = lab.run(&["save", "--final"]).sound();
        refused += u32::from(save.code != 0);
        run.end();
        assert_no_damaged_file(&lab);
        fs::remove_file(&ballast).unwrap();
        assert_eq!(lab.session_of("a"), session, "{pages} pages");
    }
    assert!(refused > 0, "no write has failed");
    let log = fs::read_to_string(lab.log()).unwrap();
    assert!(
        log.contains("No space left") && !log.contains("panicked"),
        "{log}"
    );
    lab.next_boot();
    let _keeper = lab.keeper();
    lab.wait_state("a", "idle");
    assert_eq!((lab.session_of("a"), lab.transcripts().len()), (session, 1));
    lab.assert_nothing_lost("a");
}

/// While the keeper runs, every read and write suddenly fails.
#[test]
fn a_disk_that_fails_under_a_fleet_is_reported_and_the_fleet_recovers_once_it_works() {
    let test =
        "faults::a_disk_that_fails_under_a_fleet_is_reported_and_the_fleet_recovers_once_it_works";
    let Some((lab, image)) = on_a_disk(test) else {
        return;
    };
    lab.declare("a", "idle", "");
    let keeper = lab.keeper_with(&["--sigterm", "save"]);
    lab.wait_done("a");
    sys::files::sync_filesystem(&lab.data_dir()).unwrap();
    let (session, process) = (lab.session_of("a"), lab.process("a"));
    cut_power(&lab.data_dir()).unwrap();
    for verb in [
        &["ls"][..],
        &["status"],
        &["doctor"],
        &["events"],
        &["logs", "a"],
    ] {
        lab.run(verb).sound();
    }
    let save = lab.run(&["save", "--final"]).sound();
    assert!(
        save.code == 1 && save.err.contains("nput/output error"),
        "{save:?}"
    );
    // The keeper receives a notice without the disk. Nothing can be made durable, and all agents
    // are ended.
    keeper.signal(Signal::Term);
    assert_eq!(keeper.end().code(), Some(0));
    assert!(!process.is_alive());
    lab.next_boot();
    said(Command::new("umount").arg(lab.data_dir())).ok();
    mount(&image, &lab.data_dir());
    let _keeper = lab.keeper();
    lab.wait_state("a", "idle");
    assert_eq!(lab.session_of("a"), session);
    lab.assert_nothing_lost("a");
    assert!(!fs::read_to_string(lab.log()).unwrap().contains("panicked"));
}

/// A process of the test that is ended with it.
struct Background(Child);

impl Drop for Background {
    fn drop(&mut self) {
        // strace detaches from its tracees on SIGTERM, and not on SIGKILL.
        let pid = i32::try_from(self.0.id()).unwrap();
        if let Some(process) =
            sys::process::ProcessId::from_pid(pid).and_then(|process| process.open())
        {
            process.signal(Signal::Term);
        }
        self.0.wait().ok();
    }
}

/// Each sync of the keeper takes most of a second.
#[test]
fn a_save_on_a_slow_disk_makes_transcripts_durable_before_anything_else() {
    let test = "a_save_on_a_slow_disk_makes_transcripts_durable_before_anything_else";
    if !is_root() {
        return skip(test, "making syncs slow takes strace, as root");
    }
    let lab = Lab::new();
    lab.declare("a", "idle", "");
    lab.declare("b", "tool", "");
    let keeper = lab.keeper_with(&["--sigterm", "save"]);
    lab.wait_done("a");
    lab.wait_open("b");
    // Only the disk is slow here: the keeper, strace and their children have real-time priority, so
    // that the deadline is met on a busy machine too.
    let pid = keeper.process.pid.to_string();
    let first = ["--all-tasks", "--rr", "--pid", "1", pid.as_str()];
    said(Command::new("chrt").args(first)).ok();
    let order = lab.dir.join("order");
    let mut strace = Command::new("chrt");
    strace
        .args(["--rr", "1", "strace"])
        .args(["-f", "-qq", "-y", "-e", "trace=fsync,fdatasync,syncfs"])
        .args([
            "-e",
            "inject=fsync,fdatasync,syncfs:delay_enter=600000",
            "-o",
        ])
        .arg(&order)
        .args(["-p", &pid])
        .stdin(Stdio::null());
    let strace = Background(strace.spawn().unwrap());
    let traced = format!("/proc/{}/status", keeper.process.pid);
    lab.until("strace is attached", || {
        let status = fs::read_to_string(&traced).unwrap_or_default();
        let tracer = status.lines().find(|line| line.starts_with("TracerPid:"));
        tracer
            .is_some_and(|line| !line.ends_with("\t0"))
            .then_some(())
    });
    keeper.signal(Signal::Term);
    assert_eq!(keeper.end().code(), Some(0));
    drop(strace);
    let save = lab.manifests().pop().unwrap();
    assert_eq!(save["clean"], true, "{save}");
    let stage = |name: &str| {
        save["stages"][name]
            .as_u64()
            .unwrap_or_else(|| panic!("{name}: {save}"))
    };
    let (words, safe, work) = (
        stage("transcripts_safe_ms"),
        stage("notice_to_safe_ms"),
        stage("workspaces_ms"),
    );
    // Slow enough to show the order, and still within the time limit.
    assert!(
        words >= 600 && safe >= words + 600 && work > safe && work < 20_000,
        "{save}"
    );
    let order = fs::read_to_string(&order).unwrap();
    let first = |what: &str| order.lines().position(|line| line.contains(what));
    let (transcript, whole) = (first(".jsonl>").unwrap(), first("syncfs(").unwrap());
    let notice = order
        .lines()
        .position(|line| line.contains("journal.jsonl>"))
        .unwrap();
    assert!(notice < transcript || notice < whole, "{order}");
    assert!(transcript < whole, "{order}");
    lab.assert_nothing_lost("a");
    lab.assert_nothing_lost("b");
}

/// Simulates a clock that was set back or forward by ten years between two boots, and again in the
/// next.
#[test]
fn a_clock_that_jumps_by_years_between_two_boots_changes_nothing() {
    for (year, month) in [("2036", "01"), ("2006", "01")] {
        let lab = Lab::new();
        lab.declare("a", "idle", "");
        lab.declare("b", "tool", "");
        let keeper = lab.keeper();
        lab.wait_done("a");
        lab.wait_open("b");
        let sessions = ["a", "b"].map(|name| lab.session_of(name));
        lab.run(&["save", "--final"]).ok();
        keeper.let_go();
        lab.next_boot();
        redate(&lab, year, month);
        let text = fs::read_to_string(lab.file("session-state/journal.jsonl")).unwrap();
        assert!(text.contains(&format!("\"at\":\"{year}-{month}")), "{text}");
        let before = lab.manifests()[0]["id"].clone();

        let keeper = lab.keeper();
        lab.wait_state("a", "idle");
        lab.wait_done("b");
        assert_eq!(
            ["a", "b"].map(|name| lab.session_of(name)),
            sessions,
            "{year}"
        );
        assert_eq!(
            lab.events("b", "starting")[1].data["how"],
            "continue",
            "{year}"
        );
        assert_eq!(
            lab.wait_event("", "keeper-started", 2).data["last_end"],
            "safe",
            "{year}"
        );
        lab.assert_nothing_lost("b");
        lab.run(&["status"]).sound();
        lab.run(&["doctor"]).sound();
        // The newest save is the one that was made last, whatever the clock.
        let save = lab.run(&["save", "--final", "--json"]).ok().json();
        assert_ne!(save["id"], before);
        assert_eq!(lab.status()["last_save"]["id"], save["id"], "{year}");
        keeper.let_go();
        lab.next_boot();
        let _keeper = lab.keeper();
        lab.wait_state("a", "idle");
        assert_eq!(lab.status()["last_save"]["id"], save["id"], "{year}");
        assert_eq!(
            ["a", "b"].map(|name| lab.session_of(name)),
            sessions,
            "{year}"
        );
    }
}

/// Moves a boot to another year: the journal, the manifest and its id, and the times of files.
fn redate(lab: &Lab, year: &str, month: &str) {
    let now = sys::time::Timestamp::now().for_people();
    let (this_year, this_month) = (&now[..4], &now[5..7]);
    let (then, to) = (
        format!("\"{this_year}-{this_month}-"),
        format!("\"{year}-{month}-"),
    );
    let journal = lab.file("session-state/journal.jsonl");
    let mut files = vec![journal];
    files.extend(
        fs::read_dir(lab.file("session-state/saves"))
            .unwrap()
            .map(|entry| entry.unwrap().path()),
    );
    files.extend(lab.transcripts());
    for path in files {
        let text = fs::read_to_string(&path).unwrap().replace(&then, &to);
        // Ids of version 7 begin with the time.
        let id = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let path = match path.parent().unwrap().ends_with("saves") {
            false => {
                fs::write(&path, text).unwrap();
                path
            }
            true => {
                let first = if year > this_year {
                    "0fffffff"
                } else {
                    "01000000"
                };
                let renamed = format!("{first}{}", &id[8..]);
                fs::remove_file(&path).unwrap();
                let path = path.with_file_name(format!("{renamed}.json"));
                fs::write(&path, text.replace(&id, &renamed)).unwrap();
                path
            }
        };
        let at = format!("{year}-{month}-01 00:00:00");
        said(Command::new("touch").args(["-d", &at]).arg(path)).ok();
    }
}

/// Appends more lines than are ever read, half of them truncated, before the entries that count.
#[test]
fn a_flooded_journal_is_read_at_its_end_and_the_notice_in_it_still_applies() {
    let lab = Lab::new();
    lab.declare("a", "idle", "");
    let keeper = lab.keeper();
    lab.wait_done("a");
    let session = lab.session_of("a");
    keeper.let_go();
    let path = lab.file("session-state/journal.jsonl");
    let lines = lab.journal();
    let mut noise = lines.last().unwrap().clone();
    noise.event = "metadata-health".to_owned();
    let line = serde_json::to_string(&noise).unwrap();
    let mut file =
        std::io::BufWriter::new(fs::OpenOptions::new().append(true).open(&path).unwrap());
    for number in 0..100_000 {
        match number % 2 {
            0 => writeln!(file, "{line}").unwrap(),
            _ => writeln!(file, "{}", &line[..line.len() / 2]).unwrap(),
        }
    }
    drop(file);
    let flooded = fs::metadata(&path).unwrap().len();
    assert!(flooded > 12 << 20, "{flooded}");
    lab.next_boot();
    let keeper = lab.keeper();
    lab.wait_state("a", "idle");
    assert_eq!(lab.session_of("a"), session);
    for verb in [
        &["status"][..],
        &["events", "-n", "5"],
        &["doctor"],
        &["restore", "--dry-run"],
    ] {
        lab.run(verb).sound();
    }
    lab.run(&["save", "--final"]).ok();
    keeper.let_go();
    let _keeper = lab.keeper();
    assert!(
        lab.agent("a")["pid"].is_null(),
        "an agent was started after the notice of this boot"
    );
    assert!(
        fs::metadata(&path).unwrap().len() - flooded < 64 << 10,
        "the journal was rewritten"
    );
}

/// The uid of a user with no other processes, whose processes are counted.
const FORKER: u32 = 48_217;

/// A fork bomb: every process forks as often as its limit allows, so an ended process is replaced.
const BOMB: &str = "import os, time
while True:
    try:
        if os.fork() == 0:
            os.setsid()
    except OSError:
        time.sleep(0.001)
";

#[test]
fn a_save_ends_an_agent_that_forks_without_end_with_all_its_processes() {
    let test = "a_save_ends_an_agent_that_forks_without_end_with_all_its_processes";
    if !is_root() {
        return skip(
            test,
            "a limit on processes is a user's, and another user takes root",
        );
    }
    let lab = Lab::of_user(FORKER);
    let claude = lab.dir.join("bin/claude");
    let script = fs::read_to_string(&claude).unwrap();
    let bomb = lab.dir.join("bin/bomb.py");
    fs::write(&bomb, BOMB).unwrap();
    let before = "#!/bin/sh\n";
    let forks = format!(
        "{before}case $* in *' b'*) (prlimit --nproc=80 python3 '{}' >/dev/null 2>&1 &) ;; esac\n",
        bomb.display()
    );
    fs::write(&claude, script.replace(before, &forks)).unwrap();
    fs::set_permissions(&claude, fs::Permissions::from_mode(0o755)).unwrap();
    lab.declare("a", "idle", "");
    lab.declare("b", "", "");
    lab.give_away();
    let keeper = lab.keeper();
    lab.wait_done("a");
    lab.wait_state("b", "idle");
    let bombs = || {
        let mine = with_marker(&format!(
            "SPOTKEEP_RUNTIME_DIR={}",
            lab.dir.join("run").display()
        ));
        mine.into_iter()
            .filter(|process| {
                let line = fs::read(format!("/proc/{}/cmdline", process.pid)).unwrap_or_default();
                String::from_utf8_lossy(&line).contains("bomb.py")
            })
            .count()
    };
    lab.until("the bomb has forked", || (bombs() > 30).then_some(()));
    let began = Instant::now();
    let save = lab.run(&["save", "--final", "--json"]).ok().json();
    eprintln!(
        "figure: saved from under a fork bomb in {:?}",
        began.elapsed()
    );
    assert_eq!(save["clean"], true, "{save}");
    assert_eq!(bombs(), 0, "{save}");
    keeper.let_go();
    lab.assert_nothing_lost("a");
}
