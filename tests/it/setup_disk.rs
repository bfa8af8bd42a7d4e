//! `spotkeep setup` and disks: which it accepts, which it refuses, and that no data is ever lost.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use state::layout::DataDir;
use sys::files::is_mount_point;
use sys::power_cut::cut_power;

use crate::setup_machine::{UID, Vm, owned, tool};
use crate::support::said;
use testing::wait::{during, until};

const MIB: u64 = 1 << 20;
/// The smallest disk that setup accepts, in bytes.
const ENOUGH: u64 = 512 * MIB;

#[test]
fn a_blank_disk_becomes_a_data_dir_and_a_second_setup_changes_nothing() {
    let Some(mut vm) =
        Vm::new("a_blank_disk_becomes_a_data_dir_and_a_second_setup_changes_nothing")
    else {
        return;
    };
    let device = vm.disk("d", ENOUGH);
    let dry = vm.setup(&["--disk", "d", "--user", "ann", "--dry-run"]);
    assert!(
        dry.out.contains("would format") && dry.out.contains("512 MiB"),
        "{dry:?}"
    );
    assert!(
        tool("wipefs", &["-n", &device]).is_empty(),
        "a dry run wrote something"
    );
    assert!(!vm.data_dir().exists());

    let first = vm.ready("d").ok();
    let done: Vec<&str> = first
        .out
        .lines()
        .filter(|line| !line.starts_with(' '))
        .collect();
    for would in dry.out.lines() {
        let what = would.strip_prefix("would ").unwrap();
        assert!(
            done.contains(&what),
            "a dry run said {what:?}, and it was not done: {done:?}"
        );
    }
    let data_dir = vm.data_dir();
    assert_eq!(owned(&data_dir), (0, UID, 0o1775));
    assert_eq!(owned(&data_dir.join("bin")), (0, 0, 0o755));
    assert_eq!(owned(&data_dir.join("bin/spotkeep")), (0, 0, 0o755));
    assert_eq!(
        owned(&data_dir.join("bin/claude/2.1.330/claude")),
        (0, 0, 0o755)
    );
    assert_eq!(owned(&data_dir.join("backups")), (0, 0, 0o700));
    for name in [".claude", "home", "session-state"] {
        assert_eq!(owned(&data_dir.join(name)), (UID, UID, 0o700), "{name}");
    }
    let identity = DataDir::open_of_anybody(&data_dir)
        .unwrap()
        .identity()
        .unwrap();
    assert_eq!((identity.user.as_str(), identity.uid), ("ann", UID));
    assert_eq!(identity.mount_path, data_dir);
    for (link, to) in [
        ("home/ann/.claude", ".claude"),
        ("home/ann/.claude.json", ".claude/.claude.json"),
        ("workspaces", "workspaces"),
        ("usr/local/bin/spotkeep", "bin/spotkeep"),
    ] {
        assert_eq!(
            fs::read_link(vm.path(link)).unwrap(),
            data_dir.join(to),
            "{link}"
        );
    }
    let wants = vm.path("etc/systemd/system/multi-user.target.wants");
    assert_eq!(
        fs::read_dir(wants).unwrap().count(),
        4,
        "mount, tmux, keeper, save"
    );

    let second = vm.setup(&["--disk", "d"]).ok();
    assert_eq!(second.out, "nothing to do: this machine is set up\n");
    let third = vm.setup(&["--disk", "d", "--dry-run"]).ok();
    assert!(third.out.starts_with("nothing would change"), "{third:?}");
}

#[test]
fn a_lost_spotkeep_toml_is_restored_by_the_next_setup() {
    let Some(mut vm) = Vm::new("a_lost_spotkeep_toml_is_restored_by_the_next_setup") else {
        return;
    };
    vm.disk("d", ENOUGH);
    vm.ready("d").ok();
    let declared = vm.data_dir().join("spotkeep.toml");
    let template = fs::read_to_string(&declared).unwrap();
    fs::remove_file(&declared).unwrap();
    vm.setup(&["--disk", "d"]).ok();
    assert_eq!(fs::read_to_string(&declared).unwrap(), template);
    fs::write(&declared, "\n").unwrap();
    let last = vm.data_dir().join("session-state/spotkeep.toml");
    fs::write(&last, "[defaults]\n").unwrap();
    let again = vm.setup(&["--disk", "d"]).ok();
    assert!(again.out.contains("restored its last version"), "{again:?}");
    assert_eq!(fs::read_to_string(&declared).unwrap(), "[defaults]\n");
}

