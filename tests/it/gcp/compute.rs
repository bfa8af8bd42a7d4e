//! A fake of the Compute Engine API on loopback, with the parts that `gcloud` needs in these tests.
//!
//! It has disks, templates, a managed instance group that recreates its VM, operations that take
//! time, and faults that a test can inject.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use drill::http::{Handler, Reply, Request, Server};
use serde_json::{Value, json};

use testing::wait::FOREVER;

/// A request that changes something.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    pub method: String,
    pub path: String,
    pub body: Value,
}

/// An injected fault.
#[derive(Debug, Clone)]
pub struct Fault {
    pub method: &'static str,
    /// The end of the paths that fail.
    pub path: &'static str,
    pub answer: Answer,
    /// How many requests fail.
    pub times: u32,
}

/// How a request fails.
#[derive(Debug, Clone)]
pub enum Answer {
    /// An HTTP error: status, reason, message.
    Status(u16, &'static str, &'static str),
    /// An operation that starts and then fails: code and message.
    Operation(&'static str, &'static str),
    /// No response; the connection stays open.
    Silence,
}

/// The state of the fake project.
#[derive(Default)]
struct Project {
    base: String,
    /// The resources, by path below the project, for example `zones/Z/disks/D`.
    things: BTreeMap<String, Value>,
    changes: Vec<Change>,
    faults: Vec<Fault>,
    /// How many operations were started; numbers their names.
    operations: u64,
    /// Whether the zone has no capacity.
    dry: bool,
    clock: u32,
    when_preempted: Option<Box<dyn FnOnce() + Send>>,
}

/// The fake API server.
pub struct Compute {
    server: Server,
    project: Arc<Mutex<Project>>,
}

pub const PROJECT: &str = "lab-project";
pub const ZONE: &str = "europe-north1-b";

impl Compute {
    pub fn start() -> Self {
        let project = Arc::new(Mutex::new(Project::default()));
        let server = Server::start("compute", 0, Arc::new(Api(Arc::clone(&project)))).unwrap();
        project.lock().unwrap().base = format!("http://{}/compute/v1/", server.address());
        Self { server, project }
    }

    pub fn address(&self) -> String {
        self.server.address()
    }

    pub fn endpoint(&self) -> String {
        self.project.lock().unwrap().base.clone()
    }

    /// Returns the changing requests since the last call.
    pub fn changes(&self) -> Vec<Change> {
        std::mem::take(&mut self.project.lock().unwrap().changes)
    }

    /// Returns the same requests, one line each.
    pub fn changed(&self) -> Vec<String> {
        let line = |change: Change| format!("{} {}", change.method, change.path);
        self.changes().into_iter().map(line).collect()
    }

    pub fn order(&self, fault: Fault) {
        self.project.lock().unwrap().faults.push(fault);
    }

    pub fn dry(&self, dry: bool) {
        let mut project = self.project.lock().unwrap();
        project.dry = dry;
        project.repair();
    }

    /// Sets a function that is called when a VM is preempted.
    pub fn when_preempted(&self, then: impl FnOnce() + Send + 'static) {
        self.project.lock().unwrap().when_preempted = Some(Box::new(then));
    }

    /// Returns the resource at this path below the project.
    pub fn thing(&self, path: &str) -> Option<Value> {
        self.project.lock().unwrap().things.get(path).cloned()
    }

    pub fn put(&self, path: &str, value: Value) {
        self.project.lock().unwrap().put(path, value);
    }

    /// Returns the paths of all resources but operations.
    pub fn paths(&self) -> Vec<String> {
        let project = self.project.lock().unwrap();
        let kept = project
            .things
            .keys()
            .filter(|path| !path.contains("/operations/"));
        kept.cloned().collect()
    }
}

struct Api(Arc<Mutex<Project>>);

impl Handler for Api {
    fn answer(&self, request: &Request, reply: Reply<'_>) -> io::Result<()> {
        let answered = self.0.lock().unwrap().answer(request);
        let Some((status, body)) = answered else {
            // The client gives up long before.
            std::thread::park_timeout(FOREVER);
            return Ok(());
        };
        let bytes = body.to_string().into_bytes();
        reply.send(status, &[("Content-Type", "application/json")], &bytes)
    }
}

type Answered = (u16, Value);

fn refused(status: u16, reason: &str, message: &str) -> Answered {
    let error = json!({
        "code": status, "message": message,
        "errors": [{"domain": "global", "reason": reason, "message": message}],
    });
    (status, json!({ "error": error }))
}

fn last(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or_default()
}

