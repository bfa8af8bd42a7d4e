//! Tests of rollouts: a change is applied to one agent first, and to the others once it has run.

use std::time::{Duration, Instant};

use super::support::*;
use crate::*;
use state::{Desired, JournalEvent, StartKind};
use sys::exit::Exit;
use sys::process::ProcessId;

/// Ends an agent as requested and launches it again. `starts`: whether the start succeeds.
fn comes_back(
    supervisor: &mut Supervisor,
    now: Instant,
    name: &AgentName,
    starts: bool,
) -> Vec<Action> {
    let old = supervisor.view(name).and_then(|view| view.process).unwrap();
    let end = Exit::Code(143).into();
    let of = name.clone();
    let actions = supervisor.step(
        now,
        Event::Exited {
            name: of,
            process: old,
            end,
        },
    );
    let attempt = launch_in(&actions).unwrap();
    let process = ProcessId {
        pid: old.pid + 100,
        start_time: 1,
    };
    let (of, how) = (name.clone(), StartKind::Resume);
    supervisor.step(
        now,
        Event::Launched {
            name: of,
            attempt,
            process,
            how,
        },
    );
    if starts {
        return report_of(supervisor, now, name, Activity::Idle);
    }
    let (name, end) = (name.clone(), Exit::Code(1).into());
    supervisor.step(now, Event::Exited { name, process, end })
}

#[test]
fn a_change_reaches_one_agent_first_and_the_others_once_it_has_run_for_a_minute() {
    let now = Instant::now();
    let [a, b, c] = ["a", "b", "c"].map(|name| AgentName::new(name).unwrap());
    let mut supervisor = idle_fleet(now, &[a.clone(), b.clone(), c.clone()]);
    // The idle agent goes first, and the supervisor waits for the one that works.
    report_of(&mut supervisor, now, &a, Activity::Busy);
    let all = vec![a.clone(), b.clone(), c.clone()];
    let actions = supervisor.step(now, Event::RollOut(all));
    assert_eq!(ended(&actions), [&b]);
    comes_back(&mut supervisor, now, &b, true);
    let soon = now + Duration::from_secs(59);
    assert!(ended(&tick(&mut supervisor, soon)).is_empty());
    assert_eq!(
        supervisor.next_wakeup(),
        Some(now + Duration::from_secs(60))
    );
    let later = now + Duration::from_secs(61);
    assert_eq!(ended(&tick(&mut supervisor, later)), [&c]);
    assert_eq!(
        ended(&report_of(&mut supervisor, later, &a, Activity::Idle)),
        [&a]
    );
}

#[test]
fn a_change_that_the_first_agent_cannot_start_with_reaches_no_other() {
    let now = Instant::now();
    let [a, b] = ["a", "b"].map(|name| AgentName::new(name).unwrap());
    let mut supervisor = idle_fleet(now, &[a.clone(), b.clone()]);
    let actions = supervisor.step(now, Event::RollOut(vec![a.clone(), b.clone()]));
    assert_eq!(ended(&actions), [&a]);
    let actions = comes_back(&mut supervisor, now, &a, false);
    let told = actions.iter().any(|action| {
        matches!(action, Action::Journal(None,
        JournalEvent::Trouble { what }) if what.contains("a does not start"))
    });
    assert!(told, "{actions:?}");
    for minutes in 1..30 {
        let at = now + Duration::from_secs(60 * minutes);
        assert!(ended(&tick(&mut supervisor, at)).is_empty());
    }
}

#[test]
fn a_rollout_continues_with_another_agent_when_the_user_stops_the_first() {
    let now = Instant::now();
    let [a, b] = ["a", "b"].map(|name| AgentName::new(name).unwrap());
    let mut supervisor = idle_fleet(now, &[a.clone(), b.clone()]);
    supervisor.step(now, Event::RollOut(vec![a.clone(), b.clone()]));
    let (by, desired) = ("ann".into(), Desired::Stopped);
    let actions = supervisor.step(
        now,
        Event::Want {
            name: a,
            desired,
            by,
        },
    );
    assert_eq!(ended(&actions), [&b]);
}

