//! Checks of systemd: spotkeep's units, and settings that delay a shutdown.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use super::Check;
use super::facts::{Facts, Machine};
use crate::systemd::install::{self, Difference};
use crate::systemd::units::{self, UnitPaths};
use sys::time::{parse_duration, short};

/// Longest stop timeout of other units. A preempted machine has 30 s from the power button to the
/// end; a unit that takes longer than this to stop uses up most of them.
const LONGEST_STOP: Duration = Duration::from_secs(25);

/// Longest `InhibitDelayMaxSec`: a shutdown waits that long for the holders of delay inhibitors.
const LONGEST_INHIBIT: Duration = Duration::from_secs(10);

pub(super) fn checks(facts: &Facts) -> Vec<Check> {
    if !facts.systemd || !facts.is_vm() {
        return Vec::new();
    }
    let setting = |file, key| setting(&facts.machine, file, key);
    let mut checks = check_units(facts);
    checks.push(check_stop_timeout(
        setting("system.conf", "DefaultTimeoutStopSec").as_deref(),
    ));
    checks.push(check_inhibit(
        setting("logind.conf", "InhibitDelayMaxSec").as_deref(),
    ));
    checks.push(check_power_key(
        setting("logind.conf", "HandlePowerKey").as_deref(),
    ));
    checks
}

fn check_units(facts: &Facts) -> Vec<Check> {
    let setup = "sudo spotkeep setup";
    let (Ok(data_dir), Some(owner)) = (&facts.data_dir, &facts.owner) else {
        return Vec::new();
    };
    if facts.has_own_unit {
        let detail = "spotkeep.service was written by hand: whether it saves in time at a \
                      shutdown is not checked";
        return vec![Check::warn("units", detail, setup)];
    }
    if !facts.has_units {
        let detail = "no unit starts the keeper at boot, and none saves at a shutdown";
        return vec![Check::wrong("units", detail, setup)];
    }
    let paths = UnitPaths {
        data_dir: data_dir.dir().to_path_buf(),
        is_mount: facts.expects_mount(),
        user: owner.name.clone(),
        home: owner.home.clone().unwrap_or_else(|| "/".into()),
        program: data_dir.dir().join("bin/spotkeep"),
    };
    let stamp = format!("{}/{}", units::UNIT_DIR, units::KEEPER);
    let text = facts.machine.read(&stamp).unwrap_or_default();
    let version = units::version_of(&text);
    let this = env!("CARGO_PKG_VERSION");
    let shipped = match (
        install::differences(facts.machine.prefix(), &paths),
        version,
    ) {
        (Err(error), _) => Check::failed("units", &error, setup),
        (Ok(found), Some(version)) if found.is_empty() => {
            Check::good("units", format!("as shipped, version {version}"))
        }
        (Ok(_), version) if version != Some(this) => Check::warn(
            "units",
            format!(
                "of version {}, and this program is version {this}",
                version.unwrap_or("unknown")
            ),
            setup,
        ),
        (Ok(found), _) => Check::warn("units", differs(&found), setup),
    };
    let wants = format!("{}/multi-user.target.wants", units::UNIT_DIR);
    let enabled = |unit: &&str| fs::symlink_metadata(facts.machine.path(&wants).join(unit)).is_ok();
    let disabled: Vec<&str> = units::ALL
        .into_iter()
        .filter(|unit| !enabled(unit))
        .collect();
    let mut checks = vec![shipped, check_enabled(&disabled)];
    let asked = facts
        .machine
        .output("systemctl", &[&["is-active"], &units::ALL[..]].concat());
    checks.extend(asked.map(|said| check_active(&said)));
    checks
}

fn differs(found: &[Difference]) -> String {
    let describe = |difference: &Difference| match difference {
        Difference::Missing(path) => format!("{} is missing", path.display()),
        Difference::Differs(path) => {
            format!(
                "{} was edited (use a drop-in: systemctl edit)",
                path.display()
            )
        }
    };
    found.iter().map(describe).collect::<Vec<_>>().join("; ")
}

fn check_enabled(disabled: &[&str]) -> Check {
    match disabled.is_empty() {
        true => Check::good("boot", "the units start at boot"),
        false => Check::wrong(
            "boot",
            format!("not started at boot: {}", disabled.join(", ")),
            format!("sudo systemctl enable --now {}", disabled.join(" ")),
        ),
    }
}

/// Checks the output of `systemctl is-active`: one line for each unit, in the order of
/// [`units::ALL`].
fn check_active(said: &str) -> Check {
    let states = units::ALL.into_iter().zip(said.lines().map(str::trim));
    let down: Vec<(&str, &str)> = states.filter(|(_, state)| *state != "active").collect();
    match down.first() {
        None => Check::good("running", "the units are active"),
        Some((unit, state)) => Check::wrong(
            "running",
            format!("{unit} is {state}"),
            format!("sudo systemctl start {unit}; journalctl -u {unit} -n 30"),
        ),
    }
}

