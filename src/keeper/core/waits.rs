//! What is waited for, and how long: an API, a permit, a login, a rest.

use std::time::{Duration, Instant};

use super::scenes::*;
use super::shown::{screen, stalled, tell};
use super::*;
use crate::agent::Exit;
use crate::claude::ApiStop;
use crate::os::process::ProcessId;
use crate::state::{AgentState, How, Wanted, What};

const MINUTE: Duration = Duration::from_secs(60);
const SECOND: Duration = Duration::from_secs(1);

fn nudged(actions: &[Action]) -> Vec<&AgentName> {
    let nudges = actions.iter().filter_map(|action| match action {
        Action::Nudge { name, .. } => Some(name),
        _ => None,
    });
    nudges.collect()
}

fn unpaused(actions: &[Action]) -> bool {
    actions
        .iter()
        .any(|action| matches!(action, Action::Journal(None, What::Unpaused { .. })))
}

fn answered(core: &mut Core, now: Instant, name: &AgentName) -> Vec<Action> {
    let process = core.view(name).and_then(|view| view.process).unwrap();
    let name = name.clone();
    core.step(now, Event::Answered { name, process })
}

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
        Action::Journal(None, What::Trouble { what }) if what.contains("did not answer")
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
    for (minutes, counted) in [(9, 2), (10, 1)] {
        let mut now = Instant::now();
        let (mut core, attempt) = launched(now);
        run(&mut core, now, attempt);
        exit(&mut core, now, Exit::Code(1));
        now = core.next_wakeup().unwrap();
        let attempt = launch_in(&tick(&mut core, now)).unwrap();
        run(&mut core, now, attempt);
        confirm(&mut core, now);
        now += minutes * MINUTE;
        tick(&mut core, now);
        let actions = exit(&mut core, now, Exit::Signal(9));
        assert!(actions.iter().any(|action| matches!(
            action,
            Action::Journal(_, What::Backoff { failures, .. }) if *failures == counted
        )));
    }
}

