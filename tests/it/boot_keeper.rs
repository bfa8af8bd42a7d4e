//! Tests of the keeper and the tmux server as systemd units, and of what their ends do to agents.

use crate::boot::{Disk, Machine, Site, agent, with_a_site};

/// Boots a machine whose agent `a` is in a tool call and whose agent `b` is idle.
fn machine<'r>(site: &'r Site, disk: &Disk) -> Machine<'r> {
    let mut machine = Machine::new(site);
    machine.boot(Some(disk));
    machine.set_up(&(agent("a", "tool") + &agent("b", "idle")));
    machine.start();
    machine.wait_open("a");
    machine.wait_state("b", "idle");
    machine
}

/// Returns the pids of both agents, which must not change whatever happens to the keeper.
fn pids(machine: &Machine<'_>) -> [i64; 2] {
    ["a", "b"].map(|name| machine.pid(name))
}

/// Waits until a keeper with another pid than `keeper` is ready.
fn wait_for_another(machine: &Machine<'_>, keeper: &str) {
    machine.until("another keeper is ready", || {
        let now = machine.property("spotkeep", "MainPID");
        let active = machine.property("spotkeep", "ActiveState") == "active";
        (active && now != keeper && now != "0").then_some(())
    });
}

#[test]
fn keepers_are_killed_restarted_and_hang_and_every_agent_stays_as_it_is() {
    with_a_site(|site| {
        let disk = Disk::blank(&site.dir, 1024);
        let machine = machine(site, &disk);
        let before = pids(&machine);
        let keeper = || machine.property("spotkeep", "MainPID");

        let verify = machine.run("systemd-analyze verify /etc/systemd/system/spotkeep*.service");
        assert_eq!((verify.code, verify.out + &verify.err), (0, String::new()));
        let exposure = machine.run("systemd-analyze security --no-pager spotkeep | tail -n 1");
        eprintln!("figure: {}", exposure.out.trim());
        machine.until("systemd shows the status text", || {
            (machine.property("spotkeep", "StatusText") == "2 of 2 agents run").then_some(())
        });

        the_log_has_fields(&machine);

        let first = keeper();
        machine.run(&format!("kill -KILL {first}")).ok();
        wait_for_another(&machine, &first);
        assert_eq!(pids(&machine), before);

        machine.run("systemctl restart spotkeep").ok();
        assert_eq!(pids(&machine), before);

        machine.run("systemctl daemon-reexec").ok();
        machine.write_runtime(
            "spotkeep.service.d/soon.conf",
            "[Service]\\nWatchdogSec=2s\\n",
        );
        machine.run("systemctl restart spotkeep").ok();
        let third = keeper();
        machine.run(&format!("kill -STOP {third}")).ok();
        wait_for_another(&machine, &third);
        assert_eq!(pids(&machine), before);
        let text = machine.journal().text();
        assert!(text.contains("Watchdog timeout"), "{text}");
        // A busy keeper is not mistaken for one that hangs.
        let fourth = keeper();
        let pinged = || -> u64 {
            let at = machine.property("spotkeep", "WatchdogTimestampMonotonic");
            at.parse().unwrap()
        };
        let since = pinged();
        machine.until("the watchdog time has passed", || {
            (pinged() > since + 5_000_000).then_some(())
        });
        assert_eq!(keeper(), fourth);

        // No keeper is started beside a stopped unit: it would hold the lock against the unit's
        // keeper.
        machine.run("systemctl stop spotkeep").ok();
        let up = machine.spotkeep("up");
        let hint = "hint: sudo systemctl start spotkeep-tmux.service spotkeep.service";
        assert!(up.code == 1 && up.err.contains(hint), "{up:?}");
        machine.run("systemctl start spotkeep").ok();
        machine.spotkeep("up").ok();

        // needrestart restarts keepers, and does not list the agents' tmux server.
        let asks = "perl -e 'our %nrconf = (override_rc => {qr(^dbus) => 0}); \
            eval do { local(@ARGV, $/) = shift; <> }; die $@ if $@; my %rc = \
            %{$nrconf{override_rc}}; \
            for my $unit (@ARGV) { print grep({ $unit =~ /$_/ && !$rc{$_} } keys %rc) \
            ? \"left\\n\" : \"restarted\\n\" }' \
            /etc/needrestart/conf.d/spotkeep.conf";
        let answers = machine.run(&format!(
            "{asks} spotkeep-tmux.service spotkeep.service dbus.service"
        ));
        assert_eq!(answers.ok().out, "left\nrestarted\nleft\n");
        // Neither a user nor a program ends all agents by restarting or stopping these units.
        for line in [
            "systemctl restart spotkeep-tmux",
            "systemctl stop spotkeep-tmux",
            "systemctl restart spotkeep-save",
            "systemctl stop spotkeep-save",
        ] {
            let said = machine.run(line);
            assert!(
                said.code != 0 && said.err.contains("refused"),
                "{line}: {said:?}"
            );
        }
        assert_eq!(pids(&machine), before);
    });
}

