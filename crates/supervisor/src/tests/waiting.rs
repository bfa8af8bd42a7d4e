//! Tests of what the supervisor waits for, and how long: the API, a permit, a login, idle agents.

use std::time::{Duration, Instant};

use super::support::*;
use crate::*;
use claude::ApiStop;
use state::{Desired, JournalEvent, StallReason, StartKind};
use sys::exit::Exit;
use sys::process::ProcessId;

const MINUTE: Duration = Duration::from_secs(60);
const SECOND: Duration = Duration::from_secs(1);

#[test]
fn an_api_that_does_not_answer_delays_the_first_starts_by_a_minute_and_is_logged() {
    let now = Instant::now();
    let mut supervisor = Supervisor::new(Limits::for_cores(2), Fleet::Up, false);
    let until = None;
    supervisor.step(now, Event::Permit(Some(Permit { epoch: 1, until })));
    let actions = supervisor.step(now, Event::Declare(vec![declared()]));
    assert_eq!(actions, [Action::ProbeApi], "asked once");
    assert_eq!(supervisor.next_wakeup(), Some(now + MINUTE));
    assert_eq!(tick(&mut supervisor, now + MINUTE - SECOND), []);
    let actions = tick(&mut supervisor, now + MINUTE);
    assert!(launch_in(&actions).is_some());
    assert!(matches!(
        &actions[0],
        Action::Journal(None, JournalEvent::Trouble { what }) if what.contains("did not answer")
    ));
}

#[test]
fn a_permit_that_ends_lets_nothing_start_from_then_on() {
    let now = Instant::now();
    for (after, starts) in [(9, true), (10, false)] {
        let mut supervisor = ready(now, 2);
        let until = Some(now + 10 * SECOND);
        supervisor.step(now, Event::Permit(Some(Permit { epoch: 1, until })));
        let at = now + after * SECOND;
        let actions = supervisor.step(at, Event::Declare(vec![declared()]));
        assert_eq!(launch_in(&actions).is_some(), starts, "after {after} s");
    }
}

#[test]
fn the_screen_of_a_start_is_scanned_every_five_seconds_once_its_process_is_known() {
    let now = Instant::now();
    let (mut supervisor, attempt) = launched(now);
    let look = Action::ScanScreen {
        name: name(),
        attempt,
    };
    assert_eq!(supervisor.next_wakeup(), Some(now + 5 * SECOND));
    assert_eq!(tick(&mut supervisor, now + 5 * SECOND), []);
    run(&mut supervisor, now + 6 * SECOND, attempt);
    assert_eq!(tick(&mut supervisor, now + 9 * SECOND), []);
    for due in [10, 15, 20] {
        assert_eq!(supervisor.next_wakeup(), Some(now + due * SECOND));
        assert_eq!(
            tick(&mut supervisor, now + due * SECOND),
            std::slice::from_ref(&look)
        );
        assert_eq!(tick(&mut supervisor, now + due * SECOND), []);
    }
}

#[test]
fn failures_are_forgotten_after_ten_minutes_and_not_before() {
    for (seconds, counted) in [(540, 2), (600, 1), (601, 1)] {
        let mut now = Instant::now();
        let (mut supervisor, attempt) = launched(now);
        run(&mut supervisor, now, attempt);
        exit(&mut supervisor, now, Exit::Code(1));
        now = supervisor.next_wakeup().unwrap();
        let attempt = launch_in(&tick(&mut supervisor, now)).unwrap();
        run(&mut supervisor, now, attempt);
        confirm(&mut supervisor, now);
        now += seconds * SECOND;
        tick(&mut supervisor, now);
        let actions = exit(&mut supervisor, now, Exit::Signal(9));
        let failures = actions.iter().find_map(|action| match action {
            Action::Journal(_, JournalEvent::Backoff { failures, .. }) => Some(*failures),
            _ => None,
        });
        assert_eq!(failures, Some(counted), "after {seconds} s");
    }
}

#[test]
fn agents_with_different_names_wait_differently() {
    let seeds = (0..100).map(|nth| {
        let name = AgentName::new(&format!("agent-{nth}")).unwrap();
        crate::agent::jitter_seed(&name)
    });
    let seeds: std::collections::BTreeSet<u64> = seeds.collect();
    assert_eq!(seeds.len(), 100);
}

