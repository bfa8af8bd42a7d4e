//! Tests of the poller by tables, and of the watch against a fake server.

use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use super::*;
use sys::http::{Failure, Reply};
use testing::http::{Act, Asked, FakeServer, unused_address};
use testing::wait::during;

const AT_ONCE: Duration = Duration::from_millis(1);

fn value(preempted: bool, etag: &str) -> Answer {
    let etag = Some(etag.to_owned());
    Answer::Value { preempted, etag }
}

fn trouble() -> Answer {
    Answer::Trouble("503".into())
}

fn no_server() -> Answer {
    Answer::NoServer("refused".into())
}

fn wait(etag: &str, seconds: u64) -> Request {
    let etag = etag.to_owned();
    Request::Wait { etag, seconds }
}

/// A poller that has seen FALSE with ETag `a`.
fn waiting() -> Poller {
    let mut poller = Poller::default();
    poller.on(value(false, "a"), AT_ONCE);
    poller
}

#[test]
fn a_request_has_the_form_that_google_documents() {
    assert_eq!(
        wait("0", 60).path_and_query(),
        "instance/preempted?wait_for_change=true&last_etag=0&timeout_sec=60"
    );
    assert_eq!(wait("0", 60).limit(), Duration::from_secs(70));
    assert_eq!(Request::Read.path_and_query(), "instance/preempted");
    assert!(
        wait("a&b=\u{e9}", 1)
            .path_and_query()
            .contains("last_etag=a%26b%3D%C3%A9&")
    );
}

#[test]
fn an_answer_is_its_body_and_nothing_else() {
    let reply = |status, body: &str| {
        Ok(Reply {
            status,
            headers: vec![("etag".into(), "e".into())],
            body: body.into(),
        })
    };
    let kind = |answer| match Answer::from_reply(answer) {
        Answer::Value { preempted, etag } => format!("{preempted} {}", etag.unwrap_or_default()),
        Answer::NoServer(_) => "no server".into(),
        Answer::Trouble(_) => "trouble".into(),
    };
    let table = [
        (reply(200, "TRUE"), "true e"),
        (reply(200, " true\r\n"), "true e"),
        (reply(200, "FALSE"), "false e"),
        (reply(200, ""), "trouble"),
        (reply(200, "TRUE FALSE"), "trouble"),
        (reply(200, "<html>"), "trouble"),
        (reply(503, "TRUE"), "trouble"),
        (reply(302, ""), "trouble"),
        (reply(404, ""), "no server"),
        (Err(Failure::Connect("x".into())), "no server"),
        (Err(Failure::Timeout), "trouble"),
        (Err(Failure::Reset("x".into())), "trouble"),
        (Err(Failure::TooLarge), "trouble"),
    ];
    for (answer, expected) in table {
        assert_eq!(kind(answer.clone()), expected, "{answer:?}");
    }
}

#[test]
fn the_first_request_finds_a_preemption_that_began_before() {
    let mut poller = Poller::default();
    assert_eq!(poller.next(), wait("0", 1));
    let step = poller.on(value(true, "a"), AT_ONCE);
    assert_eq!(
        step.seen,
        [WatchEvent::Preempted, WatchEvent::Health(Health::Waiting)],
        "the preemption is delivered first"
    );
}

#[test]
fn waits_grow_to_a_minute_and_follow_each_other_without_a_pause() {
    let mut poller = waiting();
    let mut seconds = Vec::new();
    for _ in 0..7 {
        let Request::Wait { etag, seconds: s } = poller.next() else {
            panic!("a read");
        };
        assert_eq!(etag, "a");
        seconds.push(s);
        let step = poller.on(value(false, "a"), Duration::from_secs(s));
        assert_eq!((step.seen.len(), step.pause), (0, Duration::ZERO));
    }
    assert_eq!(seconds, [2, 4, 8, 16, 32, 60, 60]);
}

#[test]
fn a_preemption_is_delivered_once_and_again_only_after_it_was_withdrawn() {
    let mut poller = waiting();
    let mut events = Vec::new();
    for (number, preempted) in [true, true, false, true].into_iter().enumerate() {
        let step = poller.on(value(preempted, "b"), AT_ONCE);
        if step.seen.contains(&WatchEvent::Preempted) {
            events.push(number);
        }
    }
    assert_eq!(events, [0, 3]);
}

