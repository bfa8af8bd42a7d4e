//! `spotkeep doctor`

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::output::{json, mark, print_line};
use crate::doctor::{Check, Options, Report, examine};
use sys::error::{ErrorKind, Result};

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "It changes nothing. Exits with 3 where something is wrong; warnings (!) do not count.

Example:
  spotkeep doctor --json | jq -r '.checks[] | select(.ok | not) | .fix'"
)]
pub(super) struct Args {
    /// As JSON.
    #[arg(long)]
    json: bool,
    /// Also play a preemption with your Claude, in a sandbox; takes some ten seconds.
    #[arg(long)]
    probe: bool,
    /// A directory that stands for the machine; for tests.
    #[arg(long, hide = true, value_name = "DIR")]
    machine: Option<PathBuf>,
}

pub(super) fn run(at: &Path, args: Args) -> Result<ExitCode> {
    let as_json = args.json;
    let report = examine(
        at,
        &Options {
            machine: args.machine,
            probe: args.probe,
        },
    );
    if as_json {
        json(&report)?;
    } else {
        show(&report);
    }
    Ok(ExitCode::from(if report.passed() {
        0
    } else {
        ErrorKind::NotAsDeclared as u8
    }))
}

fn show(report: &Report) {
    let width = report.checks.iter().map(|check| check.check.len()).max();
    let width = width.unwrap_or(0);
    for check in &report.checks {
        print_line(&format!(
            "{} {:<width$}  {}",
            sign(check),
            check.check,
            check.detail
        ));
        if let Some(fix) = &check.fix {
            print_line(&format!("  {:<width$}  fix: {fix}", ""));
        }
    }
    let wrong = report.checks.iter().filter(|check| !check.ok).count();
    let warned = report.checks.iter().filter(|check| check.warning).count();
    let all = report.checks.len();
    print_line(&format!(
        "{all} checks: {} good, {warned} to know of, {wrong} wrong",
        all - wrong - warned
    ));
}

fn sign(check: &Check) -> String {
    match (check.ok, check.warning) {
        (false, _) => mark('✕', 31),
        (true, true) => mark('!', 33),
        (true, false) => mark('✓', 32),
    }
}
