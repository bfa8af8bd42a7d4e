//! Tests of the whole verbs with the fake gcloud.

use std::process::Command;
use std::time::Duration;

use serde_json::json;

use super::create::{self, CreateResult, Options};
use super::fake_gcloud::{FakeGcloud, ZONE};
use super::gcloud_error::Fault;
use super::ssh::FirstTime;
use super::vm_spec::{Notice, VmRequest};
use super::{adopt, delete, preempt, start_stop, status};
use sys::error::{Result, hint_of, kind_of};
use sys::time::Timestamp;

const TIMEOUT: Duration = Duration::from_secs(600);

fn options(edit: impl FnOnce(&mut VmRequest)) -> Options {
    let mut request = VmRequest {
        name: "vm".into(),
        zone: Some(ZONE.into()),
        ..VmRequest::default()
    };
    edit(&mut request);
    Options {
        request,
        project: None,
        first: FirstTime {
            user: "sandbox".into(),
            binary: std::env::current_exe().unwrap(),
            claude: None,
            unattended: false,
            beside_other_files: false,
        },
        timeout: TIMEOUT,
    }
}

fn make(fake: &FakeGcloud, options: &Options) -> Result<CreateResult> {
    let prepared = create::prepare(fake, options)?;
    create::run(fake, &prepared, options)
}

/// Returns the text, the hint and the exit code of an error.
fn refused<T>(result: Result<T>) -> String {
    match result {
        Ok(_) => panic!("it was not refused"),
        Err(error) => format!(
            "{error:#} / {} / {}",
            hint_of(&error).unwrap_or_default(),
            kind_of(&error) as u8
        ),
    }
}

const UP: &str = r#"== startup
ready
== booted
1795341600
== status
{"boot_id":"l1","keeper":"running","agents":[{"name":"a","state":"running","desired":"running","session_id":"s1"}]}
"#;
const NEW: &str = "== startup\nnew: the disk holds no filesystem yet\n";

fn made() -> FakeGcloud {
    let fake = FakeGcloud::new();
    fake.says(&[UP]);
    make(&fake, &options(|_| ())).unwrap();
    fake.changed();
    fake
}

const ALL: [&str; 5] = [
    "resource-policies create snapshot-schedule vm-daily",
    "disks create claude-persist",
    "instance-templates create TEMPLATE",
    "instance-groups managed create vm",
    "instance-groups managed create-instance vm",
];

fn changed(fake: &FakeGcloud) -> Vec<String> {
    let plain = |line: String| match line.rsplit_once(" vm-") {
        Some((head, tail)) if tail.len() == 8 => format!("{head} TEMPLATE"),
        _ => line,
    };
    fake.changed().into_iter().map(plain).collect()
}

#[test]
fn from_nothing_everything_is_made_once_and_the_second_time_nothing() {
    let fake = FakeGcloud::new();
    fake.says(&[
        "! Connection refused",
        "== startup\nworking\n",
        NEW,
        "set up",
        UP,
    ]);
    let done = make(&fake, &options(|_| ())).unwrap();
    assert_eq!(
        done,
        CreateResult {
            said: "1 agent running".into(),
            hint: None
        }
    );
    let changes = changed(&fake);
    assert_eq!(changes[..5], ALL);
    assert_eq!(changes[5..].len(), 2, "{changes:?}");
    assert!(changes[5].starts_with("scp "), "{changes:?}");
    assert_eq!(changes[6], "ssh vm");
    let world = fake.world.lock().unwrap().clone();
    // Without --zone, the zone is known from the group.
    let again = options(|request| request.zone = None);
    assert!(
        create::prepare(&fake, &again)
            .unwrap()
            .plan
            .calls
            .is_empty()
    );
    make(&fake, &again).unwrap();
    assert!(changed(&fake).is_empty());
    assert_eq!(*fake.world.lock().unwrap(), world);
}

#[test]
fn a_create_that_was_cut_anywhere_is_continued() {
    for cut in 0..ALL.len() {
        let fake = FakeGcloud::new();
        fake.says(&[UP]);
        *fake.fail_at.lock().unwrap() = Some((cut, "Service Unavailable"));
        assert!(refused(make(&fake, &options(|_| ()))).contains("run it again"));
        make(&fake, &options(|_| ())).unwrap();
        assert_eq!(changed(&fake), ALL, "cut at {cut}");
        assert!(fake.world.lock().unwrap().member.is_some());
    }
}

