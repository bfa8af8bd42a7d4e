//! Runs commands on the VM with `gcloud compute ssh`, and parses its status.
//!
//! The user who logs in (OS Login) is not the agents' user. The owner of `session-state` in the
//! data directory is the agents' user, and commands run as that user, with `sudo`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::gcloud::{Cloud, make};
use super::gcloud_command::{Call, quote};
use super::gcloud_error::{Fault, Refusal};
use super::scripts::SAID;
use state::layout;
use state::{AgentState, Desired, JournalEntry};
use sys::error::{Hint as _, Result, anyhow};
use sys::time::Timestamp;

/// The limit of a command on a VM that is up.
const COMMAND_LIMIT: Duration = Duration::from_secs(90);
/// The limit of a copy, and of the first setup with its packages.
const SETUP_LIMIT: Duration = Duration::from_secs(900);
/// Where the binary is copied to, in the home of the user who logs in.
const UPLOAD: &str = "spotkeep.upload";
/// Where the output of the first setup is written, in the same directory.
const SETUP_SAID: &str = "spotkeep.said";
/// Where Claude Code is copied to, in the same directory.
const UPLOAD_CLAUDE: &str = "claude.upload";

/// How to reach the VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guest {
    /// The VM's name.
    pub vm: String,
    /// The VM's zone.
    pub zone: String,
    /// Whether to use Google's IAP tunnel, because the VM has no external IP address.
    pub tunnel: bool,
}

/// The options of the first setup.
#[derive(Debug, Clone)]
pub struct FirstTime {
    /// The agents' user.
    pub user: String,
    /// The spotkeep that is copied to the VM.
    pub binary: PathBuf,
    /// The Claude Code that is copied to the VM, if any.
    pub claude: Option<PathBuf>,
    /// Whether agents may run every command without asking.
    pub unattended: bool,
    /// Whether the disk may hold other files.
    pub beside_other_files: bool,
}

/// The result of the start-up script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Startup {
    /// The script has not ended yet.
    Working,
    /// There is no spotkeep on the disk.
    New,
    /// The VM is set up.
    Ready,
    /// The script failed, with the reason.
    Failed(String),
}

/// The part of `spotkeep status --json` that is used here. The VM may have another version of
/// spotkeep.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Fleet {
    /// The boot id.
    #[serde(alias = "life")]
    pub boot_id: String,
    /// `running` or `stopped`.
    pub keeper: String,
    /// The last save at the end of a boot.
    #[serde(default)]
    pub last_save: Option<LastSave>,
    /// The agents.
    #[serde(default)]
    pub agents: Vec<Agent>,
}

/// The last save.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct LastSave {
    /// Its id.
    pub id: String,
    /// Whether everything was safe in time.
    pub clean: bool,
    /// From the notice until every transcript was durable, in milliseconds.
    #[serde(default, alias = "words_safe_ms")]
    pub transcripts_safe_ms: Option<u64>,
    /// From the notice until everything was safe, in milliseconds.
    #[serde(default)]
    pub notice_to_safe_ms: Option<u64>,
}

/// An agent.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Agent {
    /// Its name.
    pub name: String,
    /// What it is doing.
    pub state: AgentState,
    /// The state that the user requested.
    #[serde(alias = "wanted")]
    pub desired: Desired,
    /// The session id.
    pub session_id: String,
    /// The reason of the state.
    #[serde(default)]
    pub why: Option<String>,
}

impl Agent {
    /// Whether Claude runs; it may wait for the user.
    #[must_use]
    pub fn is_up(&self) -> bool {
        use AgentState::{Idle, Running, Waiting};
        matches!(self.state, Running | Waiting | Idle)
    }

    /// Whether the agent is to run and is not up yet.
    #[must_use]
    pub fn is_coming(&self) -> bool {
        use AgentState::{Backoff, Saving, Starting, Unknown};
        let on_its_way = matches!(self.state, Starting | Saving | Backoff | Unknown);
        self.desired == Desired::Running && (on_its_way || self.state == AgentState::Stopped)
    }
}

/// The state of the VM and its fleet.
#[derive(Debug, Clone)]
pub struct GuestReport {
    /// The result of the start-up script.
    pub startup: Startup,
    /// A problem although the VM is set up, like a missing claude.
    pub problem: Option<String>,
    /// The status of the fleet, if there is a data directory.
    pub fleet: Option<Fleet>,
    /// The boot time, by the VM's clock.
    pub booted: Option<Timestamp>,
    /// The last lines of the journal.
    pub events: Vec<JournalEntry>,
}

/// The shell prefix that runs a command as the agents' user.
const AS_USER: &str = r#"u=$(stat -c %U DIR/session-state 2>/dev/null) && sudo -n -u "$u" -H"#;