#[test]
fn data_on_a_disk_is_named_and_never_changed() {
    let Some(mut vm) = Vm::new("data_on_a_disk_is_named_and_never_changed") else {
        return;
    };
    type Make = fn(&str);
    let kinds: [(&str, Make, &str, &str); 9] = [
        (
            "swap",
            |d| drop(tool("mkswap", &[d])),
            "swap space",
            "wipefs",
        ),
        (
            "dos",
            |d| sfdisk(d, "label: dos\n,,L\n"),
            "a partition table",
            "wipefs",
        ),
        (
            "gpt",
            |d| sfdisk(d, "label: gpt\n,,L\n"),
            "a partition table",
            "wipefs",
        ),
        (
            "lvm",
            |d| drop(tool("pvcreate", &["-q", d])),
            "a volume of LVM",
            "wipefs",
        ),
        ("luks", luks, "an encrypted volume", "wipefs"),
        (
            "ext2",
            |d| drop(tool("mkfs.ext2", &["-q", d])),
            "ext2",
            "wipefs",
        ),
        (
            "middle",
            |d| write_at(d, 33 * MIB + 7, b"x"),
            "byte 34603015 is not zero",
            "blkdiscard",
        ),
        (
            "end",
            |d| write_at(d, 64 * MIB - 1, b"x"),
            "is not zero",
            "blkdiscard",
        ),
        ("files", with_a_file, "photos", "--beside-other-files"),
    ];
    for (name, make, said, hint) in kinds {
        let device = vm.disk(name, 64 * MIB);
        make(&device);
        tool("sync", &[]);
        let before = fs::read(vm.image(name)).unwrap();
        vm.setup(&["--disk", name, "--user", "ann"])
            .refused(1, said, hint);
        vm.setup(&["--disk", &device, "--user", "ann", "--dry-run"])
            .refused(1, said, hint);
        tool("sync", &[]);
        assert!(
            before == fs::read(vm.image(name)).unwrap(),
            "{name} was changed"
        );
    }
}

#[test]
fn a_disk_in_use_too_small_read_only_missing_or_the_machines_own_is_refused() {
    let test = "a_disk_in_use_too_small_read_only_missing_or_the_machines_own_is_refused";
    let Some(mut vm) = Vm::new(test) else { return };
    let device = vm.disk("mounted", ENOUGH);
    tool("mkfs.ext4", &["-q", &device]);
    let elsewhere = vm.path("elsewhere");
    vm.mount(&device, &elsewhere);
    vm.setup(&["--disk", "mounted"])
        .refused(1, "is mounted at", "lsblk");

    vm.disk("small", 100 * MIB);
    vm.setup(&["--disk", "small", "--user", "ann"])
        .refused(1, "100 MiB", "lsblk");

    fs::File::create(vm.image("ro"))
        .unwrap()
        .set_len(ENOUGH)
        .unwrap();
    vm.attach("ro", &["--read-only"]);
    vm.setup(&["--disk", "ro", "--user", "ann"])
        .refused(1, "read-only", "rw");

    let missing =
        vm.setup(&["--disk", "none", "--user", "ann"])
            .refused(1, "no disk none", "attach");
    assert!(
        missing
            .err
            .contains("(google-small), 100 MiB: no known signature on it"),
        "{missing:?}"
    );
    vm.setup(&["--disk", "/etc/passwd", "--user", "ann"])
        .refused(1, "not a block device", "");

    vm.disk("full-place", ENOUGH);
    fs::create_dir_all(vm.data_dir()).unwrap();
    fs::write(vm.data_dir().join("work"), "of weeks").unwrap();
    vm.setup(&["--disk", "full-place", "--user", "ann"])
        .refused(1, "would hide", "mv");

    // The machine's own disk: only with --dry-run, in case setup does not refuse it.
    let source = said(Command::new("findmnt").args(["-no", "SOURCE", "/"])).out;
    if Path::new(source.trim()).exists() {
        vm.setup(&["--disk", source.trim(), "--user", "ann", "--dry-run"])
            .refused(1, "that this machine runs from", "another disk");
    }
}