#[test]
fn fewer_options_change_nothing_and_other_options_make_only_a_new_template() {
    let fake = FakeGcloud::new();
    fake.says(&[UP]);
    make(
        &fake,
        &options(|request| request.machine_type = Some("n2-standard-4".into())),
    )
    .unwrap();
    changed(&fake);
    make(&fake, &options(|_| ())).unwrap();
    assert!(changed(&fake).is_empty());
    let other = options(|request| request.machine_type = Some("e2-standard-4".into()));
    let prepared = create::prepare(&fake, &other).unwrap();
    assert!(
        prepared.plan.notes[0].contains("spotkeep gcp preempt"),
        "{:?}",
        prepared.plan.notes
    );
    make(&fake, &other).unwrap();
    assert_eq!(
        changed(&fake),
        [
            "instance-templates create TEMPLATE",
            "instance-groups managed set-instance-template vm"
        ]
    );
}

#[test]
fn an_existing_disk_is_used_and_only_enlarged() {
    let disk = |edit: &dyn Fn(&mut serde_json::Value)| {
        let fake = FakeGcloud::new();
        fake.says(&[UP]);
        let mut disk = json!({
            "name": "claude-persist", "zone": ZONE, "type": "x/pd-ssd", "sizeGb": "50",
            "users": [], "resourcePolicies": ["x/mine"],
        });
        edit(&mut disk);
        fake.edit(|world| {
            world.disks.insert("claude-persist".into(), disk);
        });
        fake
    };
    let fake = disk(&|_| ());
    make(&fake, &options(|request| request.size_gb = Some(80))).unwrap();
    let changes = changed(&fake);
    assert!(
        changes.contains(&"disks resize claude-persist".into()),
        "{changes:?}"
    );
    // The disk's own schedule stays, and the disk is not made again.
    assert!(
        !changes
            .iter()
            .any(|line| line.contains("disks create") || line.contains("add-resource"))
    );
    let fake = disk(&|disk| disk["resourcePolicies"] = json!([]));
    make(&fake, &options(|_| ())).unwrap();
    assert!(changed(&fake).contains(&"disks add-resource-policies claude-persist".into()));
    for (edit, request, says) in [
        (
            json!({"zone": "europe-north1-a"}),
            options(|_| ()),
            "is in europe-north1-a, not in",
        ),
        (
            json!({"users": ["x/old"]}),
            options(|_| ()),
            "spotkeep gcp adopt old --zone=europe-north1-b",
        ),
        (
            json!({}),
            options(|request| request.size_gb = Some(20)),
            "cannot shrink",
        ),
        (
            json!({}),
            options(|request| request.disk_type = Some("pd-standard".into())),
            "cannot be changed",
        ),
        (
            json!({}),
            options(|request| request.machine_type = Some("c4a-standard-4".into())),
            "takes Hyperdisk only",
        ),
    ] {
        let fake = disk(&|disk| {
            for (key, value) in edit.as_object().unwrap() {
                disk[key] = value.clone();
            }
        });
        // The default disk type of a machine is valid; the existing disk's may not be.
        let said = refused(create::prepare(&fake, &request));
        assert!(said.contains(says), "{said}");
        assert!(changed(&fake).is_empty());
    }
}

#[test]
fn an_impossible_request_is_refused_before_any_change() {
    for (edit, says) in [
        (
            (|request| {
                request.machine_type = Some("c4a-highcpu-16".into());
                request.disk_type = Some("pd-ssd".into());
            }) as fn(&mut VmRequest),
            "Hyperdisk only / --type=hyperdisk-balanced",
        ),
        (
            |request| request.machine_type = Some("m3-ultramem-32".into()),
            "cannot be a Spot VM",
        ),
        (
            |request| request.machine_type = Some("n4-standard-4".into()),
            "has no machines of type",
        ),
        (
            |request| request.zone = Some("europe".into()),
            "is not a zone",
        ),
        (|request| request.zone = None, "no zone"),
        (|request| request.name = "Vm".into(), "cannot be the name"),
        (
            |request| request.scopes = Some("x".into()),
            "without a service account",
        ),
        // The test program is not built for this processor.
        (
            |request| request.machine_type = Some("c4a-standard-4".into()),
            "--binary=FILE",
        ),
    ] {
        if says.contains("--binary") && cfg!(target_arch = "aarch64") {
            continue;
        }
        let fake = FakeGcloud::new();
        let said = refused(make(&fake, &options(edit)));
        assert!(said.contains(says) && said.ends_with("/ 2"), "{said}");
        assert!(changed(&fake).is_empty());
    }
}

