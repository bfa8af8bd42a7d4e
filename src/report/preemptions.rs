//! Each time that the fleet was cut off: how it was announced, what was safe when, who came back.
//!
//! Times of two boots are set against each other here, for a person to read; nothing is decided by it.

use serde::Serialize;

use super::events::Boot;
use state::{Fleet, JournalEvent, Manifest, StartKind};
use sys::time::Timestamp;

/// How a boot ended, or might have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum BootEnd {
    /// The cloud gave notice.
    Preempted,
    /// The machine was shut down, or the keeper was told to end with its fleet.
    ShutDown,
    /// Somebody typed `save --final`.
    Saved,
    /// Without a notice: power, a crash, a kill.
    CutOff,
}

impl BootEnd {
    /// The word for it.
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

/// One time that the fleet was cut off.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Preemption {
    /// When the notice came; without one, the last word of that boot: its end is not known any better.
    pub at: Timestamp,
    /// How.
    pub kind: BootEnd,
    /// The boot that was ended.
    pub boot: String,
    /// That boot went on after its notice.
    pub survived: bool,
    /// The save; null without one.
    pub save: Option<String>,
    /// Every agent ended and everything was durable before the deadline.
    pub clean: bool,
    /// From the notice until every transcript was durable.
    pub transcripts_safe_ms: Option<u64>,
    /// From the notice until everything was.
    pub notice_to_safe_ms: Option<u64>,
    /// When the next boot began, or this one went on; null: not yet.
    pub back_at: Option<Timestamp>,
    /// From `at` until then: how long the machine was gone. Null where the clocks of both boots disagree.
    pub gone_ms: Option<u64>,
    /// From the beginning of the next boot until the last agent was back; null where not all came back.
    pub boot_to_resumed_ms: Option<u64>,
    /// From `at` until the last of those who came back was back; null where nobody did.
    pub away_ms: Option<u64>,
    /// Who was to come back.
    pub agents_total: usize,
    /// Who did, before anything was given up.
    pub agents_back: usize,
    /// Those who did not.
    pub missing: Vec<String>,
    /// Turns that were cut.
    pub turns_cut: usize,
    /// Those that went on.
    pub turns_continued: usize,
    /// Those that did not.
    pub turns_lost: usize,
    /// Records that are known to be lost; null where that cannot be told: up to the last two seconds of a transcript.
    pub records_lost: Option<usize>,
}

/// All of them, oldest first.
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
            // A machine that went while nobody was wanted cut nobody off.
            if open.is_some() || end.agents_total > 0 {
                found.push(end);
            }
        }
    }
    found
}

/// The end of a boot, and what became of its agents in the next.
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
            // Only a save that came to its end knows that nothing else is missing.
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

/// A notice after which the same boot went on.
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
    // A later notice of the same boot has a save of its own.
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
        boot: boot.id.clone(),
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

/// Whom the save of this end had to end.
fn ran(end: &Preemption, saves: &[Manifest]) -> Vec<String> {
    let manifest = saves
        .iter()
        .find(|save| Some(&save.id) == end.save.as_ref());
    let rows = manifest.into_iter().flat_map(|save| &save.agents);
    rows.filter(|row| row.exit_ms.is_some())
        .map(|row| row.name.to_string())
        .collect()
}

/// What became of those who were wanted, from this fact of a boot on.
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

/// `None` where the later one seems to be the earlier.
fn between(from: Timestamp, until: Timestamp) -> Option<u64> {
    u64::try_from(until.as_millis() - from.as_millis()).ok()
}
