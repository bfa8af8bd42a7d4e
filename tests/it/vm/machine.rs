//! A QEMU virtual machine: power button, power cuts, disks, and a root shell over a serial port.
//!
//! It always runs under software emulation (a KVM device that opens may not boot a machine), in a
//! network namespace with loopback only. In the machine, 169.254.169.254 leads to that loopback.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sys::command::run;
use sys::process::{ProcessId, Signal};

/// The limit for a boot on two emulated processors of a busy host; on a quiet host it takes 15 to
/// 25 s.
pub const BOOT_LIMIT: Duration = Duration::from_secs(400);

/// The limit for any other command in the machine.
pub const LIMIT: Duration = Duration::from_secs(240);

/// The byte between the output of a command and its exit status.
const END_MARK: u8 = 0x1e;

/// The fake Claude: the start of the real one takes half a minute on an emulated processor.
const FAKE: &str = "#!/bin/sh\nexec /mnt/persist/bin/spotkeep fake-claude \"$@\"\n";

/// The directory with the disks of the machines. It holds gigabytes, so it is not in `/tmp`, which
/// may be memory.
pub struct Disks {
    dir: PathBuf,
    booted: usize,
    /// A boot disk that outlives its machine.
    kept: Option<PathBuf>,
}

/// Whether a machine has its data disk when it boots.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum DataDisk {
    /// The disk is attached before the boot.
    Attached,
    /// The disk is attached by [`Machine::attach_data_disk`].
    Later,
}

/// One machine, from its boot to its end.
pub struct Machine {
    qemu: Child,
    shell: UnixStream,
    control: BufReader<UnixStream>,
    console: PathBuf,
}

/// The result of a command in the machine.
#[derive(Debug)]
pub struct ScriptResult {
    pub code: i32,
    pub text: String,
}

impl Disks {
    /// Makes a directory for the test, with a blank data disk of 1 GiB. Files of a run that was
    /// killed are removed.
    pub fn new(test: &str) -> Self {
        let dir = image_dir().join(test.replace("::", "-"));
        fs::remove_dir_all(&dir).ok();
        fs::create_dir(&dir).unwrap();
        let data = dir.join("data.img");
        fs::File::create(data).unwrap().set_len(1 << 30).unwrap();
        Self {
            dir,
            booted: 0,
            kept: None,
        }
    }

    /// Makes a new boot disk, which all later machines use and which keeps their changes.
    pub fn keep_the_boot_disk(&mut self) {
        let kept = self.dir.join("boot.img");
        succeed(
            Command::new("cp")
                .arg("--sparse=always")
                .arg(image_dir().join("boot.img"))
                .arg(&kept),
        );
        self.kept = Some(kept);
    }

    /// Sets what the cloud gives to later machines: `startup` runs at each boot; `program` is
    /// beside it, if given.
    pub fn hand_over(&self, startup: &str, program: Option<&Path>) {
        let payload = self.dir.join("payload");
        fs::create_dir_all(&payload).unwrap();
        fs::write(payload.join("startup"), startup).unwrap();
        fs::write(payload.join("claude"), FAKE).unwrap();
        let spotkeep = payload.join("spotkeep");
        match program {
            // Without symbols, there is less to read from an emulated disk.
            Some(program) => succeed(Command::new("strip").arg("-o").arg(&spotkeep).arg(program)),
            None => fs::remove_file(&spotkeep).unwrap_or_default(),
        }
        succeed(Command::new("chmod").arg("-R").arg("a+rx").arg(&payload));
        let image = self.dir.join("payload.img");
        let blank = fs::File::create(&image).unwrap();
        blank.set_len(128 << 20).unwrap();
        succeed(
            Command::new("mkfs.ext4")
                .args(["-q", "-F", "-L", "payload", "-d"])
                .arg(&payload)
                .arg(&image),
        );
    }

    /// The data disk, as a file.
    pub fn data(&self) -> PathBuf {
        self.dir.join("data.img")
    }

