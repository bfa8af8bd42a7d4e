//! Tests of the Debian package with the real dpkg and the real systemd.
//!
//! It is installed, replaced and removed while fleets run, and no agent is touched.

use std::fs;
use std::process::Command;

use crate::boot::{Disk, Machine, agent, with_a_site};
use crate::support::{SPOTKEEP, said, skip};

/// Returns the completions that bash offers at the end of a command line.
fn offered(machine: &Machine<'_>, words: &str) -> String {
    let words: Vec<String> = words.split(' ').map(|word| format!("\"{word}\"")).collect();
    let (at, words) = (words.len() - 1, words.join(" "));
    let line = format!(
        "runuser -u ann -- bash -c '. /usr/share/bash-completion/completions/spotkeep
        COMP_WORDS=({words}); COMP_CWORD={at}; _spotkeep; echo \"${{COMPREPLY[*]}}\"'"
    );
    machine.run(&line).ok().out.trim().to_owned()
}

#[test]
fn a_package_is_installed_replaced_and_purged_and_fleets_keep_running() {
    const INSTALL: &str = "dpkg --install /srv/spotkeep.deb";
    with_a_site(|site| {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/deb");
        if Command::new("dpkg-deb").arg("--version").output().is_err() {
            return skip("boot_deb", "there is no dpkg-deb");
        }
        let mut pack = Command::new(script);
        pack.arg(SPOTKEEP)
            .arg(&site.dir)
            .env("SPOTKEEP_DEB_COMPRESSION", "none");
        let package = said(&mut pack).ok().out;
        let disk = Disk::blank(&site.dir, 1200);
        let mut machine = Machine::new(site);
        fs::rename(package.trim(), machine.file("/srv/spotkeep.deb"))
            .or_else(|_| fs::copy(package.trim(), machine.file("/srv/spotkeep.deb")).map(drop))
            .unwrap();
        machine.boot(Some(&disk));

        // It installs the files that it lists, and starts nothing.
        machine.run(INSTALL).ok();
        let version = machine.run("spotkeep --version").ok().out;
        assert_eq!(version, format!("spotkeep {}\n", env!("CARGO_PKG_VERSION")));
        let page = machine
            .run("zcat /usr/share/man/man1/spotkeep-checkpoint-ls.1.gz")
            .ok();
        assert!(page.out.contains(".TH SPOTKEEP"), "{page:?}");
        for file in [
            "doc/spotkeep/copyright",
            "doc/spotkeep/changelog.Debian.gz",
            "spotkeep/units/spotkeep.service.in",
            "zsh/vendor-completions/_spotkeep",
            "fish/vendor_completions.d/spotkeep.fish",
        ] {
            machine.run(&format!("test -s /usr/share/{file}")).ok();
        }
        assert_eq!(machine.run("dpkg --verify spotkeep").ok().out, "");
        let units = machine.run("systemctl list-unit-files --no-legend 'spotkeep*'");
        assert_eq!(units.out, "", "the package has enabled a unit");

        // A user's own fleet, whose keeper runs from the package.
        machine.run("useradd --create-home ann").ok();
        let by_hand = |line: &str| {
            machine.run(&format!(
                "exec runuser -u ann -- env HOME=/home/ann SPOTKEEP_DATA_DIR=/home/ann/fleet \
                 /usr/bin/spotkeep {line}"
            ))
        };
        by_hand("init").ok();
        let settings = format!(
            "[cloud]\nprovider = \"none\"\n[defaults]\nenv.ANTHROPIC_BASE_URL = \"{}\"\n{}",
            site.model.url(),
            agent("b", "tool")
        );
        machine.write("/home/ann/fleet/spotkeep.toml", &settings);
        machine
            .run("runuser -u ann -- git init -q /home/ann/fleet/workspaces/b")
            .ok();
        by_hand("up").ok();
        let pid = |data_dir: &str, name: &str| {
            let status = machine.run(&format!(
                "runuser -u ann -- /usr/bin/spotkeep-status {data_dir}"
            ));
            let agents = status.json()["agents"].clone();
            let found = agents
                .as_array()
                .unwrap()
                .iter()
                .find(|agent| agent["name"] == name);
            found.and_then(|agent| agent["pid"].as_i64())
        };
        // Queries come from a copy, which dpkg does not touch.
        machine
            .run(
                "cp /usr/bin/spotkeep /usr/local/lib/asker && printf '#!/bin/sh\\nexec \
                  /usr/local/lib/asker --data-dir $1 status --json\\n' >/usr/bin/spotkeep-status \
                  && chmod 755 /usr/bin/spotkeep-status",
            )
            .ok();
        let fleet = "/home/ann/fleet";
        let b = machine.until("b runs", || pid(fleet, "b"));
        assert_eq!(offered(&machine, "spotkeep checkpoint ro"), "rollback");
        assert_eq!(
            offered(&machine, "spotkeep --data-dir /home/ann/fleet stop "),
            "b"
        );

        let keeper = machine.run("pgrep -u ann -f 'run --background'").ok().out;
        let keeper = keeper.trim();
        let again = machine.run(INSTALL).ok();
        assert!(again.out.contains(&format!("kill {keeper}")), "{again:?}");
        machine.run(&format!("kill {keeper}")).ok();
        machine.until("the keeper has released the data directory", || {
            (machine.run(&format!("test -e /proc/{keeper}")).code != 0).then_some(())
        });
        by_hand("up").ok();
        let gone = machine.run("dpkg --remove spotkeep").ok();
        assert!(
            gone.out.contains("data directory is /home/ann/fleet")
                && gone
                    .out
                    .contains("spotkeep --data-dir /home/ann/fleet down"),
            "{gone:?}"
        );
        assert_eq!(pid(fleet, "b"), Some(b), "an agent was touched");
        machine
            .run("/usr/local/lib/asker --data-dir /home/ann/fleet status")
            .ok();
        machine.run(INSTALL).ok();
        by_hand("down").ok();

        // A fleet by `setup`: its program is on the data disk, and is used from then on.
        let setup = "/usr/bin/spotkeep setup --disk claude-persist --user ann --yes --no-packages";
        let first = machine.run(setup);
        assert!(
            matches!(first.code, 0 | 3) && first.out.contains("start the keeper"),
            "{first:?}"
        );
        machine.configure(&agent("a", "tool"));
        machine.spotkeep("up").ok();
        machine.wait_open("a");
        let a = machine.pid("a");
        let found = machine
            .run("command -v spotkeep; readlink /usr/local/bin/spotkeep")
            .ok();
        assert_eq!(
            found.out,
            "/usr/local/bin/spotkeep\n/mnt/persist/bin/spotkeep\n"
        );
        assert_eq!(offered(&machine, "spotkeep attach "), "a");
        machine
            .run(
                "cp /usr/bin/spotkeep /root/new; printf x >>/root/new; /usr/bin/spotkeep setup \
                  --upgrade /root/new",
            )
            .ok();
        let sum = || machine.run("cksum </mnt/persist/bin/spotkeep").ok().out;
        let theirs = sum();
        for line in [setup.to_owned(), format!("{setup} --dry-run")] {
            let handed = machine.run(&line);
            assert!(
                matches!(handed.code, 0 | 3) && handed.out.contains("continuing with"),
                "{handed:?}"
            );
            assert!(!handed.out.contains("this spotkeep"), "{handed:?}");
        }
        assert_eq!(sum(), theirs);

        // The next version of the package prints the command that upgrades the fleet.
        machine
            .run("sed -i 's/^Version=.*/Version=0.0.9/' /etc/systemd/system/spotkeep.service")
            .ok();
        let next = machine.run(INSTALL).ok();
        let command = "sudo spotkeep --data-dir /mnt/persist setup --upgrade /usr/bin/spotkeep";
        assert!(next.out.contains(command), "{next:?}");
        let gone = machine.run("dpkg --purge spotkeep").ok();
        // The program on the disk may be older than the option's present name.
        let undo = "/mnt/persist/bin/spotkeep --root /mnt/persist setup --undo";
        assert!(gone.out.contains(&format!("sudo {undo}")), "{gone:?}");
        assert_eq!(
            machine
                .run("ls /usr/share/doc/spotkeep /usr/bin/spotkeep")
                .out,
            ""
        );
        assert_eq!(machine.pid("a"), a, "an agent was touched");
        assert_eq!(machine.property("spotkeep", "ActiveState"), "active");
        machine.spotkeep("stop a").ok();
        machine.spotkeep("start a").ok();
        machine.run(undo).ok();
        assert_eq!(machine.property("spotkeep", "ActiveState"), "inactive");
    });
}
