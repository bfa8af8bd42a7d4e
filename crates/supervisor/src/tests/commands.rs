//! What somebody wants of an agent or of the fleet, also at the wrong moment.

use std::time::Instant;

use super::support::*;
use crate::notice::Source;
use crate::*;
use state::{AgentState, Cause, Desired, JournalEvent, StartKind};
use sys::exit::Exit;

#[test]
fn a_request_during_a_launch_is_kept_until_its_process_is_known_and_may_be_taken_back() {
    let now = Instant::now();
    let launched_event = |attempt| Event::Launched {
        name: name(),
        attempt,
        process: PROCESS,
        how: StartKind::First,
    };
    let end = Action::End {
        name: name(),
        process: PROCESS,
    };
    for (requests, ends, comes_back) in [
        (vec![], false, false),
        (vec![request(Desired::Stopped)], true, false),
        (vec![restart(false)], true, true),
        (
            vec![request(Desired::Stopped), request(Desired::Running)],
            false,
            false,
        ),
    ] {
        let (mut supervisor, attempt) = launched(now);
        for request in requests {
            assert!(ended(&supervisor.step(now, request)).is_empty());
        }
        let actions = supervisor.step(now, launched_event(attempt));
        assert_eq!(actions.contains(&end), ends);
        if ends {
            let actions = exit(&mut supervisor, now, Exit::Code(143));
            assert_eq!(launch_in(&actions).is_some(), comes_back);
        }
    }
}

#[test]
fn the_last_request_counts_for_an_agent_that_is_being_ended() {
    let now = Instant::now();
    for (requests, comes_back) in [
        ([request(Desired::Stopped), request(Desired::Running)], true),
        ([restart(false), request(Desired::Stopped)], false),
    ] {
        let mut supervisor = running(now);
        let [first, last] = requests;
        assert_eq!(ended(&supervisor.step(now, first)), [&name()]);
        assert!(
            ended(&supervisor.step(now, last)).is_empty(),
            "told to end once"
        );
        let actions = exit(&mut supervisor, now, Exit::Code(143));
        assert_eq!(launch_in(&actions).is_some(), comes_back);
        let state = supervisor.view(&name()).unwrap().state;
        assert_eq!(state == AgentState::Stopped, !comes_back);
    }
}

#[test]
fn an_agent_that_is_to_start_anew_when_idle_finishes_its_turn_and_does_so_once() {
    let now = Instant::now();
    let mut supervisor = running(now);
    assert!(ended(&supervisor.step(now, restart(true))).is_empty());
    assert!(ended(&tell(&mut supervisor, now, Activity::Waiting(None))).is_empty());
    assert_eq!(
        ended(&tell(&mut supervisor, now, Activity::Idle)),
        [&name()]
    );
    let attempt = launch_in(&exit(&mut supervisor, now, Exit::Code(143))).unwrap();
    run(&mut supervisor, now, attempt);
    confirm(&mut supervisor, now);
    assert!(ended(&tell(&mut supervisor, now, Activity::Idle)).is_empty());
    // One that is idle need not wait.
    assert_eq!(ended(&supervisor.step(now, restart(true))), [&name()]);
}

#[test]
fn who_is_taken_out_of_the_file_is_ended_then_forgotten_and_may_come_back() {
    let now = Instant::now();
    let mut supervisor = running(now);
    assert_eq!(
        ended(&supervisor.step(now, Event::Declare(vec![]))),
        [&name()]
    );
    assert!(
        supervisor.view(&name()).is_some(),
        "its process is still there"
    );
    let actions = exit(&mut supervisor, now, Exit::Code(143));
    assert!(launch_in(&actions).is_none());
    assert!(supervisor.view(&name()).is_none());
    let actions = supervisor.step(now, Event::Declare(vec![declared()]));
    assert!(launch_in(&actions).is_some());
}

#[test]
fn a_fleet_that_is_taken_down_ends_whoever_runs_and_starts_nobody_until_it_is_up() {
    let now = Instant::now();
    let mut supervisor = running(now);
    assert_eq!(supervisor.fleet(), Fleet::Up);
    let actions = supervisor.step(now, Event::Fleet(Fleet::Down));
    assert_eq!(
        (supervisor.fleet(), ended(&actions)),
        (Fleet::Down, vec![&name()])
    );
    assert!(matches!(
        told(&actions)[..],
        [JournalEvent::Fleet {
            desired: Fleet::Down
        }]
    ));
    assert!(told(&supervisor.step(now, Event::Fleet(Fleet::Down))).is_empty());
    exit(&mut supervisor, now, Exit::Code(143));
    assert_eq!(supervisor.view(&name()).unwrap().state, AgentState::Stopped);
    assert_eq!(
        supervisor.step(now, request(Desired::Running)),
        [Action::Persist(name())]
    );
    let actions = supervisor.step(now, Event::Fleet(Fleet::Up));
    assert!(launch_in(&actions).is_some());
    // Who fails at its start while the fleet is down is not tried again.
    supervisor.step(now, Event::Fleet(Fleet::Down));
    refuse(&mut supervisor, now, 2, true);
    assert_eq!(supervisor.next_wakeup(), None);
}

