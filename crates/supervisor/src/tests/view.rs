//! What a person is shown of an agent: its state, why it stands still, and what comes next.

use std::time::{Duration, Instant};

use super::support::*;
use crate::notice::Source;
use crate::*;
use claude::ApiStop;
use state::{AgentState, Cause, StallReason, Desired};
use sys::exit::Exit;

#[test]
fn each_stage_of_an_agent_has_its_state_its_reason_and_its_cause() {
    use AgentState::*;
    let now = Instant::now();
    let (mut core, attempt) = launched(now);
    is_shown(&core, Starting, None, None);
    run(&mut core, now, attempt);
    is_shown(&core, Starting, None, None);
    let shows = "trust this folder?";
    screen(&mut core, now, attempt, Some(shows));
    let dialog = Cause::Dialog {
        shows: shows.into(),
    };
    is_shown(&core, Waiting, Some(shows), Some(dialog));
    screen(&mut core, now, attempt, None);
    is_shown(&core, Starting, None, None);
    confirm(&mut core, now);
    is_shown(&core, Running, None, None);
    let why = "a permission";
    tell(&mut core, now, Activity::Waiting(Some(why.into())));
    is_shown(&core, Waiting, Some(why), None);
    tell(&mut core, now, Activity::Waiting(None));
    is_shown(&core, Waiting, None, None);
    tell(&mut core, now, Activity::Idle);
    is_shown(&core, Idle, None, None);
    let restart = Event::Restart {
        name: name(),
        when_idle: false,
    };
    core.step(now, restart);
    is_shown(&core, Running, Some("is being ended"), None);
    exit(&mut core, now, Exit::Code(143));
    is_shown(&core, Starting, None, None);
    run(&mut core, now, attempt + 1);
    confirm(&mut core, now);
    exit(&mut core, now, Exit::Signal(9));
    let (code, signal) = (None, Some(9));
    let crashed = Some(Cause::Crashed { exit: code, signal });
    is_shown(&core, Backoff, Some("killed by SIGKILL"), crashed);
    core.step(now, request(Desired::Stopped));
    let stopped = Some(Cause::Stopped { by: "ann".into() });
    is_shown(&core, Stopped, Some("stopped by you"), stopped);
    core.step(now, request(Desired::Running));
    is_shown(&core, Starting, None, None);
}

#[test]
fn an_agent_is_shown_in_its_state_since_when_it_came_to_it() {
    let now = Instant::now();
    let after = |seconds| now + Duration::from_secs(seconds);
    let (mut core, attempt) = launched(now);
    run(&mut core, after(2), attempt);
    let since = |core: &Core| core.view(&name()).unwrap().since;
    assert_eq!(since(&core), Some(now));
    confirm(&mut core, after(3));
    tick(&mut core, after(4));
    assert_eq!(since(&core), Some(after(3)));
    tell(&mut core, after(9), Activity::Idle);
    tick(&mut core, after(10));
    assert_eq!(since(&core), Some(after(9)));
}

#[test]
fn the_stages_of_a_save_are_shown_and_what_did_not_run_does_not_seem_to_be_saved() {
    use AgentState::*;
    let now = Instant::now();
    let notice = || Event::Notice(Notice::new(Source::Command, now, None));
    let ended = "ended by a save; the next boot resumes it";
    for runs in [false, true] {
        let (mut core, attempt) = launched(now);
        if runs {
            run(&mut core, now, attempt);
        }
        assert!(!core.is_closed() && core.notice().is_none());
        core.step(now, notice());
        assert!(core.is_closed() && core.notice().is_some());
        is_shown(&core, if runs { Saving } else { Starting }, None, None);
        if runs {
            // The save itself says what became of it, and nothing is written beside that.
            assert_eq!(exit(&mut core, now, Exit::Code(143)), []);
            is_shown(&core, Stopped, Some(ended), Some(Cause::Preempted));
        }
        let actions = core.step(now, Event::SaveEnded);
        assert_eq!(actions, [Action::Persist(name())]);
        assert!(core.is_closed() && core.notice().is_none());
        is_shown(&core, Stopped, Some(ended), Some(Cause::Preempted));
        core.step(now, Event::Survived);
        assert!(!core.is_closed());
        is_shown(&core, Starting, None, None);
    }
    // Who was stopped before stays so.
    let (mut core, attempt) = launched(now);
    run(&mut core, now, attempt);
    core.step(now, request(Desired::Stopped));
    core.step(now, notice());
    is_shown(&core, Saving, Some("stopped by you"), None);
    core.step(now, Event::SaveEnded);
    let by = "ann".into();
    let stopped = Some(Cause::Stopped { by });
    is_shown(&core, Stopped, Some("stopped by you"), stopped);
    core.step(now, Event::Survived);
    assert_eq!(core.view(&name()).unwrap().state, Stopped);
}

