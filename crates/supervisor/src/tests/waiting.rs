//! What is waited for, and how long: an API, a permit, a login, a rest.

use std::time::{Duration, Instant};

use super::support::*;
use crate::*;
use claude::ApiStop;
use state::{JournalEvent, StallReason, StartKind, Desired};
use sys::exit::Exit;
use sys::process::ProcessId;

const MINUTE: Duration = Duration::from_secs(60);
const SECOND: Duration = Duration::from_secs(1);

#[test]
fn an_api_that_does_not_answer_delays_the_first_starts_by_a_minute_and_that_is_told() {
    let now = Instant::now();
    let mut core = Core::new(Limits::for_cores(2), Fleet::Up, false);
    let until = None;
    core.step(now, Event::Permit(Some(Permit { epoch: 1, until })));
    let actions = core.step(now, Event::Declare(vec![declared()]));
    assert_eq!(actions, [Action::ProbeApi], "asked once");
    assert_eq!(core.next_wakeup(), Some(now + MINUTE));
    assert_eq!(tick(&mut core, now + MINUTE - SECOND), []);
    let actions = tick(&mut core, now + MINUTE);
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
        let mut core = ready(now, 2);
        let until = Some(now + 10 * SECOND);
        core.step(now, Event::Permit(Some(Permit { epoch: 1, until })));
        let at = now + after * SECOND;
        let actions = core.step(at, Event::Declare(vec![declared()]));
        assert_eq!(launch_in(&actions).is_some(), starts, "after {after} s");
    }
}

#[test]
fn a_start_is_looked_at_every_five_seconds_once_its_process_is_known() {
    let now = Instant::now();
    let (mut core, attempt) = launched(now);
    let look = Action::LookAtScreen {
        name: name(),
        attempt,
    };
    assert_eq!(core.next_wakeup(), Some(now + 5 * SECOND));
    assert_eq!(tick(&mut core, now + 5 * SECOND), []);
    run(&mut core, now + 6 * SECOND, attempt);
    assert_eq!(tick(&mut core, now + 9 * SECOND), []);
    for due in [10, 15, 20] {
        assert_eq!(core.next_wakeup(), Some(now + due * SECOND));
        assert_eq!(
            tick(&mut core, now + due * SECOND),
            std::slice::from_ref(&look)
        );
        assert_eq!(tick(&mut core, now + due * SECOND), []);
    }
}

#[test]
fn failures_are_forgotten_after_ten_minutes_and_not_before() {
    for (seconds, counted) in [(540, 2), (600, 1), (601, 1)] {
        let mut now = Instant::now();
        let (mut core, attempt) = launched(now);
        run(&mut core, now, attempt);
        exit(&mut core, now, Exit::Code(1));
        now = core.next_wakeup().unwrap();
        let attempt = launch_in(&tick(&mut core, now)).unwrap();
        run(&mut core, now, attempt);
        confirm(&mut core, now);
        now += seconds * SECOND;
        tick(&mut core, now);
        let actions = exit(&mut core, now, Exit::Signal(9));
        let failures = actions.iter().find_map(|action| match action {
            Action::Journal(_, JournalEvent::Backoff { failures, .. }) => Some(*failures),
            _ => None,
        });
        assert_eq!(failures, Some(counted), "after {seconds} s");
    }
}

#[test]
fn agents_whose_names_differ_wait_differently() {
    let seeds = (0..100).map(|nth| {
        let name = AgentName::new(&format!("agent-{nth}")).unwrap();
        crate::agent::jitter_seed(&name)
    });
    let seeds: std::collections::BTreeSet<u64> = seeds.collect();
    assert_eq!(seeds.len(), 100);
}