#[test]
fn only_a_fleet_without_an_agent_that_works_or_waits_is_idle() {
    let now = Instant::now();
    let span = 30 * MINUTE;
    let half = span / 2;
    let asks = |supervisor: &mut Supervisor| {
        supervisor.step(now, Event::StopWhenIdle(Some(span)));
        tick(supervisor, now);
        let due = supervisor.next_wakeup();
        assert!(!tick(supervisor, now + half).contains(&Action::CheckForWork));
        let asks = tick(supervisor, now + span).contains(&Action::CheckForWork);
        assert!(!asks || due == Some(now + span), "{due:?}");
        asks
    };
    let up = || {
        let (mut supervisor, attempt) = launched(now);
        run(&mut supervisor, now, attempt);
        confirm(&mut supervisor, now);
        supervisor
    };
    let with = |activity: Activity| {
        let mut supervisor = up();
        report(&mut supervisor, now, activity);
        supervisor
    };
    assert!(asks(&mut with(Activity::Idle)));
    for works in [
        Activity::Busy,
        Activity::Waiting(None),
        stalled("1", ApiStop::Network),
    ] {
        assert!(!asks(&mut with(works)));
    }
    // A stopped agent, and one that was given up, count as finished; one that is tried again does
    // not.
    let mut stopped = up();
    stopped.step(now, request(Desired::Stopped));
    assert!(!asks(&mut stopped));
    exit(&mut stopped, now, Exit::Code(143));
    assert!(asks(&mut stopped));
    let (name, attempt) = (name(), 1);
    for retry in [true, false] {
        let (mut supervisor, _) = launched(now);
        let why = "no claude".into();
        let refusal = Refusal { why, retry };
        let name = name.clone();
        supervisor.step(
            now,
            Event::Refused {
                name,
                attempt,
                refusal,
            },
        );
        // An agent that is tried again is launched meanwhile.
        assert_eq!(asks(&mut supervisor), !retry);
    }
    // A blocked start waits for the user, a fleet that is down for its user, and a data directory
    // for its keeper.
    let (mut supervisor, attempt) = launched(now);
    run(&mut supervisor, now, attempt);
    screen(&mut supervisor, now, attempt, Some("trust this folder?"));
    assert!(!asks(&mut supervisor));
    for event in [
        Event::Fleet(Fleet::Down),
        Event::Permit(None),
        Event::Declare(vec![]),
    ] {
        let mut supervisor = up();
        report(&mut supervisor, now, Activity::Idle);
        supervisor.step(now, event.clone());
        if supervisor.view(&declared().name).is_some() && supervisor.fleet() == Fleet::Down {
            exit(&mut supervisor, now, Exit::Code(143));
        }
        assert!(!asks(&mut supervisor), "{event:?}");
    }
    assert!(!asks(&mut ready(now, 2)), "no agents");
}

#[test]
fn a_failed_power_off_is_logged_and_the_fleet_continues() {
    let now = Instant::now();
    let (mut supervisor, attempt) = launched(now);
    run(&mut supervisor, now, attempt);
    report(&mut supervisor, now, Activity::Idle);
    supervisor.step(now, Event::StopWhenIdle(Some(MINUTE)));
    // An answer that is not expected any more, or comes at the wrong time, ends nothing.
    assert_eq!(tick(&mut supervisor, now + MINUTE), [Action::CheckForWork]);
    report(&mut supervisor, now + MINUTE, Activity::Busy);
    assert_eq!(supervisor.step(now + MINUTE, Event::WorkChecked(None)), []);
    report(&mut supervisor, now + MINUTE, Activity::Idle);
    let later = now + 2 * MINUTE;
    assert_eq!(tick(&mut supervisor, later), [Action::CheckForWork]);
    let actions = supervisor.step(later, Event::WorkChecked(None));
    assert!(matches!(
        actions[..],
        [
            Action::Journal(None, JournalEvent::PoweringOff { .. }),
            Action::Journal(None, JournalEvent::Notice { .. }),
            Action::Save(_)
        ]
    ));
    exit(&mut supervisor, later, Exit::Code(143));
    assert!(
        supervisor
            .step(later, Event::SaveEnded)
            .contains(&Action::PowerOff)
    );
    let actions = supervisor.step(later, Event::PowerOffFailed("no permission".into()));
    assert!(matches!(
        &actions[0],
        Action::Journal(None, JournalEvent::Trouble { what }) if what.contains("no permission")
    ));
    let attempt = launch_in(&actions).unwrap();
    run(&mut supervisor, later, attempt);
    report(&mut supervisor, later, Activity::Idle);
    assert_eq!(tick(&mut supervisor, later + 60 * MINUTE), [], "not again");
    // A save for another reason does not power the machine off.
    supervisor.step(
        later,
        Event::Notice(Notice::new(crate::notice::Source::Command, later, None)),
    );
    assert!(
        !supervisor
            .step(later, Event::SaveEnded)
            .contains(&Action::PowerOff)
    );
}