fn as_user() -> String {
    AS_USER.replace("DIR", layout::DEFAULT)
}

impl Guest {
    /// Returns a call that runs a command on the VM as the user who logs in.
    #[must_use]
    pub fn ssh(&self, why: &str, command: &str) -> Call {
        Call::change(why, "compute ssh")
            .arg(&self.vm)
            .flag("zone", &self.zone)
            .switch_if("tunnel-through-iap", self.tunnel)
            .flag("command", command)
            .within(COMMAND_LIMIT)
    }

    fn scp(&self, why: &str, file: &Path, to: &str) -> Call {
        Call::change(why, "compute scp")
            .arg(file.display().to_string())
            .arg(format!("{}:{to}", self.vm))
            .flag("zone", &self.zone)
            .switch_if("tunnel-through-iap", self.tunnel)
            .within(SETUP_LIMIT)
    }

    /// Returns a call that opens a terminal on the VM: an agent's, or a shell of the agents' user.
    #[must_use]
    pub fn terminal(&self, agent: Option<&str>) -> Call {
        let command = match agent {
            Some(agent) => format!(
                "{} {}/bin/spotkeep attach {}",
                as_user(),
                layout::DEFAULT,
                quote(agent)
            ),
            // Before the first setup there is no such user: then a shell of the user who logs in.
            None => format!(
                "if u=$(stat -c %U {}/session-state 2>/dev/null); then exec sudo -n -u \"$u\" -H \
                 -i; \
                 else exec \"$SHELL\" -l; fi",
                layout::DEFAULT
            ),
        };
        Call::change("a terminal on the VM", "compute ssh")
            .arg(&self.vm)
            .flag("zone", &self.zone)
            .switch_if("tunnel-through-iap", self.tunnel)
            .flag("ssh-flag", "-t")
            .flag("command", command)
    }

    /// Returns the call that reads the state of the VM, with `events` lines of the journal.
    #[must_use]
    pub fn report_call(&self, events: u32) -> Call {
        let user = as_user();
        let keeper = format!("{}/bin/spotkeep", layout::DEFAULT);
        let command = format!(
            "echo '== startup'; cat {SAID} 2>/dev/null || echo working; \
             echo '== booted'; sed -n 's/^btime //p' /proc/stat; \
             echo '== status'; {user} {keeper} status --json; \
             echo '== events'; {user} {keeper} events --json -n {events}; true"
        );
        self.ssh("read the state of the VM", &command)
            .as_read()
            .within(COMMAND_LIMIT)
    }

    /// Reads the state of the VM.
    ///
    /// # Errors
    /// The VM does not answer.
    pub fn probe(&self, cloud: &dyn Cloud, events: u32) -> Result<GuestReport, Refusal> {
        cloud
            .call(&self.report_call(events))
            .map(|text| parse(&text))
    }

    /// Waits until the VM answers and its start-up script has ended.
    ///
    /// # Errors
    /// The VM does not answer within `timeout`, or the login is refused.
    pub fn wait_started(&self, cloud: &dyn Cloud, timeout: Duration) -> Result<GuestReport> {
        cloud.show(&format!(
            "$ {}   (again until it answers)",
            self.report_call(1)
        ));
        let began = cloud.now();
        let mut shown = String::new();
        loop {
            let why = match self.probe(cloud, 1) {
                Ok(report) => match report.startup {
                    Startup::Working => "its start-up script has not ended".to_owned(),
                    _ => return Ok(report),
                },
                Err(refusal) if is_permanent(&refusal) => return Err(refusal.explained()),
                Err(refusal) => refusal.text,
            };
            let waited = cloud.now().since(began);
            if waited >= timeout {
                return Err(anyhow!(
                    "{} does not answer after {}: {why}",
                    self.vm,
                    sys::time::short(waited)
                ))
                .hint(format!(
                    "to see its boot log: gcloud compute instances get-serial-port-output {} \
                     --zone={}",
                    self.vm, self.zone
                ));
            }
            if why != shown {
                cloud.show(&format!("  waiting for {}: {why}", self.vm));
                shown = why;
            }
            cloud.pause(Duration::from_secs(5));
        }
    }

    /// Returns a call that fails until the start-up script has ended.
    #[must_use]
    pub fn has_started(&self) -> Call {
        self.ssh(
            "wait until the VM has booted",
            &format!("grep -qsv working {SAID}"),
        )
    }

    /// Returns a call that fails if the first setup is not needed.
    #[must_use]
    pub fn is_new(&self) -> Call {
        self.ssh("only if the disk is new", &format!("grep -q ^new {SAID}"))
    }