#[test]
fn only_a_fleet_of_which_nobody_works_or_waits_is_at_rest() {
    let now = Instant::now();
    let span = 30 * MINUTE;
    let half = span / 2;
    let asks = |core: &mut Core| {
        core.step(now, Event::StopWhenIdle(Some(span)));
        tick(core, now);
        let due = core.next_wakeup();
        assert!(!tick(core, now + half).contains(&Action::LookForWork));
        let asks = tick(core, now + span).contains(&Action::LookForWork);
        assert!(!asks || due == Some(now + span), "{due:?}");
        asks
    };
    let up = || {
        let (mut core, attempt) = launched(now);
        run(&mut core, now, attempt);
        confirm(&mut core, now);
        core
    };
    let with = |activity: Activity| {
        let mut core = up();
        tell(&mut core, now, activity);
        core
    };
    assert!(asks(&mut with(Activity::Idle)));
    for works in [
        Activity::Busy,
        Activity::Waiting(None),
        stalled("1", ApiStop::Network),
    ] {
        assert!(!asks(&mut with(works)));
    }
    // One that was stopped, and one that was given up; but not one that is tried again.
    let mut stopped = up();
    stopped.step(now, request(Desired::Stopped));
    assert!(!asks(&mut stopped));
    exit(&mut stopped, now, Exit::Code(143));
    assert!(asks(&mut stopped));
    let (name, attempt) = (name(), 1);
    for retry in [true, false] {
        let (mut core, _) = launched(now);
        let why = "no claude".into();
        let refusal = Refusal { why, retry };
        let name = name.clone();
        core.step(
            now,
            Event::Refused {
                name,
                attempt,
                refusal,
            },
        );
        // (What is tried again is launched meanwhile.)
        assert_eq!(asks(&mut core), !retry);
    }
    // A blocked start waits for a human, a fleet that is down for its user, a data directory for its keeper.
    let (mut core, attempt) = launched(now);
    run(&mut core, now, attempt);
    screen(&mut core, now, attempt, Some("trust this folder?"));
    assert!(!asks(&mut core));
    for event in [
        Event::Fleet(Fleet::Down),
        Event::Permit(None),
        Event::Declare(vec![]),
    ] {
        let mut core = up();
        tell(&mut core, now, Activity::Idle);
        core.step(now, event.clone());
        if core.view(&declared().name).is_some() && core.fleet() == Fleet::Down {
            exit(&mut core, now, Exit::Code(143));
        }
        assert!(!asks(&mut core), "{event:?}");
    }
    assert!(!asks(&mut ready(now, 2)), "nobody is there");
}

#[test]
fn a_machine_that_cannot_be_powered_off_says_so_and_its_fleet_goes_on() {
    let now = Instant::now();
    let (mut core, attempt) = launched(now);
    run(&mut core, now, attempt);
    tell(&mut core, now, Activity::Idle);
    core.step(now, Event::StopWhenIdle(Some(MINUTE)));
    // An answer that nobody waits for any more, or at the wrong time, ends nothing.
    assert_eq!(tick(&mut core, now + MINUTE), [Action::LookForWork]);
    tell(&mut core, now + MINUTE, Activity::Busy);
    assert_eq!(core.step(now + MINUTE, Event::LookedForWork(None)), []);
    tell(&mut core, now + MINUTE, Activity::Idle);
    let later = now + 2 * MINUTE;
    assert_eq!(tick(&mut core, later), [Action::LookForWork]);
    let actions = core.step(later, Event::LookedForWork(None));
    assert!(matches!(
        actions[..],
        [
            Action::Journal(None, JournalEvent::PoweringOff { .. }),
            Action::Journal(None, JournalEvent::Notice { .. }),
            Action::Save(_)
        ]
    ));
    exit(&mut core, later, Exit::Code(143));
    assert!(
        core.step(later, Event::SaveEnded)
            .contains(&Action::PowerOff)
    );
    let actions = core.step(later, Event::PowerOffFailed("no permission".into()));
    assert!(matches!(
        &actions[0],
        Action::Journal(None, JournalEvent::Trouble { what }) if what.contains("no permission")
    ));
    let attempt = launch_in(&actions).unwrap();
    run(&mut core, later, attempt);
    tell(&mut core, later, Activity::Idle);
    assert_eq!(tick(&mut core, later + 60 * MINUTE), [], "not again");
    // A save for another reason does not end the machine.
    core.step(
        later,
        Event::Notice(Notice::new(crate::notice::Source::Command, later, None)),
    );
    assert!(
        !core
            .step(later, Event::SaveEnded)
            .contains(&Action::PowerOff)
    );
}

