//! Detects the cloud provider from the machine's firmware.
//!
//! No packet is sent: on a laptop or in another cloud, a request to 169.254.169.254 goes to any
//! host that has that address there.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// Metadata key in which `spotkeep gcp` stores the length of the preemption notice, like `120s`.
pub const NOTICE_KEY: &str = "instance/attributes/spotkeep-notice";

/// A cloud whose preemption notice spotkeep supports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Provider {
    /// Google Compute Engine.
    Gcp,
    /// No cloud, or an unknown one: there are no preemption notices.
    None,
}

/// Value of `cloud.provider` in the configuration.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Choice {
    /// Detect it from the firmware.
    #[default]
    Auto,
    /// Google Compute Engine, whatever the firmware says: a container may not see it.
    Gcp,
    /// No cloud.
    None,
}

impl Choice {
    /// Returns the provider; `machine` is the root of the file system whose `/sys` is read, `/`
    /// outside of tests.
    #[must_use]
    pub fn resolve(self, machine: &Path) -> Provider {
        match self {
            Self::Auto => detect(machine),
            Self::Gcp => Provider::Gcp,
            Self::None => Provider::None,
        }
    }
}

/// Reads the DMI tables under `machine`. A file that cannot be read is taken for empty.
#[must_use]
pub fn detect(machine: &Path) -> Provider {
    let read = |name: &str| {
        fs::read_to_string(machine.join("sys/class/dmi/id").join(name))
            .map(|text| text.trim().to_owned())
            .unwrap_or_default()
    };
    decide(
        &read("product_name"),
        [
            &read("sys_vendor"),
            &read("board_vendor"),
            &read("bios_vendor"),
        ],
    )
}

/// Compute Engine says "Google Compute Engine", and said "Google" once. The vendor alone proves
/// nothing, since Chromebooks have it too, but their firmware has another vendor: where the product
/// name is hidden, all three vendors have to be Google.
fn decide(product: &str, vendors: [&str; 3]) -> Provider {
    let all_google = vendors.iter().all(|vendor| *vendor == "Google");
    match product {
        "Google Compute Engine" => Provider::Gcp,
        "Google" | "" if all_google => Provider::Gcp,
        _ => Provider::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_firmware_tells_compute_engine_from_other_machines() {
        let google = ["Google", "Google", "Google"];
        let table = [
            ("Google Compute Engine", google, Provider::Gcp),
            ("Google Compute Engine", ["", "", ""], Provider::Gcp),
            ("Google", google, Provider::Gcp),
            ("", google, Provider::Gcp),
            ("Eve", ["Google", "Google", "coreboot"], Provider::None),
            ("", ["Google", "Google", "coreboot"], Provider::None),
            ("", ["", "", ""], Provider::None),
            (
                "m7i.large",
                ["Amazon EC2", "Amazon EC2", "Amazon EC2"],
                Provider::None,
            ),
            (
                "Virtual Machine",
                [
                    "Microsoft Corporation",
                    "Microsoft Corporation",
                    "Microsoft Corporation",
                ],
                Provider::None,
            ),
        ];
        for (product, vendors, expected) in table {
            assert_eq!(decide(product, vendors), expected, "{product} {vendors:?}");
        }
    }

    #[test]
    fn the_dmi_tables_are_read_under_a_prefix() {
        let machine = tempfile::tempdir().unwrap();
        assert_eq!(Choice::Auto.resolve(machine.path()), Provider::None);
        let dmi = machine.path().join("sys/class/dmi/id");
        fs::create_dir_all(&dmi).unwrap();
        fs::write(dmi.join("product_name"), "Google Compute Engine\n").unwrap();
        assert_eq!(Choice::Auto.resolve(machine.path()), Provider::Gcp);
        assert_eq!(Choice::None.resolve(machine.path()), Provider::None);
        fs::write(dmi.join("product_name"), b"\xff\xfe").unwrap();
        assert_eq!(detect(machine.path()), Provider::None);
        assert_eq!(Choice::Gcp.resolve(machine.path()), Provider::Gcp);
    }

    #[test]
    fn a_choice_is_read_as_it_is_declared() {
        let choice: Choice = serde_json::from_str("\"gcp\"").unwrap();
        assert_eq!(choice, Choice::Gcp);
        assert!(serde_json::from_str::<Choice>("\"aws\"").is_err());
    }
}
