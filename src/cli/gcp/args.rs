//! Arguments of `spotkeep gcp`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Subcommand, ValueEnum};

use state::AgentName;
use sys::time::parse_duration;

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Run it on your own machine, not on the VM. It needs gcloud (the command line of Google Cloud),
logged in. Each command that it runs is shown. Each verb can be run again: what exists already is
kept.

Examples:
  spotkeep gcp create --zone europe-north1-b --dry-run
  spotkeep gcp create --zone europe-north1-b --machine-type n2-standard-8
  spotkeep gcp ssh issue-123
  spotkeep gcp stop")]
pub(in crate::cli) struct Args {
    #[command(subcommand)]
    pub(super) verb: Verb,
    /// Use this VM name. Everything that belongs to the VM has it too.
    #[arg(
        long,
        global = true,
        default_value = "claude-sandbox",
        value_name = "NAME"
    )]
    pub(super) name: String,
    /// Use this Google Cloud project (default: gcloud's setting).
    #[arg(long, global = true, value_name = "PROJECT")]
    pub(super) project: Option<String>,
    /// Wait at most this long for the VM.
    #[arg(long, global = true, default_value = "15m", value_name = "TIME", value_parser = timeout)]
    pub(super) timeout: Duration,
}

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Create a spot VM that restarts automatically.
    #[command(after_help = "Examples:
  spotkeep gcp create --zone europe-north1-b --dry-run
  spotkeep gcp create --zone europe-north1-b --machine-type n2-standard-8 --size 100GB
  spotkeep gcp create --unattended --claude ~/.local/bin/claude")]
    Create(Create),
    /// Start the VM after `stop`.
    #[command(after_help = "Example:\n  spotkeep gcp start")]
    Start(DryRun),
    /// Stop the VM; only its disks cost money.
    #[command(after_help = "Example:\n  spotkeep gcp stop")]
    Stop(DryRun),
    /// Show the VM, its preemptions and its disk.
    #[command(
        after_help = "Examples:\n  spotkeep gcp status\n  spotkeep gcp status --outside --json"
    )]
    Status(Status),
    /// Open a shell or an agent's terminal there.
    #[command(after_help = "Examples:\n  spotkeep gcp ssh\n  spotkeep gcp ssh issue-123")]
    Ssh(Ssh),
    /// Take over an existing VM and its disk.
    #[command(after_help = "\
Examples:
  spotkeep gcp adopt my-vm --zone europe-north1-b --dry-run
  spotkeep gcp adopt my-vm --zone europe-north1-b")]
    Adopt(Adopt),
    /// Delete the VM; keep the data disk.
    #[command(after_help = "\
Examples:
  spotkeep gcp delete --dry-run
  spotkeep gcp delete --and-data claude-persist")]
    Delete(Delete),
    /// Preempt the VM now, wait, and report.
    #[command(after_help = "Examples:\n  spotkeep gcp preempt\n  spotkeep gcp preempt --json")]
    Preempt(Preempt),
}