#[test]
fn the_long_notice_fails_with_an_old_gcloud_only_if_it_is_required() {
    let fake = FakeGcloud::new();
    fake.says(&[UP]);
    fake.edit(|world| world.gcloud = 528);
    let said = refused(make(
        &fake,
        &options(|request| request.notice = Some(Notice::Long)),
    ));
    assert!(
        said.contains("586") && said.contains("gcloud components update"),
        "{said}"
    );
    let prepared = create::prepare(&fake, &options(|_| ())).unwrap();
    assert!(
        prepared.plan.notes[0].contains("upgrade gcloud"),
        "{:?}",
        prepared.plan.notes
    );
    make(&fake, &options(|_| ())).unwrap();
    // With a newer gcloud, the next VM has the notice.
    fake.edit(|world| world.gcloud = 586);
    changed(&fake);
    make(&fake, &options(|_| ())).unwrap();
    assert_eq!(changed(&fake).len(), 2);
    fake.edit(|world| world.gcloud = 400);
    assert!(refused(make(&fake, &options(|_| ()))).contains("too old"));
}

#[test]
fn a_group_that_spotkeep_did_not_make_is_not_changed() {
    let fake = FakeGcloud::new();
    fake.edit(|world| {
        world.group = Some(json!({"name": "vm", "zone": ZONE, "instanceTemplate": "x/theirs"}));
    });
    assert!(refused(make(&fake, &options(|_| ()))).contains("spotkeep did not make it"));
    let request = options(|_| ()).request;
    assert!(refused(delete::prepare(&fake, &request, None, None)).contains("did not make it"));
    assert!(changed(&fake).is_empty());
}

#[test]
fn a_zone_without_capacity_is_reported_and_the_group_goes_on_trying() {
    let fake = FakeGcloud::new();
    fake.edit(|world| world.dry = true);
    let said = refused(make(&fake, &options(|_| ())));
    assert!(
        said.contains("has had no capacity for this machine type for 10m"),
        "{said}"
    );
    assert!(said.ends_with("/ 3"), "{said}");
    let report = status::gather(&fake, "vm", None, true).unwrap();
    assert_eq!(report.state, "no-capacity");
    // It can be stopped, and the disk still exists and is free.
    let found = start_stop::discover_vm(&fake, "vm", None).unwrap();
    changed(&fake);
    start_stop::stop(&fake, &found, "vm", TIMEOUT).unwrap();
    assert_eq!(
        changed(&fake),
        ["instance-groups managed delete-instances vm"]
    );
    fake.edit(|world| world.dry = false);
    fake.says(&[UP]);
    let found = start_stop::discover_vm(&fake, "vm", None).unwrap();
    start_stop::start(&fake, &found, "vm", TIMEOUT).unwrap();
    assert_eq!(
        changed(&fake),
        ["instance-groups managed create-instance vm"]
    );
}

#[test]
fn stop_and_start_keep_the_vms_name_and_disk() {
    let fake = made();
    let before = fake.world.lock().unwrap().clone();
    let look = || start_stop::discover_vm(&fake, "vm", None).unwrap();
    start_stop::stop(&fake, &look(), "vm", TIMEOUT).unwrap();
    let again = start_stop::stop(&fake, &look(), "vm", TIMEOUT).unwrap();
    assert!(again.contains("already"), "{again}");
    assert_eq!(
        changed(&fake),
        ["instance-groups managed stop-instances vm"]
    );
    assert_eq!(
        status::gather(&fake, "vm", None, true).unwrap().state,
        "stopped"
    );
    let done = start_stop::start(&fake, &look(), "vm", TIMEOUT).unwrap();
    assert_eq!(done.said, "1 agent running");
    assert_eq!(
        changed(&fake),
        ["instance-groups managed start-instances vm"]
    );
    let after = fake.world.lock().unwrap().clone();
    assert_eq!((after.disks, after.member), (before.disks, before.member));
    let said = refused(start_stop::discover_vm(&fake, "other", None));
    assert!(said.contains("spotkeep gcp create --name=other"), "{said}");
}

