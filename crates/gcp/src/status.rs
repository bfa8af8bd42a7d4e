//! `gcp status`: the state of the VM by gcloud, and of its agents by ssh if it answers.

use serde::Serialize;
use serde_json::Value;

use super::discover::{self, Disk, GcpInventory, Member, moment, text};
use super::gcloud::{Cloud, ask_all};
use super::gcloud_error::{Fault, Refusal};
use super::queries;
use super::ssh::{self, Guest};
use super::start_stop;
use state::VERSION;
use sys::error::Result;
use sys::time::{Timestamp, short};

/// The state of a VM.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The version of this format.
    pub version: u32,
    /// The VM's name, and the group's.
    pub name: String,
    /// The project.
    pub project: String,
    /// The zone.
    pub zone: String,
    /// `running`, `stopped` (by the user), `preempted`, `no-capacity`, `coming`, `absent`.
    pub state: &'static str,
    /// Compute Engine's status of the machine; null if there is no machine.
    pub vm_status: Option<String>,
    /// The machine type.
    pub machine_type: Option<String>,
    /// The seconds of notice before the shutdown; null if unknown.
    pub notice_seconds: Option<u64>,
    /// The group's current action.
    pub group_action: Option<String>,
    /// The error of the group's last failed attempt.
    pub last_error: Option<String>,
    /// Since when the zone has had no capacity; null if it has.
    pub no_capacity_since: Option<Timestamp>,
    /// The last preemptions, the newest first.
    pub preemptions: Vec<Timestamp>,
    /// When the machine was last started.
    pub started_at: Option<Timestamp>,
    /// The data disk.
    pub disk: Option<Disk>,
    /// The state of the agents, in one line; null if the VM was not asked or did not answer.
    pub agents: Option<String>,
}

/// Reads the state with gcloud, and from the VM with `ask_vm`.
///
/// # Errors
/// There is no such group, or gcloud failed.
pub fn gather(
    cloud: &dyn Cloud,
    name: &str,
    project: Option<&str>,
    ask_vm: bool,
) -> Result<Report> {
    let found = start_stop::discover_vm(cloud, name, project)?;
    let zone = found.need_group(name)?.zone.clone();
    let vm = found.members.first().map_or(name, |member| &member.name);
    let disk_name = found
        .shape()
        .map(|shape| shape.disk.clone())
        .unwrap_or_default();
    let [instance, errors, preemptions, disks] = ask_all(
        cloud,
        [
            &queries::instance(vm, &zone),
            &queries::errors(name, &zone),
            &queries::preemptions(vm, &zone),
            &queries::disks(&[&disk_name]),
        ],
    );
    let instance = match instance {
        Ok(instance) => Some(instance),
        Err(refusal) if refusal.fault == Fault::NotFound => None,
        Err(refusal) => return Err(refusal.explained()),
    };
    let errors = errors.map_err(Refusal::explained)?;
    let preemptions = preemptions.map_err(Refusal::explained)?;
    let disks = disks.map_err(Refusal::explained)?;
    let mut report = evaluate(name, &found, instance.as_ref(), &errors, &preemptions);
    report.disk = disks
        .as_array()
        .into_iter()
        .flatten()
        .map(Disk::from_json)
        .find(|disk| disk.name == disk_name && disk.zone == zone);
    if ask_vm && report.state == "running" {
        report.agents = Some(agents(cloud, &start_stop::guest(&found, name)?, name));
    }
    Ok(report)
}

fn agents(cloud: &dyn Cloud, guest: &Guest, name: &str) -> String {
    cloud.show(&format!("$ {}", guest.report_call(1)));
    match guest.probe(cloud, 1) {
        Ok(report) => ssh::describe(&report, name).0,
        Err(refusal) => format!("it does not answer: {}", refusal.text),
    }
}

/// Makes the report from gcloud's answers. Pure.
#[must_use]
pub fn evaluate(
    name: &str,
    found: &GcpInventory,
    instance: Option<&Value>,
    errors: &Value,
    preemptions: &Value,
) -> Report {
    let member = found.members.first();
    let group = found.group.as_ref();
    let vm = member.map_or(name, |member| &member.name);
    let mut preemptions: Vec<Timestamp> = preemptions
        .as_array()
        .into_iter()
        .flatten()
        .filter(|operation| {
            text(operation, "operationType") == "compute.instances.preempted"
                && discover::last(&text(operation, "targetLink")) == vm
        })
        .filter_map(|operation| moment(operation, "insertTime"))
        .collect();
    preemptions.sort_by(|one, other| other.cmp(one));
    let vm_status = instance
        .map(|instance| text(instance, "status"))
        .filter(|status| !status.is_empty());
    let runs = vm_status.as_deref() == Some("RUNNING");
    let stopped = group.is_some_and(|group| group.stopped_size > 0);
    let started_at = instance.and_then(|instance| moment(instance, "lastStartTimestamp"));
    let dry = member.is_some_and(Member::is_dry);
    let no_capacity_since = if runs || stopped {
        None
    } else {
        dry_since(errors, started_at.max(preemptions.first().copied()))
    };
    let state = match (runs, stopped, member) {
        (true, _, _) => "running",
        (_, true, _) => "stopped",
        (_, _, None) => "absent",
        _ if dry || no_capacity_since.is_some() => "no-capacity",
        _ if vm_status.as_deref() == Some("TERMINATED") => "preempted",
        _ => "coming",
    };
    let shape = found.shape();
    let notice = instance
        .and_then(|instance| {
            let seconds = &instance["scheduling"]["preemptionNoticeDuration"]["seconds"];
            seconds.as_u64().or_else(|| seconds.as_str()?.parse().ok())
        })
        // Older versions of gcloud do not print that field; the VM's metadata has it too.
        .or_else(|| declared_notice(instance?));
    Report {
        version: VERSION,
        name: name.to_owned(),
        project: found.project.clone(),
        zone: group.map(|group| group.zone.clone()).unwrap_or_default(),
        state,
        machine_type: instance
            .map(|instance| discover::last(&text(instance, "machineType")))
            .or_else(|| shape.map(|shape| shape.machine_type.clone())),
        notice_seconds: notice,
        group_action: member.map(|member| member.action.clone()),
        last_error: member
            .and_then(|member| member.error.as_ref())
            .map(|(code, message)| format!("{code}: {message}")),
        no_capacity_since,
        preemptions,
        started_at,
        disk: None,
        agents: None,
        vm_status,
    }
}

