//! `Lab`: an isolated environment for one test, with a data directory, a home and a fake API.
//!
//! At the end of the test, its processes and files are removed.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use drill::fake_api::Model;
use drill::fake_metadata::Metadata;
use sys::process::{ProcessId, Signal, with_marker};

pub use crate::command_output::{CommandOutput, run, said};
pub use crate::terminal::arguments;
use testing::wait::during;

/// A user id that no account on this machine has.
const ORDINARY: u32 = 48_213;

/// The program under test.
pub const SPOTKEEP: &str = env!("CARGO_BIN_EXE_spotkeep");

/// The environment of one test.
pub struct Lab {
    pub dir: PathBuf,
    /// The program under test, or a copy that its user can reach.
    spotkeep: PathBuf,
    /// The old program, while commands run it instead of the one under test.
    pub old_program: Option<PathBuf>,
    /// The user that everything runs as, if it is not the one that runs the test.
    user: Option<u32>,
    pub model: Model,
    metadata: Option<Metadata>,
    boot_id: AtomicU32,
    umount: Option<PathBuf>,
}

impl Lab {
    /// A data directory without a cloud; the agents are fakes.
    pub fn new() -> Self {
        let lab = Self::bare();
        lab.run(&["init"]).ok();
        lab.configure("");
        lab
    }

    /// A data directory in a cloud whose metadata server is a fake.
    pub fn in_a_cloud() -> Self {
        let lab = Self::bare_in_a_cloud();
        lab.run(&["init"]).ok();
        lab.configure("");
        lab
    }

    /// An environment in a cloud without a data directory.
    pub fn bare_in_a_cloud() -> Self {
        let mut lab = Self::bare();
        lab.metadata = Some(Metadata::start().unwrap());
        lab
    }

    /// An environment without a data directory.
    pub fn bare() -> Self {
        let id = sys::uuid::new_uuid();
        // Short, because a socket's path has 108 bytes at most. In the test container this is
        // memory, so that no sync waits for a disk; tests of power cuts use a real file system.
        let dir = std::env::temp_dir().join(format!("sk-{}", &id[..8]));
        for name in ["home", "run", "tmp", "bin"] {
            fs::create_dir_all(dir.join(name)).unwrap();
        }
        fs::set_permissions(dir.join("run"), fs::Permissions::from_mode(0o700)).unwrap();
        let claude = dir.join("bin/claude");
        fs::write(
            &claude,
            format!("#!/bin/sh\nexec '{SPOTKEEP}' fake-claude \"$@\"\n"),
        )
        .unwrap();
        fs::set_permissions(&claude, fs::Permissions::from_mode(0o755)).unwrap();
        let model = Model::start().unwrap();
        Self {
            dir,
            spotkeep: SPOTKEEP.into(),
            old_program: None,
            user: None,
            model,
            metadata: None,
            boot_id: AtomicU32::new(1),
            umount: None,
        }
    }

    /// Like [`Lab::new`], but runs everything as an ordinary user if the test runs as root, whom
    /// file modes do not restrict.
    pub fn of_a_user() -> Self {
        Self::of_user(ORDINARY)
    }

    /// Like [`Lab::of_a_user`], with a given user id.
    pub fn of_user(user: u32) -> Self {
        let mut lab = Self::bare();
        if is_root() {
            lab.spotkeep = lab.dir.join("bin/spotkeep");
            fs::copy(SPOTKEEP, &lab.spotkeep).unwrap();
            let claude = lab.dir.join("bin/claude");
            let script = fs::read_to_string(&claude).unwrap();
            let script = script.replace(SPOTKEEP, lab.spotkeep.to_str().unwrap());
            fs::write(&claude, script).unwrap();
            lab.user = Some(user);
        }
        lab.give_away();
        lab.run(&["init"]).ok();
        lab.configure("");
        lab
    }

    /// Gives everything to the lab's user, if it has one.
    pub fn give_away(&self) {
        if let Some(user) = self.user {
            let owner = format!("{user}:{user}");
            let mut chown = Command::new("chown");
            said(chown.args(["-R", &owner]).arg(&self.dir)).ok();
        }
    }

    /// Unmounts the data directory's own file system when the lab ends.
    pub fn umount_at_the_end(&mut self) {
        self.umount = Some(self.data_dir());
    }