#[derive(Debug, clap::Args)]
pub(super) struct DryRun {
    /// Print the gcloud commands; do not run them.
    #[arg(long)]
    pub(super) dry_run: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct Machine {
    /// Create the VM in this zone. Needed the first time only.
    #[arg(long, value_name = "ZONE")]
    pub(super) zone: Option<String>,
    /// Use this data disk. It is created if missing. [default: claude-persist]
    #[arg(long, value_name = "NAME")]
    pub(super) disk: Option<String>,
    /// Use this machine type. [default: e2-standard-4]
    #[arg(long, value_name = "TYPE")]
    pub(super) machine_type: Option<String>,
    /// Request this much time after a preemption notice. [default: 120s if gcloud supports it]
    #[arg(long, value_enum, value_name = "TIME")]
    pub(super) notice: Option<HowLong>,
    /// Create the boot disk from this image family. [default: debian-12]
    #[arg(long, value_name = "FAMILY")]
    pub(super) image_family: Option<String>,
    /// Take the image family from this project. [default: debian-cloud]
    #[arg(long, value_name = "PROJECT")]
    pub(super) image_project: Option<String>,
    /// Use a boot disk of this size. [default: 20GB]
    #[arg(long, value_name = "SIZE", value_parser = gigabytes)]
    pub(super) boot_size: Option<u64>,
    /// Give the VM this service account (default: none). Its agents can use the account too.
    #[arg(long, value_name = "EMAIL")]
    pub(super) service_account: Option<String>,
    /// Limit that account to these scopes (permissions).
    #[arg(long, value_name = "LIST", requires = "service_account")]
    pub(super) scopes: Option<String>,
    /// Give the VM no public address. It then needs Cloud NAT (a Google network service) to reach
    /// the API; ssh uses Google's tunnel.
    #[arg(long)]
    pub(super) no_address: bool,
    /// Use this network.
    #[arg(long, value_name = "NAME")]
    pub(super) network: Option<String>,
    /// Use this subnet.
    #[arg(long, value_name = "NAME")]
    pub(super) subnet: Option<String>,
    /// Run agents as this user of the VM. The user is created the first time.
    #[arg(long, default_value = "sandbox", value_name = "USER")]
    pub(super) user: String,
    /// Copy this spotkeep program to the VM. Used the first time only. [default: this program]
    #[arg(long, value_name = "FILE")]
    pub(super) binary: Option<PathBuf>,
    /// Copy this Claude Code program to the disk. It must be a Linux program; used the first time
    /// only.
    #[arg(long, value_name = "FILE")]
    pub(super) claude: Option<PathBuf>,
    /// Let agents run every command without asking. Like `init --unattended`; used the first time
    /// only.
    #[arg(long)]
    pub(super) unattended: bool,
    /// Print the gcloud commands; do not run them.
    #[arg(long)]
    pub(super) dry_run: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct Create {
    #[command(flatten)]
    pub(super) machine: Machine,
    /// Use a data disk of this size. A smaller existing disk is enlarged. [default: 50GB]
    #[arg(long, value_name = "SIZE", value_parser = gigabytes)]
    pub(super) size: Option<u64>,
    /// Use a data disk of this type. [default: pd-ssd, or hyperdisk-balanced if the machine type
    /// needs it]
    #[arg(long = "type", value_name = "TYPE")]
    pub(super) disk_type: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(super) struct Adopt {
    /// The VM's name.
    #[arg(value_name = "VM")]
    pub(super) vm: String,
    #[command(flatten)]
    pub(super) machine: Machine,
    /// Do not ask for confirmation.
    #[arg(long)]
    pub(super) yes: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct Status {
    /// Print JSON.
    #[arg(long)]
    pub(super) json: bool,
    /// Ask Google Cloud only, not the VM.
    #[arg(long)]
    pub(super) outside: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct Ssh {
    /// Open this agent's terminal instead of a shell.
    #[arg(value_name = "AGENT")]
    pub(super) agent: Option<AgentName>,
    /// Print the gcloud command; do not run it.
    #[arg(long)]
    pub(super) dry_run: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct Delete {
    /// Delete the data disk too. Give its name to confirm.
    #[arg(long, value_name = "DISK")]
    pub(super) and_data: Option<String>,
    /// Name the data disk. Needed only if the instance group (which records it) is missing.
    #[arg(long, value_name = "NAME")]
    pub(super) disk: Option<String>,
    /// Name the zone. Needed only if the instance group (which records it) is missing.
    #[arg(long, value_name = "ZONE")]
    pub(super) zone: Option<String>,
    /// Print the gcloud commands; do not run them.
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Do not ask for confirmation.
    #[arg(long)]
    pub(super) yes: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct Preempt {
    /// Print JSON.
    #[arg(long)]
    pub(super) json: bool,
    /// Print the gcloud command; do not run it.
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Do not ask for confirmation.
    #[arg(long)]
    pub(super) yes: bool,
}

/// How much time the VM gets between the preemption notice and the stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum HowLong {
    /// 120 s if this gcloud supports it.
    Auto,
    /// 120 s; an error if this gcloud does not support it.
    #[value(name = "120s")]
    Long,
    /// No notice before the shutdown.
    #[value(name = "0s")]
    None,
}

fn timeout(text: &str) -> Result<Duration, String> {
    parse_duration(text).map_err(|error| error.to_string())
}

fn gigabytes(text: &str) -> Result<u64, String> {
    let number = text.strip_suffix("GB").unwrap_or(text);
    match number.parse() {
        Ok(size) if size > 0 => Ok(size),
        _ => Err("expected a size in GB, like 50GB".to_owned()),
    }
}