/// Returns `spotkeep-notice` in the VM's metadata: the notice that it was made with.
fn declared_notice(instance: &Value) -> Option<u64> {
    let items = instance["metadata"]["items"].as_array()?;
    let item = items.iter().find(|item| item["key"] == "spotkeep-notice")?;
    item["value"].as_str()?.strip_suffix('s')?.parse().ok()
}

/// Returns the time of the first capacity error after `after`. If the list of errors is full, it
/// lacks older ones: then the zone has had no capacity since `after`, when the machine last
/// existed.
fn dry_since(errors: &Value, after: Option<Timestamp>) -> Option<Timestamp> {
    let is_full = errors
        .as_array()
        .is_some_and(|errors| errors.len() >= queries::ERRORS);
    let first = errors
        .as_array()
        .into_iter()
        .flatten()
        .filter(|error| {
            Fault::from_text(&text(&error["error"], "code")) == Fault::NoCapacity
                || Fault::from_text(&text(&error["error"], "message")) == Fault::NoCapacity
        })
        .filter_map(|error| moment(error, "timestamp"))
        .filter(|at| after.is_none_or(|after| *at >= after))
        .min()?;
    Some(after.filter(|_| is_full).unwrap_or(first))
}

impl Report {
    /// Returns the report as lines of text.
    #[must_use]
    pub fn lines(&self, now: Timestamp) -> Vec<String> {
        let mut lines = Vec::new();
        let mut say = |what: &str, text: String| lines.push(format!("{what:<12}{text}"));
        let ago = |at: Timestamp| format!("{} ({} ago)", at.for_people(), short(now.since(at)));
        let since = self.started_at.filter(|_| self.state == "running");
        let state = match (self.state, since) {
            ("running", Some(at)) => format!("running for {}", short(now.since(at))),
            ("stopped", _) => "stopped by the user; to start it: spotkeep gcp start".to_owned(),
            ("preempted", _) => "preempted; the group recreates it".to_owned(),
            ("no-capacity", _) => {
                "the zone has no capacity for the machine type; the group goes on trying".to_owned()
            }
            ("absent", _) => "not created; to create it: spotkeep gcp start".to_owned(),
            ("coming", _) => format!(
                "not up yet: the group is {}",
                self.group_action.as_deref().unwrap_or("busy")
            ),
            (state, _) => state.to_owned(),
        };
        say(
            "vm",
            format!("{} in {} ({}): {state}", self.name, self.zone, self.project),
        );
        if let Some(machine) = &self.machine_type {
            let notice = match self.notice_seconds {
                Some(0) => ", no notice before the shutdown".to_owned(),
                Some(seconds) => format!(", {seconds} s of notice"),
                None => String::new(),
            };
            say("machine", format!("{machine}, Spot{notice}"));
        }
        if let Some(since) = self.no_capacity_since {
            say("no capacity", format!("since {}", ago(since)));
        }
        if let Some(error) = &self.last_error {
            say("last error", error.clone());
        }
        match &self.preemptions[..] {
            [] => say(
                "preempted",
                "not in Compute Engine's list of operations".to_owned(),
            ),
            all => all.iter().for_each(|at| say("preempted", ago(*at))),
        }
        match &self.disk {
            Some(disk) => say(
                "disk",
                format!(
                    "{}, {} GB {}{}{}",
                    disk.name,
                    disk.size_gb,
                    disk.disk_type,
                    match &disk.users[..] {
                        [] => ", not attached".to_owned(),
                        users => format!(", attached to {}", users.join(", ")),
                    },
                    match &disk.schedules[..] {
                        [] => ", no snapshots".to_owned(),
                        all => format!(", snapshots by {}", all.join(", ")),
                    }
                ),
            ),
            None => say("disk", "the data disk does not exist".to_owned()),
        }
        if let Some(agents) = &self.agents {
            say("agents", agents.clone());
        }
        lines
    }
}
