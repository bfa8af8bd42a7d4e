//! Tests of the view of an agent: its state, why it does not work, and what comes next.

use std::time::{Duration, Instant};

use super::support::*;
use crate::notice::Source;
use crate::*;
use claude::ApiStop;
use state::{AgentState, Cause, Desired, StallReason};
use sys::exit::Exit;

#[test]
fn each_stage_of_an_agent_has_a_state_a_reason_and_a_cause() {
    use AgentState::*;
    let now = Instant::now();
    let (mut supervisor, attempt) = launched(now);
    is_shown(&supervisor, Starting, None, None);
    run(&mut supervisor, now, attempt);
    is_shown(&supervisor, Starting, None, None);
    let shows = "trust this folder?";
    screen(&mut supervisor, now, attempt, Some(shows));
    let dialog = Cause::Dialog {
        shows: shows.into(),
    };
    is_shown(&supervisor, Waiting, Some(shows), Some(dialog));
    screen(&mut supervisor, now, attempt, None);
    is_shown(&supervisor, Starting, None, None);
    confirm(&mut supervisor, now);
    is_shown(&supervisor, Running, None, None);
    let why = "a permission";
    report(&mut supervisor, now, Activity::Waiting(Some(why.into())));
    is_shown(&supervisor, Waiting, Some(why), None);
    report(&mut supervisor, now, Activity::Waiting(None));
    is_shown(&supervisor, Waiting, None, None);
    report(&mut supervisor, now, Activity::Idle);
    is_shown(&supervisor, Idle, None, None);
    let restart = Event::Restart {
        name: name(),
        when_idle: false,
    };
    supervisor.step(now, restart);
    is_shown(&supervisor, Running, Some("is being ended"), None);
    exit(&mut supervisor, now, Exit::Code(143));
    is_shown(&supervisor, Starting, None, None);
    run(&mut supervisor, now, attempt + 1);
    confirm(&mut supervisor, now);
    exit(&mut supervisor, now, Exit::Signal(9));
    let (code, signal) = (None, Some(9));
    let crashed = Some(Cause::Crashed { exit: code, signal });
    is_shown(&supervisor, Backoff, Some("killed by SIGKILL"), crashed);
    supervisor.step(now, request(Desired::Stopped));
    let stopped = Some(Cause::Stopped { by: "ann".into() });
    is_shown(&supervisor, Stopped, Some("stopped by you"), stopped);
    supervisor.step(now, request(Desired::Running));
    is_shown(&supervisor, Starting, None, None);
}

#[test]
fn the_view_says_since_when_an_agent_is_in_its_state() {
    let now = Instant::now();
    let after = |seconds| now + Duration::from_secs(seconds);
    let (mut supervisor, attempt) = launched(now);
    run(&mut supervisor, after(2), attempt);
    let since = |supervisor: &Supervisor| supervisor.view(&name()).unwrap().since;
    assert_eq!(since(&supervisor), Some(now));
    confirm(&mut supervisor, after(3));
    tick(&mut supervisor, after(4));
    assert_eq!(since(&supervisor), Some(after(3)));
    report(&mut supervisor, after(9), Activity::Idle);
    tick(&mut supervisor, after(10));
    assert_eq!(since(&supervisor), Some(after(9)));
}