#[test]
fn a_vm_whose_group_name_is_used_by_a_disk_is_started_with_its_own_name() {
    let fake = by_hand();
    let options = options(|request| request.name = "old".into());
    let prepared = adopt::prepare(&fake, &options).unwrap();
    create::run(&fake, &prepared, &options).unwrap();
    // Without capacity, it was deleted from the group; the old boot disk still has the group's
    // name.
    fake.edit(|world| {
        world.member.as_mut().unwrap()["instanceStatus"] = json!(null);
    });
    let found = start_stop::discover_vm(&fake, "old", None).unwrap();
    start_stop::stop(&fake, &found, "old", TIMEOUT).unwrap();
    changed(&fake);
    let found = start_stop::discover_vm(&fake, "old", None).unwrap();
    start_stop::start(&fake, &found, "old", TIMEOUT).unwrap();
    assert_eq!(
        changed(&fake),
        ["instance-groups managed create-instance old"]
    );
    let world = fake.world.lock().unwrap();
    assert_eq!(world.disks["data"]["users"], json!(["old-vm"]));
}

#[test]
fn a_vm_that_does_not_run_is_not_waited_for() {
    let fake = made();
    let refused = |fake: &FakeGcloud| {
        let found = start_stop::discover_vm(fake, "vm", None).unwrap();
        refused(start_stop::running_guest(&found, "vm"))
    };
    let member = |edit: &dyn Fn(&mut serde_json::Value)| {
        fake.edit(|world| edit(world.member.as_mut().unwrap()));
    };
    member(&|member| member["instanceStatus"] = json!("STAGING"));
    let said = refused(&fake);
    assert!(
        said.contains("vm is STAGING") && said.ends_with("/ 3"),
        "{said}"
    );
    // A stop that is in progress is waited for.
    member(&|member| member["instanceStatus"] = json!("RUNNING"));
    let found = start_stop::discover_vm(&fake, "vm", None).unwrap();
    start_stop::stop(&fake, &found, "vm", TIMEOUT).unwrap();
    let said = refused(&fake);
    assert!(
        said.contains("vm is stopped / spotkeep gcp start --name=vm"),
        "{said}"
    );
    member(&|member| member["instanceStatus"] = json!("STOPPING"));
    let found = start_stop::discover_vm(&fake, "vm", None).unwrap();
    let said = crate::tests::refused(start_stop::stop(&fake, &found, "vm", TIMEOUT));
    assert!(said.contains("has not ended after"), "{said}");
}

#[test]
fn a_vm_of_the_same_name_outside_the_group_is_not_taken_for_its_member() {
    let fake = by_hand();
    // Its boot disk has another name, so there is no other conflict.
    fake.edit(|world| {
        world.disks.remove("old");
    });
    let create = options(|request| {
        request.name = "old".into();
        request.disk = Some("data".into());
    });
    let said = refused(create::prepare(&fake, &create));
    assert!(said.contains("spotkeep gcp adopt old"), "{said}");
    assert!(changed(&fake).is_empty());
}

#[test]
fn a_boot_failure_that_was_repaired_is_not_a_failure() {
    let fake = FakeGcloud::new();
    fake.says(&["== startup\nfailed: spotkeep setup ended with 1\n"]);
    let said = refused(make(&fake, &options(|_| ())));
    assert!(
        said.contains("setup ended with 1") && said.contains("journalctl"),
        "{said}"
    );
    fake.says(&[&UP.replace("ready", "failed: spotkeep setup ended with 1")]);
    let done = make(&fake, &options(|_| ())).unwrap();
    assert_eq!(done.said, "1 agent running");
}