impl Project {
    /// Returns the response, or `None` for no response.
    fn answer(&mut self, request: &Request) -> Option<Answered> {
        let own = format!("/compute/v1/projects/{PROJECT}");
        let Some(path) = request.path.strip_prefix(&own) else {
            return Some(self.elsewhere(&request.path));
        };
        let path = path.trim_start_matches('/').to_owned();
        let body: Value = serde_json::from_slice(&request.body).unwrap_or(Value::Null);
        let method = request.method.as_str();
        let asks =
            method == "GET" || path.ends_with("/wait") || path.ends_with("/listManagedInstances");
        if !asks {
            let change = Change {
                method: method.into(),
                path: path.clone(),
                body: body.clone(),
            };
            self.changes.push(change);
        }
        if let Some(answer) = self.fault(method, &path) {
            match answer {
                Answer::Status(status, reason, message) => {
                    return Some(refused(status, reason, message));
                }
                Answer::Operation(code, message) => {
                    let error = json!({"errors": [{"code": code, "message": message}]});
                    return Some(self.operation(&path, "insert", Some(error)));
                }
                Answer::Silence => return None,
            }
        }
        Some(match method {
            "GET" => self.get(&path),
            "POST" => self.post(&path, body, request),
            "DELETE" => self.delete(&path),
            _ => refused(405, "methodNotAllowed", method),
        })
    }

    fn fault(&mut self, method: &str, path: &str) -> Option<Answer> {
        let found = |fault: &&mut Fault| {
            fault.times > 0 && fault.method == method && path.ends_with(fault.path)
        };
        let fault = self.faults.iter_mut().find(found)?;
        fault.times -= 1;
        Some(fault.answer.clone())
    }

    /// Answers for other projects: images, and OS Login.
    fn elsewhere(&self, path: &str) -> Answered {
        // OS Login: the user and the SSH key.
        if path.starts_with("/v1/users/") {
            let account = json!({"primary": true, "username": "lab_example_com", "uid": "1001",
            "gid": "1001"});
            let profile =
                json!({"name": "lab@example.com", "posixAccounts": [account], "sshPublicKeys": {}});
            let imports = path.ends_with(":importSshPublicKey");
            return (
                200,
                if imports {
                    json!({"loginProfile": profile})
                } else {
                    profile
                },
            );
        }
        if path.contains("/images/family/") || path.contains("/imageFamilyViews/") {
            let link = format!(
                "{}projects/debian-cloud/global/images/debian-12-v1",
                self.base
            );
            return (
                200,
                json!({"name": "debian-12-v1", "selfLink": link, "image": {"selfLink": link}}),
            );
        }
        let project = path
            .trim_start_matches("/compute/v1/projects/")
            .split('/')
            .next();
        let message = format!(
            "The resource 'projects/{}' was not found",
            project.unwrap_or_default()
        );
        refused(404, "notFound", &message)
    }

    fn now(&mut self) -> String {
        self.clock += 1;
        format!(
            "2026-11-22T10:{:02}:{:02}.000-00:00",
            self.clock / 60 % 60,
            self.clock % 60
        )
    }

    fn link(&self, path: &str) -> String {
        format!("{}projects/{PROJECT}/{path}", self.base)
    }

    fn put(&mut self, path: &str, mut value: Value) {
        value["name"] = json!(last(path));
        value["selfLink"] = json!(self.link(path));
        value["id"] = json!(format!("{}", 1000 + self.things.len()));
        let scope: Vec<&str> = path.split('/').collect();
        match scope[..] {
            ["zones", zone, ..] => value["zone"] = json!(self.link(&format!("zones/{zone}"))),
            ["regions", region, ..] => {
                value["region"] = json!(self.link(&format!("regions/{region}")));
            }
            _ => {}
        }
        self.things.insert(path.to_owned(), value);
    }

    /// Starts an operation in the scope of `path`, which ends at the first wait.
    fn operation(&mut self, path: &str, kind: &str, error: Option<Value>) -> Answered {
        self.operations += 1;
        let scope: Vec<&str> = path.split('/').collect();
        let scope = match scope[..] {
            [which @ ("zones" | "regions"), name, ..] => format!("{which}/{name}"),
            _ => "global".to_owned(),
        };
        let at = format!("{scope}/operations/operation-{}", self.operations);
        let time = self.now();
        let mut operation = json!({
            "kind": "compute#operation", "operationType": kind, "status": "RUNNING", "progress": 0,
            "targetLink": self.link(path), "insertTime": time, "startTime": time,
            "user": "lab@example.com",
        });
        if let Some(error) = error {
            operation["later"] = error;
        }
        self.put(&at, operation);
        (200, self.things[&at].clone())
    }

