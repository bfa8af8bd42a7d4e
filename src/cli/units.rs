//! `spotkeep units`

use std::path::Path;
use std::process::ExitCode;

use super::output::say;
use crate::systemd::install;
use crate::systemd::units::UnitPaths;
use state::layout::Root;
use sys::error::{ErrorKind, Hint as _, Result, anyhow};
use sys::user;

/// Arguments.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Say what differs, and do nothing.
    #[arg(long)]
    dry_run: bool,
}

/// Puts the units of this very version onto the machine and has them start at boot; nothing that
/// runs is touched. `setup --upgrade` asks the new program for it.
pub(super) fn run(root: &Root, args: &Args) -> Result<ExitCode> {
    let (machine, paths) = (Path::new("/"), UnitPaths::of(root)?);
    if args.dry_run {
        let differences = install::differences(machine, &paths)?;
        for difference in &differences {
            say(&difference.to_string());
        }
        let code = if differences.is_empty() {
            0
        } else {
            ErrorKind::NotAsDeclared as u8
        };
        return Ok(ExitCode::from(code));
    }
    if user::id() != 0 {
        return Err(anyhow!("units are root's")).hint(format!(
            "sudo {} --root {} units",
            paths.program.display(),
            root.dir().display()
        ));
    }
    for path in install::install(machine, &paths)? {
        say(&format!("wrote {}", path.display()));
    }
    install::reload()?;
    install::enable(machine)?;
    Ok(ExitCode::SUCCESS)
}