#[test]
fn a_delete_never_changes_a_disk_of_another_vm() {
    let fake = made();
    let disk = |name: &str, made_for: &str| {
        json!({"name": name, "zone": ZONE, "type": "x/pd-ssd", "sizeGb": "50", "users": [],
               "resourcePolicies": [], "labels": {"spotkeep": made_for}})
    };
    fake.edit(|world| {
        world.disks.insert("other".into(), disk("other", ""));
    });
    let request = |disk: Option<&str>| VmRequest {
        name: "vm".into(),
        zone: Some(ZONE.into()),
        disk: disk.map(str::to_owned),
        ..VmRequest::default()
    };
    let said = refused(delete::prepare(
        &fake,
        &request(Some("other")),
        Some("other"),
        None,
    ));
    assert!(
        said.contains("the data disk of vm is claude-persist, not other"),
        "{said}"
    );
    // Without a group and templates, the label counts, or the user names the disk twice.
    fake.edit(|world| {
        world.group = None;
        world.templates.clear();
    });
    let said = refused(delete::prepare(&fake, &request(None), Some("other"), None));
    assert!(said.contains("other has no label"), "{said}");
    let plan = delete::prepare(&fake, &request(Some("other")), Some("other"), None).unwrap();
    assert!(
        plan.calls
            .iter()
            .any(|call| call.command().contains("disks delete other"))
    );
    let plan = delete::prepare(&fake, &request(None), Some("claude-persist"), None).unwrap();
    assert!(
        plan.calls
            .iter()
            .any(|call| call.command().contains("disks delete claude-persist"))
    );
    assert!(changed(&fake).is_empty());
}

#[test]
fn delete_keeps_the_data_disk_unless_its_name_is_typed() {
    let request = || VmRequest {
        name: "vm".into(),
        ..VmRequest::default()
    };
    let fake = made();
    let said = refused(delete::prepare(
        &fake,
        &request(),
        Some("claude-persit"),
        None,
    ));
    assert!(said.contains("nothing is deleted"), "{said}");
    let plan = delete::prepare(&fake, &request(), None, None).unwrap();
    assert!(
        plan.notes[0].contains("--and-data=claude-persist"),
        "{:?}",
        plan.notes
    );
    delete::run(&fake, &plan).unwrap();
    let world = fake.world.lock().unwrap().clone();
    assert_eq!(world.disks.keys().collect::<Vec<_>>(), ["claude-persist"]);
    assert!(world.group.is_none() && world.templates.is_empty() && world.schedules.is_empty());
    // A new VM can use the same disk.
    fake.says(&[UP]);
    make(&fake, &options(|_| ())).unwrap();
    let plan = delete::prepare(&fake, &request(), Some("claude-persist"), None).unwrap();
    delete::run(&fake, &plan).unwrap();
    assert!(fake.world.lock().unwrap().disks.is_empty());
}

#[test]
fn a_delete_that_was_cut_anywhere_is_continued() {
    for cut in 0..5 {
        let fake = made();
        let request = VmRequest {
            name: "vm".into(),
            zone: Some(ZONE.into()),
            ..VmRequest::default()
        };
        let run = || {
            let plan = delete::prepare(&fake, &request, Some("claude-persist"), None)?;
            delete::run(&fake, &plan)
        };
        *fake.fail_at.lock().unwrap() = Some((cut, "backendError"));
        refused(run());
        run().unwrap();
        let world = fake.world.lock().unwrap();
        assert!(world.disks.is_empty() && world.group.is_none() && world.schedules.is_empty());
    }
}

fn by_hand() -> FakeGcloud {
    let fake = FakeGcloud::new();
    fake.says(&[UP]);
    fake.edit(|world| {
        for (name, kind) in [("old", "pd-balanced"), ("data", "pd-ssd")] {
            world.disks.insert(
                name.into(),
                json!({
                    "name": name, "zone": ZONE, "type": kind, "sizeGb": "50", "users": ["x/old"],
                }),
            );
        }
        world.instances.insert(
            "old".into(),
            json!({
                "name": "old", "zone": format!("x/{ZONE}"), "status": "RUNNING",
                "machineType": "x/n2-standard-4", "disks": [
                    {"boot": true, "source": "x/old"}, {"boot": false, "source": "x/data"},
                ],
            }),
        );
        for disk in world.disks.values_mut() {
            disk["users"] = json!(["old"]);
        }
    });
    fake
}

#[test]
fn a_vm_made_by_hand_is_adopted_with_its_disk_and_its_boot_disk_is_kept() {
    let fake = by_hand();
    let options = options(|request| request.name = "old".into());
    let prepared = adopt::prepare(&fake, &options).unwrap();
    assert_eq!(prepared.shape.machine_type, "n2-standard-4");
    create::run(&fake, &prepared, &options).unwrap();
    let changes = changed(&fake);
    let stop = changes
        .iter()
        .position(|line| line == "instances stop old")
        .unwrap();
    // All calls that may fail come before the old VM is stopped.
    assert!(
        changes[..stop]
            .iter()
            .any(|line| line.contains("managed create old"))
    );
    assert_eq!(
        changes[stop..],
        [
            "instances stop old",
            "instances delete old",
            "instance-groups managed create-instance old"
        ]
    );
    let world = fake.world.lock().unwrap();
    assert_eq!(world.disks.keys().collect::<Vec<_>>(), ["data", "old"]);
    assert_eq!(world.disks["data"]["users"], json!(["old-vm"]));
}

