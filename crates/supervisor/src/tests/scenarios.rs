//! Scenarios that take the supervisor minutes or hours.

use std::time::{Duration, Instant};

use super::support::*;
use crate::notice::Source;
use crate::*;
use state::{AgentState, Desired, JournalEvent};
use sys::exit::Exit;

#[test]
fn a_machine_that_is_not_preempted_resumes_its_fleet_a_minute_after_the_deadline() {
    let now = Instant::now();
    let (mut supervisor, attempt) = launched(now);
    run(&mut supervisor, now, attempt);
    confirm(&mut supervisor, now);
    let notice = Notice::new(Source::Metadata, now, None);
    supervisor.step(now, Event::Notice(notice));
    exit(&mut supervisor, now, Exit::Code(143));
    supervisor.step(now, Event::SaveEnded);
    let minute = Duration::from_secs(60);
    let before = notice.deadline.instant() + minute - Duration::from_secs(1);
    assert!(tick(&mut supervisor, before).is_empty());
    let due = supervisor.next_wakeup().unwrap();
    assert_eq!(due, notice.deadline.instant() + minute);
    assert_eq!(tick(&mut supervisor, due), [Action::AskShutdown]);
    // While systemd is shutting down, or does not answer, nothing starts, and it is asked again.
    let mut later = due;
    for answer in [Some(true), None] {
        assert!(
            supervisor
                .step(later, Event::ShuttingDown(answer))
                .is_empty()
        );
        later += minute;
        assert_eq!(tick(&mut supervisor, later), [Action::AskShutdown]);
    }
    let actions = supervisor.step(later, Event::ShuttingDown(Some(false)));
    assert!(matches!(
        actions[0],
        Action::Journal(None, JournalEvent::Survived { .. })
    ));
    assert!(launch_in(&actions).is_some());
}

#[test]
fn a_boot_that_the_user_ended_does_not_continue_automatically() {
    let now = Instant::now();
    let (mut supervisor, attempt) = launched(now);
    run(&mut supervisor, now, attempt);
    supervisor.step(now, Event::Notice(Notice::new(Source::Command, now, None)));
    exit(&mut supervisor, now, Exit::Code(143));
    supervisor.step(now, Event::SaveEnded);
    assert_eq!(supervisor.next_wakeup(), None);
    assert!(tick(&mut supervisor, now + Duration::from_secs(86_400)).is_empty());
    assert!(launch_in(&supervisor.step(now, Event::Survived)).is_some());
}

#[test]
fn an_agent_that_crashes_again_and_again_is_given_up_within_minutes_and_says_why() {
    let mut now = Instant::now();
    let began = now;
    let (mut supervisor, mut attempt) = launched(now);
    let mut starts = 1;
    loop {
        run(&mut supervisor, now, attempt);
        exit(&mut supervisor, now, Exit::Code(1));
        let Some(due) = supervisor.next_wakeup() else {
            break;
        };
        now = due;
        attempt = launch_in(&tick(&mut supervisor, now)).unwrap();
        starts += 1;
        assert!(starts < 100, "it is never given up");
    }
    let view = supervisor.view(&name()).unwrap();
    assert_eq!(
        (view.state, view.restarts, starts),
        (AgentState::Failed, 7, 8)
    );
    assert_eq!(
        view.why.as_deref(),
        Some("claude ended during start-up: exit 1")
    );
    let took = now - began;
    assert!((240..=900).contains(&took.as_secs()), "{took:?}");
    // A user who starts it has repaired something: it is tried again at once.
    let actions = supervisor.step(now, request(Desired::Running));
    assert!(launch_in(&actions).is_some());
}