    fn get(&mut self, path: &str) -> Answered {
        if path.is_empty() {
            let items = json!({"items": []});
            return (
                200,
                json!({"name": PROJECT, "id": "1", "commonInstanceMetadata": items}),
            );
        }
        if let Some(kind) = path.strip_prefix("aggregated/") {
            return (200, self.aggregated(kind));
        }
        if path.ends_with("/listErrors") {
            let group = path.trim_end_matches("/listErrors");
            let errors = self
                .things
                .get(group)
                .map(|group| group["lab_errors"].clone());
            return (200, json!({"items": errors.unwrap_or(json!([]))}));
        }
        if let ["zones" | "regions", name] = path.split('/').collect::<Vec<_>>()[..] {
            return (
                200,
                json!({"name": name, "selfLink": self.link(path), "status": "UP"}),
            );
        }
        if let Some(thing) = self.things.get(path) {
            return (200, thing.clone());
        }
        let kind = last(path);
        let collections = [
            "disks",
            "instanceTemplates",
            "resourcePolicies",
            "machineTypes",
            "operations",
            "instances",
            "instanceGroupManagers",
            "instanceGroups",
            "autoscalers",
        ];
        if collections.contains(&kind) {
            let items: Vec<&Value> = self.below(path).collect();
            return (200, json!({ "items": items }));
        }
        self.missing(path)
    }

    fn missing(&self, path: &str) -> Answered {
        let message = format!("The resource 'projects/{PROJECT}/{path}' was not found");
        refused(404, "notFound", &message)
    }

