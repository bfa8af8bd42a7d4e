//! Tests of a fleet that waits for one login, and how it learns that there is one.

use std::time::{Duration, Instant};

use super::support::*;
use crate::*;
use claude::ApiStop;
use state::{AgentState, Desired, JournalEvent};
use sys::exit::Exit;
use sys::process::ProcessId;

const MINUTE: Duration = Duration::from_secs(60);
const SECOND: Duration = Duration::from_secs(1);

#[test]
fn one_agent_probes_the_login_for_the_whole_fleet_at_growing_intervals() {
    let now = Instant::now();
    let [a, b] = ["a", "b"].map(|name| AgentName::new(name).unwrap());
    let mut supervisor = idle_fleet(now, &[a.clone(), b.clone()]);
    let actions = report_of(&mut supervisor, now, &b, stalled("1", ApiStop::Login));
    assert!(actions.contains(&Action::Journal(
        None,
        JournalEvent::Paused {
            why: "login".into()
        }
    )));
    report_of(&mut supervisor, now, &a, stalled("2", ApiStop::Login));
    let mut due = now;
    for minutes in [15, 30, 60, 60, 60] {
        assert!(nudged(&tick(&mut supervisor, due + minutes * MINUTE - SECOND)).is_empty());
        due += minutes * MINUTE;
        assert_eq!(supervisor.next_wakeup(), Some(due));
        let actions = tick(&mut supervisor, due);
        let [asks] = nudged(&actions)[..] else {
            panic!("one asks: {actions:?}")
        };
        // The login is refused again.
        let asks = asks.clone();
        report_of(&mut supervisor, due, &asks, Activity::Busy);
        let id = format!("{due:?}");
        report_of(&mut supervisor, due, &asks, stalled(&id, ApiStop::Login));
    }
    assert_eq!(supervisor.paused(), Some("login"));
    // There is a login: all agents continue within seconds, one after the other.
    let actions = supervisor.step(due, Event::Login("the user typed /login".into()));
    assert!(unpaused(&actions) && supervisor.paused().is_none());
    assert!(nudged(&tick(&mut supervisor, due + SECOND)).is_empty());
    assert_eq!(nudged(&tick(&mut supervisor, due + 2 * SECOND)).len(), 1);
    assert_eq!(nudged(&tick(&mut supervisor, due + 3 * SECOND)).len(), 0);
    assert_eq!(nudged(&tick(&mut supervisor, due + 4 * SECOND)).len(), 1);
}

#[test]
fn an_answer_to_an_agent_with_a_login_ends_the_pause_once_it_cannot_predate_it() {
    let now = Instant::now();
    let [a, b] = ["a", "b"].map(|name| AgentName::new(name).unwrap());
    let mut supervisor = idle_fleet(now, &[a.clone(), b.clone()]);
    report_of(&mut supervisor, now, &a, stalled("1", ApiStop::Login));
    report_of(&mut supervisor, now, &b, Activity::Busy);
    assert!(!unpaused(&answered(
        &mut supervisor,
        now + 119 * SECOND,
        &b
    )));
    let later = now + 120 * SECOND;
    assert!(unpaused(&answered(&mut supervisor, later, &b)));
    // The login that `a` lacks is its own: it waits longer, and no pause is begun for it again.
    let next = supervisor.view(&a).unwrap().next_try.unwrap();
    assert!(next >= later + 5 * MINUTE, "{:?}", next - later);
    report_of(&mut supervisor, later, &a, Activity::Busy);
    report_of(&mut supervisor, later, &a, stalled("2", ApiStop::Login));
    assert_eq!(supervisor.paused(), None);
    assert!(supervisor.view(&a).unwrap().next_try.is_some());
    // Once the API has answered it, its login counts for all again.
    report_of(&mut supervisor, later, &a, Activity::Busy);
    answered(&mut supervisor, later, &a);
    report_of(&mut supervisor, later, &a, stalled("3", ApiStop::Login));
    assert_eq!(supervisor.paused(), Some("login"));
}

#[test]
fn an_answer_to_a_refused_agent_ends_the_pause_at_once() {
    let now = Instant::now();
    let [a, b] = ["a", "b"].map(|name| AgentName::new(name).unwrap());
    let mut supervisor = idle_fleet(now, &[a.clone(), b.clone()]);
    report_of(&mut supervisor, now, &a, stalled("1", ApiStop::Login));
    report_of(&mut supervisor, now, &b, stalled("2", ApiStop::Login));
    // The response to a stalled agent predates the stall.
    assert!(!unpaused(&answered(&mut supervisor, now, &a)));
    report_of(&mut supervisor, now, &a, Activity::Busy);
    assert!(unpaused(&answered(&mut supervisor, now, &a)));
    let next = supervisor.view(&b).unwrap().next_try;
    assert_eq!(next, Some(now + 2 * SECOND));
}