#[test]
fn why_an_agent_was_stopped_is_shown_as_long_as_it_is_and_not_when_it_starts_again() {
    let now = Instant::now();
    let by = || Some(Cause::Stopped { by: "ann".into() });
    for (second, state, why, cause) in [
        (None, AgentState::Stopped, Some("stopped by you"), by()),
        (
            Some(restart(false)),
            AgentState::Stopped,
            Some("stopped by you"),
            by(),
        ),
        (
            Some(request(Desired::Running)),
            AgentState::Starting,
            None,
            None,
        ),
    ] {
        let mut supervisor = running(now);
        supervisor.step(now, request(Desired::Stopped));
        if let Some(second) = second {
            supervisor.step(now, second);
        }
        exit(&mut supervisor, now, Exit::Code(143));
        is_shown(&supervisor, state, why, cause);
    }
}

#[test]
fn a_restart_does_not_sit_out_a_pause_and_only_a_person_revives_what_was_given_up() {
    let now = Instant::now();
    let mut supervisor = running(now);
    exit(&mut supervisor, now, Exit::Signal(9));
    let attempt = launch_in(&supervisor.step(now, restart(false))).unwrap();
    refuse(&mut supervisor, now, attempt, false);
    for event in [Event::Fleet(Fleet::Down), Event::Fleet(Fleet::Up)] {
        assert!(launch_in(&supervisor.step(now, event)).is_none());
        is_shown(
            &supervisor,
            AgentState::Failed,
            Some("no claude"),
            Some(Cause::CannotStart),
        );
    }
    assert!(launch_in(&supervisor.step(now, restart(true))).is_some());
}

#[test]
fn who_is_in_the_queue_when_the_notice_comes_may_still_be_unwanted() {
    let now = Instant::now();
    for (undesired, why) in [
        (request(Desired::Stopped), Some("stopped by you")),
        (Event::Fleet(Fleet::Down), None),
    ] {
        let mut supervisor = Supervisor::new(Limits::for_cores(2), Fleet::Up, false);
        supervisor.step(now, Event::Declare(vec![declared()]));
        supervisor.step(now, Event::Notice(Notice::new(Source::Command, now, None)));
        assert_eq!(supervisor.views()[0].state, AgentState::Starting);
        supervisor.step(now, undesired);
        let view = &supervisor.views()[0];
        assert_eq!(
            (view.state, view.why.as_deref()),
            (AgentState::Stopped, why)
        );
    }
}

#[test]
fn a_change_of_request_is_written_down_once_with_who_asked_for_it() {
    let now = Instant::now();
    let mut supervisor = running(now);
    assert!(told(&supervisor.step(now, request(Desired::Running))).is_empty());
    let (desired, by) = (Desired::Stopped, "ann".to_owned());
    let actions = supervisor.step(now, request(desired));
    assert_eq!(told(&actions), [&JournalEvent::Desired { desired, by }]);
    assert!(told(&supervisor.step(now, request(desired))).is_empty());
}

#[test]
fn a_launch_that_waited_for_the_disk_is_not_wanted_once_somebody_stopped_it_or_the_notice_came() {
    let now = Instant::now();
    let launched = || {
        let mut supervisor = ready(now, 2);
        let actions = supervisor.step(now, Event::Declare(vec![declared()]));
        let launch = actions
            .into_iter()
            .find(|action| matches!(action, Action::Launch { .. }));
        (supervisor, launch.unwrap())
    };
    let (supervisor, launch) = launched();
    assert!(supervisor.still_wants(&launch));
    let (mut supervisor, launch) = launched();
    supervisor.step(now, request(Desired::Stopped));
    assert!(!supervisor.still_wants(&launch));
    // What is answered instead stops it, and is no failure.
    let Action::Launch { name: of, attempt } = launch else {
        panic!("it is one")
    };
    let refusal = Refusal {
        why: "stopped".into(),
        retry: true,
    };
    let refused = Event::Refused {
        name: of,
        attempt,
        refusal,
    };
    supervisor.step(now, refused);
    assert_eq!(supervisor.view(&name()).unwrap().state, AgentState::Stopped);
    let (mut supervisor, launch) = launched();
    supervisor.step(now, Event::Notice(Notice::new(Source::Command, now, None)));
    assert!(!supervisor.still_wants(&Action::PowerOff));
    supervisor.step(now, Event::SaveEnded);
    assert!(!supervisor.still_wants(&launch));
    assert!(supervisor.still_wants(&Action::PowerOff));
    supervisor.step(now, Event::Survived);
    assert!(!supervisor.still_wants(&launch) && !supervisor.still_wants(&Action::PowerOff));
}
