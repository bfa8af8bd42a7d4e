//! The service manager: our units, and how long a shutdown may take before it comes to them.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use super::Check;
use super::facts::{Facts, Machine};
use crate::systemd::install::{self, Difference};
use crate::systemd::units::{self, UnitPaths};
use sys::time::{parse_duration, short};

/// From the power button to the end a preempted machine has 30 s; what waits longer than this for
/// somebody else's unit has used most of them up.
const LONGEST_STOP: Duration = Duration::from_secs(25);

/// A shutdown does not begin before the holders of delay inhibitors are done, or this has passed.
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
        let detail = "spotkeep.service was written by hand: whether it saves in time at a shutdown is up to it";
        return vec![Check::warn("units", detail, setup)];
    }
    if !facts.has_units {
        let detail = "nothing starts the keeper after a boot, and nothing saves at a shutdown";
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
    let mine = env!("CARGO_PKG_VERSION");
    let shipped = match (
        install::differences(facts.machine.prefix(), &paths),
        version,
    ) {
        (Err(error), _) => Check::failed("units", &error, setup),
        (Ok(found), Some(version)) if found.is_empty() => {
            Check::good("units", format!("as shipped, version {version}"))
        }
        (Ok(_), version) if version != Some(mine) => Check::warn(
            "units",
            format!(
                "of version {}, and this is {mine}",
                version.unwrap_or("unknown")
            ),
            setup,
        ),
        (Ok(found), _) => Check::warn("units", differs(&found), setup),
    };
    let wants = format!("{}/multi-user.target.wants", units::UNIT_DIR);
    let enabled = |unit: &&str| fs::symlink_metadata(facts.machine.path(&wants).join(unit)).is_ok();
    let left_out: Vec<&str> = units::ALL
        .into_iter()
        .filter(|unit| !enabled(unit))
        .collect();
    let mut checks = vec![shipped, check_enabled(&left_out)];
    let asked = facts
        .machine
        .ask("systemctl", &[&["is-active"], &units::ALL[..]].concat());
    checks.extend(asked.map(|said| check_active(&said)));
    checks
}

fn differs(found: &[Difference]) -> String {
    let one = |difference: &Difference| match difference {
        Difference::Missing(path) => format!("{} is missing", path.display()),
        Difference::Differs(path) => {
            format!("{} was edited (use a drop-in for that)", path.display())
        }
    };
    found.iter().map(one).collect::<Vec<_>>().join("; ")
}

fn check_enabled(left_out: &[&str]) -> Check {
    match left_out.is_empty() {
        true => Check::good("boot", "the units start at boot"),
        false => Check::wrong(
            "boot",
            format!("{} not started at boot", left_out.join(", ")),
            format!("sudo systemctl enable --now {}", left_out.join(" ")),
        ),
    }
}

/// A word for each of our units, in their order.
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

/// Our save stops before everything else. But it is also the way to a quick end: what comes after it
/// writes to the disk too, until the power goes.
fn check_stop_timeout(value: Option<&str>) -> Check {
    let limit = value.map_or(Some(Duration::from_secs(90)), span);
    let fix = "printf '[Manager]\\nDefaultTimeoutStopSec=15s\\n' | sudo tee /etc/systemd/system.conf.d/50-stop.conf && sudo systemctl daemon-reexec";
    match limit {
        Some(limit) if limit <= LONGEST_STOP => Check::good("stop-timeout", short(limit)),
        _ => Check::warn(
            "stop-timeout",
            format!(
                "a unit that hangs holds up the shutdown for {}, and 30 s are all there is: the disk is then not unmounted",
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
                "whoever holds an inhibitor may put off the shutdown, and with it the save, for {} of the 30 s",
                value.unwrap_or("so many")
            ),
            "sudo mkdir -p /etc/systemd/logind.conf.d; printf '[Login]\\nInhibitDelayMaxSec=5\\n' | sudo tee /etc/systemd/logind.conf.d/zz-spotkeep.conf && sudo systemctl kill -s HUP systemd-logind",
        ),
    }
}

/// The preemption presses it.
fn check_power_key(value: Option<&str>) -> Check {
    match value.unwrap_or("poweroff") {
        "poweroff" | "halt" => Check::good("power-key", "powers off, as the preemption asks for"),
        other => Check::wrong(
            "power-key",
            format!(
                "HandlePowerKey={other}: the machine does not shut down when it is preempted, it is cut off"
            ),
            "sudo mkdir -p /etc/systemd/logind.conf.d; printf '[Login]\\nHandlePowerKey=poweroff\\n' | sudo tee /etc/systemd/logind.conf.d/zz-spotkeep.conf && sudo systemctl kill -s HUP systemd-logind",
        ),
    }
}

/// A setting of `system.conf` or `logind.conf`, drop-ins included: those of `/etc` hide those of the
/// same name elsewhere, all are read in the order of their names, and the last word counts.
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

/// As systemd says yes.
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
    fn settings_that_eat_the_notice_are_told() {
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