#[test]
fn the_stages_of_a_save_are_shown_and_a_stopped_agent_is_not_shown_as_saved() {
    use AgentState::*;
    let now = Instant::now();
    let notice = || Event::Notice(Notice::new(Source::Command, now, None));
    let ended = "ended by a save; the next boot resumes it";
    for runs in [false, true] {
        let (mut supervisor, attempt) = launched(now);
        if runs {
            run(&mut supervisor, now, attempt);
        }
        assert!(!supervisor.is_closed() && supervisor.notice().is_none());
        supervisor.step(now, notice());
        assert!(supervisor.is_closed() && supervisor.notice().is_some());
        is_shown(
            &supervisor,
            if runs { Saving } else { Starting },
            None,
            None,
        );
        if runs {
            // The save itself records what happened to it; the supervisor writes nothing meanwhile.
            assert_eq!(exit(&mut supervisor, now, Exit::Code(143)), []);
            is_shown(&supervisor, Stopped, Some(ended), Some(Cause::Preempted));
        }
        let actions = supervisor.step(now, Event::SaveEnded);
        assert_eq!(actions, [Action::Persist(name())]);
        assert!(supervisor.is_closed() && supervisor.notice().is_none());
        is_shown(&supervisor, Stopped, Some(ended), Some(Cause::Preempted));
        supervisor.step(now, Event::Survived);
        assert!(!supervisor.is_closed());
        is_shown(&supervisor, Starting, None, None);
    }
    // An agent that was stopped before stays stopped.
    let (mut supervisor, attempt) = launched(now);
    run(&mut supervisor, now, attempt);
    supervisor.step(now, request(Desired::Stopped));
    supervisor.step(now, notice());
    is_shown(&supervisor, Saving, Some("stopped by you"), None);
    supervisor.step(now, Event::SaveEnded);
    let by = "ann".into();
    let stopped = Some(Cause::Stopped { by });
    is_shown(&supervisor, Stopped, Some("stopped by you"), stopped);
    supervisor.step(now, Event::Survived);
    assert_eq!(supervisor.view(&name()).unwrap().state, Stopped);
}

#[test]
fn an_agent_that_was_stopped_before_the_keeper_started_says_why_and_a_desired_one_does_not() {
    let now = Instant::now();
    let why = || Some("stopped by you".to_owned());
    let by = || Cause::Stopped { by: "ann".into() };
    let show = |declared: Declared| {
        let mut supervisor = ready(now, 2);
        supervisor.step(now, Event::Declare(vec![declared]));
        supervisor
    };
    let supervisor = show(Declared {
        desired: Desired::Stopped,
        why: why(),
        cause: Some(by()),
        restarts: 4,
        ..declared()
    });
    is_shown(
        &supervisor,
        AgentState::Stopped,
        Some("stopped by you"),
        Some(by()),
    );
    assert_eq!(supervisor.view(&name()).unwrap().restarts, 4);
    let supervisor = show(Declared {
        why: why(),
        ..declared()
    });
    is_shown(&supervisor, AgentState::Starting, None, None);
    let supervisor = show(Declared {
        process: Some(PROCESS),
        why: why(),
        ..declared()
    });
    is_shown(&supervisor, AgentState::Running, None, None);
    let broken = Some("its record is damaged".to_owned());
    let mut supervisor = show(Declared {
        broken: broken.clone(),
        ..declared()
    });
    let cannot = Some(Cause::CannotStart);
    is_shown(
        &supervisor,
        AgentState::Failed,
        broken.as_deref(),
        cannot.clone(),
    );
    // It stays broken until it has been repaired, and then starts at once.
    let again = Declared {
        broken: broken.clone(),
        ..declared()
    };
    assert_eq!(supervisor.step(now, Event::Declare(vec![again])), []);
    is_shown(&supervisor, AgentState::Failed, broken.as_deref(), cannot);
    let actions = supervisor.step(now, Event::Declare(vec![declared()]));
    assert!(launch_in(&actions).is_some());
}

