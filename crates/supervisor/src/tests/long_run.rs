//! Simulation of a week of a fleet under changing API states, in a fraction of a second.
//!
//! At every moment each agent works, has finished, or says why it does not work and what comes
//! next.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use crate::*;
use claude::ApiStop;
use state::config::Restart;
use state::{AgentState, Desired, JournalEvent, StartKind};
use sys::exit::Exit;
use sys::process::ProcessId;

const AGENTS: usize = 9;
const STEP: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);

/// State of the API for a while.
#[derive(Debug, Clone, Copy, PartialEq)]
enum FakeApi {
    Fair,
    Refuses(ApiStop),
    /// A usage limit that ends with the episode, and names that time.
    Limit,
    /// No agent has a login until the episode is over. `typed`: whether the user then types
    /// `/login`.
    NoLogin {
        typed: bool,
    },
}

fn api() -> impl Strategy<Value = FakeApi> {
    prop_oneof![
        5 => Just(FakeApi::Fair),
        1 => Just(FakeApi::Refuses(ApiStop::Overloaded)),
        1 => Just(FakeApi::Refuses(ApiStop::RateLimited)),
        1 => Just(FakeApi::Refuses(ApiStop::Network)),
        1 => Just(FakeApi::Refuses(ApiStop::Limit { until: None })),
        2 => Just(FakeApi::Limit),
        2 => any::<bool>().prop_map(|typed| FakeApi::NoLogin { typed }),
    ]
}

/// Episodes of the API, in minutes, that fill more than a week.
fn episodes() -> impl Strategy<Value = Vec<(u64, FakeApi)>> {
    prop::collection::vec((5u64..540, api()), 24..60)
}

/// What the Claude Code process of an agent does.
#[derive(Debug, Clone, PartialEq)]
enum Claude {
    Gone,
    Starts { at: Instant, attempt: Attempt },
    Works { asks_at: Instant, ends_at: Instant },
    Rests { until: Instant },
    Stands,
}

struct Fleet {
    supervisor: Supervisor,
    now: Instant,
    luck: u64,
    claudes: BTreeMap<AgentName, (Claude, ProcessId)>,
    in_a_row: BTreeMap<AgentName, u32>,
    stops: u32,
    nudges: usize,
    pauses: usize,
    pid: i32,
}

impl Fleet {
    fn new(seed: u64, count: usize) -> Self {
        let now = Instant::now();
        let mut fleet = Self {
            supervisor: Supervisor::new(Limits::for_cores(2), state::Fleet::Up, false),
            now,
            luck: seed | 1,
            claudes: BTreeMap::new(),
            in_a_row: BTreeMap::new(),
            stops: 0,
            nudges: 0,
            pauses: 0,
            pid: 1,
        };
        let declared = (0..count).map(|i| Declared {
            name: AgentName::new(&format!("agent-{i}")).unwrap(),
            session_id: format!("session-{i}"),
            restart: Restart::OnFailure,
            desired: Desired::Running,
            restarts: 0,
            process: None,
            why: None,
            cause: None,
            broken: None,
        });
        let declared: Vec<Declared> = declared.collect();
        for agent in &declared {
            let no_process = ProcessId {
                pid: 0,
                start_time: 0,
            };
            fleet
                .claudes
                .insert(agent.name.clone(), (Claude::Gone, no_process));
        }
        let until = None;
        fleet.send(Event::Permit(Some(Permit { epoch: 1, until })));
        fleet.send(Event::ApiAnswers);
        fleet.send(Event::Declare(declared));
        fleet
    }

    /// Returns a number below `below` that depends on the seed alone.
    fn chance(&mut self, below: u64) -> u64 {
        self.luck ^= self.luck << 13;
        self.luck ^= self.luck >> 7;
        self.luck ^= self.luck << 17;
        self.luck % below
    }

    fn send(&mut self, event: Event) {
        for action in self.supervisor.step(self.now, event) {
            match action {
                Action::Launch { name, attempt } => {
                    let at = self.now + Duration::from_secs(3);
                    self.pid += 1;
                    let process = ProcessId {
                        pid: self.pid,
                        start_time: 1,
                    };
                    self.claudes
                        .insert(name, (Claude::Starts { at, attempt }, process));
                }
                Action::Nudge {
                    name,
                    process,
                    in_a_row,
                    ..
                } => {
                    self.nudges += 1;
                    let (claude, of) = self.claudes.get_mut(&name).unwrap();
                    assert_eq!((&*claude, *of), (&Claude::Stands, process));
                    *claude = Claude::Works {
                        asks_at: self.now,
                        ends_at: self.now + HOUR / 2,
                    };
                    self.send(Event::Nudged {
                        name: name.clone(),
                        process,
                        in_a_row,
                        refused: None,
                    });
                    self.report(&name, Activity::Busy);
                }
                Action::Journal(_, JournalEvent::Paused { .. }) => self.pauses += 1,
                _ => {}
            }
        }
    }