#[test]
fn a_fleet_without_an_agent_that_can_probe_the_login_starts_one() {
    let now = Instant::now();
    let [a, b, c] = ["a", "b", "c"].map(|name| AgentName::new(name).unwrap());
    let mut supervisor = idle_fleet(now, std::slice::from_ref(&a));
    report_of(&mut supervisor, now, &a, stalled("1", ApiStop::Login));
    let of = |name: &AgentName, pid: Option<i32>| Declared {
        name: name.clone(),
        session_id: name.to_string(),
        process: pid.map(|pid| ProcessId { pid, start_time: 1 }),
        ..declared()
    };
    let all = vec![of(&a, Some(100)), of(&b, None), of(&c, None)];
    assert!(launch_in(&supervisor.step(now, Event::Declare(all))).is_none());
    let (name, end) = (a.clone(), Exit::Code(0).into());
    let process = ProcessId {
        pid: 100,
        start_time: 1,
    };
    supervisor.step(now, Event::Exited { name, process, end });
    assert!(launch_in(&tick(&mut supervisor, now + 15 * MINUTE - SECOND)).is_none());
    tick(&mut supervisor, now + 15 * MINUTE);
    let actions = tick(&mut supervisor, now + 15 * MINUTE + SECOND);
    let next = supervisor.next_wakeup();
    let launches: Vec<&Action> = actions
        .iter()
        .filter(|action| matches!(action, Action::Launch { .. }))
        .collect();
    assert_eq!(launches.len(), 1, "{actions:?}");
    assert!(next.is_some_and(|at| at <= now + 45 * MINUTE));
    let later = tick(&mut supervisor, now + 16 * MINUTE);
    assert!(launch_in(&later).is_none(), "{later:?}");
    assert_eq!(supervisor.view(&c).unwrap().state, AgentState::Starting);
}

#[test]
fn the_login_is_probed_by_one_refused_agent_after_the_other() {
    let now = Instant::now();
    let names = ["a", "b", "c", "d"].map(|name| AgentName::new(name).unwrap());
    let [a, b, c, d] = &names;
    let mut supervisor = idle_fleet(now, &names);
    // The login that `a` lacks turns out to be its own; `d` works all the time.
    report_of(&mut supervisor, now, d, Activity::Busy);
    report_of(&mut supervisor, now, a, stalled("1", ApiStop::Login));
    answered(&mut supervisor, now + 120 * SECOND, d);
    assert!(supervisor.view(a).unwrap().next_try.is_some());
    // `d` is overloaded, and then no agent has a login.
    let began = now + 3 * MINUTE;
    report_of(&mut supervisor, began, d, stalled("2", ApiStop::Overloaded));
    let own = supervisor.view(d).unwrap().next_try;
    for (name, id) in [(b, "3"), (c, "4")] {
        report_of(&mut supervisor, began, name, stalled(id, ApiStop::Login));
    }
    let mut due = began + 15 * MINUTE;
    assert_eq!(
        supervisor.next_wakeup(),
        Some(due),
        "no other agent is nudged meanwhile"
    );
    assert_eq!(
        nudged(&tick(&mut supervisor, due - SECOND)),
        [] as [&AgentName; 0]
    );
    assert_eq!(nudged(&tick(&mut supervisor, due)), [b]);
    let nudge =
        |supervisor: &mut Supervisor, now: Instant, name: &AgentName, refused: Option<&str>| {
            let process = supervisor.view(name).and_then(|view| view.process).unwrap();
            let (name, refused) = (name.clone(), refused.map(str::to_owned));
            supervisor.step(
                now,
                Event::Nudged {
                    name,
                    process,
                    in_a_row: 1,
                    refused,
                },
            )
        };
    let waits = |supervisor: &Supervisor, name: &AgentName| {
        let why = supervisor.view(name).unwrap().why.unwrap();
        assert!(why.ends_with("; the fleet waits for a login"), "{why}");
    };
    // Without effect: it keeps waiting with the others, and the next one asks.
    nudge(&mut supervisor, due, b, None);
    tick(&mut supervisor, due + 2 * MINUTE);
    waits(&supervisor, b);
    due += 30 * MINUTE;
    assert_eq!(nudged(&tick(&mut supervisor, due)), [c]);
    // It could not be typed: the same.
    nudge(&mut supervisor, due, c, Some("unsubmitted input"));
    waits(&supervisor, c);
    due += 60 * MINUTE;
    assert_eq!(
        nudged(&tick(&mut supervisor, due)),
        [c],
        "it has not asked yet"
    );
    supervisor.step(due, Event::Login("the user typed /login".into()));
    assert_eq!(
        supervisor.view(d).unwrap().next_try,
        own,
        "it waits for something else"
    );
    assert_eq!(supervisor.view(b).unwrap().next_try, Some(due + 2 * SECOND));
}