#[test]
fn agents_whose_names_differ_wait_differently() {
    let salts = (0..100).map(|nth| {
        let name = AgentName::new(&format!("agent-{nth}")).unwrap();
        super::agent::salt(&name)
    });
    let salts: std::collections::BTreeSet<u64> = salts.collect();
    assert_eq!(salts.len(), 100);
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
    stopped.step(now, wish(Wanted::Stopped));
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
    // A blocked start waits for a human, a fleet that is down for its user, a root for its keeper.
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
            Action::Journal(None, What::PoweringOff { .. }),
            Action::Journal(None, What::Notice { .. }),
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
        Action::Journal(None, What::Trouble { what }) if what.contains("no permission")
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
fn one_agent_asks_for_the_whole_fleet_whether_there_is_a_login_ever_more_seldom() {
    let now = Instant::now();
    let [a, b] = ["a", "b"].map(|name| AgentName::new(name).unwrap());
    let mut core = idle_fleet(now, &[a.clone(), b.clone()]);
    let actions = say(&mut core, now, &b, stalled("1", ApiStop::Login));
    assert!(actions.contains(&Action::Journal(None, What::Paused { why: "login" })));
    say(&mut core, now, &a, stalled("2", ApiStop::Login));
    let mut due = now;
    for minutes in [15, 30, 60, 60, 60] {
        assert!(nudged(&tick(&mut core, due + minutes * MINUTE - SECOND)).is_empty());
        due += minutes * MINUTE;
        assert_eq!(core.next_wakeup(), Some(due));
        let actions = tick(&mut core, due);
        let [asks] = nudged(&actions)[..] else {
            panic!("one asks: {actions:?}")
        };
        // It is refused again.
        let asks = asks.clone();
        say(&mut core, due, &asks, Activity::Busy);
        let id = format!("{due:?}");
        say(&mut core, due, &asks, stalled(&id, ApiStop::Login));
    }
    assert_eq!(core.paused(), Some("login"));
    // There is one: all go on within seconds, one after the other.
    let actions = core.step(due, Event::Login("somebody typed /login".into()));
    assert!(unpaused(&actions) && core.paused().is_none());
    assert!(nudged(&tick(&mut core, due + SECOND)).is_empty());
    assert_eq!(nudged(&tick(&mut core, due + 2 * SECOND)).len(), 1);
    assert_eq!(nudged(&tick(&mut core, due + 3 * SECOND)).len(), 0);
    assert_eq!(nudged(&tick(&mut core, due + 4 * SECOND)).len(), 1);
}

#[test]
fn an_answer_to_one_who_never_lacked_a_login_ends_the_pause_once_it_cannot_be_from_before() {
    let now = Instant::now();
    let [a, b] = ["a", "b"].map(|name| AgentName::new(name).unwrap());
    let mut core = idle_fleet(now, &[a.clone(), b.clone()]);
    say(&mut core, now, &a, stalled("1", ApiStop::Login));
    say(&mut core, now, &b, Activity::Busy);
    assert!(!unpaused(&answered(&mut core, now + 119 * SECOND, &b)));
    let later = now + 120 * SECOND;
    assert!(unpaused(&answered(&mut core, later, &b)));
    // What `a` lacks is its own: it is waited for longer, and no pause is begun for it again.
    let next = core.view(&a).unwrap().next_try.unwrap();
    assert!(next >= later + 5 * MINUTE, "{:?}", next - later);
    say(&mut core, later, &a, Activity::Busy);
    say(&mut core, later, &a, stalled("2", ApiStop::Login));
    assert_eq!(core.paused(), None);
    assert!(core.view(&a).unwrap().next_try.is_some());
    // Once it has been answered it counts for all again.
    say(&mut core, later, &a, Activity::Busy);
    answered(&mut core, later, &a);
    say(&mut core, later, &a, stalled("3", ApiStop::Login));
    assert_eq!(core.paused(), Some("login"));
}

#[test]
fn an_answer_to_one_who_was_refused_ends_the_pause_at_once() {
    let now = Instant::now();
    let [a, b] = ["a", "b"].map(|name| AgentName::new(name).unwrap());
    let mut core = idle_fleet(now, &[a.clone(), b.clone()]);
    say(&mut core, now, &a, stalled("1", ApiStop::Login));
    say(&mut core, now, &b, stalled("2", ApiStop::Login));
    // One that stands still was answered before it came to that.
    assert!(!unpaused(&answered(&mut core, now, &a)));
    say(&mut core, now, &a, Activity::Busy);
    assert!(unpaused(&answered(&mut core, now, &a)));
    let next = core.view(&b).unwrap().next_try;
    assert_eq!(next, Some(now + 2 * SECOND));
}

#[test]
fn a_fleet_that_has_no_agent_to_ask_for_a_login_lets_one_start_do_so() {
    let now = Instant::now();
    let [a, b, c] = ["a", "b", "c"].map(|name| AgentName::new(name).unwrap());
    let mut core = idle_fleet(now, std::slice::from_ref(&a));
    say(&mut core, now, &a, stalled("1", ApiStop::Login));
    let of = |name: &AgentName, pid: Option<i32>| Declared {
        name: name.clone(),
        session_id: name.to_string(),
        process: pid.map(|pid| ProcessId { pid, start_time: 1 }),
        ..declared()
    };
    let all = vec![of(&a, Some(100)), of(&b, None), of(&c, None)];
    assert!(launch_in(&core.step(now, Event::Declare(all))).is_none());
    let (name, end) = (a.clone(), Exit::Code(0).into());
    let process = ProcessId {
        pid: 100,
        start_time: 1,
    };
    core.step(now, Event::Exited { name, process, end });
    assert!(launch_in(&tick(&mut core, now + 15 * MINUTE - SECOND)).is_none());
    tick(&mut core, now + 15 * MINUTE);
    let actions = tick(&mut core, now + 15 * MINUTE + SECOND);
    let next = core.next_wakeup();
    let launches: Vec<&Action> = actions
        .iter()
        .filter(|action| matches!(action, Action::Launch { .. }))
        .collect();
    assert_eq!(launches.len(), 1, "{actions:?}");
    assert!(next.is_some_and(|at| at <= now + 45 * MINUTE));
    let later = tick(&mut core, now + 16 * MINUTE);
    assert!(launch_in(&later).is_none(), "{later:?}");
    assert_eq!(core.view(&c).unwrap().state, AgentState::Starting);
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
        let what = What::Nudged { in_a_row: 1 };
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
        (ApiStop::Network, Some(How::Continue), None, ""),
        (ApiStop::Network, Some(How::Resume), Some(30), ""),
        (ApiStop::Login, Some(How::Resume), Some(2), ""),
        (ApiStop::Login, Some(How::Continue), None, ""),
        (limit, Some(How::Resume), Some(900), ""),
        (refused, Some(How::Resume), None, human),
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
            let (name, process) = (name(), PROCESS);
            core.step(
                now,
                Event::Launched {
                    name,
                    attempt,
                    process,
                    how,
                },
            );
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
fn a_machine_stays_when_its_user_takes_the_wish_back_or_a_save_has_ended_its_work() {
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
    core.step(now, wish(Wanted::Stopped));
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
fn a_login_is_asked_for_by_one_that_was_refused_for_the_fleet_and_each_in_turn() {
    let now = Instant::now();
    let names = ["a", "b", "c", "d"].map(|name| AgentName::new(name).unwrap());
    let [a, b, c, d] = &names;
    let mut core = idle_fleet(now, &names);
    // What `a` lacks turns out to be its own login; `d` works all the time.
    say(&mut core, now, d, Activity::Busy);
    say(&mut core, now, a, stalled("1", ApiStop::Login));
    answered(&mut core, now + 120 * SECOND, d);
    assert!(core.view(a).unwrap().next_try.is_some());
    // `d` is overloaded, and then nobody has a login.
    let began = now + 3 * MINUTE;
    say(&mut core, began, d, stalled("2", ApiStop::Overloaded));
    let own = core.view(d).unwrap().next_try;
    for (name, id) in [(b, "3"), (c, "4")] {
        say(&mut core, began, name, stalled(id, ApiStop::Login));
    }
    let mut due = began + 15 * MINUTE;
    assert_eq!(
        core.next_wakeup(),
        Some(due),
        "nobody else is nudged meanwhile"
    );
    assert_eq!(
        nudged(&tick(&mut core, due - SECOND)),
        [] as [&AgentName; 0]
    );
    assert_eq!(nudged(&tick(&mut core, due)), [b]);
    let nudge = |core: &mut Core, now: Instant, name: &AgentName, refused: Option<&str>| {
        let process = core.view(name).and_then(|view| view.process).unwrap();
        let (name, refused) = (name.clone(), refused.map(str::to_owned));
        core.step(
            now,
            Event::Nudged {
                name,
                process,
                in_a_row: 1,
                refused,
            },
        )
    };
    let waits = |core: &Core, name: &AgentName| {
        let why = core.view(name).unwrap().why.unwrap();
        assert!(why.ends_with("; the fleet waits for a login"), "{why}");
    };
    // Nothing came of it: it waits on with the others, and the next one asks.
    nudge(&mut core, due, b, None);
    tick(&mut core, due + 2 * MINUTE);
    waits(&core, b);
    due += 30 * MINUTE;
    assert_eq!(nudged(&tick(&mut core, due)), [c]);
    // It could not be typed: the same.
    nudge(&mut core, due, c, Some("unsent words"));
    waits(&core, c);
    due += 60 * MINUTE;
    assert_eq!(nudged(&tick(&mut core, due)), [c], "it has not asked yet");
    core.step(due, Event::Login("somebody typed /login".into()));
    assert_eq!(
        core.view(d).unwrap().next_try,
        own,
        "it waits for something else"
    );
    assert_eq!(core.view(b).unwrap().next_try, Some(due + 2 * SECOND));
}

#[test]
fn a_nudge_that_could_not_be_typed_before_a_pause_is_no_matter_of_the_login() {
    let now = Instant::now();
    let [a, b] = ["a", "b"].map(|name| AgentName::new(name).unwrap());
    let mut core = idle_fleet(now, &[a.clone(), b.clone()]);
    say(&mut core, now, &a, stalled("1", ApiStop::Overloaded));
    let due = core.view(&a).unwrap().next_try.unwrap();
    assert_eq!(nudged(&tick(&mut core, due)), [&a]);
    say(&mut core, due, &b, stalled("2", ApiStop::Login));
    let process = core.view(&a).and_then(|view| view.process).unwrap();
    let (name, refused) = (a.clone(), Some("unsent words".to_owned()));
    core.step(
        due,
        Event::Nudged {
            name,
            process,
            in_a_row: 1,
            refused,
        },
    );
    assert_eq!(core.view(&a).unwrap().next_try, Some(due + 120 * SECOND));
    // Nor is one that nothing came of.
    let later = core.step(due, Event::Login("a new one".into()));
    assert!(unpaused(&later));
    let due = due + 120 * SECOND;
    let mut at = due;
    while nudged(&tick(&mut core, at)) != [&a] {
        at += SECOND;
        assert!(at < due + MINUTE);
    }
    say(&mut core, at, &b, stalled("3", ApiStop::Login));
    tick(&mut core, at + 120 * SECOND);
    assert!(
        core.view(&a)
            .unwrap()
            .next_try
            .is_some_and(|next| next > at)
    );
}

#[test]
fn whoever_asks_to_go_on_ends_the_pause_and_whoever_asks_to_stop_does_not() {
    let now = Instant::now();
    let [a, b] = ["a", "b"].map(|name| AgentName::new(name).unwrap());
    let want = |wanted| Event::Want {
        name: b.clone(),
        wanted,
        by: "ann".into(),
    };
    let anew = Event::Restart {
        name: b.clone(),
        when_idle: true,
    };
    for (event, ends) in [
        (Event::Fleet(Fleet::Up), true),
        (want(Wanted::Running), true),
        (anew, true),
        (want(Wanted::Stopped), false),
        (Event::Fleet(Fleet::Down), false),
    ] {
        let mut core = idle_fleet(now, &[a.clone(), b.clone()]);
        say(&mut core, now, &a, stalled("1", ApiStop::Login));
        assert_eq!(unpaused(&core.step(now, event.clone())), ends, "{event:?}");
        assert_eq!(core.paused().is_none(), ends);
    }
}

#[test]
fn nobody_is_nudged_who_works_nor_without_a_permit_nor_in_a_life_that_ends() {
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
    let until = Some(crate::time::Timestamp::now());
    let actions = tell(&mut core, now, stalled("1", ApiStop::Limit { until }));
    let what = What::Stalled {
        reason: "limit",
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
fn in_haste_a_test_of_the_whole_program_waits_for_a_fraction() {
    let now = Instant::now();
    let limits = Limits::for_cores(2).in_haste(Some("60".into()));
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
