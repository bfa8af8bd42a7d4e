//! Classifies gcloud's errors by their text, and gives a hint for each class.
//!
//! gcloud reports errors as text only. The texts here are those of version 528 and of the Compute
//! API, recorded in `testdata/refusals.txt`.

use std::fmt;

use sys::error::{Error, Hint as _};

/// The class of an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// gcloud is not installed.
    Missing,
    /// No account is logged in, or the login has expired.
    Login,
    /// No project is chosen.
    NoProject,
    /// The project does not exist, or the account has no access to it.
    WrongProject,
    /// The Compute Engine API is not enabled in it.
    ApiDisabled,
    /// A permission is missing.
    Forbidden,
    /// The resource does not exist.
    NotFound,
    /// The resource exists already.
    Exists,
    /// The resource is in use by another one.
    InUse,
    /// A quota of the project is exceeded.
    Quota,
    /// The zone has no capacity for this machine type.
    NoCapacity,
    /// The rate limit of the API is exceeded.
    RateLimit,
    /// This version of gcloud lacks a flag or a command.
    TooOld,
    /// The API or the VM could not be reached, or had an internal error: retry later.
    Unreachable,
    /// gcloud did not end in time.
    Timeout,
    /// Any other error.
    Other,
}

/// Error texts and their classes; the first match counts.
const WORDS: [(&str, Fault); 40] = [
    ("cannot run gcloud", Fault::Missing),
    ("did not end within", Fault::Timeout),
    ("ReadTimeout", Fault::Timeout),
    ("Read timed out", Fault::Timeout),
    ("ConnectTimeout", Fault::Unreachable),
    ("ZONE_RESOURCE_POOL_EXHAUSTED", Fault::NoCapacity),
    (
        "does not have enough resources available",
        Fault::NoCapacity,
    ),
    ("resource pool exhausted", Fault::NoCapacity),
    ("STOCKOUT", Fault::NoCapacity),
    ("QUOTA_EXCEEDED", Fault::Quota),
    ("Quota '", Fault::Quota),
    ("quotaExceeded", Fault::Quota),
    ("rateLimitExceeded", Fault::RateLimit),
    ("RATE_LIMIT_EXCEEDED", Fault::RateLimit),
    ("Rate Limit Exceeded", Fault::RateLimit),
    ("unrecognized arguments", Fault::TooOld),
    ("Invalid choice", Fault::TooOld),
    ("active account selected", Fault::Login),
    ("refreshing your current auth tokens", Fault::Login),
    ("Reauthentication", Fault::Login),
    ("invalid_grant", Fault::Login),
    ("Invalid Credentials", Fault::Login),
    ("UNAUTHENTICATED", Fault::Login),
    ("property [project] is not currently set", Fault::NoProject),
    ("has not been used in project", Fault::ApiDisabled),
    ("SERVICE_DISABLED", Fault::ApiDisabled),
    ("not enabled on project", Fault::ApiDisabled),
    ("Failed to find project", Fault::WrongProject),
    ("Unknown project id", Fault::WrongProject),
    ("must be a valid project ID", Fault::WrongProject),
    ("resourceInUse", Fault::InUse),
    ("already being used by", Fault::InUse),
    ("already in use", Fault::InUse),
    ("already exists", Fault::Exists),
    ("Required '", Fault::Forbidden),
    ("PERMISSION_DENIED", Fault::Forbidden),
    ("was not found", Fault::NotFound),
    ("Could not fetch resource:\n - Required", Fault::Forbidden),
    ("Connection refused", Fault::Unreachable),
    ("Unable to find the server", Fault::Unreachable),
];

/// Further texts of temporary errors.
const PASSING: [&str; 7] = [
    "Connection timed out",
    "Connection reset",
    "Connection closed by",
    "Network is unreachable",
    "Service Unavailable",
    "backendError",
    "Please try again",
];

impl Fault {
    /// Returns the class of an error text.
    #[must_use]
    pub fn from_text(text: &str) -> Self {
        let known = WORDS.iter().find(|(words, _)| text.contains(words));
        if let Some((words, fault)) = known {
            // A project is a resource too.
            let project = *words == "was not found" && names_a_project(text);
            return if project { Self::WrongProject } else { *fault };
        }
        if PASSING.iter().any(|words| text.contains(words)) {
            return Self::Unreachable;
        }
        Self::Other
    }

    /// Returns a hint, with a command to paste where there is one.
    fn hint(self, call: &str, text: &str) -> Option<String> {
        let hint = match self {
            Self::Missing => "install it: https://cloud.google.com/sdk/docs/install",
            Self::Login => "gcloud auth login",
            Self::NoProject => "gcloud config set project PROJECT, or --project=PROJECT",
            Self::WrongProject => "gcloud projects list, then --project=PROJECT",
            Self::ApiDisabled => "gcloud services enable compute.googleapis.com",
            Self::Forbidden => return Some(forbidden(text)),
            Self::Exists => "run it again: what exists is used as it is",
            Self::InUse => "gcloud compute instances list, and detach or delete what uses it",
            Self::Quota => return Some(quota(text)),
            Self::NoCapacity => {
                "the group keeps trying; see `spotkeep gcp status`, or choose another \
                 --machine-type"
            }
            Self::RateLimit => "wait a minute, then run it again",
            // A version that has the flag for VMs may not have it for templates.
            Self::TooOld if text.contains("preemption-notice-duration") => {
                "gcloud components update; if it is the newest one: --notice=0s"
            }
            Self::TooOld => "gcloud components update (or upgrade the package google-cloud-cli)",
            Self::Unreachable | Self::Timeout => "run it again: what is done is not done twice",
            Self::NotFound | Self::Other => return Some(format!("to see gcloud's output: {call}")),
        };
        Some(hint.to_owned())
    }
}

