//! Support for the tests of the supervisor: a fleet in a given state, and the events that it gets.

use std::time::Instant;

use crate::*;
use claude::ApiStop;
use state::config::Restart;
use state::{AgentState, Cause, Desired, JournalEvent, StartKind};
use sys::exit::Exit;
use sys::process::ProcessId;

pub(crate) const PROCESS: ProcessId = ProcessId {
    pid: 7,
    start_time: 1,
};

pub(crate) fn name() -> AgentName {
    AgentName::new("a").unwrap()
}

/// Returns one agent as its configuration and record have it at the very beginning.
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

/// Returns a supervisor that may launch, with an API that answers.
pub(crate) fn ready(now: Instant, cores: usize) -> Supervisor {
    let mut supervisor = Supervisor::new(Limits::for_cores(cores), Fleet::Up, false);
    let until = None;
    supervisor.step(now, Event::Permit(Some(Permit { epoch: 1, until })));
    supervisor.step(now, Event::ApiAnswers);
    supervisor
}

/// Returns a supervisor with one agent that has been launched for the first time.
pub(crate) fn launched(now: Instant) -> (Supervisor, Attempt) {
    let mut supervisor = ready(now, 2);
    let actions = supervisor.step(now, Event::Declare(vec![declared()]));
    let attempt = launch_in(&actions).unwrap();
    (supervisor, attempt)
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

pub(crate) fn run(supervisor: &mut Supervisor, now: Instant, attempt: Attempt) {
    run_as(supervisor, now, attempt, StartKind::First);
}

/// Its process runs, and its session was begun in this way.
pub(crate) fn run_as(supervisor: &mut Supervisor, now: Instant, attempt: Attempt, how: StartKind) {
    let launched = Event::Launched {
        name: name(),
        attempt,
        process: PROCESS,
        how,
    };
    supervisor.step(now, launched);
}

/// Its launch failed.
pub(crate) fn refuse(
    supervisor: &mut Supervisor,
    now: Instant,
    attempt: Attempt,
    retry: bool,
) -> Vec<Action> {
    let why = "no claude".to_owned();
    let refused = Event::Refused {
        name: name(),
        attempt,
        refusal: Refusal { why, retry },
    };
    supervisor.step(now, refused)
}

pub(crate) fn session(id: &str, activity: Activity) -> Event {
    Event::Session {
        name: name(),
        process: PROCESS,
        session_id: id.into(),
        activity,
    }
}

pub(crate) fn report(supervisor: &mut Supervisor, now: Instant, activity: Activity) -> Vec<Action> {
    supervisor.step(now, session("s", activity))
}

pub(crate) fn confirm(supervisor: &mut Supervisor, now: Instant) {
    report(supervisor, now, Activity::Busy);
}

pub(crate) fn running(now: Instant) -> Supervisor {
    let (mut supervisor, attempt) = launched(now);
    run(&mut supervisor, now, attempt);
    confirm(&mut supervisor, now);
    supervisor
}

pub(crate) fn exit(supervisor: &mut Supervisor, now: Instant, exit: Exit) -> Vec<Action> {
    let event = Event::Exited {
        name: name(),
        process: PROCESS,
        end: exit.into(),
    };
    supervisor.step(now, event)
}

pub(crate) fn tick(supervisor: &mut Supervisor, now: Instant) -> Vec<Action> {
    let available_memory = None;
    supervisor.step(now, Event::Tick { available_memory })
}

pub(crate) fn screen(
    supervisor: &mut Supervisor,
    now: Instant,
    attempt: Attempt,
    shows: Option<&str>,
) -> Vec<Action> {
    let event = Event::Screen {
        name: name(),
        attempt,
        blocker: shows.map(str::to_owned),
    };
    supervisor.step(now, event)
}

#[track_caller]
pub(crate) fn is_shown(
    supervisor: &Supervisor,
    state: AgentState,
    why: Option<&str>,
    cause: Option<Cause>,
) {
    let view = supervisor.view(&name()).unwrap();
    assert_eq!(
        (view.state, view.why.as_deref(), view.cause),
        (state, why, cause)
    );
}

/// Returns a fleet that is up and idle; the pid of each agent is 100 plus its index.
pub(crate) fn idle_fleet(now: Instant, names: &[AgentName]) -> Supervisor {
    let mut supervisor = ready(now, 2);
    let all = names.iter().zip(100..).map(|(name, pid)| Declared {
        name: name.clone(),
        session_id: name.to_string(),
        process: Some(ProcessId { pid, start_time: 1 }),
        ..declared()
    });
    supervisor.step(now, Event::Declare(all.collect()));
    for name in names {
        report_of(&mut supervisor, now, name, Activity::Idle);
    }
    supervisor
}

pub(crate) fn report_of(
    supervisor: &mut Supervisor,
    now: Instant,
    name: &AgentName,
    activity: Activity,
) -> Vec<Action> {
    let process = supervisor.view(name).and_then(|view| view.process).unwrap();
    let (name, session_id) = (name.clone(), name.to_string());
    supervisor.step(
        now,
        Event::Session {
            name,
            process,
            session_id,
            activity,
        },
    )
}

/// Returns a turn that the API ended; each has its own id.
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

pub(crate) fn answered(supervisor: &mut Supervisor, now: Instant, name: &AgentName) -> Vec<Action> {
    let process = supervisor.view(name).and_then(|view| view.process).unwrap();
    let name = name.clone();
    supervisor.step(now, Event::Answered { name, process })
}

pub(crate) fn ended(actions: &[Action]) -> Vec<&AgentName> {
    let ends = actions.iter().filter_map(|action| match action {
        Action::End { name, .. } => Some(name),
        _ => None,
    });
    ends.collect()
}

pub(crate) fn logged(actions: &[Action]) -> Vec<&JournalEvent> {
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
