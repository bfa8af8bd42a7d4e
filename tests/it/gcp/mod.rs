//! Tests of `spotkeep gcp` with the real gcloud against a fake of the Compute API on loopback.
//!
//! Nothing here can connect to Google: gcloud has an empty configuration, no credentials and an
//! endpoint on loopback. As root, the whole test runs in a network namespace with only loopback.
//! `ssh` and `scp` are fakes.

mod boot;
mod compute;
mod faults;
mod journeys;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use gcp::vm_spec::{Notice, Shape, VmRequest};
use serde_json::json;

use compute::{Compute, PROJECT, ZONE};

use crate::command_output::CommandOutput;
use crate::loopback::{again_on_loopback, ensure_only_loopback, is_on_loopback, name_of};
use crate::support::{SPOTKEEP, is_root, run, skip};

/// A simulated laptop with gcloud, and an empty project.
pub struct Laptop {
    pub dir: PathBuf,
    pub compute: Compute,
}

/// Runs `body` on a laptop that cannot connect to other machines. The name of the test is taken
/// from the type of `body`, which must be a closure of the test function itself.
pub fn on_a_laptop<Body: Fn(&Laptop)>(body: Body) {
    let test = name_of::<Body>();
    let gcloud = run(Command::new("gcloud").arg("--version"));
    if !gcloud.is_ok_and(|output| output.status.success()) {
        // Set by .ci/run, which has tried to install gcloud. Tests with the fake gcloud
        // (`crates/gcp/src/fake_gcloud.rs`), which checks each call against the recorded flags of
        // the real one, run in any case.
        if std::env::var("SPOTKEEP_WITHOUT_GCLOUD").is_ok_and(|so| so == "1") {
            eprintln!("skipped: {test}: gcloud could not be installed");
            return;
        }
        return skip(&test, "gcloud is not installed (scripts/need gcloud)");
    }
    if is_root() {
        if !is_on_loopback() {
            return again_on_loopback(&test);
        }
        ensure_only_loopback();
    }
    body(&Laptop::new());
}

impl Laptop {
    fn new() -> Self {
        let id = sys::uuid::new_uuid();
        let dir = std::env::temp_dir().join(format!("sk-gcp-{}", &id[..8]));
        for name in ["home/.ssh", "bin", "gcloud"] {
            fs::create_dir_all(dir.join(name)).unwrap();
        }
        let laptop = Self {
            dir,
            compute: Compute::start(),
        };
        for name in ["e2-standard-4", "c4a-standard-4"] {
            laptop.compute.put(
                &format!("zones/{ZONE}/machineTypes/{name}"),
                json!({"guestCpus": 4}),
            );
        }
        laptop.fakes();
        laptop.answers(&vm_reply("new: the disk holds no filesystem yet", "l1", ""));
        laptop
    }

