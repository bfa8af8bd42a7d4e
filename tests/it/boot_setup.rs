//! Tests of `spotkeep setup` with real systemd: first machine, reboot, new machine with old disk.

use std::time::Instant;

use crate::boot::{Disk, Machine, agent, with_a_site};

const SETUP: &str = "/usr/local/bin/spotkeep-under-test --data-dir /mnt/persist setup --disk \
                     claude-persist \
                     --user ann --yes --no-packages --claude /usr/local/bin/claude";

#[test]
fn one_command_sets_up_a_vm_whose_agents_are_resumed_on_the_next_one() {
    with_a_site(|site| {
        let disk = Disk::blank(&site.dir, 600);
        let mut machine = Machine::new(site);
        machine.boot(Some(&disk));
        let dry = machine.run(&format!("{SETUP} --dry-run")).ok();
        assert!(dry.out.contains("would make the account ann"), "{dry:?}");
        assert_eq!(machine.run("id ann").code, 1, "a dry run made an account");
        let first = machine.run(SETUP).ok();
        assert!(first.out.contains("start the keeper"), "{first:?}");
        for unit in [
            "mnt-persist.mount",
            "spotkeep",
            "spotkeep-tmux",
            "spotkeep-save",
        ] {
            assert_eq!(machine.property(unit, "ActiveState"), "active", "{unit}");
            assert_eq!(machine.property(unit, "UnitFileState"), "enabled", "{unit}");
        }
        machine.configure(
            &("[machine]\nhome = [\".gitconfig\"]\non_new_machine = \"provision.sh\"\n".to_owned()
                + &agent("a", "tool")),
        );
        machine
            .run(
                "printf '#!/bin/sh\\nid -un >>ran; test -e mirror || \
                     { echo no mirror; exit 7; }\\n' >/mnt/persist/provision.sh && chmod 755 \
                     /mnt/persist/provision.sh && chown ann /mnt/persist/provision.sh",
            )
            .ok();
        machine.spotkeep("up").ok();
        machine.wait_open("a");
        let session = machine.agent("a")["session_id"].clone();
        let pid = machine.pid("a");

        let failed = machine.run(SETUP);
        assert!(
            failed.code == 3 && failed.out.contains("run provision.sh as the user"),
            "{failed:?}"
        );
        // `status` shows the failure until the script has succeeded. Run by root, it acts as ann,
        // who owns the data directory.
        for status in [
            machine.spotkeep("status"),
            machine.run("/mnt/persist/bin/spotkeep status"),
        ] {
            let told = "on_new_machine failed on this machine: ";
            let log = "/mnt/persist/session-state/on-new-machine.log";
            assert!(
                status.code == 3 && status.out.contains(told) && status.out.contains(log),
                "{status:?}"
            );
        }
        let log = machine.run("cat /mnt/persist/session-state/on-new-machine.log");
        assert_eq!(log.out, "no mirror\n");
        machine.run("touch /mnt/persist/mirror").ok();
        let again = machine.run(SETUP).ok();
        assert!(
            again.out.contains("run provision.sh as the user"),
            "{again:?}"
        );
        machine.spotkeep("status").ok();
        let begun = Instant::now();
        let third = machine.run(SETUP).ok();
        eprintln!(
            "figure: a set-up that changes nothing: {:?}",
            begun.elapsed()
        );
        assert!(third.out.starts_with("nothing to do"), "{third:?}");
        assert_eq!(machine.pid("a"), pid, "an agent was touched");
        let start_up = first.out.split_once("#!/bin/sh").unwrap().1.to_owned();

        // Backups by root, in the sandbox of the unit; lost files are restored before the keeper
        // starts.
        assert_eq!(
            machine.property("spotkeep-backup.timer", "ActiveState"),
            "active"
        );
        let backup = machine.run("systemctl start spotkeep-backup");
        assert_eq!(backup.code, 0, "{}", machine.account());
        let list = machine
            .run("/mnt/persist/bin/spotkeep backup ls --json")
            .ok()
            .json();
        assert!(!list["backups"].as_array().unwrap().is_empty(), "{list}");
        assert_eq!(
            machine.run("stat -c %U%a /mnt/persist/backups").out,
            "root700\n"
        );
        assert!(machine.agent("a")["last_backup"].is_string());
        machine.spotkeep("down").ok();
        let words = machine
            .run("cat /mnt/persist/.claude/projects/*/*.jsonl | wc -c")
            .out;
        machine.run("rm -r /mnt/persist/.claude/projects").ok();
        machine.run("systemctl start spotkeep-recover").ok();
        let back = machine
            .run("cat /mnt/persist/.claude/projects/*/*.jsonl | wc -c")
            .out;
        assert_ne!(back.trim(), "0", "nothing of {words} came back");
        let owner = machine
            .run("stat -c %U /mnt/persist/.claude/projects/*/*.jsonl")
            .out;
        assert_eq!(owner, "ann\n");
        machine.spotkeep("up").ok();
        machine.until("a runs again", || {
            (machine.agent("a")["pid"].is_i64()).then_some(())
        });

        // After a power cut, without further help.
        machine.cut();
        site.model.next_boot();
        machine.boot(Some(&disk));
        machine.until("a has gone on", || {
            (machine.agent("a")["state"] == "idle").then_some(())
        });
        assert_eq!(machine.agent("a")["session_id"], session);
        machine.power_off();
        site.model.next_boot();

        // A blank boot disk, and the start-up script that was printed.
        let mut new = Machine::new(site);
        new.script("/startup", &start_up);
        new.boot(Some(&disk));
        let back = new.run("/startup").ok();
        assert!(back.out.contains("make the account ann"), "{back:?}");
        assert_eq!(new.wait_state("a", "idle")["session_id"], session);
        assert_eq!(
            new.run("cat /mnt/persist/ran").out,
            "ann\nann\nann\n",
            "provision.sh runs once on each boot disk, and again after a failure"
        );
        assert_eq!(
            new.run("readlink /home/ann/.claude").out,
            "/mnt/persist/.claude\n"
        );
        let second = new.run("/startup").ok();
        assert!(second.out.starts_with("nothing to do"), "{second:?}");

        let undone = new
            .run("/usr/local/bin/spotkeep-under-test --data-dir /mnt/persist setup --undo")
            .ok();
        assert!(undone.out.contains("remove the units"), "{undone:?}");
        for unit in ["mnt-persist.mount", "spotkeep", "spotkeep-tmux"] {
            assert_eq!(new.property(unit, "ActiveState"), "inactive", "{unit}");
        }
        assert_eq!(
            new.run("ls -A /home/ann/.claude").code,
            2,
            "the link was not removed"
        );
        let back = new.run(SETUP).ok();
        assert!(!back.out.contains("format"), "{back:?}");
        // Stopping the units ended the keeper of this boot.
        new.spotkeep("restore").ok();
        assert_eq!(new.wait_state("a", "idle")["session_id"], session);
    });
}

