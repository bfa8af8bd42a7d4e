//! Plans the missing gcloud calls from the request and from what exists. Pure.
//!
//! After each call the next plan is shorter, so an interrupted plan is continued by planning again.

use super::LABEL;
use super::discover::{Disk, GcpInventory, schedule_name};
use super::gcloud_command::Call;
use super::machine_family;
use super::vm_spec::{Shape, VmRequest, region_of};
use sys::error::{ErrorKind, Hint as _, Result, anyhow, bail};

/// The default size of the data disk.
const DATA_GB: u64 = 50;
/// How long snapshots are kept.
const SNAPSHOT_DAYS: u32 = 14;

/// The calls to make, and notes for the user.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    /// The zone.
    pub zone: String,
    /// The VM's name.
    pub vm: String,
    /// The calls, in order.
    pub calls: Vec<Call>,
    /// Notes for the user.
    pub notes: Vec<String>,
}

/// Returns the zone: the group's, or the requested one.
///
/// # Errors
/// No zone is given, or the group is in another one.
pub fn zone_of(request: &VmRequest, found: &GcpInventory) -> Result<String> {
    match (&request.zone, &found.group) {
        (Some(zone), Some(group)) if *zone != group.zone => Err(anyhow!(
            "{} is in {}, not in {zone}",
            request.name,
            group.zone
        ))
        .hint(format!(
            "--zone={}; or another --name. A disk, and with it the VM, cannot leave its zone",
            group.zone
        ))
        .kind(ErrorKind::Usage),
        (_, Some(group)) => Ok(group.zone.clone()),
        (Some(zone), None) => {
            region_of(zone)?;
            Ok(zone.clone())
        }
        (None, None) => Err(anyhow!("no zone"))
            .hint("--zone=europe-north1-b; all of them: gcloud compute zones list")
            .kind(ErrorKind::Usage),
    }
}

/// Checks the pair of machine type and disk type, without a call.
///
/// # Errors
/// The pair is not possible.
pub fn check_pair(request: &VmRequest, shape: &Shape) -> Result<()> {
    let disk_type = request
        .disk_type
        .as_deref()
        .unwrap_or_else(|| machine_family::data_disk_type(&shape.machine_type));
    machine_family::check(&shape.machine_type, disk_type)
}

/// Plans `create`.
///
/// # Errors
/// Existing resources conflict with the request; the hint says what to do.
pub fn create(
    request: &VmRequest,
    shape: &Shape,
    found: &GcpInventory,
    zone: &str,
) -> Result<Plan> {
    let region = region_of(zone)?;
    let name = &request.name;
    foreign_group(request, found)?;
    if found.has_machine_type == Some(false) {
        return Err(anyhow!(
            "{zone} has no machines of type {}",
            shape.machine_type
        ))
        .hint(format!(
            "gcloud compute machine-types list --filter='name={}' shows the zones that have it",
            shape.machine_type
        ))
        .kind(ErrorKind::Usage);
    }
    let mut plan = Plan {
        zone: zone.to_owned(),
        vm: vm_name(name, found, zone),
        ..Plan::default()
    };
    if !found.schedule {
        plan.calls.push(make_schedule(name, region));
    }
    data_disk(&mut plan, request, shape, found)?;
    template_and_group(&mut plan, name, shape, found, region);
    member(&mut plan, name, shape, found);
    if shape.notice_seconds == 0 && shape.notice == super::vm_spec::Notice::Auto {
        plan.notes.push(format!(
            "gcloud {} does not support the notice of 120 s, so the VM has only its shutdown (up \
             to 30 s); \
             upgrade gcloud ({} or newer) and run this again",
            found.gcloud,
            super::vm_spec::NOTICE_SINCE
        ));
    }
    Ok(plan)
}

/// Refuses a group of this name that spotkeep did not make.
pub(super) fn foreign_group(request: &VmRequest, found: &GcpInventory) -> Result<()> {
    let Some(group) = &found.group else {
        return Ok(());
    };
    let ours = found
        .templates
        .iter()
        .any(|template| template.name == group.template && template.shape.is_some());
    if !ours {
        return Err(anyhow!(
            "the group {} exists, and spotkeep did not make it",
            group.name
        ))
        .hint(format!("another --name than {}", request.name));
    }
    if found.members.len() > 1 {
        bail!(
            "the group {} has {} VMs, but only one can have the data disk and the keeper",
            group.name,
            found.members.len()
        );
    }
    Ok(())
}