#[test]
fn an_etag_that_changes_alone_is_no_event_and_slows_requests_to_one_a_second() {
    let mut poller = waiting();
    let mut pauses = Vec::new();
    let mut seen = Vec::new();
    for etag in ["b", "c", "d", "e", "f", "g"] {
        let step = poller.on(value(false, etag), AT_ONCE);
        pauses.push(step.pause.as_millis());
        seen.extend(step.seen);
        assert!(matches!(poller.next(), Request::Wait { etag: now, .. } if now == etag));
    }
    assert_eq!(pauses, [100, 200, 400, 800, 1000, 1000]);
    assert_eq!(seen, [WatchEvent::Health(Health::Reading)]);
    let step = poller.on(value(true, "h"), AT_ONCE);
    assert_eq!(step.seen[0], WatchEvent::Preempted);
}

#[test]
fn one_failure_costs_a_tenth_of_a_second_and_is_not_reported() {
    let mut poller = waiting();
    let step = poller.on(trouble(), AT_ONCE);
    assert_eq!(
        (step.seen.len(), step.pause),
        (0, Duration::from_millis(100))
    );
    assert_eq!(poller.next(), Request::Read);
    let step = poller.on(value(false, "a"), Duration::from_millis(100));
    assert_eq!((step.seen.len(), step.pause), (0, Duration::ZERO));
    assert_eq!(poller.next(), wait("a", 1), "waiting is tried again");
}

#[test]
fn a_preemption_is_found_by_a_plain_read_too() {
    let mut poller = waiting();
    poller.on(trouble(), AT_ONCE);
    let step = poller.on(value(true, "b"), AT_ONCE);
    assert_eq!(step.seen, [WatchEvent::Preempted]);
}

#[test]
fn a_server_that_only_ever_fails_is_asked_every_second_for_ever() {
    let mut poller = waiting();
    let mut seen = Vec::new();
    for number in 0..1_000 {
        let step = poller.on(trouble(), AT_ONCE);
        seen.extend(step.seen);
        assert!(step.pause <= Duration::from_secs(1));
        assert!(number == 0 || step.pause == Duration::from_secs(1));
        assert_eq!(poller.next(), Request::Read);
    }
    assert_eq!(seen, [WatchEvent::Health(Health::Failing("503".into()))]);
}

#[test]
fn an_absent_server_is_asked_ever_more_slowly_and_found_when_it_comes() {
    let mut poller = Poller::default();
    let mut pauses = Vec::new();
    let mut seen = Vec::new();
    for _ in 0..60 {
        let step = poller.on(no_server(), AT_ONCE);
        pauses.push(step.pause.as_secs());
        seen.extend(step.seen);
    }
    assert_eq!(pauses[..10], [0, 1, 1, 1, 1, 1, 1, 1, 1, 5]);
    assert_eq!((pauses[38], pauses[39], pauses[59]), (5, 30, 30));
    assert!(
        matches!(
            seen[..],
            [
                WatchEvent::Health(Health::Failing(_)),
                WatchEvent::Health(Health::Absent(_))
            ]
        ),
        "{seen:?}"
    );
    poller.on(value(false, "a"), AT_ONCE);
    let step = poller.on(value(false, "a"), Duration::from_secs(1));
    assert_eq!(step.seen, [WatchEvent::Health(Health::Waiting)]);
}

#[test]
fn a_server_that_cannot_wait_is_read_every_second_and_tried_ever_more_rarely() {
    let mut poller = waiting();
    let mut reads = Vec::new();
    let mut seen = Vec::new();
    for _ in 0..8 {
        assert!(poller.next().limit() <= Duration::from_secs(4));
        seen.extend(poller.on(Answer::Trouble("no answer".into()), AT_ONCE).seen);
        let mut count = 0;
        while poller.next() == Request::Read {
            seen.extend(poller.on(value(false, "a"), AT_ONCE).seen);
            count += 1;
        }
        reads.push(count);
    }
    assert_eq!(reads, [1, 2, 4, 8, 16, 32, 60, 60]);
    assert_eq!(seen, [WatchEvent::Health(Health::Reading)]);
}

