//! Tests of failures of the real gcloud, and of the errors and hints that spotkeep prints for them.

use std::fs;
use std::path::Path;

use gcp::Fault;
use gcp::gcloud_error::is_partial;

use super::compute::{Answer, Fault as Ordered, ZONE};
use super::{Laptop, agent, on_a_laptop, vm_reply};
use crate::support::run;

/// A call that fails: the expected kind of error, the arguments, the changes of the environment,
/// and the injected answer.
struct Case {
    fault: Fault,
    words: &'static str,
    env: &'static [(&'static str, Option<&'static str>)],
    answer: Option<(&'static str, &'static str, Answer)>,
}

fn cases() -> Vec<Case> {
    let case = |fault, words| Case {
        fault,
        words,
        env: &[],
        answer: None,
    };
    let create = |fault, disk, answer| Case {
        answer: Some(("POST", "/disks", answer)),
        ..case(fault, disk)
    };
    let list = "compute disks list --zones=europe-north1-b";
    let listed = |fault, status, reason, message| Case {
        answer: Some(("GET", "/disks", Answer::Status(status, reason, message))),
        ..case(fault, list)
    };
    let make = "compute disks create d --zone=europe-north1-b --size=10GB";
    vec![
        listed(
            Fault::Forbidden,
            403,
            "forbidden",
            "Required 'compute.disks.list' permission for 'projects/lab-project'",
        ),
        listed(
            Fault::ApiDisabled,
            403,
            "accessNotConfigured",
            "Compute Engine API has not been used in project 1234 before or it is disabled. Enable \
             it, then retry.",
        ),
        listed(
            Fault::RateLimit,
            403,
            "rateLimitExceeded",
            "Rate Limit Exceeded",
        ),
        Case {
            env: &[("CLOUDSDK_CORE_PROJECT", Some("other-project"))],
            ..case(Fault::WrongProject, list)
        },
        Case {
            env: &[("CLOUDSDK_CORE_PROJECT", None)],
            ..case(Fault::NoProject, list)
        },
        Case {
            env: &[
                ("CLOUDSDK_AUTH_DISABLE_CREDENTIALS", None),
                ("CLOUDSDK_CORE_ACCOUNT", None),
            ],
            ..case(Fault::Login, list)
        },
        create(
            Fault::Exists,
            make,
            Answer::Status(
                409,
                "alreadyExists",
                "The resource 'projects/lab-project/zones/europe-north1-b/disks/d' already exists",
            ),
        ),
        create(
            Fault::Quota,
            make,
            Answer::Operation(
                "QUOTA_EXCEEDED",
                "Quota 'SSD_TOTAL_GB' exceeded.  Limit: 500.0 in region europe-north1.",
            ),
        ),
        create(
            Fault::Unreachable,
            make,
            Answer::Status(503, "backendError", "Backend Error: Service Unavailable"),
        ),
        create(
            Fault::NoCapacity,
            make,
            Answer::Operation(
                "ZONE_RESOURCE_POOL_EXHAUSTED",
                "The zone does not have enough resources available to fulfill the request.",
            ),
        ),
        case(
            Fault::NotFound,
            "compute instances describe none --zone=europe-north1-b",
        ),
        case(
            Fault::InUse,
            "compute disks delete claude-persist --zone=europe-north1-b",
        ),
        case(
            Fault::TooOld,
            "compute instance-templates create t --no-such-flag-yet=120s",
        ),
        Case {
            env: &[("CLOUDSDK_CORE_HTTP_TIMEOUT", Some("1"))],
            answer: Some(("GET", "/disks", Answer::Silence)),
            ..case(Fault::Timeout, list)
        },
    ]
}

/// Runs a case on its own laptop, since the cases run in parallel.
fn run_case(case: &Case) -> String {
    let laptop = Laptop::new();
    laptop.make();
    if let Some((method, path, answer)) = &case.answer {
        laptop.compute.order(Ordered {
            method,
            path,
            answer: answer.clone(),
            times: 9,
        });
    }
    let mut gcloud = laptop.program("gcloud");
    gcloud
        .args(case.words.split(' '))
        .env("CLOUDSDK_CORE_DISABLE_PROMPTS", "1");
    for (name, value) in case.env {
        match value {
            Some(value) => gcloud.env(name, value),
            None => gcloud.env_remove(name),
        };
    }
    let output = run(&mut gcloud).unwrap();
    assert!(
        !output.status.success() || is_partial(&output.stderr),
        "{}: {output:?}",
        case.words
    );
    assert_eq!(
        Fault::from_text(&output.stderr),
        case.fault,
        "{}: {}",
        case.words,
        output.stderr
    );
    output.stderr
}

