//! Tests of the lifecycle of one agent: restart policy, events of old launches and processes.

use std::time::{Duration, Instant};

use super::support::*;
use crate::notice::Source;
use crate::*;
use claude::ApiStop;
use state::config::Restart;
use state::{AgentState, Cause, Desired, JournalEvent, StartKind};
use sys::exit::Exit;
use sys::process::ProcessId;

#[test]
fn the_restart_policy_decides_what_follows_when_an_agent_ends() {
    use AgentState::{Backoff, Failed, Stopped};
    let now = Instant::now();
    for (restart, clean, crashed) in [
        (Restart::Always, Backoff, Backoff),
        (Restart::OnFailure, Stopped, Backoff),
        (Restart::Never, Stopped, Failed),
    ] {
        for (code, state) in [(0, clean), (1, crashed)] {
            let mut supervisor = running(now);
            let of = Declared {
                restart,
                ..declared()
            };
            supervisor.step(now, Event::Declare(vec![of]));
            let actions = exit(&mut supervisor, now, Exit::Code(code));
            let view = supervisor.view(&name()).unwrap();
            assert_eq!(view.state, state, "{restart:?} {code}");
            assert_eq!(view.restarts, u32::from(state == Backoff));
            // An agent that is finished is not started by the next boot either.
            assert_eq!(view.desired == Desired::Stopped, state == Stopped);
            let unasked = logged(&actions)
                .iter()
                .any(|what| matches!(what, JournalEvent::Stopped { by } if by == "itself"));
            assert_eq!(unasked, state == Stopped);
            let starts = supervisor
                .next_wakeup()
                .map(|due| launch_in(&tick(&mut supervisor, due)));
            assert_eq!(starts.flatten().is_some(), state == Backoff);
        }
    }
}

#[test]
fn an_event_of_another_launch_or_process_changes_nothing() {
    let now = Instant::now();
    let (name, old) = (
        name(),
        ProcessId {
            pid: 6,
            start_time: 1,
        },
    );
    let (mut supervisor, current) = launched(now);
    for known in [false, true] {
        if known {
            run(&mut supervisor, now, current);
        }
        let before = supervisor.views();
        for attempt in [current - 1, current + 1] {
            let why = "no claude".into();
            let refusal = Refusal { why, retry: true };
            let (process, how, blocker) = (old, StartKind::First, Some("a dialog".into()));
            for event in [
                Event::Launched {
                    name: name.clone(),
                    attempt,
                    process,
                    how,
                },
                Event::Refused {
                    name: name.clone(),
                    attempt,
                    refusal,
                },
                Event::Screen {
                    name: name.clone(),
                    attempt,
                    blocker,
                },
            ] {
                assert_eq!(supervisor.step(now, event.clone()), [], "{event:?}");
            }
        }
        assert_eq!(supervisor.views(), before);
    }
    confirm(&mut supervisor, now);
    report(&mut supervisor, now, stalled("1", ApiStop::Network));
    let before = supervisor.views();
    let activity = Activity::Idle;
    let end = Exit::Code(1).into();
    let refused = Some("unsubmitted input".into());
    for event in [
        Event::Session {
            name: name.clone(),
            process: old,
            session_id: "x".into(),
            activity,
        },
        Event::Answered {
            name: name.clone(),
            process: old,
        },
        Event::Nudged {
            name: name.clone(),
            process: old,
            in_a_row: 1,
            refused,
        },
        Event::Exited {
            name: name.clone(),
            process: old,
            end,
        },
    ] {
        assert_eq!(supervisor.step(now, event.clone()), [], "{event:?}");
        assert_eq!(supervisor.views(), before);
    }
    // Nor do events that were not asked for, in a boot that is still open.
    for event in [
        Event::Survived,
        Event::SaveEnded,
        Event::ShuttingDown(Some(true)),
        Event::ShuttingDown(Some(false)),
    ] {
        assert_eq!(supervisor.step(now, event.clone()), [], "{event:?}");
    }
    assert_eq!(
        (supervisor.views(), supervisor.is_closed()),
        (before, false)
    );
}