#[test]
fn what_stood_still_before_the_keeper_came_says_why_and_what_shall_run_does_not() {
    let now = Instant::now();
    let why = || Some("stopped by you".to_owned());
    let by = || Cause::Stopped { by: "ann".into() };
    let show = |declared: Declared| {
        let mut core = ready(now, 2);
        core.step(now, Event::Declare(vec![declared]));
        core
    };
    let core = show(Declared {
        desired: Desired::Stopped,
        why: why(),
        cause: Some(by()),
        restarts: 4,
        ..declared()
    });
    is_shown(
        &core,
        AgentState::Stopped,
        Some("stopped by you"),
        Some(by()),
    );
    assert_eq!(core.view(&name()).unwrap().restarts, 4);
    let core = show(Declared {
        why: why(),
        ..declared()
    });
    is_shown(&core, AgentState::Starting, None, None);
    let core = show(Declared {
        process: Some(PROCESS),
        why: why(),
        ..declared()
    });
    is_shown(&core, AgentState::Running, None, None);
    let broken = Some("its record is torn".to_owned());
    let mut core = show(Declared {
        broken: broken.clone(),
        ..declared()
    });
    let cannot = Some(Cause::CannotStart);
    is_shown(&core, AgentState::Failed, broken.as_deref(), cannot.clone());
    // It stays so until what is broken has been repaired, and then begins at once.
    let again = Declared {
        broken: broken.clone(),
        ..declared()
    };
    assert_eq!(core.step(now, Event::Declare(vec![again])), []);
    is_shown(&core, AgentState::Failed, broken.as_deref(), cannot);
    let actions = core.step(now, Event::Declare(vec![declared()]));
    assert!(launch_in(&actions).is_some());
}

#[test]
fn who_waits_in_the_queue_names_what_is_in_the_way_first() {
    let now = Instant::now();
    let [a, b, c] = ["a", "b", "c"].map(|name| AgentName::new(name).unwrap());
    let of = |name: &AgentName| Declared {
        name: name.clone(),
        session_id: name.to_string(),
        ..declared()
    };
    let mut core = Core::new(Limits::for_cores(1), Fleet::Up, false);
    let permit = |core: &mut Core, on: bool| {
        let permit = on.then_some(Permit {
            epoch: 1,
            until: None,
        });
        core.step(now, Event::Permit(permit))
    };
    core.step(now, Event::Declare(vec![of(&a), of(&b), of(&c)]));
    let waits = |core: &Core, why: &str, cause: Option<Cause>| {
        let view = core.view(&c).unwrap();
        assert_eq!(view.state, AgentState::Starting);
        assert_eq!((view.why.as_deref(), view.cause), (Some(why), cause));
    };
    let data_dir = "waits until this data directory may be run again";
    waits(&core, data_dir, None);
    permit(&mut core, true);
    waits(&core, "waits for the API to answer", None);
    let memory = |core: &mut Core, bytes: u64| {
        let available_memory = Some(bytes);
        core.step(now, Event::Tick { available_memory })
    };
    core.step(now, Event::ApiAnswers);
    waits(&core, "waits for its turn", None);
    // No memory for another start while b's is under way.
    memory(&mut core, 0);
    run(&mut core, now, 1);
    confirm_as(&mut core, now, &a, Activity::Busy);
    waits(&core, "waits for its turn", None);
    confirm_as(&mut core, now, &a, stalled("1", ApiStop::Overloaded));
    let slower = "waits its turn; the API is in trouble, so all go slower";
    waits(&core, slower, None);
    assert_eq!(core.paused(), None);
    confirm_as(&mut core, now, &a, stalled("2", ApiStop::Login));
    assert_eq!(core.paused(), Some("login"));
    let login = "waits for a login: run /login in any agent";
    waits(&core, login, Some(Cause::Login));
    core.step(now, Event::Room(Room::None(1)));
    let full = "waits for room: the disk is full";
    waits(&core, full, Some(Cause::DiskFull));
    permit(&mut core, false);
    waits(&core, data_dir, None);
    permit(&mut core, true);
    core.step(now, Event::Room(Room::Enough));
    waits(&core, login, Some(Cause::Login));
}

fn confirm_as(core: &mut Core, now: Instant, of: &AgentName, activity: Activity) {
    let event = Event::Session {
        name: of.clone(),
        process: PROCESS,
        session_id: of.to_string(),
        activity,
    };
    core.step(now, event);
}

#[test]
fn who_stands_still_says_what_comes_next_and_when() {
    let now = Instant::now();
    let (mut core, attempt) = launched(now);
    run(&mut core, now, attempt);
    confirm(&mut core, now);
    let shows = |core: &Core, then: &str, comes: bool| {
        let view = core.view(&name()).unwrap();
        assert_eq!(view.state, AgentState::Stalled);
        let why = format!("stopped by the API: API Error{then}");
        assert_eq!(view.why.as_deref(), Some(why.as_str()));
        assert_eq!(view.next_try.is_some_and(|at| at > now), comes, "{then}");
    };
    tell(&mut core, now, stalled("1", ApiStop::Unknown));
    shows(&core, "", true);
    let at = core.view(&name()).unwrap().next_try.unwrap();
    let actions = tick(&mut core, at);
    assert!(matches!(actions[..], [Action::Nudge { .. }]), "{actions:?}");
    shows(&core, "", false);
    let nudged = |refused: Option<&str>| Event::Nudged {
        name: name(),
        process: PROCESS,
        in_a_row: 1,
        refused: refused.map(str::to_owned),
    };
    core.step(at, nudged(Some("unsent words")));
    shows(&core, "; not nudged yet: unsent words", true);
    // It works again: nothing of all that is shown any more.
    tell(&mut core, at, Activity::Busy);
    let view = core.view(&name()).unwrap();
    assert_eq!((view.why, view.next_try), (None, None));
    tell(&mut core, at, stalled("2", ApiStop::Login));
    shows(&core, "; the fleet waits for a login", false);
    let refused = ApiStop::Refused { status: Some(400) };
    tell(&mut core, at, stalled("3", refused));
    shows(&core, "; it waits for you", false);
    let reason = StallReason::Refused;
    let cause = core.view(&name()).unwrap().cause;
    assert_eq!(cause, Some(Cause::Api { reason }));
}
