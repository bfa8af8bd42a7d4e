//! A simulated machine: a boot disk that systemd-nspawn boots as a container.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use drill::fake_api::log::RequestLog;
use serde_json::Value;
use sys::process::{ProcessId, Signal};

use super::journal::Journal;
use super::{Disk, Site};
use crate::support::{CommandOutput, SPOTKEEP, prompt_of, said};
use crate::terminal::until_model;
use testing::wait::{during, until_with};

/// The device of the data disk, with the name that Compute Engine gives it.
pub const DEVICE: &str = "/dev/disk/by-id/google-claude-persist";
/// The data directory.
pub const DATA_DIR: &str = "/mnt/persist";
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The signal to PID 1 on which systemd powers off.
const POWER_OFF: i32 = 34 + 4;
/// The signal to PID 1 on which systemd reboots.
const REBOOT: i32 = 34 + 5;
/// The exit code of nspawn when its machine asks for a reboot.
const WANTS_REBOOT: i32 = 133;

/// A machine with its boot disk, which is kept across boots; a second `Machine` is a new boot disk.
pub struct Machine<'r> {
    pub site: &'r Site,
    boot_disk: PathBuf,
    extra: Vec<String>,
    defaults: String,
    /// The option that names the data directory to the program on the disk.
    pub data_dir_option: String,
    nspawn: Option<Child>,
    leader: Option<ProcessId>,
}

impl<'r> Machine<'r> {
    /// Creates a machine with a blank boot disk, switched off.
    pub fn new(site: &'r Site) -> Self {
        let boot_disk = site
            .dir
            .join(format!("boot-{}", &sys::uuid::new_uuid()[..8]));
        for name in ["upper", "work", "root"] {
            fs::create_dir_all(boot_disk.join(name)).unwrap();
        }
        let options = format!(
            "lowerdir={},upperdir={1}/upper,workdir={1}/work",
            site.dir.join("tree").display(),
            boot_disk.display()
        );
        let mut mount = Command::new("mount");
        mount.args(["-t", "overlay", "overlay", "-o", &options]);
        said(mount.arg(boot_disk.join("root"))).ok();
        let machine = Self {
            site,
            boot_disk,
            extra: Vec::new(),
            defaults: String::new(),
            data_dir_option: format!("--data-dir {DATA_DIR}"),
            nspawn: None,
            leader: None,
        };
        fs::create_dir_all(machine.file("/var/log/journal")).unwrap();
        // The fake Claude, until a test replaces it with the real one.
        machine.script(
            "/usr/local/bin/claude",
            "exec /usr/local/bin/spotkeep-under-test fake-claude \"$@\"",
        );
        machine.share(Path::new(SPOTKEEP), "/usr/local/bin/spotkeep-under-test")
    }

    /// Mounts a file of this machine into the simulated one, from its next boot on.
    pub fn share(mut self, from: &Path, to: &str) -> Self {
        self.extra
            .push(format!("--bind-ro={}:{to}", from.display()));
        self
    }

    /// Makes the agents run the real Claude Code.
    pub fn with_claude(mut self, claude: &Path) -> Self {
        self.defaults = "args = [\"--dangerously-skip-permissions\"]\n\
            env.ANTHROPIC_API_KEY = \"lab-key-that-opens-nothing\"\n\
            env.DISABLE_TELEMETRY = \"1\""
            .into();
        self.share(claude, "/usr/local/bin/claude")
    }

    /// Returns the path of a file on the boot disk, also while the machine is off.
    pub fn file(&self, path: &str) -> PathBuf {
        self.boot_disk
            .join("root")
            .join(path.trim_start_matches('/'))
    }