    /// Starts a new machine. Its boot disk is new, unless one is kept.
    pub fn power_on(&mut self, disk: DataDisk) -> Machine {
        self.booted += 1;
        let dir = &self.dir;
        let console = dir.join(format!("console-{}", self.booted));
        let boot = match &self.kept {
            Some(kept) => format!("file={},snapshot=off", kept.display()),
            None => format!(
                "file={},snapshot=on",
                image_dir().join("boot.img").display()
            ),
        };
        // Sockets have relative names, because a socket's path has 108 bytes at most.
        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.current_dir(dir)
            .args([
                "-nodefaults",
                "-no-user-config",
                "-display",
                "none",
                "-no-reboot",
            ])
            .args([
                "-M",
                "q35",
                "-accel",
                "tcg,thread=multi",
                "-smp",
                "2",
                "-m",
                "1536",
            ])
            .args([
                "-smbios",
                "type=1,manufacturer=Google,product=Google Compute Engine",
            ])
            .arg("-kernel")
            .arg(image_dir().join("vmlinuz"))
            .args([
                "-append",
                "root=/dev/nvme0n1 rw console=ttyS0 quiet mitigations=off net.ifnames=0",
            ])
            .arg("-drive")
            .arg(format!("{boot},format=raw,if=none,id=boot"))
            .args(["-device", "nvme,drive=boot,serial=boot"])
            .args(["-device", "virtio-scsi-pci,id=scsi"])
            .args([
                "-drive",
                "file=payload.img,format=raw,if=none,id=payload,readonly=on",
            ])
            .args(["-device", "scsi-hd,bus=scsi.0,drive=payload,serial=payload"])
            .args([
                "-drive",
                "file=data.img,format=raw,if=none,id=data,cache=writeback",
            ])
            .args([
                "-netdev",
                "user,id=net,net=169.254.169.0/24,host=169.254.169.254",
            ])
            .args(["-device", "virtio-net-pci,netdev=net"])
            .args(["-device", "virtio-serial-pci"])
            .args([
                "-chardev",
                "socket,path=shell.sock,server=on,wait=off,id=shell",
            ])
            .args(["-device", "virtserialport,chardev=shell,name=hands"])
            .arg("-serial")
            .arg(format!("file:{}", console.display()))
            .args(["-qmp", "unix:control.sock,server=on,wait=off"])
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        if disk == DataDisk::Attached {
            qemu.args(["-device", &data_device()]);
        }
        let mut qemu = qemu.spawn().unwrap();
        let control = connect(&mut qemu, &dir.join("control.sock"));
        let shell = connect(&mut qemu, &dir.join("shell.sock"));
        let mut machine = Machine {
            qemu,
            shell,
            control: BufReader::new(control),
            console,
        };
        machine.execute(&json!({"execute": "qmp_capabilities"}));
        machine
    }

    /// Mounts a copy of the data disk as it is now (the mount replays its journal) and calls `read`
    /// with the mount point. The disk itself is not changed.
    pub fn read_data_disk<Seen>(&self, read: impl FnOnce(&Path) -> Seen) -> Seen {
        let copy = self.dir.join("copy.img");
        let mount = self.dir.join("mount");
        succeed(
            Command::new("cp")
                .arg("--sparse=always")
                .arg(self.data())
                .arg(&copy),
        );
        fs::create_dir_all(&mount).unwrap();
        succeed(
            Command::new("mount")
                .args(["-o", "loop"])
                .arg(&copy)
                .arg(&mount),
        );
        let seen = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| read(&mount)));
        succeed(Command::new("umount").arg(&mount));
        seen.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Drop for Disks {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.dir).ok();
    }
}

