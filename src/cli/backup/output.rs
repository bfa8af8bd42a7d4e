//! Output of `spotkeep backup`: progress bar, lists, results.

use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::json;

use super::super::output::{bytes, counted, json as print, print_line, table};
use super::code;
use crate::backup::restore::{Given, Now, Step};
use crate::backup::run::{Report, RunResult};
use crate::backup::{Progress, Repository, Settings, Stop, recover, snapshots};
use state::VERSION;
use sys::error::Result;
use sys::time::{Timestamp, short};

/// Characters in a full bar.
const BAR: usize = 24;

/// A progress bar on the terminal, with the numbers that restic reports.
pub(in crate::cli) struct Bar {
    shown: bool,
    quiet: bool,
}

impl Bar {
    /// Returns a bar. It shows nothing if `quiet` is set, or standard error is not a terminal.
    pub(in crate::cli) fn new(quiet: bool) -> Self {
        Self {
            shown: false,
            quiet: quiet || !std::io::stderr().is_terminal(),
        }
    }

    /// Draws the bar again.
    pub(super) fn show(&mut self, at: &Progress) {
        if self.quiet {
            return;
        }
        self.shown = true;
        let mut err = std::io::stderr().lock();
        // A terminal that was closed needs no bar.
        write!(err, "\r\x1b[2K{}", line(at)).ok();
        err.flush().ok();
    }

    /// Removes the bar.
    pub(in crate::cli) fn clear(&mut self) {
        if self.shown {
            let mut err = std::io::stderr().lock();
            write!(err, "\r\x1b[2K").ok();
            err.flush().ok();
        }
    }
}

fn line(at: &Progress) -> String {
    let part = at.percent_done.clamp(0.0, 1.0);
    let full = (0..BAR)
        .take_while(|step| (*step as f64) < part * BAR as f64)
        .count();
    format!(
        "[{}{}] {:3.0} %  {} of {}, {} files",
        "#".repeat(full),
        ".".repeat(BAR - full),
        part * 100.0,
        bytes(at.bytes_done),
        bytes(at.total_bytes),
        at.files_done
    )
}

pub(super) fn print_report(report: &Report) {
    match (&report.backup, report.outcome) {
        (Some(backup), RunResult::Made) => print_line(&format!(
            "backup {} of {} files ({}) in {}; {} are new",
            backup.id,
            backup.files,
            bytes(backup.bytes),
            short(Duration::from_millis(backup.duration_ms)),
            bytes(backup.bytes_added)
        )),
        (Some(backup), RunResult::Unchanged) => print_line(&format!(
            "nothing has changed since the backup {} of {}",
            backup.id,
            backup.at.for_people()
        )),
        (None, _) => {}
    }
    if let Some(to) = &report.copied_to {
        print_line(&format!("copied to {to}"));
    }
    if report.tended {
        print_line("checked the backups, and removed expired ones");
    }
}

pub(super) fn list(settings: &Settings, session: Option<&str>, as_json: bool) -> Result<ExitCode> {
    settings.ensure_mine()?;
    let never = Stop::never();
    if !settings.has_repository() && session.is_none() {
        if as_json {
            print(&json!({ "version": VERSION, "backups": [] }))?;
        } else {
            print_line("there is no backup yet");
        }
        return Ok(ExitCode::SUCCESS);
    }
    let repository = Repository::open(settings)?;
    if let Some(session) = session {
        let versions = recover::transcripts(&repository, session, &never)?;
        if as_json {
            print(&json!({ "version": VERSION, "backups": versions }))?;
            return Ok(ExitCode::SUCCESS);
        }
        let rows: Vec<[String; 4]> = versions
            .iter()
            .map(|version| {
                let path = version.path.display().to_string();
                [
                    id(&version.id),
                    version.at.for_people(),
                    bytes(version.bytes),
                    path,
                ]
            })
            .collect();
        for line in table(["BACKUP", "AT", "LENGTH", "TRANSCRIPT"], &rows) {
            print_line(&line);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let all = snapshots::list(&repository, &never)?;
    if as_json {
        print(&json!({ "version": VERSION, "backups": all }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let now = Timestamp::now();
    let rows: Vec<[String; 4]> = all
        .iter()
        .map(|snapshot| {
            [
                id(&snapshot.id),
                snapshot.at.for_people(),
                short(now.since(snapshot.at)),
                snapshot.host.clone(),
            ]
        })
        .collect();
    for line in table(["BACKUP", "AT", "AGE", "HOST"], &rows) {
        print_line(&line);
    }
    Ok(ExitCode::SUCCESS)
}

/// Shortens an id like restic does.
fn id(id: &str) -> String {
    id.get(..8).unwrap_or(id).to_owned()
}

pub(super) fn plan(steps: &[Step], to: Option<&Path>, as_json: bool) -> Result<ExitCode> {
    if as_json {
        print(&json!({ "version": VERSION, "files": steps }))?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(to) = to {
        print_line(&format!(
            "would restore {} into {}",
            counted(steps.len(), "file"),
            to.display()
        ));
        return Ok(ExitCode::SUCCESS);
    }
    for step in steps.iter().filter(|step| step.now != Now::Same) {
        let word = match step.now {
            Now::Missing => "would restore",
            Now::Older => "exists, older:",
            Now::Newer => "exists, newer:",
            Now::Same => "unchanged:",
        };
        print_line(&format!("{word} {}", step.path.display()));
    }
    let same = steps.iter().filter(|step| step.now == Now::Same).count();
    print_line(&format!("{same} of {} files are unchanged", steps.len()));
    Ok(ExitCode::SUCCESS)
}

pub(super) fn given(given: &Given, to: &Path, as_json: bool) -> Result<ExitCode> {
    if as_json {
        let mut value = serde_json::to_value(given)?;
        value["version"] = VERSION.into();
        print(&value)?;
        return Ok(code(given.left.is_empty()));
    }
    print_line(&format!(
        "restored {} into {}",
        counted(
            usize::try_from(given.restored).unwrap_or(usize::MAX),
            "file"
        ),
        to.display()
    ));
    for path in &given.renamed {
        print_line(&format!(
            "replaced; the old file is kept beside it: {}",
            path.display()
        ));
    }
    for path in &given.left {
        print_line(&format!("not replaced: {}", path.display()));
    }
    if !given.left.is_empty() {
        print_line("--overwrite replaces these files, and keeps the old ones under another name");
    }
    Ok(code(given.left.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_shows_how_far_it_is() {
        let at = Progress {
            percent_done: 0.5,
            files_done: 7,
            bytes_done: 5 << 20,
            total_bytes: 10 << 20,
        };
        assert_eq!(
            line(&at),
            "[############............]  50 %  5.0 MiB of 10.0 MiB, 7 files"
        );
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(3 << 30), "3.0 GiB");
    }
}
