//! An upgrade of machines that the old program has set up, with real systemd.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::boot::{Disk, Machine, Site, agent, with_a_site};
use crate::old_program::{OLD_PROGRAM, OLD_RECOVER_UNIT, old_program};

const NEW_PROGRAM: &str = "/usr/local/bin/spotkeep-under-test";

/// A machine that the old program has set up, whose agent `a` is in a tool and whose agent `b` is
/// idle; and the start-up script that it printed for the next machine.
fn machine<'r>(site: &'r Site, disk: &Disk, program: &Path) -> (Machine<'r>, String) {
    let mut machine = Machine::new(site).with_old_program(program);
    machine.boot(Some(disk));
    let said = machine
        .setup_by(OLD_PROGRAM, "--claude /usr/local/bin/claude")
        .ok();
    let script = said.out.split_once("#!/bin/sh").unwrap().1.to_owned();
    machine.configure(&(agent("a", "tool") + &agent("b", "idle")));
    machine.spotkeep("up").ok();
    machine.wait_open("a");
    machine.wait_state("b", "idle");
    assert!(unit_files(&machine).contains(OLD_RECOVER_UNIT));
    (machine, script)
}

fn sessions(machine: &Machine<'_>) -> [Value; 2] {
    let sessions = ["a", "b"].map(|name| machine.agent(name)["session_id"].clone());
    assert!(sessions.iter().all(Value::is_string), "{sessions:?}");
    sessions
}

fn pids(machine: &Machine<'_>) -> [i64; 2] {
    ["a", "b"].map(|name| machine.pid(name))
}

/// Waits until the turn that was cut has been continued to its end, and the other agent is idle.
fn wait_back(machine: &Machine<'_>) {
    for name in ["a", "b"] {
        machine.wait_state(name, "idle");
    }
    assert!(machine.site.model.request_log().agents["a"].turns_ended > 0);
}

/// The names of spotkeep's unit files on a machine.
fn unit_files(machine: &Machine<'_>) -> BTreeSet<String> {
    let list = machine.run("cd /etc/systemd/system && ls -d spotkeep*");
    list.ok().out.lines().map(str::to_owned).collect()
}

/// The machine has the units of this version and no others, and systemd has loaded them.
fn assert_units_are_new(machine: &Machine<'_>) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("units");
    let names = fs::read_dir(dir).unwrap().map(|entry| {
        let name = entry.unwrap().file_name();
        name.into_string().unwrap()
    });
    let shipped: BTreeSet<String> = names
        .filter(|name| name.ends_with(".service") || name.ends_with(".timer"))
        .collect();
    assert!(shipped.contains("spotkeep.service"), "{shipped:?}");
    assert_eq!(unit_files(machine), shipped);
    let list = machine.run("systemctl list-unit-files --no-legend 'spotkeep*'");
    let known = list.ok().out;
    let known = known.lines().filter_map(|line| line.split(' ').next());
    assert_eq!(known.map(str::to_owned).collect::<BTreeSet<_>>(), shipped);
    for unit in shipped {
        assert_eq!(machine.property(&unit, "LoadState"), "loaded", "{unit}");
        assert_eq!(machine.property(&unit, "NeedDaemonReload"), "no", "{unit}");
    }
    // The units that the keeper's unit names exist.
    let wants = machine.property("spotkeep", "Wants");
    for unit in wants.split(' ').filter(|unit| unit.starts_with("spotkeep")) {
        assert_eq!(machine.property(unit, "LoadState"), "loaded", "{unit}");
    }
    let differ = machine.run("/mnt/persist/bin/spotkeep --data-dir /mnt/persist units --dry-run");
    assert_eq!(differ.ok().out, "");
}

fn assert_a_clean_save(text: &str) {
    assert!(
        text.contains("everything safe after") && !text.contains("NOT CLEAN"),
        "{text}"
    );
}

#[test]
fn old_units_and_the_old_start_up_script_bring_the_fleet_back() {
    let test = "boot_upgrade::old_units_and_the_old_start_up_script_bring_the_fleet_back";
    let Some(program) = old_program(test) else {
        return;
    };
    with_a_site(|site| {
        let disk = Disk::blank(&site.dir, 1200);
        let (mut first, script) = machine(site, &disk, &program);
        let (sessions_before, old_units) = (sessions(&first), unit_files(&first));

        // Only the program is replaced. At the shutdown it saves the fleet of the old keeper.
        let keeper = first.property("spotkeep", "MainPID");
        first
            .run(&format!(
                "cd /mnt/persist/bin && cp {NEW_PROGRAM} .new && mv .new spotkeep"
            ))
            .ok();
        assert_eq!(first.property("spotkeep", "MainPID"), keeper);
        assert_a_clean_save(&first.power_off().text());
        site.model.next_boot();
        first.boot(Some(&disk));
        wait_back(&first);
        assert_eq!(sessions(&first), sessions_before);
        assert_eq!(unit_files(&first), old_units);
        assert_eq!(first.status()["last_save"]["clean"], true);
        first
            .run(&format!(
                "systemctl start {OLD_RECOVER_UNIT} spotkeep-backup.service"
            ))
            .ok();

        // Its units are installed, without an effect on any agent.
        let before = pids(&first);
        first
            .run("/mnt/persist/bin/spotkeep --data-dir /mnt/persist units")
            .ok();
        assert_units_are_new(&first);
        first.run("systemctl restart spotkeep").ok();
        assert_eq!(pids(&first), before);
        first.cut();
        site.model.next_boot();

        // A new boot disk, and the script that the old program printed.
        let mut second = Machine::new(site).with_old_program(&program);
        second.script("/startup", &script);
        second.boot(Some(&disk));
        second.run("/startup").ok();
        wait_back(&second);
        assert_eq!(sessions(&second), sessions_before);
        assert_units_are_new(&second);
        let again = second.run("/startup").ok();
        assert!(again.out.starts_with("nothing to do"), "{again:?}");
    });
}

#[test]
fn an_upgrade_by_the_old_program_brings_the_new_units_and_touches_no_agent() {
    let test =
        "boot_upgrade::an_upgrade_by_the_old_program_brings_the_new_units_and_touches_no_agent";
    let Some(program) = old_program(test) else {
        return;
    };
    with_a_site(|site| {
        let disk = Disk::blank(&site.dir, 1200);
        let (mut machine, _) = machine(site, &disk, &program);
        let (before, sessions_before) = (pids(&machine), sessions(&machine));
        let keeper = machine.property("spotkeep", "MainPID");
        let done = machine
            .run(&format!(
                "/mnt/persist/bin/spotkeep setup --upgrade {NEW_PROGRAM}"
            ))
            .ok();
        assert!(done.out.contains("no agent was touched"), "{done:?}");
        assert_ne!(machine.property("spotkeep", "MainPID"), keeper);
        machine
            .run(&format!("cmp /mnt/persist/bin/spotkeep {NEW_PROGRAM}"))
            .ok();
        assert_eq!(pids(&machine), before);
        assert_eq!(machine.agent("a")["state"], "running");
        assert_units_are_new(&machine);
        let starts = machine.spotkeep("events --json -n 1000").ok().out;
        assert_eq!(starts.matches("\"event\":\"starting\"").count(), 2);

        assert_a_clean_save(&machine.power_off().text());
        site.model.next_boot();
        machine.boot(Some(&disk));
        wait_back(&machine);
        assert_eq!(sessions(&machine), sessions_before);
    });
}
