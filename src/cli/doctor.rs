//! `spotkeep doctor`: checks the setup and suggests fixes.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::output::{counted, json, mark, print_line};
use crate::doctor::{Check, Options, Report, examine};
use sys::error::{ErrorKind, Result};

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
It changes nothing. The exit code is 3 if a check fails; warnings (!) do not count.

Example:
  spotkeep doctor --json | jq -r '.checks[] | select(.ok | not) | .fix'")]
pub(super) struct Args {
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Also rehearse a preemption with your Claude Code. It runs in a sandbox and takes about ten
    /// seconds.
    #[arg(long)]
    probe: bool,
    /// A directory in place of `/`, for tests.
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
        "{}: {} ok, {}, {wrong} failed",
        counted(all, "check"),
        all - wrong - warned,
        counted(warned, "warning")
    ));
}

fn sign(check: &Check) -> String {
    match (check.ok, check.warning) {
        (false, _) => mark('✕', 31),
        (true, true) => mark('!', 33),
        (true, false) => mark('✓', 32),
    }
}
