//! Figure 3: records that the fake API had before the cut and that are missing after the resume.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use drill::Report;
use sys::command;
use sys::error::{Context as _, Result};

use super::options::Options;
use super::place::{Environment, progress};
use super::stats::Sample;
use super::table::Figure;

/// The limit of one drill, which takes about 15 s.
const LIMIT: Duration = Duration::from_secs(240);

/// The totals of the drills of one kind.
#[derive(Debug, Default)]
struct Sum {
    drills: usize,
    passed: usize,
    before: usize,
    lost: usize,
    inexcusable: usize,
    to_safe: Sample,
    resumed: Sample,
    /// Failures and losses, with the number of times.
    wrong: BTreeMap<String, usize>,
}

/// Runs the drills. Every second drill has an agent that writes without a pause.
pub fn measure(place: &Environment, options: &Options) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for (kind, drills, must) in [
        ("notice", options.drills, "0 records"),
        ("kill", options.drills.div_ceil(2), "0 older than 0.2 s"),
    ] {
        let mut sum = Sum::default();
        for number in 0..drills {
            let drill = drill(place, kind, number);
            progress(&format!("drill {} of {drills} by {kind}", number + 1));
            sum.add(drill);
        }
        figures.push(sum.figure(kind, must));
    }
    Ok(figures)
}

fn drill(place: &Environment, kind: &str, number: usize) -> Result<Report> {
    let mut command = Command::new(&place.spotkeep);
    command.args(["drill", "--json", "--kind", kind]);
    if number % 2 == 1 {
        command.arg("--writing");
    }
    // Each version runs with both kinds of fleets.
    match place.claudes.get((number / 2) % place.claudes.len().max(1)) {
        Some(claude) => command.arg("--claude").arg(claude),
        None => command.arg("--fake"),
    };
    let output = command::run(&mut command, LIMIT)?;
    serde_json::from_str(&output.stdout).with_context(|| format!("no report: {}", output.stderr))
}

impl Sum {
    fn add(&mut self, drill: Result<Report>) {
        self.drills += 1;
        let report = match drill {
            Ok(report) => report,
            Err(error) => return self.note(&format!("{error:#}")),
        };
        self.passed += usize::from(report.passed());
        self.before += report.records_before;
        self.lost += report.records_lost;
        for loss in &report.losses {
            self.inexcusable += usize::from(loss.ends_with("is lost"));
            self.note(&format!("{}: {loss}", report.claude));
        }
        let float = |millis: Option<u64>| Some(f64::from(u32::try_from(millis?).ok()?));
        self.to_safe.extend(float(report.notice_to_safe_ms));
        self.resumed.extend(float(report.boot_to_resumed_ms));
    }

    fn note(&mut self, what: &str) {
        *self.wrong.entry(what.to_owned()).or_default() += 1;
    }

    fn figure(&self, kind: &str, must: &str) -> Figure {
        let Self {
            drills,
            passed,
            before,
            lost,
            inexcusable,
            ..
        } = self;
        let mut how = format!(
            "{drills} drills by {kind} with three agents, Claude versions in turn, every second \
             one \
             with an agent that writes without a pause; {passed} passed; boot to resumed {}",
            self.resumed.text(" ms", 0)
        );
        if kind == "notice" {
            how += &format!(", notice to safe {}", self.to_safe.text(" ms", 0));
        }
        for (what, times) in &self.wrong {
            how += &format!("\n     {times} x {what}");
        }
        Figure {
            number: 3,
            name: format!("records missing after a {kind}"),
            must: must.to_owned(),
            measured: format!("{inexcusable} ({lost} of {before} missing in {drills} drills)"),
            reached: Some(*inexcusable == 0 && passed == drills),
            how,
        }
    }
}
