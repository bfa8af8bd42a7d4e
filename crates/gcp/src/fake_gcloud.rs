//! A fake gcloud in memory for tests of whole verbs, with a fault at any call.
//!
//! It accepts only flags of the real gcloud (528.0.0), which are listed by command in
//! `testdata/gcloud-528-flags.txt`. Tests with the real gcloud are in `tests/it/gcp/`.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use serde_json::{Value, json};

use super::gcloud::Cloud;
use super::gcloud_command::{Call, Effect};
use super::gcloud_error::{Fault, Refusal};
use sys::time::Timestamp;

const FLAGS: &str = include_str!("testdata/gcloud-528-flags.txt");
/// A flag that exists since 586.
const NEWER: &str = "--preemption-notice-duration";
/// The flags of every command.
const WIDE: [&str; 2] = ["--format", "--project"];

pub const PROJECT: &str = "p";
pub const ZONE: &str = "europe-north1-b";

/// The existing resources.
#[derive(Debug, Clone, PartialEq)]
pub struct World {
    pub gcloud: u32,
    pub project: Option<&'static str>,
    pub disks: BTreeMap<String, Value>,
    pub templates: BTreeMap<String, Value>,
    pub instances: BTreeMap<String, Value>,
    pub schedules: Vec<String>,
    pub group: Option<Value>,
    pub member: Option<Value>,
    /// Machine types that the zone has.
    pub types: Vec<String>,
    /// Whether the zone has no capacity.
    pub dry: bool,
    /// Whether the zone has no capacity after the VM is preempted.
    pub gone_when_preempted: bool,
}

#[derive(Debug)]
pub struct FakeGcloud {
    pub world: Mutex<World>,
    /// The commands of all changes.
    pub changes: Mutex<Vec<String>>,
    /// The number of the change that fails, and its error text.
    pub fail_at: Mutex<Option<(usize, &'static str)>>,
    /// The answers of the VM; the last one is repeated.
    pub answers: Mutex<Vec<String>>,
    clock: Mutex<Duration>,
    pub shown: Mutex<Vec<String>>,
}

impl FakeGcloud {
    pub fn new() -> Self {
        let world = World {
            gcloud: 586,
            project: Some(PROJECT),
            disks: BTreeMap::new(),
            templates: BTreeMap::new(),
            instances: BTreeMap::new(),
            schedules: Vec::new(),
            group: None,
            member: None,
            types: ["e2-standard-4", "n2-standard-4", "c4a-standard-4"]
                .map(str::to_owned)
                .to_vec(),
            dry: false,
            gone_when_preempted: false,
        };
        Self {
            world: Mutex::new(world),
            changes: Mutex::default(),
            fail_at: Mutex::default(),
            answers: Mutex::new(vec!["== startup\nready\n".to_owned()]),
            clock: Mutex::default(),
            shown: Mutex::default(),
        }
    }

    pub fn edit(&self, edit: impl FnOnce(&mut World)) {
        edit(&mut self.world.lock().unwrap());
    }

    pub fn changed(&self) -> Vec<String> {
        std::mem::take(&mut self.changes.lock().unwrap())
    }

    pub fn says(&self, answers: &[&str]) {
        *self.answers.lock().unwrap() = answers.iter().map(|answer| (*answer).to_owned()).collect();
    }

