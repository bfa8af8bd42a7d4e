//! Checks pairs of machine type and disk type, and which machine types can be Spot VMs.
//!
//! Only pairs that Google's pages exclude are refused; the API checks the others.
//!
//! Sources: the machine family pages ("C4, C4A, C4D, N4, N4A, N4D take Hyperdisk only"; the Arm
//! series); the page on Spot VMs and the machine family comparison (no Spot for M2, M3, X4, A4X,
//! nor for bare metal).

use sys::error::{ErrorKind, Hint as _, Result, anyhow};

/// A processor that a program is built for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arch {
    /// Intel and AMD.
    X86,
    /// Google Axion, Ampere.
    Arm,
}

impl Arch {
    /// Returns the common name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::X86 => "x86-64",
            Self::Arm => "arm64",
        }
    }

    /// Returns the processor of a Linux program, by the head of its file (ELF, `e_machine`).
    #[must_use]
    pub fn from_program(head: &[u8]) -> Option<Self> {
        if !head.starts_with(b"\x7fELF") {
            return None;
        }
        match head.get(18..20)? {
            [62, 0] => Some(Self::X86),
            [183, 0] => Some(Self::Arm),
            _ => None,
        }
    }
}

/// The properties of a machine series.
struct Series {
    name: &'static str,
    hyperdisk_only: bool,
    arch: Arch,
    no_spot: bool,
}

const fn series(name: &'static str, hyperdisk_only: bool, arch: Arch, no_spot: bool) -> Series {
    Series {
        name,
        hyperdisk_only,
        arch,
        no_spot,
    }
}

/// The series that differ from the default (x86, any disk, Spot).
const SERIES: [Series; 11] = [
    series("c4", true, Arch::X86, false),
    series("c4a", true, Arch::Arm, false),
    series("c4d", true, Arch::X86, false),
    series("n4", true, Arch::X86, false),
    series("n4a", true, Arch::Arm, false),
    series("n4d", true, Arch::X86, false),
    series("t2a", false, Arch::Arm, false),
    series("m2", false, Arch::X86, true),
    series("m3", false, Arch::X86, true),
    series("x4", false, Arch::X86, true),
    series("a4x", false, Arch::Arm, true),
];

fn series_of(machine_type: &str) -> Option<&'static Series> {
    let name = machine_type.split('-').next()?;
    SERIES.iter().find(|series| series.name == name)
}

/// Returns the processor of a machine type.
#[must_use]
pub fn arch(machine_type: &str) -> Arch {
    series_of(machine_type).map_or(Arch::X86, |series| series.arch)
}

/// Returns the default type of the data disk for a machine type.
#[must_use]
pub fn data_disk_type(machine_type: &str) -> &'static str {
    match series_of(machine_type) {
        Some(series) if series.hyperdisk_only => "hyperdisk-balanced",
        _ => "pd-ssd",
    }
}

/// Returns the type of the boot disk for a machine type.
#[must_use]
pub fn boot_disk_type(machine_type: &str) -> &'static str {
    match series_of(machine_type) {
        Some(series) if series.hyperdisk_only => "hyperdisk-balanced",
        _ => "pd-balanced",
    }
}

/// Refuses a machine type that cannot be a Spot VM, or cannot have such a disk.
///
/// # Errors
/// The pair is not possible; the hint has one that is.
pub fn check(machine_type: &str, disk_type: &str) -> Result<()> {
    let Some(series) = series_of(machine_type) else {
        return metal(machine_type);
    };
    if series.no_spot {
        return Err(anyhow!(
            "{machine_type} cannot be a Spot VM: the series {} has none",
            series.name
        ))
        .hint("--machine-type=n2-standard-4, or another series that has Spot VMs")
        .kind(ErrorKind::Usage);
    }
    if series.hyperdisk_only && !disk_type.starts_with("hyperdisk-") {
        return Err(anyhow!(
            "{machine_type} cannot have a disk of type {disk_type}: the series {} takes Hyperdisk \
             only",
            series.name
        ))
        .hint(format!(
            "--type=hyperdisk-balanced with {machine_type}, or --machine-type={} with {disk_type}",
            other_machine(machine_type)
        ))
        .kind(ErrorKind::Usage);
    }
    metal(machine_type)
}

fn metal(machine_type: &str) -> Result<()> {
    if machine_type.ends_with("-metal") {
        return Err(anyhow!(
            "{machine_type} cannot be a Spot VM: bare metal has none"
        ))
        .hint("a machine type without -metal")
        .kind(ErrorKind::Usage);
    }
    Ok(())
}

/// Returns a machine type of about the same size that supports persistent disks.
fn other_machine(machine_type: &str) -> String {
    let size = machine_type
        .split_once('-')
        .map_or("standard-4", |(_, size)| size);
    let size = size.trim_end_matches("-lssd");
    match arch(machine_type) {
        // The only Arm series with persistent disks has only these sizes.
        Arch::Arm => "t2a-standard-4".to_owned(),
        Arch::X86 => format!("n2-{size}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sys::error::hint_of;

    #[test]
    fn invalid_pairs_are_refused_with_a_valid_one() {
        for (machine, disk, reason, instead) in [
            (
                "c4a-highcpu-16",
                "pd-ssd",
                "Hyperdisk only",
                "--type=hyperdisk-balanced",
            ),
            (
                "c4-standard-8",
                "pd-balanced",
                "Hyperdisk only",
                "n2-standard-8",
            ),
            (
                "c4d-standard-8",
                "pd-ssd",
                "Hyperdisk only",
                "n2-standard-8",
            ),
            (
                "n4-highmem-4",
                "pd-standard",
                "Hyperdisk only",
                "n2-highmem-4",
            ),
            (
                "n4a-standard-4",
                "pd-ssd",
                "Hyperdisk only",
                "t2a-standard-4",
            ),
            (
                "n4d-standard-2",
                "pd-ssd",
                "Hyperdisk only",
                "n2-standard-2",
            ),
            ("m3-ultramem-32", "pd-ssd", "no Spot", ""),
            ("x4-megamem-960-metal", "hyperdisk-extreme", "Spot VM", ""),
            (
                "c3-standard-192-metal",
                "hyperdisk-balanced",
                "bare metal",
                "",
            ),
        ] {
            let error = check(machine, disk).unwrap_err();
            let text = format!("{error:#} / {}", hint_of(&error).unwrap());
            assert!(
                text.contains(reason)
                    || reason == "no Spot" && text.contains("cannot be a Spot VM"),
                "{text}"
            );
            assert!(text.contains(instead), "{text}");
        }
    }

    #[test]
    fn the_defaults_of_every_series_are_a_valid_pair() {
        for machine in [
            "e2-standard-4",
            "n2-standard-4",
            "c3-standard-4",
            "t2a-standard-4",
        ]
        .into_iter()
        .chain(["c4-standard-4", "c4a-standard-4", "c4d-standard-4"])
        .chain(["n4-standard-4", "n4a-standard-4", "n4d-standard-4"])
        {
            check(machine, data_disk_type(machine)).unwrap();
            check(machine, boot_disk_type(machine)).unwrap();
        }
    }

    #[test]
    fn the_processor_of_a_program_is_read_from_its_file() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let expected = if cfg!(target_arch = "aarch64") {
            Arch::Arm
        } else {
            Arch::X86
        };
        assert_eq!(Arch::from_program(&own), Some(expected));
        assert_eq!(Arch::from_program(b"#!/bin/sh\n"), None);
        assert_eq!(arch("c4a-highcpu-16"), Arch::Arm);
        assert_eq!(arch("c4-highcpu-16"), Arch::X86);
    }
}