    /// Returns the calls of the first setup: they copy the binary to the VM and run its setup.
    #[must_use]
    pub fn first_setup(&self, disk: &str, first: &FirstTime) -> Vec<Call> {
        let mut calls = vec![self.scp("copy spotkeep to the VM", &first.binary, UPLOAD)];
        let mut options = String::new();
        if let Some(claude) = &first.claude {
            calls.push(self.scp("copy Claude Code to the VM", claude, UPLOAD_CLAUDE));
            options.push_str(&format!(" --claude \"$HOME/{UPLOAD_CLAUDE}\""));
        }
        if first.unattended {
            options.push_str(" --unattended");
        }
        if first.beside_other_files {
            options.push_str(" --beside-other-files");
        }
        let (user, disk) = (quote(&first.user), quote(disk));
        let own = "/usr/local/lib/spotkeep-startup/spotkeep";
        let command = format!(
            "set -eu; cd; \
             sudo install -D -o root -g root -m 0755 {UPLOAD} {own}; rm -f {UPLOAD}; \
             ended=0; sudo {own} setup --disk {disk} --user {user} --yes{options} 2>{SETUP_SAID} \
             || ended=$?; \
             cat {SETUP_SAID} >&2; rm -f {UPLOAD_CLAUDE}; \
             case $ended in 0) said=ready ;; 3) said=\"ready, but $(sed -n 's/^problem: //p' \
             {SETUP_SAID} | head -n 1)\" ;; \
             *) exit $ended ;; esac; rm -f {SETUP_SAID}; \
             echo \"$said\" | sudo tee {SAID} >/dev/null"
        );
        calls.push(
            self.ssh("set up the VM, and put spotkeep on the disk", &command)
                .within(SETUP_LIMIT),
        );
        calls
    }
}

/// Whether an error is permanent, so that waiting does not help.
#[must_use]
pub fn is_permanent(refusal: &Refusal) -> bool {
    matches!(
        refusal.fault,
        Fault::Missing
            | Fault::Login
            | Fault::NoProject
            | Fault::WrongProject
            | Fault::ApiDisabled
            | Fault::Forbidden
            | Fault::TooOld
    )
}

/// Parses the state of the VM: sections with titles, any of which may be empty.
#[must_use]
pub fn parse(text: &str) -> GuestReport {
    let section = |title: &str| -> String {
        let mut inside = false;
        let lines = text.lines().filter(|line| match line.strip_prefix("== ") {
            Some(name) => {
                inside = name == title;
                false
            }
            None => inside,
        });
        lines.collect::<Vec<_>>().join("\n")
    };
    let said = section("startup");
    let problem = said.trim().strip_prefix("ready, but ").map(str::to_owned);
    let startup = match said.trim() {
        said if said == "ready" || problem.is_some() => Startup::Ready,
        said if said.starts_with("new") => Startup::New,
        said if said.starts_with("failed: ") => {
            Startup::Failed(said["failed: ".len()..].to_owned())
        }
        _ => Startup::Working,
    };
    GuestReport {
        startup,
        problem,
        fleet: serde_json::from_str(&section("status")).ok(),
        booted: section("booted")
            .trim()
            .parse::<i64>()
            .ok()
            .and_then(|seconds| Timestamp::from_millis(seconds * 1000)),
        events: section("events")
            .lines()
            .filter_map(JournalEntry::parse)
            .collect(),
    }
}

/// Sets up the VM for the first time.
///
/// # Errors
/// A copy failed, or the setup failed; the error has its output.
pub fn set_up(cloud: &dyn Cloud, calls: &[Call]) -> Result<()> {
    for call in calls {
        make(cloud, call)?;
    }
    Ok(())
}

/// Describes the VM and its agents in one line, with a hint if something is missing.
#[must_use]
pub fn describe(report: &GuestReport, name: &str) -> (String, Option<String>) {
    let (said, hint) = describe_agents(report.fleet.as_ref(), name);
    match &report.problem {
        Some(problem) => (format!("{said}; {problem}"), hint),
        None => (said, hint),
    }
}

