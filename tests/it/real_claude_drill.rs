//! Drills of all three kinds with the real Claude Code.

use std::process::Command;

use serde_json::Value;

use crate::real_claude::{Version, with_oldest_and_newest};
use crate::support::{Lab, SPOTKEEP, run};

/// Runs `spotkeep drill` with this version, checks what holds for every kind, and returns the
/// report.
fn drill(version: &Version, kind: &str) -> Value {
    let mut command = Command::new(SPOTKEEP);
    command
        .args(["drill", "--json", "--kind", kind, "--claude"])
        .arg(&version.program)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("HOME", "/nonexistent")
        .env("SPOTKEEP_LOOPBACK_ONLY", "1");
    let output = run(&mut command).unwrap();
    let report: Value =
        serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    let passed = report["verdict"] == "pass";
    assert_eq!(output.status.code(), Some(if passed { 0 } else { 3 }));
    assert_eq!(report["claude"], version.number.as_str());
    assert_eq!(report["kind"], kind);
    assert_eq!(
        report["isolation"],
        "in a network namespace with only loopback"
    );
    assert_eq!(
        report["sessions_resumed"], report["agents_total"],
        "{report:#}"
    );
    assert_eq!(report["turns_continued"], report["turns_cut"], "{report:#}");
    assert_eq!(report["workspaces_identical"], true, "{report:#}");
    assert!(report["turns_cut"].as_u64().unwrap() > 0, "{report:#}");
    assert!(report["records_before"].as_u64().unwrap() > 0, "{report:#}");
    report
}

#[test]
fn with_a_notice_every_agent_resumes_and_no_record_is_lost() {
    with_oldest_and_newest(|version| {
        let report = drill(version, "notice");
        assert_eq!(report["verdict"], "pass", "{report:#}");
        assert_eq!(report["records_lost"], 0, "{report:#}");
        assert!(report["notice_to_safe_ms"].is_u64(), "{report:#}");
    });
}

#[test]
fn when_everything_is_killed_every_agent_resumes() {
    with_oldest_and_newest(|version| {
        let report = drill(version, "kill");
        // A drill allows for 0.2 s, which is what Claude needs to write on an idle machine. Other
        // tests may run here, so a lost record may be a little older.
        for loss in report["losses"].as_array().unwrap() {
            let loss = loss.as_str().unwrap();
            let age = loss
                .strip_suffix(" ms old is lost")
                .and_then(|rest| rest.split(' ').next_back());
            let age = age.unwrap_or_else(|| panic!("{report:#}"));
            assert!(age.parse::<u64>().unwrap() < 2_000, "{report:#}");
        }
    });
}

#[test]
fn when_the_power_is_cut_every_agent_resumes() {
    with_oldest_and_newest(|version| {
        let report = drill(version, "power-cut");
        assert_eq!(report["verdict"], "pass", "{report:#}");
    });
}

#[test]
fn the_doctors_probe_passes_with_each_pinned_claude() {
    with_oldest_and_newest(|version| {
        let lab = Lab::new();
        let text = lab.config_text();
        let lines = text.lines().filter(|line| !line.starts_with("claude = "));
        lab.write_config(&lines.map(|line| format!("{line}\n")).collect::<String>());
        let mut command = lab.spotkeep(&["doctor", "--json", "--probe"]);
        command.env("SPOTKEEP_CLAUDE", &version.program);
        let output = run(&mut command).unwrap();
        let report: Value = serde_json::from_str(&output.stdout).unwrap();
        let checks = report["checks"].as_array().unwrap();
        for name in ["claude", "claude-behaviour"] {
            let check = checks.iter().find(|check| check["check"] == name).unwrap();
            assert_eq!(check["ok"], true, "{check:#}");
            assert_eq!(check["warning"], false, "{check:#}");
        }
    });
}