#[test]
fn a_disk_that_another_namespace_has_mounted_is_refused() {
    let test = "a_disk_that_another_namespace_has_mounted_is_refused";
    let Some(mut vm) = Vm::new(test) else { return };
    let device = vm.disk("d", ENOUGH);
    tool("mkfs.ext4", &["-q", &device]);
    let at = vm.path("there");
    fs::create_dir(&at).unwrap();
    let mut other = Command::new("unshare")
        .args([
            "--mount",
            "sh",
            "-c",
            "mount \"$0\" \"$1\" && echo mounted && read x",
            &device,
        ])
        .arg(&at)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut word = [0; 8];
    other
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut word)
        .unwrap();
    let answer = vm.setup(&["--disk", "d", "--user", "ann"]);
    drop(other.stdin.take());
    other.wait().unwrap();
    answer.refused(1, "in another mount namespace", "lsblk");
    vm.ready("d").ok();
}

#[test]
fn an_empty_ext4_or_xfs_is_used_and_grows_with_its_disk() {
    let test = "an_empty_ext4_or_xfs_is_used_and_grows_with_its_disk";
    for mkfs in ["mkfs.ext4", "mkfs.xfs"] {
        let Some(mut vm) = Vm::new(test) else { return };
        let device = vm.disk("d", ENOUGH);
        tool(mkfs, &["-q", &device]);
        let id = tool("blkid", &["-p", "-s", "UUID", "-o", "value", &device]);
        vm.ready("d").ok();
        assert_eq!(
            tool("blkid", &["-p", "-s", "UUID", "-o", "value", &device]),
            id,
            "formatted"
        );

        for (bytes, size) in [(2 * ENOUGH, "1 GiB"), (4 * ENOUGH, "2 GiB")] {
            let image = fs::OpenOptions::new().write(true).open(vm.image("d"));
            image.unwrap().set_len(bytes).unwrap();
            tool("losetup", &["-c", &device]);
            let dry = vm.setup(&["--disk", "d", "--dry-run"]).ok();
            assert!(dry.out.contains(&format!("to {size}")), "{mkfs}: {dry:?}");
            let grown = vm.setup(&["--disk", "d"]);
            // Without this capability the kernel does not grow a mounted ext4. Setup completes,
            // prints a hint, and grows it before the next mount.
            if mkfs == "mkfs.ext4" && !may_grow_mounted() {
                assert!(
                    grown.code == 3 && grown.err.contains("resize2fs"),
                    "{grown:?}"
                );
                vm.unmount();
                vm.setup(&["--disk", "d"]).ok();
            } else {
                grown.ok();
            }
            let data_dir = vm.data_dir();
            let stat = tool(
                "df",
                &[
                    "--block-size=1",
                    "--output=size",
                    data_dir.to_str().unwrap(),
                ],
            );
            let now: u64 = stat.lines().last().unwrap().trim().parse().unwrap();
            assert!(now > bytes / 10 * 8, "{mkfs}: {now}");
            let again = vm.setup(&["--disk", "d"]).ok();
            assert!(again.out.starts_with("nothing to do"), "{mkfs}: {again:?}");
        }
    }
}

/// Whether this process has `CAP_SYS_RESOURCE`; in some sandboxes, uid 0 does not.
fn may_grow_mounted() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    u64::from_str_radix(line.unwrap().trim(), 16).unwrap() & (1 << 24) != 0
}

#[test]
fn a_data_dir_can_be_made_beside_other_files_and_changes_none_of_them() {
    let test = "a_data_dir_can_be_made_beside_other_files_and_changes_none_of_them";
    let Some(mut vm) = Vm::new(test) else { return };
    let device = vm.disk("d", ENOUGH);
    with_a_file(&device);
    vm.setup(&["--disk", "d", "--user", "ann"])
        .refused(1, "photos", "--beside-other-files");
    vm.setup(&["--disk", "d", "--user", "ann", "--beside-other-files"]);
    assert_eq!(
        fs::read_to_string(vm.data_dir().join("photos")).unwrap(),
        "of a summer"
    );
    DataDir::open_of_anybody(&vm.data_dir()).unwrap();
    // It is a data directory now, so the flag is not needed again.
    let again = vm.setup(&["--disk", "d"]);
    assert!(!again.out.contains("would") && again.code != 1, "{again:?}");
}