#[test]
fn a_start_in_another_session_is_ended_and_counts_as_a_failure() {
    let now = Instant::now();
    let (mut supervisor, attempt) = launched(now);
    run(&mut supervisor, now, attempt);
    let actions = supervisor.step(now, session("x", Activity::Busy));
    assert_eq!(ended(&actions), [&name()]);
    let why = Some("claude opened the session x instead of s");
    is_shown(&supervisor, AgentState::Starting, why, None);
    let actions = exit(&mut supervisor, now, Exit::Code(143));
    is_shown(
        &supervisor,
        AgentState::Backoff,
        why,
        Some(Cause::CannotStart),
    );
    assert!(
        logged(&actions)
            .iter()
            .any(|what| matches!(what, JournalEvent::Backoff { failures: 1, .. }))
    );
}

#[test]
fn a_session_that_changes_is_followed_and_logged() {
    let now = Instant::now();
    let mut supervisor = running(now);
    let rebind = Action::Rebind {
        name: name(),
        session_id: "t".into(),
    };
    let what = JournalEvent::SessionChanged {
        from: "s".into(),
        to: "t".into(),
    };
    let actions = supervisor.step(now, session("t", Activity::Busy));
    assert_eq!(actions, [rebind, Action::Journal(Some(name()), what)]);
    assert_eq!(supervisor.view(&name()).unwrap().session_id, "t");
    // The same question again is not reported, and each new question is reported once.
    assert_eq!(supervisor.step(now, session("t", Activity::Busy)), []);
    let asks = || Activity::Waiting(Some("a permission".into()));
    let actions = supervisor.step(now, session("t", asks()));
    let why = "a permission".to_owned();
    let [
        Action::Persist(_),
        Action::Journal(Some(_), JournalEvent::Waiting { why: said }),
    ] = &actions[..]
    else {
        panic!("{actions:?}")
    };
    assert_eq!(*said, why);
    assert_eq!(supervisor.step(now, session("t", asks())), []);
}

#[test]
fn a_dialog_is_logged_once_and_waited_for_without_end_while_the_others_start() {
    let now = Instant::now();
    let mut supervisor = ready(now, 1);
    let others = ["b", "c"].map(|other| Declared {
        name: AgentName::new(other).unwrap(),
        session_id: other.into(),
        ..declared()
    });
    let all = [vec![declared()], others.to_vec()].concat();
    let actions = supervisor.step(now, Event::Declare(all));
    let launches = actions
        .iter()
        .filter(|action| matches!(action, Action::Launch { .. }));
    assert_eq!(launches.count(), 2, "as many as one core carries");
    run(&mut supervisor, now, 1);
    let actions = screen(&mut supervisor, now, 1, Some("trust this folder?"));
    assert_eq!(logged(&actions).len(), 1);
    assert!(
        launch_in(&actions).is_some(),
        "c need not wait for the user"
    );
    for minutes in 1..9 {
        let at = now + Duration::from_secs(60 * minutes);
        let actions = screen(&mut supervisor, at, 1, Some("trust this folder?"));
        assert!(logged(&actions).is_empty() && ended(&actions).is_empty());
    }
    // The dialog was answered, and the process has still not reported its session.
    let late = now + Duration::from_secs(600);
    let actions = screen(&mut supervisor, late, 1, None);
    assert!(actions.contains(&Action::Persist(name())) && ended(&actions).is_empty());
    assert_eq!(ended(&screen(&mut supervisor, late, 1, None)), [&name()]);
}

#[test]
fn a_start_is_ended_after_three_minutes_and_not_before() {
    let now = Instant::now();
    let after = |seconds| now + Duration::from_secs(seconds);
    let (mut supervisor, attempt) = launched(now);
    run(&mut supervisor, now, attempt);
    assert!(ended(&screen(&mut supervisor, after(179), attempt, None)).is_empty());
    assert_eq!(
        ended(&screen(&mut supervisor, after(180), attempt, None)),
        [&name()]
    );
}

#[test]
fn a_start_that_is_refused_is_tried_again_only_where_that_may_help() {
    let now = Instant::now();
    for (retry, state) in [(true, AgentState::Backoff), (false, AgentState::Failed)] {
        let (mut supervisor, attempt) = launched(now);
        refuse(&mut supervisor, now, attempt, retry);
        is_shown(
            &supervisor,
            state,
            Some("no claude"),
            Some(Cause::CannotStart),
        );
        let tried = supervisor.view(&declared().name).unwrap().next_try;
        assert_eq!(tried, supervisor.next_wakeup());
        assert_eq!(tried.is_some(), retry);
    }
}