#[test]
fn a_nudge_that_could_not_be_typed_before_a_pause_does_not_concern_the_login() {
    let now = Instant::now();
    let [a, b] = ["a", "b"].map(|name| AgentName::new(name).unwrap());
    let mut supervisor = idle_fleet(now, &[a.clone(), b.clone()]);
    report_of(&mut supervisor, now, &a, stalled("1", ApiStop::Overloaded));
    let due = supervisor.view(&a).unwrap().next_try.unwrap();
    assert_eq!(nudged(&tick(&mut supervisor, due)), [&a]);
    report_of(&mut supervisor, due, &b, stalled("2", ApiStop::Login));
    let process = supervisor.view(&a).and_then(|view| view.process).unwrap();
    let (name, refused) = (a.clone(), Some("unsubmitted input".to_owned()));
    supervisor.step(
        due,
        Event::Nudged {
            name,
            process,
            in_a_row: 1,
            refused,
        },
    );
    assert_eq!(
        supervisor.view(&a).unwrap().next_try,
        Some(due + 120 * SECOND)
    );
    // Nor does one without effect.
    let later = supervisor.step(due, Event::Login("a new one".into()));
    assert!(unpaused(&later));
    let due = due + 120 * SECOND;
    let mut at = due;
    while nudged(&tick(&mut supervisor, at)) != [&a] {
        at += SECOND;
        assert!(at < due + MINUTE);
    }
    report_of(&mut supervisor, at, &b, stalled("3", ApiStop::Login));
    tick(&mut supervisor, at + 120 * SECOND);
    assert!(
        supervisor
            .view(&a)
            .unwrap()
            .next_try
            .is_some_and(|next| next > at)
    );
}

#[test]
fn a_request_to_run_ends_the_pause_and_a_request_to_stop_does_not() {
    let now = Instant::now();
    let [a, b] = ["a", "b"].map(|name| AgentName::new(name).unwrap());
    let want = |desired| Event::Want {
        name: b.clone(),
        desired,
        by: "ann".into(),
    };
    let restart = Event::Restart {
        name: b.clone(),
        when_idle: true,
    };
    for (event, ends) in [
        (Event::Fleet(Fleet::Up), true),
        (want(Desired::Running), true),
        (restart, true),
        (want(Desired::Stopped), false),
        (Event::Fleet(Fleet::Down), false),
    ] {
        let mut supervisor = idle_fleet(now, &[a.clone(), b.clone()]);
        report_of(&mut supervisor, now, &a, stalled("1", ApiStop::Login));
        assert_eq!(
            unpaused(&supervisor.step(now, event.clone())),
            ends,
            "{event:?}"
        );
        assert_eq!(supervisor.paused().is_none(), ends);
    }
}

#[test]
fn a_login_that_is_back_does_not_repeat_a_refused_request() {
    let now = Instant::now();
    let [a, b] = ["a", "b"].map(|name| AgentName::new(name).unwrap());
    let mut supervisor = idle_fleet(now, &[a.clone(), b.clone()]);
    let refused = ApiStop::Refused { status: Some(400) };
    report_of(&mut supervisor, now, &b, stalled("1", refused));
    report_of(&mut supervisor, now, &a, stalled("2", ApiStop::Login));
    assert_eq!(supervisor.paused(), Some("login"));
    supervisor.step(now, Event::Login("the user typed /login".into()));
    assert_eq!(
        supervisor.view(&a).unwrap().next_try,
        Some(now + 2 * SECOND)
    );
    let view = supervisor.view(&b).unwrap();
    assert_eq!(view.next_try, None);
    let why = view.why.unwrap();
    assert!(why.ends_with("it waits for you"), "{why}");
}
