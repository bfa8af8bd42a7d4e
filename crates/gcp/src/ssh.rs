//! The VM asked from outside: `gcloud compute ssh`, one short command at a time.
//!
//! The person who logs in (OS Login) is another user than the agents'. Whose agents they are is told by the data directory
//! itself: its `session-state` belongs to them. Commands are run as that user, through `sudo`.

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

/// A command on a VM that is up.
const COMMAND_LIMIT: Duration = Duration::from_secs(90);
/// Copying the binary, and the first setup with its packages.
const SETUP_LIMIT: Duration = Duration::from_secs(900);
/// Where the binary is put first, in the home of the person who logs in.
const UPLOAD: &str = "spotkeep.upload";
/// What the first setup said, beside it.
const SETUP_SAID: &str = "spotkeep.said";
/// The same for Claude Code.
const UPLOAD_CLAUDE: &str = "claude.upload";

/// How to reach the VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guest {
    /// Its name.
    pub vm: String,
    /// Its zone.
    pub zone: String,
    /// Through Google's tunnel, since it has no address of its own.
    pub tunnel: bool,
}

/// What the first setup is told.
#[derive(Debug, Clone)]
pub struct FirstTime {
    /// The agents' user.
    pub user: String,
    /// The spotkeep that is copied to the VM.
    pub binary: PathBuf,
    /// The Claude Code that is copied, if one is.
    pub claude: Option<PathBuf>,
    /// Whether agents may run every command without asking.
    pub unattended: bool,
    /// Whether the disk may hold other files.
    pub beside_other_files: bool,
}

/// What the start-up script said of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Startup {
    /// It has not ended yet.
    Working,
    /// There is no spotkeep on the disk.
    New,
    /// All is set up.
    Ready,
    /// It gave up, and why.
    Failed(String),
}

/// What `spotkeep status --json` says, as far as it matters here. The VM may have another version.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Fleet {
    /// The boot.
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

/// A save.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct LastSave {
    /// Its id.
    pub id: String,
    /// Whether everything was safe in time.
    pub clean: bool,
    /// From the notice until every transcript was durable.
    #[serde(default, alias = "words_safe_ms")]
    pub transcripts_safe_ms: Option<u64>,
    /// From the notice until everything was.
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
    /// What the user wants.
    #[serde(alias = "wanted")]
    pub desired: Desired,
    /// Its session.
    pub session_id: String,
    /// Why it stands still.
    #[serde(default)]
    pub why: Option<String>,
}

impl Agent {
    /// Whether Claude runs, and is not held up by anything but a person.
    #[must_use]
    pub fn is_up(&self) -> bool {
        use AgentState::{Idle, Running, Waiting};
        matches!(self.state, Running | Waiting | Idle)
    }

    /// Whether it is wanted, and on its way.
    #[must_use]
    pub fn is_coming(&self) -> bool {
        use AgentState::{Backoff, Saving, Starting, Unknown};
        let on_its_way = matches!(self.state, Starting | Saving | Backoff | Unknown);
        self.desired == Desired::Running && (on_its_way || self.state == AgentState::Stopped)
    }
}

/// What the VM says.
#[derive(Debug, Clone)]
pub struct GuestReport {
    /// What the start-up script said.
    pub startup: Startup,
    /// What is amiss although all is set up, such as a claude that is not there yet.
    pub problem: Option<String>,
    /// `spotkeep status --json`, where there is a data directory.
    pub fleet: Option<Fleet>,
    /// When the machine was booted, by its own clock.
    pub booted: Option<Timestamp>,
    /// The end of the journal.
    pub events: Vec<JournalEntry>,
}

/// The shell's way to run spotkeep as the agents' user.
const AS_USER: &str = r#"u=$(stat -c %U DIR/session-state 2>/dev/null) && sudo -n -u "$u" -H"#;

fn as_user() -> String {
    AS_USER.replace("DIR", layout::DEFAULT)
}

impl Guest {
    /// A command on the VM, as the person who logs in. What it says is taken as the answer.
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