#[test]
fn a_session_is_not_opened_while_another_agent_may_be_in_it() {
    let now = Instant::now();
    let mut supervisor = running(now);
    let other = Declared {
        name: AgentName::new("b").unwrap(),
        ..declared()
    };
    let both = vec![declared(), other.clone()];
    assert!(launch_in(&supervisor.step(now, Event::Declare(both))).is_none());
    let view = supervisor.view(&other.name).unwrap();
    let why = "its session s is in use by the agent a";
    assert_eq!(
        (view.state, view.why.as_deref()),
        (AgentState::Failed, Some(why))
    );
    // A request tries again, and now no agent uses the session.
    supervisor.step(now, request(Desired::Stopped));
    exit(&mut supervisor, now, Exit::Code(143));
    let name = other.name;
    let (desired, by) = (Desired::Running, "ann".into());
    assert!(launch_in(&supervisor.step(now, Event::Want { name, desired, by })).is_some());
}

#[test]
fn the_first_notice_counts_and_is_logged_with_the_time_left() {
    let now = Instant::now();
    let mut supervisor = running(now);
    let notice = Notice::new(Source::Metadata, now, Some(Duration::from_secs(120)));
    let actions = supervisor.step(now, Event::Notice(notice));
    let what = JournalEvent::Notice {
        source: "metadata".into(),
        deadline_ms: Some(120_000),
    };
    let save = Action::Save(notice);
    assert_eq!(actions, [Action::Journal(None, what), save]);
    let second = Notice::new(Source::Command, now, None);
    assert_eq!(supervisor.step(now, Event::Notice(second)), []);
    assert_eq!(supervisor.notice(), Some(&notice));
    // Requests are recorded, and no action beside the save is taken for them.
    let actions = supervisor.step(now, request(Desired::Stopped));
    assert!(ended(&actions).is_empty());
    assert_eq!(supervisor.step(now, restart(false)), []);
    assert_eq!(supervisor.step(now, Event::ShuttingDown(Some(false))), []);
    assert!(supervisor.is_closed());
}

#[test]
fn a_keeper_that_starts_after_the_notice_starts_no_agent_and_shows_the_fleet_as_saved() {
    let now = Instant::now();
    let mut supervisor = Supervisor::new(Limits::for_cores(2), Fleet::Up, true);
    let until = None;
    supervisor.step(now, Event::Permit(Some(Permit { epoch: 1, until })));
    supervisor.step(now, Event::ApiAnswers);
    let actions = supervisor.step(now, Event::Declare(vec![declared()]));
    assert!(supervisor.is_closed() && launch_in(&actions).is_none());
    let why = Some("ended by a save; the next boot resumes it");
    is_shown(
        &supervisor,
        AgentState::Stopped,
        why,
        Some(Cause::Preempted),
    );
    assert!(launch_in(&supervisor.step(now, Event::Survived)).is_some());
}

#[test]
fn a_start_says_how_its_session_was_begun() {
    let now = Instant::now();
    for (how, continued) in [
        (StartKind::First, None),
        (StartKind::Resume, Some(false)),
        (StartKind::Continue, Some(true)),
    ] {
        let (mut supervisor, attempt) = launched(now);
        run_as(&mut supervisor, now, attempt, how);
        let actions = report(&mut supervisor, now, Activity::Busy);
        let session_id = "s".to_owned();
        let begun = match continued {
            None => JournalEvent::Started { session_id },
            Some(continued) => JournalEvent::Resumed {
                session_id,
                continued,
            },
        };
        assert_eq!(logged(&actions), [&begun]);
    }
}

#[test]
fn a_launch_that_fails_after_a_stop_is_not_logged_as_a_failure() {
    let now = Instant::now();
    for undesired in [request(Desired::Stopped), Event::Fleet(Fleet::Down)] {
        let (mut supervisor, attempt) = launched(now);
        supervisor.step(now, undesired);
        let actions = refuse(&mut supervisor, now, attempt, true);
        assert!(logged(&actions).is_empty(), "{actions:?}");
        let view = &supervisor.views()[0];
        assert_eq!((view.state, view.restarts), (AgentState::Stopped, 0));
    }
}
