//! `spotkeep restore`: resumes the fleet now, or creates a data directory from a backup.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::backup::until_signalled;
use super::daemon::status;
use super::drop_privileges::Access;
use super::output::{complain, json, print_line, table};
use super::up_down;
use crate::backup::bootstrap;
use crate::backup::settings::Key;
use crate::keeper::client;
use crate::resume;
use state::layout::DataDir;
use state::{Journal, JournalEvent, VERSION};
use sys::error::{Context as _, ErrorKind, Hint as _, Result, anyhow};
use sys::process;

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
At the next boot the keeper (the daemon) resumes the fleet automatically. Use this after `save
--final`, or when the VM was not stopped after a preemption notice.

With --from it creates a new data directory from a backup. URL is the backup repository: the value
of `copy_to` in the spotkeep.toml of the other machine.

Examples:
  spotkeep restore --dry-run
  spotkeep restore
  spotkeep -D /mnt/persist restore --from gs:my-bucket:/fleet --password-file ~/backups.key")]
pub(super) struct Args {
    /// Show what would be done; change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Print the plan as JSON; implies --dry-run.
    #[arg(long)]
    json: bool,
    /// Create the data directory from this backup repository. The URL has the form that restic
    /// uses.
    #[arg(long, value_name = "URL")]
    from: Option<String>,
    /// Read the repository's password from this file.
    #[arg(long, value_name = "FILE", requires = "from")]
    password_file: Option<PathBuf>,
    /// Get the repository's password from this command.
    #[arg(
        long,
        value_name = "COMMAND",
        requires = "from",
        conflicts_with = "password_file"
    )]
    key_command: Option<String>,
    /// Read environment variables from this file (mode 0600). For example AWS_ACCESS_KEY_ID.
    #[arg(long, value_name = "FILE", requires = "from")]
    env_file: Option<PathBuf>,
    /// Restore this data directory, if there are several.
    #[arg(long, alias = "root-id", value_name = "UUID", requires = "from")]
    data_dir_id: Option<String>,
    /// Restore this backup (default: the newest).
    #[arg(long, value_name = "BACKUP", requires = "from")]
    backup: Option<String>,
}

impl Args {
    /// Returns whether the data directory is to be created from a backup.
    pub(super) fn is_from_elsewhere(&self) -> bool {
        self.from.is_some()
    }

    /// Returns what the verb does on an existing data directory.
    pub(super) fn access(&self) -> Access {
        match (self.is_from_elsewhere(), self.dry_run) {
            (true, _) => Access::Own,
            (false, true) => Access::Reads,
            (false, false) => Access::Acts,
        }
    }
}

/// Creates a data directory from a backup repository.
pub(super) fn from(dir: &Path, args: Args) -> Result<ExitCode> {
    let key = match (args.password_file, args.key_command) {
        (Some(file), _) => Key::File(file),
        (None, Some(command)) => Key::Command(command),
        (None, None) => {
            return Err(anyhow!("the password of the backup repository is missing"))
                .hint("add --password-file FILE, with a copy of the other machine's backups.key")
                .kind(ErrorKind::Usage);
        }
    };
    let from = bootstrap::From {
        url: args.from.unwrap_or_default(),
        key,
        env_file: args.env_file,
        data_dir_id: args.data_dir_id,
        id: args.backup,
    };
    bootstrap::ensure_free(dir)?;
    let stop = until_signalled()?;
    let (repository, snapshot) = bootstrap::find(&from, &stop)?;
    if args.dry_run {
        print_line(&format!(
            "would create {} from the backup {} of {}",
            dir.display(),
            snapshot.id.get(..8).unwrap_or(&snapshot.id),
            snapshot.at.for_people()
        ));
        return Ok(ExitCode::SUCCESS);
    }
    let made = bootstrap::make(dir, &from, &repository, snapshot, &stop)?;
    if args.json {
        json(&made)?;
        return Ok(ExitCode::SUCCESS);
    }
    print_line(&format!(
        "{} is restored: data directory {}, backup of {}, {} agents",
        made.data_dir.display(),
        made.data_dir_id,
        made.backup.at.for_people(),
        made.agents.len()
    ));
    for missing in &made.missing {
        complain(&format!("warning: {missing}"));
    }
    print_line(&format!(
        "next: spotkeep --data-dir {} up",
        made.data_dir.display()
    ));
    Ok(ExitCode::SUCCESS)
}

pub(super) fn run(data_dir: &DataDir, args: &Args) -> Result<ExitCode> {
    if args.dry_run || args.json {
        return show_plan(data_dir, args.json);
    }
    let now = status(data_dir)?;
    if now.notice.is_some() && client::survived(data_dir)?.is_none() {
        let _lock = super::daemon::instead_of_keeper(data_dir)?;
        let identity = data_dir.identity()?;
        let mut journal = Journal::open(
            &data_dir.journal(),
            &identity.data_dir_id,
            identity.epoch,
            &now.boot_id,
        )?;
        journal
            .write(
                None,
                &JournalEvent::Survived {
                    reason: "spotkeep restore was run".into(),
                },
            )
            .context("cannot record that this boot goes on")
            .hint("free some space, then: spotkeep restore")?;
    }
    up_down::up(data_dir, &up_down::UpArgs::default())
}

fn show_plan(data_dir: &DataDir, as_json: bool) -> Result<ExitCode> {
    let boot_id = process::current_boot_id()?;
    let records: Vec<_> = data_dir
        .all_records()?
        .into_iter()
        .filter_map(|(_, record)| record.ok())
        .collect();
    let steps = resume::plan(data_dir, &records, &boot_id);
    if as_json {
        json(&serde_json::json!({ "version": VERSION, "agents": steps }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows: Vec<[String; 2]> = steps
        .into_iter()
        .map(|step| [step.name.to_string(), step.what])
        .collect();
    for line in table(["AGENT", "PLAN"], &rows) {
        print_line(&line);
    }
    Ok(ExitCode::SUCCESS)
}
