//! The questions. Each is shown, and can be pasted. Their filters only spare transport: some are applied by gcloud,
//! some by the API, each in its own way, so every answer is looked through again.

use super::gcloud_command::Call;

/// So many errors of a group are asked for at most. A group tries every few minutes at the latest, so a long drought
/// has more of them.
pub const ERRORS: usize = 200;

/// Which gcloud this is.
#[must_use]
pub fn version() -> Call {
    Call::read("gcloud's version", "version")
}

/// Who asks, in which project.
#[must_use]
pub fn config() -> Call {
    Call::read("who is logged in, and to which project", "config list")
}

/// The group, in any zone.
#[must_use]
pub fn group(name: &str) -> Call {
    Call::read("the group", "compute instance-groups managed list")
        .flag("filter", format!("name={name}"))
}

/// What the group has.
#[must_use]
pub fn members(group: &str, zone: &str) -> Call {
    Call::read(
        "the group's VM",
        "compute instance-groups managed list-instances",
    )
    .arg(group)
    .flag("zone", zone)
}

/// What went wrong in the group.
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

/// Our templates.
#[must_use]
pub fn templates(name: &str) -> Call {
    Call::read("its templates", "compute instance-templates list")
        .flag("filter", format!("name~^{name}-[0-9a-f]*$"))
}

/// Disks of these names, in any zone.
#[must_use]
pub fn disks(names: &[&str]) -> Call {
    Call::read("the disks", "compute disks list")
        .flag("filter", format!("name=({})", names.join(" ")))
}

/// The snapshot schedule.
#[must_use]
pub fn schedule(name: &str) -> Call {
    Call::read("the snapshot schedule", "compute resource-policies list")
        .flag("filter", format!("name={name}"))
}

/// Whether the zone has the type.
#[must_use]
pub fn machine_type(machine_type: &str, zone: &str) -> Call {
    Call::read(
        "whether the zone has the machine type",
        "compute machine-types list",
    )
    .flag("filter", format!("name={machine_type}"))
    .flag("zones", zone)
}

/// A VM.
#[must_use]
pub fn instance(name: &str, zone: &str) -> Call {
    Call::read("the VM", "compute instances describe")
        .arg(name)
        .flag("zone", zone)
}

/// VMs of this name, in any zone.
#[must_use]
pub fn instances(name: &str) -> Call {
    Call::read("where the VM is", "compute instances list").flag("filter", format!("name={name}"))
}

/// Preemptions of a VM, the newest first.
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
