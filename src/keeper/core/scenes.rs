//! Short stories that take the core minutes or hours.

use std::time::{Duration, Instant};

use super::*;
use crate::agent::Exit;
use crate::claude::ApiStop;
use crate::config::Restart;
use crate::notice::Source;
use crate::os::process::ProcessId;
use crate::state::{AgentState, How, Wanted, What};

pub(super) const PROCESS: ProcessId = ProcessId {
    pid: 7,
    start_time: 1,
};

pub(super) fn name() -> AgentName {
    AgentName::new("a").unwrap()
}

/// One agent as its file and its record have it, at its very beginning.
pub(super) fn declared() -> Declared {
    Declared {
        name: name(),
        session_id: "s".into(),
        restart: Restart::OnFailure,
        wanted: Wanted::Running,
        restarts: 0,
        process: None,
        why: None,
        cause: None,
        broken: None,
    }
}

/// A core that may launch, with an API that answers.
pub(super) fn ready(now: Instant, cores: usize) -> Core {
    let mut core = Core::new(Limits::for_cores(cores), Fleet::Up, false);
    let until = None;
    core.step(now, Event::Permit(Some(Permit { epoch: 1, until })));
    core.step(now, Event::ApiAnswers);
    core
}

/// A core with one agent that has been launched for the first time.
pub(super) fn launched(now: Instant) -> (Core, Attempt) {
    let mut core = ready(now, 2);
    let actions = core.step(now, Event::Declare(vec![declared()]));
    let attempt = launch_in(&actions).unwrap();
    (core, attempt)
}

pub(super) fn wish(wanted: Wanted) -> Event {
    let by = "ann".into();
    let name = name();
    Event::Want { name, wanted, by }
}

pub(super) fn launch_in(actions: &[Action]) -> Option<Attempt> {
    actions.iter().find_map(|action| match action {
        Action::Launch { attempt, .. } => Some(*attempt),
        _ => None,
    })
}

