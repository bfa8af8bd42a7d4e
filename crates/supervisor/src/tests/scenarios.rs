//! Short stories that take the supervisor minutes or hours.

use std::time::{Duration, Instant};

use super::support::*;
use crate::notice::Source;
use crate::*;
use state::{AgentState, Desired, JournalEvent};
use sys::exit::Exit;

#[test]
fn a_machine_that_is_not_taken_away_resumes_its_fleet_a_minute_after_the_deadline() {
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
    // While systemd is at it, or says nothing, nothing starts, and it is asked again.
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
fn a_boot_that_a_person_ended_does_not_go_on_by_itself() {
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
        Some("claude ended at its start: exit 1")
    );
    let took = now - began;
    assert!((240..=900).contains(&took.as_secs()), "{took:?}");
    // Whoever asks for it has repaired something: it is tried again at once.
    let actions = supervisor.step(now, request(Desired::Running));
    assert!(launch_in(&actions).is_some());
}

#[test]
fn a_start_that_is_never_confirmed_is_looked_at_and_then_ended() {
    let mut now = Instant::now();
    let began = now;
    let (mut supervisor, attempt) = launched(now);
    run(&mut supervisor, now, attempt);
    let mut looks = 0;
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
        looks += 1;
        assert!(looks < 1_000, "it is never ended");
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
        looks > 10 && now - began <= Duration::from_secs(200),
        "{looks}"
    );
    exit(&mut supervisor, now, Exit::Code(143));
    let why = supervisor.view(&name()).unwrap().why.unwrap();
    assert!(why.contains("did not say that it is up"), "{why}");
}

#[test]
fn a_launch_that_a_disk_held_up_has_its_whole_time_from_its_first_moment() {
    let mut now = Instant::now();
    let (mut supervisor, attempt) = launched(now);
    now += Duration::from_secs(3_600);
    run(&mut supervisor, now, attempt);
    assert!(ended(&screen(&mut supervisor, now, attempt, None)).is_empty());
    confirm(&mut supervisor, now);
    is_shown(&supervisor, AgentState::Running, None, None);
}

#[test]
fn an_agent_that_ends_while_the_root_is_away_waits_and_comes_back_with_it() {
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
    assert!(view.why.unwrap().contains("may be run again"));
    let until = None;
    let actions = supervisor.step(now, Event::Permit(Some(Permit { epoch: 1, until })));
    assert!(launch_in(&actions).is_some());
}

#[test]
fn a_rest_counts_anew_after_every_piece_of_work_and_after_a_command_in_the_background() {
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
    tell(&mut supervisor, now, Activity::Idle);
    tell(&mut supervisor, now + half_hour / 2, Activity::Busy);
    now += half_hour;
    tell(&mut supervisor, now, Activity::Idle);
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
