//! Tests of requests for an agent or the fleet, also during launches and saves.

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
fn the_last_request_applies_to_an_agent_that_is_being_ended() {
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
fn a_restart_when_idle_waits_for_the_end_of_the_turn_and_happens_once() {
    let now = Instant::now();
    let mut supervisor = running(now);
    assert!(ended(&supervisor.step(now, restart(true))).is_empty());
    assert!(ended(&report(&mut supervisor, now, Activity::Waiting(None))).is_empty());
    assert_eq!(
        ended(&report(&mut supervisor, now, Activity::Idle)),
        [&name()]
    );
    let attempt = launch_in(&exit(&mut supervisor, now, Exit::Code(143))).unwrap();
    run(&mut supervisor, now, attempt);
    confirm(&mut supervisor, now);
    assert!(ended(&report(&mut supervisor, now, Activity::Idle)).is_empty());
    // An idle agent need not wait.
    assert_eq!(ended(&supervisor.step(now, restart(true))), [&name()]);
}

#[test]
fn an_agent_that_is_removed_from_the_file_is_ended_and_may_be_added_again() {
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
fn a_fleet_that_is_taken_down_ends_all_agents_and_starts_none_until_it_is_up() {
    let now = Instant::now();
    let mut supervisor = running(now);
    assert_eq!(supervisor.fleet(), Fleet::Up);
    let actions = supervisor.step(now, Event::Fleet(Fleet::Down));
    assert_eq!(
        (supervisor.fleet(), ended(&actions)),
        (Fleet::Down, vec![&name()])
    );
    assert!(matches!(
        logged(&actions)[..],
        [JournalEvent::Fleet {
            desired: Fleet::Down
        }]
    ));
    assert!(logged(&supervisor.step(now, Event::Fleet(Fleet::Down))).is_empty());
    exit(&mut supervisor, now, Exit::Code(143));
    assert_eq!(supervisor.view(&name()).unwrap().state, AgentState::Stopped);
    assert_eq!(
        supervisor.step(now, request(Desired::Running)),
        [Action::Persist(name())]
    );
    let actions = supervisor.step(now, Event::Fleet(Fleet::Up));
    assert!(launch_in(&actions).is_some());
    // An agent that fails at its start while the fleet is down is not tried again.
    supervisor.step(now, Event::Fleet(Fleet::Down));
    refuse(&mut supervisor, now, 2, true);
    assert_eq!(supervisor.next_wakeup(), None);
}

#[test]
fn the_reason_of_a_stop_is_shown_until_the_agent_starts_again() {
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
fn a_restart_skips_the_pause_and_only_the_user_restarts_a_failed_agent() {
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
fn an_agent_that_is_queued_when_the_notice_comes_may_still_be_stopped() {
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
fn a_change_of_request_is_logged_once_with_the_user_who_made_it() {
    let now = Instant::now();
    let mut supervisor = running(now);
    assert!(logged(&supervisor.step(now, request(Desired::Running))).is_empty());
    let (desired, by) = (Desired::Stopped, "ann".to_owned());
    let actions = supervisor.step(now, request(desired));
    assert_eq!(logged(&actions), [&JournalEvent::Desired { desired, by }]);
    assert!(logged(&supervisor.step(now, request(desired))).is_empty());
}

#[test]
fn a_launch_that_waited_for_the_disk_is_dropped_after_a_stop_or_a_notice() {
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
    // The refusal that follows stops it, and does not count as a failure.
    let Action::Launch { name: of, attempt } = launch else {
        panic!("not a launch")
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