    /// Rewrites `spotkeep.toml`: settings that lead to the fakes, then `more`.
    pub fn configure(&self, more: &str) {
        let cloud = match &self.metadata {
            Some(metadata) => format!("provider = \"gcp\"\nmetadata = \"{}\"", metadata.address()),
            None => "provider = \"none\"".to_owned(),
        };
        let text = format!(
            "# by the lab\n[cloud]\n{cloud}\n\n[defaults]\nclaude = \"{}\"\n\
             env = {{ ANTHROPIC_BASE_URL = \"{}\", IS_SANDBOX = \"1\" }}\n{more}\n",
            self.dir.join("bin/claude").display(),
            self.model.url(),
        );
        self.write_config(&text);
    }

    /// Sets the provider to "none": the keeper asks no metadata server any more.
    pub fn leave_the_cloud(&self) {
        let text = self
            .config_text()
            .replace("provider = \"gcp\"", "provider = \"none\"");
        let lines = text.lines().filter(|line| !line.starts_with("metadata"));
        self.write_config(&lines.map(|line| format!("{line}\n")).collect::<String>());
    }

    pub fn write_config(&self, text: &str) {
        fs::write(self.config(), text).unwrap();
    }

    pub fn config(&self) -> PathBuf {
        self.data_dir().join("spotkeep.toml")
    }

    pub fn config_text(&self) -> String {
        fs::read_to_string(self.config()).unwrap()
    }

    /// Declares an agent in its own git workspace, with uncommitted changes. `plan` is a plan of
    /// the fake API; if it is empty, there is no prompt. `extra` are further lines of the agent's
    /// table.
    pub fn declare(&self, name: &str, plan: &str, extra: &str) {
        self.make_workspace(name);
        let prompt = match plan {
            "" => String::new(),
            plan => format!("prompt = \"{}\"\n", prompt_of(name, plan, 1)),
        };
        let text = self.config_text();
        self.write_config(&format!(
            "{text}\n[agents.{name}]\nworkspace = \"workspaces/{name}\"\n{prompt}{extra}\n"
        ));
    }

    /// Makes a repository with a commit, a staged change, an unstaged change and an untracked file.
    pub fn make_workspace(&self, name: &str) -> PathBuf {
        let dir = self.workspace(name);
        fs::create_dir_all(&dir).unwrap();
        git(&dir, &["init", "-q", "-b", "main"]);
        fs::write(dir.join("tracked.txt"), "as committed\n").unwrap();
        git(&dir, &["add", "."]);
        git(&dir, &["commit", "-qm", "A commit"]);
        fs::write(dir.join("tracked.txt"), "staged\n").unwrap();
        git(&dir, &["add", "."]);
        fs::write(dir.join("tracked.txt"), "staged, then changed\n").unwrap();
        fs::write(dir.join("untracked.txt"), "untracked\n").unwrap();
        dir
    }

    pub fn data_dir(&self) -> PathBuf {
        self.dir.join("r")
    }

    pub fn workspace(&self, name: &str) -> PathBuf {
        self.data_dir().join("workspaces").join(name)
    }

    /// A file of the data directory.
    pub fn file(&self, path: &str) -> PathBuf {
        self.data_dir().join(path)
    }

    pub fn metadata(&self) -> &Metadata {
        self.metadata.as_ref().expect("a lab in a cloud")
    }

    /// The id of the boot in which commands run.
    pub fn boot_id(&self) -> String {
        format!("boot-{}", self.boot_id.load(Ordering::SeqCst))
    }