/// Checks `DefaultTimeoutStopSec`. The save stops before everything else. But the shutdown after it
/// has to be quick too: units that stop later write to the disk until the power goes.
fn check_stop_timeout(value: Option<&str>) -> Check {
    let limit = value.map_or(Some(Duration::from_secs(90)), span);
    let fix = "printf '[Manager]\\nDefaultTimeoutStopSec=15s\\n' | sudo tee \
               /etc/systemd/system.conf.d/50-stop.conf && sudo systemctl daemon-reexec";
    match limit {
        Some(limit) if limit <= LONGEST_STOP => Check::good("stop-timeout", short(limit)),
        _ => Check::warn(
            "stop-timeout",
            format!(
                "a unit that hangs delays the shutdown by {}, and a preemption has 30 s: the disk \
                 is then not unmounted",
                value.unwrap_or("90s, the default")
            ),
            format!("sudo mkdir -p /etc/systemd/system.conf.d; {fix}"),
        ),
    }
}

fn check_inhibit(value: Option<&str>) -> Check {
    let limit = value.map_or(Some(Duration::from_secs(5)), span);
    match limit {
        Some(limit) if limit <= LONGEST_INHIBIT => Check::good("inhibit-delay", short(limit)),
        _ => Check::warn(
            "inhibit-delay",
            format!(
                "a process with an inhibitor may delay the shutdown, and with it the save, by {} \
                 of the 30 s",
                value.unwrap_or("an unknown part")
            ),
            "sudo mkdir -p /etc/systemd/logind.conf.d; printf '[Login]\\nInhibitDelayMaxSec=5\\n' \
             | sudo tee /etc/systemd/logind.conf.d/zz-spotkeep.conf && sudo systemctl kill -s HUP \
             systemd-logind",
        ),
    }
}

/// Checks `HandlePowerKey`: a preemption presses the power button.
fn check_power_key(value: Option<&str>) -> Check {
    match value.unwrap_or("poweroff") {
        "poweroff" | "halt" => Check::good("power-key", "powers off at a preemption"),
        other => Check::wrong(
            "power-key",
            format!(
                "HandlePowerKey={other}: a preempted machine is cut off instead of being shut down"
            ),
            "sudo mkdir -p /etc/systemd/logind.conf.d; printf \
             '[Login]\\nHandlePowerKey=poweroff\\n' | sudo tee \
             /etc/systemd/logind.conf.d/zz-spotkeep.conf && sudo systemctl kill -s HUP \
             systemd-logind",
        ),
    }
}

/// A setting of `system.conf` or `logind.conf`, drop-ins included: those of `/etc` hide those of
/// the same name elsewhere, all are read in the order of their names, and the last assignment
/// counts.
pub(super) fn setting(machine: &Machine, file: &str, key: &str) -> Option<String> {
    let places = ["usr/lib/systemd", "run/systemd", "etc/systemd"];
    let main = places
        .iter()
        .rev()
        .map(|place| machine.path(place).join(file))
        .find(|path| path.exists());
    let mut dropins: BTreeMap<std::ffi::OsString, PathBuf> = BTreeMap::new();
    for place in places {
        let entries = fs::read_dir(machine.path(place).join(format!("{file}.d")));
        for entry in entries.into_iter().flatten().flatten() {
            if entry.path().extension().is_some_and(|kind| kind == "conf") {
                dropins.insert(entry.file_name(), entry.path());
            }
        }
    }
    main.into_iter()
        .chain(dropins.into_values())
        .filter_map(|path| fs::read_to_string(path).ok())
        .filter_map(|text| assigned(&text, key))
        .next_back()
}

/// The last assignment of a key.
fn assigned(text: &str, key: &str) -> Option<String> {
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    let of_key = pairs.filter(|(name, _)| name.trim() == key);
    of_key.map(|(_, value)| value.trim().to_owned()).next_back()
}

/// Whether systemd reads the value as true.
pub(super) fn is_yes(value: &str) -> bool {
    matches!(value, "1" | "yes" | "y" | "true" | "t" | "on")
}

/// A span of time as systemd writes it: a bare number is seconds, and `infinity` is no span.
fn span(text: &str) -> Option<Duration> {
    match text.parse::<u64>() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => parse_duration(text).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_read_as_systemd_reads_it() {
        assert_eq!(span("15"), Some(Duration::from_secs(15)));
        assert_eq!(span("1min 30s"), Some(Duration::from_secs(90)));
        assert_eq!(span("infinity"), None);
    }

    #[test]
    fn settings_that_use_up_the_notice_are_not_good() {
        assert!(check_stop_timeout(None).warning);
        assert!(check_stop_timeout(Some("infinity")).warning);
        assert!(!check_stop_timeout(Some("15s")).warning);
        assert!(!check_inhibit(None).warning);
        assert!(check_inhibit(Some("30")).warning);
        assert!(check_power_key(None).ok);
        assert!(!check_power_key(Some("ignore")).ok);
    }

    #[test]
    fn the_last_assignment_of_a_key_counts() {
        let text =
            "[Login]\n#HandlePowerKey=halt\nHandlePowerKey=ignore\nHandlePowerKey = poweroff\n";
        assert_eq!(
            assigned(text, "HandlePowerKey").as_deref(),
            Some("poweroff")
        );
        assert_eq!(assigned(text, "KillUserProcesses"), None);
    }

    #[test]
    fn a_unit_that_does_not_run_is_named() {
        assert!(check_active("active\nactive\nactive\n").ok);
        let check = check_active("active\nfailed\nactive\n");
        assert!(
            !check.ok && check.detail.contains("spotkeep.service is failed"),
            "{check:?}"
        );
        assert!(!check_enabled(&["spotkeep-save.service"]).ok);
    }
}
