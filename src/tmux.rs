//! tmux: a server of our own on a socket of our own, one session per agent. A user's own tmux is
//! never touched.
//!
//! The socket lies outside the data directory, the configuration is ours (`-f`), and the server outlives
//! the keeper: it is the screen and the parent of the agents, and nothing of it is remembered.

pub mod output;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use state::AgentName;
use sys::command;
use sys::command::Output;
use sys::error::{Context as _, Error, Hint as _, Result, anyhow, bail, ensure};
use sys::exit::Exit;
use sys::files;
use sys::process::{self, ProcessId};

/// A tmux command answers in about 6 ms; a machine under load may take much longer.
const LIMIT: Duration = Duration::from_secs(10);

/// How long a server may take that systemd is starting, or starting again.
const UNIT_LIMIT: Duration = Duration::from_secs(5);

const INSTALL: &str = "install tmux (3.2 or newer), such as: sudo apt-get install tmux";

/// The first and the longest pause between two questions whether tmux has noticed that a pane's process
/// has ended: it does within some 10 ms, and a crowded machine is not to be crowded further.
const REAP_PAUSES: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(320));

/// How often in a row tmux may not answer at all, each time for [`LIMIT`].
const SILENT_MAX: u32 = 6;

/// Agents do not start in a tiny terminal; a detached session has no other size than this.
/// `remain-on-exit` keeps the exit status, and what was last on the screen.
const CONFIGURATION: &str = "\
set -g default-size 200x50
set -g remain-on-exit on
set -g history-limit 20000
set -g exit-empty off
set -g destroy-unattached off
set -g update-environment ''
set -g default-terminal 'tmux-256color'
set -g focus-events on
set -s escape-time 10
set -g mouse on
set -g status-left '[#S] '
set -g status-right 'spotkeep '
set -g set-titles on
set -g set-titles-string '#S'
";

/// Our tmux server.
#[derive(Debug, Clone)]
pub struct Tmux {
    socket: PathBuf,
    configuration: PathBuf,
    /// The server is a unit of its own: it is waited for, and never started from here.
    by_unit: bool,
}

impl Tmux {
    /// The server whose socket lies in `runtime`. It need not run.
    #[must_use]
    pub fn new(runtime: &Path) -> Self {
        Self {
            socket: runtime.join("tmux.sock"),
            configuration: runtime.join("tmux.conf"),
            by_unit: false,
        }
    }

    /// The same server, which a unit of its own starts, keeps and ends. One that we started would be
    /// in our own cgroup, and end with us.
    #[must_use]
    pub fn kept_by_its_unit(self) -> Self {
        Self {
            by_unit: true,
            ..self
        }
    }

