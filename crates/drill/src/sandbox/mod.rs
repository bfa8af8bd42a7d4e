//! The sandbox of a drill: a data directory, a home, git workspaces and a clean environment.
//!
//! The workspaces have every kind of uncommitted change. When the sandbox is dropped, its processes
//! and files are removed.

mod config;
mod unprivileged;
mod workspace;

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::verify::workspace_digest::{Digest, git};
pub use config::point_at;
use sys::command;
use sys::error::{Context as _, Result, bail, ensure};
use sys::files::create_private_dir;
use sys::power_cut::cut_power;
use sys::process::{self, Pidfd, Signal, with_marker};

/// The time limit of a system tool or of a spotkeep command.
const LIMIT: Duration = Duration::from_secs(60);
/// The longest path of the temporary directory with which a socket's path is still short enough.
const LONGEST_TEMP: usize = 40;

/// A sandbox. Dropping it ends every process in it and removes its files.
#[derive(Debug)]
pub struct Sandbox {
    dir: PathBuf,
    exe: PathBuf,
    id: String,
    keep: bool,
    on_loop: bool,
    /// The user that runs all programs of the sandbox; `None` for the user of this process.
    user: Option<u32>,
}

impl Sandbox {
    /// Creates an empty sandbox. With `on_loop`, its data directory is a separate file system whose
    /// power can be cut.
    ///
    /// # Errors
    /// The disk is full, or the loop file system cannot be made (it needs root).
    pub fn create(keep: bool, on_loop: bool) -> Result<Self> {
        let uuid = fs::read_to_string("/proc/sys/kernel/random/uuid").context("no random id")?;
        let id = uuid.get(..8).unwrap_or("drill").to_owned();
        let temp = std::env::temp_dir();
        let is_good = temp.is_absolute()
            && temp.as_os_str().len() <= LONGEST_TEMP
            && unprivileged::can_reach(&temp);
        let temp = if !is_good { "/tmp".into() } else { temp };
        let sandbox = Self {
            dir: temp.join(format!("spotkeep-drill-{id}")),
            exe: std::env::current_exe().context("cannot find the program itself")?,
            id,
            keep,
            on_loop,
            user: None,
        };
        for dir in ["root", "home", "run", "tmp", "bin"] {
            create_private_dir(&sandbox.dir.join(dir))?;
        }
        if on_loop {
            let image = sandbox.image();
            fs::File::create(&image)?.set_len(512 * 1024 * 1024)?;
            system("mkfs.ext4", &["-q", "-F", &image.to_string_lossy()])?;
            sandbox.mount()?;
        }
        Ok(sandbox)
    }

    /// Uses another `spotkeep` program than the one that runs now.
    #[must_use]
    pub fn with_program(mut self, exe: PathBuf) -> Self {
        self.exe = exe;
        self
    }

