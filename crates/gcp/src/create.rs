//! `gcp create`: makes the missing resources, waits for the VM, and sets it up the first time.

use std::time::Duration;

use super::discover::{self, GcpInventory, Member};
use super::gcloud::{Cloud, ask_quietly, make};
use super::machine_family::{self, Arch};
use super::plan::{self, Plan};
use super::queries;
use super::scripts::{self, Part};
use super::ssh::{self, FirstTime, Guest, GuestReport, Startup};
use super::vm_spec::{Shape, VmRequest, check_name};
use sys::error::{Context as _, ErrorKind, Hint as _, Result, anyhow};
use sys::time::short;

/// The options of `create` and `adopt`.
#[derive(Debug, Clone)]
pub struct Options {
    /// The options of the VM.
    pub request: VmRequest,
    /// The project, if it is not gcloud's default.
    pub project: Option<String>,
    /// The options of the first setup.
    pub first: FirstTime,
    /// How long to wait for the VM, and then for its answer.
    pub timeout: Duration,
}

/// A plan that is not carried out yet.
#[derive(Debug)]
pub struct Prepared {
    /// The calls.
    pub plan: Plan,
    /// The specification of the VM.
    pub shape: Shape,
    /// The existing resources.
    pub found: GcpInventory,
}

/// The result of `create`, `adopt` or `start`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateResult {
    /// The result in one line.
    pub said: String,
    /// The hint, if something is missing.
    pub hint: Option<String>,
}

/// Reads what exists, and plans.
///
/// # Errors
/// The request is not possible, or gcloud failed.
pub fn prepare(cloud: &dyn Cloud, options: &Options) -> Result<Prepared> {
    let request = &options.request;
    check_name("VM", &request.name)?;
    if let Some(disk) = &request.disk {
        check_name("disk", disk)?;
    }
    if let Some(zone) = &request.zone {
        super::vm_spec::region_of(zone)?;
    }
    // Before any call: what is not possible in any project.
    if let Some(machine_type) = &request.machine_type {
        let disk_type = request
            .disk_type
            .as_deref()
            .unwrap_or_else(|| machine_family::data_disk_type(machine_type));
        machine_family::check(machine_type, disk_type)?;
    }
    let mut found = discover::first(cloud, &request.name, options.project.as_deref())?;
    let zone = plan::zone_of(request, &found)?;
    let shape = Shape::resolve(request, found.shape(), found.gcloud)?;
    check_same_disk(request, &found)?;
    discover::second(
        cloud,
        &mut found,
        &request.name,
        &zone,
        &shape.disk,
        &shape.machine_type,
    )?;
    let exists = found
        .disks
        .iter()
        .any(|disk| disk.name == shape.disk && disk.zone == zone);
    if !exists {
        plan::check_pair(request, &shape)?;
        check_binary(options, &shape)?;
    }
    let plan = plan::create(request, &shape, &found, &zone)?;
    Ok(Prepared { plan, shape, found })
}

/// Refuses another data disk for an existing group.
fn check_same_disk(request: &VmRequest, found: &GcpInventory) -> Result<()> {
    match (&request.disk, found.shape()) {
        (Some(requested), Some(now)) if *requested != now.disk => Err(anyhow!(
            "{} has the data disk {}, which cannot be changed",
            request.name,
            now.disk
        ))
        .hint(format!(
            "no --disk; or --name with another name for a VM with {requested}"
        ))
        .kind(ErrorKind::Usage),
        _ => Ok(()),
    }
}

/// Checks that the binary is built for the VM's processor.
fn check_binary(options: &Options, shape: &Shape) -> Result<()> {
    use std::io::Read as _;
    let path = options.first.binary.display();
    let mut head = [0; 20];
    std::fs::File::open(&options.first.binary)
        .and_then(|mut file| file.read_exact(&mut head))
        .with_context(|| format!("cannot read {path}"))?;
    let requested = machine_family::arch(&shape.machine_type);
    let built = Arch::from_program(&head);
    if built == Some(requested) {
        return Ok(());
    }
    let built = built.map_or("not a Linux program for either processor", Arch::as_str);
    Err(anyhow!(
        "{} has {} processors, and {path} is {built}",
        shape.machine_type,
        requested.as_str()
    ))
    .hint(format!(
        "--binary=FILE with a spotkeep built for {}",
        requested.as_str()
    ))
    .kind(ErrorKind::Usage)
}

/// Returns the plan as a shell script; `verb` is the verb of `spotkeep gcp`.
#[must_use]
pub fn script(prepared: &Prepared, options: &Options, verb: &str) -> String {
    let guest = guest_of(prepared);
    let mut parts: Vec<Part> = prepared
        .plan
        .notes
        .iter()
        .cloned()
        .map(Part::Note)
        .collect();
    if prepared.plan.calls.is_empty() {
        parts.push(Part::Note("All of it exists already.".to_owned()));
    }
    parts.extend(prepared.plan.calls.iter().cloned().map(Part::Call));
    parts.push(Part::Until(guest.has_started(), 60));
    let setup = guest.first_setup(&prepared.shape.disk, &options.first);
    parts.push(Part::If(guest.is_new(), setup));
    parts.push(Part::Call(guest.report_call(1)));
    let title = format!("spotkeep gcp {verb}, by hand: {}.", options.request.name);
    scripts::by_hand(&title, &parts)
}