/// Returns the VM's name: the group's, or another one if a disk has that name, which the boot disk
/// needs.
pub(super) fn vm_name(name: &str, found: &GcpInventory, zone: &str) -> String {
    if let [member] = &found.members[..] {
        return member.name.clone();
    }
    let taken = found
        .disks
        .iter()
        .any(|disk| disk.name == *name && disk.zone == zone);
    if taken {
        format!("{name}-vm")
    } else {
        name.to_owned()
    }
}

fn make_schedule(name: &str, region: &str) -> Call {
    Call::change(
        format!("make a schedule of nightly snapshots, which are kept for {SNAPSHOT_DAYS} days"),
        "compute resource-policies create snapshot-schedule",
    )
    .arg(schedule_name(name))
    .flag("region", region)
    .switch("daily-schedule")
    .flag("start-time", "03:00")
    .flag("max-retention-days", SNAPSHOT_DAYS)
    .flag("on-source-disk-delete", "keep-auto-snapshots")
    .flag("snapshot-labels", format!("{LABEL}={name}"))
}

/// Plans the data disk: it is made if it does not exist, or enlarged, and never shrunk.
fn data_disk(
    plan: &mut Plan,
    request: &VmRequest,
    shape: &Shape,
    found: &GcpInventory,
) -> Result<()> {
    let zone = &plan.zone;
    let same_name = || found.disks.iter().filter(|disk| disk.name == shape.disk);
    let Some(disk) = same_name().find(|disk| disk.zone == *zone) else {
        if let Some(elsewhere) = same_name().next() {
            let place = if elsewhere.zone.is_empty() {
                "a whole region"
            } else {
                &elsewhere.zone
            };
            return Err(anyhow!(
                "the disk {} is in {place}, not in {zone}",
                shape.disk
            ))
            .hint(format!(
                "--zone={place}, where the disk is; or --disk with another name for a new one; \
                     or move it: make a snapshot, and from that a disk in {zone}"
            ))
            .kind(ErrorKind::Usage);
        }
        let disk_type = request
            .disk_type
            .as_deref()
            .unwrap_or_else(|| machine_family::data_disk_type(&shape.machine_type));
        plan.calls.push(
            Call::change(
                format!("make the empty data disk {}", shape.disk),
                "compute disks create",
            )
            .arg(&shape.disk)
            .flag("zone", zone)
            .flag("size", format!("{}GB", request.size_gb.unwrap_or(DATA_GB)))
            .flag("type", disk_type)
            .flag("labels", format!("{LABEL}={}", request.name))
            .flag("resource-policies", schedule_name(&request.name)),
        );
        return Ok(());
    };
    fits(plan, request, shape, disk, found)?;
    if let Some(size) = request.size_gb
        && size > disk.size_gb
    {
        plan.calls.push(
            Call::change(
                format!("enlarge the data disk from {} GB", disk.size_gb),
                "compute disks resize",
            )
            .arg(&disk.name)
            .flag("zone", zone)
            .flag("size", format!("{size}GB")),
        );
    }
    // A disk has one schedule at most: the user's own one stays.
    if disk.schedules.is_empty() {
        plan.calls.push(
            Call::change(
                "add the snapshot schedule to the data disk",
                "compute disks add-resource-policies",
            )
            .arg(&disk.name)
            .flag("zone", zone)
            .flag("resource-policies", schedule_name(&request.name)),
        );
    }
    Ok(())
}

/// Checks that the existing disk can be the data disk.
fn fits(
    plan: &Plan,
    request: &VmRequest,
    shape: &Shape,
    disk: &Disk,
    found: &GcpInventory,
) -> Result<()> {
    // A VM of the same name that is not in the group was made by a user.
    let own = |user: &String| found.members.iter().any(|member| member.name == *user);
    if let Some(user) = disk.users.iter().find(|user| !own(user)) {
        return Err(anyhow!(
            "the disk {} is attached to the VM {user}",
            disk.name
        ))
        .hint(format!(
            "spotkeep gcp adopt {user} --zone={} takes both over; or --disk with another name",
            plan.zone
        ));
    }
    if let Some(requested) = &request.disk_type
        && *requested != disk.disk_type
    {
        return Err(anyhow!(
            "the disk {} is of type {}, and a disk's type cannot be changed",
            disk.name,
            disk.disk_type
        ))
        .hint(format!(
            "no --type; or --disk with another name for a new disk of type {requested}"
        ))
        .kind(ErrorKind::Usage);
    }
    if let Some(size) = request.size_gb
        && size < disk.size_gb
    {
        return Err(anyhow!(
            "the disk {} has {} GB, and a disk cannot shrink",
            disk.name,
            disk.size_gb
        ))
        .hint(format!("--size={}GB or more", disk.size_gb))
        .kind(ErrorKind::Usage);
    }
    machine_family::check(&shape.machine_type, &disk.disk_type)
}

