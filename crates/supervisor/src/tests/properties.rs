//! Property tests of the supervisor's invariants, with random sequences of events.
//!
//! The world is small: three agents, two of which were configured with the same session.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use proptest::prelude::*;

use crate::notice::Source;
use crate::*;
use claude::ApiStop;
use state::config::Restart;
use state::{AgentState, Desired, JournalEvent, StartKind};
use sys::exit::Exit;
use sys::process::ProcessId;

const AGENTS: [(&str, &str); 3] = [("a", "session-1"), ("b", "session-2"), ("c", "session-2")];

/// An operation of the test; the numbers select among what exists.
#[derive(Debug, Clone)]
enum Op {
    Pass(u64),
    Want(usize, bool),
    Restart(usize, bool),
    RollOut([bool; 3]),
    Fleet(bool),
    Notice,
    SaveEnded,
    ShuttingDown(Option<bool>),
    Survived,
    Permit(bool),
    Api,
    Memory(bool),
    Declare([bool; 3]),
    Launched(usize),
    Refused(usize, bool),
    Confirmed(usize),
    WrongSession(usize),
    Cleared(usize),
    Active(usize, u8),
    Answered(usize),
    Nudged(usize, bool),
    Login,
    Screen(usize, bool),
    Exit(usize, i32),
    StaleExit(usize),
}

fn op() -> impl Strategy<Value = Op> {
    let pick = 0usize..3;
    prop_oneof![
        4 => (1u64..200).prop_map(Op::Pass),
        2 => (pick.clone(), any::<bool>()).prop_map(|(i, on)| Op::Want(i, on)),
        1 => (pick.clone(), any::<bool>()).prop_map(|(i, idle)| Op::Restart(i, idle)),
        1 => any::<[bool; 3]>().prop_map(Op::RollOut),
        1 => any::<bool>().prop_map(Op::Fleet),
        1 => Just(Op::Notice),
        1 => Just(Op::SaveEnded),
        1 => any::<Option<bool>>().prop_map(Op::ShuttingDown),
        1 => Just(Op::Survived),
        1 => any::<bool>().prop_map(Op::Permit),
        1 => Just(Op::Api),
        1 => any::<bool>().prop_map(Op::Memory),
        1 => any::<[bool; 3]>().prop_map(Op::Declare),
        6 => pick.clone().prop_map(Op::Launched),
        2 => (pick.clone(), any::<bool>()).prop_map(|(i, retry)| Op::Refused(i, retry)),
        6 => pick.clone().prop_map(Op::Confirmed),
        1 => pick.clone().prop_map(Op::WrongSession),
        1 => pick.clone().prop_map(Op::Cleared),
        2 => (pick.clone(), 0u8..10).prop_map(|(i, what)| Op::Active(i, what)),
        2 => pick.clone().prop_map(Op::Answered),
        2 => (pick.clone(), any::<bool>()).prop_map(|(i, typed)| Op::Nudged(i, typed)),
        1 => Just(Op::Login),
        2 => (pick.clone(), any::<bool>()).prop_map(|(i, blocked)| Op::Screen(i, blocked)),
        5 => (pick.clone(), prop_oneof![Just(0), Just(1), Just(143)]).prop_map(|(i,
        code)| Op::Exit(i, code)),
        1 => pick.prop_map(Op::StaleExit),
    ]
}