    /// Returns the directory of the sandbox.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Returns the data directory.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.dir.join("root")
    }

    /// Returns an agent's workspace.
    #[must_use]
    pub fn workspace(&self, name: &str) -> PathBuf {
        self.data_dir().join("workspaces").join(name)
    }

    fn image(&self) -> PathBuf {
        self.dir.join("disk.img")
    }

    fn marker(&self) -> String {
        format!("SPOTKEEP_RUNTIME_DIR={}", self.dir.join("run").display())
    }

    /// Returns a command in the sandbox's environment, which has no variables of this process but
    /// `PATH`.
    #[must_use]
    pub fn command(&self, program: &Path) -> Command {
        let mut command = self.run_as(program);
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.dir.join("home"))
            .env("TMPDIR", self.dir.join("tmp"))
            .env("TERM", "xterm-256color")
            .env("LANG", "C.UTF-8")
            .env("IS_SANDBOX", "1")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("SPOTKEEP_RUNTIME_DIR", self.dir.join("run"))
            .current_dir(&self.dir);
        command
    }

    /// Runs git in an agent's workspace without the user's configuration; returns its output.
    ///
    /// # Errors
    /// git failed; the error has its output.
    pub fn git(&self, name: &str, args: &[&str]) -> Result<String> {
        let mut command = self.command(Path::new("git"));
        git(&mut command, &self.workspace(name), args)
    }

    /// Returns the digest of an agent's workspace.
    ///
    /// # Errors
    /// It cannot be read, or git fails.
    pub fn digest(&self, name: &str) -> Result<Digest> {
        Digest::with_git(&self.workspace(name), &|args| self.git(name, args))
    }

    /// Returns a spotkeep command on the data directory in its n-th boot, with a metadata server.
    ///
    /// # Errors
    /// The metadata server is not on loopback.
    pub fn spotkeep(&self, boot_id: u32, metadata: &str) -> Result<Command> {
        let address: std::net::SocketAddr = metadata.parse().context("invalid metadata address")?;
        ensure!(
            address.ip().is_loopback(),
            "a drill does not run with the metadata server {metadata}: it is not on loopback"
        );
        let mut command = self.command(&self.exe);
        command
            .arg("--data-dir")
            .arg(self.data_dir())
            .env("SPOTKEEP_BOOT_ID", format!("drill-{}-{boot_id}", self.id))
            .env("GCE_METADATA_HOST", metadata);
        Ok(command)
    }

    /// Runs a spotkeep verb to its end and returns its output.
    ///
    /// # Errors
    /// It failed; the error has its output.
    pub fn verb(&self, boot_id: u32, metadata: &str, args: &[&str]) -> Result<String> {
        let mut command = self.spotkeep(boot_id, metadata)?;
        let output = command::run(command.args(args), LIMIT)?;
        if !output.status.success() {
            bail!(
                "spotkeep {}: {} {}",
                args[0],
                output.stderr,
                output.stdout.trim()
            );
        }
        Ok(output.stdout)
    }

    /// Starts a keeper, whose log is written to the boot's log file.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn keeper(&self, boot_id: u32, metadata: &str) -> Result<std::process::Child> {
        let log = fs::File::create(self.log(boot_id))?;
        let mut command = self.spotkeep(boot_id, metadata)?;
        command
            .arg("run")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C in the terminal goes to the drill, which then removes the sandbox.
            .process_group(0);
        command.spawn().context("cannot start the keeper")
    }

    /// Returns the path of the keeper's log in the n-th boot.
    #[must_use]
    pub fn log(&self, boot_id: u32) -> PathBuf {
        self.dir.join(format!("keeper-{boot_id}.log"))
    }

    /// Kills all processes of the sandbox at once, and repeats until none is left. Returns the time
    /// of the first signal.
    ///
    /// # Errors
    /// Some did not end.
    pub fn end_everything(&self) -> Result<Instant> {
        let deadline = Instant::now() + LIMIT;
        let mut first = None;
        loop {
            let found: Vec<Pidfd> = with_marker(&self.marker())
                .into_iter()
                .filter_map(process::ProcessId::open)
                .collect();
            let at = *first.get_or_insert_with(Instant::now);
            if found.is_empty() {
                return Ok(at);
            }
            for process in &found {
                process.signal(Signal::Kill);
            }
            for process in &found {
                ensure!(
                    process.wait(Some(deadline)),
                    "a process did not end after SIGKILL"
                );
            }
        }
    }

    /// Cuts the power of the data directory's file system. Returns the time.
    ///
    /// # Errors
    /// The data directory is not on a loop file system.
    pub fn cut_power(&self) -> Result<Instant> {
        ensure!(
            self.on_loop,
            "the data directory is not on a separate file system"
        );
        let at = Instant::now();
        cut_power(&self.data_dir())?;
        Ok(at)
    }

    /// Mounts the data directory again after a cut, which replays its journal.
    ///
    /// # Errors
    /// It cannot be unmounted or mounted.
    pub fn remount(&self) -> Result<()> {
        self.unmount()?;
        self.mount()
    }

    fn mount(&self) -> Result<()> {
        let (image, data_dir) = (self.image(), self.data_dir());
        system(
            "mount",
            &[
                "-o",
                "loop",
                &image.to_string_lossy(),
                &data_dir.to_string_lossy(),
            ],
        )
    }

    fn unmount(&self) -> Result<()> {
        let data_dir = self.data_dir();
        let data_dir = data_dir.to_string_lossy();
        system("umount", &[&data_dir]).or_else(|_| system("umount", &["-l", &data_dir]))
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.clear();
    }
}

impl Sandbox {
    /// Ends all processes and removes the files, unless they are to be kept. Another thread calls
    /// it when the drill is interrupted.
    pub fn clear(&self) {
        // Errors are ignored: nothing else can be done, and the paths name the drill.
        self.end_everything().ok();
        if self.keep {
            return;
        }
        if self.on_loop {
            self.unmount().ok();
        }
        fs::remove_dir_all(&self.dir).ok();
    }
}

fn system(program: &str, args: &[&str]) -> Result<()> {
    let output = command::run(Command::new(program).args(args), LIMIT)?;
    ensure!(
        output.status.success(),
        "{program} {}: {}",
        args.join(" "),
        output.stderr
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metadata_server_beyond_loopback_is_refused() {
        let sandbox = Sandbox::create(false, false).unwrap();
        let error = sandbox.spotkeep(1, "192.0.2.1:80").unwrap_err();
        assert!(error.to_string().contains("not on loopback"), "{error}");
    }

    #[test]
    fn nothing_is_left_of_a_dropped_sandbox() {
        let sandbox = Sandbox::create(false, false).unwrap();
        sandbox.make_workspace("agent-1").unwrap();
        let status = sandbox.git("agent-1", &["status", "--porcelain"]).unwrap();
        assert_eq!(status, "MM changed.txt\nD  deleted.txt\n?? untracked.txt\n");
        let mut child = sandbox
            .command(Path::new("tail"))
            .args(["-f", "/dev/null"])
            .spawn()
            .unwrap();
        let dir = sandbox.dir().to_path_buf();
        testing::wait::until("its process runs", || {
            (!with_marker(&sandbox.marker()).is_empty()).then_some(())
        });
        drop(sandbox);
        assert!(!dir.exists());
        assert!(!child.wait().unwrap().success());
    }
}