fn describe_agents(fleet: Option<&Fleet>, name: &str) -> (String, Option<String>) {
    let on_the_vm =
        |command: &str| Some(format!("spotkeep gcp ssh --name={name}, then: {command}"));
    let Some(fleet) = fleet else {
        return (
            "there is no data directory on the VM".to_owned(),
            on_the_vm("sudo journalctl -u google-startup-scripts"),
        );
    };
    if fleet.agents.is_empty() {
        return (
            "the VM is ready; no agents are declared".to_owned(),
            on_the_vm("spotkeep add NAME --workspace DIR --prompt TEXT, and: spotkeep up"),
        );
    }
    let count = fleet.agents.iter().filter(|agent| agent.is_up()).count();
    let said = format!(
        "{count} {} running",
        if count == 1 { "agent" } else { "agents" }
    );
    if fleet.keeper != "running" {
        return (
            format!("{said}; the keeper does not run"),
            on_the_vm("systemctl status spotkeep"),
        );
    }
    let is_desired = |agent: &&Agent| agent.desired == Desired::Running;
    let desired = fleet.agents.iter().filter(is_desired).count();
    let Some(bad) = fleet
        .agents
        .iter()
        .filter(is_desired)
        .find(|agent| !agent.is_up())
    else {
        return (said, None);
    };
    let why = bad
        .why
        .as_deref()
        .map(|why| format!(": {why}"))
        .unwrap_or_default();
    (
        format!(
            "{said} of {desired}; {} is {}{why}",
            bad.name,
            bad.state.as_str()
        ),
        Some(format!("spotkeep gcp ssh {} --name={name}", bad.name)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOK: &str = r#"== startup
ready
== booted
1763769600
== status
{"version":1,"boot_id":"l2","keeper":"running","last_save":{"id":"s","clean":true,"notice_to_safe_ms":812},
 "agents":[{"name":"a","state":"running","desired":"running","session_id":"s1"},
           {"name":"b","state":"failed","desired":"running","session_id":"s2","why":"no login"},
           {"name":"c","state":"stopped","desired":"stopped","session_id":"s3"}]}
== events
{"version":1,"seq":7,"at":"2025-11-22T00:00:09.000Z","data_dir_id":"r","epoch":2,"boot_id":"l2","event":"resumed","agent":"a","session_id":"s","continued":true}
"#;

    #[test]
    fn the_state_is_parsed_by_sections() {
        let report = parse(LOOK);
        assert_eq!(report.startup, Startup::Ready);
        assert_eq!(
            report.booted.unwrap().to_string(),
            "2025-11-22T00:00:00.000Z"
        );
        assert_eq!(report.events[0].name, "resumed");
        let fleet = report.fleet.as_ref().unwrap();
        assert_eq!(
            fleet.last_save.as_ref().unwrap().notice_to_safe_ms,
            Some(812)
        );
        let (said, hint) = describe(&report, "vm");
        assert_eq!(said, "1 agent running of 2; b is failed: no login");
        assert_eq!(hint.unwrap(), "spotkeep gcp ssh b --name=vm");
    }

    #[test]
    fn a_vm_with_an_older_version_is_read_by_the_old_names() {
        let alias = |text: &str, name: &str, old_name: &str| text.replace(name, old_name);
        let old = alias(LOOK, "boot_id", "life");
        let old = alias(&old, "desired", "wanted");
        let old = alias(&old, "data_dir_id", "root_id");
        let old = alias(&old, "812}", r#"812,"words_safe_ms":8}"#);
        let (mut expected, report) = (parse(LOOK), parse(&old));
        let fleet = expected.fleet.as_mut().unwrap();
        fleet.last_save.as_mut().unwrap().transcripts_safe_ms = Some(8);
        assert_eq!(report.fleet, expected.fleet);
        assert_eq!(report.events[0].boot_id, expected.events[0].boot_id);
    }

    #[test]
    fn a_vm_without_a_data_dir_has_a_hint() {
        let report = parse(
            "== startup\nnew: the disk holds no filesystem yet\n== booted\n== status\n== events\n",
        );
        assert_eq!(report.startup, Startup::New);
        assert!(report.fleet.is_none() && report.booted.is_none());
        assert!(
            describe(&report, "vm")
                .1
                .unwrap()
                .contains("google-startup-scripts")
        );
        assert_eq!(
            parse("== startup\nfailed: no\n").startup,
            Startup::Failed("no".into())
        );
        assert_eq!(parse("").startup, Startup::Working);
    }

    #[test]
    fn a_vm_without_a_claude_is_ready_with_a_problem() {
        let report = parse(
            "== startup\nready, but no claude is kept on the disk\n== \
             status\n{\"boot_id\":\"l\",\"keeper\":\"running\"}\n",
        );
        assert_eq!(report.startup, Startup::Ready);
        let (said, hint) = describe(&report, "vm");
        assert_eq!(
            said,
            "the VM is ready; no agents are declared; no claude is kept on the disk"
        );
        assert!(hint.is_some());
    }

    #[test]
    fn the_script_writes_what_the_parser_reads() {
        let script = super::super::scripts::startup("d");
        assert!(script.contains(&format!(">{SAID};")));
        for word in [
            "say working",
            "say 'new: ",
            "say ready",
            "say \"ready, but ",
            "say \"failed: ",
        ] {
            assert!(script.contains(word), "{word}");
        }
    }
}
