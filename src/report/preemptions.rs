//! Preemptions of a report: how each was announced, when everything was saved, which agents came
//! back.
//!
//! Times of two boots are compared here. They are for display only; nothing is decided by them.

use serde::Serialize;

use super::events::Boot;
use state::{Fleet, JournalEvent, Manifest, StartKind};
use sys::time::Timestamp;

/// How a boot ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum BootEnd {
    /// With a preemption notice of the cloud.
    Preempted,
    /// By a shutdown of the machine, or a request to the keeper to stop with its fleet.
    ShutDown,
    /// By `spotkeep save --final`.
    Saved,
    /// Without a notice: power loss, a crash, a kill.
    CutOff,
}

impl BootEnd {
    /// Returns its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Preempted => "preempted",
            Self::ShutDown => "shut down",
            Self::Saved => "saved",
            Self::CutOff => "cut off",
        }
    }

    fn from_source(source: &str) -> Self {
        match source {
            "metadata" => Self::Preempted,
            "command" => Self::Saved,
            _ => Self::ShutDown,
        }
    }
}

/// One preemption, or another end of a boot.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Preemption {
    /// When the notice came. Without one, the time of the last journal line of that boot, since its
    /// end is not known.
    pub at: Timestamp,
    /// How the boot ended.
    pub kind: BootEnd,
    /// The boot that ended.
    pub boot_id: String,
    /// Whether that boot went on after its notice.
    pub survived: bool,
    /// The id of the save; null without one.
    pub save: Option<String>,
    /// Whether every agent ended and everything was saved before the deadline.
    pub clean: bool,
    /// From the notice until every transcript was saved.
    pub transcripts_safe_ms: Option<u64>,
    /// From the notice until everything was saved.
    pub notice_to_safe_ms: Option<u64>,
    /// When the next boot began, or this one went on; null if neither has happened yet.
    pub back_at: Option<Timestamp>,
    /// From `at` until `back_at`: how long the machine was down. Null if the clocks of both boots
    /// disagree.
    pub gone_ms: Option<u64>,
    /// From the start of the next boot until the last agent was resumed; null if not all were.
    pub boot_to_resumed_ms: Option<u64>,
    /// From `at` until the last agent was resumed; null if none was.
    pub away_ms: Option<u64>,
    /// Number of agents to resume.
    pub agents_total: usize,
    /// Number of agents that were resumed before any failed.
    pub agents_back: usize,
    /// The agents that were not resumed.
    pub missing: Vec<String>,
    /// Interrupted turns.
    pub turns_cut: usize,
    /// Interrupted turns that were continued.
    pub turns_continued: usize,
    /// Interrupted turns that were not continued.
    pub turns_lost: usize,
    /// Transcript records that are known to be lost; null if unknown: up to the last two seconds of
    /// a transcript.
    pub records_lost: Option<usize>,
}

/// Returns all preemptions, oldest first.
pub(super) fn find(boots: &[Boot], saves: &[Manifest]) -> Vec<Preemption> {
    let mut found = Vec::new();
    let mut fleet_is_up = true;
    for (index, boot) in boots.iter().enumerate() {
        let mut open: Option<usize> = None;
        for (at, fact) in boot.facts.iter().enumerate() {
            match fact.event {
                JournalEvent::Notice { .. } => open = Some(at),
                JournalEvent::Survived { .. } => {
                    if let Some(notice) = open.take() {
                        found.push(survived(boot, notice, at, saves));
                    }
                }
                JournalEvent::Fleet { desired } => fleet_is_up = desired == Fleet::Up,
                _ => {}
            }
        }
        let next = boots.get(index + 1);
        if open.is_some() || (next.is_some() && fleet_is_up) {
            let end = end_of(boot, open, next, saves);
            // A boot that ended while no agent was to run interrupted none.
            if open.is_some() || end.agents_total > 0 {
                found.push(end);
            }
        }
    }
    found
}

/// Returns the end of a boot, with what happened to its agents in the next one.
fn end_of(
    boot: &Boot,
    notice: Option<usize>,
    next: Option<&Boot>,
    saves: &[Manifest],
) -> Preemption {
    let mut end = begin(boot, notice, saves);
    let ran = ran(&end, saves);
    let Some(next) = next else {
        end.agents_total = ran.len();
        return end;
    };
    let (mut from, mut expected) = (0, ran);
    for (at, fact) in next.facts.iter().enumerate() {
        if let JournalEvent::Restore {
            names, short, torn, ..
        } = &fact.event
        {
            // Only with a complete save is it known that nothing else is missing.
            end.records_lost = (short.is_empty() && end.clean).then_some(torn.len());
            (from, expected) = (at, names.clone());
            break;
        }
    }
    let back = next.began();
    end.back_at = Some(back);
    end.gone_ms = between(end.at, back);
    return_of(&mut end, expected, next, from, back);
    end
}