#[test]
fn a_nudge_that_could_not_be_typed_is_tried_again_and_one_without_effect_counts_as_a_stop() {
    let now = Instant::now();
    let [a] = ["a"].map(|name| AgentName::new(name).unwrap());
    let mut supervisor = idle_fleet(now, std::slice::from_ref(&a));
    report_of(&mut supervisor, now, &a, stalled("1", ApiStop::Unknown));
    let first = supervisor.view(&a).unwrap().next_try.unwrap();
    assert!(first >= now + 2 * MINUTE && first <= now + 3 * MINUTE);
    assert!(nudged(&tick(&mut supervisor, first - SECOND)).is_empty());
    assert_eq!(supervisor.next_wakeup(), Some(first));
    assert_eq!(nudged(&tick(&mut supervisor, first)), [&a]);
    let process = supervisor.view(&a).unwrap().process.unwrap();
    let came = |refused: Option<&str>| Event::Nudged {
        name: a.clone(),
        process,
        in_a_row: 1,
        refused: refused.map(str::to_owned),
    };
    let actions = supervisor.step(first, came(Some("unsubmitted input")));
    assert_eq!(actions, [Action::Persist(a.clone())]);
    // Nothing was sent, so it does not count, however often.
    let mut due = first;
    for _ in 0..9 {
        assert!(nudged(&tick(&mut supervisor, due + 119 * SECOND)).is_empty());
        due += 120 * SECOND;
        assert_eq!(nudged(&tick(&mut supervisor, due)), [&a]);
        supervisor.step(due, came(Some("unsubmitted input")));
    }
    due += 120 * SECOND;
    tick(&mut supervisor, due);
    // Typed without effect: each counts, and in the end the agent waits for the user.
    let mut typed = 0;
    while supervisor.view(&a).unwrap().why.unwrap() == "stopped by the API: API Error" {
        let actions = supervisor.step(due, came(None));
        let what = JournalEvent::Nudged { in_a_row: 1 };
        assert_eq!(actions[0], Action::Journal(Some(a.clone()), what));
        typed += 1;
        assert_eq!(supervisor.next_wakeup(), Some(due + 120 * SECOND));
        due += 120 * SECOND;
        tick(&mut supervisor, due);
        let Some(next) = supervisor.view(&a).unwrap().next_try else {
            break;
        };
        assert!(next > due + MINUTE);
        due = next;
        assert_eq!(nudged(&tick(&mut supervisor, due)), [&a]);
        assert!(typed < 20);
    }
    assert_eq!(typed, 6);
    let why = supervisor.view(&a).unwrap().why.unwrap();
    assert!(why.ends_with("it waits for you"), "{why}");
    assert_eq!(supervisor.next_wakeup(), None);
}