fn guest_of(prepared: &Prepared) -> Guest {
    Guest {
        vm: prepared.plan.vm.clone(),
        zone: prepared.plan.zone.clone(),
        tunnel: !prepared.shape.address,
    }
}

/// Makes what is missing, waits for the VM, sets it up the first time, and reads the status of its
/// agents.
///
/// # Errors
/// gcloud failed; the zone has no capacity; the VM does not answer.
pub fn run(cloud: &dyn Cloud, prepared: &Prepared, options: &Options) -> Result<CreateResult> {
    for call in &prepared.plan.calls {
        make(cloud, call)?;
    }
    wait_running(
        cloud,
        &options.request.name,
        &prepared.plan.zone,
        options.timeout,
    )?;
    let guest = guest_of(prepared);
    let report = guest.wait_started(cloud, options.timeout)?;
    let report = first_time(cloud, &guest, report, prepared, options)?;
    let (said, hint) = ssh::describe(&report, &options.request.name);
    Ok(CreateResult { said, hint })
}

/// Runs the first setup, if spotkeep is not on the disk yet.
fn first_time(
    cloud: &dyn Cloud,
    guest: &Guest,
    report: GuestReport,
    prepared: &Prepared,
    options: &Options,
) -> Result<GuestReport> {
    let keeper_runs = report
        .fleet
        .as_ref()
        .is_some_and(|fleet| fleet.keeper == "running");
    match &report.startup {
        // The failure at the boot was repaired by hand.
        Startup::Failed(_) if keeper_runs => return Ok(report),
        Startup::Failed(why) => {
            return Err(anyhow!("the start-up script of the VM failed: {why}")).hint(format!(
                "spotkeep gcp ssh --name={}, then: sudo journalctl -u google-startup-scripts",
                options.request.name
            ));
        }
        Startup::Ready | Startup::Working => return Ok(report),
        Startup::New => {}
    }
    check_binary(options, &prepared.shape)?;
    let calls = guest.first_setup(&prepared.shape.disk, &options.first);
    ssh::set_up(cloud, &calls)?;
    guest.wait_started(cloud, options.timeout)
}

/// Waits until the group's VM runs.
///
/// # Errors
/// It does not run within `timeout`, because the zone has no capacity or for another reason. The
/// group goes on trying.
pub fn wait_running(
    cloud: &dyn Cloud,
    group: &str,
    zone: &str,
    timeout: Duration,
) -> Result<Member> {
    let question = queries::members(group, zone);
    cloud.show(&format!("$ {question}   (again until it runs)"));
    let began = cloud.now();
    let mut shown = String::new();
    let mut pause = Duration::from_secs(1);
    loop {
        let answer = ask_quietly(cloud, &question);
        let member = answer
            .as_ref()
            .ok()
            .and_then(|answer| answer.as_array()?.first().map(Member::from_json));
        let state = match (&answer, &member) {
            (Err(refusal), _) => refusal.text.clone(),
            (Ok(_), None) => "the group has no VM".to_owned(),
            (Ok(_), Some(member)) if is_up(member) => return Ok(member.clone()),
            (Ok(_), Some(member)) => progress(member),
        };
        let waited = cloud.now().since(began);
        if waited >= timeout {
            let dry = member.is_some_and(|member| member.is_dry());
            let what = if dry {
                format!(
                    "{zone} has had no capacity for this machine type for {}",
                    short(waited)
                )
            } else {
                format!("{group} does not run after {}: {state}", short(waited))
            };
            return Err(anyhow!("{what}; the group goes on trying"))
                .hint(format!(
                    "spotkeep gcp status --name={group}; then the same command again"
                ))
                .kind(ErrorKind::NotAsDeclared);
        }
        if state != shown {
            cloud.show(&format!("  {state}"));
            shown = state;
        }
        cloud.pause(pause);
        pause = (pause * 2).min(Duration::from_secs(10));
    }
}

fn is_up(member: &Member) -> bool {
    member.status == "RUNNING" && matches!(member.action.as_str(), "NONE" | "VERIFYING" | "")
}

/// Describes the state of a member.
pub(super) fn progress(member: &Member) -> String {
    let status = if member.status.is_empty() {
        "not created yet"
    } else {
        &member.status
    };
    let error = member
        .error
        .as_ref()
        .map(|(code, message)| format!("; the last attempt failed: {code}: {message}"))
        .unwrap_or_default();
    format!(
        "{} is {status}, the group is {}{error}",
        member.name, member.action
    )
}
