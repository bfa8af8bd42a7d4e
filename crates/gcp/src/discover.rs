//! Reads the existing resources of a VM with gcloud. It makes no decisions.

use serde::Serialize;
use serde_json::Value;

use super::LABEL;
use super::gcloud::{Cloud, ask_all, ask_quietly};
use super::gcloud_error::{Fault, Refusal};
use super::queries;
use super::vm_spec::Shape;
use sys::error::{Context as _, ErrorKind, Hint as _, Result, anyhow};
use sys::time::Timestamp;

/// The existing resources of one VM.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GcpInventory {
    /// The major version of gcloud.
    pub gcloud: u32,
    /// The project.
    pub project: String,
    /// The group, in any zone.
    pub group: Option<Group>,
    /// The group's members: none or one, unless a user added some.
    pub members: Vec<Member>,
    /// The templates that were made for the VM.
    pub templates: Vec<Template>,
    /// The disks with the data disk's name or the VM's name.
    pub disks: Vec<Disk>,
    /// Whether the snapshot schedule exists.
    pub schedule: bool,
    /// Whether the zone has the machine type; `None` if it was not read.
    pub has_machine_type: Option<bool>,
}

/// The managed instance group.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// Its zone.
    pub zone: String,
    /// The template that new members are made from.
    pub template: String,
    /// How many members should run.
    pub target_size: u64,
    /// How many members should be stopped.
    pub stopped_size: u64,
}

/// A member of the group.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Member {
    /// The VM's name.
    pub name: String,
    /// The VM's status: `RUNNING`, `TERMINATED` ...; empty if there is no VM.
    pub status: String,
    /// The group's current action: `NONE`, `CREATING`, `RECREATING` ...
    pub action: String,
    /// The code and message of the last failed attempt.
    pub error: Option<(String, String)>,
    /// The sources of the disks in its configuration.
    pub disks: Vec<String>,
}

/// A template.
#[derive(Debug, Clone, PartialEq)]
pub struct Template {
    /// Its name.
    pub name: String,
    /// The specification that it was made from, if spotkeep made it.
    pub shape: Option<Shape>,
}

/// A disk.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Disk {
    /// Its name.
    pub name: String,
    /// Its zone; empty for a disk of a whole region.
    pub zone: String,
    /// Its type.
    #[serde(rename = "type")]
    pub disk_type: String,
    /// Its size in GB.
    pub size_gb: u64,
    /// The VMs that it is attached to.
    pub users: Vec<String>,
    /// Its snapshot schedules.
    pub schedules: Vec<String>,
    /// The VM that it was made for, by its label; empty if spotkeep did not make it.
    #[serde(skip)]
    pub made_for: String,
}

/// Returns the last part of a resource's URL.
#[must_use]
pub fn last(address: &str) -> String {
    address.rsplit('/').next().unwrap_or_default().to_owned()
}

/// Returns a string of an object; empty if there is none.
#[must_use]
pub fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_default().to_owned()
}

