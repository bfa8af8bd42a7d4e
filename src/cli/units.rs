//! `spotkeep units`: installs the systemd units of this version.

use std::path::Path;
use std::process::ExitCode;

use super::output::print_line;
use crate::systemd::install;
use crate::systemd::units::UnitPaths;
use state::layout::DataDir;
use sys::error::{ErrorKind, Hint as _, Result, anyhow};
use sys::user;

/// Arguments.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Show what differs; change nothing.
    #[arg(long)]
    dry_run: bool,
}

/// Installs and enables the systemd units of this version; running units are left alone.
/// `setup --upgrade` runs this verb of the new program.
pub(super) fn run(data_dir: &DataDir, args: &Args) -> Result<ExitCode> {
    let (machine, paths) = (Path::new("/"), UnitPaths::from_data_dir(data_dir)?);
    if args.dry_run {
        let differences = install::differences(machine, &paths)?;
        for difference in &differences {
            print_line(&difference.to_string());
        }
        let code = if differences.is_empty() {
            0
        } else {
            ErrorKind::NotAsDeclared as u8
        };
        return Ok(ExitCode::from(code));
    }
    if user::id() != 0 {
        return Err(anyhow!("only root can install systemd units")).hint(format!(
            "sudo {} --data-dir {} units",
            paths.program.display(),
            data_dir.dir().display()
        ));
    }
    for path in install::install(machine, &paths)? {
        print_line(&format!("wrote {}", path.display()));
    }
    install::reload()?;
    install::enable(machine)?;
    Ok(ExitCode::SUCCESS)
}