    /// Installs fakes for ssh and scp, which log their arguments. A status query over ssh prints
    /// the file `reply`; after a setup it prints the file `reply.ready`.
    fn fakes(&self) {
        let dir = self.dir.display();
        let ssh = format!(
            "#!/bin/sh\n# A fake for ssh. gcloud splits the command at its \
             spaces.\nall=$*\nlast=${{all#* -- }}\ncase $last in\n\
             *'== startup'*) cat '{dir}/reply'; exit \"$(cat '{dir}/rc' 2>/dev/null || echo 0)\" \
             ;;\n\
             *' setup --disk '*) printf 'ssh %s\\n' \"$last\" >>'{dir}/ssh.log'; mv \
             '{dir}/reply.ready' '{dir}/reply' ;;\n\
             *) printf 'ssh %s\\n' \"$last\" >>'{dir}/ssh.log' ;;\nesac\n"
        );
        let scp = format!(
            "#!/bin/sh\n# A fake for scp.\nprev=\nlast=\nfor word; do prev=$last; last=$word; \
             done\n\
             printf 'scp %s %s\\n' \"${{prev##*/}}\" \"${{last##*:}}\" >>'{dir}/ssh.log'\n"
        );
        let keygen = "#!/bin/sh\n# A fake for ssh-keygen.\nwhile [ $# -gt 1 ]; do [ \"$1\" = -f ] \
                      && file=$2; shift; done\n\
                      [ -n \"${file:-}\" ] || exit 1\n\
                      echo key >\"$file\"; echo 'ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQC7 lab@lab' \
                      >\"$file.pub\"\n";
        for (name, text) in [("ssh", ssh.as_str()), ("scp", &scp), ("ssh-keygen", keygen)] {
            let path = self.dir.join("bin").join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
    }

    /// Puts the project into the state that `create` leaves: a VM with its disk.
    pub fn make(&self) {
        let put = |path: &str, value| self.compute.put(path, value);
        let shape = Shape::resolve(
            &VmRequest {
                notice: Some(Notice::None),
                ..VmRequest::default()
            },
            None,
            528,
        )
        .unwrap();
        let region = "europe-north1";
        let template = shape.template_name("claude-sandbox", region);
        let own = serde_json::to_string(&shape).unwrap();
        put(
            &format!("global/instanceTemplates/{template}"),
            json!({"properties": {
                "machineType": "e2-standard-4", "labels": {"spotkeep": "claude-sandbox"},
                "metadata": {"items": [{"key": "spotkeep", "value": own}, {"key": "spotkeep-notice",
                "value": "0s"},
                                       {"key": "enable-oslogin", "value": "TRUE"}]},
            }}),
        );
        let policy = format!("regions/{region}/resourcePolicies/claude-sandbox-daily");
        put(&policy, json!({"status": "READY"}));
        let link = |path: &str| format!("{}projects/{PROJECT}/{path}", self.compute.endpoint());
        put(
            &format!("zones/{ZONE}/disks/claude-persist"),
            json!({"sizeGb": "50", "type": link("zones/z/diskTypes/pd-ssd"), "status": "READY",
            "users": [],
                   "resourcePolicies": [link(&policy)]}),
        );
        let group = format!("zones/{ZONE}/instanceGroupManagers/claude-sandbox");
        let source = link(&format!("zones/{ZONE}/disks/claude-persist"));
        put(
            &group,
            json!({"instanceTemplate": link(&format!("global/instanceTemplates/{template}")),
            "targetSize": 1,
            "instanceGroup": link(&group.replace("Managers", "s")), "status": {"isStable": true},
            "baseInstanceName": "claude-sandbox", "lab_errors": [],
            "lab_members": [{
                "instance": link(&format!("zones/{ZONE}/instances/claude-sandbox")),
                "currentAction": "CREATING",
                "preservedStateFromConfig": {"disks": {"claude-persist": {
                    "source": source, "autoDelete": "NEVER", "mode": "READ_WRITE"}}},
            }]}),
        );
        self.compute.dry(false);
    }

    /// Puts the project into the state of a set-up by hand: a plain VM with a data disk attached.
    pub fn make_by_hand(&self) {
        let link = |path: &str| format!("{}projects/{PROJECT}/{path}", self.compute.endpoint());
        let vm = link(&format!("zones/{ZONE}/instances/old"));
        for name in ["old", "claude-persist"] {
            self.compute.put(
                &format!("zones/{ZONE}/disks/{name}"),
                json!({"sizeGb": "50", "type": link("zones/z/diskTypes/pd-ssd"), "status": "READY",
                "users": [vm],
                       "resourcePolicies": []}),
            );
        }
        let disk = |boot: bool, name: &str| {
            json!({"boot": boot, "autoDelete": boot, "deviceName": name, "mode": "READ_WRITE",
            "type": "PERSISTENT",
                   "source": link(&format!("zones/{ZONE}/disks/{name}"))})
        };
        self.compute.put(
            &format!("zones/{ZONE}/instances/old"),
            json!({"status": "RUNNING",
            "machineType": link(&format!("zones/{ZONE}/machineTypes/e2-standard-4")),
                   "disks": [disk(true, "old"), disk(false, "claude-persist")],
                   "networkInterfaces": [{"name": "nic0", "networkIP": "10.0.0.2"}]}),
        );
    }

    /// Sets the reply of the VM after a preemption.
    pub fn preempted_answers(&self, reply: &str) {
        let file = self.dir.join("reply");
        let reply = reply.to_owned();
        self.compute
            .when_preempted(move || fs::write(&file, &reply).unwrap());
    }

    /// Sets the reply of the VM from now on.
    pub fn answers(&self, reply: &str) {
        fs::write(self.dir.join("reply"), reply).unwrap();
    }

    /// Sets the reply of the VM after its first setup.
    pub fn will_answer(&self, reply: &str) {
        fs::write(self.dir.join("reply.ready"), reply).unwrap();
    }

    /// Returns and clears the log of ssh and scp, which has all calls but status queries.
    pub fn log(&self) -> String {
        let path = self.dir.join("ssh.log");
        let text = fs::read_to_string(&path).unwrap_or_default();
        fs::remove_file(path).ok();
        text.replace(&*self.dir.to_string_lossy(), "DIR")
    }

    /// Returns a program with gcloud's environment, and no other variables of this machine.
    pub fn program(&self, program: &str) -> Command {
        let mut path = vec![self.dir.join("bin")];
        path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap()));
        let endpoint = self.compute.endpoint();
        assert!(endpoint.starts_with("http://127.0.0.1:"), "{endpoint}");
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", std::env::join_paths(path).unwrap())
            .env("HOME", self.dir.join("home"))
            .env("LANG", "C.UTF-8")
            .env("SPOTKEEP_LOOPBACK_ONLY", "1")
            .env("CLOUDSDK_CONFIG", self.dir.join("gcloud"))
            .env("CLOUDSDK_CORE_PROJECT", PROJECT)
            .env("CLOUDSDK_CORE_ACCOUNT", "lab@example.com")
            .env("CLOUDSDK_CORE_CHECK_GCE_METADATA", "false")
            .env("CLOUDSDK_CORE_DISABLE_USAGE_REPORTING", "true")
            .env("CLOUDSDK_COMPONENT_MANAGER_DISABLE_UPDATE_CHECK", "true")
            .env("CLOUDSDK_AUTH_DISABLE_CREDENTIALS", "true")
            .env("CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE", &endpoint)
            .env(
                "CLOUDSDK_API_ENDPOINT_OVERRIDES_OSLOGIN",
                format!("http://{}/", self.compute.address()),
            )
            .current_dir(&self.dir)
            .stdin(Stdio::null());
        command
    }

    /// Runs `spotkeep gcp ...` to its end.
    pub fn gcp(&self, words: &[&str]) -> CommandOutput {
        self.gcp_with(words, |_| ())
    }

    pub fn gcp_with(&self, words: &[&str], edit: impl FnOnce(&mut Command)) -> CommandOutput {
        let mut command = self.program(SPOTKEEP);
        command.arg("gcp").args(words);
        edit(&mut command);
        let output = run(&mut command).unwrap();
        CommandOutput {
            code: output.status.code().unwrap_or(-1),
            out: self.plain(&output.stdout),
            err: self.plain(&output.stderr),
        }
    }

    /// Replaces the parts that differ between runs.
    fn plain(&self, text: &str) -> String {
        text.replace(&*self.dir.to_string_lossy(), "DIR")
            .replace(SPOTKEEP, "SPOTKEEP")
            .replace(&self.compute.address(), "LOOPBACK")
    }

    /// Returns the path of a file of the laptop.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

