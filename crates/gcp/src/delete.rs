//! `gcp delete`: deletes what `create` made; the data disk only if its name is given.

use super::discover::{self, GcpInventory, schedule_name};
use super::gcloud::{Cloud, make};
use super::gcloud_command::Call;
use super::plan::{self, Plan};
use super::vm_spec::{VmRequest, check_name, region_of};
use sys::error::{ErrorKind, Hint as _, Result, anyhow, bail};

/// Reads what exists, and plans.
///
/// # Errors
/// The given disk is not the data disk; the zone is unknown; gcloud failed.
pub fn prepare(
    cloud: &dyn Cloud,
    request: &VmRequest,
    and_data: Option<&str>,
    project: Option<&str>,
) -> Result<Plan> {
    check_name("VM", &request.name)?;
    let mut found = discover::first(cloud, &request.name, project)?;
    let shape = found
        .shape()
        .or_else(|| {
            found
                .templates
                .iter()
                .find_map(|known| known.shape.as_ref())
        })
        .cloned();
    let own = shape.as_ref().map(|shape| shape.disk.clone());
    if let (Some(own), Some(asked)) = (&own, &request.disk)
        && own != asked
    {
        return Err(anyhow!(
            "the data disk of {} is {own}, not {asked}: nothing is deleted",
            request.name
        ))
        .hint("no --disk: it is only for a disk that is left without a group and templates")
        .kind(ErrorKind::Usage);
    }
    let is_known = own.is_some() || request.disk.is_some();
    let disk = own
        .or_else(|| request.disk.clone())
        .or_else(|| and_data.map(str::to_owned));
    if found.group.is_none() && request.zone.is_none() {
        // An interrupted delete: the group is deleted, so its zone is unknown.
        return Err(anyhow!("there is no group {}", request.name))
            .hint(format!(
                "to delete what is left of it: spotkeep gcp delete --name={} --zone=ZONE \
                 --disk=DISK",
                request.name
            ))
            .kind(ErrorKind::Usage);
    }
    let zone = plan::zone_of(request, &found)?;
    let disk = disk.unwrap_or_else(|| "claude-persist".to_owned());
    let machine = shape.map_or_else(|| "e2-standard-4".to_owned(), |shape| shape.machine_type);
    discover::second(cloud, &mut found, &request.name, &zone, &disk, &machine)?;
    if and_data.is_some() && !is_known {
        check_disk_label(request, &found, &disk, &zone)?;
    }
    plan(request, and_data, &found, &disk, &zone)
}

/// Checks the label of the disk, which is the only information if the group and templates are
/// deleted.
fn check_disk_label(
    request: &VmRequest,
    found: &GcpInventory,
    disk: &str,
    zone: &str,
) -> Result<()> {
    let known = found
        .disks
        .iter()
        .find(|known| known.name == disk && known.zone == zone);
    if known.is_some_and(|known| known.made_for != request.name) {
        return Err(anyhow!(
            "{disk} has no label that it was the data disk of {}: nothing is deleted",
            request.name
        ))
        .hint(format!(
            "--disk={disk} --and-data={disk}, if its data is no longer needed"
        ))
        .kind(ErrorKind::Usage);
    }
    Ok(())
}

/// Makes the calls.
///
/// # Errors
/// gcloud failed; the next attempt does not repeat what is done.
pub fn run(cloud: &dyn Cloud, plan: &Plan) -> Result<()> {
    for call in &plan.calls {
        make(cloud, call)?;
    }
    Ok(())
}

/// Plans the calls that delete what `create` made, and the data disk if its name is given.
///
/// # Errors
/// Another disk is given, or spotkeep did not make the group.
fn plan(
    request: &VmRequest,
    and_data: Option<&str>,
    found: &GcpInventory,
    disk: &str,
    zone: &str,
) -> Result<Plan> {
    plan::foreign_group(request, found)?;
    if let Some(typed) = and_data
        && typed != disk
    {
        return Err(anyhow!(
            "the data disk is {disk}, not {typed}: nothing is deleted"
        ))
        .hint(format!(
            "--and-data={disk}, if its data is no longer needed"
        ))
        .kind(ErrorKind::Usage);
    }
    let name = &request.name;
    let region = region_of(zone)?;
    let mut plan = Plan {
        zone: zone.to_owned(),
        vm: plan::vm_name(name, found, zone),
        ..Plan::default()
    };
    if found.group.is_some() {
        plan.calls.push(
            Call::change(
                "delete the group and the VM, which saves its fleet as in any shutdown",
                "compute instance-groups managed delete",
            )
            .arg(name)
            .flag("zone", zone),
        );
    }
    for template in &found.templates {
        plan.calls.push(
            Call::change("delete its template", "compute instance-templates delete")
                .arg(&template.name),
        );
    }
    let data = found
        .disks
        .iter()
        .find(|known| known.name == disk && known.zone == zone);
    let schedule = schedule_name(name);
    if let Some(data) = data {
        if let Some(user) = data.users.iter().find(|user| **user != plan.vm)
            && and_data.is_some()
        {
            bail!("the disk {disk} is attached to the VM {user}: nothing is deleted");
        }
        if data.schedules.contains(&schedule) {
            plan.calls.push(
                Call::change(
                    "remove the snapshot schedule from the data disk",
                    "compute disks remove-resource-policies",
                )
                .arg(disk)
                .flag("zone", zone)
                .flag("resource-policies", &schedule),
            );
        }
    }
    if found.schedule {
        plan.calls.push(
            Call::change(
                "delete the snapshot schedule; snapshots stay",
                "compute resource-policies delete",
            )
            .arg(&schedule)
            .flag("region", region),
        );
    }
    match (data, and_data) {
        (Some(_), Some(_)) => plan.calls.push(
            Call::change(
                format!("delete the data disk {disk} permanently"),
                "compute disks delete",
            )
            .arg(disk)
            .flag("zone", zone),
        ),
        (Some(data), None) => plan.notes.push(format!(
            "the data disk {disk} ({} GB, {zone}) stays, and costs money; to delete it too: \
             --and-data={disk}",
            data.size_gb
        )),
        (None, _) => {}
    }
    Ok(plan)
}