#[test]
fn the_start_up_script_runs_nothing_from_a_disk_without_a_data_directory() {
    with_a_site(|site| {
        let disk = Disk::blank(&site.dir, 64);
        let mut machine = Machine::new(site);
        machine.script(
            "/startup",
            &spotkeep::setup::startup::script(
                "claude-persist",
                "/dev/disk/by-id/google-claude-persist".as_ref(),
                "/mnt/persist".as_ref(),
            ),
        );
        machine.boot(Some(&disk));
        assert_ne!(machine.run("/startup").code, 0, "a blank disk");
        machine
            .run("mkfs.ext4 -q /dev/disk/by-id/google-claude-persist")
            .ok();
        let empty = machine.run("/startup");
        assert!(
            empty.code == 1 && empty.err.contains("holds no data directory"),
            "{empty:?}"
        );
        // A program that a user other than root has put there.
        machine
            .run(
                "mkdir /mnt/persist/bin && printf '#!/bin/sh\\ntouch /evil\\n' \
                  >/mnt/persist/bin/spotkeep && chmod 755 /mnt/persist/bin/spotkeep && chown 65534 \
                  /mnt/persist/bin/spotkeep",
            )
            .ok();
        assert_eq!(machine.run("/startup").code, 1);
        assert_eq!(machine.run("ls /evil").code, 2, "root has run it");
    });
}
