//! What each agent was doing, moment by moment: one lane an agent.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::Doing;
use super::events::{Boot, Fact};
use state::JournalEvent;
use sys::time::Timestamp;

/// What lasted less is the beginning of what followed.
const BLINK: Duration = Duration::from_secs(1);

/// A stretch of time in which an agent did one thing.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Span {
    /// What.
    pub doing: Doing,
    /// Why, in a word, where there is one: why it was stalled, how it had ended.
    pub note: Option<String>,
    /// From when.
    pub from: Timestamp,
    /// Until when.
    pub until: Timestamp,
}

/// When an agent was brought back.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Resumed {
    /// When.
    pub at: Timestamp,
    /// With a note, in a turn that had been cut.
    pub continued: bool,
}

/// One agent's time.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Lane {
    pub(super) spans: Vec<Span>,
    pub(super) resumed: Vec<Resumed>,
    /// When it was started again, stopped by the API, nudged.
    pub(super) restarts: Vec<Timestamp>,
    pub(super) stalls: Vec<Timestamp>,
    pub(super) nudges: Vec<Timestamp>,
}

/// Where a lane is while it is drawn.
#[derive(Debug, Clone, Default)]
struct Pen {
    lane: Lane,
    now: Option<(Doing, Option<String>, Timestamp)>,
}

impl Pen {
    /// From `at` on it does this; `None`: there is no such agent any more.
    fn turn(&mut self, at: Timestamp, doing: Option<Doing>, note: Option<String>) {
        let Some((was, why, from)) = self.now.take() else {
            self.now = doing.map(|doing| (doing, note, at));
            return;
        };
        // A clock that was set back makes nothing undone.
        let at = at.max(from);
        if Some(was) == doing {
            self.now = Some((was, why.or(note), from));
            return;
        }
        // The end of a boot, or of a keeper's watch, is not what anything was on the way to.
        let is_cut = matches!(doing, None | Some(Doing::Away | Doing::Unwatched));
        if was != Doing::Away && !is_cut && at.since(from) < BLINK {
            // How it ended is why it is started again.
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

    /// What lasted a blink was on the way to this.
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

/// Draws the lanes of all agents until `until`. `watched`: the last boot is the one that is now, and a
/// keeper of it looks on.
pub(super) fn draw(boots: &[Boot], until: Timestamp, watched: bool) -> BTreeMap<String, Lane> {
    let mut pens: BTreeMap<String, Pen> = BTreeMap::new();
    for (index, boot) in boots.iter().enumerate() {
        draw_boot(&mut pens, boot, until);
        let is_last = index + 1 == boots.len();
        if is_last && watched {
            continue;
        }
        // What comes after the last word of a boot is not known; that nobody was there at the end of it
        // is, since another one follows.
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
                // Whoever was cut off is away until it is back, or will not be.
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

/// One thing that was seen, and its place in time. Without an agent: of all that are up.
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

/// All of a boot in the order of its clock: changes of state are written down some time after they
/// happened. What was seen between a notice and the word that boot goes on is how a save ends its agents.
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
    // Stable: of one moment, the journal's order counts.
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

/// From each notice until boot went on; `None`: it did not.
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

/// The part of the spans that lies within.
pub(super) fn clip(spans: Vec<Span>, from: Timestamp, until: Timestamp) -> Vec<Span> {
    let within = spans.into_iter().map(|span| Span {
        from: span.from.max(from),
        until: span.until.min(until),
        ..span
    });
    within.filter(|span| span.until > span.from).collect()
}
