//! `spotkeep backup restore`: restores files from a backup.

use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::{output, until_signalled};
use crate::backup::restic::Repository;
use crate::backup::{Settings, restore, snapshots};
use state::layout::DataDir;
use sys::error::{ErrorKind, Hint as _, Result, anyhow};

/// The files to restore, and how.
pub(super) struct RestoreRequest {
    pub(super) id: String,
    pub(super) paths: Vec<PathBuf>,
    pub(super) overwrite: bool,
    pub(super) dry_run: bool,
    pub(super) json: bool,
}

/// Returns the path of a file of the data directory inside a backup.
pub(super) fn within(data_dir: &DataDir, path: &Path) -> Result<PathBuf> {
    let inside = data_dir.relative(path);
    let good = inside.components().all(|part| {
        matches!(
            part,
            std::path::Component::Normal(_) | std::path::Component::CurDir
        )
    });
    if !good || inside.as_os_str().is_empty() {
        return Err(anyhow!("{} is not in the data directory", path.display()))
            .hint("paths are relative to the data directory, like workspaces/agent-1")
            .kind(ErrorKind::Usage);
    }
    let parts = inside.components();
    Ok(parts
        .filter(|part| *part != std::path::Component::CurDir)
        .collect())
}

/// Restores the files, into the data directory or into `to`.
pub(super) fn restore_files(
    settings: &Settings,
    request: &RestoreRequest,
    to: Option<&Path>,
) -> Result<ExitCode> {
    let stop = until_signalled()?;
    let repository = Repository::open(settings)?;
    let all = snapshots::list(&repository, &stop)?;
    let snapshot = snapshots::pick(&all, &request.id)?;
    let steps = restore::plan(settings, &repository, &snapshot.id, &request.paths, &stop)?;
    if request.dry_run {
        return output::plan(&steps, to, request.json);
    }
    if let Some(to) = to {
        restore::into_new_dir(&repository, &snapshot.id, &request.paths, to, &stop)?;
        let given = restore::Given {
            restored: u64::try_from(steps.len()).unwrap_or(u64::MAX),
            ..restore::Given::default()
        };
        return output::given(&given, to, request.json);
    }
    let differing = steps
        .iter()
        .filter(|step| matches!(step.now, restore::Now::Older | restore::Now::Newer));
    let newer = differing
        .clone()
        .filter(|step| step.now == restore::Now::Newer);
    let (differing, newer) = (differing.count(), newer.count());
    let over = request.overwrite || (differing > 0 && !request.json && asks(differing, newer)?);
    let id = &snapshot.id;
    let given = restore::into_data_dir(
        settings,
        &repository,
        id,
        &steps,
        &request.paths,
        over,
        &stop,
    )?;
    output::given(&given, settings.data_dir.dir(), request.json)
}

/// Asks the user whether to replace files. Without a terminal the answer is no.
fn asks(differing: usize, newer: usize) -> Result<bool> {
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return Ok(false);
    }
    let mut err = std::io::stderr().lock();
    write!(
        err,
        "{differing} existing files differ, {newer} of them newer. Replace them? \
         They are kept under another name. [y/N] "
    )?;
    err.flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