/// Returns a notice after which the same boot went on.
fn survived(boot: &Boot, notice: usize, survived: usize, saves: &[Manifest]) -> Preemption {
    let mut end = begin(boot, Some(notice), saves);
    let back = boot.facts[survived].at;
    end.survived = true;
    end.back_at = Some(back);
    let expected = ran(&end, saves);
    return_of(&mut end, expected, boot, survived, back);
    end.records_lost = end.clean.then_some(0);
    end
}

fn begin(boot: &Boot, notice: Option<usize>, saves: &[Manifest]) -> Preemption {
    let since = notice.map_or(&[][..], |at| &boot.facts[at..]);
    let source = since.first().and_then(|fact| match &fact.event {
        JournalEvent::Notice { source, .. } => Some(source.as_str()),
        _ => None,
    });
    // A later notice of the same boot has its own save.
    let own = since
        .iter()
        .skip(1)
        .take_while(|fact| !matches!(fact.event, JournalEvent::Notice { .. }));
    let safe = own.into_iter().find_map(|fact| match &fact.event {
        JournalEvent::Safe { save, clean, .. } => Some((save.clone(), *clean)),
        _ => None,
    });
    let save = safe.as_ref().map(|(id, _)| id.clone());
    let manifest = saves
        .iter()
        .find(|manifest| Some(&manifest.id) == save.as_ref());
    let stages = manifest.map(|manifest| &manifest.stages);
    Preemption {
        at: since.first().map_or(boot.last_at, |fact| fact.at),
        kind: source.map_or(BootEnd::CutOff, BootEnd::from_source),
        boot_id: boot.id.clone(),
        survived: false,
        clean: safe.is_some_and(|(_, clean)| clean),
        save,
        transcripts_safe_ms: stages.and_then(|stages| stages.transcripts_safe_ms),
        notice_to_safe_ms: stages.and_then(|stages| stages.notice_to_safe_ms),
        back_at: None,
        gone_ms: None,
        boot_to_resumed_ms: None,
        away_ms: None,
        agents_total: 0,
        agents_back: 0,
        missing: Vec::new(),
        turns_cut: 0,
        turns_continued: 0,
        turns_lost: 0,
        records_lost: None,
    }
}

/// Returns the agents that the save had to stop.
fn ran(end: &Preemption, saves: &[Manifest]) -> Vec<String> {
    let manifest = saves
        .iter()
        .find(|save| Some(&save.id) == end.save.as_ref());
    let rows = manifest.into_iter().flat_map(|save| &save.agents);
    rows.filter(|row| row.exit_ms.is_some())
        .map(|row| row.name.to_string())
        .collect()
}

/// Fills in which of the expected agents were resumed, from this event of a boot on.
fn return_of(
    end: &mut Preemption,
    expected: Vec<String>,
    boot: &Boot,
    from: usize,
    began: Timestamp,
) {
    end.agents_total = expected.len();
    let mut last = None;
    for name in expected {
        let of_agent = boot.facts[from..]
            .iter()
            .filter(|fact| fact.agent.as_deref() == Some(&name));
        let (mut back, mut cut, mut went_on) = (None, false, false);
        for fact in of_agent {
            match fact.event {
                JournalEvent::Starting { how, .. } => cut |= how == StartKind::Continue,
                JournalEvent::Started { .. } | JournalEvent::Resumed { .. } => {
                    back = Some(fact.at);
                    went_on = matches!(
                        fact.event,
                        JournalEvent::Resumed {
                            continued: true,
                            ..
                        }
                    );
                    break;
                }
                JournalEvent::Failed { .. } => break,
                _ => {}
            }
        }
        end.turns_cut += usize::from(cut || went_on);
        end.turns_continued += usize::from(went_on);
        match back {
            Some(at) => last = last.max(Some(at)),
            None => end.missing.push(name),
        }
    }
    end.agents_back = end.agents_total - end.missing.len();
    end.turns_lost = end.turns_cut - end.turns_continued;
    if end.missing.is_empty() {
        end.boot_to_resumed_ms = last.and_then(|last| between(began, last));
    }
    end.away_ms = last.and_then(|last| between(end.at, last));
}

/// Returns the milliseconds between two times; `None` if the later one seems to be earlier.
fn between(from: Timestamp, until: Timestamp) -> Option<u64> {
    u64::try_from(until.as_millis() - from.as_millis()).ok()
}