#[test]
fn gcp_the_refusals_of_the_real_gcloud_are_understood() {
    on_a_laptop(|_| {
        let cases = cases();
        let said: Vec<String> = std::thread::scope(|scope| {
            let threads: Vec<_> = cases
                .iter()
                .map(|case| scope.spawn(move || run_case(case)))
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        // On request, records the messages for the unit tests, which run without gcloud.
        if let Some(file) = std::env::var_os("SPOTKEEP_RECORD_REFUSALS") {
            let mut text =
                "# What gcloud 528.0.0 wrote to its standard error: what it means, then the words."
                    .to_owned();
            for (case, said) in cases.iter().zip(&said) {
                // The port differs between runs.
                let said = match said.split_once("port=") {
                    Some((head, tail)) => {
                        format!("{head}port=1{}", tail.trim_start_matches(char::is_numeric))
                    }
                    None => said.clone(),
                };
                text.push_str(&format!("\n== {:?}\n{}", case.fault, said.trim()));
            }
            fs::write(Path::new(&file), text + "\n").unwrap();
        }
    });
}

#[test]
fn gcp_a_create_that_fails_half_way_reports_the_cause_and_a_hint() {
    on_a_laptop(|laptop| {
        laptop.compute.order(Ordered {
            method: "POST",
            path: "/disks",
            answer: Answer::Operation(
                "QUOTA_EXCEEDED",
                "Quota 'SSD_TOTAL_GB' exceeded.  Limit: 40.0 in region europe-north1.",
            ),
            times: 1,
        });
        laptop
            .gcp(&["create", "--zone", ZONE, "--notice", "0s"])
            .refused_somewhere(
                1,
                "Quota 'SSD_TOTAL_GB' exceeded",
                "request more of SSD_TOTAL_GB",
            );
        assert_eq!(
            laptop.compute.changed(),
            [
                "POST regions/europe-north1/resourcePolicies".to_owned(),
                format!("POST zones/{ZONE}/disks"),
            ]
        );
        // The next create continues from there.
        laptop.will_answer(&vm_reply("ready", "l1", &agent("a", "running")));
        let said = laptop
            .gcp(&["create", "--zone", ZONE, "--notice", "0s"])
            .ok();
        assert!(said.out.ends_with("\n1 agent running\n"), "{said:?}");
        let group = format!("zones/{ZONE}/instanceGroupManagers");
        assert_eq!(
            laptop.compute.changed(),
            [
                format!("POST zones/{ZONE}/disks"),
                "POST global/instanceTemplates".to_owned(),
                format!("POST {group}"),
                format!("POST {group}/claude-sandbox/createInstances"),
            ]
        );
    });
}

#[test]
fn gcp_a_notice_that_this_gcloud_cannot_ask_for_is_refused_before_anything_is_made() {
    on_a_laptop(|laptop| {
        let said = run(laptop.program("gcloud").arg("version")).unwrap();
        let version = said.stdout.split_whitespace().nth(3).unwrap();
        let number: u32 = version.split('.').next().unwrap().parse().unwrap();
        let create = ["create", "--zone", ZONE, "--notice", "120s"];
        if number < gcp::vm_spec::NOTICE_SINCE {
            laptop.gcp(&create).refused_somewhere(
                2,
                "does not support a notice",
                "gcloud components update",
            );
            assert!(laptop.compute.changes().is_empty());
            return;
        }
        let dry = [&create[..], &["--dry-run"]].concat();
        let script = laptop.gcp(&dry).ok().out;
        assert!(
            script.contains("--preemption-notice-duration=120s"),
            "{script}"
        );
    });
}

#[test]
fn gcp_a_vm_that_does_not_run_has_no_terminal_and_nothing_to_preempt() {
    on_a_laptop(|laptop| {
        laptop.make();
        laptop.gcp(&["stop"]).ok();
        laptop.compute.changes();
        for words in [&["ssh", "a"][..], &["preempt", "--yes"]] {
            laptop.gcp(words).refused_somewhere(
                3,
                "claude-sandbox is stopped",
                "spotkeep gcp start",
            );
        }
        assert!(laptop.compute.changes().is_empty());
        laptop.gcp(&["status", "--json"]).ok();
    });
}

#[test]
fn gcp_without_gcloud_says_where_to_get_it() {
    let laptop = Laptop::new();
    laptop
        .gcp_with(&["status"], |command| {
            command.env("PATH", laptop.path("bin"));
        })
        .refused_somewhere(
            1,
            "gcloud is not installed",
            "https://cloud.google.com/sdk/docs/install",
        );
}

#[test]
fn gcp_combinations_that_do_not_exist_are_refused_before_any_call() {
    let laptop = Laptop::new();
    let no_gcloud = laptop.path("bin");
    for (words, error, hint) in [
        (
            &[
                "create",
                "--zone",
                ZONE,
                "--machine-type",
                "c4a-highcpu-16",
                "--type",
                "pd-ssd",
            ][..],
            "takes Hyperdisk only",
            "--type=hyperdisk-balanced",
        ),
        (
            &["create", "--zone", "europe"],
            "not a zone",
            "gcloud compute zones list",
        ),
        (
            &["create", "--zone", ZONE, "--machine-type", "m3-ultramem-32"],
            "cannot be a Spot VM",
            "--machine-type=",
        ),
        (
            &["stop", "--name", "No_Such"],
            "cannot be the name",
            "lower-case",
        ),
    ] {
        laptop
            .gcp_with(words, |command| {
                command.env("PATH", &no_gcloud);
            })
            .refused(2, error, hint);
    }
}