#[test]
fn a_nudge_that_could_not_be_typed_is_tried_again_and_one_that_changed_nothing_counts_as_a_stop() {
    let now = Instant::now();
    let [a] = ["a"].map(|name| AgentName::new(name).unwrap());
    let mut core = idle_fleet(now, std::slice::from_ref(&a));
    say(&mut core, now, &a, stalled("1", ApiStop::Unknown));
    let first = core.view(&a).unwrap().next_try.unwrap();
    assert!(first >= now + 2 * MINUTE && first <= now + 3 * MINUTE);
    assert!(nudged(&tick(&mut core, first - SECOND)).is_empty());
    assert_eq!(core.next_wakeup(), Some(first));
    assert_eq!(nudged(&tick(&mut core, first)), [&a]);
    let process = core.view(&a).unwrap().process.unwrap();
    let came = |refused: Option<&str>| Event::Nudged {
        name: a.clone(),
        process,
        in_a_row: 1,
        refused: refused.map(str::to_owned),
    };
    let actions = core.step(first, came(Some("unsent words")));
    assert_eq!(actions, [Action::Persist(a.clone())]);
    // Nothing was said, so it does not count, however often.
    let mut due = first;
    for _ in 0..9 {
        assert!(nudged(&tick(&mut core, due + 119 * SECOND)).is_empty());
        due += 120 * SECOND;
        assert_eq!(nudged(&tick(&mut core, due)), [&a]);
        core.step(due, came(Some("unsent words")));
    }
    due += 120 * SECOND;
    tick(&mut core, due);
    // Typed, and nothing came of it: each counts, and in the end a human is asked for.
    let mut typed = 0;
    while core.view(&a).unwrap().why.unwrap() == "stopped by the API: API Error" {
        let actions = core.step(due, came(None));
        let what = JournalEvent::Nudged { in_a_row: 1 };
        assert_eq!(actions[0], Action::Journal(Some(a.clone()), what));
        typed += 1;
        assert_eq!(core.next_wakeup(), Some(due + 120 * SECOND));
        due += 120 * SECOND;
        tick(&mut core, due);
        let Some(next) = core.view(&a).unwrap().next_try else {
            break;
        };
        assert!(next > due + MINUTE);
        due = next;
        assert_eq!(nudged(&tick(&mut core, due)), [&a]);
        assert!(typed < 20);
    }
    assert_eq!(typed, 6);
    let why = core.view(&a).unwrap().why.unwrap();
    assert!(why.ends_with("it waits for you"), "{why}");
    assert_eq!(core.next_wakeup(), None);
}

#[test]
fn a_stop_from_before_this_process_is_tried_at_once_only_where_that_may_help() {
    let now = Instant::now();
    let limit = ApiStop::Limit { until: None };
    let refused = ApiStop::Refused { status: None };
    let human = "it waits for you";
    // Stopped by what, begun how; after how many seconds it is nudged (at least), or left to a human.
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
        let mut core = ready(now, 2);
        let process = how.is_none().then_some(PROCESS);
        let of = Declared {
            process,
            ..declared()
        };
        let launch = launch_in(&core.step(now, Event::Declare(vec![of])));
        if let (Some(attempt), Some(how)) = (launch, how) {
            run_as(&mut core, now, attempt, how);
        }
        let Activity::Stalled(stall) = stalled("1", stop) else {
            panic!("it is one")
        };
        let inherited = true;
        let stall = Stall { inherited, ..stall };
        tell(&mut core, now, Activity::Stalled(stall.clone()));
        let view = core.view(&name()).unwrap();
        let pause = view.next_try.map(|at| (at - now).as_secs());
        let fits = match (pause, after) {
            (Some(pause), Some(after)) => pause >= after && pause <= after + after / 4,
            (pause, after) => pause == after,
        };
        assert!(fits, "{stop:?} {how:?}: {pause:?}");
        assert!(view.why.unwrap().ends_with(why), "{stop:?} {how:?}");
        assert_eq!(core.paused(), None, "it may be over");
        // Where it was tried, it is waited for the outcome; else it comes as planned, told twice or not.
        tell(&mut core, now + SECOND, Activity::Stalled(stall));
        assert_eq!(core.view(&name()).unwrap().next_try, view.next_try);
        let tried = after.is_none() && why.is_empty();
        assert_eq!(core.next_wakeup().is_some(), tried || after.is_some());
        if tried {
            assert_eq!(core.next_wakeup(), Some(now + 120 * SECOND));
        }
    }
}

#[test]
fn a_stop_that_a_new_session_met_before_the_first_look_at_it_is_news() {
    let now = Instant::now();
    let mut core = ready(now, 2);
    let launch = launch_in(&core.step(now, Event::Declare(vec![declared()])));
    run_as(&mut core, now, launch.unwrap(), StartKind::First);
    let Activity::Stalled(stall) = stalled("1", ApiStop::Login) else {
        panic!("it is one")
    };
    let inherited = true;
    let activity = Activity::Stalled(Stall { inherited, ..stall });
    tell(&mut core, now, activity);
    assert_eq!(core.paused(), Some("login"));
}

#[test]
fn while_the_api_is_in_trouble_one_agent_starts_at_a_time() {
    let now = Instant::now();
    let names = ["a", "b", "c", "d"].map(|name| AgentName::new(name).unwrap());
    let mut core = idle_fleet(now, &names[..1]);
    say(&mut core, now, &names[0], stalled("1", ApiStop::Overloaded));
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
    assert_eq!(starts(core.step(now, Event::Declare(all.collect()))), 1);
    let next = now + 5 * SECOND;
    assert_eq!(core.next_wakeup(), Some(next));
    assert_eq!(starts(tick(&mut core, next - SECOND)), 0);
    assert_eq!(starts(tick(&mut core, next)), 1);
}

