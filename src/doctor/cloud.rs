//! Checks of the cloud: the metadata server, and the length of the preemption notice.

use std::time::Duration;

use super::facts::Facts;
use super::{Check, LIMIT, in_time};
use crate::metadata::gcp::Metadata;
use sys::cloud_provider::{Choice, Provider};
use sys::error::Result;
use sys::time::short;

pub(super) fn checks(facts: &Facts) -> Vec<Check> {
    let cloud = &facts.config.cloud;
    // The declared provider, or else the one that the firmware names.
    let declared = match (cloud.provider, facts.provider) {
        (Choice::None, _) | (_, Provider::None) => return Vec::new(),
        (choice, Provider::Gcp) => choice,
    };
    let found = Metadata::find(declared, cloud.metadata.as_deref());
    let metadata = match found {
        Ok(Some(metadata)) => metadata,
        Ok(None) => return Vec::new(),
        Err(error) => return vec![Check::failed("metadata", &error, NOT_A_CLOUD)],
    };
    let address = metadata.address().to_owned();
    let asked = in_time(LIMIT, move || -> Result<_> {
        let length = metadata.notice_length()?;
        Ok((metadata.preemptible()?, metadata.preempted()?, length))
    });
    let (preemptible, preempted, made_with) = match asked {
        None => {
            let detail =
                format!("the metadata server at {address} does not answer: no notice can arrive");
            return vec![Check::wrong("metadata", detail, NOT_A_CLOUD)];
        }
        Some(Err(error)) => return vec![Check::failed("metadata", &error, NOT_A_CLOUD)],
        Some(Ok(answers)) => answers,
    };
    let length = cloud.notice.map(|span| span.0).or(made_with);
    // Zero is treated like unknown: a longer notice is possible.
    let length = length.filter(|length| !length.is_zero());
    vec![
        Check::good("metadata", format!("answers at {address}")),
        check_notice(preemptible, preempted, length, &facts.spotkeep("status")),
    ]
}

const NOT_A_CLOUD: &str =
    "if this is not a Compute Engine VM, set provider = \"none\" under [cloud] in spotkeep.toml";

fn check_notice(
    preemptible: Option<bool>,
    preempted: Option<bool>,
    length: Option<Duration>,
    status: &str,
) -> Check {
    if preempted == Some(true) {
        return Check::warn("notice", "this machine is being preempted", status);
    }
    match (preemptible, length) {
        (Some(false), _) => Check::good("notice", "this machine is not preemptible"),
        (None, _) => Check::warn(
            "notice",
            "the metadata server does not say whether this machine is preemptible",
            "spotkeep notice",
        ),
        (Some(true), Some(length)) => Check::good(
            "notice",
            format!(
                "preemptible, {} of notice before the shutdown",
                short(length)
            ),
        ),
        (Some(true), None) => Check::warn(
            "notice",
            "preemptible, and no length of the notice is known: 30 s at most, with the shutdown. \
             A VM can be created with 120 s, in which agents end their turns",
            "create the VM with gcloud compute instances create ... \
             --preemption-notice-duration=120s and set notice = \"120s\" under [cloud] in \
             spotkeep.toml; or spotkeep gcp create with gcloud 586 or newer",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notice_that_could_be_longer_has_a_warning() {
        let evaluate = |preemptible, preempted, seconds: Option<u64>| {
            let length = seconds.map(Duration::from_secs);
            let check = check_notice(preemptible, preempted, length, "status");
            (check.ok, check.warning)
        };
        assert_eq!(evaluate(Some(true), Some(false), Some(120)), (true, false));
        assert_eq!(evaluate(Some(true), Some(false), None), (true, true));
        assert_eq!(evaluate(Some(false), Some(false), None), (true, false));
        assert_eq!(evaluate(Some(true), Some(true), None), (true, true));
        assert_eq!(evaluate(None, None, None), (true, true));
    }
}