fn template_and_group(
    plan: &mut Plan,
    name: &str,
    shape: &Shape,
    found: &GcpInventory,
    region: &str,
) {
    let template = shape.template_name(name, region);
    if !found.templates.iter().any(|known| known.name == template) {
        plan.calls.push(shape.template(name, region));
    }
    match &found.group {
        None => plan.calls.push(
            Call::change(
                "make the group, which recreates the VM after a preemption",
                "compute instance-groups managed create",
            )
            .arg(name)
            .flag("zone", &plan.zone)
            .flag("template", &template)
            .flag("base-instance-name", name)
            .flag("size", 0)
            .flag("default-action-on-vm-failure", "repair")
            .switch("force-update-on-repair"),
        ),
        Some(group) if group.template != template => {
            plan.calls.push(
                Call::change(
                    format!("use the new template for the next VM: {}", shape.describe()),
                    "compute instance-groups managed set-instance-template",
                )
                .arg(name)
                .flag("zone", &plan.zone)
                .flag("template", &template),
            );
            if !found.members.is_empty() {
                plan.notes.push(format!(
                    "the running VM is unchanged; the new template is used after the next \
                     preemption, or at once by: \
                     spotkeep gcp preempt --name={name} --yes"
                ));
            }
        }
        Some(_) => {}
    }
}

/// Returns the URL of the data disk for the per-instance configuration.
fn address(project: &str, zone: &str, disk: &str) -> String {
    format!("https://www.googleapis.com/compute/v1/projects/{project}/zones/{zone}/disks/{disk}")
}

/// Plans the VM: makes it, adds its disk, or starts it.
pub fn member(plan: &mut Plan, name: &str, shape: &Shape, found: &GcpInventory) {
    let disk = &shape.disk;
    let kept = format!(
        "device-name={disk},source={},mode=rw,auto-delete=never",
        address(&found.project, &plan.zone, disk)
    );
    let Some(member) = found.members.first() else {
        plan.calls.push(
            Call::change(
                format!("make the VM {} with the data disk {disk}", plan.vm),
                "compute instance-groups managed create-instance",
            )
            .arg(name)
            .flag("zone", &plan.zone)
            .flag("instance", &plan.vm)
            .flag("stateful-disk", kept),
        );
        return;
    };
    if !member
        .disks
        .iter()
        .any(|source| source.ends_with(&format!("/disks/{disk}")))
    {
        plan.calls.push(
            Call::change(
                format!("add the data disk {disk} to the VM's configuration"),
                "compute instance-groups managed instance-configs create",
            )
            .arg(name)
            .flag("zone", &plan.zone)
            .flag("instance", &member.name)
            .flag("stateful-disk", kept),
        );
    }
    if found
        .group
        .as_ref()
        .is_some_and(|group| group.stopped_size > 0)
    {
        plan.calls
            .push(start_member(name, &plan.zone, &member.name));
    }
}

/// Returns the call that starts a stopped member.
#[must_use]
pub fn start_member(group: &str, zone: &str, vm: &str) -> Call {
    Call::change(
        "start the VM",
        "compute instance-groups managed start-instances",
    )
    .arg(group)
    .flag("zone", zone)
    .flag("instances", vm)
}

/// Returns the call that stops a member, which keeps its name and its disk.
#[must_use]
pub fn stop_member(group: &str, zone: &str, vm: &str) -> Call {
    Call::change(
        "stop the VM; the group keeps its name and its disk",
        "compute instance-groups managed stop-instances",
    )
    .arg(group)
    .flag("zone", zone)
    .flag("instances", vm)
}