    /// A command that runs a program with the lab's environment only.
    pub fn program(&self, program: &str) -> Command {
        let mut command = match self.user {
            None => Command::new(program),
            Some(user) => {
                let user = user.to_string();
                let mut setpriv = Command::new("setpriv");
                setpriv.args(["--reuid", &user, "--regid", &user, "--clear-groups"]);
                setpriv.arg(program);
                setpriv
            }
        };
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.dir.join("home"))
            .env("TMPDIR", self.dir.join("tmp"))
            .env("TERM", "xterm-256color")
            .env("LANG", "C.UTF-8")
            .env("SPOTKEEP_RUNTIME_DIR", self.dir.join("run"))
            .env("SPOTKEEP_BOOT_ID", self.boot_id())
            .env("SPOTKEEP_LOOPBACK_ONLY", "1")
            // A pause of a minute takes three seconds.
            .env("SPOTKEEP_TIME_SCALE", "20")
            .current_dir(&self.dir)
            .stdin(Stdio::null());
        command
    }

    /// A spotkeep command on this data directory. Without a fake on loopback, it must not ask a
    /// metadata server.
    pub fn spotkeep(&self, args: &[&str]) -> Command {
        // A file that the test cannot read is not readable for spotkeep either.
        let readable = fs::read_to_string(self.config());
        let config = readable.as_deref().unwrap_or_default();
        // If the file is empty, spotkeep uses the last valid one.
        let copy = self.data_dir().join("session-state/spotkeep.toml");
        let copy = fs::read_to_string(copy).unwrap_or_default();
        let config = if config.trim().is_empty() {
            &copy
        } else {
            config
        };
        let is_isolated = config.contains("provider = \"none\"") && !config.contains("\nmetadata");
        let loopback = config.contains("metadata = \"127.0.0.1:");
        let runs = args
            .iter()
            .any(|arg| matches!(*arg, "run" | "up" | "notice" | "restore" | "doctor"));
        // spotkeep refuses an invalid configuration before it sends a request.
        let valid = readable.is_ok() && state::config::Config::parse(config).is_ok();
        assert!(
            !runs || !valid || is_isolated || loopback,
            "no loopback metadata server: {config}"
        );
        let mut command = match &self.old_program {
            Some(program) => self.by_old_program(program),
            None => {
                let mut command = self.program(self.spotkeep.to_str().unwrap());
                command.arg("--data-dir").arg(self.data_dir());
                command
            }
        };
        command.args(args);
        command
    }

    /// Runs a spotkeep verb to its end.
    pub fn run(&self, args: &[&str]) -> CommandOutput {
        said(&mut self.spotkeep(args))
    }

    pub fn log(&self) -> PathBuf {
        self.dir.join("keeper.log")
    }

    /// Kills every process, as the end of the machine does; later commands run in the next boot.
    pub fn next_boot(&self) {
        self.end_everything();
        self.boot_id.fetch_add(1, Ordering::SeqCst);
        self.model.next_boot();
    }

    /// All processes of this lab, tmux and keepers included.
    pub fn processes(&self) -> Vec<ProcessId> {
        with_marker(&format!(
            "SPOTKEEP_RUNTIME_DIR={}",
            self.dir.join("run").display()
        ))
    }

    fn end_everything(&self) {
        loop {
            let found: Vec<_> = self
                .processes()
                .into_iter()
                .filter_map(ProcessId::open)
                .collect();
            if found.is_empty() {
                return;
            }
            for process in &found {
                process.signal(Signal::Kill);
            }
            for process in &found {
                during("a killed process ends", || process.wait(None));
            }
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.end_everything();
        if let Some(mount) = &self.umount {
            run(Command::new("umount").arg(mount)).ok();
        }
        fs::remove_dir_all(&self.dir).ok();
    }
}

/// A prompt that the fake API understands.
pub fn prompt_of(name: &str, plan: &str, turn: u32) -> String {
    format!("DRILL agent={name} plan={plan} turn={turn} [[{name}:p:{turn}]]")
}

/// Runs git without the user's configuration.
pub fn git(dir: &Path, args: &[&str]) -> String {
    let mut command = Command::new("git");
    command
        .args([
            "-c",
            "user.name=Lab",
            "-c",
            "user.email=lab@localhost",
            "-c",
            "commit.gpgsign=false",
            "-c",
            "safe.directory=*",
        ])
        .args(args)
        .current_dir(dir)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", "/nonexistent")
        .env("GIT_CONFIG_NOSYSTEM", "1");
    let output = run(&mut command).unwrap();
    assert!(output.status.success(), "git {args:?}: {}", output.stderr);
    output.stdout
}

/// Prints that a test is skipped, and why; in CI that is a failure.
pub fn skip(test: &str, why: &str) {
    assert!(
        std::env::var_os("SPOTKEEP_CI").is_none_or(|value| value != "1"),
        "{test} would be skipped: {why}"
    );
    eprintln!("skipped: {test}: {why}");
}

/// Whether the test runs as root.
pub fn is_root() -> bool {
    sys::user::id() == 0
}