    fn report(&mut self, name: &AgentName, activity: Activity) {
        let event = Event::Session {
            name: name.clone(),
            process: self.claudes[name].1,
            session_id: format!("session-{}", &name.as_str()[6..]),
            activity,
        };
        self.send(event);
    }

    fn step(&mut self, api: FakeApi, ends_in: Duration) {
        let until = self.now + STEP;
        while let Some(at) = self.supervisor.next_wakeup().filter(|at| *at < until) {
            assert!(at > self.now || self.now == at, "a wake-up that is past");
            let before = self.now;
            self.now = self.now.max(at);
            self.send(Event::Tick {
                available_memory: None,
            });
            let next = self.supervisor.next_wakeup();
            assert!(
                self.now > before || next.is_none_or(|next| next > self.now),
                "it would spin"
            );
        }
        self.now = until;
        for name in self.claudes.keys().cloned().collect::<Vec<_>>() {
            self.step_agent(&name, api, ends_in);
        }
        self.send(Event::Tick {
            available_memory: None,
        });
    }

    fn step_agent(&mut self, name: &AgentName, api: FakeApi, ends_in: Duration) {
        let (claude, process) = self.claudes[name].clone();
        let work = |fleet: &mut Self| Claude::Works {
            asks_at: fleet.now,
            ends_at: fleet.now + Duration::from_secs(60 * (5 + fleet.chance(90))),
        };
        let next = match claude {
            Claude::Starts { at, attempt } if at <= self.now => {
                let (name, how) = (name.clone(), StartKind::Resume);
                self.send(Event::Launched {
                    name: name.clone(),
                    attempt,
                    process,
                    how,
                });
                self.report(&name, Activity::Busy);
                work(self)
            }
            // About one crash in a day of work.
            Claude::Works { .. } if self.chance(1_400) == 0 => {
                let end = Exit::Signal(9).into();
                let name = name.clone();
                self.claudes.insert(name.clone(), (Claude::Gone, process));
                self.send(Event::Exited { name, process, end });
                return;
            }
            Claude::Works { ends_at, .. } if ends_at <= self.now => {
                self.report(name, Activity::Idle);
                let until = self.now + Duration::from_secs(60 * self.chance(30));
                Claude::Rests { until }
            }
            Claude::Works { asks_at, ends_at } if asks_at <= self.now => {
                match self.refusal(api, ends_in) {
                    Some((stop, ends_in)) => {
                        self.stall(name, stop, ends_in);
                        Claude::Stands
                    }
                    None => {
                        self.in_a_row.remove(name);
                        self.send(Event::Answered {
                            name: name.clone(),
                            process,
                        });
                        Claude::Works {
                            asks_at: self.now + Duration::from_secs(60),
                            ends_at,
                        }
                    }
                }
            }
            // The user has more work for it.
            Claude::Rests { until } if until <= self.now => {
                self.in_a_row.remove(name);
                self.report(name, Activity::Busy);
                work(self)
            }
            other => other,
        };
        // A launch may have come meanwhile, for example from an event above.
        if self.claudes[name].1 == process {
            self.claudes.insert(name.clone(), (next, process));
        }
    }

    fn refusal(&mut self, api: FakeApi, ends_in: Duration) -> Option<(ApiStop, Option<Duration>)> {
        match api {
            FakeApi::Fair => None,
            // Claude Code itself tries ten times; some requests succeed by chance.
            FakeApi::Refuses(stop) => (self.chance(10) > 0).then_some((stop, None)),
            FakeApi::Limit => Some((ApiStop::Limit { until: None }, Some(ends_in))),
            FakeApi::NoLogin { .. } => Some((ApiStop::Login, None)),
        }
    }

    fn stall(&mut self, name: &AgentName, stop: ApiStop, ends_in: Option<Duration>) {
        self.stops += 1;
        let in_a_row = self.in_a_row.entry(name.clone()).or_default();
        *in_a_row += 1;
        let stall = Stall {
            stop,
            text: "API Error".into(),
            id: self.stops.to_string(),
            in_a_row: *in_a_row,
            ends_in,
            dialog: false,
            inherited: false,
        };
        self.report(name, Activity::Stalled(stall));
    }

