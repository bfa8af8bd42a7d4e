//! Tables of the HTML report: preemptions and agents.

use std::fmt::{self, Write as _};
use std::time::Duration;

use super::super::{Doing, Report};
use super::{escape, share, short, short_or_zero, strip};

/// The categories that have a column.
const COLUMNS: [Doing; 7] = [
    Doing::Working,
    Doing::Waiting,
    Doing::Idle,
    Doing::Stalled,
    Doing::Failed,
    Doing::Stopped,
    Doing::Away,
];

pub(super) fn preemptions(out: &mut String, report: &Report) -> fmt::Result {
    out.push_str("<section>\n<h2>Preemptions</h2>\n");
    if report.preemptions.is_empty() {
        out.push_str(
            "<p class=\"quiet\">There were no preemptions in this time.</p>\n</section>\n",
        );
        return Ok(());
    }
    head(
        out,
        &["When", "Kind"],
        &[
            "Transcripts saved",
            "All saved",
            "VM down",
            "Boot to resumed",
            "Back after",
            "Agents",
            "Turns continued",
            "Records lost",
        ],
    )?;
    for end in &report.preemptions {
        let ms = |ms: Option<u64>| {
            ms.map_or_else(|| "–".to_owned(), |ms| short(Duration::from_millis(ms)))
        };
        let verdict = match (end.clean, end.survived) {
            (true, true) => "clean; the machine kept running",
            (true, false) => "clean",
            (false, true) => "not clean; the machine kept running",
            (false, false) if end.kind == super::super::BootEnd::CutOff => "without a notice",
            (false, false) => "not clean",
        };
        let missing = match end.missing.is_empty() {
            true => String::new(),
            false => format!(
                " title=\"not back: {}\" class=\"bad\"",
                escape(&end.missing.join(", "))
            ),
        };
        let records = end
            .records_lost
            .map_or_else(|| "–".to_owned(), |lost| lost.to_string());
        writeln!(
            out,
            "<tr><th scope=\"row\"><time \
             datetime=\"{}\">{}</time></th><td>{}<small>{verdict}</small></td>\
             <td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td{missing}>{} of {}</td>\
             <td{}>{} of {}</td><td>{records}</td></tr>",
            end.at,
            end.at.for_people().trim_end_matches(" UTC"),
            end.kind.as_str(),
            ms(end.transcripts_safe_ms),
            ms(end.notice_to_safe_ms),
            ms(end.gone_ms),
            ms(end.boot_to_resumed_ms),
            ms(end.away_ms),
            end.agents_back,
            end.agents_total,
            if end.turns_lost > 0 {
                " class=\"bad\""
            } else {
                ""
            },
            end.turns_continued,
            end.turns_cut,
        )?;
    }
    out.push_str("</tbody></table></div>\n</section>\n");
    Ok(())
}

pub(super) fn agents(out: &mut String, report: &Report) -> fmt::Result {
    if report.agents.is_empty() {
        return Ok(());
    }
    out.push_str("<section>\n<h2>Agents</h2>\n");
    let columns: Vec<&str> = COLUMNS.iter().map(|doing| doing.as_str()).collect();
    head(
        out,
        &["Agent", "Time"],
        &[&columns[..], &["resumed", "restarts"]].concat(),
    )?;
    for agent in &report.agents {
        let total = agent.uptime.total();
        write!(
            out,
            "<tr><th scope=\"row\">{}</th><td>",
            escape(&agent.name)
        )?;
        out.push_str("<svg class=\"bar\" aria-hidden=\"true\">");
        let mut x = 0.0;
        for doing in Doing::ALL {
            let time = agent.uptime.time_in(doing);
            let width = time.as_secs_f64() / total.as_secs_f64().max(0.001) * 100.0;
            if width > 0.0 {
                let title = format!("{} {}", doing.as_str(), share(time, total));
                out.push_str(&strip::block(
                    doing,
                    &format!("{x:.2}%"),
                    &format!("{width:.2}%"),
                    &title,
                ));
            }
            x += width;
        }
        out.push_str("</svg></td>");
        for doing in COLUMNS {
            cell(out, agent.uptime.time_in(doing))?;
        }
        for count in [agent.resumed.len(), agent.restarts] {
            write!(
                out,
                "<td>{}</td>",
                if count == 0 {
                    "·".to_owned()
                } else {
                    count.to_string()
                }
            )?;
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody></table></div>\n</section>\n");
    Ok(())
}

fn cell(out: &mut String, time: Duration) -> fmt::Result {
    match short_or_zero(time).as_str() {
        "0" => out.write_str("<td class=\"quiet\">·</td>"),
        time => write!(out, "<td>{time}</td>"),
    }
}

fn head(out: &mut String, words: &[&str], figures: &[&str]) -> fmt::Result {
    out.push_str("<div class=\"scroll\"><table><thead><tr>");
    for word in words {
        write!(out, "<th scope=\"col\" class=\"word\">{word}</th>")?;
    }
    for figure in figures {
        write!(out, "<th scope=\"col\">{figure}</th>")?;
    }
    out.push_str("</tr></thead><tbody>\n");
    Ok(())
}
