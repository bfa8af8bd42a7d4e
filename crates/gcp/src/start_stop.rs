//! `gcp stop` and `gcp start`, by the group's `stop-instances` and `start-instances`.
//!
//! A group that is resized to 0 deletes its member, and with it the per-instance configuration that
//! has the data disk. After `instances stop`, the group takes the stop for a failure and starts the
//! VM again. `stop-instances` lowers the target size and raises the target stopped size: the member
//! stays, with its name, its disks and its configuration, until `start-instances`.
//!
//! A member without a machine (the zone has no capacity) cannot be stopped. It is deleted from the
//! group instead; the disk stays (`auto-delete=never`), and `start` makes the same member again.

use std::time::Duration;

use super::create::{self, CreateResult, wait_running};
use super::discover::{self, GcpInventory, Member};
use super::gcloud::{Cloud, ask_quietly, make};
use super::gcloud_command::Call;
use super::plan::{self, Plan};
use super::queries;
use super::ssh::{self, Guest};
use sys::error::{Context as _, ErrorKind, Hint as _, Result, anyhow};
use sys::time::short;

/// Reads the group and its member.
///
/// # Errors
/// There is no such group; gcloud refused.
pub fn discover_vm(cloud: &dyn Cloud, name: &str, project: Option<&str>) -> Result<GcpInventory> {
    let mut found = discover::first(cloud, name, project)?;
    found.need_group(name)?;
    discover::members(cloud, &mut found)?;
    if found.members.is_empty() {
        discover::disk_with_vm_name(cloud, &mut found, name)?;
    }
    Ok(found)
}

/// Returns how to reach the VM.
///
/// # Errors
/// The group has no VM.
pub fn guest(found: &GcpInventory, name: &str) -> Result<Guest> {
    let group = found.need_group(name)?;
    let member = found
        .members
        .first()
        .with_context(|| format!("the group {name} has no VM"))
        .hint(format!("spotkeep gcp start --name={name}"))?;
    Ok(Guest {
        vm: member.name.clone(),
        zone: group.zone.clone(),
        tunnel: found.shape().is_some_and(|shape| !shape.address),
    })
}

/// Returns how to reach the VM, if it runs.
///
/// # Errors
/// It does not run; the hint says how to start it.
pub fn running_guest(found: &GcpInventory, name: &str) -> Result<Guest> {
    let guest = guest(found, name)?;
    let member = found.members.first();
    if member.is_some_and(|member| member.status == "RUNNING") {
        return Ok(guest);
    }
    if found.need_group(name)?.stopped_size > 0 {
        return Err(anyhow!("{name} is stopped"))
            .hint(format!("spotkeep gcp start --name={name}"))
            .kind(ErrorKind::NotAsDeclared);
    }
    let state = member.map(create::progress).unwrap_or_default();
    Err(anyhow!("{name} does not run: {state}"))
        .hint(format!("spotkeep gcp status --name={name}"))
        .kind(ErrorKind::NotAsDeclared)
}

/// Returns the call that stops the VM; `None` if it does not run.
///
/// # Errors
/// There is no such group.
pub fn plan_stop(found: &GcpInventory, name: &str) -> Result<Option<Call>> {
    let group = found.need_group(name)?;
    let Some(member) = found.members.first() else {
        return Ok(None);
    };
    if group.stopped_size > 0 {
        return Ok(None);
    }
    if member.status == "RUNNING" {
        return Ok(Some(plan::stop_member(name, &group.zone, &member.name)));
    }
    let call = Call::change(
        "stop trying to create the VM; the disk stays",
        "compute instance-groups managed delete-instances",
    );
    Ok(Some(
        call.arg(name)
            .flag("zone", &group.zone)
            .flag("instances", &member.name),
    ))
}

/// Returns the calls that start the VM.
///
/// # Errors
/// There is no such group, or spotkeep did not make it.
pub fn plan_start(found: &GcpInventory, name: &str) -> Result<Plan> {
    let group = found.need_group(name)?;
    let shape = found
        .shape()
        .with_context(|| format!("the group {name} exists, and spotkeep did not make it"))?;
    let mut plan = Plan {
        zone: group.zone.clone(),
        vm: plan::vm_name(name, found, &group.zone),
        ..Plan::default()
    };
    plan::member(&mut plan, name, shape, found);
    Ok(plan)
}

/// Stops the VM, and waits until it has ended.
///
/// # Errors
/// gcloud refused; or it does not end within `timeout`.
pub fn stop(
    cloud: &dyn Cloud,
    found: &GcpInventory,
    name: &str,
    timeout: Duration,
) -> Result<String> {
    let zone = &found.need_group(name)?.zone;
    match plan_stop(found, name)? {
        Some(call) => {
            make(cloud, &call)?;
        }
        None if found.members.first().is_none_or(has_ended) => {
            return Ok(format!("{name} is stopped already"));
        }
        // An earlier stop is in progress.
        None => {}
    }
    let question = queries::members(name, zone);
    cloud.show(&format!("$ {question}   (again until it has ended)"));
    let began = cloud.now();
    loop {
        let answer = ask_quietly(cloud, &question);
        let status = match &answer {
            Ok(list) => {
                let member = list.as_array().and_then(|list| list.first());
                let member = member.map(Member::from_json);
                if member.as_ref().is_none_or(has_ended) {
                    return Ok(format!("{name} is stopped; only its disks are paid for"));
                }
                member.map(|member| member.status).unwrap_or_default()
            }
            Err(refusal) => refusal.text.clone(),
        };
        let waited = cloud.now().since(began);
        if waited >= timeout {
            return Err(anyhow!(
                "{name} has not ended after {}: {status}",
                short(waited)
            ))
            .hint(format!("spotkeep gcp status --name={name}"))
            .kind(ErrorKind::NotAsDeclared);
        }
        cloud.pause(Duration::from_secs(3));
    }
}

/// Whether the member has no machine that runs.
fn has_ended(member: &Member) -> bool {
    matches!(member.status.as_str(), "" | "TERMINATED" | "STOPPED")
}

/// Starts the VM, waits for it, and reads the status of its agents.
///
/// # Errors
/// gcloud failed; the zone has no capacity; the VM does not answer.
pub fn start(
    cloud: &dyn Cloud,
    found: &GcpInventory,
    name: &str,
    timeout: Duration,
) -> Result<CreateResult> {
    let plan = plan_start(found, name)?;
    for call in &plan.calls {
        make(cloud, call)?;
    }
    let member = wait_running(cloud, name, &plan.zone, timeout)?;
    let guest = Guest {
        vm: member.name,
        zone: plan.zone.clone(),
        tunnel: found.shape().is_some_and(|shape| !shape.address),
    };
    let report = guest.wait_started(cloud, timeout)?;
    let (said, hint) = ssh::describe(&report, name);
    Ok(CreateResult { said, hint })
}
