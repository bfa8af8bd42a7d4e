//! Tests of `spotkeep gcp` and its VM with real systemd.
//!
//! They cover the start-up script at each boot, the first set-up by a user who logs in with OS
//! Login, the status queries from outside, and a preemption.

use std::sync::Mutex;
use std::time::Duration;

use gcp::ssh::{FirstTime, Guest, GuestReport, Startup, describe, parse};
use gcp::{Call, Cloud, Refusal, preempt, quote, scripts};
use sys::time::Timestamp;

use crate::boot::{Disk, Machine, Site, agent, with_a_site};
use testing::wait::{FOREVER, during};

/// A unit that runs the start-up script as Google's guest agent does.
const UNIT: &str = "[Unit]\nWants=network-online.target\nAfter=network-online.target\n\
    [Service]\nType=oneshot\nExecStart=/startup\nRemainAfterExit=true\nKillMode=process\n\
    StandardOutput=journal+console\n[Install]\nWantedBy=multi-user.target\n";

/// A new VM of the group: a fresh boot disk, the start-up script, and a user who may become root.
fn vm<'r>(site: &'r Site, disk: &Disk) -> Machine<'r> {
    let mut machine = Machine::new(site);
    let startup = scripts::startup("claude-persist");
    machine.script("/startup", startup.trim_start_matches("#!/bin/sh\n"));
    machine.write("/etc/systemd/system/google-startup-scripts.service", UNIT);
    machine.link(
        "../google-startup-scripts.service",
        "/etc/systemd/system/multi-user.target.wants/google-startup-scripts.service",
    );
    machine.write(
        "/etc/sudoers.d/person",
        "person ALL=(ALL:ALL) NOPASSWD:ALL\n",
    );
    machine.boot(Some(disk));
    machine.run("useradd -m -s /bin/bash person").ok();
    machine
}

/// Returns the command line that `gcloud compute ssh` would run there.
fn line_of(call: &Call) -> String {
    let command = call
        .words
        .iter()
        .find_map(|word| word.strip_prefix("--command="));
    format!(
        "exec runuser -u person -- env -i HOME=/home/person PATH=/usr/bin:/bin bash -c {}",
        quote(command.unwrap())
    )
}

/// A fake of Google Cloud for a preemption: ssh reaches the machine, and a maintenance event
/// replaces it.
struct Group<'r> {
    site: &'r Site,
    disk: &'r Disk,
    machine: Mutex<Machine<'r>>,
}

impl Cloud for Group<'_> {
    fn call(&self, call: &Call) -> Result<String, Refusal> {
        let mut machine = self.machine.lock().unwrap();
        if call.command().contains("simulate-maintenance-event") {
            machine.power_off();
            self.site.model.next_boot();
            *machine = vm(self.site, self.disk);
            return Ok(String::new());
        }
        assert!(call.command().starts_with("compute ssh "), "{call}");
        Ok(machine.run(&line_of(call)).ok().out)
    }

    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn pause(&self, _: Duration) {
        // The machine sends no event to the outside, so this polls.
        std::thread::sleep(Duration::from_millis(100));
    }

    fn show(&self, line: &str) {
        eprintln!("{}", line.lines().next().unwrap_or_default());
    }
}

#[test]
fn a_vm_of_a_group_is_set_up_at_each_boot_and_a_preemption_is_measured_from_outside() {
    with_a_site(|site| {
        let disk = Disk::blank(&site.dir, 600);
        let guest = Guest {
            vm: "claude-sandbox".into(),
            zone: "europe-north1-b".into(),
            tunnel: false,
        };
        let machine = vm(site, &disk);
        let look = |machine: &Machine<'_>| -> GuestReport {
            parse(&machine.run(&line_of(&guest.report_call(1))).ok().out)
        };
        let first = look(&machine);
        assert_eq!(first.startup, Startup::New);
        assert!(first.fleet.is_none());

        // The first set-up: the program is where `scp` copies it, and the ssh command sets the VM
        // up.
        let calls = guest.first_setup(
            "claude-persist",
            &FirstTime {
                user: "ann".into(),
                binary: "/nowhere/spotkeep".into(),
                claude: None,
                unattended: false,
                beside_other_files: false,
            },
        );
        machine
            .run(
                "install -o person -m 0755 /usr/local/bin/spotkeep-under-test \
                  /home/person/spotkeep.upload",
            )
            .ok();
        let setup = machine.run(&line_of(calls.last().unwrap()));
        assert_eq!(setup.code, 0, "{setup:?}");
        assert_eq!(
            machine.run("ls -A /home/person/spotkeep.*").code,
            2,
            "left over"
        );
        let ready = look(&machine);
        assert_eq!(ready.startup, Startup::Ready);
        let (said, hint) = describe(&ready, "claude-sandbox");
        // The fake cannot be installed on the disk as a claude.
        assert!(
            said.starts_with("the VM is ready; no agents are declared; ")
                && said.contains("claude"),
            "{said}"
        );
        assert!(hint.unwrap().contains("spotkeep add"));

        machine.configure(&agent("a", "tool"));
        machine.spotkeep("up").ok();
        machine.wait_open("a");
        let session = machine.agent("a")["session_id"].clone();
        // The ssh arguments lead to the agent's terminal, but there is no terminal here.
        let terminal = machine.run(&line_of(&guest.terminal(Some("a"))));
        assert!(
            terminal.err.contains("terminal"),
            "the command did not reach tmux: {terminal:?}"
        );
        let shell = machine.run(&format!(
            "echo 'id -un; pwd' | {}",
            line_of(&guest.terminal(None)).trim_start_matches("exec ")
        ));
        assert_eq!(shell.out, "ann\n/home/ann\n", "{shell:?}");

        // The preemption itself, by the code of `spotkeep gcp preempt`.
        let group = Group {
            site,
            disk: &disk,
            machine: Mutex::new(machine),
        };
        let report = during("the VM comes back", || {
            preempt::run(&group, "claude-sandbox", &guest, FOREVER).unwrap()
        });
        eprintln!("figure: {report:?}");
        assert_eq!(
            report.losses,
            [""; 0],
            "{}",
            group.machine.lock().unwrap().account()
        );
        assert_eq!(
            (report.verdict, report.agents_total, report.sessions_resumed),
            ("pass", 1, 1)
        );
        assert_eq!(report.turns_continued, 1);
        assert!(report.notice_to_safe_ms.is_some() && report.boot_to_resumed_ms.is_some());
        let machine = group.machine.into_inner().unwrap();
        assert_eq!(machine.wait_state("a", "idle")["session_id"], session);
        let startup = "google-startup-scripts";
        assert_eq!(machine.property(startup, "Result"), "success");
    });
}