/// Returns a number; the API writes 64-bit numbers as strings.
fn number(value: &Value) -> u64 {
    value
        .as_u64()
        .or_else(|| value.as_str()?.parse().ok())
        .unwrap_or_default()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn names(value: &Value) -> Vec<String> {
    list(value)
        .iter()
        .filter_map(Value::as_str)
        .map(last)
        .collect()
}

impl Group {
    fn from_json(value: &Value) -> Self {
        // The template may be in `versions` only.
        let template = match value["instanceTemplate"].as_str() {
            Some(template) => template,
            None => value["versions"][0]["instanceTemplate"]
                .as_str()
                .unwrap_or_default(),
        };
        Self {
            name: text(value, "name"),
            zone: last(&text(value, "zone")),
            template: last(template),
            target_size: number(&value["targetSize"]),
            stopped_size: number(&value["targetStoppedSize"]),
        }
    }
}

impl Member {
    /// Parses the output of `list-instances`.
    #[must_use]
    pub fn from_json(value: &Value) -> Self {
        let kept = [
            &value["preservedStateFromConfig"]["disks"],
            &value["preservedStateFromPolicy"]["disks"],
        ];
        let error = &value["lastAttempt"]["errors"]["errors"][0];
        Self {
            name: last(&text(value, "instance")),
            status: text(value, "instanceStatus"),
            action: text(value, "currentAction"),
            error: error["code"]
                .as_str()
                .map(|code| (code.to_owned(), text(error, "message"))),
            disks: kept
                .into_iter()
                .filter_map(Value::as_object)
                .flat_map(|disks| disks.values())
                .map(|disk| text(disk, "source"))
                .collect(),
        }
    }

    /// Whether the last attempt failed because the zone had no capacity.
    #[must_use]
    pub fn is_dry(&self) -> bool {
        self.error.as_ref().is_some_and(|(code, message)| {
            Fault::from_text(code) == Fault::NoCapacity
                || Fault::from_text(message) == Fault::NoCapacity
        })
    }
}

impl Template {
    /// Whether it was made for the VM of this name.
    fn is_for(value: &Value, name: &str) -> bool {
        value["properties"]["labels"][LABEL] == name
    }

    fn from_json(value: &Value) -> Self {
        let items = list(&value["properties"]["metadata"]["items"]);
        let own = items.iter().find(|item| item["key"] == LABEL);
        Self {
            name: text(value, "name"),
            shape: own
                .and_then(|item| item["value"].as_str())
                .and_then(|text| serde_json::from_str(text).ok()),
        }
    }
}

impl Disk {
    /// Parses the output of `disks list`.
    #[must_use]
    pub fn from_json(value: &Value) -> Self {
        Self {
            name: text(value, "name"),
            zone: last(&text(value, "zone")),
            disk_type: last(&text(value, "type")),
            size_gb: number(&value["sizeGb"]),
            users: names(&value["users"]),
            schedules: names(&value["resourcePolicies"]),
            made_for: text(&value["labels"], LABEL),
        }
    }
}

/// Returns the name of the snapshot schedule.
#[must_use]
pub fn schedule_name(name: &str) -> String {
    format!("{name}-daily")
}

/// Reads gcloud's version, the project, the group and the templates.
///
/// # Errors
/// gcloud is missing, too old, not logged in, without a project, or failed.
pub fn first(cloud: &dyn Cloud, name: &str, project: Option<&str>) -> Result<GcpInventory> {
    let [version, config, group, templates] = ask_all(
        cloud,
        [
            &queries::version(),
            &queries::config(),
            &queries::group(name),
            &queries::templates(name),
        ],
    );
    let version = version.map_err(Refusal::explained)?;
    let gcloud = first_number(&text(&version, "Google Cloud SDK"))
        .context("cannot read gcloud's version")?;
    // The version is checked first, because it explains other errors of an old gcloud.
    if gcloud < super::vm_spec::OLDEST {
        return Err(anyhow!(
            "gcloud {gcloud} is too old: {} or newer is needed",
            super::vm_spec::OLDEST
        ))
        .hint("gcloud components update (or upgrade the package google-cloud-cli)");
    }
    let config = config.map_err(Refusal::explained)?;
    let project = project
        .map(str::to_owned)
        .or_else(|| config["core"]["project"].as_str().map(str::to_owned));
    let Some(project) = project else {
        return Err(anyhow!("gcloud has no project"))
            .hint("gcloud config set project PROJECT, or --project=PROJECT")
            .kind(ErrorKind::Usage);
    };
    let group = group.map_err(Refusal::explained)?;
    let templates = templates.map_err(Refusal::explained)?;
    Ok(GcpInventory {
        gcloud,
        project,
        group: list(&group)
            .iter()
            .map(Group::from_json)
            .find(|group| group.name == name),
        templates: list(&templates)
            .iter()
            .filter(|template| Template::is_for(template, name))
            .map(Template::from_json)
            .collect(),
        ..GcpInventory::default()
    })
}

/// Reads the disks, the snapshot schedule, the machine type and the members, once the disk and the
/// zone are known.
///
/// # Errors
/// gcloud failed.
pub fn second(
    cloud: &dyn Cloud,
    found: &mut GcpInventory,
    name: &str,
    zone: &str,
    disk: &str,
    machine_type: &str,
) -> Result<()> {
    let region = super::vm_spec::region_of(zone)?;
    let schedule = schedule_name(name);
    let [disks, policies, types] = ask_all(
        cloud,
        [
            &queries::disks(&[disk, name]),
            &queries::schedule(&schedule),
            &queries::machine_type(machine_type, zone),
        ],
    );
    let disks = disks.map_err(Refusal::explained)?;
    let policies = policies.map_err(Refusal::explained)?;
    let types = types.map_err(Refusal::explained)?;
    found.disks = list(&disks)
        .iter()
        .map(Disk::from_json)
        .filter(|known| known.name == disk || known.name == name)
        .collect();
    found.schedule = list(&policies)
        .iter()
        .any(|policy| text(policy, "name") == schedule && last(&text(policy, "region")) == region);
    found.has_machine_type = Some(
        list(&types)
            .iter()
            .any(|known| text(known, "name") == machine_type),
    );
    members(cloud, found)
}

/// Reads the group's members.
///
/// # Errors
/// gcloud failed.
pub fn members(cloud: &dyn Cloud, found: &mut GcpInventory) -> Result<()> {
    if let Some(group) = &found.group {
        let question = queries::members(&group.name, &group.zone);
        cloud.show(&format!("$ {question}"));
        let members = ask_quietly(cloud, &question).map_err(Refusal::explained)?;
        found.members = list(&members).iter().map(Member::from_json).collect();
    }
    Ok(())
}

/// Reads the disk with the VM's name, if there is one: the boot disk of a new VM needs that name.
///
/// # Errors
/// gcloud failed.
pub fn disk_with_vm_name(cloud: &dyn Cloud, found: &mut GcpInventory, name: &str) -> Result<()> {
    let question = queries::disks(&[name]);
    cloud.show(&format!("$ {question}"));
    let disks = ask_quietly(cloud, &question).map_err(Refusal::explained)?;
    found.disks = list(&disks)
        .iter()
        .map(Disk::from_json)
        .filter(|disk| disk.name == name)
        .collect();
    Ok(())
}

/// Returns the zones that have a VM of this name.
///
/// # Errors
/// gcloud failed.
pub fn zones_of(cloud: &dyn Cloud, name: &str) -> Result<Vec<String>> {
    let question = queries::instances(name);
    cloud.show(&format!("$ {question}"));
    let instances = ask_quietly(cloud, &question).map_err(Refusal::explained)?;
    Ok(list(&instances)
        .iter()
        .filter(|instance| text(instance, "name") == name)
        .map(|instance| last(&text(instance, "zone")))
        .collect())
}

impl GcpInventory {
    /// Returns the group.
    ///
    /// # Errors
    /// There is no group; the hint says how to make one.
    pub fn need_group(&self, name: &str) -> Result<&Group> {
        let group = self
            .group
            .as_ref()
            .with_context(|| format!("there is no group {name} in the project {}", self.project));
        group.hint(format!(
            "spotkeep gcp create --name={name} --zone=ZONE; or --name with the right name (gcloud \
             compute instance-groups managed list)"
        ))
    }

    /// Returns the specification of the VM, from the template that the group uses.
    #[must_use]
    pub fn shape(&self) -> Option<&Shape> {
        let group = self.group.as_ref()?;
        let template = self
            .templates
            .iter()
            .find(|template| template.name == group.template)?;
        template.shape.as_ref()
    }
}

/// Returns the major version: 528 for `528.0.0`.
fn first_number(version: &str) -> Option<u32> {
    version.split('.').next()?.parse().ok()
}

/// Returns a timestamp in gcloud's output.
#[must_use]
pub fn moment(value: &Value, key: &str) -> Option<Timestamp> {
    Timestamp::parse(value[key].as_str()?)
}
