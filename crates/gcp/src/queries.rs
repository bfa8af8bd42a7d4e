//! The gcloud calls that read resources.
//!
//! Each call is shown, and can be pasted. The filters only reduce the output: gcloud applies some
//! of them and the API others, with different rules, so every answer is filtered again.

use super::gcloud_command::Call;

/// The maximum number of errors to read of a group. A group retries at least every few minutes, so
/// a long lack of capacity has more errors.
pub const ERRORS: usize = 200;

/// Reads gcloud's version.
#[must_use]
pub fn version() -> Call {
    Call::read("gcloud's version", "version")
}

/// Reads the account and the project.
#[must_use]
pub fn config() -> Call {
    Call::read("who is logged in, and to which project", "config list")
}

/// Reads the group, in any zone.
#[must_use]
pub fn group(name: &str) -> Call {
    Call::read("the group", "compute instance-groups managed list")
        .flag("filter", format!("name={name}"))
}

/// Reads the group's members.
#[must_use]
pub fn members(group: &str, zone: &str) -> Call {
    Call::read(
        "the group's VM",
        "compute instance-groups managed list-instances",
    )
    .arg(group)
    .flag("zone", zone)
}

/// Reads the group's errors.
#[must_use]
pub fn errors(group: &str, zone: &str) -> Call {
    Call::read(
        "the group's errors",
        "compute instance-groups managed list-errors",
    )
    .arg(group)
    .flag("zone", zone)
    .flag("limit", ERRORS)
}

/// Reads the VM's templates.
#[must_use]
pub fn templates(name: &str) -> Call {
    Call::read("its templates", "compute instance-templates list")
        .flag("filter", format!("name~^{name}-[0-9a-f]*$"))
}

/// Reads disks by name, in any zone.
#[must_use]
pub fn disks(names: &[&str]) -> Call {
    Call::read("the disks", "compute disks list")
        .flag("filter", format!("name=({})", names.join(" ")))
}

/// Reads the snapshot schedule.
#[must_use]
pub fn schedule(name: &str) -> Call {
    Call::read("the snapshot schedule", "compute resource-policies list")
        .flag("filter", format!("name={name}"))
}

/// Reads whether the zone has the machine type.
#[must_use]
pub fn machine_type(machine_type: &str, zone: &str) -> Call {
    Call::read(
        "whether the zone has the machine type",
        "compute machine-types list",
    )
    .flag("filter", format!("name={machine_type}"))
    .flag("zones", zone)
}

/// Reads a VM.
#[must_use]
pub fn instance(name: &str, zone: &str) -> Call {
    Call::read("the VM", "compute instances describe")
        .arg(name)
        .flag("zone", zone)
}

/// Reads VMs by name, in any zone.
#[must_use]
pub fn instances(name: &str) -> Call {
    Call::read("where the VM is", "compute instances list").flag("filter", format!("name={name}"))
}

/// Reads the last preemptions of a VM, newest first.
#[must_use]
pub fn preemptions(instance: &str, zone: &str) -> Call {
    Call::read("the last preemptions", "compute operations list")
        .flag("zones", zone)
        .flag(
            "filter",
            format!("operationType=compute.instances.preempted AND targetLink~/{instance}$"),
        )
        .flag("sort-by", "~insertTime")
        .flag("limit", 5)
}