    fn below<'a>(&'a self, collection: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
        let start = format!("{collection}/");
        let inside = move |path: &str| {
            path.strip_prefix(&start)
                .is_some_and(|rest| !rest.contains('/'))
        };
        self.things
            .iter()
            .filter(move |(path, _)| inside(path))
            .map(|(_, value)| value)
    }

    /// Returns the resources of a kind grouped by zone or region, as in the API's aggregated lists.
    fn aggregated(&self, kind: &str) -> Value {
        let mut items = serde_json::Map::new();
        for (path, value) in &self.things {
            let parts: Vec<&str> = path.split('/').collect();
            let (scope, of) = match parts[..] {
                [scope, place, of, _] => (format!("{scope}/{place}"), of),
                [scope, of, _] => (scope.to_owned(), of),
                _ => continue,
            };
            if of == kind {
                let entry = items.entry(scope).or_insert_with(|| json!({ kind: [] }));
                entry[kind].as_array_mut().unwrap().push(value.clone());
            }
        }
        json!({ "items": items })
    }

    fn post(&mut self, path: &str, body: Value, request: &Request) -> Answered {
        if let Some(operation) = path.strip_suffix("/wait") {
            return self.wait(operation);
        }
        if path == "setCommonInstanceMetadata" {
            return self.operation("global", "setMetadata", None);
        }
        let (thing, verb) = path.rsplit_once('/').unwrap();
        if self.things.contains_key(thing) {
            if verb == "setDiskAutoDelete" {
                let device = request.query("deviceName").unwrap_or_default().to_owned();
                let so = request.query("autoDelete") == Some("true");
                self.edit(thing, |vm| {
                    for disk in vm["disks"].as_array_mut().unwrap() {
                        if disk["deviceName"] == device.as_str() {
                            disk["autoDelete"] = json!(so);
                        }
                    }
                });
                return self.operation(thing, verb, None);
            }
            return self.verb(thing, verb, &body);
        }
        if thing.matches('/').count() >= 3 {
            return self.missing(thing);
        }
        let at = format!("{path}/{}", body["name"].as_str().unwrap_or_default());
        if self.things.contains_key(&at) {
            let message = format!("The resource 'projects/{PROJECT}/{at}' already exists");
            return refused(409, "alreadyExists", &message);
        }
        let mut value = body;
        value["status"] = json!("READY");
        if verb == "instanceGroupManagers" {
            value["status"] = json!({"isStable": true});
            value["lab_members"] = json!([]);
            value["lab_errors"] = json!([]);
            value["instanceGroup"] = json!(self.link(&at.replace("Managers", "s")));
        }
        self.put(&at, value);
        self.operation(&at, "insert", None)
    }

    fn wait(&mut self, at: &str) -> Answered {
        let Some(operation) = self.things.get_mut(at) else {
            return self.missing(at);
        };
        operation["status"] = json!("DONE");
        operation["progress"] = json!(100);
        if let Some(error) = operation.get("later").cloned() {
            operation["error"] = error;
            operation["httpErrorStatusCode"] = json!(400);
            operation["httpErrorMessage"] = json!("BAD REQUEST");
        }
        (200, operation.clone())
    }

    fn verb(&mut self, thing: &str, verb: &str, body: &Value) -> Answered {
        let kind = thing.rsplit('/').nth(1).unwrap_or_default().to_owned();
        match (kind.as_str(), verb) {
            ("disks", "addResourcePolicies") => {
                self.edit(thing, |disk| {
                    disk["resourcePolicies"] = body["resourcePolicies"].clone();
                });
            }
            ("disks", "removeResourcePolicies") => {
                self.edit(thing, |disk| disk["resourcePolicies"] = json!([]));
            }
            ("disks", "resize") => self.edit(thing, |disk| disk["sizeGb"] = body["sizeGb"].clone()),
            ("instances", "stop") => self.edit(thing, |vm| vm["status"] = json!("TERMINATED")),
            ("instances", "simulateMaintenanceEvent") => self.preempt(thing),
            ("instanceGroupManagers", "listManagedInstances") => {
                let members = self.things[thing]["lab_members"].clone();
                return (200, json!({ "managedInstances": members }));
            }
            ("instanceGroupManagers", "setInstanceTemplate") => self.edit(thing, |group| {
                group["instanceTemplate"] = body["instanceTemplate"].clone();
            }),
            ("instanceGroupManagers", "createInstances") => {
                let desired = body["instances"].as_array().cloned().unwrap_or_default();
                let links: Vec<String> = desired
                    .iter()
                    .map(|desired| self.instance_path(thing, desired["name"].as_str().unwrap()))
                    .collect();
                for (desired, path) in desired.into_iter().zip(links) {
                    let link = self.link(&path);
                    self.edit(thing, |group| {
                        let member = json!({
                            "instance": link, "currentAction": "CREATING",
                            "preservedStateFromConfig": desired["preservedState"],
                        });
                        group["lab_members"].as_array_mut().unwrap().push(member);
                        group["targetSize"] = json!(1);
                    });
                }
                self.repair();
            }
            ("instanceGroupManagers", "deleteInstances") => {
                self.remove_members(thing);
            }
            ("instanceGroupManagers", "stopInstances") => {
                self.power(thing, "TERMINATED", 0);
            }
            ("instanceGroupManagers", "startInstances") => {
                self.power(thing, "RUNNING", 1);
            }
            _ => return refused(400, "invalid", &format!("no {verb} of {kind} in the lab")),
        }
        self.operation(thing, verb, None)
    }

    fn edit(&mut self, thing: &str, edit: impl FnOnce(&mut Value)) {
        edit(self.things.get_mut(thing).unwrap());
    }

    fn instance_path(&self, group: &str, name: &str) -> String {
        let zone = group.split('/').nth(1).unwrap();
        format!("zones/{zone}/instances/{name}")
    }

    fn power(&mut self, group: &str, status: &str, size: u64) {
        self.edit(group, |group| {
            group["targetSize"] = json!(size);
            group["targetStoppedSize"] = json!(1 - size);
        });
        for at in self.member_paths(group) {
            let time = self.now();
            self.edit(&at, |vm| {
                vm["status"] = json!(status);
                vm["lastStartTimestamp"] = json!(time);
            });
        }
        self.repair();
    }

    fn member_paths(&self, group: &str) -> Vec<String> {
        let members = self.things[group]["lab_members"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        members
            .iter()
            .map(|member| self.instance_path(group, last(member["instance"].as_str().unwrap())))
            .filter(|path| self.things.contains_key(path))
            .collect()
    }

    fn remove_members(&mut self, group: &str) {
        for path in self.member_paths(group) {
            self.remove_instance(&path);
        }
        self.edit(group, |group| {
            group["lab_members"] = json!([]);
            group["targetSize"] = json!(0);
        });
    }

    /// Deletes the disks of a VM that have `autoDelete`.
    fn remove_boot_disk(&mut self, path: &str) {
        let disks = self.things[path]["disks"].as_array().cloned();
        for disk in disks.unwrap_or_default() {
            if disk["autoDelete"] == true {
                let source = disk["source"].as_str().unwrap_or_default();
                let at = source
                    .rsplit_once(&format!("/projects/{PROJECT}/"))
                    .map(|(_, at)| at.to_owned());
                self.things.remove(&at.unwrap_or_default());
            }
        }
    }

    /// Deletes a VM and detaches its disks.
    fn remove_instance(&mut self, path: &str) {
        let link = self.link(path);
        self.things.remove(path);
        for disk in self
            .things
            .values_mut()
            .filter(|value| value["users"].is_array())
        {
            disk["users"]
                .as_array_mut()
                .unwrap()
                .retain(|user| *user != json!(link));
        }
    }

    fn preempt(&mut self, instance: &str) {
        self.edit(instance, |vm| vm["status"] = json!("TERMINATED"));
        let operation = self.operation(instance, "compute.instances.preempted", None);
        let at = operation.1["selfLink"]
            .as_str()
            .unwrap()
            .rsplit_once("/projects/")
            .unwrap()
            .1
            .to_owned();
        let at = at.split_once('/').unwrap().1.to_owned();
        self.wait(&at);
        self.repair();
        if let Some(then) = self.when_preempted.take() {
            then();
        }
    }

    /// Brings the VMs of every managed group to their target state, if the zone has capacity.
    fn repair(&mut self) {
        let groups: Vec<String> = self
            .things
            .keys()
            .filter(|path| path.rsplit('/').nth(1) == Some("instanceGroupManagers"))
            .cloned()
            .collect();
        for group in groups {
            let stopped = self.things[&group]["targetStoppedSize"]
                .as_u64()
                .unwrap_or(0)
                > 0;
            let mut members = self.things[&group]["lab_members"]
                .as_array()
                .cloned()
                .unwrap_or_default();
            for member in &mut members {
                let path = self.instance_path(&group, last(member["instance"].as_str().unwrap()));
                let runs = self
                    .things
                    .get(&path)
                    .is_some_and(|vm| vm["status"] == "RUNNING");
                if !runs && !stopped {
                    self.try_to_make(&group, &path, member);
                }
                member["instanceStatus"] = match self.things.get(&path) {
                    Some(vm) => vm["status"].clone(),
                    None => Value::Null,
                };
                if stopped {
                    member["currentAction"] = json!("NONE");
                }
            }
            self.edit(&group, |group| group["lab_members"] = json!(members));
        }
    }

    fn try_to_make(&mut self, group: &str, path: &str, member: &mut Value) {
        let time = self.now();
        if self.dry {
            let message =
                "The zone does not have enough resources available to fulfill the request.";
            let error = json!({"code": "ZONE_RESOURCE_POOL_EXHAUSTED", "message": message});
            member["currentAction"] = json!("CREATING");
            member["lastAttempt"] = json!({"errors": {"errors": [error]}});
            self.edit(group, |group| {
                let entry = json!({"error": error, "timestamp": time});
                group["lab_errors"].as_array_mut().unwrap().push(entry);
            });
            return;
        }
        let template = self.things[group]["instanceTemplate"]
            .as_str()
            .unwrap_or_default();
        let template = format!("global/instanceTemplates/{}", last(template));
        let properties = self
            .things
            .get(&template)
            .map(|template| template["properties"].clone());
        let mut vm = properties.unwrap_or(json!({}));
        vm["status"] = json!("RUNNING");
        vm["lastStartTimestamp"] = json!(time);
        vm["machineType"] = json!(self.link(&format!(
            "zones/{ZONE}/machineTypes/{}",
            vm["machineType"].as_str().unwrap_or_default()
        )));
        vm["networkInterfaces"] = json!([{
            "name": "nic0", "networkIP": "10.0.0.2", "accessConfigs": [{"natIP": "127.0.0.1",
            "type": "ONE_TO_ONE_NAT"}],
        }]);
        self.put(path, vm);
        let link = self.link(path);
        let kept = member["preservedStateFromConfig"]["disks"]
            .as_object()
            .cloned()
            .unwrap_or_default();
        for disk in kept.values() {
            let source = disk["source"].as_str().unwrap_or_default();
            let at = source
                .rsplit_once(&format!("/projects/{PROJECT}/"))
                .map(|(_, path)| path.to_owned());
            if let Some(disk) = at.and_then(|at| self.things.get_mut(&at)) {
                disk["users"] = json!([link]);
            }
        }
        member["currentAction"] = json!("NONE");
        member.as_object_mut().unwrap().remove("lastAttempt");
    }

    fn delete(&mut self, path: &str) -> Answered {
        if !self.things.contains_key(path) {
            return self.missing(path);
        }
        match path.rsplit('/').nth(1) {
            Some("instanceGroupManagers") => self.remove_members(path),
            Some("instances") => {
                self.remove_boot_disk(path);
                self.remove_instance(path);
            }
            Some("disks")
                if self.things[path]["users"]
                    .as_array()
                    .is_some_and(|users| !users.is_empty()) =>
            {
                let message = format!(
                    "The disk resource 'projects/{PROJECT}/{path}' is already being used by a VM"
                );
                return refused(400, "resourceInUseByAnotherResource", &message);
            }
            _ => {}
        }
        self.things.remove(path);
        self.operation(path, "delete", None)
    }
}