/// State of the machine as the actions of the supervisor have made it.
struct World {
    supervisor: Supervisor,
    now: Instant,
    permit: bool,
    fleet_up: bool,
    closed: bool,
    desired: BTreeMap<AgentName, bool>,
    declared: BTreeSet<AgentName>,
    /// Launches without a result yet.
    pending: BTreeMap<AgentName, Attempt>,
    /// Processes that run, with the session that each uses.
    live: BTreeMap<AgentName, (ProcessId, String)>,
    session: BTreeMap<AgentName, String>,
    next_pid: i32,
    cleared: u32,
    /// What stopped the stalled agents.
    stalled: BTreeMap<AgentName, ApiStop>,
    in_a_row: BTreeMap<AgentName, u32>,
    stops: u32,
    paused: bool,
    last_nudge: Option<Instant>,
    nudge_of: BTreeMap<AgentName, Instant>,
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            supervisor: Supervisor::new(Limits::for_cores(2), Fleet::Up, false),
            now: Instant::now(),
            permit: true,
            fleet_up: true,
            closed: false,
            desired: BTreeMap::new(),
            declared: BTreeSet::new(),
            pending: BTreeMap::new(),
            live: BTreeMap::new(),
            session: AGENTS
                .iter()
                .map(|(n, s)| (name(n), (*s).to_owned()))
                .collect(),
            next_pid: 100,
            cleared: 0,
            stalled: BTreeMap::new(),
            in_a_row: BTreeMap::new(),
            stops: 0,
            paused: false,
            last_nudge: None,
            nudge_of: BTreeMap::new(),
        };
        world.send(Event::Permit(Some(Permit {
            epoch: 1,
            until: None,
        })));
        world.send(Event::ApiAnswers);
        world.declare([true, true, true]);
        world
    }

    fn declare(&mut self, which: [bool; 3]) {
        let mut declared = Vec::new();
        for ((n, _), _) in AGENTS.iter().zip(which).filter(|(_, on)| *on) {
            let n = name(n);
            declared.push(Declared {
                session_id: self.session[&n].clone(),
                restart: Restart::OnFailure,
                desired: if self.desired.get(&n).copied().unwrap_or(true) {
                    Desired::Running
                } else {
                    Desired::Stopped
                },
                restarts: 0,
                process: None,
                why: None,
                cause: None,
                broken: None,
                name: n,
            });
        }
        self.declared = declared.iter().map(|d| d.name.clone()).collect();
        for n in &self.declared {
            self.desired.entry(n.clone()).or_insert(true);
        }
        self.send(Event::Declare(declared));
    }

    fn send(&mut self, event: Event) {
        let actions = self.supervisor.step(self.now, event);
        for action in actions {
            self.check(&action);
            match action {
                Action::Launch { name, attempt } => {
                    self.pending.insert(name, attempt);
                }
                Action::Rebind { name, session_id } => {
                    self.session.insert(name, session_id);
                }
                Action::Nudge { name, .. } => {
                    self.last_nudge = Some(self.now);
                    self.nudge_of.insert(name, self.now);
                }
                Action::Journal(_, JournalEvent::Paused { .. }) => {
                    assert!(!self.paused, "reported one pause twice");
                    self.paused = true;
                }
                Action::Journal(_, JournalEvent::Unpaused { .. }) => self.paused = false,
                Action::Save(_) => self.closed = true,
                Action::Journal(_, JournalEvent::Survived { .. }) => self.closed = false,
                // An agent that ended with success, without a request, counts as done.
                Action::Journal(Some(name), JournalEvent::Stopped { .. }) => {
                    self.desired.insert(name, false);
                }
                _ => {}
            }
        }
        self.check_views();
    }

    fn check(&self, action: &Action) {
        match action {
            Action::Launch { name, .. } => {
                assert!(self.permit, "launched without a permit");
                assert!(!self.closed, "launched in a boot that has had its notice");
                assert!(self.fleet_up, "launched while the fleet is down");
                assert!(
                    self.desired[name],
                    "launched an agent that the user stopped"
                );
                assert!(
                    self.declared.contains(name),
                    "launched an agent that is not configured"
                );
                let session = &self.session[name];
                let in_use = self
                    .live
                    .iter()
                    .any(|(other, (_, used))| used == session || other == name);
                assert!(!in_use, "launched a session twice");
                let about_to = self
                    .pending
                    .keys()
                    .any(|other| self.session[other] == *session);
                assert!(!about_to, "launched a session twice");
            }
            Action::Nudge {
                name,
                process,
                stop,
                ..
            } => {
                assert!(
                    self.permit && !self.closed && self.fleet_up,
                    "nudged while nothing may be nudged"
                );
                assert!(self.desired[name], "nudged an agent that the user stopped");
                assert_eq!(
                    self.live.get(name).map(|(p, _)| p),
                    Some(process),
                    "nudged an agent that does not run"
                );
                assert_eq!(self.stalled.get(name), Some(stop), "nudged without a cause");
                assert!(
                    !matches!(stop, ApiStop::Refused { .. }),
                    "nudged after a refused request"
                );
                let apart = |at: &Instant, least: u64| {
                    self.now.saturating_duration_since(*at) >= Duration::from_secs(least)
                };
                assert!(
                    self.last_nudge.is_none_or(|at| apart(&at, 2)),
                    "two nudges at once"
                );
                let own = self.nudge_of.get(name);
                assert!(own.is_none_or(|at| apart(at, 2)), "nudged again too soon");
                let since = self.last_nudge.filter(|_| self.paused);
                assert!(
                    since.is_none_or(|at| apart(&at, 60) || *stop == ApiStop::Login),
                    "nudged in a pause"
                );
            }
            Action::End { name, process } => {
                assert_eq!(
                    self.live.get(name).map(|(p, _)| p),
                    Some(process),
                    "ended a process that it did not start"
                );
                assert!(!self.closed, "ended an agent beside the save");
            }
            _ => {}
        }
    }

    fn check_views(&self) {
        let starting = self
            .supervisor
            .views()
            .iter()
            .filter(|v| v.state == AgentState::Starting)
            .count();
        assert!(starting <= AGENTS.len());
        for view in self.supervisor.views() {
            if matches!(view.state, AgentState::Failed | AgentState::Backoff) {
                assert!(view.why.is_some(), "{} does not say why", view.name);
            }
            let shall_run = view.desired == Desired::Running && self.fleet_up && !self.closed;
            let declared = self.declared.contains(&view.name);
            if shall_run && declared {
                assert_ne!(
                    view.state,
                    AgentState::Stopped,
                    "{} was forgotten",
                    view.name
                );
            }
        }
    }

    fn apply(&mut self, op: Op) {
        let all: Vec<AgentName> = AGENTS.iter().map(|(n, _)| name(n)).collect();
        match op {
            Op::Pass(seconds) => self.pass(Duration::from_secs(seconds)),
            Op::Want(i, on) => {
                // The keeper passes no request for an agent that is not configured.
                if self.supervisor.view(&all[i]).is_some() {
                    self.desired.insert(all[i].clone(), on);
                    let desired = if on {
                        Desired::Running
                    } else {
                        Desired::Stopped
                    };
                    let by = "ann".into();
                    let name = all[i].clone();
                    self.send(Event::Want { name, desired, by });
                }
            }
            Op::Restart(i, when_idle) => self.send(Event::Restart {
                name: all[i].clone(),
                when_idle,
            }),
            Op::RollOut(which) => {
                let names = all.iter().zip(which).filter(|(_, on)| *on);
                self.send(Event::RollOut(names.map(|(n, _)| n.clone()).collect()));
            }
            Op::Fleet(up) => {
                self.fleet_up = up;
                self.send(Event::Fleet(if up { Fleet::Up } else { Fleet::Down }));
            }
            Op::Notice => self.send(Event::Notice(Notice::new(Source::Metadata, self.now, None))),
            Op::SaveEnded => {
                if self.supervisor.notice().is_some() {
                    // The save ended everything that ran, and its launch gate let no launch
                    // through.
                    let ended: Vec<_> = self
                        .live
                        .iter()
                        .map(|(n, (p, _))| (n.clone(), *p))
                        .collect();
                    self.live.clear();
                    for (name, process) in ended {
                        self.send(Event::Exited {
                            name,
                            process,
                            end: Exit::Code(143).into(),
                        });
                    }
                    let pending = std::mem::take(&mut self.pending);
                    for (name, attempt) in pending {
                        let refusal = Refusal {
                            why: "notice".into(),
                            retry: true,
                        };
                        self.send(Event::Refused {
                            name,
                            attempt,
                            refusal,
                        });
                    }
                    self.send(Event::SaveEnded);
                }
            }
            Op::ShuttingDown(yes) => self.send(Event::ShuttingDown(yes)),
            Op::Survived => self.send(Event::Survived),
            Op::Permit(on) => {
                self.permit = on;
                self.send(Event::Permit(on.then_some(Permit {
                    epoch: 1,
                    until: None,
                })));
            }
            Op::Api => self.send(Event::ApiAnswers),
            Op::Memory(much) => {
                self.send(Event::Tick {
                    available_memory: Some(if much { 8 << 30 } else { 0 }),
                });
            }
            Op::Declare(which) => self.declare(which),
            Op::Launched(i) => self.launched(&all[i]),
            Op::Refused(i, retry) => {
                if let Some(attempt) = self.pending.remove(&all[i]) {
                    let refusal = Refusal {
                        why: "no claude".into(),
                        retry,
                    };
                    self.send(Event::Refused {
                        name: all[i].clone(),
                        attempt,
                        refusal,
                    });
                }
            }
            Op::Confirmed(i) => self.report(&all[i], None, Activity::Busy),
            Op::WrongSession(i) => {
                let starting = self
                    .supervisor
                    .view(&all[i])
                    .is_some_and(|v| v.state == AgentState::Starting);
                if starting {
                    self.report(&all[i], Some("another".into()), Activity::Busy);
                }
            }
            Op::Cleared(i) => {
                let up = self
                    .supervisor
                    .view(&all[i])
                    .is_some_and(|v| v.state == AgentState::Running);
                if up && let Some((_, used)) = self.live.get_mut(&all[i]) {
                    self.cleared += 1;
                    *used = format!("cleared-{}", self.cleared);
                    let used = used.clone();
                    self.report(&all[i], Some(used), Activity::Busy);
                }
            }
            Op::Active(i, what) => {
                let activity = match what {
                    0 => Activity::Busy,
                    1 => Activity::Idle,
                    2 => Activity::Waiting(None),
                    _ => return self.stall(&all[i], what),
                };
                self.report(&all[i], None, activity);
            }
            Op::Answered(i) => {
                if let Some((process, _)) = self.live.get(&all[i]).cloned() {
                    if !self.stalled.contains_key(&all[i]) {
                        self.in_a_row.remove(&all[i]);
                    }
                    let name = all[i].clone();
                    self.send(Event::Answered { name, process });
                }
            }
            Op::Nudged(i, typed) => {
                if let Some((process, _)) = self.live.get(&all[i]).cloned() {
                    self.send(Event::Nudged {
                        name: all[i].clone(),
                        process,
                        in_a_row: 1,
                        refused: (!typed).then(|| "unsubmitted input".to_owned()),
                    });
                }
            }
            Op::Login => self.send(Event::Login("a new one".into())),
            Op::Screen(i, blocked) => {
                let attempt = u64::from(self.supervisor.view(&all[i]).is_some());
                let blocker = blocked.then(|| "a dialog".to_owned());
                for attempt in attempt..attempt + 4 {
                    let (name, blocker) = (all[i].clone(), blocker.clone());
                    self.send(Event::Screen {
                        name,
                        attempt,
                        blocker,
                    });
                }
            }
            Op::Exit(i, code) => {
                if let Some((process, _)) = self.live.remove(&all[i]) {
                    self.send(Event::Exited {
                        name: all[i].clone(),
                        process,
                        end: Exit::Code(code).into(),
                    });
                }
            }
            Op::StaleExit(i) => {
                let process = ProcessId {
                    pid: 1,
                    start_time: 0,
                };
                self.send(Event::Exited {
                    name: all[i].clone(),
                    process,
                    end: Exit::Signal(9).into(),
                });
            }
        }
    }

    /// Time passes from one wake-up to the next, as in the keeper's loop.
    fn pass(&mut self, duration: Duration) {
        let until = self.now + duration;
        for _ in 0..1000 {
            let due = self.supervisor.next_wakeup().filter(|at| *at <= until);
            let Some(at) = due else { break };
            self.now = self.now.max(at);
            self.send(Event::Tick {
                available_memory: None,
            });
        }
        self.now = until;
        self.send(Event::Tick {
            available_memory: None,
        });
    }

    fn launched(&mut self, n: &AgentName) {
        if let Some(attempt) = self.pending.remove(n) {
            self.next_pid += 1;
            let process = ProcessId {
                pid: self.next_pid,
                start_time: 1,
            };
            self.live
                .insert(n.clone(), (process, self.session[n].clone()));
            self.send(Event::Launched {
                name: n.clone(),
                attempt,
                process,
                how: StartKind::Resume,
            });
        }
    }

    /// The API ends a turn of an agent.
    fn stall(&mut self, n: &AgentName, which: u8) {
        let stop = match which {
            3 => ApiStop::Limit { until: None },
            4 => ApiStop::Login,
            5 => ApiStop::Overloaded,
            6 => ApiStop::RateLimited,
            7 => ApiStop::Network,
            8 => ApiStop::Unknown,
            _ => ApiStop::Refused { status: None },
        };
        self.stops += 1;
        let in_a_row = self.in_a_row.entry(n.clone()).or_default();
        *in_a_row += 1;
        let stall = Stall {
            stop,
            text: "API Error".into(),
            id: self.stops.to_string(),
            in_a_row: *in_a_row,
            ends_in: (which == 3).then_some(Duration::from_secs(3_600)),
            dialog: which == 3,
            inherited: which == 5 && self.stops.is_multiple_of(2),
        };
        self.report(n, None, Activity::Stalled(stall));
    }

    /// The session file of an agent's process changes.
    fn report(&mut self, n: &AgentName, session_id: Option<String>, activity: Activity) {
        match &activity {
            Activity::Stalled(stall) => self.stalled.insert(n.clone(), stall.stop),
            _ => self.stalled.remove(n),
        };
        if matches!(activity, Activity::Idle) {
            self.in_a_row.remove(n);
        }
        if let Some((process, used)) = self.live.get(n).cloned() {
            let session_id = session_id.unwrap_or(used);
            self.send(Event::Session {
                name: n.clone(),
                process,
                session_id,
                activity,
            });
        }
    }
}

