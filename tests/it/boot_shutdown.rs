//! Shutdowns and boots with real systemd.

use crate::boot::{Disk, Machine, agent, with_a_room};

#[test]
fn a_shutdown_saves_before_keeper_tmux_network_and_disk_go_and_the_next_boot_resumes() {
    with_a_room(|room| {
        let disk = Disk::blank(&room.dir, 256);
        let mut machine = Machine::new(room);
        // A unit of somebody else's that does not want to end.
        machine.script("/usr/local/bin/hang", "trap '' TERM; while :; do sleep 1; done");
        machine.write(
            "/etc/systemd/system/hang.service",
            "[Service]\nExecStart=/usr/local/bin/hang\nTimeoutStopSec=4s\n[Install]\nWantedBy=multi-user.target\n",
        );
        // Whatever brings the network up.
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

        // A second set-up finds everything as it should be.
        let units = "/mnt/persist/bin/spotkeep --root /mnt/persist units --dry-run";
        assert_eq!(machine.run(units).ok().out, "");
        let pid = machine.pid("a");
        machine.set_up("");
        machine.start();
        assert_eq!(machine.pid("a"), pid);

        let journal = machine.power_off();
        let saved = journal.stopped("spotkeep-save.service");
        for unit in [
            "spotkeep.service",
            "spotkeep-tmux.service",
            "net.service",
            "mnt-persist.mount",
        ] {
            assert!(saved <= journal.stopping(unit), "{unit}\n{}", journal.text());
        }
        let hung = journal.stopped("hang.service");
        assert!(saved < hung, "{}", journal.text());
        let took = saved - journal.shutdown_began();
        eprintln!("figure: shutdown request to the save's end, 2 agents: {took:?}");
        let text = journal.text();
        assert!(text.contains("everything safe after") && !text.contains("NOT CLEAN"), "{text}");
        assert!(text.contains("Unmounted mnt-persist.mount"), "{text}");

        room.model.new_life();
        machine.boot(Some(&disk));
        machine.until("a has gone on", || (machine.agent("a")["state"] == "idle").then_some(()));
        assert_eq!(machine.agent("a")["session_id"], session);
        assert!(room.model.ledger().agents["a"].turns_ended > 0);
        machine.wait_state("b", "idle");

        // The keeper is dead, and nobody has noticed yet; then one that hangs.
        for (signal, agents) in [("KILL", 2), ("STOP", 2)] {
            machine.until("both are back", || {
                let up = |name| machine.agent(name)["state"] == "idle";
                (up("a") && up("b")).then_some(())
            });
            machine.write_runtime("spotkeep.service.d/slow.conf", "[Service]\\nRestartSec=60s\\n");
            machine.run(&format!("kill -{signal} {}", machine.property("spotkeep", "MainPID"))).ok();
            let journal = machine.power_off();
            let text = journal.text();
            assert!(text.contains("everything safe after") && !text.contains("NOT CLEAN"), "{text}");
            assert_eq!(text.matches("ended by itself").count(), agents, "{text}");
            let saved = journal.stopped("spotkeep-save.service");
            assert!(saved <= journal.stopping("spotkeep-tmux.service"), "{text}");
            room.model.new_life();
            machine.boot(Some(&disk));
        }
        machine.wait_state("a", "idle");
        assert_eq!(machine.agent("a")["session_id"], session);
    });
}
