//! Preemption notices from the metadata server, and metadata servers that fail.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use drill::fake_metadata::Fault;
use sys::cloud_provider::NOTICE_KEY;
use sys::process::Signal;

use crate::support::Lab;

/// A port without a listener. No process can listen on it meanwhile: it is one end of a connection.
pub struct UnusedPort {
    taken: TcpStream,
    _other_end: TcpListener,
}

impl UnusedPort {
    pub fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        Self {
            taken: TcpStream::connect(listener.local_addr().unwrap()).unwrap(),
            _other_end: listener,
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.taken.local_addr().unwrap()
    }

    /// Starts to listen on the port.
    pub fn listens(self) -> TcpListener {
        let address = self.address();
        drop(self);
        TcpListener::bind(address).unwrap()
    }
}

#[test]
fn a_preemption_ends_every_agent_and_loses_nothing() {
    let lab = Lab::in_a_cloud();
    lab.declare("a", "tool", "");
    lab.declare("b", "idle", "");
    let _keeper = lab.keeper();
    lab.wait_open("a");
    lab.wait_done("b");
    lab.wait_asked();
    lab.metadata().preempt();
    lab.wait_event("", "saved", 1);
    assert_eq!(lab.wait_event("", "notice", 1).data["source"], "metadata");
    let save = &lab.manifests()[0];
    assert_eq!(
        (save["clean"].as_bool(), save["final"].as_bool()),
        (Some(true), Some(true))
    );
    let status = lab.until("the save is known", || {
        let status = lab.status();
        status["last_save"].is_object().then_some(status)
    });
    assert_eq!(status["last_save"]["id"], save["id"]);
    assert_eq!(status["notice"]["source"], "metadata");
    assert!(
        status["agents"]
            .as_array()
            .unwrap()
            .iter()
            .all(|agent| agent["pid"].is_null()),
        "{status}"
    );
    lab.assert_nothing_lost("a");
    lab.assert_nothing_lost("b");
}

#[test]
fn a_preemption_that_began_before_the_keeper_is_found_and_no_agent_starts() {
    let lab = Lab::in_a_cloud();
    lab.declare("a", "idle", "");
    lab.metadata().preempt();
    let keeper = lab.keeper();
    lab.wait_event("", "saved", 1);
    assert_eq!(lab.events("", "notice").len(), 1);
    assert!(lab.agent("a")["pid"].is_null());
    let agents = |lab: &Lab| lab.file(".claude/sessions").read_dir().unwrap().count();
    assert_eq!(agents(&lab), 0);
    drop(keeper);
    lab.next_boot();
    lab.leave_the_cloud();
    let _keeper = lab.keeper();
    lab.wait_rest("a");
    assert_eq!(lab.transcripts().len(), 1);
}

#[test]
fn a_notice_during_start_up_leaves_every_agent_resumable() {
    let lab = Lab::in_a_cloud();
    let names: Vec<String> = (1..=8).map(|number| format!("agent-{number}")).collect();
    for name in &names {
        lab.declare(name, "idle", "");
    }
    let _keeper = lab.keeper();
    // Some agents are up, some are starting, and some wait.
    lab.until("the first agent is up", || {
        names
            .iter()
            .any(|name| !lab.events(name, "started").is_empty())
            .then_some(())
    });
    lab.metadata().preempt();
    lab.wait_event("", "saved", 1);
    let started: Vec<usize> = names
        .iter()
        .map(|name| lab.events(name, "starting").len())
        .collect();
    assert!(
        lab.status()["agents"]
            .as_array()
            .unwrap()
            .iter()
            .all(|agent| agent["pid"].is_null())
    );
    lab.next_boot();
    lab.leave_the_cloud();
    let _keeper = lab.keeper();
    for (name, before) in names.iter().zip(started) {
        lab.until("the agent starts in the next boot", || {
            (lab.events(name, "starting").len() > before).then_some(())
        });
        lab.wait_rest(name);
    }
    assert_eq!(lab.transcripts().len(), names.len());
}

#[test]
fn an_etag_that_changes_alone_is_not_a_notice() {
    let lab = Lab::in_a_cloud();
    lab.declare("a", "idle", "");
    let _keeper = lab.keeper();
    lab.wait_done("a");
    for _ in 1..=4 {
        lab.wait_asked();
        let answers = lab.metadata().answers().len();
        lab.metadata().touch();
        lab.wait_answered(answers + 1);
    }
    lab.wait_asked();
    assert!(lab.events("", "notice").is_empty() && lab.manifests().is_empty());
    lab.metadata().preempt();
    lab.wait_event("", "notice", 1);
}