    fn refuse(call: &Call, text: &str) -> Refusal {
        Refusal {
            fault: Fault::from_text(text),
            why: call.why.clone(),
            text: text.to_owned(),
            call: call.to_string(),
        }
    }
}

/// Returns the command of a call: the longest one in the table.
fn command_of(call: &Call) -> (&'static str, &'static str) {
    let line = call.command();
    FLAGS
        .lines()
        .filter_map(|row| row.split_once(':'))
        .filter(|(command, _)| line == *command || line.starts_with(&format!("{command} ")))
        .max_by_key(|(command, _)| command.len())
        .unwrap_or_else(|| panic!("gcloud has no {line}"))
}

/// Fails where the real gcloud would say "unrecognized arguments".
fn check_flags(call: &Call, gcloud: u32) {
    let (command, known) = command_of(call);
    for word in call.words.iter().filter(|word| word.starts_with("--")) {
        let flag = word.split('=').next().unwrap();
        // A switch may be shown as --[no-]name.
        let plain = flag.replacen("--no-", "--", 1);
        let known = known
            .split(' ')
            .any(|known| known == flag || known == plain);
        let newer = flag == NEWER && gcloud >= 586 && command.contains("instance-templates create");
        assert!(
            known || newer || WIDE.contains(&flag),
            "gcloud {command} has no {flag}"
        );
    }
}

fn flag(call: &Call, name: &str) -> Option<String> {
    let start = format!("--{name}=");
    call.words
        .iter()
        .find_map(|word| word.strip_prefix(&start))
        .map(str::to_owned)
}

impl Cloud for FakeGcloud {
    fn call(&self, call: &Call) -> Result<String, Refusal> {
        let mut world = self.world.lock().unwrap();
        check_flags(call, world.gcloud);
        let (command, _) = command_of(call);
        let rest = call.command()[command.len()..].trim().to_owned();
        if call.effect == Effect::Change {
            let mut changes = self.changes.lock().unwrap();
            let mut fail_at = self.fail_at.lock().unwrap();
            if let Some((at, text)) = *fail_at
                && at == changes.len()
            {
                *fail_at = None;
                return Err(Self::refuse(call, text));
            }
            changes.push(format!("{} {rest}", command.trim_start_matches("compute ")));
        }
        if command == "compute ssh" {
            let is_report = flag(call, "command").is_some_and(|line| line.contains("== startup"));
            let mut answers = self.answers.lock().unwrap();
            let answer = answers[0].clone();
            if answers.len() > 1 {
                answers.remove(0);
            }
            return match answer.strip_prefix("! ") {
                Some(text) if is_report => Err(Self::refuse(call, text)),
                _ => Ok(answer),
            };
        }
        world
            .answer(command, &rest, call)
            .map(|answer| answer.to_string())
            .map_err(|text| Self::refuse(call, &text))
    }

    fn now(&self) -> Timestamp {
        let start = Timestamp::parse("2026-11-22T10:00:00Z").unwrap();
        start.after(*self.clock.lock().unwrap())
    }

    fn pause(&self, duration: Duration) {
        *self.clock.lock().unwrap() += duration;
    }

    fn show(&self, line: &str) {
        self.shown.lock().unwrap().push(line.to_owned());
    }
}

impl World {
    fn answer(&mut self, command: &str, rest: &str, call: &Call) -> Result<Value, String> {
        let text = |name: &str| flag(call, name).unwrap_or_default();
        let missing = || format!("The resource '{rest}' was not found");
        match command.trim_start_matches("compute ") {
            "version" => return Ok(json!({"Google Cloud SDK": format!("{}.0.0", self.gcloud)})),
            "config list" => return Ok(json!({"core": {"account": "a", "project": self.project}})),
            "instance-groups managed list" => {
                return Ok(json!(self.group.iter().collect::<Vec<_>>()));
            }
            "instance-groups managed list-instances" => {
                return Ok(json!(self.member.iter().collect::<Vec<_>>()));
            }
            "instance-groups managed list-errors" | "operations list" => return Ok(json!([])),
            "instance-templates list" => {
                return Ok(json!(self.templates.values().collect::<Vec<_>>()));
            }
            "disks list" => return Ok(json!(self.disks.values().collect::<Vec<_>>())),
            "resource-policies list" => {
                let schedule = |name: &String| json!({"name": name, "region": "x/europe-north1"});
                return Ok(json!(
                    self.schedules.iter().map(schedule).collect::<Vec<_>>()
                ));
            }
            "machine-types list" => {
                let requested = text("filter");
                let has = self
                    .types
                    .iter()
                    .any(|name| requested == format!("name={name}"));
                return Ok(if has {
                    json!([{"name": requested.trim_start_matches("name=")}])
                } else {
                    json!([])
                });
            }
            "instances list" => return Ok(json!(self.instances.values().collect::<Vec<_>>())),
            "instances describe" => {
                return self.instances.get(rest).cloned().ok_or_else(missing);
            }
            "resource-policies create snapshot-schedule" => self.schedules.push(rest.to_owned()),
            "resource-policies delete" => self.schedules.clear(),
            "disks create" => {
                assert!(!self.disks.contains_key(rest), "the disk is made again");
                let size: u64 = text("size").trim_end_matches("GB").parse().unwrap();
                self.disks.insert(
                    rest.to_owned(),
                    json!({"name": rest, "zone": text("zone"), "type": text("type"),
                           "sizeGb": size.to_string(), "users": [],
                           "resourcePolicies": [text("resource-policies")],
                           "labels": {"spotkeep": text("labels").trim_start_matches("spotkeep=")}}),
                );
            }
            "disks resize" => {
                self.disks.get_mut(rest).unwrap()["sizeGb"] =
                    json!(text("size").trim_end_matches("GB"));
            }
            "disks add-resource-policies" => {
                self.disks.get_mut(rest).unwrap()["resourcePolicies"] =
                    json!([text("resource-policies")]);
            }
            "disks remove-resource-policies" => {
                self.disks.get_mut(rest).unwrap()["resourcePolicies"] = json!([]);
            }
            "disks delete" => {
                self.disks.remove(rest).ok_or_else(missing)?;
            }
            "instance-templates create" => {
                let metadata = text("metadata");
                let items: Vec<Value> = metadata
                    .trim_start_matches("^@@^")
                    .split("@@")
                    .filter_map(|item| item.split_once('='))
                    .map(|(key, value)| json!({"key": key, "value": value}))
                    .collect();
                self.templates.insert(
                    rest.to_owned(),
                    json!({"name": rest, "properties": {
                        "labels": {"spotkeep": text("labels").trim_start_matches("spotkeep=")},
                        "metadata": {"items": items}}}),
                );
            }
            "instance-templates delete" => {
                assert!(self.group.is_none(), "the template is in use");
                self.templates.remove(rest).ok_or_else(missing)?;
            }
            "instance-groups managed create" => {
                self.group = Some(json!({
                    "name": rest, "zone": text("zone"), "instanceTemplate": text("template"),
                    "targetSize": 0,
                }));
            }
            "instance-groups managed set-instance-template" => {
                self.group.as_mut().unwrap()["instanceTemplate"] = json!(text("template"));
            }
            "instance-groups managed create-instance" => {
                self.create_member(&text("instance"), &text("stateful-disk"));
            }
            "instance-groups managed stop-instances" => self.power("TERMINATED", 1),
            "instance-groups managed start-instances" => self.power("RUNNING", 0),
            "instance-groups managed delete-instances" => self.free_member(),
            "instance-groups managed delete" => {
                self.free_member();
                self.group = None;
            }
            "instances stop" => {
                self.instances.get_mut(rest).unwrap()["status"] = json!("TERMINATED");
            }
            "instances delete" => {
                assert_eq!(text("keep-disks"), "all", "a disk would go with the VM");
                self.instances.remove(rest).ok_or_else(missing)?;
                self.free_disks(rest);
            }
            "instances simulate-maintenance-event" => {
                if self.gone_when_preempted {
                    self.starve();
                }
            }
            "scp" => {}
            other => panic!("the fake does not know {other}"),
        }
        Ok(Value::Null)
    }