#[test]
fn a_machine_stays_when_its_user_takes_the_request_back_or_a_save_has_ended_its_work() {
    let now = Instant::now();
    let (mut core, attempt) = launched(now);
    run(&mut core, now, attempt);
    tell(&mut core, now, Activity::Idle);
    core.step(now, Event::StopWhenIdle(Some(MINUTE)));
    assert_eq!(tick(&mut core, now + MINUTE), [Action::LookForWork]);
    core.step(now + MINUTE, Event::StopWhenIdle(None));
    assert_eq!(core.step(now + MINUTE, Event::LookedForWork(None)), []);
    assert_eq!((core.next_wakeup(), core.is_closed()), (None, false));
    core.step(now, Event::StopWhenIdle(Some(MINUTE)));
    core.step(now, request(Desired::Stopped));
    core.step(
        now,
        Event::Notice(Notice::new(crate::notice::Source::Command, now, None)),
    );
    exit(&mut core, now, Exit::Code(143));
    core.step(now, Event::SaveEnded);
    for minutes in [2, 4, 60] {
        assert_eq!(tick(&mut core, now + minutes * MINUTE), []);
    }
}

#[test]
fn nobody_is_nudged_who_works_nor_without_a_permit_nor_in_a_boot_that_ends() {
    let now = Instant::now();
    let notice = Event::Notice(Notice::new(crate::notice::Source::Command, now, None));
    let works = Event::Session {
        name: name(),
        process: PROCESS,
        session_id: "s".into(),
        activity: Activity::Busy,
    };
    for event in [works, Event::Permit(None), notice] {
        let (mut core, attempt) = launched(now);
        run(&mut core, now, attempt);
        tell(&mut core, now, stalled("1", ApiStop::Network));
        assert_eq!(core.next_wakeup(), core.view(&name()).unwrap().next_try);
        core.step(now, event.clone());
        assert_eq!(core.next_wakeup(), None, "{event:?}");
        let later = tick(&mut core, now + 60 * MINUTE);
        assert!(nudged(&later).is_empty(), "{event:?}");
    }
}

#[test]
fn the_end_of_a_limit_is_written_down_with_the_stop() {
    let now = Instant::now();
    let (mut core, attempt) = launched(now);
    run(&mut core, now, attempt);
    confirm(&mut core, now);
    let until = Some(sys::time::Timestamp::now());
    let actions = tell(&mut core, now, stalled("1", ApiStop::Limit { until }));
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
fn scaled_a_test_of_the_whole_program_waits_for_a_fraction() {
    let now = Instant::now();
    let limits = Limits::for_cores(2).with_time_scale(Some("60".into()));
    let mut core = Core::new(limits, Fleet::Up, false);
    let until = None;
    core.step(now, Event::Permit(Some(Permit { epoch: 1, until })));
    core.step(now, Event::ApiAnswers);
    let process = Some(PROCESS);
    let of = |name: &str, pid| Declared {
        name: AgentName::new(name).unwrap(),
        session_id: "s".into(),
        process: process.map(|process| ProcessId { pid, ..process }),
        ..declared()
    };
    core.step(now, Event::Declare(vec![of("a", PROCESS.pid)]));
    tell(&mut core, now, stalled("1", ApiStop::Overloaded));
    let pause = core.view(&name()).unwrap().next_try.unwrap() - now;
    assert!(pause >= SECOND && pause < 2 * SECOND, "{pause:?}");
}

#[test]
fn a_nudge_is_told_even_where_the_agent_is_answered_before_the_typing_is_over() {
    let now = Instant::now();
    let a = name();
    let mut core = idle_fleet(now, std::slice::from_ref(&a));
    say(&mut core, now, &a, stalled("1", ApiStop::Overloaded));
    let due = core.view(&a).unwrap().next_try.unwrap();
    assert_eq!(nudged(&tick(&mut core, due)), [&a]);
    let process = core.view(&a).unwrap().process.unwrap();
    say(&mut core, due, &a, Activity::Busy);
    answered(&mut core, due, &a);
    let typed = Event::Nudged {
        name: a.clone(),
        process,
        in_a_row: 1,
        refused: None,
    };
    let told = Action::Journal(Some(a), JournalEvent::Nudged { in_a_row: 1 });
    assert!(core.step(due, typed).contains(&told));
}