#[test]
fn the_rate_of_requests_is_bounded_for_any_answers() {
    use proptest::prelude::*;
    let answer = prop_oneof![
        (any::<bool>(), "[a-c]").prop_map(|(preempted, etag)| value(preempted, &etag)),
        Just(trouble()),
        Just(no_server()),
    ];
    let script = proptest::collection::vec((answer, 0u64..100), 1..200);
    proptest!(|(script in script)| {
        let mut poller = Poller::default();
        for (answer, millis) in script {
            let took = Duration::from_millis(millis);
            let step = poller.on(answer, took);
            prop_assert!(step.pause + took >= Duration::from_millis(100));
            prop_assert!(step.pause <= Duration::from_secs(30));
        }
    });
}

/// Watches a fake server.
fn watched(act: impl Fn(&Asked) -> Act + Send + Sync + 'static) -> (FakeServer, Watcher, Events) {
    let server = FakeServer::start(act);
    let (watcher, events) = watched_at(&server.address());
    (server, watcher, events)
}

fn watched_at(address: &str) -> (Watcher, Events) {
    let (tell, events) = channel();
    let watcher = watch(&Metadata::new(address).unwrap(), move |seen| {
        // A test may drop the receiver before the watch ends.
        tell.send(seen).ok();
    })
    .unwrap();
    (watcher, Events(events))
}

struct Events(Receiver<WatchEvent>);

impl Events {
    fn next(&self) -> WatchEvent {
        during("the watch delivers an event", || self.0.recv()).unwrap()
    }

    fn wait_for(&self, desired: &WatchEvent) {
        while self.next() != *desired {}
    }
}

#[test]
fn a_preemption_that_began_before_the_watch_is_seen() {
    let (server, _watcher, events) = watched(|asked| match asked.number {
        0 => Act::answer(200, "a", "TRUE"),
        _ => Act::Silence,
    });
    assert_eq!(events.next(), WatchEvent::Preempted);
    assert_eq!(
        server.asked()[0],
        "/computeMetadata/v1/instance/preempted?wait_for_change=true&last_etag=0&timeout_sec=1"
    );
}

#[test]
fn a_preemption_during_a_wait_is_seen_at_once() {
    let flip = Arc::new(Barrier::new(2));
    let server_flip = Arc::clone(&flip);
    let (server, _watcher, events) = watched(move |asked| match asked.number {
        0 => Act::answer(200, "a", "FALSE"),
        1 => {
            server_flip.wait();
            Act::answer(200, "b", "TRUE")
        }
        _ => Act::Silence,
    });
    assert_eq!(events.next(), WatchEvent::Health(Health::Waiting));
    server.wait_for(2);
    assert!(server.asked()[1].contains("last_etag=a&"));
    flip.wait();
    // The event comes from this wait: the server answers no later request.
    assert_eq!(events.next(), WatchEvent::Preempted);
}

#[test]
fn a_preemption_behind_503s_resets_and_garbage_is_seen() {
    let (server, _watcher, events) = watched(|asked| match asked.number {
        0 => Act::answer(200, "a", "FALSE"),
        1 => Act::answer(503, "a", ""),
        2 => Act::Reset,
        3 => Act::answer(200, "b", &"TRUE ".repeat(100_000)),
        _ => Act::answer(200, "b", "TRUE"),
    });
    events.wait_for(&WatchEvent::Preempted);
    assert_eq!(server.asked()[2], "/computeMetadata/v1/instance/preempted");
}

#[test]
fn a_server_that_stops_answering_is_left_for_plain_reads() {
    let (_server, _watcher, events) = watched(|asked| match asked.number {
        0 => Act::answer(200, "a", "FALSE"),
        _ if asked.path.contains("wait_for_change") => Act::Stall(b"HTTP/1.1 200".to_vec()),
        _ => Act::answer(200, "b", "TRUE"),
    });
    events.wait_for(&WatchEvent::Preempted);
}

#[test]
fn a_server_that_comes_late_is_found() {
    let address = unused_address();
    let (_watcher, events) = watched_at(&address);
    assert!(matches!(
        events.next(),
        WatchEvent::Health(Health::Failing(_))
    ));
    let _server = FakeServer::start_at(&address, |_| Act::answer(200, "a", "TRUE"));
    assert_eq!(events.next(), WatchEvent::Preempted);
}

#[test]
fn a_watch_ends_when_it_is_dropped_whatever_it_waits_for() {
    let (server, watcher, events) = watched(|_| Act::Silence);
    server.wait_for(1);
    drop(watcher);
    during("the watch ends", || events.0.recv()).unwrap_err();
}