    pub fn write(&self, path: &str, text: &str) {
        let path = self.file(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Creates a symbolic link on the boot disk.
    pub fn link(&self, to: &str, path: &str) {
        let path = self.file(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(to, path).unwrap();
    }

    pub fn script(&self, path: &str, text: &str) {
        self.write(path, &format!("#!/bin/sh\n{text}\n"));
        fs::set_permissions(self.file(path), fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Boots the machine, with this data disk or without one, and waits until systemd reports that
    /// it is up.
    pub fn boot(&mut self, disk: Option<&Disk>) {
        let id = self.boot_disk.file_name().unwrap().to_str().unwrap();
        let mut nspawn = Command::new("systemd-nspawn");
        nspawn
            .args([
                "--quiet",
                "--boot",
                "--register=no",
                "--keep-unit",
                "--console=pipe",
            ])
            .args([
                "--network-namespace-path=/proc/self/ns/net",
                "--kill-signal=SIGRTMIN+4",
            ])
            .arg(format!("--machine={id}"))
            .arg("-D")
            .arg(self.boot_disk.join("root"))
            .args(disk.map(|disk| format!("--bind={}:{DEVICE}", disk.device().display())))
            .args(&self.extra)
            .env_clear()
            .env("PATH", PATH)
            // Cgroup version 2 in the container, whatever the host has: delegation and cgroup.kill
            // work, and the controllers that the host does not use itself are available.
            .env("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY", "1")
            .stdin(Stdio::null())
            .stdout(fs::File::create(self.boot_disk.join("console")).unwrap())
            .stderr(Stdio::inherit());
        let child = nspawn.spawn().unwrap();
        let children = format!("/proc/{0}/task/{0}/children", child.id());
        self.nspawn = Some(child);
        let leader = self.until("the machine has a first process", || {
            let children = fs::read_to_string(&children).ok()?;
            let mut pids = children
                .split_whitespace()
                .filter_map(|pid| pid.parse().ok());
            pids.find(|pid| is_first_of_its_namespace(*pid))
                .and_then(ProcessId::from_pid)
        });
        self.leader = Some(leader);
        self.until("systemd is up", || {
            let state = self.run("systemctl is-system-running").out;
            matches!(state.trim(), "running" | "degraded").then_some(())
        });
    }

    /// Presses the power button; returns once the machine is off.
    pub fn power_off(&mut self) -> Journal {
        let leader = self.leader.take().unwrap();
        let mut kill = Command::new("kill");
        said(kill.args([format!("-{POWER_OFF}"), leader.pid.to_string()])).ok();
        self.wait_off(leader);
        Journal::newest(&self.file("/var/log/journal"))
    }

    /// Reboots the machine by way of systemd.
    pub fn reboot(&mut self, disk: &Disk) {
        let leader = self.leader.take().unwrap();
        let mut kill = Command::new("kill");
        said(kill.args([format!("-{REBOOT}"), leader.pid.to_string()])).ok();
        assert_eq!(self.wait_off(leader).code(), Some(WANTS_REBOOT));
        self.boot(Some(disk));
    }

    /// Simulates a power cut: every process is killed at once.
    pub fn cut(&mut self) {
        let leader = self.leader.take().unwrap();
        leader.open().unwrap().signal(Signal::Kill);
        self.wait_off(leader);
    }

    fn wait_off(&mut self, leader: ProcessId) -> ExitStatus {
        if let Some(pidfd) = leader.open() {
            during("the machine goes off", || pidfd.wait(None));
        }
        let mut nspawn = self.nspawn.take().unwrap();
        during("its nspawn ends", || nspawn.wait()).unwrap()
    }

    fn console(&self) -> String {
        fs::read_to_string(self.boot_disk.join("console")).unwrap_or_default()
    }

    /// Returns the journal of this boot so far.
    pub fn journal(&self) -> Journal {
        self.run("journalctl --sync");
        Journal::newest(&self.file("/var/log/journal"))
    }

    /// Runs a command line on the machine as root.
    pub fn run(&self, line: &str) -> CommandOutput {
        let mut enter = Command::new("nsenter");
        enter
            .args(["-a", "-t", &self.leader.unwrap().pid.to_string(), "--"])
            .args([
                "env",
                "-i",
                &format!("PATH={PATH}"),
                "HOME=/root",
                "LANG=C.UTF-8",
            ])
            .args(["sh", "-c", line])
            .env_clear()
            .env("PATH", PATH);
        said(&mut enter)
    }

    /// Runs `spotkeep` on the machine as the agents' user.
    pub fn spotkeep(&self, line: &str) -> CommandOutput {
        self.run(&format!(
            "exec runuser -u ann -- env HOME=/home/ann {DATA_DIR}/bin/spotkeep {} {line}",
            self.data_dir_option
        ))
    }

    /// Runs `setup --no-start` as a user would, and writes `config` to `spotkeep.toml`.
    pub fn set_up(&self, config: &str) {
        let said = self.setup("--no-start");
        // Setup may report that the fake cannot be installed on the disk as a claude.
        assert!(
            matches!(said.code, 0 | 3) && !said.err.contains("error: "),
            "{said:?}"
        );
        if !config.is_empty() {
            self.configure(config);
        }
    }

    /// Runs `spotkeep setup` with the program under test.
    pub fn setup(&self, more: &str) -> CommandOutput {
        self.setup_by("/usr/local/bin/spotkeep-under-test", more)
    }

    /// Runs `spotkeep setup` with the given program.
    pub fn setup_by(&self, program: &str, more: &str) -> CommandOutput {
        let disk = Path::new(DEVICE).file_name().unwrap().to_str().unwrap();
        let disk = disk.trim_start_matches("google-");
        self.run(&format!(
            "{program} setup --disk {disk} --user ann --yes --no-packages {more}"
        ))
    }

    /// Writes `spotkeep.toml` with the addresses of the fakes, followed by `more`.
    pub fn configure(&self, more: &str) {
        let text = format!(
            "[cloud]\nprovider = \"gcp\"\n\n[defaults]\n{}\nenv.ANTHROPIC_BASE_URL \
             = \"{}\"\n{more}\n",
            self.defaults,
            self.site.model.url()
        );
        let write = format!(
            "cd {DATA_DIR}; printf %s \"$0\" >spotkeep.toml
            for name in $(sed -n 's/^\\[agents\\.\\(.*\\)\\]/\\1/p' spotkeep.toml); do
                [ -d workspaces/$name ] || git init -q -b main workspaces/$name
            done"
        );
        let mut enter = Command::new("nsenter");
        enter
            .args(["-a", "-t", &self.leader.unwrap().pid.to_string(), "--"])
            .args(["runuser", "-u", "ann", "--", "sh", "-ec"])
            .args([write, text]);
        said(&mut enter).ok();
    }

    /// Starts the units as a boot does.
    pub fn start(&self) {
        self.run("systemctl start spotkeep-tmux spotkeep spotkeep-save")
            .ok();
    }

    /// Writes a file below `/run/systemd/system`, which is gone after the next boot.
    pub fn write_runtime(&self, path: &str, text: &str) {
        let to = format!("/run/systemd/system/{path}");
        self.run(&format!(
            "mkdir -p $(dirname {to}); printf '{text}' >{to}; systemctl daemon-reload"
        ))
        .ok();
    }

    pub fn status(&self) -> Value {
        self.spotkeep("status --json").sound().json()
    }

    /// Returns one agent of `status --json`.
    pub fn agent(&self, name: &str) -> Value {
        let status = self.status();
        let agents = status["agents"].as_array().unwrap();
        let agent = agents.iter().find(|agent| agent["name"] == name);
        agent.cloned().unwrap_or(Value::Null)
    }

    /// Returns the pid of an agent in the machine's pid namespace.
    pub fn pid(&self, name: &str) -> i64 {
        self.until(&format!("{name} runs"), || self.agent(name)["pid"].as_i64())
    }

    pub fn wait_state(&self, name: &str, state: &str) -> Value {
        self.until(&format!("{name} is {state}"), || {
            let agent = self.agent(name);
            (agent["state"] == state).then_some(agent)
        })
    }

    /// Waits until an agent is in the tool call that its plan leaves open.
    pub fn wait_open(&self, name: &str) {
        self.until_model(&format!("{name} is in its open call"), |request_log| {
            let account = request_log.agents.get(name);
            account.is_some_and(|account| account.open.is_some())
        });
        // An agent writes its prompt to the transcript a moment after it received it. One that is
        // killed before has an empty session, and starts a new one.
        let request_log = self.site.model.request_log();
        let open = request_log.agents[name].open.as_ref().unwrap();
        let look = format!(
            "test -e {DATA_DIR}/workspaces/{name}/open.txt && grep -qF '{}' \
             {DATA_DIR}/.claude/projects/*/*.jsonl",
            open.marker
        );
        self.until(&format!("the open tool of {name} runs"), || {
            (self.run(&look).code == 0).then_some(())
        });
    }

    /// Returns one property of a unit, from `systemctl show`.
    pub fn property(&self, unit: &str, name: &str) -> String {
        let said = self
            .run(&format!("systemctl show --value --property={name} {unit}"))
            .ok();
        said.out.trim().to_owned()
    }

    /// Waits until `look` returns a value.
    pub fn until<T>(&self, what: &str, look: impl FnMut() -> Option<T>) -> T {
        // systemd and its services send no events out of the machine, so this polls.
        let pause = || std::thread::sleep(Duration::from_millis(20));
        until_with(what, || self.account(), pause, look)
    }

    /// Waits until the request log of the model meets a condition.
    pub fn until_model(&self, what: &str, so: impl Fn(&RequestLog) -> bool) {
        until_model(&self.site.model, what, || self.account(), so);
    }

    /// Returns the console, the status and the journal, to explain a failure.
    pub fn account(&self) -> String {
        let mut account = self.console();
        if self.leader.is_some() {
            let status = self.spotkeep("status");
            account += &format!("{}{}", status.out, status.err);
        }
        account + &Journal::newest(&self.file("/var/log/journal")).text()
    }
}

impl Drop for Machine<'_> {
    fn drop(&mut self) {
        if let Some(leader) = self.leader.take().and_then(ProcessId::open) {
            leader.signal(Signal::Kill);
        }
        if let Some(mut nspawn) = self.nspawn.take() {
            // nspawn ends after its first process, and otherwise with the test.
            during("its nspawn ends", || nspawn.wait()).ok();
        }
    }
}

/// Whether a process is PID 1 of its pid namespace; nspawn has other children for a moment.
fn is_first_of_its_namespace(pid: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    numbers.is_some_and(|numbers| {
        let numbers: Vec<&str> = numbers.split_whitespace().collect();
        numbers.len() > 1 && numbers.last() == Some(&"1")
    })
}

/// Returns the table of an agent whose fake model follows `plan`; its workspace is created when
/// needed.
pub fn agent(name: &str, plan: &str) -> String {
    let prompt = match plan {
        "" => String::new(),
        plan => format!("prompt = \"{}\"\n", prompt_of(name, plan, 1)),
    };
    format!("\n[agents.{name}]\nworkspace = \"workspaces/{name}\"\n{prompt}")
}
