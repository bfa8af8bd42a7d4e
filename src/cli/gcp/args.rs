//! What `spotkeep gcp` can be told.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Subcommand, ValueEnum};

use state::AgentName;
use sys::time::parse_duration;

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "It needs gcloud, logged in, on a machine of yours; not on the VM. Every call of gcloud is shown.
Each verb can be run again: what is done is not done twice.

Examples:
  spotkeep gcp create --zone europe-north1-b --dry-run
  spotkeep gcp create --zone europe-north1-b --machine-type n2-standard-8
  spotkeep gcp ssh issue-123
  spotkeep gcp stop"
)]
pub(in crate::cli) struct Args {
    #[command(subcommand)]
    pub(super) verb: Verb,
    /// The VM's name, and the name of all that belongs to it.
    #[arg(
        long,
        global = true,
        default_value = "claude-sandbox",
        value_name = "NAME"
    )]
    pub(super) name: String,
    /// The project; otherwise gcloud's own.
    #[arg(long, global = true, value_name = "PROJECT")]
    pub(super) project: Option<String>,
    /// How long to wait for the VM.
    #[arg(long, global = true, default_value = "15m", value_name = "TIME", value_parser = timeout)]
    pub(super) timeout: Duration,
}

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Make a Spot VM with a data disk of its own, that comes back by itself.
    #[command(after_help = "Examples:
  spotkeep gcp create --zone europe-north1-b --dry-run
  spotkeep gcp create --zone europe-north1-b --machine-type n2-standard-8 --size 100GB
  spotkeep gcp create --unattended --claude ~/.local/bin/claude")]
    Create(Create),
    /// Start the VM again after `stop`.
    #[command(after_help = "Example:\n  spotkeep gcp start")]
    Start(DryRun),
    /// Stop the VM; only its disks are paid for, and it stays stopped.
    #[command(after_help = "Example:\n  spotkeep gcp stop")]
    Stop(DryRun),
    /// The VM, its preemptions, its disk, and whether the zone has machines.
    #[command(
        after_help = "Examples:\n  spotkeep gcp status\n  spotkeep gcp status --outside --json"
    )]
    Status(Status),
    /// A terminal on the VM: an agent's, or a shell of the agents' user.
    #[command(after_help = "Examples:\n  spotkeep gcp ssh\n  spotkeep gcp ssh issue-123")]
    Ssh(Ssh),
    /// Take over a VM that was made by hand, with the disk that is attached to it.
    #[command(
        after_help = "Examples:\n  spotkeep gcp adopt my-vm --zone europe-north1-b --dry-run\n  spotkeep gcp adopt my-vm --zone europe-north1-b"
    )]
    Adopt(Adopt),
    /// Delete what `create` made, but for the data disk.
    #[command(
        after_help = "Examples:\n  spotkeep gcp delete --dry-run\n  spotkeep gcp delete --and-data claude-persist"
    )]
    Delete(Delete),
    /// Have the VM preempted now, wait until it is back, and report.
    #[command(after_help = "Examples:\n  spotkeep gcp preempt\n  spotkeep gcp preempt --json")]
    Preempt(Preempt),
}

