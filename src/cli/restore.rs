//! `spotkeep restore`

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
#[command(
    after_help = "A keeper does this by itself when the next boot begins. By hand it also says that this
boot goes on after a notice that came to nothing.

With --from it makes a data directory where there is none, from the repository that `copy_to` of another machine
names.

Examples:
  spotkeep restore --dry-run
  spotkeep restore
  spotkeep --data-dir /mnt/persist restore --from gs:my-bucket:/fleet --password-file ~/backups.key"
)]
pub(super) struct Args {
    /// Show what would be done, and do nothing.
    #[arg(long)]
    dry_run: bool,
    /// The plan as JSON; implies --dry-run.
    #[arg(long)]
    json: bool,
    /// Make this data directory from a repository elsewhere, as restic names it.
    #[arg(long, value_name = "URL")]
    from: Option<String>,
    /// The file with its password.
    #[arg(long, value_name = "FILE", requires = "from")]
    password_file: Option<PathBuf>,
    /// A command that prints its password.
    #[arg(
        long,
        value_name = "COMMAND",
        requires = "from",
        conflicts_with = "password_file"
    )]
    key_command: Option<String>,
    /// A file (0600) of environment variables for it, such as AWS_ACCESS_KEY_ID.
    #[arg(long, value_name = "FILE", requires = "from")]
    env_file: Option<PathBuf>,
    /// Which data directory, where it holds several.
    #[arg(long, alias = "root-id", value_name = "UUID", requires = "from")]
    data_dir_id: Option<String>,
    /// Which backup; the newest where none is named.
    #[arg(long, value_name = "BACKUP", requires = "from")]
    backup: Option<String>,
}

impl Args {
    /// Whether there is no data directory yet.
    pub(super) fn is_from_elsewhere(&self) -> bool {
        self.from.is_some()
    }

    /// What it does on the data directory that is there.
    pub(super) fn access(&self) -> Access {
        match (self.is_from_elsewhere(), self.dry_run) {
            (true, _) => Access::Own,
            (false, true) => Access::Reads,
            (false, false) => Access::Acts,
        }
    }
}

/// Makes a data directory from a repository elsewhere.
pub(super) fn from(dir: &Path, args: Args) -> Result<ExitCode> {
    let key = match (args.password_file, args.key_command) {
        (Some(file), _) => Key::File(file),
        (None, Some(command)) => Key::Command(command),
        (None, None) => {
            return Err(anyhow!("what is its password?"))
                .hint("--password-file FILE: a copy of backups.key of the other machine")
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
            "would make {} from the backup {} of {}",
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
        "{} is the data directory {} again, as of {}, with {} agents",
        made.data_dir.display(),
        made.data_dir_id,
        made.backup.at.for_people(),
        made.agents.len()
    ));
    for missing in &made.missing {
        complain(&format!("warning: {missing}"));
    }
    print_line(&format!(
        "now: spotkeep --data-dir {} up",
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
                    reason: "a human said so".into(),
                },
            )
            .context("cannot say that this boot goes on")
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
