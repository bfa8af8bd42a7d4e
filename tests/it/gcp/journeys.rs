//! Tests of `spotkeep gcp` with the real gcloud: create, adopt, stop, start, preempt and delete.

use serde_json::{Value, json};

use super::compute::{Change, ZONE};
use super::{Laptop, agent, assert_golden, assert_is_shell, on_a_laptop, vm_reply};

/// Returns the requests as text, without the parts that differ between runs.
fn golden(laptop: &Laptop, changes: &[Change]) -> String {
    let lines = changes.iter().map(|change| {
        let mut body = change.body.clone();
        plain(laptop, &mut body);
        match body {
            Value::Null => format!("{} {}\n", change.method, change.path),
            body => format!("{} {}\n{body:#}\n", change.method, change.path),
        }
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn plain(laptop: &Laptop, value: &mut Value) {
    match value {
        Value::String(text) => {
            *text = text.replace(&laptop.compute.endpoint(), "COMPUTE/");
            if text.starts_with("#!/bin/sh") {
                *text = "(the start-up script)".into();
            }
        }
        Value::Array(list) => list.iter_mut().for_each(|value| plain(laptop, value)),
        Value::Object(map) => {
            map.remove("requestId");
            map.values_mut().for_each(|value| plain(laptop, value));
        }
        _ => {}
    }
}

#[test]
fn gcp_create_sends_the_recorded_requests_and_reports_the_agents() {
    on_a_laptop(|laptop| {
        let all = [
            agent("a", "running"),
            agent("b", "idle"),
            agent("c", "waiting"),
        ]
        .join(",");
        laptop.will_answer(&vm_reply("ready", "l1", &all));
        let said = laptop
            .gcp(&["create", "--zone", ZONE, "--notice", "0s"])
            .ok();
        assert!(said.out.ends_with("\n3 agents running\n"), "{said:?}");
        assert_golden(
            "create_requests",
            &golden(laptop, &laptop.compute.changes()),
        );
        assert_golden("create_ssh", &laptop.log());
        let disk = laptop
            .compute
            .thing(&format!("zones/{ZONE}/disks/claude-persist"))
            .unwrap();
        assert!(
            disk["users"][0]
                .as_str()
                .unwrap()
                .ends_with("/instances/claude-sandbox")
        );
    });
}

#[test]
fn gcp_a_second_create_changes_nothing_and_status_shows_the_vm() {
    on_a_laptop(|laptop| {
        laptop.make();
        laptop.answers(&vm_reply("ready", "l1", &agent("a", "running")));
        // gcloud leaves the filtering of operations to the API, so spotkeep checks each.
        for (number, kind) in [(1, "compute.instances.preempted"), (2, "stop")] {
            let target = format!("{}x/instances/claude-sandbox", laptop.compute.endpoint());
            laptop.compute.put(
                &format!("zones/{ZONE}/operations/operation-{number}"),
                json!({"operationType": kind, "status": "DONE", "targetLink": target,
                       "insertTime": "2026-11-22T03:35:00.000-07:00"}),
            );
        }
        let script = laptop.gcp(&["create", "--dry-run"]).ok().out;
        assert_is_shell(&script, &laptop.path("create.sh"));
        assert!(script.contains("# All of it exists already.\n"), "{script}");
        let report = laptop.gcp(&["status", "--json"]).ok().json();
        assert_eq!(report["state"], "running");
        assert_eq!(report["agents"], "1 agent running");
        assert_eq!(report["preemptions"], json!(["2026-11-22T10:35:00Z"]));
        assert_eq!(report["notice_seconds"], 0);
        assert_eq!(report["disk"]["size_gb"], 50);
        assert_eq!(report["disk"]["users"][0], "claude-sandbox");
        assert_eq!(report["disk"]["schedules"][0], "claude-sandbox-daily");
        assert!(laptop.compute.changes().is_empty());
        // The exact command for the shell on the VM.
        laptop.log();
        laptop.gcp(&["ssh", "agent-1"]).ok();
        assert_eq!(
            laptop.log(),
            "ssh u=$(stat -c %U /mnt/persist/session-state 2>/dev/null) && sudo -n -u \"$u\" -H \
             /mnt/persist/bin/spotkeep attach agent-1\n"
        );
    });
}

#[test]
fn gcp_adopt_takes_over_a_vm_made_by_hand_and_keeps_all_its_disks() {
    on_a_laptop(|laptop| {
        laptop.make_by_hand();
        laptop.answers(&vm_reply("ready", "l1", &agent("a", "running")));
        let said = laptop
            .gcp(&["adopt", "old", "--notice", "0s", "--yes"])
            .ok();
        assert!(said.out.ends_with("\n1 agent running\n"), "{said:?}");
        assert!(said.out.contains("the new VM is called old-vm"), "{said:?}");
        let vm = format!("zones/{ZONE}/instances/old");
        let group = format!("zones/{ZONE}/instanceGroupManagers");
        assert_eq!(
            laptop.compute.changed(),
            [
                "POST regions/europe-north1/resourcePolicies".to_owned(),
                format!("POST zones/{ZONE}/disks/claude-persist/addResourcePolicies"),
                "POST global/instanceTemplates".to_owned(),
                format!("POST {group}"),
                format!("POST {vm}/stop"),
                format!("POST {vm}/setDiskAutoDelete"),
                format!("DELETE {vm}"),
                format!("POST {group}/old/createInstances"),
            ]
        );
        assert!(laptop.compute.thing(&vm).is_none());
        let disk = |name: &str| laptop.compute.thing(&format!("zones/{ZONE}/disks/{name}"));
        assert!(disk("old").is_some(), "the old boot disk is gone");
        let users = disk("claude-persist").unwrap()["users"].to_string();
        assert!(users.contains("/instances/old-vm"), "{users}");
    });
}

#[test]
fn gcp_a_vm_is_stopped_started_preempted_and_deleted_and_its_disk_stays() {
    on_a_laptop(|laptop| {
        laptop.make();
        laptop.answers(&vm_reply("ready", "l2", &agent("a", "running")));
        let group = format!("zones/{ZONE}/instanceGroupManagers/claude-sandbox");
        laptop.gcp(&["stop"]).ok();
        assert_eq!(
            laptop.compute.changed(),
            [format!("POST {group}/stopInstances")]
        );
        let said = laptop.gcp(&["start"]).ok();
        assert_eq!(said.out, "1 agent running\n");
        assert_eq!(
            laptop.compute.changed(),
            [format!("POST {group}/startInstances")]
        );
        laptop
            .gcp(&["delete"])
            .refused_somewhere(2, "not done", "--yes");
        assert!(laptop.compute.changes().is_empty());
        let said = laptop.gcp(&["delete", "--yes"]).ok();
        assert!(said.out.contains("--and-data=claude-persist"), "{said:?}");
        let left = laptop.compute.paths();
        let left: Vec<_> = left
            .iter()
            .filter(|path| !path.contains("/machineTypes/"))
            .collect();
        assert_eq!(left, [&format!("zones/{ZONE}/disks/claude-persist")]);
    });
}

#[test]
fn gcp_preempt_preempts_the_vm_and_counts_the_resumed_sessions() {
    on_a_laptop(|laptop| {
        laptop.make();
        laptop.answers(&vm_reply("ready", "l1", &agent("a", "running")));
        laptop.preempted_answers(&vm_reply("ready", "l2", &agent("a", "running")));
        let report = laptop.gcp(&["preempt", "--yes", "--json"]).ok().json();
        assert_eq!(report["verdict"], "pass");
        assert_eq!(report["sessions_resumed"], 1);
        assert_eq!(report["turns_continued"], 1);
        assert_eq!(report["notice_to_safe_ms"], 700);
        assert_eq!(report["boot_to_resumed_ms"], 21_000);
        assert_eq!(
            laptop.compute.changed(),
            [format!(
                "POST zones/{ZONE}/instances/claude-sandbox/simulateMaintenanceEvent"
            )]
        );
        // The group has recreated the VM.
        let vm = laptop
            .compute
            .thing(&format!("zones/{ZONE}/instances/claude-sandbox"));
        assert_eq!(vm.unwrap()["status"], "RUNNING");
    });
}
