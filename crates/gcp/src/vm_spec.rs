//! The specification of the VM: from the command line, the existing template and the defaults.

use serde::{Deserialize, Serialize};

use super::gcloud_command::Call;
use super::machine_family::{self, Arch};
use super::{LABEL, scripts};
use sys::error::{ErrorKind, Hint as _, Result, anyhow};

/// The first gcloud with `--preemption-notice-duration` (release notes of 586.0.0, 2026-09-22).
pub const NOTICE_SINCE: u32 = 586;
/// The oldest gcloud that the calls were tested with.
pub const OLDEST: u32 = 528;

/// The options on the command line.
#[derive(Debug, Clone, Default)]
pub struct VmRequest {
    /// The VM's name, and the group's.
    pub name: String,
    /// The zone.
    pub zone: Option<String>,
    /// The data disk's name.
    pub disk: Option<String>,
    /// The data disk's size in GB.
    pub size_gb: Option<u64>,
    /// The data disk's type.
    pub disk_type: Option<String>,
    /// The machine type.
    pub machine_type: Option<String>,
    /// The length of the preemption notice.
    pub notice: Option<Notice>,
    /// The image family of the boot disk.
    pub image_family: Option<String>,
    /// The project of the image family.
    pub image_project: Option<String>,
    /// The boot disk's size in GB.
    pub boot_gb: Option<u64>,
    /// The service account of the VM; by default it has none.
    pub service_account: Option<String>,
    /// The scopes of the service account.
    pub scopes: Option<String>,
    /// Whether the VM has an external IP address.
    pub address: Option<bool>,
    /// The network.
    pub network: Option<String>,
    /// The subnet.
    pub subnet: Option<String>,
}

/// The length of the preemption notice before the shutdown begins.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Notice {
    /// 120 s if this gcloud supports it, else none.
    #[default]
    #[serde(rename = "auto")]
    Auto,
    /// 120 s; an error if this gcloud does not support it.
    #[serde(rename = "120s")]
    Long,
    /// No notice before the shutdown.
    #[serde(rename = "0s")]
    None,
}

impl Notice {
    /// Returns the length in seconds with this version of gcloud.
    ///
    /// # Errors
    /// 120 s is required, and this gcloud does not support it.
    pub fn seconds(self, gcloud: u32) -> Result<u32> {
        match self {
            Self::None => Ok(0),
            Self::Auto | Self::Long if gcloud >= NOTICE_SINCE => Ok(120),
            Self::Auto => Ok(0),
            Self::Long => Err(anyhow!(
                "gcloud {gcloud} does not support a notice of 120 s: it needs {NOTICE_SINCE}"
            ))
            .hint(
                "gcloud components update (or upgrade the package google-cloud-cli); or \
                   --notice=0s",
            )
            .kind(ErrorKind::Usage),
        }
    }
}

/// The specification that the template is made from, without the VM's name. It is stored in the
/// template's metadata, so that a second `create` with fewer options changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// The version of this format.
    pub version: u32,
    /// The data disk's name, which is also its device name.
    pub disk: String,
    /// The machine type.
    pub machine_type: String,
    /// The requested notice.
    pub notice: Notice,
    /// The length of the notice, in seconds.
    pub notice_seconds: u32,
    /// The image family.
    pub image_family: String,
    /// The project of the image family.
    pub image_project: String,
    /// The boot disk's size in GB.
    pub boot_gb: u64,
    /// The VM's service account.
    pub service_account: Option<String>,
    /// The scopes of the service account.
    pub scopes: Option<String>,
    /// Whether the VM has an external IP address.
    pub address: bool,
    /// The network.
    pub network: Option<String>,
    /// The subnet.
    pub subnet: Option<String>,
}