#[test]
fn a_stop_from_an_earlier_process_is_tried_at_once_only_where_that_may_help() {
    let now = Instant::now();
    let limit = ApiStop::Limit { until: None };
    let refused = ApiStop::Refused { status: None };
    let human = "it waits for you";
    // Reason of the stop, how the session was begun, then the seconds until the nudge (at least),
    // or that it waits for the user.
    for (stop, how, after, why) in [
        (ApiStop::Network, Some(StartKind::Continue), None, ""),
        (ApiStop::Network, Some(StartKind::Resume), Some(30), ""),
        (ApiStop::Login, Some(StartKind::Resume), Some(2), ""),
        (ApiStop::Login, Some(StartKind::Continue), None, ""),
        (limit, Some(StartKind::Resume), Some(900), ""),
        (refused, Some(StartKind::Resume), None, human),
        (ApiStop::Network, None, None, ""),
        (limit, None, Some(900), ""),
        (refused, None, None, human),
    ] {
        let mut supervisor = ready(now, 2);
        let process = how.is_none().then_some(PROCESS);
        let of = Declared {
            process,
            ..declared()
        };
        let launch = launch_in(&supervisor.step(now, Event::Declare(vec![of])));
        if let (Some(attempt), Some(how)) = (launch, how) {
            run_as(&mut supervisor, now, attempt, how);
        }
        let Activity::Stalled(stall) = stalled("1", stop) else {
            panic!("not a stall")
        };
        let inherited = true;
        let stall = Stall { inherited, ..stall };
        report(&mut supervisor, now, Activity::Stalled(stall.clone()));
        let view = supervisor.view(&name()).unwrap();
        let pause = view.next_try.map(|at| (at - now).as_secs());
        let fits = match (pause, after) {
            (Some(pause), Some(after)) => pause >= after && pause <= after + after / 4,
            (pause, after) => pause == after,
        };
        assert!(fits, "{stop:?} {how:?}: {pause:?}");
        assert!(view.why.unwrap().ends_with(why), "{stop:?} {how:?}");
        assert_eq!(supervisor.paused(), None, "it may be over");
        // Where it was tried, the supervisor waits for the result; else the nudge comes as planned,
        // whether the stop is reported once or twice.
        report(&mut supervisor, now + SECOND, Activity::Stalled(stall));
        assert_eq!(supervisor.view(&name()).unwrap().next_try, view.next_try);
        let tried = after.is_none() && why.is_empty();
        assert_eq!(supervisor.next_wakeup().is_some(), tried || after.is_some());
        if tried {
            assert_eq!(supervisor.next_wakeup(), Some(now + 120 * SECOND));
        }
    }
}

#[test]
fn a_stop_of_a_new_session_counts_as_new_even_before_the_first_scan() {
    let now = Instant::now();
    let mut supervisor = ready(now, 2);
    let launch = launch_in(&supervisor.step(now, Event::Declare(vec![declared()])));
    run_as(&mut supervisor, now, launch.unwrap(), StartKind::First);
    let Activity::Stalled(stall) = stalled("1", ApiStop::Login) else {
        panic!("not a stall")
    };
    let inherited = true;
    let activity = Activity::Stalled(Stall { inherited, ..stall });
    report(&mut supervisor, now, activity);
    assert_eq!(supervisor.paused(), Some("login"));
}

#[test]
fn while_the_api_returns_errors_one_agent_starts_at_a_time() {
    let now = Instant::now();
    let names = ["a", "b", "c", "d"].map(|name| AgentName::new(name).unwrap());
    let mut supervisor = idle_fleet(now, &names[..1]);
    report_of(
        &mut supervisor,
        now,
        &names[0],
        stalled("1", ApiStop::Overloaded),
    );
    let all = names.iter().map(|name| Declared {
        name: name.clone(),
        session_id: name.to_string(),
        ..declared()
    });
    let starts = |actions: Vec<Action>| {
        let launches = actions
            .iter()
            .filter(|action| matches!(action, Action::Launch { .. }));
        launches.count()
    };
    assert_eq!(
        starts(supervisor.step(now, Event::Declare(all.collect()))),
        1
    );
    let next = now + 5 * SECOND;
    assert_eq!(supervisor.next_wakeup(), Some(next));
    assert_eq!(starts(tick(&mut supervisor, next - SECOND)), 0);
    assert_eq!(starts(tick(&mut supervisor, next)), 1);
}

