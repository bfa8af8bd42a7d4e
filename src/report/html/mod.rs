//! HTML report: one file without scripts and without external fonts or images. Pure.

mod axis;
mod strip;
mod tables;

use std::fmt::{self, Write as _};
use std::time::Duration;

use super::{Doing, Preemption, Report};
use sys::time::short;

/// The style sheet, for light and dark mode.
const STYLE: &str = include_str!("style.css");

/// With more agents than this, lanes are lower.
const MANY: usize = 14;

/// With more agents than this, lanes are lowest.
const CROWD: usize = 30;

/// Returns the whole page.
#[must_use]
pub fn page(report: &Report) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    write_page(&mut out, report).ok();
    out
}

fn write_page(out: &mut String, report: &Report) -> fmt::Result {
    let span = short(report.until.since(report.from));
    write!(
        out,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src \
         'unsafe-inline'\">\n\
         <title>spotkeep: {} of {}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n",
        span,
        escape(&report.data_dir)
    )?;
    writeln!(
        out,
        "<header>\n<h1>The fleet of <span class=\"path\">{}</span></h1>\n\
         <p class=\"quiet\">{} to {} ({span}). All times are UTC.</p>\n</header>",
        escape(&report.data_dir),
        minute(report.from),
        minute(report.until),
    )?;
    tiles(out, report)?;
    timeline(out, report)?;
    tables::preemptions(out, report)?;
    tables::agents(out, report)?;
    footer(out, report)?;
    out.push_str("</main>\n</body>\n</html>\n");
    Ok(())
}

/// Writes the tiles with the most important figures.
fn tiles(out: &mut String, report: &Report) -> fmt::Result {
    let totals = &report.totals;
    let working = share(totals.uptime.time_in(Doing::Working), totals.uptime.total());
    out.push_str("<dl class=\"tiles\">\n");
    let mut tile = |what: &str, figure: String, more: String, class: &str| {
        writeln!(
            out,
            "<div class=\"tile{class}\"><dt>{what}</dt><dd>{figure}</dd><dd \
             class=\"quiet\">{more}</dd></div>"
        )
    };
    let bad = |is_bad: bool| if is_bad { " bad" } else { "" };
    let ms = Duration::from_millis;
    tile(
        "Preemptions",
        totals.preemptions.to_string(),
        match totals.preemptions {
            0 => "none in this time".into(),
            all => format!("{} of {all} clean", totals.clean),
        },
        "",
    )?;
    tile(
        "Time lost",
        short_or_zero(ms(totals.away_ms)),
        format!(
            "{} summed over agents",
            short_or_zero(ms(totals.agents_away_ms))
        ),
        "",
    )?;
    let more = match totals.ends_that_cannot_tell {
        0 => "of transcripts".to_owned(),
        unsure => format!(
            "unknown for {unsure} of {}: up to 2 s of the transcript",
            totals.preemptions
        ),
    };
    tile(
        "Records lost",
        totals.records_lost.to_string(),
        more,
        bad(totals.records_lost > 0),
    )?;
    tile(
        "Turns lost",
        totals.turns_lost.to_string(),
        format!(
            "{} of {} interrupted turns continued",
            totals.turns_continued, totals.turns_cut
        ),
        bad(totals.turns_lost > 0),
    )?;
    let agents = report.agents.len();
    let plural = if agents == 1 { "agent" } else { "agents" };
    tile(
        "Working",
        working,
        format!("of the time of {agents} {plural}"),
        "",
    )?;
    out.push_str("</dl>\n");
    Ok(())
}

fn timeline(out: &mut String, report: &Report) -> fmt::Result {
    out.push_str("<section>\n<h2>Timeline</h2>\n");
    if report.agents.is_empty() {
        out.push_str(
            "<p class=\"quiet\">The event log has no agents in this time.</p>\n</section>\n",
        );
        return Ok(());
    }
    legend(out, report)?;
    let size = match report.agents.len() {
        0..=MANY => "",
        n if n <= CROWD => " many",
        _ => " crowd",
    };
    let ticks = axis::ticks(report.from, report.until);
    writeln!(out, "<div class=\"lanes{size}\">")?;
    strip::patterns(out);
    axis::labels(out, &ticks)?;
    if !report.preemptions.is_empty() {
        strip::fleet(out, report, &ticks)?;
    }
    for agent in &report.agents {
        strip::agent(out, report, agent, &ticks)?;
    }
    if report.agents.len() > MANY {
        axis::labels(out, &ticks)?;
    }
    out.push_str("</div>\n</section>\n");
    Ok(())
}