impl Shape {
    /// Merges the request, the existing specification and the defaults, in this order.
    ///
    /// # Errors
    /// The notice is not supported, or there are scopes without a service account.
    pub fn resolve(request: &VmRequest, now: Option<&Self>, gcloud: u32) -> Result<Self> {
        let old = |pick: fn(&Self) -> &String| now.map(|now| pick(now).clone());
        let machine_type = request
            .machine_type
            .clone()
            .or_else(|| old(|now| &now.machine_type))
            .unwrap_or_else(|| "e2-standard-4".to_owned());
        // An image is for one processor, so with another one the old family is not used.
        let same_arch = now.filter(|now| {
            machine_family::arch(&now.machine_type) == machine_family::arch(&machine_type)
        });
        let image_family = request
            .image_family
            .clone()
            .or_else(|| same_arch.map(|now| now.image_family.clone()))
            .unwrap_or_else(|| match machine_family::arch(&machine_type) {
                Arch::X86 => "debian-12".to_owned(),
                Arch::Arm => "debian-12-arm64".to_owned(),
            });
        let notice = request
            .notice
            .or(now.map(|now| now.notice))
            .unwrap_or_default();
        let service_account = request
            .service_account
            .clone()
            .or_else(|| now.and_then(|now| now.service_account.clone()));
        let scopes = request
            .scopes
            .clone()
            .or_else(|| now.and_then(|now| now.scopes.clone()));
        if scopes.is_some() && service_account.is_none() {
            return Err(anyhow!("scopes have no effect without a service account"))
                .hint("--service-account=EMAIL, or no --scopes")
                .kind(ErrorKind::Usage);
        }
        Ok(Self {
            version: 1,
            disk: request
                .disk
                .clone()
                .or_else(|| old(|now| &now.disk))
                .unwrap_or_else(|| "claude-persist".to_owned()),
            notice,
            notice_seconds: notice.seconds(gcloud)?,
            image_family,
            image_project: request
                .image_project
                .clone()
                .or_else(|| same_arch.map(|now| now.image_project.clone()))
                .unwrap_or_else(|| "debian-cloud".to_owned()),
            boot_gb: request.boot_gb.or(now.map(|now| now.boot_gb)).unwrap_or(20),
            service_account,
            scopes,
            address: request
                .address
                .or(now.map(|now| now.address))
                .unwrap_or(true),
            network: request
                .network
                .clone()
                .or_else(|| now.and_then(|now| now.network.clone())),
            subnet: request
                .subnet
                .clone()
                .or_else(|| now.and_then(|now| now.subnet.clone())),
            machine_type,
        })
    }

    /// Returns the template's name: the VM's name and a fingerprint of the specification.
    #[must_use]
    pub fn template_name(&self, name: &str, region: &str) -> String {
        let call = self.call("", name, region);
        format!("{name}-{:08x}", fingerprint(&call.to_string()))
    }

    /// Returns the call that makes the template.
    #[must_use]
    pub fn template(&self, name: &str, region: &str) -> Call {
        self.call(&self.template_name(name, region), name, region)
    }

    fn call(&self, template: &str, name: &str, region: &str) -> Call {
        let notice = match self.notice_seconds {
            0 => None,
            seconds => Some(format!("{seconds}s")),
        };
        let call = Call::change(
            format!("describe the VM in a template: {}", self.describe()),
            "compute instance-templates create",
        )
        .arg(template)
        .flag("machine-type", &self.machine_type)
        .flag("provisioning-model", "SPOT")
        .flag("instance-termination-action", "STOP")
        .flag_if("preemption-notice-duration", notice)
        .flag("image-family", &self.image_family)
        .flag("image-project", &self.image_project)
        .flag("boot-disk-size", format!("{}GB", self.boot_gb))
        .flag(
            "boot-disk-type",
            machine_family::boot_disk_type(&self.machine_type),
        )
        .switch("shielded-secure-boot")
        .switch("shielded-vtpm")
        .switch("shielded-integrity-monitoring")
        .flag("labels", format!("{LABEL}={name}"))
        .flag_if("network", self.network.as_ref())
        .flag_if("subnet", self.subnet.as_ref())
        .flag_if("region", self.subnet.as_ref().map(|_| region))
        .switch_if("no-address", !self.address);
        let call = match &self.service_account {
            Some(account) => call
                .flag("service-account", account)
                .flag("scopes", self.scopes.as_deref().unwrap_or("cloud-platform")),
            None => call.switch("no-service-account").switch("no-scopes"),
        };
        call.flag("metadata", self.metadata())
    }

    /// The metadata of the VM, with a separator that no value contains.
    fn metadata(&self) -> String {
        let own = serde_json::to_string(self).unwrap_or_default();
        let items = [
            ("enable-oslogin", "TRUE".to_owned()),
            ("spotkeep-notice", format!("{}s", self.notice_seconds)),
            (LABEL, own),
            ("startup-script", scripts::startup(&self.disk)),
        ];
        let items = items.map(|(key, value)| format!("{key}={value}"));
        format!("^@@^{}", items.join("@@"))
    }

    /// Describes the VM for people.
    #[must_use]
    pub fn describe(&self) -> String {
        let notice = match self.notice_seconds {
            0 => "no notice before the shutdown".to_owned(),
            seconds => format!("{seconds} s of notice"),
        };
        format!("{}, Spot, {notice}", self.machine_type)
    }
}

