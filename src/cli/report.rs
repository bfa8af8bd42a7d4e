//! `spotkeep report`: summarizes preemptions, losses and each agent's time.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use super::daemon;
use super::output::{complain, counted, json, print_line, table};
use crate::report::{self, About, Doing, Preemption, Report};
use state::layout::DataDir;
use sys::error::{Context as _, ErrorKind, Hint as _, Result};
use sys::files;
use sys::time::{Timestamp, parse_age, short};

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  spotkeep report --since 24h
  spotkeep report --since 2026-11-01T00:00:00Z --json
  spotkeep report --html fleet.html    # one file, to open in a browser or send")]
pub(super) struct Args {
    /// Report from this time on. A duration like 12h, 7d or 2w, or a time like
    /// 2026-11-01T00:00:00Z.
    #[arg(long, default_value = "7d", value_name = "SPAN")]
    since: String,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Write a web page with a timeline. The file needs no other files.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

pub(super) fn run(data_dir: &DataDir, args: &Args) -> Result<ExitCode> {
    let until = Timestamp::now();
    let report = report::read(
        data_dir,
        About {
            data_dir: data_dir.dir().display().to_string(),
            data_dir_id: data_dir.identity()?.data_dir_id,
            from: from(&args.since, until)?,
            until,
            watched_boot: watched_boot(data_dir),
        },
    )?;
    if let Some(path) = &args.html {
        files::write_whole(path, report::html::page(&report).as_bytes())?;
        if !args.json {
            complain(&format!("wrote {}", path.display()));
        }
    }
    match (args.json, &args.html) {
        (true, _) => json(&report)?,
        (false, None) => text(&report).iter().for_each(|line| print_line(line)),
        (false, Some(_)) => {}
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns the boot of the running keeper. A keeper that does not answer counts as none.
fn watched_boot(data_dir: &DataDir) -> Option<String> {
    let status = daemon::status(data_dir).ok()?;
    status.keeper.runs().then_some(status.boot_id)
}

fn from(since: &str, until: Timestamp) -> Result<Timestamp> {
    if let Some(at) = Timestamp::parse(since) {
        return Ok(at.min(until));
    }
    let age = parse_age(since).context("--since").kind(ErrorKind::Usage);
    Ok(until.before(age.hint("spotkeep report --since 7d")?))
}

fn text(report: &Report) -> Vec<String> {
    let mut lines = Vec::new();
    let mut say = |line: String| lines.push(line);
    let totals = &report.totals;
    say(format!(
        "from    {} to {} ({})",
        report.from.for_people(),
        report.until.for_people(),
        short(report.until.since(report.from))
    ));
    if let Some(at) = report.journal_from.filter(|at| *at > report.from) {
        say(format!(
            "        the event log begins at {}",
            at.for_people()
        ));
    }
    if report.torn > 0 {
        say(format!(
            "        {} lines of the event log could not be read",
            report.torn
        ));
    }
    let cut = match totals.preemptions {
        0 => "no preemptions".to_owned(),
        all => format!(
            "{}, {} of {all} clean",
            counted(all, "preemption"),
            totals.clean
        ),
    };
    say(format!(
        "fleet   {}; {cut}",
        counted(report.agents.len(), "agent")
    ));
    if totals.preemptions > 0 {
        let unsure = match totals.ends_that_cannot_tell {
            0 => String::new(),
            1 => " (unknown for 1 preemption: up to 2 s of the transcript)".into(),
            unsure => {
                format!(" (unknown for {unsure} preemptions: up to 2 s of the transcript each)")
            }
        };
        let records = counted(totals.records_lost, "record");
        say(format!(
            "lost    {} ({} summed over agents), {} of {}",
            time(totals.away_ms),
            time(totals.agents_away_ms),
            totals.turns_lost,
            counted(totals.turns_cut, "interrupted turn"),
        ));
        say(format!("        {records}{unsure}"));
        lines.push(String::new());
        lines.extend(preemptions(&report.preemptions));
    }
    if !report.agents.is_empty() {
        lines.push(String::new());
        lines.extend(agents(report));
    }
    lines
}

fn preemptions(all: &[Preemption]) -> Vec<String> {
    let header = [
        "WHEN",
        "KIND",
        "CLEAN",
        "TRANSCRIPTS SAVED",
        "ALL SAVED",
        "VM DOWN",
        "BOOT TO RESUMED",
        "BACK AFTER",
        "AGENTS",
        "TURNS",
        "RECORDS LOST",
    ];
    let rows: Vec<[String; 11]> = all
        .iter()
        .map(|end| {
            let ms = |ms: Option<u64>| ms.map_or_else(|| "-".to_owned(), time);
            let stayed = if end.survived { ", stayed" } else { "" };
            [
                end.at.for_people().trim_end_matches(" UTC").to_owned(),
                format!("{}{stayed}", end.kind.as_str()),
                if end.clean { "yes" } else { "no" }.to_owned(),
                ms(end.transcripts_safe_ms),
                ms(end.notice_to_safe_ms),
                ms(end.gone_ms),
                ms(end.boot_to_resumed_ms),
                ms(end.away_ms),
                format!("{} of {}", end.agents_back, end.agents_total),
                format!("{} of {}", end.turns_continued, end.turns_cut),
                end.records_lost
                    .map_or_else(|| "-".to_owned(), |lost| lost.to_string()),
            ]
        })
        .collect();
    table(header, &rows)
}

fn agents(report: &Report) -> Vec<String> {
    let header = [
        "AGENT", "WORKING", "WAITING", "IDLE", "STALLED", "FAILED", "STOPPED", "AWAY", "RESUMED",
        "RESTARTS",
    ];
    let rows: Vec<[String; 10]> = report
        .agents
        .iter()
        .map(|agent| {
            let of = |doing| match agent.uptime.time_in(doing) {
                Duration::ZERO => "-".to_owned(),
                time => short(time),
            };
            [
                agent.name.clone(),
                of(Doing::Working),
                of(Doing::Waiting),
                of(Doing::Idle),
                of(Doing::Stalled),
                of(Doing::Failed),
                of(Doing::Stopped),
                of(Doing::Away),
                agent.resumed.len().to_string(),
                agent.restarts.to_string(),
            ]
        })
        .collect();
    table(header, &rows)
}

fn time(ms: u64) -> String {
    match ms {
        0 => "0 s".into(),
        ms => short(Duration::from_millis(ms)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_shows_totals_then_preemptions_then_agents() {
        let text = text(&report::tests::sample()).join("\n");
        insta::assert_snapshot!(text, @r"
        from    2026-11-22 02:00:00 UTC to 2026-11-22 10:00:00 UTC (8h 0m)
                the event log begins at 2026-11-22 03:00:00 UTC
        fleet   2 agents; 2 preemptions, 1 of 2 clean
        lost    1h 2m (2h 4m summed over agents), 1 of 3 interrupted turns
                0 records (unknown for 1 preemption: up to 2 s of the transcript)

        WHEN                 KIND       CLEAN  TRANSCRIPTS SAVED  ALL SAVED  VM DOWN  BOOT TO RESUMED  BACK AFTER  AGENTS  TURNS   RECORDS LOST
        2026-11-22 05:00:00  preempted  yes    1.2 s              1.6 s      2m 48s   20 s             3m 8s       2 of 2  1 of 1  0
        2026-11-22 07:01:00  cut off    no     -                  -          59m 0s   -                59m 5s      1 of 2  1 of 2  -

        AGENT  WORKING  WAITING  IDLE     STALLED  FAILED  STOPPED  AWAY   RESUMED  RESTARTS
        x      4h 38m   -        49m 30s  30m 2s   -       -        1h 2m  3        0
        y      1h 0m    2h 56m   -        -        1h 59m  -        1h 2m  3        1
        ");
    }

    #[test]
    fn since_takes_a_duration_or_a_time() {
        let now = Timestamp::parse("2026-11-22T12:00:00Z").unwrap();
        let day = |since: &str| from(since, now).unwrap().to_string();
        assert_eq!(day("2d"), "2026-11-20T12:00:00.000Z");
        assert_eq!(day("2026-11-01T00:00:00Z"), "2026-11-01T00:00:00.000Z");
        assert!(from("soon", now).is_err());
    }
}