#[test]
fn a_machine_is_not_powered_off_after_the_user_cancels_or_a_save_has_ended_its_agents() {
    let now = Instant::now();
    let (mut supervisor, attempt) = launched(now);
    run(&mut supervisor, now, attempt);
    report(&mut supervisor, now, Activity::Idle);
    supervisor.step(now, Event::StopWhenIdle(Some(MINUTE)));
    assert_eq!(tick(&mut supervisor, now + MINUTE), [Action::CheckForWork]);
    supervisor.step(now + MINUTE, Event::StopWhenIdle(None));
    assert_eq!(supervisor.step(now + MINUTE, Event::WorkChecked(None)), []);
    assert_eq!(
        (supervisor.next_wakeup(), supervisor.is_closed()),
        (None, false)
    );
    supervisor.step(now, Event::StopWhenIdle(Some(MINUTE)));
    supervisor.step(now, request(Desired::Stopped));
    supervisor.step(
        now,
        Event::Notice(Notice::new(crate::notice::Source::Command, now, None)),
    );
    exit(&mut supervisor, now, Exit::Code(143));
    supervisor.step(now, Event::SaveEnded);
    for minutes in [2, 4, 60] {
        assert_eq!(tick(&mut supervisor, now + minutes * MINUTE), []);
    }
}

#[test]
fn no_agent_is_nudged_while_it_works_or_without_a_permit_or_in_a_boot_that_ends() {
    let now = Instant::now();
    let notice = Event::Notice(Notice::new(crate::notice::Source::Command, now, None));
    let works = Event::Session {
        name: name(),
        process: PROCESS,
        session_id: "s".into(),
        activity: Activity::Busy,
    };
    for event in [works, Event::Permit(None), notice] {
        let (mut supervisor, attempt) = launched(now);
        run(&mut supervisor, now, attempt);
        report(&mut supervisor, now, stalled("1", ApiStop::Network));
        assert_eq!(
            supervisor.next_wakeup(),
            supervisor.view(&name()).unwrap().next_try
        );
        supervisor.step(now, event.clone());
        assert_eq!(supervisor.next_wakeup(), None, "{event:?}");
        let later = tick(&mut supervisor, now + 60 * MINUTE);
        assert!(nudged(&later).is_empty(), "{event:?}");
    }
}

#[test]
fn the_end_of_a_limit_is_logged_with_the_stop() {
    let now = Instant::now();
    let (mut supervisor, attempt) = launched(now);
    run(&mut supervisor, now, attempt);
    confirm(&mut supervisor, now);
    let until = Some(sys::time::Timestamp::now());
    let actions = report(&mut supervisor, now, stalled("1", ApiStop::Limit { until }));
    let what = JournalEvent::Stalled {
        reason: StallReason::Limit,
        why: "API Error".into(),
        until,
        in_a_row: 1,
    };
    assert!(
        actions.contains(&Action::Journal(Some(name()), what)),
        "{actions:?}"
    );
}

#[test]
fn the_time_scale_shortens_the_pauses() {
    let now = Instant::now();
    let limits = Limits::for_cores(2).with_time_scale(Some("60".into()));
    let mut supervisor = Supervisor::new(limits, Fleet::Up, false);
    let until = None;
    supervisor.step(now, Event::Permit(Some(Permit { epoch: 1, until })));
    supervisor.step(now, Event::ApiAnswers);
    let process = Some(PROCESS);
    let of = |name: &str, pid| Declared {
        name: AgentName::new(name).unwrap(),
        session_id: "s".into(),
        process: process.map(|process| ProcessId { pid, ..process }),
        ..declared()
    };
    supervisor.step(now, Event::Declare(vec![of("a", PROCESS.pid)]));
    report(&mut supervisor, now, stalled("1", ApiStop::Overloaded));
    let pause = supervisor.view(&name()).unwrap().next_try.unwrap() - now;
    assert!(pause >= SECOND && pause < 2 * SECOND, "{pause:?}");
}

#[test]
fn a_nudge_is_logged_even_where_the_model_answers_before_the_typing_is_over() {
    let now = Instant::now();
    let a = name();
    let mut supervisor = idle_fleet(now, std::slice::from_ref(&a));
    report_of(&mut supervisor, now, &a, stalled("1", ApiStop::Overloaded));
    let due = supervisor.view(&a).unwrap().next_try.unwrap();
    assert_eq!(nudged(&tick(&mut supervisor, due)), [&a]);
    let process = supervisor.view(&a).unwrap().process.unwrap();
    report_of(&mut supervisor, due, &a, Activity::Busy);
    answered(&mut supervisor, due, &a);
    let typed = Event::Nudged {
        name: a.clone(),
        process,
        in_a_row: 1,
        refused: None,
    };
    let told = Action::Journal(Some(a), JournalEvent::Nudged { in_a_row: 1 });
    assert!(supervisor.step(due, typed).contains(&told));
}
