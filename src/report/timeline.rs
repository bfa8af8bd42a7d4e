//! Timeline of a report: what each agent was doing when, one lane per agent.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::Doing;
use super::events::{Boot, Fact};
use state::JournalEvent;
use sys::time::Timestamp;

/// A shorter span is merged into the next one.
const SHORTEST: Duration = Duration::from_secs(1);

/// A stretch of time in which an agent did one thing.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Span {
    /// What it was doing.
    pub doing: Doing,
    /// Why, in one word, if known: why it stalled, how it exited.
    pub note: Option<String>,
    /// Start of the span.
    pub from: Timestamp,
    /// End of the span.
    pub until: Timestamp,
}

/// A time at which an agent was resumed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Resumed {
    /// The time.
    pub at: Timestamp,
    /// Whether an interrupted turn was continued.
    pub continued: bool,
}

/// The lane of one agent.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Lane {
    pub(super) spans: Vec<Span>,
    pub(super) resumed: Vec<Resumed>,
    /// When it was restarted, stalled, and nudged (asked to continue).
    pub(super) restarts: Vec<Timestamp>,
    pub(super) stalls: Vec<Timestamp>,
    pub(super) nudges: Vec<Timestamp>,
}

/// A lane under construction.
#[derive(Debug, Clone, Default)]
struct Pen {
    lane: Lane,
    now: Option<(Doing, Option<String>, Timestamp)>,
}

impl Pen {
    /// Sets what the agent does from `at` on; `None` if the agent does not exist any more.
    fn turn(&mut self, at: Timestamp, doing: Option<Doing>, note: Option<String>) {
        let Some((was, why, from)) = self.now.take() else {
            self.now = doing.map(|doing| (doing, note, at));
            return;
        };
        // If the clock was set back, the time of the last change is used.
        let at = at.max(from);
        if Some(was) == doing {
            self.now = Some((was, why.or(note), from));
            return;
        }
        // A short span before the end of a boot or of a keeper is not merged into what follows.
        let is_cut = matches!(doing, None | Some(Doing::Away | Doing::Unwatched));
        if was != Doing::Away && !is_cut && at.since(from) < SHORTEST {
            // How it exited is the reason for its restart.
            let cause = why.filter(|_| doing == Some(Doing::Starting));
            self.take_over(from, doing, note.or(cause));
            return;
        }
        if at > from {
            self.lane.spans.push(Span {
                doing: was,
                note: why,
                from,
                until: at,
            });
        }
        self.now = doing.map(|doing| (doing, note, at));
    }

    /// Merges the short span that began at `from` into this one.
    fn take_over(&mut self, from: Timestamp, doing: Option<Doing>, note: Option<String>) {
        let goes_on = |last: &mut Span| Some(last.doing) == doing && last.until == from;
        let earlier = self.lane.spans.pop_if(goes_on);
        self.now = doing.map(|doing| match earlier {
            Some(earlier) => (doing, earlier.note.or(note), earlier.from),
            None => (doing, note, from),
        });
    }

    fn is(&self, expected: impl Fn(Doing) -> bool) -> bool {
        self.now
            .as_ref()
            .is_some_and(|(doing, ..)| expected(*doing))
    }
}

/// Returns the lanes of all agents until `until`. `watched`: the last boot is the current one, and
/// its keeper runs.
pub(super) fn draw(boots: &[Boot], until: Timestamp, watched: bool) -> BTreeMap<String, Lane> {
    let mut pens: BTreeMap<String, Pen> = BTreeMap::new();
    for (index, boot) in boots.iter().enumerate() {
        draw_boot(&mut pens, boot, until);
        let is_last = index + 1 == boots.len();
        if is_last && watched {
            continue;
        }
        // What happened after the last line of a boot is not known. If another boot follows, no
        // agent ran at the end.
        let next = if is_last {
            Doing::Unwatched
        } else {
            Doing::Away
        };
        for pen in pens.values_mut().filter(|pen| pen.is(Doing::is_up)) {
            pen.turn(boot.last_at.min(until), Some(next), None);
        }
    }
    let close = |(name, mut pen): (String, Pen)| {
        pen.turn(until, None, None);
        (name, pen.lane)
    };
    pens.into_iter().map(close).collect()
}