#[test]
fn a_partition_is_used_by_its_own_name_and_its_table_stays() {
    let test = "a_partition_is_used_by_its_own_name_and_its_table_stays";
    let Some(mut vm) = Vm::new(test) else { return };
    fs::File::create(vm.image("d"))
        .unwrap()
        .set_len(ENOUGH + 64 * MIB)
        .unwrap();
    sfdisk(vm.image("d").to_str().unwrap(), "label: gpt\n,,L\n");
    let device = vm.attach("d", &["--partscan"]);
    let part = format!("{device}p1");
    if !Path::new(&part).exists() {
        // A kernel without support for this kind of table gets the partitions from `partx`.
        tool("partx", &["--add", &device]);
    }
    vm.setup(&["--disk", "d", "--user", "ann"])
        .refused(1, "a partition table", &part);
    tool("mkfs.ext4", &["-q", &part]);
    vm.name("d-part1", &part);
    vm.ready("d-part1").ok();
    let in_use = format!("it is mounted at {}", vm.data_dir().display());
    vm.setup(&["--disk", "d", "--user", "ann"])
        .refused(1, &in_use, "name another disk");
    assert!(tool("sfdisk", &["--dump", &device]).contains(&part));
    vm.unmount();
}

#[test]
fn a_power_cut_at_any_moment_of_a_setup_is_repaired_by_the_next_one() {
    cut_at(
        "a_power_cut_at_any_moment_of_a_setup_is_repaired_by_the_next_one",
        0..50,
    );
}

#[test]
fn a_power_cut_at_any_other_moment_of_a_setup_is_repaired_too() {
    cut_at(
        "a_power_cut_at_any_other_moment_of_a_setup_is_repaired_too",
        50..100,
    );
}

#[test]
fn a_setup_that_is_killed_at_any_moment_is_completed_by_the_next_one() {
    let test = "a_setup_that_is_killed_at_any_moment_is_completed_by_the_next_one";
    let Some(mut vm) = Vm::new(test) else { return };
    let device = vm.disk("d", ENOUGH);
    let fresh = |vm: &Vm| {
        if is_mount_point(&vm.data_dir()).unwrap_or(false) {
            vm.unmount();
        }
        tool("blkdiscard", &["-z", &device]);
        vm.boot_disk();
        vm.account("ann");
        vm.name("d", &device);
        vm.anns(".claude/history.jsonl", &"words\n".repeat(1000));
    };
    fresh(&vm);
    let begun = Instant::now();
    vm.ready("d").ok();
    let whole = begun.elapsed();
    let mut ended = 0;
    for kill in 0..5 {
        fresh(&vm);
        let claude = vm.claude();
        let args = ["--disk", "d", "--user", "ann", "--yes", "--claude"];
        let mut setup = vm
            .command(&[&args[..], &[claude.to_str().unwrap()]].concat())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap();
        std::thread::sleep(whole.mul_f64(share(kill)));
        // The whole process group, as an interrupt from the keyboard.
        let group = format!("-{}", setup.id());
        tool("kill", &["-KILL", "--", &group]);
        ended += u32::from(!setup.wait().unwrap().success());
        until("its children have ended", || {
            let left = said(Command::new("kill").args(["-0", "--", &group]));
            (left.code != 0).then_some(())
        });
        vm.ready("d").ok();
        let words = fs::read_to_string(vm.path("home/ann/.claude/history.jsonl")).unwrap();
        assert_eq!(words.len(), 6000, "kill {kill}");
    }
    let again = vm.setup(&["--disk", "d"]).ok();
    assert!(again.out.starts_with("nothing to do"), "{again:?}");
    assert!(ended > 0, "no kill came while it ran");
}

/// A fraction of the duration for each moment: evenly spread, by the golden ratio.
fn share(moment: u32) -> f64 {
    (f64::from(moment) * 0.618_033_988_75).fract()
}

