//! Counts the records that a preemption lost, against the fake API's log. Pure.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::fake_api::log::Record;
use crate::fake_api::marker::{Marker, MarkerKind};

/// The data of one agent after its resume.
#[derive(Debug)]
pub struct Evidence<'a> {
    /// The fake API's records at the cut.
    pub records: &'a [Record],
    /// The marks in the first request of the new boot; `None` if there was no request.
    pub resumed: Option<&'a BTreeSet<Marker>>,
    /// Every mark in the session's transcript file.
    pub transcript: &'a BTreeSet<Marker>,
}

/// A record that is missing after the resume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LostRecord {
    /// Its mark.
    pub marker: Marker,
    /// The age of the record at the cut.
    pub age: Duration,
}

/// The counts of one agent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Count {
    /// The number of records before the cut.
    pub before: usize,
    /// The records that are missing, oldest first.
    pub lost: Vec<LostRecord>,
}

impl Count {
    /// Returns the losses that are not excused: records that are older than `window`.
    pub fn inexcusable(&self, window: Duration) -> impl Iterator<Item = &LostRecord> {
        self.lost
            .iter()
            .filter(move |lost| lost.age > window || window.is_zero())
    }
}

/// Counts the records before `cut` that are missing in the resumed conversation.
///
/// A call without an output may be missing in the request, because older versions of Claude Code
/// drop it when they resume, but not in the transcript. For an agent that has sent no request, the
/// transcript counts.
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
        .map(|record| LostRecord {
            marker: record.marker.clone(),
            age: cut.saturating_duration_since(record.at),
        })
        .collect();
    Count {
        before: before.len(),
        lost,
    }
}

/// Whether a mark is that of a call without an output, whose number would be the next one.
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

    /// A prompt, a text with a call and its output, and a text with an open call: one each 100 ms,
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
    fn an_open_call_may_be_in_the_transcript_only() {
        assert!(lost(Some(&[5]), &[]).is_empty());
        assert_eq!(lost(Some(&[5]), &[5]), [5]);
    }

    #[test]
    fn a_call_with_an_output_must_be_in_the_request() {
        assert_eq!(lost(Some(&[2]), &[]), [2]);
        assert_eq!(lost(Some(&[2, 3]), &[]), [3]);
    }

    #[test]
    fn an_agent_without_a_request_is_checked_by_its_transcript() {
        assert_eq!(lost(None, &[4]), [4]);
        assert!(lost(None, &[]).is_empty());
    }

    #[test]
    fn only_records_within_the_window_are_excused() {
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
    fn records_after_the_cut_are_not_counted() {
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