/// Asserts that systemd's journal can be filtered by agent.
fn the_log_has_fields(machine: &Machine<'_>) {
    let entries = |matches: &str| -> Vec<serde_json::Value> {
        let line = format!("journalctl --sync; journalctl -o json --no-pager {matches}");
        let out = machine.run(&line).ok().out;
        out.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    };
    let of_agent = entries("SPOTKEEP_AGENT=a");
    let started = of_agent
        .iter()
        .find(|entry| entry["SPOTKEEP_EVENT"] == "started")
        .unwrap_or_else(|| panic!("{of_agent:?}"));
    assert!(
        started["MESSAGE"]
            .as_str()
            .is_some_and(|message| message.starts_with("started session_id=")),
        "{started}"
    );
    assert_eq!(
        (&started["PRIORITY"], &started["SYSLOG_IDENTIFIER"]),
        (&"6".into(), &"spotkeep".into())
    );
    assert_eq!(started["_SYSTEMD_UNIT"], "spotkeep.service");
    let keeper = entries("SPOTKEEP_EVENT=keeper-started");
    let newest = keeper.last().unwrap_or_else(|| panic!("{of_agent:?}"));
    let boot_id = newest["SPOTKEEP_BOOT_ID"].as_str().unwrap_or_default();
    assert!(boot_id.len() > 30, "{newest}");
    assert_eq!(started["SPOTKEEP_BOOT_ID"], boot_id);
}

#[test]
fn an_upgrade_touches_no_agent_and_is_rolled_back_if_its_keeper_is_not_ready() {
    with_a_site(|site| {
        let disk = Disk::blank(&site.dir, 1024);
        let machine = machine(site, &disk);
        let before = pids(&machine);
        let sum = || machine.run("cksum </mnt/persist/bin/spotkeep").ok().out;
        let upgrade =
            |file: &str| machine.run(&format!("/mnt/persist/bin/spotkeep setup --upgrade {file}"));
        let (old, keeper) = (sum(), machine.property("spotkeep", "MainPID"));

        let same = upgrade("/usr/local/bin/spotkeep-under-test").ok();
        assert!(same.out.contains("already"), "{same:?}");
        assert_eq!(machine.property("spotkeep", "MainPID"), keeper);

        // Another program: the same one, and one more byte that has no effect.
        machine
            .run(
                "cd /tmp; cp /usr/local/bin/spotkeep-under-test new; printf x >>new; chown ann new",
            )
            .ok();
        let done = upgrade("/tmp/new").ok();
        assert!(done.out.contains("no agent was touched"), "{done:?}");
        assert_ne!(machine.property("spotkeep", "MainPID"), keeper);
        let new = sum();
        assert_ne!(new, old);
        assert_eq!(
            machine
                .run("cksum </mnt/persist/bin/spotkeep.prev")
                .ok()
                .out,
            old
        );
        assert_eq!(
            machine
                .run("stat -c '%U %a' /mnt/persist/bin/spotkeep")
                .ok()
                .out,
            "root 755\n"
        );
        assert_eq!(pids(&machine), before);

        // A program that reports a version of spotkeep, and whose keeper does not start.
        machine.script(
            "/tmp-files/broken",
            "case $* in *--version*) echo spotkeep 9.9.9;; *units*) ;; *) exit 1;; esac",
        );
        let back = upgrade("/tmp-files/broken");
        assert_eq!(back.code, 1, "{back:?}");
        assert!(
            back.err
                .contains("9.9.9 did not work, and the version before is back"),
            "{back:?}"
        );
        assert_eq!(sum(), new);
        assert_eq!(machine.property("spotkeep", "ActiveState"), "active");
        assert_eq!(pids(&machine), before);

        // A program whose keeper starts and is not ready in time.
        machine.script(
            "/tmp-files/hangs",
            "case $* in *--version*) echo spotkeep 9.9.8;; *units*) ;; *) exec sleep 1000;; esac",
        );
        machine.write_runtime(
            "spotkeep.service.d/soon.conf",
            "[Service]\\nTimeoutStartSec=8s\\n",
        );
        let back = upgrade("/tmp-files/hangs");
        assert!(
            back.code == 1
                && back
                    .err
                    .contains("9.9.8 did not work, and the version before is back"),
            "{back:?}"
        );
        assert_eq!((sum(), pids(&machine)), (new.clone(), before));

        // A program other than spotkeep: it is run as the user, and nothing is replaced.
        machine.script("/tmp-files/other", "id -un >/tmp/who; echo hello");
        let refused = upgrade("/tmp-files/other");
        assert!(
            refused.code == 1 && refused.err.contains("is not a spotkeep"),
            "{refused:?}"
        );
        assert_eq!(machine.run("cat /tmp/who").ok().out, "ann\n");
        // Nor is a program accepted from a directory in which the user can replace it.
        machine.run("chmod 777 /mnt/persist/bin").ok();
        let refused = upgrade("/tmp/new");
        assert!(
            refused.code == 1 && refused.err.contains("can be changed by users"),
            "{refused:?}"
        );
        assert_eq!((sum(), pids(&machine)), (new, before));
    });
}