    fn create_member(&mut self, name: &str, kept: &str) {
        let part = |key: &str| {
            kept.split(',')
                .find_map(|part| part.strip_prefix(&format!("{key}=")))
                .unwrap()
                .to_owned()
        };
        assert_eq!(part("auto-delete"), "never");
        let (device, source) = (part("device-name"), part("source"));
        let disk = self
            .disks
            .get_mut(&device)
            .expect("the disk exists before the VM");
        assert_eq!(disk["users"], json!([]), "the disk is free");
        assert!(
            !self.disks.contains_key(name),
            "no disk is in the way of the boot disk"
        );
        self.member = Some(json!({
            "instance": name, "currentAction": "NONE", "instanceStatus": "RUNNING",
            "preservedStateFromConfig": {"disks": {device.clone(): {"source": source}}},
        }));
        if self.dry {
            self.starve();
        } else {
            self.disks.get_mut(&device).unwrap()["users"] = json!([name]);
        }
        self.group.as_mut().unwrap()["targetSize"] = json!(1);
    }

    /// Simulates a group that gets no machine.
    fn starve(&mut self) {
        let error = json!({"code": "ZONE_RESOURCE_POOL_EXHAUSTED", "message": "none"});
        let member = self.member.as_mut().unwrap();
        member["currentAction"] = json!("CREATING");
        member["instanceStatus"] = Value::Null;
        member["lastAttempt"] = json!({"errors": {"errors": [error]}});
    }

    fn power(&mut self, status: &str, stopped: u64) {
        self.member.as_mut().unwrap()["instanceStatus"] = json!(status);
        let group = self.group.as_mut().unwrap();
        group["targetStoppedSize"] = json!(stopped);
        group["targetSize"] = json!(1 - stopped);
    }

    fn free_member(&mut self) {
        if let Some(member) = self.member.take() {
            self.free_disks(member["instance"].as_str().unwrap());
        }
    }

    fn free_disks(&mut self, vm: &str) {
        for disk in self.disks.values_mut() {
            disk["users"]
                .as_array_mut()
                .unwrap()
                .retain(|user| user != vm);
        }
    }
}
