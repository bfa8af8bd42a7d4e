//! `gcp adopt VM`: replaces a VM with a data disk by one that a managed instance group recreates.
//!
//! A group cannot take over an existing VM. So the VM is stopped, and deleted with **all its disks
//! kept**; then the group makes a VM with the data disk. The old boot disk stays as it is, with its
//! name, so the new VM may need another name.

use serde_json::Value;

use super::create::{Options, Prepared};
use super::discover::{self, GcpInventory, last, text};
use super::gcloud::{Cloud, ask_quietly};
use super::gcloud_command::Call;
use super::gcloud_error::{Fault, Refusal};
use super::plan::{self, Plan};
use super::queries;
use super::vm_spec::{Shape, check_name};
use sys::error::{ErrorKind, Hint as _, Result, anyhow};

/// An existing VM that was not made by spotkeep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Old {
    /// Its name.
    pub name: String,
    /// Its machine type.
    pub machine_type: String,
    /// Its data disks: all attached disks but the boot disk.
    pub data: Vec<String>,
    /// The group or cluster that manages it, if any.
    pub made_by: Option<String>,
    /// Whether it runs.
    pub runs: bool,
    /// Whether Compute Engine refuses to delete it.
    pub protected: bool,
}

impl Old {
    /// Parses the output of `instances describe`.
    #[must_use]
    pub fn from_instance(instance: &Value) -> Self {
        let disks = instance["disks"].as_array().map_or(&[][..], Vec::as_slice);
        let items = &instance["metadata"]["items"];
        let created_by = items
            .as_array()
            .into_iter()
            .flatten()
            .find(|item| item["key"] == "created-by");
        Self {
            name: text(instance, "name"),
            machine_type: last(&text(instance, "machineType")),
            data: disks
                .iter()
                .filter(|disk| disk["boot"] != true)
                .map(|disk| last(&text(disk, "source")))
                .filter(|source| !source.is_empty())
                .collect(),
            made_by: created_by.map(|item| last(&text(item, "value"))),
            runs: text(instance, "status") == "RUNNING",
            protected: instance["deletionProtection"] == true,
        }
    }

    /// Returns the data disk to use.
    fn disk(&self, asked: Option<&str>) -> Result<String> {
        match (asked, &self.data[..]) {
            (Some(asked), all) if all.iter().any(|disk| disk == asked) => Ok(asked.to_owned()),
            (None, [only]) => Ok(only.clone()),
            (_, []) => Err(anyhow!("{} has no disk but its boot disk", self.name))
                .hint(format!(
                    "spotkeep gcp create --name=NEW --zone=ZONE, then copy the agents' work there: \
                     gcloud compute scp --recurse {}:... NEW:...",
                    self.name
                ))
                .kind(ErrorKind::Usage),
            (_, all) => Err(anyhow!(
                "{} has the data disks {}",
                self.name,
                all.join(", ")
            ))
            .hint(format!(
                "--disk={}, if that is the one with the agents",
                all[0]
            ))
            .kind(ErrorKind::Usage),
        }
    }
}

/// Reads the VM, and plans.
///
/// # Errors
/// The VM cannot be adopted; the hint has an alternative.
pub fn prepare(cloud: &dyn Cloud, options: &Options) -> Result<Prepared> {
    let name = &options.request.name;
    check_name("VM", name)?;
    if let Some(zone) = &options.request.zone {
        super::vm_spec::region_of(zone)?;
    }
    let mut found = discover::first(cloud, name, options.project.as_deref())?;
    let zone = match &options.request.zone {
        Some(zone) => zone.clone(),
        None => zone_of(name, &found, discover::zones_of(cloud, name)?)?,
    };
    let question = queries::instance(name, &zone);
    cloud.show(&format!("$ {question}"));
    let old = match ask_quietly(cloud, &question) {
        Ok(instance) => Old::from_instance(&instance),
        Err(refusal) if refusal.fault == Fault::NotFound => {
            return Err(refusal.explained()).hint(gone(name, &zone, &found));
        }
        Err(refusal) => return Err(Refusal::explained(refusal)),
    };
    if let Some(group) = &old.made_by {
        return Err(anyhow!("{name} belongs to the group {group} already"))
            .hint(format!("spotkeep gcp status --name={group}"))
            .kind(ErrorKind::Usage);
    }
    if old.protected {
        return Err(anyhow!("{name} has deletion protection")).hint(format!(
            "gcloud compute instances update {name} --zone={zone} --no-deletion-protection, if it \
             may be deleted; its disks are kept"
        ));
    }
    let mut request = options.request.clone();
    request.disk = Some(old.disk(request.disk.as_deref())?);
    request.machine_type = request
        .machine_type
        .or_else(|| Some(old.machine_type.clone()));
    let shape = Shape::resolve(&request, found.shape(), found.gcloud)?;
    discover::second(
        cloud,
        &mut found,
        name,
        &zone,
        &shape.disk,
        &shape.machine_type,
    )?;
    let plan = plan(&request, &shape, found.clone(), &old, &zone)?;
    Ok(Prepared { plan, shape, found })
}