pub(super) fn run(core: &mut Core, now: Instant, attempt: Attempt) {
    let (name, process, how) = (name(), PROCESS, How::First);
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

pub(super) fn confirm(core: &mut Core, now: Instant) {
    let event = Event::Session {
        name: name(),
        process: PROCESS,
        session_id: "s".into(),
        activity: Activity::Busy,
    };
    core.step(now, event);
}

pub(super) fn exit(core: &mut Core, now: Instant, exit: Exit) -> Vec<Action> {
    let event = Event::Exited {
        name: name(),
        process: PROCESS,
        end: exit.into(),
    };
    core.step(now, event)
}

pub(super) fn tick(core: &mut Core, now: Instant) -> Vec<Action> {
    let available_memory = None;
    core.step(now, Event::Tick { available_memory })
}

#[test]
fn a_machine_that_is_not_taken_away_resumes_its_fleet_a_minute_after_the_deadline() {
    let now = Instant::now();
    let (mut core, attempt) = launched(now);
    run(&mut core, now, attempt);
    confirm(&mut core, now);
    let notice = Notice::new(Source::Metadata, now, None);
    core.step(now, Event::Notice(notice));
    exit(&mut core, now, Exit::Code(143));
    core.step(now, Event::SaveEnded);
    let minute = Duration::from_secs(60);
    let before = notice.deadline.at() + minute - Duration::from_secs(1);
    assert!(tick(&mut core, before).is_empty());
    let due = core.next_wakeup().unwrap();
    assert_eq!(due, notice.deadline.at() + minute);
    assert_eq!(tick(&mut core, due), [Action::AskShutdown]);
    // While systemd is at it, nothing starts, and it is asked again.
    assert!(core.step(due, Event::ShuttingDown(true)).is_empty());
    let later = due + minute;
    assert_eq!(tick(&mut core, later), [Action::AskShutdown]);
    let actions = core.step(later, Event::ShuttingDown(false));
    assert!(matches!(
        actions[0],
        Action::Journal(None, What::Survived { .. })
    ));
    assert!(launch_in(&actions).is_some());
}

#[test]
fn a_life_that_a_person_ended_does_not_go_on_by_itself() {
    let now = Instant::now();
    let (mut core, attempt) = launched(now);
    run(&mut core, now, attempt);
    core.step(now, Event::Notice(Notice::new(Source::Command, now, None)));
    exit(&mut core, now, Exit::Code(143));
    core.step(now, Event::SaveEnded);
    assert_eq!(core.next_wakeup(), None);
    assert!(tick(&mut core, now + Duration::from_secs(86_400)).is_empty());
    assert!(launch_in(&core.step(now, Event::Survived)).is_some());
}

#[test]
fn an_agent_that_crashes_again_and_again_is_given_up_within_minutes_and_says_why() {
    let mut now = Instant::now();
    let began = now;
    let (mut core, mut attempt) = launched(now);
    let mut starts = 1;
    loop {
        run(&mut core, now, attempt);
        exit(&mut core, now, Exit::Code(1));
        let Some(due) = core.next_wakeup() else { break };
        now = due;
        attempt = launch_in(&tick(&mut core, now)).unwrap();
        starts += 1;
        assert!(starts < 100, "it is never given up");
    }
    let view = core.view(&name()).unwrap();
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
    // Whoever asks for it has mended something: it is tried again at once.
    let actions = core.step(now, wish(Wanted::Running));
    assert!(launch_in(&actions).is_some());
}

#[test]
fn ten_healthy_minutes_forget_the_failures_before() {
    let mut now = Instant::now();
    let (mut core, attempt) = launched(now);
    run(&mut core, now, attempt);
    exit(&mut core, now, Exit::Code(1));
    now = core.next_wakeup().unwrap();
    let attempt = launch_in(&tick(&mut core, now)).unwrap();
    run(&mut core, now, attempt);
    confirm(&mut core, now);
    now += Duration::from_secs(601);
    tick(&mut core, now);
    let actions = exit(&mut core, now, Exit::Signal(9));
    let failures = actions.iter().find_map(|action| match action {
        Action::Journal(_, What::Backoff { failures, .. }) => Some(*failures),
        _ => None,
    });
    assert_eq!(failures, Some(1));
}

#[test]
fn a_start_that_is_never_confirmed_is_looked_at_and_then_ended() {
    let mut now = Instant::now();
    let began = now;
    let (mut core, attempt) = launched(now);
    run(&mut core, now, attempt);
    let mut looks = 0;
    loop {
        now = core.next_wakeup().unwrap();
        let seen = tick(&mut core, now);
        assert_eq!(
            seen,
            [Action::LookAtScreen {
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
        ] = core.step(now, event)[..]
        {
            break;
        }
    }
    assert!(
        looks > 10 && now - began <= Duration::from_secs(200),
        "{looks}"
    );
    exit(&mut core, now, Exit::Code(143));
    let why = core.view(&name()).unwrap().why.unwrap();
    assert!(why.contains("did not say that it is up"), "{why}");
}

#[test]
fn an_agent_that_ends_while_the_root_is_away_waits_and_comes_back_with_it() {
    let mut now = Instant::now();
    let (mut core, attempt) = launched(now);
    run(&mut core, now, attempt);
    confirm(&mut core, now);
    core.step(now, Event::Permit(None));
    assert_eq!(core.view(&name()).unwrap().state, AgentState::Running);
    exit(&mut core, now, Exit::Code(1));
    now = core.next_wakeup().unwrap();
    assert!(launch_in(&tick(&mut core, now)).is_none());
    now += Duration::from_secs(86_400);
    assert!(tick(&mut core, now).is_empty());
    let view = core.view(&name()).unwrap();
    assert_eq!(view.state, AgentState::Starting);
    assert!(view.why.unwrap().contains("may be run again"));
    let until = None;
    let actions = core.step(now, Event::Permit(Some(Permit { epoch: 1, until })));
    assert!(launch_in(&actions).is_some());
}

#[test]
fn a_rest_counts_anew_after_every_piece_of_work_and_after_a_command_in_the_background() {
    let mut now = Instant::now();
    let (mut core, attempt) = launched(now);
    let half_hour = Duration::from_secs(1_800);
    core.step(now, Event::StopWhenIdle(Some(half_hour)));
    run(&mut core, now, attempt);
    confirm(&mut core, now);
    let say = |core: &mut Core, now: Instant, activity: Activity| {
        let event = Event::Session {
            name: name(),
            process: PROCESS,
            session_id: "s".into(),
            activity,
        };
        core.step(now, event)
    };
    let tick = |core: &mut Core, now: Instant| {
        let available_memory = None;
        core.step(now, Event::Tick { available_memory })
    };
    assert!(tick(&mut core, now + 3 * half_hour).is_empty(), "it works");
    now += 3 * half_hour;
    say(&mut core, now, Activity::Idle);
    say(&mut core, now + half_hour / 2, Activity::Busy);
    now += half_hour;
    say(&mut core, now, Activity::Idle);
    assert!(tick(&mut core, now + half_hour / 2).is_empty());
    now += half_hour;
    assert_eq!(tick(&mut core, now), [Action::LookForWork]);
    assert!(tick(&mut core, now).is_empty(), "asked once");
    core.step(now, Event::LookedForWork(Some("a dev server".into())));
    assert!(tick(&mut core, now + half_hour / 2).is_empty());
    now += half_hour + Duration::from_secs(1);
    assert_eq!(tick(&mut core, now), [Action::LookForWork]);
    let actions = core.step(now, Event::LookedForWork(None));
    assert!(
        actions
            .iter()
            .any(|action| matches!(action, Action::Save(_)))
    );
    let actions = core.step(now, Event::SaveEnded);
    assert!(actions.contains(&Action::PowerOff));
}

/// A fleet that is up and idle; the pid of each is its place and a hundred.
pub(super) fn idle_fleet(now: Instant, names: &[AgentName]) -> Core {
    let mut core = ready(now, 2);
    let all = names.iter().zip(100..).map(|(name, pid)| Declared {
        name: name.clone(),
        session_id: name.to_string(),
        process: Some(ProcessId { pid, start_time: 1 }),
        ..declared()
    });
    core.step(now, Event::Declare(all.collect()));
    for name in names {
        say(&mut core, now, name, Activity::Idle);
    }
    core
}

pub(super) fn say(
    core: &mut Core,
    now: Instant,
    name: &AgentName,
    activity: Activity,
) -> Vec<Action> {
    let process = core.view(name).and_then(|view| view.process).unwrap();
    let (name, session_id) = (name.clone(), name.to_string());
    core.step(
        now,
        Event::Session {
            name,
            process,
            session_id,
            activity,
        },
    )
}

pub(super) fn ended(actions: &[Action]) -> Vec<&AgentName> {
    let ends = actions.iter().filter_map(|action| match action {
        Action::End { name, .. } => Some(name),
        _ => None,
    });
    ends.collect()
}

/// An agent ends as it was told, and is launched again; how its start goes is told by its end.
fn comes_back(core: &mut Core, now: Instant, name: &AgentName, lives: bool) -> Vec<Action> {
    let old = core.view(name).and_then(|view| view.process).unwrap();
    let end = Exit::Code(143).into();
    let of = name.clone();
    let actions = core.step(
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
    let (of, how) = (name.clone(), How::Resume);
    core.step(
        now,
        Event::Launched {
            name: of,
            attempt,
            process,
            how,
        },
    );
    if lives {
        return say(core, now, name, Activity::Idle);
    }
    let (name, end) = (name.clone(), Exit::Code(1).into());
    core.step(now, Event::Exited { name, process, end })
}

#[test]
fn a_change_reaches_one_agent_first_and_the_others_once_it_has_lived_for_a_minute() {
    let now = Instant::now();
    let [a, b, c] = ["a", "b", "c"].map(|name| AgentName::new(name).unwrap());
    let mut core = idle_fleet(now, &[a.clone(), b.clone(), c.clone()]);
    // The one that has nothing to do goes first, and the one that works is waited for.
    say(&mut core, now, &a, Activity::Busy);
    let all = vec![a.clone(), b.clone(), c.clone()];
    let actions = core.step(now, Event::RollOut(all));
    assert_eq!(ended(&actions), [&b]);
    comes_back(&mut core, now, &b, true);
    let soon = now + Duration::from_secs(59);
    assert!(ended(&tick(&mut core, soon)).is_empty());
    assert_eq!(core.next_wakeup(), Some(now + Duration::from_secs(60)));
    let later = now + Duration::from_secs(61);
    assert_eq!(ended(&tick(&mut core, later)), [&c]);
    assert_eq!(ended(&say(&mut core, later, &a, Activity::Idle)), [&a]);
}

#[test]
fn a_change_that_the_first_agent_cannot_start_with_reaches_no_other() {
    let now = Instant::now();
    let [a, b] = ["a", "b"].map(|name| AgentName::new(name).unwrap());
    let mut core = idle_fleet(now, &[a.clone(), b.clone()]);
    let actions = core.step(now, Event::RollOut(vec![a.clone(), b.clone()]));
    assert_eq!(ended(&actions), [&a]);
    let actions = comes_back(&mut core, now, &a, false);
    let told = actions.iter().any(|action| {
        matches!(action, Action::Journal(None, What::Trouble { what }) if what.contains("a does not come up"))
    });
    assert!(told, "{actions:?}");
    for minutes in 1..30 {
        let at = now + Duration::from_secs(60 * minutes);
        assert!(ended(&tick(&mut core, at)).is_empty());
    }
}

#[test]
fn a_first_agent_that_the_user_stops_hands_the_change_on() {
    let now = Instant::now();
    let [a, b] = ["a", "b"].map(|name| AgentName::new(name).unwrap());
    let mut core = idle_fleet(now, &[a.clone(), b.clone()]);
    core.step(now, Event::RollOut(vec![a.clone(), b.clone()]));
    let (by, wanted) = ("ann".into(), Wanted::Stopped);
    let actions = core.step(
        now,
        Event::Want {
            name: a,
            wanted,
            by,
        },
    );
    assert_eq!(ended(&actions), [&b]);
}

#[test]
fn a_nudge_is_told_even_where_the_agent_is_answered_before_the_typing_is_over() {
    let now = Instant::now();
    let mut core = idle_fleet(now, &[name()]);
    let stall = Stall {
        stop: ApiStop::Overloaded,
        text: "529".to_owned(),
        id: "one".to_owned(),
        in_a_row: 1,
        ends_in: None,
        dialog: false,
        inherited: false,
    };
    say(&mut core, now, &name(), Activity::Stalled(stall));
    let later = now + Duration::from_secs(600);
    let nudge = tick(&mut core, later).into_iter().find_map(|action| {
        let Action::Nudge {
            name,
            process,
            in_a_row,
            ..
        } = action
        else {
            return None;
        };
        Some((name, process, in_a_row))
    });
    let (name, process, in_a_row) = nudge.expect("it is due");
    say(&mut core, later, &name, Activity::Busy);
    let answered = Event::Answered {
        name: name.clone(),
        process,
    };
    core.step(later, answered);
    let typed = Event::Nudged {
        name: name.clone(),
        process,
        in_a_row,
        refused: None,
    };
    let told = Action::Journal(Some(name), What::Nudged { in_a_row: 1 });
    assert!(core.step(later, typed).contains(&told));
}

#[test]
fn a_change_waits_until_the_first_agent_has_finished_its_turn_and_begun_anew() {
    let now = Instant::now();
    let [a, b] = ["a", "b"].map(|name| AgentName::new(name).unwrap());
    let mut core = idle_fleet(now, &[a.clone(), b.clone()]);
    for name in [&a, &b] {
        say(&mut core, now, name, Activity::Busy);
    }
    core.step(now, Event::RollOut(vec![a.clone(), b.clone()]));
    say(&mut core, now, &b, Activity::Idle);
    let later = now + Duration::from_secs(600);
    assert!(ended(&tick(&mut core, later)).is_empty());
    assert_eq!(ended(&say(&mut core, later, &a, Activity::Idle)), [&a]);
}

#[test]
fn a_change_that_brings_a_dialog_up_reaches_no_other() {
    let now = Instant::now();
    let [a, b] = ["a", "b"].map(|name| AgentName::new(name).unwrap());
    let mut core = idle_fleet(now, &[a.clone(), b.clone()]);
    core.step(now, Event::RollOut(vec![a.clone(), b.clone()]));
    let process = core.view(&a).and_then(|view| view.process).unwrap();
    let (name, end) = (a.clone(), Exit::Code(143).into());
    let actions = core.step(now, Event::Exited { name, process, end });
    let (name, attempt) = (a, launch_in(&actions).unwrap());
    let blocker = Some("trust this folder?".into());
    let actions = core.step(
        now,
        Event::Screen {
            name,
            attempt,
            blocker,
        },
    );
    let told = actions.iter().any(|action| {
        matches!(action, Action::Journal(None, What::Trouble { what }) if what.ends_with("trust this folder?"))
    });
    assert!(told, "{actions:?}");
    let later = now + Duration::from_secs(600);
    assert!(ended(&tick(&mut core, later)).is_empty());
}

#[test]
fn who_does_not_run_gets_a_change_by_its_next_start_and_one_agent_alone_at_once() {
    let now = Instant::now();
    let [a, b] = ["a", "b"].map(|name| AgentName::new(name).unwrap());
    let mut core = idle_fleet(now, &[a.clone(), b.clone()]);
    let process = core.view(&a).and_then(|view| view.process).unwrap();
    let (name, end) = (a.clone(), Exit::Signal(9).into());
    core.step(now, Event::Exited { name, process, end });
    assert_eq!(core.step(now, Event::RollOut(vec![a.clone()])), []);
    let actions = core.step(now, Event::RollOut(vec![a, b.clone()]));
    assert_eq!(ended(&actions), [&b]);
    comes_back(&mut core, now, &b, true);
    let later = now + Duration::from_secs(600);
    assert!(ended(&tick(&mut core, later)).is_empty());
}

#[test]
fn a_fleet_that_was_taken_down_has_the_change_when_it_comes_up() {
    let now = Instant::now();
    let [a, b] = ["a", "b"].map(|name| AgentName::new(name).unwrap());
    let mut core = idle_fleet(now, &[a.clone(), b.clone()]);
    core.step(now, Event::RollOut(vec![a.clone(), b.clone()]));
    core.step(now, Event::Fleet(Fleet::Down));
    core.step(now, Event::Fleet(Fleet::Up));
    for name in [&a, &b] {
        comes_back(&mut core, now, name, true);
    }
    for minutes in [2, 4] {
        let later = now + Duration::from_secs(60 * minutes);
        assert!(ended(&tick(&mut core, later)).is_empty());
    }
}
