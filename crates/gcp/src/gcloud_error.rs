//! What a refusal of gcloud means, and what a person can do about it. gcloud tells it in words only: these are
//! the words of version 528 and of the Compute API, recorded in `testdata/refusals.txt`.

use std::fmt;

use sys::error::{Error, Hint as _};

/// Why a call failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// There is no gcloud.
    Missing,
    /// Nobody is logged in, or the login has expired.
    Login,
    /// No project is chosen.
    NoProject,
    /// There is no such project, or it is not ours to see.
    WrongProject,
    /// The Compute Engine API is not enabled in it.
    ApiDisabled,
    /// A permission is missing.
    Forbidden,
    /// There is no such thing.
    NotFound,
    /// It exists already.
    Exists,
    /// It is in use by something else.
    InUse,
    /// The project may have no more of it.
    Quota,
    /// The zone has no such machine to give just now.
    NoCapacity,
    /// Asked too often.
    RateLimit,
    /// This gcloud does not know a flag or a command.
    TooOld,
    /// The API or the VM could not be reached, or failed by itself: again later.
    Unreachable,
    /// It did not end in time.
    Timeout,
    /// Anything else.
    Other,
}

/// Words, and what they mean; the first that are found decide.
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

/// Further signs of trouble that passes by itself.
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
    /// What these words mean.
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

    /// What to do, as a command to paste where there is one.
    fn hint(self, call: &str, text: &str) -> Option<String> {
        let hint = match self {
            Self::Missing => "install it: https://cloud.google.com/sdk/docs/install",
            Self::Login => "gcloud auth login",
            Self::NoProject => "gcloud config set project PROJECT, or --project=PROJECT",
            Self::WrongProject => "gcloud projects list, then --project=PROJECT",
            Self::ApiDisabled => "gcloud services enable compute.googleapis.com",
            Self::Forbidden => return Some(forbidden(text)),
            Self::Exists => "run it again: what exists by now is taken as it is",
            Self::InUse => "gcloud compute instances list, and detach or delete what uses it",
            Self::Quota => return Some(quota(text)),
            Self::NoCapacity => {
                "it is asked for again and again by the group; see `spotkeep gcp status`, or choose another --machine-type"
            }
            Self::RateLimit => "wait a minute, then run it again",
            // The version that has the notice for VMs may not have it for templates yet.
            Self::TooOld if text.contains("preemption-notice-duration") => {
                "gcloud components update; if it is the newest one: --notice=0s"
            }
            Self::TooOld => "gcloud components update (or upgrade the package google-cloud-cli)",
            Self::Unreachable | Self::Timeout => "run it again: what is done is not done twice",
            Self::NotFound | Self::Other => return Some(format!("to see it by yourself: {call}")),
        };
        Some(hint.to_owned())
    }
}

/// `The resource 'projects/NAME' was not found`, and nothing behind the name.
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
        "somebody who may has to grant {permission}: roles/compute.admin holds it (and roles/iam.serviceAccountUser, with --service-account)"
    )
}

fn quota(text: &str) -> String {
    let metric = text
        .split_once("Quota '")
        .and_then(|(_, rest)| rest.split_once('\''))
        .map_or("the quota", |(metric, _)| metric);
    format!(
        "ask for more of {metric} under IAM & Admin, Quotas; or take a smaller --machine-type or --size"
    )
}

/// A call that failed.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// Why.
    pub fault: Fault,
    /// What was being done.
    pub why: String,
    /// gcloud's own words.
    pub text: String,
    /// The call, as it can be pasted.
    pub call: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.why, self.text)
    }
}

impl std::error::Error for Refusal {}

impl Refusal {
    /// The error for a person, with what to do.
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

/// Whether a list that "succeeded" is not the whole truth: where gcloud asks several zones, a refusal is a warning
/// to it, and the list is empty. An empty list must never pass for "there is none".
#[must_use]
pub fn is_partial(stderr: &str) -> bool {
    stderr.contains("Some requests did not succeed")
}

/// gcloud's words without its own framing, as one line.
#[must_use]
pub fn essence(stderr: &str) -> String {
    let is_news = |line: &&str| {
        let advice = line.starts_with("WARNING:") && !is_partial(line);
        !line.is_empty() && !advice && !line.starts_with("Listed 0 items")
    };
    let lines = stderr.lines().map(str::trim);
    let text = lines
        // What follows is what to do about it, which is said in a hint.
        .take_while(|line| !ADVICE.iter().any(|advice| line.starts_with(advice)))
        .filter(is_news)
        .map(|line| line.trim_start_matches("ERROR: "))
        .collect::<Vec<_>>()
        .join(" ");
    // (gcloud.compute.disks.create) tells nobody anything who sees the call.
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

/// How gcloud's own advice begins.
const ADVICE: [&str; 5] = [
    "If you would like to report this issue",
    "It can be set on a per-command basis",
    "Please run:",
    "To search the help text",
    "Did you mean",
];

/// What gcloud says before it says anything.
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
    fn of_what_gcloud_says_only_the_news_is_shown() {
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
                "Compute Engine API has not been used in project 1234 before or it is disabled. Enable it, then retry.",
                "Rate Limit Exceeded",
                "The resource 'projects/other-project' was not found",
                "The required property [project] is not currently set.",
                "You do not currently have an active account selected.",
                "The resource 'projects/lab-project/zones/europe-north1-b/disks/d' already exists",
                "Quota 'SSD_TOTAL_GB' exceeded.  Limit: 500.0 in region europe-north1.",
                "Backend Error: Service Unavailable",
                "code: ZONE_RESOURCE_POOL_EXHAUSTED message: The zone does not have enough resources available to fulfill the request.",
                "The resource 'projects/lab-project/zones/europe-north1-b/instances/none' was not found",
                "The disk resource 'projects/lab-project/zones/europe-north1-b/disks/claude-persist' is already being used by a VM",
                "unrecognized arguments: --no-such-flag-yet=120s",
                "gcloud crashed (ReadTimeout): HTTPConnectionPool(host='127.0.0.1', port=1): Read timed out. (read timeout=1)",
            ]
        );
    }

    #[test]
    fn a_gcloud_that_does_not_end_is_ended_and_may_be_called_again() {
        let mut sleep = std::process::Command::new("sleep");
        let error =
            sys::command::run(sleep.arg("60"), std::time::Duration::from_millis(20)).unwrap_err();
        let fault = Fault::from_text(&format!("{error:#}"));
        assert_eq!(fault, Fault::Timeout, "{error:#}");
        assert!(fault.hint("", "").unwrap().contains("run it again"));
    }

    #[test]
    fn a_notice_that_templates_cannot_have_yet_can_be_left_out() {
        let hint = Fault::TooOld.hint(
            "",
            "unrecognized arguments: --preemption-notice-duration=120s",
        );
        assert!(hint.unwrap().contains("--notice=0s"));
    }
}