fn draw_boot(pens: &mut BTreeMap<String, Pen>, boot: &Boot, until: Timestamp) {
    for Moment { at, agent, step } in moments(boot) {
        let at = at.min(until);
        let Some(name) = agent else {
            if let Step::Doing(doing, _) = step {
                for pen in pens.values_mut().filter(|pen| pen.is(Doing::is_up)) {
                    pen.turn(at, doing, None);
                }
            }
            continue;
        };
        let pen = pens.entry(name.to_owned()).or_default();
        match step {
            Step::Doing(doing, note) => {
                // An interrupted agent is away until it is resumed or fails.
                let still_away = pen.is(|now| now == Doing::Away)
                    && matches!(doing, Some(Doing::Starting | Doing::Away));
                if doing == Some(Doing::Stalled) && note.is_some() {
                    pen.lane.stalls.push(at);
                }
                if !still_away {
                    pen.turn(at, doing, note);
                }
            }
            Step::Up { continued } => {
                let doing = [Doing::Idle, Doing::Working][usize::from(continued)];
                pen.turn(at, Some(doing), None);
                pen.lane.resumed.push(Resumed { at, continued });
            }
            Step::Restarts => {
                pen.lane.restarts.push(at);
                pen.turn(at, Some(Doing::Starting), None);
            }
            Step::Nudged => pen.lane.nudges.push(at),
        }
    }
}

/// One change at a point in time. Without an agent it applies to all that run.
struct Moment<'a> {
    at: Timestamp,
    agent: Option<&'a str>,
    step: Step,
}

enum Step {
    Doing(Option<Doing>, Option<String>),
    Up { continued: bool },
    Restarts,
    Nudged,
}

/// Returns all changes of a boot in the order of its clock, since changes of state are written some
/// time after they happened. Changes between a notice and the event that the boot goes on are left
/// out: there a save stops the agents.
fn moments(boot: &Boot) -> Vec<Moment<'_>> {
    let mut all = Vec::new();
    for fact in &boot.facts {
        if let JournalEvent::Activity { changes } = &fact.event {
            all.extend(changes.iter().map(|change| Moment {
                at: change.at,
                agent: Some(change.agent.as_str()),
                step: Step::Doing(change.state.map(Doing::from_state), None),
            }));
        }
        let (at, agent) = (fact.at, fact.agent.as_deref());
        let step = match (&fact.event, agent) {
            (JournalEvent::Notice { .. }, _) => Some(Step::Doing(Some(Doing::Away), None)),
            (JournalEvent::KeeperStopped { .. }, _) => {
                Some(Step::Doing(Some(Doing::Unwatched), None))
            }
            (event, Some(_)) => of_agent(event),
            _ => None,
        };
        all.extend(step.map(|step| Moment { at, agent, step }));
    }
    // The sort is stable: at equal times the order of the journal is kept.
    all.sort_by_key(|moment| moment.at);
    let closed = closed(&boot.facts);
    let ends_it = |moment: &Moment<'_>| {
        let within = closed
            .iter()
            .any(|(from, until)| moment.at >= *from && until.is_none_or(|until| moment.at < until));
        within && moment.agent.is_some() && matches!(moment.step, Step::Doing(..))
    };
    all.retain(|moment| !ends_it(moment));
    all
}

fn of_agent(event: &JournalEvent) -> Option<Step> {
    let (doing, note) = match event {
        JournalEvent::Starting { .. } => (Doing::Starting, None),
        JournalEvent::Waiting { .. } => (Doing::Waiting, None),
        JournalEvent::Stalled { reason, .. } => (Doing::Stalled, Some(reason.name())),
        JournalEvent::Exited { cause, .. } => (Doing::Stopped, cause.kind()),
        JournalEvent::Stopped { .. } => (Doing::Stopped, None),
        JournalEvent::Failed { cause, .. } => (Doing::Failed, cause.kind()),
        JournalEvent::Started { .. } => return Some(Step::Up { continued: false }),
        &JournalEvent::Resumed { continued, .. } => return Some(Step::Up { continued }),
        JournalEvent::Backoff { .. } => return Some(Step::Restarts),
        JournalEvent::Nudged { .. } => return Some(Step::Nudged),
        _ => return None,
    };
    Some(Step::Doing(Some(doing), note))
}

/// Returns the time from each notice until the boot went on; `None` if it did not.
fn closed(facts: &[Fact]) -> Vec<(Timestamp, Option<Timestamp>)> {
    let mut all: Vec<(Timestamp, Option<Timestamp>)> = Vec::new();
    for fact in facts {
        match (&fact.event, all.last_mut()) {
            (JournalEvent::Notice { .. }, _) => all.push((fact.at, None)),
            (JournalEvent::Survived { .. }, Some((_, until @ None))) => *until = Some(fact.at),
            _ => {}
        }
    }
    all
}

/// Returns the part of the spans between `from` and `until`.
pub(super) fn clip(spans: Vec<Span>, from: Timestamp, until: Timestamp) -> Vec<Span> {
    let within = spans.into_iter().map(|span| Span {
        from: span.from.max(from),
        until: span.until.min(until),
        ..span
    });
    within.filter(|span| span.until > span.from).collect()
}