#[test]
fn an_agent_has_its_own_cgroup_and_is_resumed_after_its_tmux_server_died() {
    with_a_site(|site| {
        let disk = Disk::blank(&site.dir, 1024);
        let machine = machine(site, &disk);
        let [a, b] = pids(&machine);
        let group = |pid: i64| {
            let line = machine.run(&format!("cat /proc/{pid}/cgroup")).ok().out;
            line.lines()
                .find_map(|line| line.strip_prefix("0::"))
                .unwrap()
                .to_owned()
        };
        let (of_a, of_b) = (group(a), group(b));
        let place = "/system.slice/spotkeep-tmux.service/agents/a.";
        assert!(of_a.starts_with(place) && of_a != of_b, "{of_a} {of_b}");
        assert!(
            group(
                machine
                    .property("spotkeep-tmux", "MainPID")
                    .parse()
                    .unwrap()
            )
            .ends_with("/server")
        );
        assert_eq!(
            machine
                .run(&format!("cat /proc/{a}/oom_score_adj"))
                .ok()
                .out,
            "0\n"
        );

        // A process without the marker and the session of the agent is ended with the agent too.
        let procs = format!("/sys/fs/cgroup{of_a}/cgroup.procs");
        machine
            .run(&format!(
                "setsid sh -c 'echo $$ >{procs}; exec env -i setpriv --reuid ann sleep 4711' \
                 >/dev/null 2>&1 &"
            ))
            .ok();
        let runaway = || machine.run("pgrep -u ann -x sleep -a | grep -q 4711").code == 0;
        machine.until("it runs", || runaway().then_some(()));
        machine.spotkeep("stop a").ok();
        machine.until("nothing of a is left", || {
            let gone = machine.run(&format!("test -e {procs}")).code == 1;
            (gone && !runaway()).then_some(())
        });
        assert_eq!(machine.pid("b"), b);
        machine.spotkeep("start a").ok();
        machine.wait_state("a", "idle");

        let sessions = || ["a", "b"].map(|name| machine.agent(name)["session_id"].clone());
        let (before, [a, b]) = (sessions(), pids(&machine));
        let server = machine.property("spotkeep-tmux", "MainPID");
        machine.run(&format!("kill -KILL {server}")).ok();
        machine.until("both run again", || {
            let now = ["a", "b"].map(|name| machine.agent(name));
            let back = now.iter().zip([a, b]).all(|(agent, old)| {
                agent["state"] == "idle" && agent["pid"].as_i64().is_some_and(|pid| pid != old)
            });
            back.then_some(())
        });
        assert_eq!(sessions(), before);
        assert_ne!(machine.property("spotkeep-tmux", "MainPID"), server);
        // The agents run in the unit of tmux, and not in that of the keeper that started them.
        assert!(group(machine.pid("a")).starts_with(place));

        // A memory limit is set, or a message says that it cannot be.
        machine.configure(&(agent("a", "tool") + "memory_max = \"1G\"\n" + &agent("b", "idle")));
        machine.spotkeep("up").ok();
        let pid = machine.pid("a");
        machine.spotkeep("restart a").ok();
        machine.until("a runs again", || {
            let agent = machine.agent("a");
            (agent["state"] == "idle" && agent["pid"] != pid).then_some(())
        });
        let controllers = machine
            .run("cat /sys/fs/cgroup/cgroup.controllers")
            .ok()
            .out;
        if controllers.split_whitespace().any(|name| name == "memory") {
            let limit = machine.run(&format!(
                "cat /sys/fs/cgroup{}/memory.max",
                group(machine.pid("a"))
            ));
            assert_eq!(limit.ok().out, "1073741824\n");
        } else {
            let events = machine.spotkeep("events").ok().out;
            assert!(
                events.contains("memory_max = \"1G\" has no effect"),
                "{events}"
            );
        }
    });
}