/// Writes the legend, with the categories that occur.
fn legend(out: &mut String, report: &Report) -> fmt::Result {
    out.push_str("<ul class=\"legend\">\n");
    let seen = |doing: &Doing| !report.totals.uptime.time_in(*doing).is_zero();
    for doing in Doing::ALL.iter().filter(|doing| seen(doing)) {
        writeln!(
            out,
            "<li><svg class=\"key\" aria-hidden=\"true\">{}</svg>{}</li>",
            strip::block(*doing, "0", "100%", ""),
            meaning(*doing)
        )?;
    }
    if !report.preemptions.is_empty() {
        out.push_str(
            "<li><span class=\"notice\">▼</span>preempted, or ended without notice</li>\n",
        );
    }
    if report.agents.iter().any(|agent| !agent.resumed.is_empty()) {
        out.push_str("<li><span class=\"back\">▲</span>resumed</li>\n");
    }
    out.push_str("</ul>\n");
    Ok(())
}

fn meaning(doing: Doing) -> &'static str {
    match doing {
        Doing::Waiting => "waiting for a human",
        Doing::Stalled => "stalled by the API",
        Doing::Away => "away: from a preemption until it is resumed",
        Doing::Unwatched => "unwatched: no keeper ran",
        other => other.as_str(),
    }
}

fn footer(out: &mut String, report: &Report) -> fmt::Result {
    out.push_str("<footer class=\"quiet\">\n");
    match report.journal_from {
        Some(from) if from > report.from => {
            writeln!(out, "<p>The event log begins at {}.</p>", minute(from))?;
        }
        _ => {}
    }
    if report.torn > 0 {
        writeln!(
            out,
            "<p>{} lines of the event log could not be read.</p>",
            report.torn
        )?;
    }
    writeln!(
        out,
        "<p>Data directory {}. Without a preemption notice, the time of the last event counts as \
         the end of a machine. Times of two machines are compared as their clocks show them.</p>\n\
         <p>Made by spotkeep {}.</p>\n</footer>",
        escape(&report.data_dir_id),
        env!("CARGO_PKG_VERSION")
    )
}

/// Describes a preemption in one sentence.
fn story(end: &Preemption) -> String {
    let mut parts = vec![format!("{} {}", end.kind.as_str(), end.at.for_people())];
    if let Some(ms) = end.notice_to_safe_ms {
        let clean = if end.clean { "" } else { ", not clean" };
        parts.push(format!(
            "safe after {}{clean}",
            short(Duration::from_millis(ms))
        ));
    } else if end.kind != super::BootEnd::CutOff {
        parts.push("never became safe".into());
    }
    match (end.back_at, end.away_ms) {
        (None, _) => parts.push("not back yet".into()),
        (Some(_), Some(ms)) => parts.push(format!(
            "{} of {} agents back after {}",
            end.agents_back,
            end.agents_total,
            short(Duration::from_millis(ms))
        )),
        (Some(_), None) => parts.push(format!(
            "{} of {} agents back",
            end.agents_back, end.agents_total
        )),
    }
    parts.join("; ")
}

/// Formats a time like `2026-11-22 03:12`.
fn minute(at: sys::time::Timestamp) -> String {
    format!("{} {}", at.day(), at.minute())
}

fn short_or_zero(time: Duration) -> String {
    if time.is_zero() {
        "0".into()
    } else {
        short(time)
    }
}

/// Formats a part of a whole, in percent.
fn share(part: Duration, whole: Duration) -> String {
    if whole.is_zero() {
        return "–".into();
    }
    let permille = part.as_millis().saturating_mul(1000) / whole.as_millis();
    match permille {
        0 if part.is_zero() => "0 %".into(),
        0..=9 => "&lt; 1 %".into(),
        _ => format!("{} %", (permille + 5) / 10),
    }
}

/// Escapes text for use between tags and in attributes. Control characters are replaced, since they
/// could hide text.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c if c.is_control() || is_direction(c) => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// Returns whether a character changes the direction of the text that follows.
fn is_direction(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}