#[test]
fn a_queued_agent_says_what_it_waits_for_first() {
    let now = Instant::now();
    let [a, b, c] = ["a", "b", "c"].map(|name| AgentName::new(name).unwrap());
    let of = |name: &AgentName| Declared {
        name: name.clone(),
        session_id: name.to_string(),
        ..declared()
    };
    let mut supervisor = Supervisor::new(Limits::for_cores(1), Fleet::Up, false);
    let permit = |supervisor: &mut Supervisor, on: bool| {
        let permit = on.then_some(Permit {
            epoch: 1,
            until: None,
        });
        supervisor.step(now, Event::Permit(permit))
    };
    supervisor.step(now, Event::Declare(vec![of(&a), of(&b), of(&c)]));
    let waits = |supervisor: &Supervisor, why: &str, cause: Option<Cause>| {
        let view = supervisor.view(&c).unwrap();
        assert_eq!(view.state, AgentState::Starting);
        assert_eq!((view.why.as_deref(), view.cause), (Some(why), cause));
    };
    let data_dir = "waits for the data directory to be available again";
    waits(&supervisor, data_dir, None);
    permit(&mut supervisor, true);
    waits(&supervisor, "waits for the API to answer", None);
    let memory = |supervisor: &mut Supervisor, bytes: u64| {
        let available_memory = Some(bytes);
        supervisor.step(now, Event::Tick { available_memory })
    };
    supervisor.step(now, Event::ApiAnswers);
    waits(&supervisor, "waits for other agents to start", None);
    // No memory for another start while the start of b is under way.
    memory(&mut supervisor, 0);
    run(&mut supervisor, now, 1);
    confirm_as(&mut supervisor, now, &a, Activity::Busy);
    waits(&supervisor, "waits for other agents to start", None);
    confirm_as(&mut supervisor, now, &a, stalled("1", ApiStop::Overloaded));
    let slower = "waits to be started; API errors slow down all starts";
    waits(&supervisor, slower, None);
    assert_eq!(supervisor.paused(), None);
    confirm_as(&mut supervisor, now, &a, stalled("2", ApiStop::Login));
    assert_eq!(supervisor.paused(), Some("login"));
    let login = "waits for a login: run /login in any agent";
    waits(&supervisor, login, Some(Cause::Login));
    supervisor.step(now, Event::DiskSpace(DiskSpace::None(1)));
    let full = "waits for disk space: the disk is full";
    waits(&supervisor, full, Some(Cause::DiskFull));
    permit(&mut supervisor, false);
    waits(&supervisor, data_dir, None);
    permit(&mut supervisor, true);
    supervisor.step(now, Event::DiskSpace(DiskSpace::Enough));
    waits(&supervisor, login, Some(Cause::Login));
}

fn confirm_as(supervisor: &mut Supervisor, now: Instant, of: &AgentName, activity: Activity) {
    let event = Event::Session {
        name: of.clone(),
        process: PROCESS,
        session_id: of.to_string(),
        activity,
    };
    supervisor.step(now, event);
}

#[test]
fn a_stalled_agent_says_what_comes_next_and_when() {
    let now = Instant::now();
    let (mut supervisor, attempt) = launched(now);
    run(&mut supervisor, now, attempt);
    confirm(&mut supervisor, now);
    let shows = |supervisor: &Supervisor, then: &str, comes: bool| {
        let view = supervisor.view(&name()).unwrap();
        assert_eq!(view.state, AgentState::Stalled);
        let why = format!("stopped by the API: API Error{then}");
        assert_eq!(view.why.as_deref(), Some(why.as_str()));
        assert_eq!(view.next_try.is_some_and(|at| at > now), comes, "{then}");
    };
    report(&mut supervisor, now, stalled("1", ApiStop::Unknown));
    shows(&supervisor, "", true);
    let at = supervisor.view(&name()).unwrap().next_try.unwrap();
    let actions = tick(&mut supervisor, at);
    assert!(matches!(actions[..], [Action::Nudge { .. }]), "{actions:?}");
    shows(&supervisor, "", false);
    let nudged = |refused: Option<&str>| Event::Nudged {
        name: name(),
        process: PROCESS,
        in_a_row: 1,
        refused: refused.map(str::to_owned),
    };
    supervisor.step(at, nudged(Some("unsubmitted input")));
    shows(
        &supervisor,
        "; not asked to continue yet: unsubmitted input",
        true,
    );
    // It works again: nothing of that is shown any more.
    report(&mut supervisor, at, Activity::Busy);
    let view = supervisor.view(&name()).unwrap();
    assert_eq!((view.why, view.next_try), (None, None));
    report(&mut supervisor, at, stalled("2", ApiStop::Login));
    shows(&supervisor, "; the fleet waits for a login", false);
    let refused = ApiStop::Refused { status: Some(400) };
    report(&mut supervisor, at, stalled("3", refused));
    shows(&supervisor, "; it waits for you", false);
    let reason = StallReason::Refused;
    let cause = supervisor.view(&name()).unwrap().cause;
    assert_eq!(cause, Some(Cause::Api { reason }));
}
