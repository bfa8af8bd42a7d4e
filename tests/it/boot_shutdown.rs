//! Tests of shutdowns and boots with real systemd.

use crate::boot::{Disk, Machine, agent, with_a_site};

#[test]
fn a_shutdown_saves_before_keeper_tmux_network_and_disk_stop_and_the_next_boot_resumes() {
    with_a_site(|site| {
        let disk = Disk::blank(&site.dir, 1024);
        let mut machine = Machine::new(site);
        // A unit of another program that refuses to end before the save has.
        machine.script(
            "/usr/local/bin/hang",
            "trap 'told=1' TERM
            until [ -n \"$told\" ] && [ \"$(systemctl show -P ActiveState spotkeep-save)\" = \
            inactive ]; do sleep 0.2; done",
        );
        machine.write(
            "/etc/systemd/system/hang.service",
            "[Service]\nExecStart=/usr/local/bin/hang\nKillMode=process\nTimeoutStopSec=30s\n[Install]\nWantedBy=multi-user.target\n",
        );
        // The unit that brings the network up.
        machine.write(
            "/etc/systemd/system/net.service",
            "[Unit]\nWants=network.target\nBefore=network.target\n\
             [Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\nExecStop=/bin/true\n\
             [Install]\nWantedBy=multi-user.target\n",
        );
        machine.boot(Some(&disk));
        machine.run("systemctl enable --now hang net").ok();
        machine.set_up(&(agent("a", "tool") + &agent("b", "idle")));
        machine.start();
        machine.wait_open("a");
        machine.wait_state("b", "idle");
        let session = machine.agent("a")["session_id"].clone();

        // A second set-up finds nothing to do.
        let pid = machine.pid("a");
        let again = machine.setup("");
        assert_eq!(again.out, "", "{again:?}");
        assert_eq!(machine.pid("a"), pid);

        let journal = machine.power_off();
        let saved = journal.stopped("spotkeep-save.service");
        for unit in [
            "spotkeep.service",
            "spotkeep-tmux.service",
            "net.service",
            "mnt-persist.mount",
        ] {
            assert!(
                saved <= journal.stopping(unit),
                "{unit}\n{}",
                journal.text()
            );
        }
        let hung = journal.stopped("hang.service");
        assert!(saved < hung, "{}", journal.text());
        let took = saved - journal.shutdown_began();
        eprintln!("figure: shutdown request to the save's end, 2 agents: {took:?}");
        let text = journal.text();
        assert!(
            text.contains("everything safe after") && !text.contains("NOT CLEAN"),
            "{text}"
        );
        assert!(text.contains("Unmounted mnt-persist.mount"), "{text}");

        site.model.next_boot();
        machine.boot(Some(&disk));
        machine.until("a has gone on", || {
            (machine.agent("a")["state"] == "idle").then_some(())
        });
        assert_eq!(machine.agent("a")["session_id"], session);
        assert!(site.model.request_log().agents["a"].turns_ended > 0);
        machine.wait_state("b", "idle");

        // A reboot is a shutdown too.
        let before = machine.status();
        machine.reboot(&disk);
        for name in ["a", "b"] {
            machine.wait_state(name, "idle");
        }
        let after = machine.status();
        assert_ne!(after["boot_id"], before["boot_id"]);
        assert_ne!(after["last_save"]["id"], before["last_save"]["id"]);
        assert_eq!(after["last_save"]["clean"], true, "{after}");
        assert_eq!(machine.agent("a")["session_id"], session);

        // A keeper that was killed just before, then one that hangs.
        for (signal, agents) in [("KILL", 2), ("STOP", 2)] {
            machine.until("both are back", || {
                let up = |name| machine.agent(name)["state"] == "idle";
                (up("a") && up("b")).then_some(())
            });
            machine.write_runtime(
                "spotkeep.service.d/slow.conf",
                "[Service]\\nRestartSec=60s\\n",
            );
            machine
                .run(&format!(
                    "kill -{signal} {}",
                    machine.property("spotkeep", "MainPID")
                ))
                .ok();
            let journal = machine.power_off();
            let text = journal.text();
            assert!(
                text.contains("everything safe after") && !text.contains("NOT CLEAN"),
                "{text}"
            );
            assert_eq!(text.matches("exited in time").count(), agents, "{text}");
            let saved = journal.stopped("spotkeep-save.service");
            assert!(saved <= journal.stopping("spotkeep-tmux.service"), "{text}");
            site.model.next_boot();
            machine.boot(Some(&disk));
        }
        machine.wait_state("a", "idle");
        machine.wait_state("b", "idle");
        assert_eq!(machine.agent("a")["session_id"], session);

        // The machine shuts down before the save unit has started, as in the middle of its boot.
        machine.run("systemctl disable spotkeep-save").ok();
        machine.cut();
        site.model.next_boot();
        machine.boot(Some(&disk));
        machine.wait_state("a", "idle");
        machine.wait_state("b", "idle");
        let text = machine.power_off().text();
        assert!(text.contains("notice source=signal"), "{text}");
        assert!(text.contains("clean=true"), "{text}");
    });
}

#[test]
fn without_its_disk_nothing_starts_and_the_boot_completes_and_another_machine_takes_over() {
    with_a_site(|site| {
        let disk = Disk::blank(&site.dir, 1024);
        let mut first = Machine::new(site);
        first.boot(Some(&disk));
        first.set_up(&agent("a", "tool"));
        first.start();
        first.wait_open("a");
        let session = first.agent("a")["session_id"].clone();
        first.cut();

        // A boot without the data disk: everything else works.
        first.boot(None);
        assert_eq!(first.property("multi-user.target", "ActiveState"), "active");
        for unit in ["spotkeep-tmux", "spotkeep", "spotkeep-save"] {
            assert_eq!(first.property(unit, "ActiveState"), "inactive", "{unit}");
        }
        assert_eq!(first.run("ls -A /mnt/persist").ok().out, "");
        // A start by hand fails too.
        assert_ne!(first.run("systemctl start spotkeep").code, 0);
        first.power_off();

        // A new boot disk with the old data disk.
        site.model.next_boot();
        let mut second = Machine::new(site);
        second.boot(Some(&disk));
        second.set_up("");
        second.start();
        second.wait_state("a", "idle");
        assert_eq!(second.agent("a")["session_id"], session);
        assert!(site.model.request_log().agents["a"].turns_ended > 0);
    });
}

#[test]
fn sixteen_agents_in_a_tool_are_saved_when_the_power_button_is_pressed() {
    with_a_site(|site| {
        let disk = Disk::blank(&site.dir, 1024);
        let mut machine = Machine::new(site);
        machine.boot(Some(&disk));
        let names: Vec<String> = (1..=16).map(|number| format!("agent-{number}")).collect();
        let config: String = names.iter().map(|name| agent(name, "tool")).collect();
        machine.set_up(&config);
        machine.start();
        for name in &names {
            machine.wait_open(name);
        }
        let journal = machine.power_off();
        let text = journal.text();
        assert!(
            text.contains("everything safe after") && !text.contains("NOT CLEAN"),
            "{text}"
        );
        assert_eq!(
            text.matches("exited in time  in a tool (Bash)").count(),
            16,
            "{text}"
        );
        let took = journal.stopped("spotkeep-save.service") - journal.shutdown_began();
        eprintln!("figure: shutdown request to the save's end, 16 agents: {took:?}");

        site.model.next_boot();
        machine.boot(Some(&disk));
        machine.until("all have gone on", || {
            let status = machine.status();
            let agents = status["agents"].as_array().unwrap();
            agents
                .iter()
                .all(|agent| agent["state"] == "idle")
                .then_some(())
        });
        let times = |unit: &str, name: &str| machine.property(unit, name).parse::<u64>().unwrap();
        let ready = times("spotkeep", "ActiveEnterTimestampMonotonic");
        let own = ready - times("spotkeep", "ExecMainStartTimestampMonotonic");
        let mounted = times("mnt-persist.mount", "ActiveEnterTimestampMonotonic");
        eprintln!(
            "figure: root mounted to keeper ready, 16 agents: {} ms, of these the keeper's own: {} \
             ms",
            (ready - mounted) / 1000,
            own / 1000
        );
    });
}