#[test]
fn the_zone_of_a_vm_to_adopt_is_found() {
    let fake = by_hand();
    let anywhere = options(|request| {
        request.name = "old".into();
        request.zone = None;
    });
    let prepared = adopt::prepare(&fake, &anywhere).unwrap();
    assert_eq!(prepared.plan.zone, ZONE);
    fake.edit(|world| {
        let mut twin = world.instances["old"].clone();
        twin["zone"] = json!("x/europe-north1-a");
        world.instances.insert("twin".into(), twin);
    });
    let said = refused(adopt::prepare(&fake, &anywhere));
    assert!(
        said.contains("several VMs") && said.contains("--zone="),
        "{said}"
    );
    fake.edit(|world| world.instances.clear());
    let said = refused(adopt::prepare(&fake, &anywhere));
    assert!(said.contains("there is no VM old"), "{said}");
}

#[test]
fn a_vm_with_deletion_protection_is_not_stopped() {
    let fake = by_hand();
    fake.edit(|world| {
        world.instances.get_mut("old").unwrap()["deletionProtection"] = json!(true);
    });
    let options = options(|request| request.name = "old".into());
    let said = refused(adopt::prepare(&fake, &options));
    assert!(said.contains("--no-deletion-protection"), "{said}");
    assert!(changed(&fake).is_empty());
}

#[test]
fn an_adopt_that_was_cut_after_the_delete_is_continued_by_create() {
    let fake = by_hand();
    let options = options(|request| request.name = "old".into());
    let prepared = adopt::prepare(&fake, &options).unwrap();
    *fake.fail_at.lock().unwrap() = Some((prepared.plan.calls.len() - 1, "backendError"));
    refused(create::run(&fake, &prepared, &options));
    let said = refused(adopt::prepare(&fake, &options));
    assert!(said.contains("spotkeep gcp create --name=old"), "{said}");
    assert!(said.contains("--disk=data"), "{said}");
    make(&fake, &options).unwrap();
    assert_eq!(
        fake.world.lock().unwrap().disks["data"]["users"],
        json!(["old-vm"])
    );
}

#[test]
fn a_preemption_is_reported_from_the_vms_journal() {
    let fake = made();
    let back = UP.replace("\"l1\"", "\"l2\"").replace(
        "\"keeper\"",
        "\"last_save\":{\"id\":\"n\",\"clean\":true,\"notice_to_safe_ms\":800},\"keeper\"",
    ) + r#"== events
{"version":1,"seq":9,"at":"2026-11-22T10:00:21Z","data_dir_id":"r","epoch":2,"boot_id":"l2","event":"resumed","agent":"a","session_id":"s","continued":true}
"#;
    fake.says(&[UP, UP, "! Connection timed out", &back]);
    let found = start_stop::discover_vm(&fake, "vm", None).unwrap();
    let report = preempt::run(
        &fake,
        "vm",
        &start_stop::running_guest(&found, "vm").unwrap(),
        TIMEOUT,
    )
    .unwrap();
    assert_eq!(changed(&fake), ["instances simulate-maintenance-event vm"]);
    assert_eq!(
        (
            report.verdict,
            report.sessions_resumed,
            report.turns_continued
        ),
        ("pass", 1, 1)
    );
    assert_eq!(report.notice_to_safe_ms, Some(800));
    assert_eq!(report.away_ms, 10_000);
}

