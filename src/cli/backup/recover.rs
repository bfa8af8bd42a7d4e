//! `spotkeep backup recover`: restores lost transcripts and workspaces from backups.

use std::process::ExitCode;

use super::super::output::{complain, print_line};
use super::{code, until_signalled};
use crate::backup::privileged_write::WriteRequest;
use crate::backup::{Settings, Stop, privileged_write, recover};
use crate::resume;
use sys::error::Result;
use sys::process;

/// Recovers what agents that do not run have lost.
pub(super) fn repair(settings: &Settings, workspaces: bool, dry_run: bool) -> Result<ExitCode> {
    let boot_id = process::current_boot_id()?;
    let stop = until_signalled()?.or_at_the_notice(&settings.data_dir, &boot_id);
    let mut all_good = true;
    for (name, record) in settings.data_dir.all_records()? {
        let Ok(record) = record else { continue };
        if record.live_process(&boot_id).is_some() {
            continue;
        }
        for loss in resume::losses(&settings.data_dir, &record) {
            // A checkpoint is newer than a backup, and the keeper uses it.
            if matches!(loss, resume::Loss::Workspace(_))
                && !workspaces
                && resume::may_have_checkpoint(&settings.data_dir, &settings.config, &record)
            {
                continue;
            }
            if dry_run {
                print_line(&format!("{name}: would look for {}", loss.describe()));
                continue;
            }
            match bring(settings, &loss, &stop) {
                Ok(Some(brought)) => {
                    let words = brought.describe();
                    print_line(&format!("{name}: {words}"));
                    let tell = WriteRequest::Tell {
                        name: name.clone(),
                        words,
                    };
                    privileged_write::order(settings, &tell)?;
                }
                Ok(None) => {
                    all_good = false;
                    complain(&format!(
                        "warning: {name}: no backup has {}",
                        loss.describe()
                    ));
                }
                Err(error) => {
                    all_good = false;
                    complain(&format!("warning: {name}: {error:#}"));
                }
            }
        }
    }
    Ok(code(all_good))
}

fn bring(
    settings: &Settings,
    loss: &resume::Loss,
    stop: &Stop,
) -> Result<Option<recover::Recovery>> {
    match loss {
        resume::Loss::Transcript { session_id, left } => {
            recover::transcript(settings, session_id, *left, stop)
        }
        resume::Loss::Workspace(path) => recover::directory(settings, path, stop),
    }
}