impl Drop for Laptop {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.dir).ok();
    }
}

/// Returns the reply of a VM to a status query.
pub fn vm_reply(startup: &str, boot_id: &str, agents: &str) -> String {
    let fleet = if agents.is_empty() && startup.starts_with("new") {
        String::new()
    } else {
        let save =
            r#"{"id":"BOOT","clean":true,"transcripts_safe_ms":300,"notice_to_safe_ms":700}"#;
        format!(
            r#"{{"version":1,"boot_id":"{boot_id}","keeper":"running","last_save":{},"agents":[{agents}]}}"#,
            save.replace("BOOT", boot_id)
        )
    };
    let event = r#"{"version":1,"seq":9,"at":"2026-11-22T10:00:21.000Z","data_dir_id":"r","epoch":2,"boot_id":"BOOT","event":"resumed","agent":"a","session_id":"s","continued":true}"#;
    format!(
        "== startup\n{startup}\n== booted\n1795341600\n== status\n{fleet}\n== events\n{}\n",
        event.replace("BOOT", boot_id)
    )
}

/// Returns an agent as in `status --json`.
pub fn agent(name: &str, state: &str) -> String {
    format!(r#"{{"name":"{name}","state":"{state}","desired":"running","session_id":"of-{name}"}}"#)
}

/// Asserts that bash and sh can parse a script.
pub fn assert_is_shell(script: &str, at: &Path) {
    fs::write(at, script).unwrap();
    for shell in ["bash", "sh"] {
        let output = run(Command::new(shell).arg("-n").arg(at)).unwrap();
        assert!(output.status.success(), "{shell}: {}", output.stderr);
    }
}

/// Asserts that a text is the same as `golden/NAME.txt`, and otherwise writes it to `NAME.txt.new`
/// for review. (insta runs cargo to find its files, which fails where there is only loopback.)
pub fn assert_golden(name: &str, text: &str) {
    let file =
        Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/it/gcp/golden/{name}.txt"));
    let desired = fs::read_to_string(&file).unwrap_or_default();
    if desired == text {
        return;
    }
    let new = file.with_extension("txt.new");
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&new, text).unwrap();
    let first = desired
        .lines()
        .zip(text.lines())
        .find(|(desired, came)| desired != came);
    panic!(
        "{} differs from {}; first difference: {first:?}",
        new.display(),
        file.display()
    );
}