/// Returns the only zone that has a VM of this name.
fn zone_of(name: &str, found: &GcpInventory, zones: Vec<String>) -> Result<String> {
    match <[String; 1]>::try_from(zones) {
        Ok([zone]) => Ok(zone),
        Err(none) if none.is_empty() => {
            let zone = found
                .group
                .as_ref()
                .map_or("ZONE", |group| group.zone.as_str());
            Err(anyhow!(
                "there is no VM {name} in the project {}",
                found.project
            ))
            .hint(gone(name, zone, found))
            .kind(ErrorKind::Usage)
        }
        Err(several) => Err(anyhow!(
            "there are several VMs {name}: in {}",
            several.join(", ")
        ))
        .hint(format!("--zone={}, if that one is meant", several[0]))
        .kind(ErrorKind::Usage),
    }
}

/// Returns the hint for a missing VM. The group of an interrupted `adopt` has the name of the disk.
fn gone(name: &str, zone: &str, found: &GcpInventory) -> String {
    let disk = found.shape().map_or("DISK", |shape| shape.disk.as_str());
    format!(
        "gcloud compute instances list; if the VM is deleted already, make a new one for its disk: \
         spotkeep gcp create --name={name} --zone={zone} --disk={disk}"
    )
}

/// Plans the calls. All that can fail for lack of permissions or quota comes before the old VM is
/// stopped.
fn plan(
    request: &super::vm_spec::VmRequest,
    shape: &Shape,
    mut found: GcpInventory,
    old: &Old,
    zone: &str,
) -> Result<Plan> {
    // The disks that are attached to the old VM will be free.
    for disk in &mut found.disks {
        disk.users.retain(|user| *user != old.name);
    }
    let mut plan = plan::create(request, shape, &found, zone)?;
    if let Some(member) = found.members.first() {
        return Err(anyhow!(
            "the group {} has the VM {} already",
            request.name,
            member.name
        ))
        .hint(format!("spotkeep gcp status --name={}", request.name));
    }
    // The last call makes the VM; the old one has to be deleted before.
    let make_vm = plan.calls.pop();
    if old.runs {
        plan.calls.push(
            Call::change(
                format!("stop {}; agents that run there are ended", old.name),
                "compute instances stop",
            )
            .arg(&old.name)
            .flag("zone", zone),
        );
    }
    plan.calls.push(
        Call::change(
            format!("delete the VM {}, and none of its disks", old.name),
            "compute instances delete",
        )
        .arg(&old.name)
        .flag("zone", zone)
        .flag("keep-disks", "all"),
    );
    plan.calls.extend(make_vm);
    plan.notes.push(format!(
        "the boot disk of the old VM stays, with all that was installed there; \
         to delete it: gcloud compute disks delete {} --zone={zone}",
        old.name
    ));
    if plan.vm != old.name {
        plan.notes.push(format!("the new VM is called {}", plan.vm));
    }
    Ok(plan)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use sys::error::hint_of;

    fn old(data: &[&str]) -> Old {
        let mut disks = vec![json!({"boot": true, "source": "x/disks/vm"})];
        disks.extend(
            data.iter()
                .map(|name| json!({"boot": false, "source": format!("x/disks/{name}")})),
        );
        Old::from_instance(&json!({
            "name": "vm", "status": "RUNNING", "machineType": "x/machineTypes/n2-standard-4",
            "disks": disks,
        }))
    }

    #[test]
    fn the_data_disk_is_the_one_that_is_not_the_boot_disk() {
        assert_eq!(
            old(&["claude-persist"]).disk(None).unwrap(),
            "claude-persist"
        );
        assert_eq!(old(&["a", "b"]).disk(Some("b")).unwrap(), "b");
        let error = old(&["a", "b"]).disk(None).unwrap_err();
        assert!(hint_of(&error).unwrap().contains("--disk=a"));
        let error = old(&[]).disk(Some("a")).unwrap_err();
        assert!(hint_of(&error).unwrap().contains("spotkeep gcp create"));
    }
}
