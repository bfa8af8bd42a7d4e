//! Lanes of the HTML report: what each agent was doing, drawn from left to right.
//!
//! Each category has its own height or pattern, so that it can be recognized without colours.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::time::Duration;

use super::super::{AgentTime, Doing, Report, Span};
use super::axis::{Tick, place};
use super::{escape, share, short, story};
use sys::time::Timestamp;

/// The narrowest block is this fraction of the width: about 1.5 pixels on a screen.
const PARTS: u32 = 720;

/// A block of a lane.
#[derive(Debug, Clone, PartialEq)]
struct Piece {
    doing: Doing,
    from: Timestamp,
    until: Timestamp,
    title: String,
}

/// Writes the patterns that lanes refer to.
pub(super) fn patterns(out: &mut String) {
    out.push_str(
        "<svg class=\"defs\" aria-hidden=\"true\"><defs>\
         <pattern id=\"hatch-away\" width=\"6\" height=\"6\" patternUnits=\"userSpaceOnUse\" \
         patternTransform=\"rotate(45)\"><rect width=\"6\" height=\"6\" class=\"away-ground\"/>\
         <rect width=\"2.5\" height=\"6\" class=\"away-line\"/></pattern>\
         <pattern id=\"hatch-stalled\" width=\"5\" height=\"5\" patternUnits=\"userSpaceOnUse\" \
         patternTransform=\"rotate(-45)\"><rect width=\"5\" height=\"5\" class=\"stalled-ground\"/>\
         <rect width=\"2.5\" height=\"5\" class=\"stalled-line\"/></pattern>\
         </defs></svg>\n",
    );
}

/// Returns one block at this position and of this width.
pub(super) fn block(doing: Doing, x: &str, width: &str, title: &str) -> String {
    // Offset from the top, and height, in percent.
    let (y, height) = match doing {
        Doing::Working | Doing::Failed | Doing::Away | Doing::Stalled => (8, 84),
        Doing::Waiting => (24, 60),
        Doing::Starting => (35, 55),
        Doing::Idle => (66, 24),
        Doing::Stopped => (82, 8),
        Doing::Unwatched => (46, 8),
    };
    let class = doing.as_str();
    let title = match title {
        "" => String::new(),
        title => format!("<title>{title}</title>"),
    };
    format!(
        "<rect class=\"{class}\" x=\"{x}\" y=\"{y}%\" width=\"{width}\" \
         height=\"{height}%\">{title}</rect>"
    )
}

/// Writes the lane of the fleet: when it was preempted, and when it was back.
pub(super) fn fleet(out: &mut String, report: &Report, ticks: &[Tick]) -> fmt::Result {
    let at = |at| place(at, report.from, report.until);
    out.push_str(
        "<div class=\"lane fleet\"><span class=\"name\">fleet</span><svg class=\"strip\">",
    );
    grid(out, ticks)?;
    for end in &report.preemptions {
        let title = escape(&story(end));
        if end.at >= report.from {
            write!(
                out,
                "<svg x=\"{:.3}%\" overflow=\"visible\" class=\"notice\"><title>{title}</title>\
                 <path d=\"M-5 3H5L0 11Z\"/></svg>",
                at(end.at)
            )?;
        }
        if let Some(back) = end.back_at.filter(|back| *back <= report.until) {
            write!(
                out,
                "<svg x=\"{:.3}%\" overflow=\"visible\" class=\"back\"><title>{title}</title>\
                 <path d=\"M-5 21H5L0 13Z\"/></svg>",
                at(back)
            )?;
        }
    }
    out.push_str("</svg><span class=\"share\"></span></div>\n");
    Ok(())
}

/// Writes the lane of one agent, with the share of its time that it worked.
pub(super) fn agent(
    out: &mut String,
    report: &Report,
    agent: &AgentTime,
    ticks: &[Tick],
) -> fmt::Result {
    let name = escape(&agent.name);
    let working = share(agent.uptime.time_in(Doing::Working), agent.uptime.total());
    write!(
        out,
        "<div class=\"lane\"><span class=\"name\" title=\"{name}\">{name}</span>\
         <svg class=\"strip\" role=\"img\" aria-label=\"{name}: {}\">",
        summary(agent)
    )?;
    grid(out, ticks)?;
    let (from, until) = (report.from, report.until);
    let finest = (until.since(from) / PARTS).max(Duration::from_millis(1));
    for piece in pieces(&agent.timeline, finest) {
        let (x, end) = (
            place(piece.from, from, until),
            place(piece.until, from, until),
        );
        let width = (end - x).max(100.0 / f64::from(PARTS));
        // A block at the right edge stays visible.
        let x = x.min(100.0 - width);
        let title = format!("{name}: {}", piece.title);
        out.push_str(&block(
            piece.doing,
            &format!("{x:.3}%"),
            &format!("{width:.3}%"),
            &title,
        ));
    }
    for resumed in &agent.resumed {
        let how = if resumed.continued {
            "resumed, turn continued"
        } else {
            "resumed"
        };
        write!(
            out,
            "<svg x=\"{:.3}%\" overflow=\"visible\" class=\"back\"><title>{name}: {how} {}</title>\
             <path d=\"M-.75 0H.75V100H-.75Z\"/></svg>",
            place(resumed.at, from, until),
            resumed.at.for_people()
        )?;
    }
    writeln!(out, "</svg><span class=\"share\">{working}</span></div>")
}