#[test]
fn the_keeper_asks_a_metadata_server_that_fails_until_it_answers() {
    let lab = Lab::in_a_cloud();
    lab.declare("a", "idle", "");
    lab.metadata().fault(Fault::Unavailable, 2);
    lab.metadata().fault(Fault::Reset, 1);
    lab.metadata().fault(Fault::NotFound, 2);
    let _keeper = lab.keeper();
    lab.wait_done("a");
    let health = lab.wait_event("", "metadata-health", 1);
    assert!(
        health.data["health"]
            .as_str()
            .unwrap()
            .starts_with("no usable answer"),
        "{health:?}"
    );
    lab.wait_asked();
    let statuses: Vec<u16> = lab
        .metadata()
        .answers()
        .iter()
        .filter(|answer| answer.key != NOTICE_KEY)
        .map(|answer| answer.status)
        .collect();
    assert!(statuses.starts_with(&[503, 503, 404, 404]), "{statuses:?}");
    lab.metadata().preempt();
    lab.wait_event("", "saved", 1);
    assert_eq!(lab.manifests()[0]["clean"], true);
}

#[test]
fn a_slow_server_delays_only_its_own_requests() {
    let lab = Lab::in_a_cloud();
    lab.declare("a", "idle", "");
    // For each request, until the agent is up.
    lab.metadata().fault(Fault::Slow(Duration::MAX), 10_000);
    let _keeper = lab.keeper();
    lab.wait_done("a");
    let answers = lab.metadata().answers();
    assert!(
        answers.iter().all(|answer| answer.key == NOTICE_KEY),
        "the agent is up before the server has answered once"
    );
    lab.metadata().repair();
    lab.wait_asked();
    lab.metadata().preempt();
    lab.wait_event("", "notice", 1);
}

#[test]
fn a_missing_metadata_server_stops_nothing() {
    let lab = Lab::new();
    let unused = UnusedPort::new();
    let address = unused.address();
    let cloud = format!("provider = \"gcp\"\nmetadata = \"{address}\"");
    lab.write_config(&lab.config_text().replace("provider = \"none\"", &cloud));
    lab.declare("a", "idle", "");
    let keeper = lab.keeper();
    lab.wait_done("a");
    let health = lab.wait_event("", "metadata-health", 1);
    assert!(
        health.data["health"].as_str().unwrap().contains("refused"),
        "{health:?}"
    );
    keeper.signal(Signal::Term);
    assert_eq!(keeper.end().code(), Some(0));
}

#[test]
fn a_test_never_asks_a_metadata_server_beyond_loopback() {
    let lab = Lab::new();
    let text = lab.config_text();
    let far = text.replace(
        "provider = \"none\"",
        "provider = \"gcp\"\nmetadata = \"192.0.2.1:80\"",
    );
    lab.write_config(&far);
    let keeper = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| lab.spotkeep(&["run"])));
    assert!(keeper.is_err(), "the lab refuses to start such a keeper");
    let mut command = lab.program(crate::support::SPOTKEEP);
    command.arg("--data-dir").arg(lab.data_dir()).arg("run");
    let said = crate::support::said(&mut command);
    assert_eq!(said.code, 1);
    assert!(
        said.err.contains("SPOTKEEP_LOOPBACK_ONLY=1 forbids"),
        "{said:?}"
    );
    lab.write_config(&text);
}

#[test]
fn the_notice_command_shows_what_the_metadata_server_says() {
    let lab = Lab::in_a_cloud();
    let said = lab.run(&["notice", "--json"]).ok().json();
    assert_eq!(
        (said["preemptible"].as_bool(), said["preempted"].as_bool()),
        (Some(true), Some(false))
    );
    lab.metadata().set_preemptible(false);
    lab.metadata().preempt();
    let text = lab.run(&["notice"]).ok().out;
    assert!(
        text.contains("preemptible  no") && text.contains("preempted    yes"),
        "{text}"
    );
    let nowhere = Lab::new().run(&["notice"]).ok().out;
    assert!(nowhere.contains("only a shutdown or a signal"), "{nowhere}");
}

#[test]
fn the_notice_length_comes_from_the_metadata_unless_the_config_sets_it() {
    let lab = Lab::in_a_cloud();
    lab.metadata().set_notice("120s");
    let said = lab.run(&["notice", "--json"]).ok().json();
    assert_eq!(said["notice_ms"], 120_000);
    let keeper = lab.keeper();
    lab.wait_asked();
    lab.until("the length was asked for", || {
        let mut answers = lab.metadata().answers().into_iter();
        // The first request was the command's.
        answers.by_ref().find(|answer| answer.key == NOTICE_KEY)?;
        answers.find(|answer| answer.key == NOTICE_KEY)
    });
    // When its thread has ended, it has passed the answer on; a notice seen later is passed on
    // later.
    let threads = format!("/proc/{}/task", keeper.process.pid);
    lab.until("the answer was passed on", || {
        let names = fs::read_dir(&threads).unwrap().flatten();
        let names = names.map(|thread| fs::read_to_string(thread.path().join("comm")));
        let asks = names.flatten().any(|name| name.trim() == "notice-length");
        (!asks).then_some(())
    });
    lab.metadata().preempt();
    let notice = lab.wait_event("", "notice", 1);
    assert!(
        notice.data["deadline_ms"].as_u64().unwrap() > 100_000,
        "{notice:?}"
    );
    // The user's setting takes precedence.
    let text = lab
        .config_text()
        .replace("[cloud]", "[cloud]\nnotice = \"30s\"");
    lab.write_config(&text);
    let said = lab.run(&["notice", "--json"]).ok().json();
    assert_eq!(said["notice_ms"], 30_000);
}
