//! What the tests of the core have in common: a fleet on a stage, and what it is told.

use std::time::Instant;

use crate::*;
use claude::ApiStop;
use state::config::Restart;
use state::{AgentState, Cause, JournalEvent, StartKind, Desired};
use sys::exit::Exit;
use sys::process::ProcessId;

pub(crate) const PROCESS: ProcessId = ProcessId {
    pid: 7,
    start_time: 1,
};

pub(crate) fn name() -> AgentName {
    AgentName::new("a").unwrap()
}

/// One agent as its file and its record have it, at its very beginning.
pub(crate) fn declared() -> Declared {
    Declared {
        name: name(),
        session_id: "s".into(),
        restart: Restart::OnFailure,
        desired: Desired::Running,
        restarts: 0,
        process: None,
        why: None,
        cause: None,
        broken: None,
    }
}

/// A core that may launch, with an API that answers.
pub(crate) fn ready(now: Instant, cores: usize) -> Core {
    let mut core = Core::new(Limits::for_cores(cores), Fleet::Up, false);
    let until = None;
    core.step(now, Event::Permit(Some(Permit { epoch: 1, until })));
    core.step(now, Event::ApiAnswers);
    core
}

/// A core with one agent that has been launched for the first time.
pub(crate) fn launched(now: Instant) -> (Core, Attempt) {
    let mut core = ready(now, 2);
    let actions = core.step(now, Event::Declare(vec![declared()]));
    let attempt = launch_in(&actions).unwrap();
    (core, attempt)
}

pub(crate) fn request(desired: Desired) -> Event {
    let by = "ann".into();
    let name = name();
    Event::Want { name, desired, by }
}

pub(crate) fn restart(when_idle: bool) -> Event {
    let name = name();
    Event::Restart { name, when_idle }
}

pub(crate) fn launch_in(actions: &[Action]) -> Option<Attempt> {
    actions.iter().find_map(|action| match action {
        Action::Launch { attempt, .. } => Some(*attempt),
        _ => None,
    })
}

pub(crate) fn run(core: &mut Core, now: Instant, attempt: Attempt) {
    run_as(core, now, attempt, StartKind::First);
}

/// Its process is there, and its session was begun in this way.
pub(crate) fn run_as(core: &mut Core, now: Instant, attempt: Attempt, how: StartKind) {
    let launched = Event::Launched {
        name: name(),
        attempt,
        process: PROCESS,
        how,
    };
    core.step(now, launched);
}

/// It could not be launched.
pub(crate) fn refuse(core: &mut Core, now: Instant, attempt: Attempt, retry: bool) -> Vec<Action> {
    let why = "no claude".to_owned();
    let refused = Event::Refused {
        name: name(),
        attempt,
        refusal: Refusal { why, retry },
    };
    core.step(now, refused)
}

pub(crate) fn session(id: &str, activity: Activity) -> Event {
    Event::Session {
        name: name(),
        process: PROCESS,
        session_id: id.into(),
        activity,
    }
}

pub(crate) fn tell(core: &mut Core, now: Instant, activity: Activity) -> Vec<Action> {
    core.step(now, session("s", activity))
}

pub(crate) fn confirm(core: &mut Core, now: Instant) {
    tell(core, now, Activity::Busy);
}

pub(crate) fn running(now: Instant) -> Core {
    let (mut core, attempt) = launched(now);
    run(&mut core, now, attempt);
    confirm(&mut core, now);
    core
}

pub(crate) fn exit(core: &mut Core, now: Instant, exit: Exit) -> Vec<Action> {
    let event = Event::Exited {
        name: name(),
        process: PROCESS,
        end: exit.into(),
    };
    core.step(now, event)
}

pub(crate) fn tick(core: &mut Core, now: Instant) -> Vec<Action> {
    let available_memory = None;
    core.step(now, Event::Tick { available_memory })
}

pub(crate) fn screen(
    core: &mut Core,
    now: Instant,
    attempt: Attempt,
    shows: Option<&str>,
) -> Vec<Action> {
    let event = Event::Screen {
        name: name(),
        attempt,
        blocker: shows.map(str::to_owned),
    };
    core.step(now, event)
}

#[track_caller]
pub(crate) fn is_shown(core: &Core, state: AgentState, why: Option<&str>, cause: Option<Cause>) {
    let view = core.view(&name()).unwrap();
    assert_eq!(
        (view.state, view.why.as_deref(), view.cause),
        (state, why, cause)
    );
}

/// A fleet that is up and idle; the pid of each is its place and a hundred.
pub(crate) fn idle_fleet(now: Instant, names: &[AgentName]) -> Core {
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

pub(crate) fn say(
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

/// A turn that the API ended; each has an id of its own.
pub(crate) fn stalled(id: &str, stop: ApiStop) -> Activity {
    Activity::Stalled(Stall {
        stop,
        text: "API Error".into(),
        id: id.into(),
        in_a_row: 1,
        ends_in: None,
        dialog: false,
        inherited: false,
    })
}

pub(crate) fn answered(core: &mut Core, now: Instant, name: &AgentName) -> Vec<Action> {
    let process = core.view(name).and_then(|view| view.process).unwrap();
    let name = name.clone();
    core.step(now, Event::Answered { name, process })
}

pub(crate) fn ended(actions: &[Action]) -> Vec<&AgentName> {
    let ends = actions.iter().filter_map(|action| match action {
        Action::End { name, .. } => Some(name),
        _ => None,
    });
    ends.collect()
}

pub(crate) fn told(actions: &[Action]) -> Vec<&JournalEvent> {
    let told = actions.iter().filter_map(|action| match action {
        Action::Journal(_, what) => Some(what),
        _ => None,
    });
    told.collect()
}

pub(crate) fn nudged(actions: &[Action]) -> Vec<&AgentName> {
    let nudges = actions.iter().filter_map(|action| match action {
        Action::Nudge { name, .. } => Some(name),
        _ => None,
    });
    nudges.collect()
}

pub(crate) fn unpaused(actions: &[Action]) -> bool {
    actions
        .iter()
        .any(|action| matches!(action, Action::Journal(None, JournalEvent::Unpaused { .. })))
}