    /// A terminal on the VM: an agent's, or a shell of the agents' user.
    #[must_use]
    pub fn terminal(&self, agent: Option<&str>) -> Call {
        let command = match agent {
            Some(agent) => format!(
                "{} {}/bin/spotkeep attach {}",
                as_user(),
                layout::DEFAULT,
                quote(agent)
            ),
            // Before the first setup there is no such user: then a shell of one's own.
            None => format!(
                "if u=$(stat -c %U {}/session-state 2>/dev/null); then exec sudo -n -u \"$u\" -H -i; \
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

    /// The question how all is; with so many lines of the journal.
    #[must_use]
    pub fn look_call(&self, events: u32) -> Call {
        let user = as_user();
        let keeper = format!("{}/bin/spotkeep", layout::DEFAULT);
        let command = format!(
            "echo '== startup'; cat {SAID} 2>/dev/null || echo working; \
             echo '== booted'; sed -n 's/^btime //p' /proc/stat; \
             echo '== status'; {user} {keeper} status --json; \
             echo '== events'; {user} {keeper} events --json -n {events}; true"
        );
        self.ssh("ask the VM how it is", &command)
            .as_read()
            .within(COMMAND_LIMIT)
    }

    /// Asks how all is.
    ///
    /// # Errors
    /// The VM does not answer.
    pub fn probe(&self, cloud: &dyn Cloud, events: u32) -> Result<GuestReport, Refusal> {
        cloud.call(&self.look_call(events)).map(|text| parse(&text))
    }

    /// Asks until the VM answers and its start-up script has ended.
    ///
    /// # Errors
    /// Not within `stall_retry`; or the login is refused.
    pub fn wait_started(&self, cloud: &dyn Cloud, timeout: Duration) -> Result<GuestReport> {
        cloud.show(&format!(
            "$ {}   (again until it answers)",
            self.look_call(1)
        ));
        let began = cloud.now();
        let mut told = String::new();
        loop {
            let why = match self.probe(cloud, 1) {
                Ok(look) => match look.startup {
                    Startup::Working => "its start-up script has not ended".to_owned(),
                    _ => return Ok(look),
                },
                Err(refusal) if is_for_ever(&refusal) => return Err(refusal.explained()),
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
                    "what it printed while it booted: gcloud compute instances get-serial-port-output {} --zone={}",
                    self.vm, self.zone
                ));
            }
            if why != told {
                cloud.show(&format!("  waiting for {}: {why}", self.vm));
                told = why;
            }
            cloud.pause(Duration::from_secs(5));
        }
    }

    /// The question whether the start-up script has ended: it fails until then.
    #[must_use]
    pub fn has_started(&self) -> Call {
        self.ssh(
            "wait until the VM has booted",
            &format!("grep -qsv working {SAID}"),
        )
    }

    /// The question whether the first setup is needed: it fails where it is not.
    #[must_use]
    pub fn is_new(&self) -> Call {
        self.ssh(
            "only where the disk is new",
            &format!("grep -q ^new {SAID}"),
        )
    }

    /// The calls of the first time: the binary is copied to the VM, and sets it up.
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
             ended=0; sudo {own} setup --disk {disk} --user {user} --yes{options} 2>{SETUP_SAID} || ended=$?; \
             cat {SETUP_SAID} >&2; rm -f {UPLOAD_CLAUDE}; \
             case $ended in 0) said=ready ;; 3) said=\"ready, but $(sed -n 's/^problem: //p' {SETUP_SAID} | head -n 1)\" ;; \
             *) exit $ended ;; esac; rm -f {SETUP_SAID}; \
             echo \"$said\" | sudo tee {SAID} >/dev/null"
        );
        calls.push(
            self.ssh("make the VM ready, and put spotkeep on the disk", &command)
                .within(SETUP_LIMIT),
        );
        calls
    }
}

/// What will not become better by waiting.
#[must_use]
pub fn is_for_ever(refusal: &Refusal) -> bool {
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

/// Reads the answer to a look: sections with a title each, any of which may be empty.
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

/// Sets the VM up for the first time.
///
/// # Errors
/// It cannot be copied, or the setup refuses; its own words say why.
pub fn set_up(cloud: &dyn Cloud, calls: &[Call]) -> Result<()> {
    for call in calls {
        make(cloud, call)?;
    }
    Ok(())
}

/// How the VM and its agents are, in one line, and what to do where something is missing.
#[must_use]
pub fn in_words(look: &GuestReport, name: &str) -> (String, Option<String>) {
    let (said, hint) = of_agents(look.fleet.as_ref(), name);
    match &look.problem {
        Some(problem) => (format!("{said}; {problem}"), hint),
        None => (said, hint),
    }
}

fn of_agents(fleet: Option<&Fleet>, name: &str) -> (String, Option<String>) {
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
    fn a_look_is_read_section_by_section() {
        let look = parse(LOOK);
        assert_eq!(look.startup, Startup::Ready);
        assert_eq!(look.booted.unwrap().to_string(), "2025-11-22T00:00:00.000Z");
        assert_eq!(look.events[0].name, "resumed");
        let fleet = look.fleet.as_ref().unwrap();
        assert_eq!(
            fleet.last_save.as_ref().unwrap().notice_to_safe_ms,
            Some(812)
        );
        let (said, hint) = in_words(&look, "vm");
        assert_eq!(said, "1 agent running of 2; b is failed: no login");
        assert_eq!(hint.unwrap(), "spotkeep gcp ssh b --name=vm");
    }

    #[test]
    fn a_vm_that_has_nothing_yet_says_what_is_missing() {
        let look = parse(
            "== startup\nnew: the disk holds no filesystem yet\n== booted\n== status\n== events\n",
        );
        assert_eq!(look.startup, Startup::New);
        assert!(look.fleet.is_none() && look.booted.is_none());
        assert!(
            in_words(&look, "vm")
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
    fn a_vm_that_is_ready_without_a_claude_says_so() {
        let look = parse(
            "== startup\nready, but no claude is kept on the disk\n== status\n{\"boot_id\":\"l\",\"keeper\":\"running\"}\n",
        );
        assert_eq!(look.startup, Startup::Ready);
        let (said, hint) = in_words(&look, "vm");
        assert_eq!(
            said,
            "the VM is ready; no agents are declared; no claude is kept on the disk"
        );
        assert!(hint.is_some());
    }

    #[test]
    fn what_the_script_writes_is_what_is_read() {
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