/// Whether a text is `The resource 'projects/NAME' was not found`, with nothing after the name.
fn names_a_project(text: &str) -> bool {
    text.split_once("'projects/")
        .and_then(|(_, rest)| rest.split_once('\''))
        .is_some_and(|(name, _)| !name.contains('/'))
}

fn forbidden(text: &str) -> String {
    let permission = text
        .split_once("Required '")
        .and_then(|(_, rest)| rest.split_once('\''))
        .map_or("it", |(permission, _)| permission);
    format!(
        "an administrator has to grant {permission}: roles/compute.admin has it (and with \
         --service-account, \
         roles/iam.serviceAccountUser)"
    )
}

fn quota(text: &str) -> String {
    let metric = text
        .split_once("Quota '")
        .and_then(|(_, rest)| rest.split_once('\''))
        .map_or("the quota", |(metric, _)| metric);
    format!(
        "request more of {metric} under IAM & Admin, Quotas; or use a smaller --machine-type or \
         --size"
    )
}

/// A call that failed.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// The class of the error.
    pub fault: Fault,
    /// The purpose of the call.
    pub why: String,
    /// gcloud's error text.
    pub text: String,
    /// The call, as a shell command.
    pub call: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.why, self.text)
    }
}

impl std::error::Error for Refusal {}

impl Refusal {
    /// Returns the error with its hint.
    #[must_use]
    pub fn explained(self) -> Error {
        let hint = self.fault.hint(&self.call, &self.text);
        let error = Error::new(self);
        match hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }
}

/// Whether a list that "succeeded" is incomplete: where gcloud reads several zones, it treats an
/// error as a warning, and the list is empty. Such a list must not be taken for "does not exist".
#[must_use]
pub fn is_partial(stderr: &str) -> bool {
    stderr.contains("Some requests did not succeed")
}

/// Returns gcloud's error text without its framing, as one line.
#[must_use]
pub fn essence(stderr: &str) -> String {
    let is_news = |line: &&str| {
        let advice = line.starts_with("WARNING:") && !is_partial(line);
        !line.is_empty() && !advice && !line.starts_with("Listed 0 items")
    };
    let lines = stderr.lines().map(str::trim);
    let text = lines
        // The rest is gcloud's advice; our hint replaces it.
        .take_while(|line| !ADVICE.iter().any(|advice| line.starts_with(advice)))
        .filter(is_news)
        .map(|line| line.trim_start_matches("ERROR: "))
        .collect::<Vec<_>>()
        .join(" ");
    // A prefix like (gcloud.compute.disks.create) repeats the call.
    let text = match text
        .strip_prefix('(')
        .and_then(|rest| rest.split_once(") "))
    {
        Some((_, rest)) => rest.to_owned(),
        None => text,
    };
    let text = FRAMES
        .iter()
        .fold(text, |text, frame| text.replace(frame, ""));
    text.trim().to_owned()
}

/// The beginnings of gcloud's advice.
const ADVICE: [&str; 5] = [
    "If you would like to report this issue",
    "It can be set on a per-command basis",
    "Please run:",
    "To search the help text",
    "Did you mean",
];

/// The framing of gcloud's errors.
const FRAMES: [&str; 6] = [
    "---",
    "WARNING:",
    "Some requests did not succeed:",
    "Some requests did not succeed.",
    "Could not fetch resource:",
    "- ",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gclouds_framing_and_advice_are_removed() {
        let recorded = include_str!("testdata/refusals.txt");
        let said: Vec<String> = recorded
            .split("\n== ")
            .skip(1)
            .map(|case| essence(case.split_once('\n').unwrap().1))
            .collect();
        assert_eq!(
            said,
            [
                "Required 'compute.disks.list' permission for 'projects/lab-project'",
                "Compute Engine API has not been used in project 1234 before or it is disabled. \
                 Enable it, then retry.",
                "Rate Limit Exceeded",
                "The resource 'projects/other-project' was not found",
                "The required property [project] is not currently set.",
                "You do not currently have an active account selected.",
                "The resource 'projects/lab-project/zones/europe-north1-b/disks/d' already exists",
                "Quota 'SSD_TOTAL_GB' exceeded.  Limit: 500.0 in region europe-north1.",
                "Backend Error: Service Unavailable",
                "code: ZONE_RESOURCE_POOL_EXHAUSTED message: The zone does not have enough \
                 resources available to fulfill the request.",
                "The resource 'projects/lab-project/zones/europe-north1-b/instances/none' was not \
                 found",
                "The disk resource 'projects/lab-project/zones/europe-north1-b/disks/claude-persist' is already being used by a VM",
                "unrecognized arguments: --no-such-flag-yet=120s",
                "gcloud crashed (ReadTimeout): HTTPConnectionPool(host='127.0.0.1', port=1): Read \
                 timed out. (read timeout=1)",
            ]
        );
    }

    #[test]
    fn a_gcloud_that_does_not_end_is_killed_with_a_hint_to_retry() {
        let mut sleep = std::process::Command::new("sleep");
        let error =
            sys::command::run(sleep.arg("60"), std::time::Duration::from_millis(20)).unwrap_err();
        let fault = Fault::from_text(&format!("{error:#}"));
        assert_eq!(fault, Fault::Timeout, "{error:#}");
        assert!(fault.hint("", "").unwrap().contains("run it again"));
    }

    #[test]
    fn the_hint_for_an_unknown_notice_flag_is_to_leave_it_out() {
        let hint = Fault::TooOld.hint(
            "",
            "unrecognized arguments: --preemption-notice-duration=120s",
        );
        assert!(hint.unwrap().contains("--notice=0s"));
    }
}