#[test]
fn a_start_that_is_never_confirmed_is_scanned_and_then_ended() {
    let mut now = Instant::now();
    let began = now;
    let (mut supervisor, attempt) = launched(now);
    run(&mut supervisor, now, attempt);
    let mut scans = 0;
    loop {
        now = supervisor.next_wakeup().unwrap();
        let seen = tick(&mut supervisor, now);
        assert_eq!(
            seen,
            [Action::ScanScreen {
                name: name(),
                attempt
            }]
        );
        scans += 1;
        assert!(scans < 1_000, "it is never ended");
        let blocker = None;
        let name = name();
        let event = Event::Screen {
            name,
            attempt,
            blocker,
        };
        if let [
            ..,
            Action::End {
                process: PROCESS, ..
            },
        ] = supervisor.step(now, event)[..]
        {
            break;
        }
    }
    assert!(
        scans > 10 && now - began <= Duration::from_secs(200),
        "{scans}"
    );
    exit(&mut supervisor, now, Exit::Code(143));
    let why = supervisor.view(&name()).unwrap().why.unwrap();
    assert!(why.contains("did not report its session"), "{why}");
}

#[test]
fn the_time_that_a_slow_disk_takes_does_not_count_against_a_launch() {
    let mut now = Instant::now();
    let (mut supervisor, attempt) = launched(now);
    now += Duration::from_secs(3_600);
    run(&mut supervisor, now, attempt);
    assert!(ended(&screen(&mut supervisor, now, attempt, None)).is_empty());
    confirm(&mut supervisor, now);
    is_shown(&supervisor, AgentState::Running, None, None);
}

#[test]
fn an_agent_that_ends_while_the_data_directory_is_missing_waits_for_it() {
    let mut now = Instant::now();
    let (mut supervisor, attempt) = launched(now);
    run(&mut supervisor, now, attempt);
    confirm(&mut supervisor, now);
    supervisor.step(now, Event::Permit(None));
    assert_eq!(supervisor.view(&name()).unwrap().state, AgentState::Running);
    exit(&mut supervisor, now, Exit::Code(1));
    now = supervisor.next_wakeup().unwrap();
    assert!(launch_in(&tick(&mut supervisor, now)).is_none());
    now += Duration::from_secs(86_400);
    assert!(tick(&mut supervisor, now).is_empty());
    let view = supervisor.view(&name()).unwrap();
    assert_eq!(view.state, AgentState::Starting);
    assert!(view.why.unwrap().contains("to be available again"));
    let until = None;
    let actions = supervisor.step(now, Event::Permit(Some(Permit { epoch: 1, until })));
    assert!(launch_in(&actions).is_some());
}

#[test]
fn the_idle_time_counts_again_after_each_turn_and_each_background_command() {
    let mut now = Instant::now();
    let (mut supervisor, attempt) = launched(now);
    let half_hour = Duration::from_secs(1_800);
    supervisor.step(now, Event::StopWhenIdle(Some(half_hour)));
    run(&mut supervisor, now, attempt);
    confirm(&mut supervisor, now);
    assert!(
        tick(&mut supervisor, now + 3 * half_hour).is_empty(),
        "it works"
    );
    now += 3 * half_hour;
    report(&mut supervisor, now, Activity::Idle);
    report(&mut supervisor, now + half_hour / 2, Activity::Busy);
    now += half_hour;
    report(&mut supervisor, now, Activity::Idle);
    assert!(tick(&mut supervisor, now + half_hour / 2).is_empty());
    now += half_hour;
    assert_eq!(tick(&mut supervisor, now), [Action::CheckForWork]);
    assert!(tick(&mut supervisor, now).is_empty(), "asked once");
    supervisor.step(now, Event::WorkChecked(Some("a dev server".into())));
    assert!(tick(&mut supervisor, now + half_hour / 2).is_empty());
    now += half_hour + Duration::from_secs(1);
    assert_eq!(tick(&mut supervisor, now), [Action::CheckForWork]);
    let actions = supervisor.step(now, Event::WorkChecked(None));
    assert!(
        actions
            .iter()
            .any(|action| matches!(action, Action::Save(_)))
    );
    let actions = supervisor.step(now, Event::SaveEnded);
    assert!(actions.contains(&Action::PowerOff));
}
