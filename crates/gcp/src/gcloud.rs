//! Runs gcloud calls: one process for each, found in `PATH`, without a shell.

use std::io::ErrorKind;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use super::gcloud_command::{Call, Effect};
use super::gcloud_error::{Fault, Refusal, essence, is_partial};
use sys::command;
use sys::error::{Context as _, Result, bail, ensure};
use sys::loopback_only;
use sys::thread;
use sys::time::Timestamp;

/// The name of the program.
const PROGRAM: &str = "gcloud";

/// Access to Google Cloud for the verbs; tests use a fake.
pub trait Cloud: Sync {
    /// Makes one call; returns its output.
    ///
    /// # Errors
    /// The call failed; the refusal has the reason.
    fn call(&self, call: &Call) -> Result<String, Refusal>;
    /// Returns the wall-clock time.
    fn now(&self) -> Timestamp;
    /// Waits.
    fn pause(&self, duration: Duration);
    /// Shows a progress line to the user.
    fn show(&self, line: &str);
}

/// Shows a call and makes it; adds a hint to an error.
///
/// # Errors
/// It failed.
pub fn make(cloud: &dyn Cloud, call: &Call) -> Result<String> {
    cloud.show(&format!("$ {}", call.brief()));
    cloud.call(call).map_err(Refusal::explained)
}

/// Makes several calls that read at the same time: each takes a second, mostly for gcloud's start.
pub fn ask_all<const N: usize>(
    cloud: &dyn Cloud,
    calls: [&Call; N],
) -> [Result<Value, Refusal>; N] {
    for call in calls {
        cloud.show(&format!("$ {call}"));
    }
    let mut answers = thread::for_all("ask", &calls, |call| ask_quietly(cloud, call)).into_iter();
    calls.map(|call| {
        answers.next().flatten().unwrap_or_else(|| {
            Err(Refusal {
                fault: Fault::Other,
                why: format!("gcloud failed ({})", call.why),
                text: "the thread of the call has failed".to_owned(),
                call: call.to_string(),
            })
        })
    })
}

/// Makes a call that reads, without showing it, for calls that are repeated.
///
/// # Errors
/// It failed, or its output is not JSON.
pub fn ask_quietly(cloud: &dyn Cloud, call: &Call) -> Result<Value, Refusal> {
    let text = cloud.call(call)?;
    serde_json::from_str(&text).map_err(|error| Refusal {
        fault: Fault::Other,
        why: format!("cannot parse gcloud's output ({})", call.why),
        text: error.to_string(),
        call: call.to_string(),
    })
}

/// The gcloud that is installed on this machine.
pub struct Gcloud<'a> {
    project: Option<String>,
    show: &'a (dyn Fn(&str) + Sync),
}

impl std::fmt::Debug for Gcloud<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Gcloud({:?})", self.project)
    }
}

impl<'a> Gcloud<'a> {
    /// Uses gcloud with its own configuration, in `project` if one is given; `show` gets each call.
    ///
    /// # Errors
    /// `SPOTKEEP_LOOPBACK_ONLY=1` is set, as in all tests of spotkeep, and gcloud would use the
    /// real Google Cloud.
    pub fn new(project: Option<String>, show: &'a (dyn Fn(&str) + Sync)) -> Result<Self> {
        if loopback_only!() {
            ensure_loopback(|name| std::env::var(name).ok())?;
        }
        Ok(Self { project, show })
    }

    /// Returns the process of a call.
    #[must_use]
    pub fn command(&self, call: &Call) -> Command {
        let mut command = Command::new(PROGRAM);
        command
            .args(&call.words)
            .env("CLOUDSDK_CORE_DISABLE_PROMPTS", "1")
            .env("CLOUDSDK_COMPONENT_MANAGER_DISABLE_UPDATE_CHECK", "true");
        if let Some(project) = &self.project {
            command.env("CLOUDSDK_CORE_PROJECT", project);
        }
        command
    }
}

impl Cloud for Gcloud<'_> {
    fn call(&self, call: &Call) -> Result<String, Refusal> {
        let refuse = |fault, text| Refusal {
            fault,
            why: format!("gcloud failed ({})", call.why),
            text,
            call: call.to_string(),
        };
        let output = command::run(&mut self.command(call), call.limit).map_err(|error| {
            let missing = error
                .chain()
                .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
                .any(|cause| cause.kind() == ErrorKind::NotFound);
            if missing {
                return refuse(Fault::Missing, "gcloud is not installed".to_owned());
            }
            refuse(
                Fault::from_text(&format!("{error:#}")),
                format!("{error:#}"),
            )
        })?;
        let partial = call.effect == Effect::Read && is_partial(&output.stderr);
        if output.status.success() && !partial {
            return Ok(output.stdout);
        }
        // The output of a command on the VM is on standard output.
        let said = if output.stderr.is_empty() {
            &output.stdout
        } else {
            &output.stderr
        };
        Err(refuse(Fault::from_text(said), essence(said)))
    }

    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn pause(&self, duration: Duration) {
        std::thread::sleep(duration);
    }

    fn show(&self, line: &str) {
        (self.show)(line);
    }
}

/// The variables that must lead to loopback if `SPOTKEEP_LOOPBACK_ONLY=1` is set.
const OVERRIDES: [&str; 2] = [
    "CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE",
    "CLOUDSDK_API_ENDPOINT_OVERRIDES_OSLOGIN",
];

fn ensure_loopback(variable: impl Fn(&str) -> Option<String>) -> Result<()> {
    for name in OVERRIDES {
        let value = variable(name).with_context(|| {
            format!("SPOTKEEP_LOOPBACK_ONLY=1 is set, and gcloud would ask Google: set {name}")
        })?;
        ensure!(
            value.starts_with("http://127.0.0.1:"),
            "SPOTKEEP_LOOPBACK_ONLY=1 is set, and {name} is not on loopback: {value}"
        );
    }
    let disabled = variable("CLOUDSDK_AUTH_DISABLE_CREDENTIALS");
    if disabled.as_deref() != Some("true") {
        bail!(
            "SPOTKEEP_LOOPBACK_ONLY=1 is set, and gcloud would send credentials: set \
             CLOUDSDK_AUTH_DISABLE_CREDENTIALS=true"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gcloud_may_use_only_loopback_where_that_is_required() {
        let with = |compute: &str, disabled: &str| {
            let (compute, disabled) = (compute.to_owned(), disabled.to_owned());
            ensure_loopback(move |name| {
                let value = if OVERRIDES.contains(&name) {
                    &compute
                } else {
                    &disabled
                };
                Some(value.clone()).filter(|value| !value.is_empty())
            })
        };
        with("http://127.0.0.1:80/compute/v1/", "true").unwrap();
        for (compute, disabled) in [
            ("", "true"),
            ("https://compute.googleapis.com/compute/v1/", "true"),
            ("http://127.0.0.1.example/", "true"),
            ("http://127.0.0.1:80/", ""),
        ] {
            assert!(with(compute, disabled).is_err(), "{compute} {disabled}");
        }
        // Unit tests set SPOTKEEP_LOOPBACK_ONLY=1.
        assert!(Gcloud::new(None, &|_| ()).is_err());
    }
}
