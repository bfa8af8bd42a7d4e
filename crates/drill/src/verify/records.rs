//! What a preemption cost, counted against the model's own log. Pure.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::fake_api::log::Record;
use crate::fake_api::marker::{Marker, MarkerKind};

/// What is known of one agent when it is back.
#[derive(Debug)]
pub struct Evidence<'a> {
    /// The model's log as it was at the cut.
    pub records: &'a [Record],
    /// The first request of the new boot; `None` where none was made.
    pub resumed: Option<&'a BTreeSet<Marker>>,
    /// Every mark in the session's transcript file.
    pub transcript: &'a BTreeSet<Marker>,
}

/// One record that did not come back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// Its mark.
    pub marker: Marker,
    /// How old it was at the cut.
    pub age: Duration,
}

/// The count of one agent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Count {
    /// Records before the cut.
    pub before: usize,
    /// Those of them that did not come back, oldest first.
    pub lost: Vec<Lost>,
}

impl Count {
    /// What was lost beyond what the kind of preemption excuses: things younger than `window`.
    pub fn inexcusable(&self, window: Duration) -> impl Iterator<Item = &Lost> {
        self.lost
            .iter()
            .filter(move |lost| lost.age > window || window.is_zero())
    }
}

/// Counts what was there at `cut` and is not in the conversation that was resumed.
///
/// A call without an output may be missing from what the model sees, since older versions drop it
/// on resuming, but not from the transcript. An agent that asked the model
/// nothing is evaluated by its transcript.
#[must_use]
pub fn count(evidence: &Evidence<'_>, cut: Instant) -> Count {
    let before: Vec<&Record> = evidence
        .records
        .iter()
        .filter(|record| record.at <= cut)
        .collect();
    let came_back = |record: &Record| match evidence.resumed {
        None => evidence.transcript.contains(&record.marker),
        Some(seen) => {
            seen.contains(&record.marker)
                || (is_open_call(&record.marker, seen)
                    && evidence.transcript.contains(&record.marker))
        }
    };
    let lost = before
        .iter()
        .filter(|record| !came_back(record))
        .map(|record| Lost {
            marker: record.marker.clone(),
            age: cut.saturating_duration_since(record.at),
        })
        .collect();
    Count {
        before: before.len(),
        lost,
    }
}

/// A call's output carries the number after the call's.
fn is_open_call(marker: &Marker, seen: &BTreeSet<Marker>) -> bool {
    let output = Marker {
        agent: marker.agent.clone(),
        kind: MarkerKind::Output,
        serial: marker.serial + 1,
    };
    marker.kind == MarkerKind::Call && !seen.contains(&output)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marker(kind: MarkerKind, serial: u64) -> Marker {
        Marker {
            agent: "a".into(),
            kind,
            serial,
        }
    }

    /// A prompt, a text with a call and its output, a text with an open call; one each 100 ms,
    /// the last at the cut.
    fn records() -> (Vec<Record>, Instant) {
        let start = Instant::now();
        let kinds = [
            MarkerKind::Prompt,
            MarkerKind::Text,
            MarkerKind::Call,
            MarkerKind::Output,
            MarkerKind::Text,
            MarkerKind::Call,
        ];
        let records = (0..).zip(kinds);
        let records: Vec<_> = records
            .map(|(serial, kind)| Record {
                marker: marker(kind, serial),
                at: start + Duration::from_millis(100 * serial),
            })
            .collect();
        let cut = records.last().unwrap().at;
        (records, cut)
    }

    fn all_but(records: &[Record], missing: &[u64]) -> BTreeSet<Marker> {
        records
            .iter()
            .map(|record| record.marker.clone())
            .filter(|marker| !missing.contains(&marker.serial))
            .collect()
    }

    fn lost(resumed: Option<&[u64]>, transcript: &[u64]) -> Vec<u64> {
        let (records, cut) = records();
        let seen = resumed.map(|missing| all_but(&records, missing));
        let evidence = Evidence {
            records: &records,
            resumed: seen.as_ref(),
            transcript: &all_but(&records, transcript),
        };
        let count = count(&evidence, cut);
        assert_eq!(count.before, 6);
        count.lost.iter().map(|lost| lost.marker.serial).collect()
    }

    #[test]
    fn an_open_call_may_be_in_the_transcript_alone() {
        assert!(lost(Some(&[5]), &[]).is_empty());
        assert_eq!(lost(Some(&[5]), &[5]), [5]);
    }

    #[test]
    fn a_call_that_was_answered_must_be_in_what_the_model_sees() {
        assert_eq!(lost(Some(&[2]), &[]), [2]);
        assert_eq!(lost(Some(&[2, 3]), &[]), [3]);
    }

    #[test]
    fn an_agent_that_asked_nothing_is_judged_by_its_transcript() {
        assert_eq!(lost(None, &[4]), [4]);
        assert!(lost(None, &[]).is_empty());
    }

    #[test]
    fn only_what_was_young_enough_is_excused() {
        let (records, cut) = records();
        let evidence = Evidence {
            records: &records,
            resumed: Some(&all_but(&records, &[3, 4])),
            transcript: &BTreeSet::new(),
        };
        let count = count(&evidence, cut);
        let inexcusable = |millis| count.inexcusable(Duration::from_millis(millis)).count();
        assert_eq!(
            (inexcusable(0), inexcusable(100), inexcusable(200)),
            (2, 1, 0)
        );
    }

    #[test]
    fn what_came_after_the_cut_does_not_count() {
        let (records, cut) = records();
        let evidence = Evidence {
            records: &records,
            resumed: Some(&BTreeSet::new()),
            transcript: &BTreeSet::new(),
        };
        assert_eq!(
            super::count(&evidence, cut - Duration::from_millis(150)).before,
            4
        );
    }
}
