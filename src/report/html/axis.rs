//! Time axis above the lanes of the HTML report.

use std::fmt::{self, Write as _};

use sys::time::Timestamp;

/// Possible steps between two marks, in seconds.
const STEPS: [i64; 19] = [
    1, 5, 15, 30, 60, 300, 900, 1_800, 3_600, 7_200, 10_800, 21_600, 43_200, 86_400, 172_800,
    604_800, 1_209_600, 2_419_200, 7_257_600,
];

/// The approximate number of marks.
const MOST: i64 = 8;

const DAY: i64 = 86_400;

/// A mark.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Tick {
    /// Position, in percent of the width.
    pub(super) x: f64,
    pub(super) label: String,
}

/// Returns the position of a time, in percent of the width.
pub(super) fn place(at: Timestamp, from: Timestamp, until: Timestamp) -> f64 {
    let all = to_f64(until.as_millis() - from.as_millis()).max(1.0);
    (to_f64(at.as_millis() - from.as_millis()) / all * 100.0).clamp(0.0, 100.0)
}

/// Milliseconds of any span that is drawn are far below the integers that an `f64` represents
/// exactly.
#[expect(clippy::cast_precision_loss, reason = "see above")]
fn to_f64(millis: i64) -> f64 {
    millis as f64
}

/// Returns about [`MOST`] marks at round times.
pub(super) fn ticks(from: Timestamp, until: Timestamp) -> Vec<Tick> {
    let (first, last) = (from.as_millis() / 1000, until.as_millis() / 1000);
    let expected = ((last - first).max(1) + MOST - 1) / MOST;
    let longest = STEPS[STEPS.len() - 1];
    let step = STEPS.iter().copied().find(|step| *step >= expected);
    // For longer spans, multiples of the longest step.
    let step = step.unwrap_or((expected / longest + 1) * longest);
    let mut at = (first / step + i64::from(first % step != 0)) * step;
    let mut ticks = Vec::new();
    while at <= last {
        if let Some(moment) = Timestamp::from_millis(at * 1000) {
            let label = match (step, at % DAY) {
                (_, 0) => moment.calendar_day(),
                (1..60, _) => moment.clock(),
                _ => moment.minute(),
            };
            let x = place(moment, from, until);
            ticks.push(Tick { x, label });
        }
        at += step;
    }
    ticks
}

/// Writes a row of labels. A label near the right edge is placed left of its mark.
pub(super) fn labels(out: &mut String, ticks: &[Tick]) -> fmt::Result {
    out.push_str(
        "<div class=\"lane axis\" aria-hidden=\"true\"><span class=\"name\"></span><div \
                  class=\"ticks\">",
    );
    for tick in ticks {
        let late = if tick.x > 92.0 { " class=\"late\"" } else { "" };
        write!(
            out,
            "<span{late} style=\"left:{:.2}%\">{}</span>",
            tick.x, tick.label
        )?;
    }
    out.push_str("</div><span class=\"share\">working</span></div>\n");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels_of(from: &str, until: &str) -> Vec<String> {
        let at = |text| Timestamp::parse(text).unwrap();
        ticks(at(from), at(until))
            .into_iter()
            .map(|tick| tick.label)
            .collect()
    }

    #[test]
    fn marks_are_few_and_at_round_times() {
        assert_eq!(
            labels_of("2026-11-21T03:12:07Z", "2026-11-28T03:12:07Z"),
            [
                "Sun 22 Nov",
                "Mon 23 Nov",
                "Tue 24 Nov",
                "Wed 25 Nov",
                "Thu 26 Nov",
                "Fri 27 Nov",
                "Sat 28 Nov"
            ]
        );
        assert_eq!(
            labels_of("2026-11-21T22:10:00Z", "2026-11-22T02:10:00Z"),
            [
                "22:30",
                "23:00",
                "23:30",
                "Sun 22 Nov",
                "00:30",
                "01:00",
                "01:30",
                "02:00"
            ]
        );
        assert_eq!(
            labels_of("2026-11-21T22:10:58Z", "2026-11-21T22:11:02Z").len(),
            5
        );
        let years = labels_of("2020-01-01T00:00:00Z", "2026-01-01T00:00:00Z");
        assert!((4..=9).contains(&years.len()), "{years:?}");
        assert_eq!(
            labels_of("2026-11-21T22:10:58Z", "2026-11-21T22:10:58Z").len(),
            1
        );
    }
}
