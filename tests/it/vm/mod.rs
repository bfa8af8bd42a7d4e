//! Drills in an emulated virtual machine with Debian's kernel.
//!
//! They cover the power button, power cuts, a new boot disk with the old data disk, and cgroups as
//! on a cloud VM. The agents are fakes; the fake API that they talk to, and that counts the
//! records, runs outside of the machine.
//!
//! `make vm-drill` runs these with their figures; `CUTS=20` cuts the power as often.

mod fleet;
mod machine;

use std::path::Path;
use std::time::{Duration, Instant};

use crate::loopback::{again_on_loopback, is_on_loopback, name_of};
use crate::support::{is_root, skip};
use fleet::Fleet;
use machine::{BOOT_LIMIT, DataDisk, LIMIT, Machine};

/// From the ACPI signal of a spot VM to its end:
/// <https://cloud.google.com/compute/docs/instances/spot>.
const SHUTDOWN_PERIOD: Duration = Duration::from_secs(30);

/// How often the power is cut without a notice.
fn cuts() -> u32 {
    std::env::var("CUTS").map_or(2, |cuts| cuts.parse().unwrap())
}

/// The number of agents: half of them write without a pause, half are in a tool. A start takes some
/// ten seconds on an emulated processor.
const AGENTS: usize = 4;

/// How old a record may be that is lost when the machine, or one agent, ends without a notice.
const TRANSCRIPT_WINDOW: Duration = Duration::from_secs(2);

/// Runs `check` where a machine can be emulated, on loopback only.
fn with_machines<Check: Fn(Fleet)>(check: Check) {
    let test = name_of::<Check>();
    if std::env::var_os("SPOTKEEP_WITHOUT_VM").is_some() {
        eprintln!("skipped: {test}: virtual machines are `make vm-drill`");
        return;
    }
    if !is_root() {
        return skip(&test, "a network namespace needs root");
    }
    let made = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/vm/made-by");
    if !made.is_file() {
        return skip(&test, "there is no boot disk (scripts/vm-image)");
    }
    if is_on_loopback() {
        check(Fleet::new(&test));
    } else {
        again_on_loopback(&test);
    }
}

#[test]
fn a_vm_saves_in_time_after_its_power_button_and_resumes_from_a_new_boot_disk() {
    with_machines(|mut fleet| {
        let mut machine = fleet.power_on(DataDisk::Attached);
        fleet.set_up(&mut machine, AGENTS);
        fleet.wait_until_at_work(&mut machine);

        fleet.metadata.preempt();
        let pressed = Instant::now();
        machine.press_power_button();
        let in_time = machine.is_off_by(pressed + SHUTDOWN_PERIOD);
        let off_after = pressed.elapsed();
        assert!(in_time, "it was not off in time\n{}", machine.console());
        eprintln!("power button to off: {off_after:.1?}");
        drop(machine);
        fleet.machine_is_gone();
        let losses = fleet.losses_on_the_disk(pressed);
        assert!(losses.is_empty(), "{losses:?}");
        let save = fleet.last_save();
        assert!(save["clean"] == true && save["final"] == true, "{save}");
        eprintln!("notice to safe: {} ms", save["stages"]["notice_to_safe_ms"]);

        // A new machine whose disk is attached late: the start-up script waits for it.
        fleet.keep_the_boot_disk();
        let on = Instant::now();
        let mut machine = fleet.power_on(DataDisk::Later);
        let waits = "systemctl show -P ActiveState startup-script; test -e \
                     /dev/disk/by-id/google-claude-persist";
        machine.until("the start-up script waits", BOOT_LIMIT, waits, |left| {
            (left.code != 0 && left.text.trim() == "activating").then_some(())
        });
        machine.attach_data_disk();
        fleet.wait_until_back(&mut machine);
        eprintln!(
            "a new boot disk to every agent resumed: {:.1?}",
            on.elapsed()
        );
        an_agent_out_of_memory_is_ended_alone_and_resumed(&mut fleet, &mut machine);

        // The same boot disk without a start-up script: the boot ends before the disk is attached.
        fleet.without_a_startup_script();
        // From here on, the fake API may send answers to agents that have ended.
        let pressed = Instant::now();
        machine.press_power_button();
        assert!(
            machine.is_off_by(Instant::now() + LIMIT),
            "{}",
            machine.console()
        );
        fleet.machine_is_gone();
        let losses = fleet.losses_on_the_disk(pressed);
        assert!(losses.is_empty(), "{losses:?}");
        let mut machine = fleet.power_on(DataDisk::Later);
        machine.until(
            "the machine is up without its disk",
            BOOT_LIMIT,
            "systemctl is-active multi-user.target",
            |left| (left.code == 0).then_some(()),
        );
        let units = machine
            .run(
                "systemctl is-active mnt-persist.mount spotkeep-tmux spotkeep spotkeep-save; ls -A \
                 /mnt/persist",
                LIMIT,
            )
            .text;
        assert_eq!(units, "inactive\n".repeat(4));
        machine.attach_data_disk();
        fleet.wait_until_back(&mut machine);
    });
}