fn name(text: &str) -> AgentName {
    AgentName::new(text).unwrap()
}

proptest! {
    // PROPTEST_CASES=20000 for a long run.
    #![proptest_config(ProptestConfig { max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn no_sequence_of_events_breaks_an_invariant(ops in prop::collection::vec(op(), 1..60)) {
        let mut world = World::new();
        for op in ops {
            world.apply(op);
        }
    }

    #[test]
    fn once_all_is_well_every_desired_agent_runs_or_says_why_not(ops in prop::collection::vec(op(),
    1..40)) {
        let mut world = World::new();
        for op in ops {
            world.apply(op);
        }
        world.apply(Op::SaveEnded);
        world.apply(Op::Survived);
        world.apply(Op::Permit(true));
        world.apply(Op::Fleet(true));
        world.apply(Op::Declare([true; 3]));
        for _ in 0..40 {
            world.apply(Op::Pass(400));
            for (i, (agent, _)) in AGENTS.iter().enumerate() {
                world.apply(Op::Launched(i));
                world.apply(Op::Confirmed(i));
                // An agent that was asked to end does so.
                let ending = world.supervisor.view(&name(agent));
                if ending.is_some_and(|view| view.why.as_deref() == Some("is being ended")) {
                    world.apply(Op::Exit(i, 143));
                }
            }
        }
        for view in world.supervisor.views() {
            let fine = match view.desired {
                Desired::Running => {
                    view.process.is_some() || (view.state == AgentState::Failed
                    && view.why.is_some())
                }
                Desired::Stopped => view.process.is_none() || world.live.contains_key(&view.name),
            };
            prop_assert!(fine, "{view:?}");
        }
    }
}