    /// Starts the server, if it does not run; one that its unit keeps is waited for.
    ///
    /// # Errors
    /// tmux is not installed, or cannot listen on its socket; the unit's server does not come.
    pub fn ensure_server(&self) -> Result<()> {
        if !self.by_unit {
            self.configure()?;
            self.tmux(&["start-server"])?;
            return Ok(());
        }
        let until = Instant::now() + UNIT_LIMIT;
        while self.server_pid().is_none() {
            if Instant::now() >= until {
                return Err(anyhow!("the tmux server of the agents does not run"))
                    .hint("sudo systemctl start spotkeep-tmux.service");
            }
            // systemd tells nobody when another unit's socket is there.
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Becomes the server, in the foreground. Returns only to say why not.
    #[must_use]
    pub fn become_server(&self) -> Error {
        use std::os::unix::process::CommandExt as _;
        if let Err(error) = self.configure() {
            return error;
        }
        let mut command = self.command();
        command.arg("-D");
        // They tell of this unit; agents start programs that would take them for their own.
        for variable in [
            "INVOCATION_ID",
            "JOURNAL_STREAM",
            "SYSTEMD_EXEC_PID",
            "RUNTIME_DIRECTORY",
        ] {
            command.env_remove(variable);
        }
        let error = anyhow!(command.exec()).context("cannot run tmux");
        error.hint(INSTALL)
    }

    fn configure(&self) -> Result<()> {
        // Sixteen starts need not wait sixteen times for the disk to hold the same.
        let held = files::read_optional(&self.configuration)?;
        if held.as_deref() == Some(CONFIGURATION.as_bytes()) {
            return Ok(());
        }
        files::write_atomic(&self.configuration, CONFIGURATION.as_bytes())
    }

    /// The server's process; `None` where none runs.
    #[must_use]
    pub fn server_pid(&self) -> Option<i32> {
        let output = self.tmux(&["display-message", "-p", "#{pid}"]).ok()?;
        output.stdout.trim().parse().ok()
    }

    /// Runs a command in the agent's session, which is made if it is not there; a dead pane that
    /// is there is used again, so that whoever is attached stays so. Returns the process.
    ///
    /// # Errors
    /// tmux refused, the agent's pane is alive, or the command ended at once: then with what it
    /// left on the screen.
    pub fn launch(&self, name: &AgentName, cwd: &Path, command: &[String]) -> Result<ProcessId> {
        let cwd = cwd.to_str().context("the workspace's path is not UTF-8")?;
        let command: Vec<&str> = command.iter().map(String::as_str).collect();
        let target = pane(name);
        let mut arguments = match self.pane_is_dead(name)? {
            Some(false) => bail!("its tmux session is there and something runs in it"),
            Some(true) => vec!["respawn-pane", "-t", &target, "-c", cwd, "--"],
            None => vec![
                "new-session",
                "-d",
                "-s",
                name.as_str(),
                "-x",
                "200",
                "-y",
                "50",
                "-c",
                cwd,
                "--",
            ],
        };
        arguments.extend(&command);
        self.tmux(&arguments)?;
        let pid: i32 = self
            .display(name, "#{pane_pid}")?
            .parse()
            .context("tmux did not tell the pid of the pane")?;
        match ProcessId::from_pid(pid) {
            Some(process) => Ok(process),
            None => {
                let ended = ProcessId { pid, start_time: 0 };
                let exit = self.exit_of(name, ended, || false);
                let words = self.last_words(name).unwrap_or_default();
                bail!("it ended at once: {exit} ({words})");
            }
        }
    }

    /// How the process of an agent's pane ended, once tmux has heard of it: until then nobody can say whether
    /// it was done. `give_up` ends the wait.
    #[must_use]
    pub fn exit_of(
        &self,
        name: &AgentName,
        process: ProcessId,
        give_up: impl Fn() -> bool,
    ) -> Exit {
        let (mut pause, mut silent) = (REAP_PAUSES.0, 0);
        while !give_up() {
            match self.raw(&["display-message", "-p", "-t", &pane(name), output::EXIT]) {
                Ok(said) if said.status.success() => {
                    silent = 0;
                    if let Some(exit) = output::exit(said.stdout.trim_end(), process.pid) {
                        return exit;
                    }
                }
                Ok(_) => return Exit::Unseen, // The pane is gone, or the server.
                // A server that hangs is not one that knows nothing.
                Err(_) if silent < SILENT_MAX => silent += 1,
                Err(_) => return Exit::Unseen,
            }
            self.remind_of_children();
            // tmux has no way to wait for a pane's end that survives the pane's own end.
            std::thread::sleep(pause);
            pause = (pause * 2).min(REAP_PAUSES.1);
        }
        Exit::Unseen
    }

    /// Where tmux is built with utempter, as Debian does, it loses about one SIGCHLD in seven
    /// (measured on 3.3a; tmux issue 311), and then the pane's process stays a corpse whose
    /// status nobody reads. Another SIGCHLD makes it look.
    fn remind_of_children(&self) {
        let server = self
            .server_pid()
            .and_then(|pid| ProcessId::from_pid(pid)?.open());
        if let Some(server) = server {
            server.signal(process::Signal::Child);
        }
    }

    /// What an agent's pane shows.
    ///
    /// # Errors
    /// It has none.
    pub fn screen(&self, name: &AgentName) -> Result<String> {
        Ok(self
            .tmux(&["capture-pane", "-p", "-t", &pane(name)])?
            .stdout)
    }

    /// The same with its colours, as escape sequences.
    ///
    /// # Errors
    /// It has none.
    pub fn coloured_screen(&self, name: &AgentName) -> Result<String> {
        Ok(self
            .tmux(&["capture-pane", "-e", "-p", "-t", &pane(name)])?
            .stdout)
    }

    /// The pane with its history, as `logs --raw` shows it; `lines` of history. The news of an end
    /// pushes the first line of a screen there.
    ///
    /// # Errors
    /// It has none.
    pub fn history(&self, name: &AgentName, lines: u32) -> Result<String> {
        let start = format!("-{lines}");
        Ok(self
            .tmux(&["capture-pane", "-p", "-J", "-S", &start, "-t", &pane(name)])?
            .stdout)
    }

    /// The last lines that a process which has ended left on the screen, on one line.
    #[must_use]
    pub fn last_words(&self, name: &AgentName) -> Option<String> {
        output::last_words(&self.history(name, 50).ok()?)
    }

    /// Puts text into an agent's input as one paste, without pressing Enter.
    ///
    /// # Errors
    /// It has no pane.
    pub fn paste(&self, name: &AgentName, text: &str) -> Result<()> {
        let buffer = format!("spotkeep-{name}");
        // A named buffer of its own: two pastes at once do not meet, and a user's buffers stay.
        // Read and not given as an argument: one may have 128 KiB at most.
        let load = ["load-buffer", "-b", &buffer, "-"];
        let loaded = command::run_with_input(self.command().args(load), text.as_bytes(), LIMIT)
            .context("tmux did not answer")?;
        ensure!(
            loaded.status.success(),
            "tmux load-buffer: {}",
            loaded.stderr
        );
        self.tmux(&["paste-buffer", "-d", "-p", "-b", &buffer, "-t", &pane(name)])?;
        Ok(())
    }

    /// Presses Enter in an agent's pane.
    ///
    /// # Errors
    /// It has none.
    pub fn press_enter(&self, name: &AgentName) -> Result<()> {
        self.press(name, "Enter")
    }

    /// Presses Escape in an agent's pane.
    ///
    /// # Errors
    /// It has none.
    pub fn press_escape(&self, name: &AgentName) -> Result<()> {
        self.press(name, "Escape")
    }

    /// Where somebody scrolls in a pane, keys would be tmux's own.
    fn press(&self, name: &AgentName, key: &str) -> Result<()> {
        let pane = pane(name);
        let leave = ["copy-mode", "-q", "-t", &pane, ";"];
        self.tmux(&[&leave[..], &["send-keys", "-t", &pane, key]].concat())?;
        Ok(())
    }

    /// Removes an agent's session, with whatever is left on its screen.
    pub fn close(&self, name: &AgentName) {
        // It may be gone already, and that is what is wanted.
        self.tmux(&["kill-session", "-t", &format!("={name}")]).ok();
    }

    /// Ends the server, if it runs.
    pub fn end_server(&self) {
        self.tmux(&["kill-server"]).ok();
    }

    /// The command that puts a person in front of an agent, or in front of a choice.
    #[must_use]
    pub fn attach_command(&self, name: Option<&AgentName>) -> Command {
        let mut command = self.command();
        // tmux refuses to run inside another tmux unless it does not know.
        command.env_remove("TMUX").env_remove("TMUX_PANE");
        match name {
            Some(name) => command.args(["attach-session", "-t", &format!("={name}")]),
            None => command.args(["attach-session", ";", "choose-tree", "-Zs"]),
        };
        command
    }

    /// `None`: no session of this name. Otherwise whether its process has ended.
    ///
    /// # Errors
    /// tmux cannot be run.
    pub fn pane_is_dead(&self, name: &AgentName) -> Result<Option<bool>> {
        let listing = self.raw(&["list-panes", "-a", "-F", output::PANES])?;
        if !listing.status.success() {
            return Ok(None); // "no server running", or no sessions.
        }
        Ok(output::pane_is_dead(&listing.stdout, name))
    }

    fn display(&self, name: &AgentName, format: &str) -> Result<String> {
        Ok(self
            .tmux(&["display-message", "-p", "-t", &pane(name), format])?
            .stdout
            .trim_end()
            .to_owned())
    }

    fn tmux(&self, arguments: &[&str]) -> Result<Output> {
        let output = self.raw(arguments)?;
        if !output.status.success() {
            bail!(
                "tmux {}: {}",
                arguments.first().unwrap_or(&""),
                output.stderr
            );
        }
        Ok(output)
    }

    fn raw(&self, arguments: &[&str]) -> Result<Output> {
        command::run(self.command().args(arguments), LIMIT)
            .context("tmux did not answer")
            .hint(INSTALL)
    }

    fn command(&self) -> Command {
        let mut command = Command::new("tmux");
        command
            .arg("-S")
            .arg(&self.socket)
            .arg("-f")
            .arg(&self.configuration);
        if self.by_unit {
            command.arg("-N"); // No command starts a server.
        }
        command
    }

    /// Where the server listens, for those who speak to it themselves.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }
}

/// The one pane of an agent's session; `=` stops tmux from taking a prefix for the name.
fn pane(name: &AgentName) -> String {
    format!("={name}:")
}

/// Fails with a hint where tmux is not installed.
///
/// # Errors
/// It cannot be run.
pub fn ensure_installed() -> Result<()> {
    match command::run(Command::new("tmux").arg("-V"), LIMIT) {
        Ok(_) => Ok(()),
        Err(_) => Err(anyhow!("tmux is not installed")).hint("sudo apt-get install tmux"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Server(Tmux, tempfile::TempDir);

    impl Drop for Server {
        fn drop(&mut self) {
            self.0.end_server();
        }
    }

    fn server() -> Server {
        let dir = tempfile::tempdir().unwrap();
        let tmux = Tmux::new(dir.path());
        tmux.ensure_server().unwrap();
        Server(tmux, dir)
    }

    fn sh(script: &str) -> Vec<String> {
        ["sh", "-c", script].map(str::to_owned).to_vec()
    }

    #[test]
    fn the_pid_is_the_commands_own_and_its_end_is_told_by_code_and_by_signal() {
        let Server(tmux, dir) = &server();
        let name = AgentName::new("a").unwrap();
        let run = |script: &str| {
            let process = tmux.launch(&name, dir.path(), &sh(script)).unwrap();
            let pidfd = process.open().unwrap();
            (process, pidfd)
        };
        let (process, pidfd) = run("read line; exit 3");
        tmux.paste(&name, "go").unwrap();
        tmux.press_enter(&name).unwrap();
        assert!(pidfd.wait(None));
        let exit_of = |process| tmux.exit_of(&name, process, || false);
        assert_eq!(exit_of(process), Exit::Code(3));
        let (process, pidfd) = run("echo here; exec tail -f /dev/null");
        while !tmux.screen(&name).unwrap().contains("here") {
            std::thread::yield_now();
        }
        assert_eq!(
            process.pid,
            tmux.display(&name, "#{pane_pid}")
                .unwrap()
                .parse::<i32>()
                .unwrap()
        );
        pidfd.signal(process::Signal::Kill);
        assert!(pidfd.wait(None));
        assert_eq!(exit_of(process), Exit::Signal(9));
        // The news of its end scrolls the screen by a line.
        assert!(tmux.history(&name, 10).unwrap().contains("here"));
    }

    #[test]
    fn a_session_whose_name_is_a_prefix_of_another_is_not_taken_for_it() {
        let Server(tmux, dir) = &server();
        let long = AgentName::new("agent-10").unwrap();
        tmux.launch(&long, dir.path(), &sh("exec tail -f /dev/null"))
            .unwrap();
        let short = AgentName::new("agent-1").unwrap();
        assert!(tmux.screen(&short).is_err());
        assert_eq!(tmux.pane_is_dead(&short).unwrap(), None);
        assert!(tmux.launch(&long, dir.path(), &sh("true")).is_err());
    }
}