#[derive(Debug, clap::Args)]
pub(super) struct DryRun {
    /// Print the calls as a script, and make none of them.
    #[arg(long)]
    pub(super) dry_run: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct Machine {
    /// The zone; later it is known.
    #[arg(long, value_name = "ZONE")]
    pub(super) zone: Option<String>,
    /// The data disk [default: claude-persist, made if it does not exist].
    #[arg(long, value_name = "NAME")]
    pub(super) disk: Option<String>,
    /// The machine type [default: e2-standard-4].
    #[arg(long, value_name = "TYPE")]
    pub(super) machine_type: Option<String>,
    /// How long the VM goes on after the notice [default: 120s, if gcloud is new enough to ask for it].
    #[arg(long, value_enum, value_name = "TIME")]
    pub(super) notice: Option<HowLong>,
    /// The image family of the boot disk [default: debian-12].
    #[arg(long, value_name = "FAMILY")]
    pub(super) image_family: Option<String>,
    /// The project of the image family [default: debian-cloud].
    #[arg(long, value_name = "PROJECT")]
    pub(super) image_project: Option<String>,
    /// The boot disk's size [default: 20GB].
    #[arg(long, value_name = "SIZE", value_parser = gigabytes)]
    pub(super) boot_size: Option<u64>,
    /// An account for the VM, which its agents can use; otherwise it has none.
    #[arg(long, value_name = "EMAIL")]
    pub(super) service_account: Option<String>,
    /// The scopes of that account.
    #[arg(long, value_name = "LIST", requires = "service_account")]
    pub(super) scopes: Option<String>,
    /// No address on the internet (it then needs Cloud NAT to reach the API; ssh goes through Google's tunnel).
    #[arg(long)]
    pub(super) no_address: bool,
    /// The network.
    #[arg(long, value_name = "NAME")]
    pub(super) network: Option<String>,
    /// The subnet.
    #[arg(long, value_name = "NAME")]
    pub(super) subnet: Option<String>,
    /// The agents' user on the VM, made the first time.
    #[arg(long, default_value = "sandbox", value_name = "USER")]
    pub(super) user: String,
    /// The spotkeep that is copied to the VM the first time; otherwise this one.
    #[arg(long, value_name = "FILE")]
    pub(super) binary: Option<PathBuf>,
    /// A Claude Code (a Linux program) that is copied to the disk the first time.
    #[arg(long, value_name = "FILE")]
    pub(super) claude: Option<PathBuf>,
    /// Let agents run every command without asking, as `init --unattended` does; the first time.
    #[arg(long)]
    pub(super) unattended: bool,
    /// Print the calls as a script, and make none of them.
    #[arg(long)]
    pub(super) dry_run: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct Create {
    #[command(flatten)]
    pub(super) machine: Machine,
    /// The data disk's size [default: 50GB]; larger than it is: it is enlarged.
    #[arg(long, value_name = "SIZE", value_parser = gigabytes)]
    pub(super) size: Option<u64>,
    /// The data disk's type [default: pd-ssd, or hyperdisk-balanced where the machine takes nothing else].
    #[arg(long = "type", value_name = "TYPE")]
    pub(super) disk_type: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(super) struct Adopt {
    /// The VM.
    #[arg(value_name = "VM")]
    pub(super) vm: String,
    #[command(flatten)]
    pub(super) machine: Machine,
    /// Do not ask.
    #[arg(long)]
    pub(super) yes: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct Status {
    /// As JSON.
    #[arg(long)]
    pub(super) json: bool,
    /// Do not ask the VM itself.
    #[arg(long)]
    pub(super) outside: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct Ssh {
    /// An agent, to go straight to its terminal.
    #[arg(value_name = "AGENT")]
    pub(super) agent: Option<AgentName>,
    /// Print the call, and do not make it.
    #[arg(long)]
    pub(super) dry_run: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct Delete {
    /// The data disk too: its name, typed.
    #[arg(long, value_name = "DISK")]
    pub(super) and_data: Option<String>,
    /// The data disk, where the group that knows it is gone.
    #[arg(long, value_name = "NAME")]
    pub(super) disk: Option<String>,
    /// The zone, where the group that knows it is gone.
    #[arg(long, value_name = "ZONE")]
    pub(super) zone: Option<String>,
    /// Print the calls as a script, and make none of them.
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Do not ask.
    #[arg(long)]
    pub(super) yes: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct Preempt {
    /// As JSON.
    #[arg(long)]
    pub(super) json: bool,
    /// Print the call, and do not make it.
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Do not ask.
    #[arg(long)]
    pub(super) yes: bool,
}

/// How long a notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum HowLong {
    /// 120 s, if this gcloud can ask for it.
    Auto,
    /// 120 s, or nothing is made.
    #[value(name = "120s")]
    Long,
    /// None but the shutdown itself.
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
        _ => Err("a size in GB, such as 50GB".to_owned()),
    }
}