/// Cuts the power of the data directory's disk during a setup, once at each of the moments.
fn cut_at(test: &str, moments: std::ops::Range<u32>) {
    let Some(mut vm) = Vm::new(test) else { return };
    let device = vm.disk("d", ENOUGH);
    vm.anns(".claude/history.jsonl", &"words\n".repeat(1000));
    let mounted = vm.data_dir();
    let fresh = |vm: &Vm| {
        tool("mkfs.ext4", &["-q", "-F", "-E", "nodiscard", &device]);
        fs::create_dir_all(vm.data_dir()).unwrap();
        tool("mount", &[&device, vm.data_dir().to_str().unwrap()]);
        for name in [".claude", ".claude.json"] {
            fs::remove_file(vm.path("home/ann").join(name)).ok();
        }
        fs::remove_file(vm.path("workspaces")).ok();
        vm.anns(".claude/history.jsonl", &"words\n".repeat(1000));
    };
    fresh(&vm);
    let begun = Instant::now();
    vm.ready("d").ok();
    let whole = begun.elapsed();
    vm.unmount();
    let mut ended = 0;
    for cut in moments {
        fresh(&vm);
        let claude = vm.claude();
        let args = [
            "--disk",
            "d",
            "--user",
            "ann",
            "--yes",
            "--claude",
            claude.to_str().unwrap(),
        ];
        let mut setup = vm
            .command(&args)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(whole.mul_f64(share(cut)));
        cut_power(&mounted).unwrap();
        ended += u32::from(!setup.wait().unwrap().success());
        vm.unmount();
        tool("mount", &[&device, mounted.to_str().unwrap()]);
        vm.ready("d").ok();
        DataDir::open_of_anybody(&mounted)
            .unwrap()
            .identity()
            .unwrap();
        let words = fs::read_to_string(vm.path("home/ann/.claude/history.jsonl")).unwrap();
        assert_eq!(words.len(), 6000, "cut {cut}");
        vm.unmount();
    }
    assert!(ended > 10, "only {ended} of 50 cuts came while it ran");
}

/// Writes a partition table from an `sfdisk` script.
fn sfdisk(device: &str, script: &str) {
    let mut child = Command::new("sfdisk")
        .args(["-q", "--no-reread", device])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(script.as_bytes())
        .unwrap();
    assert!(child.wait().unwrap().success());
}

fn luks(device: &str) {
    let key = tempfile::NamedTempFile::new().unwrap();
    fs::write(key.path(), "a key").unwrap();
    let key = key.path().to_str().unwrap();
    // LUKS 1 with few iterations, because its header needs no device-mapper.
    tool(
        "cryptsetup",
        &[
            "luksFormat",
            "-q",
            "--type",
            "luks1",
            "--pbkdf-force-iterations",
            "1000",
            device,
            key,
        ],
    );
}

fn write_at(device: &str, at: u64, bytes: &[u8]) {
    let file = fs::OpenOptions::new().write(true).open(device).unwrap();
    file.write_all_at(bytes, at).unwrap();
    file.sync_all().unwrap();
}

/// Makes an ext4 with a file of the user's.
fn with_a_file(device: &str) {
    tool("mkfs.ext4", &["-q", device]);
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().to_str().unwrap();
    tool("mount", &[device, at]);
    fs::write(dir.path().join("photos"), "of a summer").unwrap();
    tool("umount", &[at]);
}

#[test]
fn setup_waits_for_a_disk_that_is_attached_late() {
    let Some(mut vm) = Vm::new("setup_waits_for_a_disk_that_is_attached_late") else {
        return;
    };
    let device = vm.disk("d", ENOUGH);
    let link = vm.path("dev/disk/by-id/google-d");
    fs::remove_file(&link).unwrap();
    let setup = vm
        .command(&["--disk", "d", "--user", "ann", "--dry-run", "--wait", "60s"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // Setup sleeps between two checks.
    let wchan = format!("/proc/{}/wchan", setup.id());
    until("setup has looked for its disk once", || {
        let sleeps = fs::read_to_string(&wchan).unwrap().contains("nanosleep");
        sleeps.then_some(())
    });
    std::os::unix::fs::symlink(&device, &link).unwrap();
    let output = during("setup has its disk", || setup.wait_with_output()).unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("would format"));
}