fn grid(out: &mut String, ticks: &[Tick]) -> fmt::Result {
    for tick in ticks {
        write!(
            out,
            "<line class=\"grid\" x1=\"{0:.2}%\" x2=\"{0:.2}%\" y1=\"0\" y2=\"100%\"/>",
            tick.x
        )?;
    }
    Ok(())
}

/// Returns a summary of a lane as text, for screen readers.
fn summary(agent: &AgentTime) -> String {
    let total = agent.uptime.total();
    let parts = Doing::ALL
        .iter()
        .filter(|doing| !agent.uptime.time_in(**doing).is_zero());
    let parts = parts.map(|doing| {
        format!(
            "{} {}",
            doing.as_str(),
            share(agent.uptime.time_in(*doing), total)
        )
    });
    parts.collect::<Vec<_>>().join(", ")
}

/// Returns the blocks of a lane: long spans one by one, and runs of short spans as one block on top
/// of them.
fn pieces(spans: &[Span], finest: Duration) -> Vec<Piece> {
    let (mut long, mut small, mut run) = (Vec::new(), Vec::new(), Vec::<&Span>::new());
    for span in spans {
        let length = span.until.since(span.from);
        if length >= finest {
            long.push(whole(span));
            small.extend(joined(&std::mem::take(&mut run)));
            continue;
        }
        run.push(span);
        if run
            .first()
            .is_some_and(|first| span.until.since(first.from) >= finest)
        {
            small.extend(joined(&std::mem::take(&mut run)));
        }
    }
    small.extend(joined(&run));
    long.extend(small);
    long
}

fn whole(span: &Span) -> Piece {
    let note = span
        .note
        .as_deref()
        .map(|note| format!(" ({})", escape(note)));
    Piece {
        doing: span.doing,
        from: span.from,
        until: span.until,
        title: format!(
            "{}{}\n{}",
            span.doing.as_str(),
            note.unwrap_or_default(),
            when(span.from, span.until)
        ),
    }
}

/// Joins a run of short spans into one block: of the most important category in it, otherwise of
/// the longest.
fn joined(run: &[&Span]) -> Option<Piece> {
    let (first, last) = (run.first()?, run.last()?);
    if run.len() == 1 {
        return Some(whole(first));
    }
    let mut times: BTreeMap<Doing, Duration> = BTreeMap::new();
    for span in run {
        *times.entry(span.doing).or_default() += span.until.since(span.from);
    }
    let striking = [Doing::Away, Doing::Failed, Doing::Stalled]
        .into_iter()
        .find(|doing| times.contains_key(doing));
    let most = times
        .iter()
        .max_by_key(|(_, time)| **time)
        .map(|(doing, _)| *doing);
    let list: Vec<String> = times
        .iter()
        .map(|(doing, time)| format!("{} {}", doing.as_str(), short(*time)))
        .collect();
    Some(Piece {
        doing: striking.or(most)?,
        from: first.from,
        until: last.until,
        title: format!("{}\n{}", list.join(", "), when(first.from, last.until)),
    })
}

fn when(from: Timestamp, until: Timestamp) -> String {
    let end = match from.day() == until.day() {
        true => until.clock(),
        false => format!("{} {}", until.day(), until.clock()),
    };
    format!(
        "{} {} to {end} ({})",
        from.day(),
        from.clock(),
        short(until.since(from))
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spans(list: &[(Doing, i64)]) -> Vec<Span> {
        let mut at = 1_800_000_000_000;
        let mut all = Vec::new();
        for (doing, seconds) in list {
            let until = at + seconds * 1000;
            all.push(Span {
                doing: *doing,
                note: None,
                from: Timestamp::from_millis(at).unwrap(),
                until: Timestamp::from_millis(until).unwrap(),
            });
            at = until;
        }
        all
    }

    #[test]
    fn short_spans_are_joined_and_a_preemption_is_never_hidden() {
        let finest = Duration::from_secs(60);
        let drawn = |list: &[(Doing, i64)]| -> Vec<(Doing, u64)> {
            let all = pieces(&spans(list), finest);
            all.iter()
                .map(|piece| (piece.doing, piece.until.since(piece.from).as_secs()))
                .collect()
        };
        use Doing::{Away, Idle, Working};
        assert_eq!(
            drawn(&[(Working, 90), (Idle, 60)]),
            [(Working, 90), (Idle, 60)]
        );
        assert_eq!(
            drawn(&[(Working, 90), (Idle, 20), (Working, 30), (Idle, 20)]),
            [(Working, 90), (Idle, 70)]
        );
        assert_eq!(
            drawn(&[(Working, 300), (Away, 5), (Idle, 10), (Working, 300)])[2],
            (Away, 15)
        );
        let busy: Vec<(Doing, i64)> = (0..10_000)
            .map(|n| (if n % 2 == 0 { Working } else { Idle }, 7))
            .collect();
        assert!(drawn(&busy).len() <= 70_000 / 60 + 1);
    }
}
