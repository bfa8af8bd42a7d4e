//! What exists, as gcloud tells it. Nothing is decided here.

use serde::Serialize;
use serde_json::Value;

use super::LABEL;
use super::gcloud::{Cloud, ask_all, ask_quietly};
use super::gcloud_error::{Fault, Refusal};
use super::queries;
use super::vm_spec::Shape;
use sys::error::{Context as _, ErrorKind, Hint as _, Result, anyhow};
use sys::time::Timestamp;

/// Everything of one VM.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GcpInventory {
    /// The first number of gcloud's version.
    pub gcloud: u32,
    /// The project.
    pub project: String,
    /// The group, wherever it is.
    pub group: Option<Group>,
    /// Its members: none or one, if nobody meddled.
    pub members: Vec<Member>,
    /// Our templates.
    pub templates: Vec<Template>,
    /// All disks of the project that matter here: of the data disk's name, or of the VM's.
    pub disks: Vec<Disk>,
    /// The snapshot schedule.
    pub schedule: bool,
    /// Whether the zone has the machine type; `None`: nobody asked.
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
    /// `RUNNING`, `TERMINATED` ...; empty where there is no VM just now.
    pub status: String,
    /// What the group does with it: `NONE`, `CREATING`, `RECREATING` ...
    pub action: String,
    /// Why the last try failed.
    pub error: Option<(String, String)>,
    /// The sources of the disks that are kept for it.
    pub disks: Vec<String>,
}

/// A template.
#[derive(Debug, Clone, PartialEq)]
pub struct Template {
    /// Its name.
    pub name: String,
    /// What it was made of, if we made it.
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
    /// The VM that it was made for, by its label; empty for a disk that was there before.
    #[serde(skip)]
    pub made_for: String,
}

/// The last part of a resource's address.
#[must_use]
pub fn last(address: &str) -> String {
    address.rsplit('/').next().unwrap_or_default().to_owned()
}

/// A text of an object; empty where there is none.
#[must_use]
pub fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_default().to_owned()
}

/// A number, which the API writes as a text where it has 64 bits.
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
    /// Out of `list-instances`.
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

    /// Whether the last try failed since the zone had nothing to give.
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
    /// Out of `disks list`.
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

/// The snapshot schedule's name.
#[must_use]
pub fn schedule_name(name: &str) -> String {
    format!("{name}-daily")
}

/// The first look: gcloud, the project, the group, the templates.
///
/// # Errors
/// gcloud is missing or too old, nobody is logged in, no project; or it refused.
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
        .context("gcloud does not say its version")?;
    // What an old gcloud refuses is explained by its age, so this comes before its other answers.
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

/// The second look, once it is known which disk and which zone are meant.
///
/// # Errors
/// gcloud refused.
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

/// Looks at the group's members.
///
/// # Errors
/// gcloud refused.
pub fn members(cloud: &dyn Cloud, found: &mut GcpInventory) -> Result<()> {
    if let Some(group) = &found.group {
        let question = queries::members(&group.name, &group.zone);
        cloud.show(&format!("$ {question}"));
        let members = ask_quietly(cloud, &question).map_err(Refusal::explained)?;
        found.members = list(&members).iter().map(Member::from_json).collect();
    }
    Ok(())
}

/// Looks for a disk that has the VM's own name: the boot disk of a VM that is made needs that name for itself.
///
/// # Errors
/// gcloud refused.
pub fn in_the_way(cloud: &dyn Cloud, found: &mut GcpInventory, name: &str) -> Result<()> {
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

/// The zones that have a VM of this name.
///
/// # Errors
/// gcloud refused.
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
    /// The group, or what to do about it that there is none.
    ///
    /// # Errors
    /// There is none.
    pub fn need_group(&self, name: &str) -> Result<&Group> {
        let group = self
            .group
            .as_ref()
            .with_context(|| format!("there is no group {name} in the project {}", self.project));
        group.hint(format!(
            "spotkeep gcp create --name={name} --zone=ZONE; or --name with the right name (gcloud compute instance-groups managed list)"
        ))
    }

    /// What the VM is: the shape of the template that the group uses.
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

/// `528.0.0` is 528.
fn first_number(version: &str) -> Option<u32> {
    version.split('.').next()?.parse().ok()
}

/// A moment in one of gcloud's answers.
#[must_use]
pub fn moment(value: &Value, key: &str) -> Option<Timestamp> {
    Timestamp::parse(value[key].as_str()?)
}