impl Machine {
    /// Runs a script as root in the machine, once its first services are up.
    pub fn run(&mut self, script: &str, limit: Duration) -> ScriptResult {
        let until = Instant::now() + limit;
        let command = format!("( {script}\n) </dev/null 2>&1; printf '\\036%d\\n' $?\n");
        self.shell.write_all(command.as_bytes()).unwrap();
        let mut text = Vec::new();
        loop {
            let remaining = until.saturating_duration_since(Instant::now());
            assert!(
                !remaining.is_zero(),
                "no answer in {limit:?} to:\n{script}\n{}",
                self.console()
            );
            self.shell.set_read_timeout(Some(remaining)).unwrap();
            let mut piece = [0; 4096];
            match self.shell.read(&mut piece) {
                Ok(0) => panic!(
                    "the machine is off; it was asked to:\n{script}\n{}",
                    self.console()
                ),
                Ok(length) => text.extend_from_slice(&piece[..length]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => panic!("{error}: {script}"),
            }
            let Some(mark) = text.iter().position(|byte| *byte == END_MARK) else {
                continue;
            };
            if text.ends_with(b"\n") {
                let code = String::from_utf8_lossy(&text[mark + 1..]);
                return ScriptResult {
                    code: code.trim().parse().unwrap(),
                    text: String::from_utf8_lossy(&text[..mark]).into_owned(),
                };
            }
        }
    }

    /// Runs a script that has to succeed, and returns what it printed.
    pub fn must(&mut self, script: &str) -> String {
        let left = self.run(script, LIMIT);
        assert_eq!(left.code, 0, "{script}\n{}\n{}", left.text, self.console());
        left.text
    }

    /// Runs a script repeatedly until `found` returns a value for its result.
    pub fn until<Found>(
        &mut self,
        what: &str,
        limit: Duration,
        script: &str,
        found: impl Fn(&ScriptResult) -> Option<Found>,
    ) -> Found {
        let until = Instant::now() + limit;
        loop {
            let left = self.run(script, limit);
            if let Some(found) = found(&left) {
                return found;
            }
            assert!(
                Instant::now() < until,
                "{what} never came: {left:?}\n{}",
                self.console()
            );
        }
    }

    /// Presses the ACPI power button, as a cloud does.
    pub fn press_power_button(&mut self) {
        self.execute(&json!({"execute": "system_powerdown"}));
    }

    /// Attaches the data disk.
    pub fn attach_data_disk(&mut self) {
        let mut arguments = json!({"driver": "scsi-hd"});
        for pair in data_device().split(',').skip(1) {
            let (key, value) = pair.split_once('=').unwrap();
            arguments[key] = Value::from(value);
        }
        self.execute(&json!({"execute": "device_add", "arguments": arguments}));
    }

    /// Kills the machine, so that unwritten data is lost. Returns the time.
    pub fn cut_power(mut self) -> Instant {
        let at = Instant::now();
        self.qemu.kill().unwrap();
        self.qemu.wait().unwrap();
        at
    }

    /// Waits until the machine has powered off; `false` if it still runs at `until`.
    #[must_use]
    pub fn is_off_by(&mut self, until: Instant) -> bool {
        let pid = i32::try_from(self.qemu.id()).unwrap();
        let ended = match ProcessId::from_pid(pid).and_then(ProcessId::open) {
            Some(pidfd) => pidfd.wait(Some(until)),
            None => true,
        };
        if ended {
            self.qemu.wait().unwrap();
        }
        ended
    }

    /// The output on its console.
    pub fn console(&self) -> String {
        fs::read_to_string(&self.console).unwrap_or_default()
    }

    fn execute(&mut self, command: &Value) {
        writeln!(self.control.get_mut(), "{command}").unwrap();
        loop {
            let mut line = String::new();
            let length = self.control.read_line(&mut line).unwrap();
            assert!(length > 0, "QEMU has ended: {command}");
            let said: Value = serde_json::from_str(&line).unwrap();
            assert!(said.get("error").is_none(), "{command}: {said}");
            if said.get("return").is_some() {
                return;
            }
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Some(pidfd) = i32::try_from(self.qemu.id())
            .ok()
            .and_then(ProcessId::from_pid)
            .and_then(ProcessId::open)
        {
            pidfd.signal(Signal::Kill);
        }
        self.qemu.wait().ok();
    }
}

/// The directory of the files that `scripts/vm-image` has made.
fn image_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/vm")
}

/// The QEMU device of the data disk, with the name that the cloud gives it.
fn data_device() -> String {
    "scsi-hd,id=persist,bus=scsi.0,drive=data,vendor=Google,product=PersistentDisk,serial=claude-persist".into()
}

fn connect(qemu: &mut Child, path: &Path) -> UnixStream {
    let until = Instant::now() + LIMIT;
    loop {
        // The path may be too long for a socket's address; through the directory's handle it is
        // not.
        let dir = fs::File::open(path.parent().unwrap()).unwrap();
        let fd = std::os::fd::AsRawFd::as_raw_fd(&dir);
        let name = path.file_name().unwrap().to_str().unwrap();
        if let Ok(stream) = UnixStream::connect(format!("/proc/self/fd/{fd}/{name}")) {
            stream.set_read_timeout(Some(LIMIT)).unwrap();
            return stream;
        }
        assert!(qemu.try_wait().unwrap().is_none(), "QEMU did not start");
        assert!(Instant::now() < until, "QEMU does not listen");
        std::thread::yield_now();
    }
}

fn succeed(command: &mut Command) {
    let output = run(command, LIMIT).unwrap();
    assert!(output.status.success(), "{command:?}: {}", output.stderr);
}
