//! A place of its own for a drill: a data directory, a home, git workspaces in every state of undone work,
//! a cleaned environment, and an end that leaves nothing behind.

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

/// How long a tool of the system, or a command of ours, may take.
const LIMIT: Duration = Duration::from_secs(60);
/// The longest path of the temporary directory that still leaves room for a socket's path.
const LONGEST_TEMP: usize = 40;

/// The sandbox. Dropping it ends every process in it and removes it.
#[derive(Debug)]
pub struct Sandbox {
    dir: PathBuf,
    exe: PathBuf,
    id: String,
    keep: bool,
    on_loop: bool,
    /// Whom everything runs as that is started in it; `None`: as this process.
    user: Option<u32>,
}

impl Sandbox {
    /// An empty one; with `on_loop`, its data directory is a filesystem of its own that can be cut.
    ///
    /// # Errors
    /// No room, or the loop filesystem cannot be had (it needs root).
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

    /// The same with another program as `spotkeep` than the one that runs now.
    #[must_use]
    pub fn with_program(mut self, exe: PathBuf) -> Self {
        self.exe = exe;
        self
    }

    /// Where everything is.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The data directory that the keeper keeps.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.dir.join("root")
    }

    /// An agent's workspace.
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

    /// A command in the sandbox's environment, which holds nothing of ours.
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

    /// Runs git in an agent's workspace with nothing of the user's configuration; what it printed.
    ///
    /// # Errors
    /// git failed; the error holds what it said.
    pub fn git(&self, name: &str, args: &[&str]) -> Result<String> {
        let mut command = self.command(Path::new("git"));
        git(&mut command, &self.workspace(name), args)
    }

    /// An agent's workspace, taken down.
    ///
    /// # Errors
    /// It cannot be read, or git fails.
    pub fn digest(&self, name: &str) -> Result<Digest> {
        Digest::with_git(&self.workspace(name), &|args| self.git(name, args))
    }

    /// `spotkeep` on the sandbox's root in its n-th boot, with its own metadata server.
    ///
    /// # Errors
    /// The metadata server is not on loopback.
    pub fn spotkeep(&self, boot_id: u32, metadata: &str) -> Result<Command> {
        let address: std::net::SocketAddr = metadata.parse().context("no metadata address")?;
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

    /// Runs a verb of spotkeep to its end and returns what it printed.
    ///
    /// # Errors
    /// It failed; the error holds what it said.
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

    /// Starts a keeper; its log goes to a file of the boot.
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
            // Ctrl-C in the terminal is for the drill, which then ends everything in order.
            .process_group(0);
        command.spawn().context("cannot start the keeper")
    }

    /// The log of the keeper in its n-th boot.
    #[must_use]
    pub fn log(&self, boot_id: u32) -> PathBuf {
        self.dir.join(format!("keeper-{boot_id}.log"))
    }

    /// Ends every process of the sandbox by SIGKILL, all that are there at once, until none is
    /// left. Returns when the first signal was sent.
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
                    "a process did not end by SIGKILL"
                );
            }
        }
    }

    /// Cuts the power of the data directory's filesystem. Returns when.
    ///
    /// # Errors
    /// The data directory is not on a loop filesystem.
    pub fn cut_power(&self) -> Result<Instant> {
        ensure!(
            self.on_loop,
            "the data directory is not on a filesystem of its own"
        );
        let at = Instant::now();
        cut_power(&self.data_dir())?;
        Ok(at)
    }

    /// Mounts the data directory again after a cut, which recovers its journal.
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
    /// Ends what runs and removes what is there, unless it is to be kept. Also for another thread,
    /// when the drill itself is interrupted.
    pub fn clear(&self) {
        // What cannot be ended or removed now cannot be helped; the paths are unmistakable.
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
    fn a_metadata_server_elsewhere_is_refused() {
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
        testing::wait::until("its process is there", || {
            (!with_marker(&sandbox.marker()).is_empty()).then_some(())
        });
        drop(sandbox);
        assert!(!dir.exists());
        assert!(!child.wait().unwrap().success());
    }
}