/// Returns FNV-1a, folded to 32 bits.
fn fingerprint(text: &str) -> u32 {
    let hash = sys::hash::fnv1a(text.as_bytes());
    let folded = (hash >> 32) ^ (hash & 0xffff_ffff);
    u32::try_from(folded).unwrap_or_default()
}

/// Returns the region of a zone: `europe-north1` for `europe-north1-b`.
///
/// # Errors
/// It is not a zone.
pub fn region_of(zone: &str) -> Result<&str> {
    let parts = zone.split('-').count();
    match zone.rsplit_once('-') {
        Some((region, last)) if parts == 3 && last.len() == 1 => Ok(region),
        _ => Err(anyhow!("{zone} is not a zone"))
            .hint("--zone=europe-north1-b; all of them: gcloud compute zones list")
            .kind(ErrorKind::Usage),
    }
}

/// Checks that Compute Engine accepts a name, and that names derived from it are short enough.
///
/// # Errors
/// The name is not valid.
pub fn check_name(what: &str, name: &str) -> Result<()> {
    let fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let good = name.starts_with(|c: char| c.is_ascii_lowercase())
        && !name.ends_with('-')
        && name.chars().all(fine)
        && name.len() <= 50;
    if good {
        return Ok(());
    }
    Err(anyhow!("\"{name}\" cannot be the name of a {what}"))
        .hint("lower-case letters, digits and hyphens, a letter first, 50 at most")
        .kind(ErrorKind::Usage)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(edit: impl FnOnce(&mut VmRequest)) -> VmRequest {
        let mut request = VmRequest {
            name: "vm".into(),
            ..VmRequest::default()
        };
        edit(&mut request);
        request
    }

    #[test]
    fn a_second_request_with_fewer_options_changes_nothing() {
        let first = request(|request| {
            request.machine_type = Some("c4a-highcpu-16".into());
            request.disk = Some("d".into());
            request.address = Some(false);
            request.service_account = Some("a@b".into());
        });
        let made = Shape::resolve(&first, None, 528).unwrap();
        assert_eq!(made.image_family, "debian-12-arm64");
        assert_eq!(
            Shape::resolve(&request(|_| ()), Some(&made), 528).unwrap(),
            made
        );
        let stored: Shape = serde_json::from_str(&serde_json::to_string(&made).unwrap()).unwrap();
        assert_eq!(stored, made);
    }

    #[test]
    fn another_processor_has_another_image() {
        let arm = Shape::resolve(
            &request(|request| request.machine_type = Some("c4a-standard-4".into())),
            None,
            528,
        );
        let back = request(|request| request.machine_type = Some("e2-standard-8".into()));
        let shape = Shape::resolve(&back, Some(&arm.unwrap()), 528).unwrap();
        assert_eq!(shape.image_family, "debian-12");
    }

    #[test]
    fn the_notice_is_120_s_where_gcloud_supports_it() {
        assert_eq!(Notice::Auto.seconds(586).unwrap(), 120);
        assert_eq!(Notice::Auto.seconds(585).unwrap(), 0);
        assert_eq!(Notice::Long.seconds(600).unwrap(), 120);
        assert_eq!(Notice::None.seconds(600).unwrap(), 0);
        assert!(Notice::Long.seconds(528).is_err());
    }

    #[test]
    fn a_newer_gcloud_makes_another_template_with_the_long_notice() {
        let old = Shape::resolve(&request(|_| ()), None, 528).unwrap();
        let new = Shape::resolve(&request(|_| ()), Some(&old), 586).unwrap();
        let flag = "--preemption-notice-duration=120s";
        assert!(
            !old.template("vm", "r")
                .words
                .iter()
                .any(|word| word == flag)
        );
        assert!(
            new.template("vm", "r")
                .words
                .iter()
                .any(|word| word == flag)
        );
        assert_ne!(old.template_name("vm", "r"), new.template_name("vm", "r"));
    }

    #[test]
    fn no_metadata_value_contains_the_separator() {
        let shape = Shape::resolve(&request(|_| ()), None, 586).unwrap();
        assert_eq!(shape.metadata().matches("@@").count(), 4);
    }

    #[test]
    fn names_and_zones_are_checked() {
        assert_eq!(region_of("europe-north1-b").unwrap(), "europe-north1");
        for wrong in ["europe-north1", "x", "a-b-cc"] {
            assert!(region_of(wrong).is_err(), "{wrong}");
        }
        check_name("VM", "claude-sandbox").unwrap();
        for wrong in ["", "1a", "A", "a_b", "a-", &"a".repeat(51)] {
            assert!(check_name("VM", wrong).is_err(), "{wrong}");
        }
    }
}