    /// Checks that each agent works, has finished, or says why not and what comes next.
    fn check(&self) {
        for view in self.supervisor.views() {
            let why = view.why.as_deref().unwrap_or_default();
            let truth = &self.claudes[&view.name].0;
            match view.state {
                AgentState::Running => {
                    assert!(matches!(truth, Claude::Works { .. }), "{view:?}: {truth:?}");
                }
                AgentState::Idle => {
                    assert!(matches!(truth, Claude::Rests { .. }), "{view:?}: {truth:?}");
                }
                AgentState::Stalled => {
                    assert!(!why.is_empty() && view.cause.is_some(), "{view:?}");
                    let waits = why.contains("login") || why.contains("for you");
                    assert!(view.next_try.is_some() || waits, "{view:?}");
                }
                AgentState::Starting if why.is_empty() => {
                    assert!(
                        matches!(truth, Claude::Starts { .. }),
                        "{view:?}: {truth:?}"
                    );
                }
                AgentState::Backoff => assert!(view.next_try.is_some(), "{view:?}"),
                _ => assert!(!why.is_empty(), "{view:?}"),
            }
        }
    }

    fn standing(&self) -> Vec<View> {
        let mut views = self.supervisor.views();
        views.retain(|view| !matches!(view.state, AgentState::Running | AgentState::Idle));
        views
    }
}

proptest! {
    // The same weeks in each run.
    #![proptest_config(ProptestConfig { cases: 4, max_shrink_iters: 10,
    rng_seed: proptest::test_runner::RngSeed::Fixed(7), ..ProptestConfig::default() })]

    #[test]
    fn in_a_week_of_api_errors_every_agent_works_or_says_why_not(seed in any::<u64>(),
    episodes in episodes()) {
        let mut fleet = Fleet::new(seed, AGENTS);
        let end = fleet.now + 7 * 24 * HOUR;
        let mut was = FakeApi::Fair;
        for (minutes, api) in episodes {
            // Waiting for a limit that outlasts the week would go beyond the week.
            let until = (fleet.now + Duration::from_secs(60 * minutes)).min(end);
            if was == (FakeApi::NoLogin { typed: true }) && api != was {
                fleet.send(Event::Login("the user typed /login".into()));
            }
            was = api;
            while fleet.now < until {
                let ends_in = until.saturating_duration_since(fleet.now);
                fleet.step(api, ends_in);
                fleet.check();
            }
        }
        // After the worst API state, each agent that does not wait for the user works within hours,
        // automatically, also where the user did not type `/login`, as with an API key that is paid
        // for again.
        let fair = fleet.now;
        while fleet.now < fair + 3 * HOUR {
            fleet.step(FakeApi::Fair, Duration::ZERO);
            fleet.check();
        }
        for view in fleet.standing() {
            let why = view.why.clone().unwrap_or_default();
            prop_assert!(why.contains("it waits for you") || view.process.is_none(), "{:?}", view);
        }
        prop_assert!(fleet.supervisor.paused().is_none(), "the pause has ended");
    }
}

#[test]
fn two_hundred_agents_are_started_and_nudged_one_after_the_other() {
    let mut fleet = Fleet::new(7, 200);
    let began = fleet.now;
    while fleet.standing().len() > 20 {
        fleet.step(FakeApi::Fair, Duration::ZERO);
        assert!(fleet.now < began + 6 * HOUR, "{:?}", fleet.standing());
    }
    let bad = FakeApi::Refuses(ApiStop::Overloaded);
    for _ in 0..30 {
        fleet.step(bad, Duration::ZERO);
    }
    assert!(fleet.standing().len() > 100);
    let fair = fleet.now;
    while fleet.standing().len() > 10 {
        fleet.step(FakeApi::Fair, Duration::ZERO);
        fleet.check();
        assert!(fleet.now < fair + 2 * HOUR, "{:?}", fleet.standing());
    }
}

#[test]
fn a_fleet_without_a_login_probes_at_growing_intervals_and_pauses_once() {
    let mut fleet = Fleet::new(3, AGENTS);
    for _ in 0..5 {
        fleet.step(FakeApi::Fair, Duration::ZERO);
    }
    let lost = fleet.now;
    while fleet.now < lost + 24 * HOUR {
        fleet.step(FakeApi::NoLogin { typed: false }, Duration::ZERO);
        fleet.check();
    }
    assert_eq!(fleet.pauses, 1);
    assert!((20..30).contains(&fleet.nudges), "{}", fleet.nudges);
    fleet.send(Event::Login("the user typed /login".into()));
    let fair = fleet.now;
    while !fleet.standing().is_empty() {
        fleet.step(FakeApi::Fair, Duration::ZERO);
        assert!(fleet.now < fair + HOUR / 4, "{:?}", fleet.standing());
    }
}