#[test]
fn a_preemption_without_capacity_is_reported_and_a_lost_login_ends_the_wait() {
    let fake = made();
    fake.says(&[UP, "! Connection timed out"]);
    let preempt = || {
        let found = start_stop::discover_vm(&fake, "vm", None).unwrap();
        let guest = start_stop::running_guest(&found, "vm").unwrap();
        refused(preempt::run(&fake, "vm", &guest, TIMEOUT))
    };
    let said = preempt();
    assert!(
        said.contains("it does not answer (Connection timed out)"),
        "{said}"
    );
    fake.says(&[UP, "! Reauthentication required"]);
    let said = preempt();
    assert!(said.contains("gcloud auth login"), "{said}");
    // The group has no machine for it.
    fake.says(&[UP, "! Connection refused"]);
    fake.edit(|world| {
        world.gone_when_preempted = true;
    });
    let said = preempt();
    assert!(
        said.contains("europe-north1-b has no capacity for this machine type"),
        "{said}"
    );
    assert!(said.contains("spotkeep gcp status --name=vm"), "{said}");
}

#[test]
fn recorded_gcloud_errors_are_classified() {
    let recorded = include_str!("testdata/refusals.txt");
    let mut count = 0;
    for case in recorded
        .split("\n== ")
        .filter(|case| !case.starts_with('#'))
    {
        let (fault, text) = case.split_once('\n').unwrap();
        assert_eq!(
            format!("{:?}", Fault::from_text(text)),
            fault.trim_start_matches("== "),
            "{text}"
        );
        count += 1;
    }
    assert!(count > 10, "{count}");
}

#[test]
fn a_status_shows_since_when_the_zone_has_no_capacity() {
    let mut found = super::discover::GcpInventory {
        group: Some(super::discover::Group {
            name: "vm".into(),
            zone: ZONE.into(),
            template: "t".into(),
            target_size: 1,
            stopped_size: 0,
        }),
        ..super::discover::GcpInventory::default()
    };
    let member = json!({"instance": "x/vm", "currentAction": "CREATING"});
    found.members = vec![super::discover::Member::from_json(&member)];
    let error = |minute: u32| {
        json!({
            "timestamp": format!("2026-11-22T10:{minute:02}:00Z"),
            "error": {"code": "ZONE_RESOURCE_POOL_EXHAUSTED"},
        })
    };
    let errors = json!([error(50), error(40), error(20)]);
    let preempted = json!([
        {"insertTime": "2026-11-22T03:35:00.000-07:00",
         "operationType": "compute.instances.preempted", "targetLink": "x/instances/vm"},
        {"insertTime": "2026-11-22T03:55:00.000-07:00", "operationType": "stop",
         "targetLink": "x/instances/vm"}]);
    let report = status::evaluate("vm", &found, None, &errors, &preempted);
    assert_eq!(report.state, "no-capacity");
    // The error of 10:20 is from before the last start.
    assert_eq!(
        report.no_capacity_since,
        Timestamp::parse("2026-11-22T10:40:00Z")
    );
    // If the list of errors is full, it lacks older ones: the time of the last preemption counts.
    let full: Vec<_> = (0..super::queries::ERRORS).map(|_| error(50)).collect();
    let long = status::evaluate("vm", &found, None, &json!(full), &preempted);
    assert_eq!(
        long.no_capacity_since,
        Timestamp::parse("2026-11-22T10:35:00Z")
    );
    let now = Timestamp::parse("2026-11-22T11:00:00Z").unwrap();
    let text = report.lines(now).join("\n");
    assert!(
        text.contains("no capacity since 2026-11-22 10:40:00 UTC (20m 0s ago)"),
        "{text}"
    );
}

/// Fails if the shells of this machine cannot parse a script.
fn assert_is_shell(script: &str) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("script");
    std::fs::write(&file, script).unwrap();
    for shell in ["bash", "sh"] {
        let said = Command::new(shell).arg("-n").arg(&file).output().unwrap();
        assert!(said.status.success(), "{shell}: {said:?}");
    }
}

#[test]
fn a_dry_run_is_a_script_that_a_shell_can_parse() {
    let mut create = options(|_| ());
    create.first.binary = "/usr/local/bin/spotkeep".into();
    let fake = FakeGcloud::new();
    // The binary in `create` does not exist; only `prepare` reads it.
    let mut prepared = create::prepare(&fake, &options(|_| ())).unwrap();
    let script = create::script(&prepared, &create, "create");
    assert_is_shell(&script);
    insta::assert_snapshot!("create", script);
    create.request.name = "old".into();
    create.first.beside_other_files = true;
    prepared = adopt::prepare(&by_hand(), &create).unwrap();
    let script = create::script(&prepared, &create, "adopt");
    assert_is_shell(&script);
    insta::assert_snapshot!("adopt", script);
    assert!(fake.changed().is_empty());
}