fn an_agent_out_of_memory_is_ended_alone_and_resumed(fleet: &mut Fleet, machine: &mut Machine) {
    let before = fleet.agents(machine);
    let target = "agent-1";
    let pid = before[target]["pid"].as_i64().unwrap();
    // A process that uses up memory joins the agent's cgroup, and the whole agent is ended.
    let exhausted = machine.run(
        &format!(
            "group=$(sed -n s/^0:://p /proc/{pid}/cgroup) && echo $BASHPID \
             >/sys/fs/cgroup$group/cgroup.procs && exec tail /dev/zero"
        ),
        LIMIT,
    );
    let ended = Instant::now();
    assert_eq!(exhausted.code, 128 + 9, "{exhausted:?}");
    let events = "spotkeep --data-dir /mnt/persist events -n 200 --json";
    let exited = machine.until("the end is logged", LIMIT, events, |left| {
        let lines = left.text.lines();
        let events = lines.filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        events
            .filter(|line| line["event"] == "exited" && line["agent"] == target)
            .find(|line| line["cause"]["kind"] == "out-of-memory")
    });
    eprintln!("out of memory: {exited}");
    fleet.an_agent_has_ended();
    machine.until(
        "the agent runs again",
        LIMIT,
        "spotkeep --data-dir /mnt/persist ls --json",
        |left| {
            let all: serde_json::Value = serde_json::from_str(&left.text).ok()?;
            let mut agents = all["agents"].as_array()?.iter();
            let back = agents.find(|agent| agent["name"] == target)?;
            (back["state"] == "running").then_some(())
        },
    );
    let after = fleet.agents(machine);
    for (name, agent) in &before {
        assert_eq!(agent["session_id"], after[name]["session_id"], "{name}");
        assert_eq!(agent["pid"] != after[name]["pid"], name == target, "{name}");
    }
    // Records that the process had not read, or had gathered for its next write (for a tenth of a
    // second, as Claude does), are lost with it. The kernel keeps what it had written.
    let losses = fleet.losses_at_its_end(machine, target, ended);
    let oldest = losses.iter().map(|lost| lost.age).max();
    eprintln!(
        "out of memory: {} records lost, the oldest {oldest:?} old",
        losses.len()
    );
    assert!(oldest <= Some(TRANSCRIPT_WINDOW), "{losses:?}");
}

#[test]
fn a_vm_whose_power_is_cut_loses_nothing_older_than_two_seconds() {
    with_machines(|mut fleet| {
        let cuts = cuts();
        let mut machine = fleet.power_on(DataDisk::Attached);
        fleet.set_up(&mut machine, AGENTS);
        let (mut records, mut lost) = (0, Vec::new());
        for cut in 0..cuts {
            fleet.wait_until_at_work(&mut machine);
            fleet.wait_for_more_records(20 + (cut as usize * 37) % 60);
            let at = machine.cut_power();
            fleet.machine_is_gone();
            let losses = fleet.losses_on_the_disk(at);
            let on = Instant::now();
            machine = fleet.power_on(DataDisk::Attached);
            fleet.wait_until_back(&mut machine);
            eprintln!(
                "cut {}: {} of {} records lost, back after {:.0?}",
                cut + 1,
                losses.len(),
                fleet.records(),
                on.elapsed()
            );
            records = fleet.records();
            lost.extend(losses);
        }
        let oldest = lost.iter().map(|lost| lost.age).max();
        eprintln!(
            "{cuts} cuts: {} of {records} records lost, the oldest {oldest:?} old",
            lost.len()
        );
        let late: Vec<_> = lost
            .iter()
            .filter(|lost| lost.age > TRANSCRIPT_WINDOW)
            .collect();
        assert!(late.is_empty(), "{late:?}");
    });
}