#[test]
fn a_change_waits_until_the_first_agent_has_finished_its_turn_and_restarted() {
    let now = Instant::now();
    let [a, b] = ["a", "b"].map(|name| AgentName::new(name).unwrap());
    let mut supervisor = idle_fleet(now, &[a.clone(), b.clone()]);
    for name in [&a, &b] {
        report_of(&mut supervisor, now, name, Activity::Busy);
    }
    supervisor.step(now, Event::RollOut(vec![a.clone(), b.clone()]));
    report_of(&mut supervisor, now, &b, Activity::Idle);
    let later = now + Duration::from_secs(600);
    assert!(ended(&tick(&mut supervisor, later)).is_empty());
    assert_eq!(
        ended(&report_of(&mut supervisor, later, &a, Activity::Idle)),
        [&a]
    );
}

#[test]
fn a_change_that_brings_a_dialog_up_reaches_no_other() {
    let now = Instant::now();
    let [a, b] = ["a", "b"].map(|name| AgentName::new(name).unwrap());
    let mut supervisor = idle_fleet(now, &[a.clone(), b.clone()]);
    supervisor.step(now, Event::RollOut(vec![a.clone(), b.clone()]));
    let process = supervisor.view(&a).and_then(|view| view.process).unwrap();
    let (name, end) = (a.clone(), Exit::Code(143).into());
    let actions = supervisor.step(now, Event::Exited { name, process, end });
    let (name, attempt) = (a, launch_in(&actions).unwrap());
    let blocker = Some("trust this folder?".into());
    let actions = supervisor.step(
        now,
        Event::Screen {
            name,
            attempt,
            blocker,
        },
    );
    let told = actions.iter().any(|action| {
        matches!(action, Action::Journal(None,
        JournalEvent::Trouble { what }) if what.ends_with("trust this folder?"))
    });
    assert!(told, "{actions:?}");
    let later = now + Duration::from_secs(600);
    assert!(ended(&tick(&mut supervisor, later)).is_empty());
}

#[test]
fn an_agent_that_does_not_run_gets_a_change_at_its_next_start_and_a_single_agent_at_once() {
    let now = Instant::now();
    let [a, b] = ["a", "b"].map(|name| AgentName::new(name).unwrap());
    let mut supervisor = idle_fleet(now, &[a.clone(), b.clone()]);
    let process = supervisor.view(&a).and_then(|view| view.process).unwrap();
    let (name, end) = (a.clone(), Exit::Signal(9).into());
    supervisor.step(now, Event::Exited { name, process, end });
    assert_eq!(supervisor.step(now, Event::RollOut(vec![a.clone()])), []);
    let actions = supervisor.step(now, Event::RollOut(vec![a, b.clone()]));
    assert_eq!(ended(&actions), [&b]);
    comes_back(&mut supervisor, now, &b, true);
    let later = now + Duration::from_secs(600);
    assert!(ended(&tick(&mut supervisor, later)).is_empty());
}

#[test]
fn a_fleet_that_was_taken_down_has_the_change_when_it_comes_up() {
    let now = Instant::now();
    let [a, b] = ["a", "b"].map(|name| AgentName::new(name).unwrap());
    let mut supervisor = idle_fleet(now, &[a.clone(), b.clone()]);
    supervisor.step(now, Event::RollOut(vec![a.clone(), b.clone()]));
    supervisor.step(now, Event::Fleet(Fleet::Down));
    supervisor.step(now, Event::Fleet(Fleet::Up));
    for name in [&a, &b] {
        comes_back(&mut supervisor, now, name, true);
    }
    for minutes in [2, 4] {
        let later = now + Duration::from_secs(60 * minutes);
        assert!(ended(&tick(&mut supervisor, later)).is_empty());
    }
}
